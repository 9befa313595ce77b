"""What docs/how-to/use-from-python.md shows is a program that runs, and prints what the page says that it prints."""

import os
import re
import subprocess
import sys
from pathlib import Path
from threading import Event as Flag

from application.store.postgres.database import connect
from application.store.sealing import seal_all
from tests.support.running_desk import ROOT
from tests.support.write_side import beside

PAGE = ROOT / "docs" / "how-to" / "use-from-python.md"
LONGEST = 60


def shown(kind: str) -> str:
    """The only block of that kind on the page."""
    (block,) = re.findall(rf"^```{kind}\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    return str(block)


def test_the_program_runs_and_prints_what_the_page_shows(database: str, tmp_path: Path) -> None:
    """A ticket goes through tier 1 and the log is followed to its end, on a desk whose worker seals."""
    program, done = tmp_path / "program.py", Flag()
    program.write_text(shown("python"))
    assert len(program.read_text().splitlines()) <= LONGEST

    def keep_sealing() -> None:
        with connect(database, "test sealer") as sealer:
            while not done.wait(0.01):
                seal_all(sealer)

    with beside(keep_sealing) as sealing:
        try:
            ran = subprocess.run(
                [sys.executable, program],
                env=os.environ | {"DATABASE_URL": database},
                capture_output=True,
                text=True,
                timeout=120,
            )
        finally:
            done.set()
    assert (ran.stderr, ran.stdout) == ("", shown("text"))
    assert sealing[0].exception() is None
