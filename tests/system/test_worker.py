"""The worker's life: it ends when it is told to, whatever it is doing."""

import subprocess
import sys

from tests.support.running_desk import ROOT

IN_THE_MIDDLE_OF_WAITING = """
import signal
from api.worker.worker_loop import Worker, stop_on_signals
from application.settings import Settings
worker = Worker(Settings(database_url="postgresql:///none"))
stop_on_signals(worker)
with worker._stopping._cond:
    signal.raise_signal(signal.SIGTERM)
worker.run()
"""


def test_a_signal_in_the_middle_of_a_pause_ends_the_worker() -> None:
    """The thread that a signal interrupts may hold the lock that ending takes: it must not wait for itself."""
    command = [sys.executable, "-c", IN_THE_MIDDLE_OF_WAITING]
    assert subprocess.run(command, cwd=ROOT, timeout=20, check=False).returncode == 0
