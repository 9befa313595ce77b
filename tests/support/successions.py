"""The procedure as allowed successions: which (type, step, level) may follow which, written by hand from the page.

A verdict belongs to the type, since it decides what may follow. What is in no row is a supporting event: it has no
step, and the level that the ticket has. The outcome of a closing's e-mail comes whenever it comes: it is held against
the closing that it names.
"""

import asyncio
from collections.abc import Iterable
from typing import Any, NamedTuple

import psycopg

from application.helpdesk import HelpDesk
from domain import events as e
from domain.values import Actor, Level, Role
from projections.queries.ticket_view import EventView, event_views, history
from tests.support.random_walk import Walk
from tests.support.read_models import fetcher
from tests.support.write_side import STAFF

Activity = tuple[str, str | None, str | None]  # type, step, level


class Rung(NamedTuple):
    """A level of the ladder: its steps, and the step and level of the escalation from it."""

    resolution: str
    quality_control: str
    closing: str
    qualification: str | None
    up: tuple[str, str] | None


RUNGS = {
    "tier1": Rung("T1-1", "T1-2", "T1-3", None, ("T1-4", "tier2")),
    "tier2": Rung("5", "6", "7", "T1-4", ("8", "tier3")),
    "tier3": Rung("9", "10", "11", "8", ("12", "onsite")),
    "onsite": Rung("13", "14", "15", "12", ("16", "it_manager")),
    "noc": Rung("17", "18", "19", None, None),
}
ENDS = ("Closed", "Cancelled")
OUTCOMES = ("ClosureEmailSent", "ClosureEmailFailed")
IDENTIFIED, CREATED, DOCUMENTED = (
    ("ClientIdentified", "2", None),
    ("Created", "3", None),
    ("IssueDocumented", "4", None),
)
COMPILED, APPROVED = ("DossierCompiled", "16", "it_manager"), ("ClientApproved", "16", "it_manager")
DECLINED, TO_NOC = ("ClientDeclined", "16", "it_manager"), ("Routed", "16", "noc")
FROM_NOC = ("ReturnedToLevel", None, "it_manager")
RETURNED = {("ReturnedToLevel", None, level) for level in ("tier1", "tier2", "tier3", "onsite")}


def successions() -> dict[Activity | None, set[Activity]]:
    """What may follow each activity; what may come first stands under None. `Cancelled` follows whatever is open."""
    found: dict[Activity | None, set[Activity]] = {
        None: {("RequestReceived", "1", None)},
        ("RequestReceived", "1", None): {IDENTIFIED},
        IDENTIFIED: {IDENTIFIED, CREATED},
        CREATED: {DOCUMENTED},
        DOCUMENTED: {DOCUMENTED, ("Routed", "4", "tier1")},
        COMPILED: {COMPILED, APPROVED, DECLINED, *RETURNED},
        APPROVED: {COMPILED, TO_NOC, *RETURNED},
        DECLINED: {COMPILED, *RETURNED},
        FROM_NOC: {COMPILED, *RETURNED},
        ("Escalated", "16", "it_manager"): {COMPILED, *RETURNED},
    }
    for level, rung in RUNGS.items():
        found |= at_level(level, rung)
    return found


def at_level(level: str, rung: Rung) -> dict[Activity | None, set[Activity]]:
    """What may follow each activity at a level."""
    onwards = {("Escalated", *rung.up) if rung.up else FROM_NOC}
    resolved, work = ("Resolved", rung.resolution, level), {("Resolved", rung.resolution, level), *onwards}
    verified, failed = ("QCVerified", rung.quality_control, level), ("QCFailed", rung.quality_control, level)
    documented, closed = ("ResolutionDocumented", rung.closing, level), ("Closed", rung.closing, level)
    reopened = ("Reopened", None, level)
    can, cannot = ("Qualified, can", rung.qualification, level), ("Qualified, cannot", rung.qualification, level)
    come = {
        "tier1": [("Routed", "4", "tier1"), ("ReturnedToLevel", None, "tier1")],
        "noc": [TO_NOC],
    }.get(level, [("Escalated", rung.qualification, level), ("ReturnedToLevel", None, level)])
    return {
        **{arrival: {can, cannot} if rung.qualification else work for arrival in come},
        **({can: work, cannot: onwards} if rung.qualification else {}),
        resolved: {verified, failed, documented},
        documented: {verified, failed, documented, closed},
        verified: {documented, closed},
        failed: work,
        closed: {reopened},
        reopened: work,
    }


ALLOWED = successions()
FOLLOWED = {activity[0] for activity in ALLOWED if activity}


def outside(history: Iterable[EventView]) -> list[str]:
    """What of a ticket's history is in no row of the table."""
    found: list[str] = []
    before: Activity | None = None
    closings: dict[int, Activity] = {}
    for event in history:
        activity = activity_of(event)
        kind, step, level = activity
        if kind in OUTCOMES:
            of = closings.pop(event.data["closed_version"], None)
            right = of is not None and of[1:] == activity[1:]
        elif kind == "Cancelled":
            right = (
                before is not None and before[0] not in ("Closed", "Cancelled") and activity[1:] == (None, before[2])
            )
            before = activity
        elif kind == "ClientCorrected" and before is not None and before[0] == "QCVerified" and level:
            right, before = step is None, ("Resolved", RUNGS[level].resolution, level)  # the new client is asked again
        elif kind in FOLLOWED:
            right, before = activity in ALLOWED.get(before, ()), activity
        else:
            right = before is not None and (step, level) == (None, before[2])
        if kind == "Closed":
            closings[event.version] = activity
        if not right:
            found.append(f"{event.ticket_id} {event.version}: {activity} after {before}")
    return found


def activity_of(event: EventView) -> Activity:
    """What an event is in the table."""
    kind = event.type.removeprefix("Ticket.")
    if kind == "Qualified":
        kind = "Qualified, can" if event.data["can_resolve"] else "Qualified, cannot"
    return kind, event.step, event.level


def walked(desk: HelpDesk, seed: int, tickets: int, *, as_before: bool = False) -> Walk:
    """About so many tickets with all that happened to them, and what became of their closing e-mails, some of it late.

    `as_before`: stored under the level that the ticket had come to by then, as earlier versions did.
    """
    walk, waiting = Walk(desk, seed, opening=1 / 40), list[tuple[Any, int]]()
    for count, outcome in enumerate(walk.steps(tickets * 40)):
        waiting += [(new, count + walk.chance.randint(0, 150)) for new in outcome.events if type(new.event) is e.Closed]
        for closed, _ in [one for one in waiting if one[1] <= count]:
            note_outcome(desk, walk, closed, None if as_before else closed.level)
        waiting = [one for one in waiting if one[1] > count]
    return walk


def shown(connection: psycopg.Connection, walk: Walk) -> list[list[EventView]]:
    """The histories of the tickets of a walk, as they are shown."""
    return [event_views(asyncio.run(history(fetcher(connection), ticket)), STAFF) for ticket in walk.tickets]


def note_outcome(desk: HelpDesk, walk: Walk, closed: e.Recorded, level: Level | None) -> None:
    """Records what became of the e-mail of a closing, under a level: the closing's, as the mailer does."""
    tried = (closed.originator_version, "<walk@desk.example>", 1)
    outcome = walk.chance.choice([e.ClosureEmailSent(*tried), e.ClosureEmailFailed(*tried, "gone")])
    desk.record(closed.originator_id, outcome, Actor("deskledger", "Deskledger", Role.SYSTEM), walk.now, level=level)
