"""`deskledger demo`: the procedure's every path on a real server, database and mail server of the demo's own."""

import signal
import sys
import time
from typing import NoReturn

from api.cli.demo.audit import Audit
from api.cli.demo.demo_desk import Desk, own_desk
from api.cli.demo.player import Player
from api.cli.demo.screen import Screen
from api.cli.demo.script import CLIENT_CONTACT, PATHS, Moves

ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def play_demo(pace: float) -> int:
    """Plays every path on a desk of its own. Returns 0 when all went by the procedure, 1 when anything deviates."""
    for number in ENDING_SIGNALS:
        signal.signal(number, _end)
    with Screen() as screen:
        screen.say(("Deskledger demo: the whole procedure on a desk of its own, removed at the end", "bold"))
        began = time.monotonic()
        with own_desk() as desk:
            screen.say(f"started database, server, worker and mail server in {time.monotonic() - began:.1f} s")
            try:
                return perform(desk, screen, PATHS, pace)
            finally:
                _ignore_signals()  # what was started is ended in order, undisturbed


def perform(desk: Desk, screen: Screen, paths: dict[str, Moves], pace: float = 0.0) -> int:
    """Plays the paths on a desk, shows what the auditor finds, and returns the exit status."""
    began = time.monotonic()
    desk.require("intake", "PUT", "/v1/clients/client", CLIENT_CONTACT)
    player = Player(desk, screen, pace)
    player.play(paths)
    Audit(desk, player, screen).show()
    seconds = f"{time.monotonic() - began:.1f} s"
    if player.deviations:
        screen.say((f"The desk deviates from the procedure ({seconds}): the lines above say where.", "bold red"))
        return 1
    screen.say((f"Every step of the procedure is in the log, and nothing deviates ({seconds}).", "bold green"))
    return 0


def _end(number: int, frame: object) -> NoReturn:
    """Ctrl-C, SIGTERM and SIGHUP end the demo once."""
    _ignore_signals()
    print("\ndeskledger: ending the demo and removing its desk", file=sys.stderr)
    raise SystemExit(128 + number)


def _ignore_signals() -> None:
    for number in ENDING_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
