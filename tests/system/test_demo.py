"""`deskledger demo`: piped, on a terminal, interrupted, and on a desk that deviates."""

import fcntl
import os
import pty
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import termios
from collections.abc import Iterator
from pathlib import Path as Directory

import msgspec
import pytest
import urllib3

from api.cli.demo.demo_command import perform
from api.cli.demo.demo_desk import Desk
from api.cli.demo.player import Player
from api.cli.demo.screen import Screen
from api.cli.demo.script import CLIENT_CONTACT, KEYS, PATHS, PROCEDURE_STEPS, Moves
from tests.support.running_desk import ROOT, RunningDesk

DEMO = [sys.executable, "-m", "api.cli", "demo"]
NUMBERS = ["1", "2", "3", "4", "T1-1", "T1-2", "T1-3", "T1-4", *map(str, range(5, 20))]
SECONDS = 120


class Ended(msgspec.Struct):
    """A demo that has ended: its exit status and lines, and what it left behind."""

    status: int
    lines: list[str]
    errors: str
    left: list[str]

    def section(self, title: str) -> list[str]:
        """The lines below a title of the report."""
        start = next(n for n, line in enumerate(self.lines) if line.startswith(title))
        below = self.lines[start + 1 :]
        return below[: below.index("")] if "" in below else below


@pytest.fixture
def place(embedded: None) -> Iterator[Directory]:
    """A directory for temporary ones, which PostgreSQL's user may enter."""
    directory = Directory(tempfile.mkdtemp(prefix="deskledger-test-demo-"))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory)


@pytest.fixture(scope="module")
def piped(embedded: None) -> Iterator[Ended]:
    """A whole demo, piped, in an environment whose own desk must not be touched."""
    directory = Directory(tempfile.mkdtemp(prefix="deskledger-test-demo-"))
    directory.chmod(0o755)
    ran = subprocess.run(DEMO, cwd=ROOT, env=around(directory), capture_output=True, text=True, timeout=SECONDS)
    yield Ended(ran.returncode, ran.stdout.splitlines(), ran.stderr, left_behind(directory))
    shutil.rmtree(directory)


@pytest.fixture
def desk(served: RunningDesk) -> Iterator[Desk]:
    """A running desk as the demo's player has its own one."""
    keys = {
        wanted.name: served.key(*wanted.roles, levels=wanted.levels, client=wanted.client_user_id, name=wanted.name)
        for wanted in KEYS
    }
    with urllib3.PoolManager() as http:
        yield Desk(served.base, keys, served.mailbox.messages, http)


def around(directory: Directory, **more: str) -> dict[str, str]:
    """An environment with temporary directories of its own, and a desk of the user's that nobody answers for."""
    users = {"DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none", "DESKLEDGER_FOUR_EYES": "off"}
    return {**os.environ, **users, "TMPDIR": str(directory), **more}


def left_behind(directory: Directory) -> list[str]:
    """Files in a directory, and processes that were started with it."""
    processes = Directory("/proc").glob("[0-9]*/cmdline")
    return [*map(str, directory.iterdir()), *(str(process) for process in processes if mentions(process, directory))]


def mentions(process: Directory, directory: Directory) -> bool:
    """Whether a process has a directory in its command line or its environment."""
    try:
        said = process.read_bytes() + process.with_name("environ").read_bytes()
    except OSError:
        return False  # it has ended meanwhile
    return str(directory).encode() in said


def test_it_ends_with_0_and_without_a_deviation(piped: Ended) -> None:
    """A desk that goes by the procedure gives exit status 0, and nothing on standard error."""
    assert (piped.status, piped.errors) == (0, "")
    assert piped.lines[-1].startswith("Every step of the procedure is in the log, and nothing deviates")
    assert not [line for line in piped.lines if "DEVIATES" in line]


def test_the_report_lists_every_step_with_its_events(piped: Ended) -> None:
    """All nineteen numbers, and the four of tier 1, each with an event, its ticket and its position."""
    steps = piped.section("The procedure, step by step")
    assert [line.split()[0] for line in steps] == NUMBERS == [step.number for step in PROCEDURE_STEPS]
    for line, step in zip(steps, PROCEDURE_STEPS, strict=True):
        found = re.findall(r"(\w+) T-\d{6} at \d+", line)
        assert found == list(step.events)


def test_every_closing_brings_a_mail(piped: Ended) -> None:
    """Each closing of each level has a mail with a Message-ID of its own, and each mail is shown as it comes in."""
    closings = piped.section("Closings")
    ids = [re.search(r"closed at \d+: (<\S+>) received$", line) for line in closings]
    assert all(ids)
    shown = [line.split()[-1] for line in piped.lines if line.startswith("mail  to Client <client@example.org>")]
    assert sorted(found[1] for found in ids if found) == sorted(set(shown)) == sorted(shown)
    assert {line.split()[0] for line in closings} == {"T1-3", "7", "11", "15", "19"}


def test_refusals_are_shown_as_what_they_are(piped: Ended) -> None:
    """What the procedure forbids is refused: quality control first, four eyes, stale versions, other levels."""
    refusals = "\n".join(line for line in piped.lines if "refused, as it must be" in line)
    for code in ("409 not_verified, step T1-2", "409 four_eyes", "412 stale_version", "403 role_missing"):
        assert code in refusals


