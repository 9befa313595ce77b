"""Twenty tickets by hand, and walks through the procedure at random: histories that the desk's own decisions made.

Times are hours after Monday, 2026-10-05, 00:00 UTC, the beginning of week 41; a week has 168 of them.
"""

import random
import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
from msgspec.structs import replace

from application.store.event_store import to_row
from application.store.recorder import EventRecorder
from application.store.sealing import seal_all
from domain import decisions as decide
from domain import events as e
from domain.client import Client
from domain.rules import Given, possible
from domain.ticket import Issue, Ticket, begin_ticket, evolve, fold
from domain.values import Actor, Channel, Grade, Level, Role, Visibility
from projections.runner import project_all
from tests.support.given import given_by

START = datetime(2026, 10, 5, tzinfo=UTC)
WORKER, CHECKER = Actor("worker", "worker", Role.AGENT), Actor("checker", "checker", Role.QUALITY)
CLIENT = Client(1, "client-a", "Client A", "a@example.org")
GRADES = {
    1: (Grade.HIGH, Grade.HIGH),
    2: (Grade.HIGH, Grade.MEDIUM),
    3: (Grade.MEDIUM, Grade.MEDIUM),
    4: (Grade.MEDIUM, Grade.LOW),
    5: (Grade.LOW, Grade.LOW),
}
# Tickets 1 to 20: category, priority, steps. Priority 3 becomes 2 (ticket 2) and 1 (ticket 17) on the way.
PATHS = """
hardware 3: 0 open, 1 route, 3 resolve, 4 pass, 4 document, 5 close, 6 sent
hardware 3: 0 open, 2 route, 6 resolve, 8 fail, 9 priority 2, 10 resolve, 11 pass, 11 document, 12 close,
    13 sent
software 2: 10 open, 11 route, 12 escalate, 13 can, 20 resolve, 22 pass, 22 document, 23 close, 24 sent
software 4: 10 open, 12 route, 16 escalate, 17 cannot, 18 escalate, 20 can, 30 resolve, 31 pass, 31 document,
    32 close, 33 bounced
network 1: 20 open, 21 route, 22 escalate, 23 cannot, 24 escalate, 25 cannot, 26 escalate, 27 can, 50 resolve,
    52 pass, 52 document, 54 close, 55 sent
network 1: 100 open, 101 route, 102 escalate, 104 can, 110 escalate, 111 cannot, 112 escalate, 113 cannot,
    114 escalate, 116 dossier, 120 decline, 122 dossier, 124 approve, 125 route, 135 resolve, 137 pass,
    137 document, 139 close, 140 sent
network 2: 100 open, 102 route, 104 escalate, 106 cannot, 108 escalate, 110 cannot, 112 escalate, 114 cannot,
    116 escalate, 118 dossier, 119 approve, 120 route, 124 return it_manager, 126 return tier2, 128 can,
    130 resolve, 131 pass, 131 document, 132 close, 133 sent
- 0: 150 receive, 160 cancel
software 3: 150 open, 152 route, 156 cancel
software 3: 160 open, 161 route, 163 resolve, 165 cancel
network 2: 170 open, 171 route, 172 escalate, 173 cannot, 174 escalate, 175 can, 180 escalate, 182 cannot,
    184 escalate, 186 dossier, 190 cancel
hardware 3: 180 open, 181 route, 182 resolve, 183 pass, 183 document, 184 close, 185 sent, 300 reopen,
    304 resolve, 305 pass, 305 document, 306 close, 307 sent
software 2: 200 open, 201 route, 202 escalate, 203 can, 210 resolve, 212 pass, 212 document, 214 close,
    215 bounced, 400 reopen, 406 escalate, 407 can, 420 resolve, 421 pass, 421 document, 422 close, 423 sent
hardware 4: 250 open, 251 route, 252 resolve, 253 pass, 253 document, 254 close, 255 sent, 500 reopen
software 3: 260 open, 262 route, 264 resolve, 266 fail, 270 escalate, 272 can, 276 resolve, 278 fail,
    280 resolve, 281 pass, 281 document, 282 close
- 0: 990 receive
hardware 3: 200 open, 210 route, 600 priority 1
software 4: 280 open, 282 route, 284 escalate, 285 can, 290 resolve
software 3: 900 open, 902 route, 904 resolve, 906 pass
network 1: 760 open, 761 route, 762 escalate, 763 cannot, 764 escalate, 765 cannot, 766 escalate, 767 cannot,
    768 escalate, 770 dossier, 772 decline
"""


