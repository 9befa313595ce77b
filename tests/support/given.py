"""Given / when / then on events: a fixed clock, a ticket in every state, and what a decision answers."""

from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from domain import events as e
from domain.procedure import INTAKE_STATES, MANAGER_STATES, NEXT_RUNG
from domain.rules import Given
from domain.ticket import Ticket, begin_ticket, evolve
from domain.values import Actor, Channel, Grade, Level, Principal, Role, State

TICKET_ID = UUID("0190f3a0-0000-7000-8000-000000000001")
START, LATER = datetime(2026, 11, 2, 9, 0, tzinfo=UTC), datetime(2026, 11, 2, 12, 0, tzinfo=UTC)
RESOLVER = Actor("agent-tier2", "agent-tier2", Role.AGENT)
QUALITY = Actor("quality-desk", "quality-desk", Role.QUALITY)
HASH = "a" * 64
BEGUN = [
    e.RequestReceived(Channel.PHONE, "The printer is silent."),
    e.ClientIdentified("client-a", "client-a"),
    e.Created("T-000001"),
    e.IssueDocumented("No print", "It does not print.", "printing", Grade.MEDIUM, Grade.HIGH, 2),
]
DOSSIER = [e.DossierCompiled("all of it", HASH, 12, ("1. all",)), e.ClientApproved(HASH, Channel.EMAIL)]
ENDING = (State.IN_SUPPORT, State.RESOLVED, State.VERIFIED, None, State.CLOSED)


def ticket_in(state: State, level: Level = Level.TIER1, *then: e.Event, can: bool | None = None) -> Ticket:
    """A ticket that came to a state by the procedure; `can` is the verdict of its level, `then` what follows."""
    if state in INTAKE_STATES:
        return after(None, [*BEGUN[: INTAKE_STATES.index(state) + 1], *then])
    told, rung = [*BEGUN, e.Routed(Level.TIER1)], Level.TIER1
    managed = level is Level.NOC or state in MANAGER_STATES
    while rung is not (Level.IT_MANAGER if managed else level):
        told += [e.Qualified(rung, False, "too hard")] * (rung is not Level.TIER1)
        told, rung = [*told, e.Escalated(rung, NEXT_RUNG[rung], "up")], NEXT_RUNG[rung]
    if managed:
        told += DOSSIER[: MANAGER_STATES.index(state)] if state in MANAGER_STATES else [*DOSSIER, e.Routed(Level.NOC)]
    elif rung is not Level.TIER1 and (can is not None or state in ENDING[1:]):
        told.append(e.Qualified(level, can is not False, "looked at"))
    end = [e.Resolved(level, "fixed"), e.QCVerified(level, Channel.PHONE, "It prints.")]
    end += [e.ResolutionDocumented(level, "cause", "actions", "method"), e.Closed(level)]
    told += end[: ENDING.index(state)] if state in ENDING else [e.Cancelled("withdrawn")] * (state is State.CANCELLED)
    return after(None, [*told, *then])


def other_ticket(number: int = 7, minutes: int = 0, *then: e.Event) -> Ticket:
    """Another ticket, received so many minutes after `START`."""
    at = START + timedelta(minutes=minutes)
    first = e.Recorded(UUID(int=number), 1, at, RESOLVER, e.RequestReceived(Channel.WEB, "help"))
    return after(begin_ticket(first), then)  # type: ignore[no-any-return]


def after(ticket: Ticket | None, events: Iterable[e.Event], by: Actor = RESOLVER) -> Any:
    """The ticket after more events, a minute apart."""
    for version, event in enumerate(events, ticket.version + 1 if ticket else 1):
        recorded = e.Recorded(TICKET_ID, version, START + timedelta(minutes=version), by, event)
        ticket = evolve(ticket, recorded) if ticket else begin_ticket(recorded)
    return ticket


def decided(decision: Callable[..., list[e.Event]], ticket: Ticket, *wanted: Any, **given: Any) -> list[e.Event]:
    """What a decision records; `given` changes who asks, when, and the desk's settings."""
    return decision(ticket, given_by(**given), *wanted)


def given_by(by: Actor = QUALITY, now: datetime = LATER, **settings: Any) -> Given:
    """What a decision is given when somebody asks who may give every command."""
    return Given(Principal(by.id, by.name, frozenset(Role), frozenset(Level), "client-a"), now, **settings)


EARLIER = other_ticket()
