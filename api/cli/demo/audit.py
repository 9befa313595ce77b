"""What an auditor finds afterwards: is every step of the procedure in the log, and did every closing bring a mail?"""

from typing import Any

from api.cli.demo.demo_desk import Desk
from api.cli.demo.player import Player
from api.cli.demo.screen import Screen
from api.cli.demo.script import PROCEDURE_STEPS, Step

WHERE = "the auditor's log"
Log = list[dict[str, Any]]


class Audit:
    """Reads the log as the auditor does, shows what it holds, and tells the player of what deviates."""

    def __init__(self, desk: Desk, player: Player, screen: Screen) -> None:
        self._desk, self._player, self._screen = desk, player, screen
        self._numbers = {run.ticket_id: run.number for run in player.runs}
        self._log: Log = []

    def show(self) -> None:
        """The whole report."""
        count = sum(run.version for run in self._player.runs)
        self._log = self._player.wait_for(self._read_log, lambda log: len(log) >= count)
        if len(self._log) != count:
            self._player.deviate(WHERE, f"{len(self._log)} events of tickets in place of {count}")
        self._screen.heading("The procedure, step by step, and the first event of each type that recorded it")
        for step in PROCEDURE_STEPS:
            self._show_step(step)
        self._screen.heading("Closings, and the mails that they caused")
        self._show_closings()
        self._show_timeline()
        found = f"{len(self._player.runs)} paths, {count} events, {len(self._desk.mails)} mails received"
        self._screen.heading(f"{found}, {len(self._player.deviations)} deviations")

    def _read_log(self) -> Log:
        """The events of tickets; those of the directory have no ticket."""
        events, after = [], "0"
        while after:
            page = self._desk.read(f"/v1/events?limit=200&after={after}")
            events += page["items"]
            after = page["next"]
        return [event for event in events if event["ticket_id"]]

    def _show_step(self, step: Step) -> None:
        recorded = []
        for type_ in step.events:
            found = [each for each in self._of_type(type_) if each["step"] == step.number]
            if found:
                recorded.append(f"{type_} {self._number(found[0])} at {found[0]['position']} ({len(found)}x)")
            else:
                self._player.deviate(WHERE, f"step {step.number} has no {type_}")
        self._screen.step(step.number, f"{step.says}: {', '.join(recorded)}")

    def _show_closings(self) -> None:
        closed = {(each["ticket_id"], each["version"]): each["position"] for each in self._of_type("Closed")}
        received = {mail["Message-ID"] for mail in self._desk.mails}
        for sent in self._of_type("ClosureEmailSent"):
            position, message_id = closed[sent["ticket_id"], sent["data"]["closed_version"]], sent["data"]["message_id"]
            arrived = "received" if message_id in received else "NOT RECEIVED"
            self._screen.step(sent["step"], f"{self._number(sent)} closed at {position}: {message_id} {arrived}")
        if not len(closed) == len(self._desk.mails) == len(received):
            self._player.deviate(WHERE, f"{len(closed)} closings brought {len(self._desk.mails)} mails")

    def _show_timeline(self) -> None:
        """Of the ticket with the longest history."""
        longest = max(self._player.runs, key=lambda run: run.version)
        self._screen.heading(f"Timeline of {longest.number}")
        for event in self._log:
            if event["ticket_id"] == longest.ticket_id:
                who = f"{event['actor']['name']} ({event['actor']['role']})"
                step, words = event["step"] or "-", " ".join(event["words"].split())
                self._screen.say(f"{event['at'][11:19]}  ", (f"{step:<4}", "bold cyan"), f"  {who:<25}  {words}")

    def _of_type(self, type_: str) -> Log:
        return [event for event in self._log if event["type"] == f"Ticket.{type_}"]

    def _number(self, event: dict[str, Any]) -> str:
        return self._numbers[event["ticket_id"]]
