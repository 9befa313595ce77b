"""`deskledger demo`: the procedure's every path on a real server, database and mail server of the demo's own."""

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

from application.settings import Settings

if TYPE_CHECKING:
    from api.cli.demo.demo_desk import Desk
    from api.cli.demo.moves import Path
    from api.cli.demo.plain_screen import Screen

TERMINAL_PACE = 0.15
ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
DESCRIPTION = "The whole procedure, run on a desk of its own: nothing of your own desk is touched."
DEMO_EPILOG = """
what happens:
  A PostgreSQL, a server, a worker and a mail server are started in a temporary
  directory. Tickets take every path of the escalation procedure, over HTTP, with
  one key a role; what must be refused is tried as well. Every answer, the queues
  after each step, and at the end the auditor's log and the mails are compared
  with the procedure. Then all of it is ended and removed.

what you see:
  T1-4  agent-tier1  escalate  -> Escalated  tier2  T-000002
  step  whose key    command      event      queue  ticket
  The step is the number in the procedure, "-" for what stands beside it.

exit status:
  0 everything went by the procedure; 1 something deviates; 130 after Ctrl-C

examples:
  deskledger demo                  with colours and a live table of the queues
  deskledger demo --pace 1         slowly, to read along
  deskledger demo | grep '^T1-'    plain lines when piped: the four steps of tier 1
"""


def add_demo(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Registers the command."""
    demo = commands.add_parser(
        "demo",
        help="see the whole procedure run, on a desk of its own",
        description=DESCRIPTION,
        epilog=DEMO_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    pace = f"seconds to wait after each step (default: {TERMINAL_PACE} on a terminal, 0 when piped)"
    demo.add_argument("--pace", metavar="SECONDS", type=_seconds, help=pace)
    demo.set_defaults(run=demo_command)


def demo_command(settings: Settings, options: argparse.Namespace) -> int:
    """Runs the demo. Returns 0 when everything went by the procedure, 1 when anything deviates."""
    from api.cli.demo.demo_desk import own_desk
    from api.cli.demo.script import PATHS

    with _ends_in_order() as from_here_undisturbed, _screen() as screen:
        began = time.monotonic()
        screen.begin()
        with own_desk() as desk:
            try:
                screen.started(time.monotonic() - began)
                return perform(desk, screen, PATHS, _pace(options))
            finally:
                from_here_undisturbed()


def perform(desk: "Desk", screen: "Screen", paths: "tuple[Path, ...]", pace: float = 0.0) -> int:
    """Plays the paths on a desk, shows what the auditor finds, and returns the exit status."""
    from api.cli.demo.audit import Audit
    from api.cli.demo.player import Player, put_client
    from api.cli.demo.script import CLIENT_CONTACT

    began = time.monotonic()
    player = Player(desk, screen, pace)
    put_client(desk, "client", CLIENT_CONTACT)
    player.play(paths)
    findings = Audit(desk, player).findings()
    screen.report(findings)
    seconds = f"{time.monotonic() - began:.1f} s"
    if findings.deviations:
        screen.end(f"The desk deviates from the procedure ({seconds}): the lines above say where.", False)
        return 1
    screen.end(f"Every step of the procedure is in the log, and nothing deviates ({seconds}).", True)
    return 0


@contextmanager
def _screen() -> "Iterator[Screen]":
    """Colours and a live table where somebody is looking, plain lines elsewhere."""
    from rich.console import Console

    from api.cli.demo.live_screen import LiveScreen
    from api.cli.demo.plain_screen import PlainScreen

    console = Console()
    if not sys.stdout.isatty() or console.is_dumb_terminal:
        yield PlainScreen()
        return
    live = LiveScreen(console)
    try:
        yield live
    finally:
        live.close()


@contextmanager
def _ends_in_order() -> Iterator[Callable[[], None]]:
    """Ctrl-C, SIGTERM and SIGHUP end the demo once; what is started is then ended in order, undisturbed."""
    before = {number: signal.signal(number, _end) for number in ENDING_SIGNALS}
    try:
        yield _ignore_signals
    except BrokenPipeError:  # whoever read our lines has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end(number: int, frame: Any) -> NoReturn:
    _ignore_signals()
    print("\ndeskledger: ending the demo and removing its desk", file=sys.stderr)
    raise SystemExit(128 + number)


def _ignore_signals() -> None:
    for number in ENDING_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _pace(options: argparse.Namespace) -> float:
    if options.pace is not None:
        return float(options.pace)
    return TERMINAL_PACE if sys.stdout.isatty() else 0.0


def _seconds(value: str) -> float:
    try:
        seconds = float(value)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= 60:
        raise argparse.ArgumentTypeError("takes seconds from 0 to 60, for example 0.5")
    return seconds