def hour(hours: float) -> datetime:
    """The moment so many hours after the start."""
    return START + timedelta(hours=hours)


Step = Callable[[Ticket, Given, str], list[e.Event]]
STEPS: dict[str, Step] = {
    "identify_client": lambda t, g, _: decide.identify_client(t, g, CLIENT),
    "create": lambda t, g, _: decide.create(t, g, f"T-{t.ticket_id.int:06}"),
    "route": lambda t, g, _: decide.route(t, g, None),
    "assign": lambda t, g, _: decide.assign(t, g, "worker"),
    "release": lambda t, g, _: decide.release(t, g),
    "can": lambda t, g, _: decide.qualify(t, g, True, "known"),
    "cannot": lambda t, g, _: decide.qualify(t, g, False, "not known"),
    "escalate": lambda t, g, _: decide.escalate(t, g, "more skill"),
    "resolve": lambda t, g, _: decide.resolve(t, g, "fixed"),
    "pass": lambda t, g, _: decide.verify(t, given_by(CHECKER, g.now), True, Channel.PHONE, "It works."),
    "fail": lambda t, g, _: decide.verify(t, given_by(CHECKER, g.now), False, Channel.PHONE, "It does not."),
    "document": lambda t, g, _: decide.document_resolution(t, g, "wear", "replaced", "test"),
    "close": lambda t, g, _: decide.close(t, g),
    "dossier": lambda t, g, _: decide.compile_dossier(t, g, f"after {t.version}", ()),
    "approve": lambda t, g, _: decide.approve(t, g, t.dossier.sha256 if t.dossier else "", Channel.EMAIL),
    "decline": lambda t, g, _: decide.decline(t, g, t.dossier.sha256 if t.dossier else "", Channel.EMAIL, "too dear"),
    "return": lambda t, g, to: decide.return_to_level(t, g, Level(to), "back"),
    "note": lambda t, g, _: decide.add_note(t, g, "seen", Visibility.INTERNAL),
    "priority": lambda t, g, to: decide.change_priority(t, g, *GRADES[int(to)], "judged anew"),
    "await": lambda t, g, _: decide.await_client(t, g, "the model"),
    "respond": lambda t, g, _: decide.client_responded(t, g, "the old one"),
    "cancel": lambda t, g, _: decide.cancel(t, g, "withdrawn"),
    "reopen": lambda t, g, _: decide.reopen(t, g, "it came back"),
}


class Story:
    """A ticket's history as it grows; every event is what a decision recorded, so it is legal."""

    def __init__(self, number: int, category: str = "software", priority: int = 3) -> None:
        self.ticket_id, self.category, self.priority = UUID(int=number), category, priority
        self.history: list[e.Recorded] = []
        self.ticket: Ticket | None = None

    def tell(self, at: datetime, step: str, what: str = "") -> None:
        """One step: `receive`, `open` (received up to documented), `describe`, `sent`, `bounced`, or one of STEPS."""
        if step in ("receive", "open"):
            self._record(at, [e.RequestReceived(Channel.PHONE, "It does not print.")])
        if step == "open":
            for part in ("identify_client", "create", "describe"):
                self.tell(at, part)
        elif step in ("sent", "bounced"):
            self._record(at, self._mailed(step))
        elif step == "describe":
            issue = Issue("No print", "It does not print.", self.category, *GRADES[self.priority])
            self._record(at, decide.document_issue(self._now(), given_by(WORKER, at), issue))
        elif step in STEPS:
            self._record(at, STEPS[step](self._now(), given_by(WORKER, at), what))

    def _now(self) -> Ticket:
        assert self.ticket
        return self.ticket

    def _mailed(self, step: str) -> list[e.Event]:
        version = max(r.originator_version for r in self.history if isinstance(r.event, e.Closed))
        if step == "sent":
            return [e.ClosureEmailSent(version, "<1@desk>", 1)]
        return [e.ClosureEmailFailed(version, "<1@desk>", 1, "550 no such user")]

    def _record(self, at: datetime, new: list[e.Event]) -> None:
        for event in new:
            recorded = e.Recorded(self.ticket_id, len(self.history) + 1, at, WORKER, event)
            self.ticket = evolve(self.ticket, recorded) if self.ticket else begin_ticket(recorded)
            recorded = replace(recorded, level=self.ticket.level)
            self.history.append(recorded)


