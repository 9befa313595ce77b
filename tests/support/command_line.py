"""The command line, as somebody types it: each command in a process of its own."""

import os
import subprocess
import sys
from collections.abc import Callable

from tests.support.running_desk import ROOT

Run = Callable[..., subprocess.CompletedProcess[str]]


def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """One command in a process of its own."""
    command = [sys.executable, "-m", "api.cli", *words]
    return subprocess.run(
        command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
