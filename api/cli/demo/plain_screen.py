"""What the demo shows: plain lines when piped. `demo_live` shows the same with colours and a live table."""

import sys
from email.message import EmailMessage
from typing import Any, Literal, Protocol

import msgspec

from api.cli.demo.demo_results import Findings, StepFound

WELCOME = "Deskledger demo: the whole procedure on a desk of its own, removed at the end"


Kind = Literal["done", "refused", "deviates"]


class ScreenLine(msgspec.Struct, frozen=True):
    """One move as it is shown; `outcome` has the events, or why it was refused, or what deviates."""

    kind: Kind
    step: str
    number: str
    who: str
    command: str
    outcome: tuple[str, ...]
    where: str


class Screen(Protocol):
    """Where the demo is shown."""

    def begin(self) -> None:
        """Says that the desk is being started."""

    def started(self, seconds: float) -> None:
        """The desk runs."""

    def heading(self, title: str, number: int, total: int) -> None:
        """A path begins."""

    def line(self, line: ScreenLine) -> None:
        """A move was played."""

    def mail(self, mail: EmailMessage) -> None:
        """A mail came in."""

    def queues(self, queues: list[dict[str, Any]]) -> None:
        """The nine queues as they stand."""

    def report(self, findings: "Findings") -> None:
        """What the auditor found."""

    def end(self, verdict: str, good: bool) -> None:
        """The last line."""


class PlainScreen:
    """One line a step, without escape codes, for pipes, files and logs."""

    def begin(self) -> None:
        """Says that the desk is being started."""
        say(WELCOME)

    def started(self, seconds: float) -> None:
        """The desk runs."""
        say(f"started database, server, worker and mail server in {seconds:.1f} s")

    def heading(self, title: str, number: int, total: int) -> None:
        """A path begins."""
        say("", f"Path {number} of {total}: {title}" if number else title)

    def line(self, line: ScreenLine) -> None:
        """`T1-4  agent-tier1   escalate             -> Escalated  tier2  T-000002`."""
        outcome = f"-> {', '.join(line.outcome)}"
        if line.kind == "refused":
            outcome = f"refused, as it must be: {line.outcome[0]}"
        elif line.kind == "deviates":
            outcome = f"DEVIATES: {'; '.join(line.outcome)}"
        text = f"{line.step:<4}  {line.who:<12}  {line.command:<19}  {outcome}  {line.where}  {line.number}"
        say(text.rstrip())

    def mail(self, mail: EmailMessage) -> None:
        """A mail came in."""
        say(f"mail  to {mail['To']}  {mail['Subject']}  {mail['Message-ID']}")

    def queues(self, queues: list[dict[str, Any]]) -> None:
        """Nothing: each line names the queue."""

    def report(self, findings: "Findings") -> None:
        """What the auditor found."""
        say("", "The procedure, step by step, and the first event of each type that recorded it")
        for found in findings.steps:
            say(f"{found.step.number:<4}  {found.step.says}: {', '.join(recorded_by(found))}")
        say("", "Closings, and the mails that they caused")
        for closing in findings.closings:
            arrived = "received" if closing.received else "NOT RECEIVED"
            say(f"{closing.step:<4}  {closing.number} closed at {closing.position}: {closing.message_id} {arrived}")
        say("", f"Timeline of {findings.timeline_number}")
        for event in findings.timeline:
            who = f"{event['actor']['name']} ({event['actor']['role']})"
            say(f"{event['at'][11:19]}  {event['step'] or '-':<4}  {who:<25}  {one_line(event['words'])}")
        say("", ", ".join(f"{figure} {name}" for name, figure in findings.figures.items()))
        for deviation in findings.deviations:
            say(f"DEVIATES: {deviation}")

    def end(self, verdict: str, good: bool) -> None:
        """The last line."""
        say(verdict)


def say(*lines: str) -> None:
    """Prints at once, so that whoever follows the pipe sees it."""
    encoding = sys.stdout.encoding or "utf-8"
    print("\n".join(lines).encode(encoding, "replace").decode(encoding), flush=True)


def recorded_by(found: "StepFound", times: str = " ({} times)") -> list[str]:
    """`Escalated T-000002 at 57 (6 times)` for each type of event that recorded a step, and its mails."""
    lines = [
        f"{event.type} {event.number} at {event.position}" + (times.format(event.times) if event.times > 1 else "")
        for event in found.events
    ]
    if found.mails is not None:
        lines.append(f"{found.mails} {'mail' if found.mails == 1 else 'mails'} received")
    return lines or ["NOTHING"]


def one_line(words: str) -> str:
    """Words without the breaks in them."""
    return " ".join(words.split())
