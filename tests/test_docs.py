"""The documentation says what is so: the commands of the README run, and the reference names all that there is."""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from served import free_port, wait_until

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PAGES = [README, *(ROOT / name for name in ("CONTRIBUTING.md", "CHANGELOG.md")), *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^```(?P<kind>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
BY_HAND = ("make run", "make test")  # they would start everything anew: they are compared with the Makefile instead
DEFAULT_ADDRESS = "http://127.0.0.1:8000"
MARK = "\x1eblock {}\n"

# ── The README runs ─────────────────────────────────────────────────────────────────────────────────────────


class Block(msgspec.Struct, frozen=True):
    """A block of commands and the output that is shown below it; None when none is shown."""

    commands: str
    shown: str | None

    @property
    def by_hand(self) -> bool:
        """Whether the test does not run it."""
        return self.commands.strip() in BY_HAND


def blocks(page: Path) -> list[Block]:
    """The blocks of commands of a page, in order."""
    fences = [(fence["kind"], fence["text"]) for fence in FENCE.finditer(page.read_text())]
    followers = [*fences[1:], ("", "")]
    return [
        Block(text, shown if then in ("json", "text") else None)
        for (kind, text), (then, shown) in zip(fences, followers, strict=True)
        if kind == "sh"
    ]


def fits(shown: str, said: str) -> bool:
    """Whether an output is as shown; "…" stands for anything in a line, and alone in a line for any lines."""
    pattern = "".join(
        r"(?:.*\n)*?" if line.strip() == "…" else ".*".join(map(re.escape, line.split("…"))) + r"\n"
        for line in shown.splitlines()
    )
    return re.fullmatch(pattern, said) is not None


class Desk(msgspec.Struct, frozen=True):
    """A running desk: where it answers, its environment, and what it said when it started."""

    address: str
    environment: dict[str, str]
    said: str


@pytest.fixture(scope="module")
def desk() -> Iterator[Desk]:
    """What `make run` starts, in a directory and on a port of its own."""
    directory = Path(tempfile.mkdtemp(prefix="deskledger-readme-"))
    directory.chmod(0o755)  # PostgreSQL runs as somebody else when root starts it
    port = free_port()
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("DESKLEDGER_", "DATABASE_URL"))}
    environment = ours | {"DESKLEDGER_PORT": str(port), "DESKLEDGER_DATA_DIR": str(directory / "data")}
    output = directory / "output"
    with output.open("wb") as out, (directory / "log").open("wb") as log:
        command = [Path(sys.executable).with_name("deskledger"), "serve"]
        process = subprocess.Popen(command, cwd=directory, env=environment, stdout=out, stderr=log)
    try:
        wait_until(lambda: process.poll() is not None or "/v1/queues" in output.read_text(), 30, "the desk is ready")
        time.sleep(0.05)
        yield Desk(f"http://127.0.0.1:{port}", environment, output.read_text())
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        shutil.rmtree(directory)


def run(desk: Desk, page: Path, directory: Path) -> list[str]:
    """What each block of a page prints, all of them run in one session of bash that ends at the first error."""
    session = "".join(
        f"printf '{MARK.format(number)}'\n{'' if block.by_hand else block.commands}"
        for number, block in enumerate(blocks(page))
    )
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = desk.environment | {"PATH": path, "DESK": desk.address}
    done = subprocess.run(
        ["bash", "-e", "-c", session], cwd=directory, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return re.split(MARK.format(r"\d+"), done.stdout)[1:]


def test_curl_is_there() -> None:
    """The commands of the README speak to the desk with curl."""
    assert shutil.which("curl"), "install curl: the README is run with it"


def test_the_readme_runs_and_prints_what_it_shows(desk: Desk, tmp_path: Path) -> None:
    """Every block of commands runs, in order, in one session, and prints what is shown below it."""
    printed = run(desk, README, tmp_path)
    for block, said in zip(blocks(README), printed, strict=True):
        if block.shown is not None and not block.by_hand:
            assert fits(block.shown, said), f"{block.commands}\nis shown to print\n{block.shown}\nand prints\n{said}"