def twenty_tickets() -> list[list[e.Recorded]]:
    """The histories of PATHS, tickets 1 to 20."""
    stories = []
    for number, path in enumerate(re.split(r"\n(?=\S)", PATHS.strip()), 1):
        (category, priority), steps = (part.split(sep) for part, sep in zip(path.split(":"), (None, ","), strict=True))
        story = Story(number, category, int(priority))
        for step in steps:
            at, name, *what = step.split()
            story.tell(hour(int(at)), name, *what)
        stories.append(story.history)
    return stories


WALK: dict[str, Sequence[tuple[str, str]]] = {
    # how a walk at random gives a command that is possible
    "identify_client": [("identify_client", "")],
    "document_issue": [("describe", "")],
    "qualify": [("can", ""), ("cannot", "")],
    "verify": [("pass", ""), ("fail", "")],
    "document_resolution": [("document", "")],
    "compile_dossier": [("dossier", "")],
    "return_to_level": [("return", level) for level in ("tier1", "tier2", "tier3", "onsite")],
    "add_note": [("note", "")],
    "change_priority": [("priority", str(priority)) for priority in GRADES],
    "await_client": [("await", "")],
    "client_responded": [("respond", "")],
}
RARE = {"cancel": 0.03, "link": 0.0, "assign": 0.1, "release": 0.1, "add_note": 0.1, "change_priority": 0.2}


def random_walk(number: int, chance: random.Random, steps: int = 40) -> list[e.Recorded]:
    """A ticket that somebody drives at random through what the procedure allows."""
    story, at = Story(number, chance.choice(["software", "network"]), chance.randint(1, 5)), hour(chance.random() * 600)
    story.tell(at, "receive")
    for _ in range(steps):
        at += timedelta(seconds=chance.choice([0, 60, 3_600, 40_000]))
        ticket = story.ticket
        assert ticket
        if isinstance(story.history[-1].event, e.Closed):
            story.tell(at, chance.choice(["sent", "bounced"]))
        allowed = possible(ticket, given_by(CHECKER, at))
        if set(allowed) <= {"link"}:
            break
        command = chance.choices(allowed, [RARE.get(name, 1.0) for name in allowed])[0]
        step, what = chance.choice(WALK.get(command, [(command, "")]))
        at_noc = ticket.level is Level.NOC
        story.tell(at, step, "it_manager" if step == "return" and at_noc else what)
    return story.history


def record(connection: psycopg.Connection[Any], events: Sequence[e.Recorded]) -> None:
    """Puts events into the store, seals them, and brings the projections to the end of the log."""
    EventRecorder(connection).insert_events([to_row(event) for event in events])
    seal_all(connection)
    project_all(connection)


def open_tickets(histories: Sequence[Sequence[e.Recorded]], before: datetime) -> list[Ticket]:
    """Who is open, going by the events before a moment: folded, not queried."""
    told = [fold(event for event in history if event.at < before) for history in histories]
    return [ticket for ticket in told if ticket and ticket.queue]