def test_a_timeline_ends_it(piped: Ended) -> None:
    """The longest history is told from the request to the closing e-mail, with step and actor."""
    timeline = piped.section("Timeline of T-")
    assert re.match(r"\d\d:\d\d:\d\d  1     intake \(intake\) +Support request received", timeline[0])
    assert re.match(r"\d\d:\d\d:\d\d  19    Deskledger \(system\) +Closing e-mail", timeline[-1])


def test_piped_lines_are_plain(piped: Ended) -> None:
    """No escape codes, and one line a step."""
    assert not re.search(r"[\x00-\x1f\x7f]", "".join(piped.lines))
    assert any(re.match(r"T1-4  agent-tier1 +escalate +-> Escalated  tier2  T-\d{6}$", line) for line in piped.lines)


def test_nothing_is_left_behind(piped: Ended) -> None:
    """No process and no directory outlives the demo."""
    assert piped.left == []


def test_interrupted_it_ends_in_order(place: Directory) -> None:
    """Ctrl-C in the middle: exit status 130, and nothing is left behind."""
    with subprocess.Popen(DEMO, cwd=ROOT, env=around(place), stdout=-1, stderr=-1, text=True) as demo:
        assert demo.stdout is not None
        next(line for line in demo.stdout if line.startswith("Path 2"))
        demo.send_signal(signal.SIGINT)
        _, errors = demo.communicate(timeout=SECONDS)
    assert demo.returncode == 130
    assert errors.strip() == "deskledger: ending the demo and removing its desk"
    assert left_behind(place) == []


def test_a_terminal_gets_colours_and_a_live_table(place: Directory) -> None:
    """On a terminal the lines have colours, the queues are drawn again and again, and the report follows."""
    status, shown = on_terminal(around(place, TERM="xterm-256color", NO_COLOR=""))
    assert status == 0
    assert "\x1b[32m" in shown
    assert shown.count("quality_control") > 100
    assert "Every step of the procedure is in the log, and nothing deviates" in shown
    assert left_behind(place) == []


def test_a_pace_that_is_none_is_refused() -> None:
    """The complaint says what the option takes."""
    ran = subprocess.run([*DEMO, "--pace", "fast"], cwd=ROOT, capture_output=True, text=True, timeout=SECONDS)
    assert ran.returncode == 2
    assert "--pace: takes seconds from 0 to 60" in ran.stderr


def test_a_desk_without_deviations_gives_none(desk: Desk) -> None:
    """The player finds nothing wrong with a path that goes by the procedure."""
    assert deviations(desk, altered(0, 0)) == []


def test_another_event_is_a_deviation(desk: Desk) -> None:
    """The script says Closed, the desk records Escalated: the player names both, and leaves the path."""
    path = altered(1, 4, records="T1-4 Closed")
    assert deviations(desk, path) == ["T-000001, agent-tier1 escalate: answered T1-4 Escalated in place of T1-4 Closed"]


def test_a_refusal_that_does_not_come_is_a_deviation(desk: Desk) -> None:
    """What must be refused is played: the desk takes it, and the player says so."""
    path = altered(1, 3, behind=0)
    assert deviations(desk, path) == [
        "T-000001, agent-tier1 escalate: answered T1-4 Escalated in place of 412 stale_version -"
    ]


def test_another_step_is_a_deviation(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    """An event whose step is another in the history is a deviation, and so is a step that nothing recorded; the exit
    status is 1."""
    path = altered(6, 1, records="5 Escalated")
    assert perform(desk, Screen(), path) == 1
    shown = capsys.readouterr().out
    assert "T-000001, agent-tier1 escalate: answered T1-4 Escalated in place of 5 Escalated" in shown
    assert "DEVIATES: the auditor's log: step 19 has no ClosureEmailSent" in shown


def deviations(desk: Desk, path: dict[str, Moves]) -> list[str]:
    """What the player finds wrong when one path is played."""
    player = Player(desk, Screen())
    desk.require("intake", "PUT", "/v1/clients/client", CLIENT_CONTACT)
    player.play(path)
    return player.deviations


def altered(path: int, number: int, **changes: object) -> dict[str, Moves]:
    """One path alone, with one of its moves changed."""
    title, moves = list(PATHS.items())[path]
    changed = msgspec.structs.replace(moves[number], **changes)
    return {title: (*moves[:number], changed, *moves[number + 1 :])}


def on_terminal(environment: dict[str, str]) -> tuple[int, str]:
    """Runs the demo on a terminal of 100 by 35 characters. Returns its exit status and what it wrote."""
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 35, 100, 0, 0))
    demo = subprocess.Popen([*DEMO, "--pace", "0"], cwd=ROOT, env=environment, stdin=its, stdout=its, stderr=its)
    os.close(its)
    shown = bytearray()
    while chunk := read_some(ours):
        shown += chunk
    os.close(ours)
    return demo.wait(SECONDS), shown.decode()


def read_some(terminal: int) -> bytes:
    """The next bytes; none when nobody writes any more."""
    try:
        return os.read(terminal, 65536)
    except OSError:  # Linux tells the end of a terminal so
        return b""
