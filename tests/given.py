"""Given / when / then on events: histories with a fixed clock, a ticket in every state, and what a decision makes of it."""

from datetime import UTC, datetime
from itertools import pairwise
from uuid import UUID

from domain import events as e
from domain.ticket import Ticket
from domain.values import Actor, Channel, Grade, Level, Qualification, Role, State

TICKET_ID = UUID("0190f3a0-0000-7000-8000-000000000001")
START, LATER = datetime(2026, 11, 2, 9, 0, tzinfo=UTC), datetime(2026, 11, 2, 12, 0, tzinfo=UTC)
RESOLVER = Actor("agent-tier2", "agent-tier2", Role.AGENT)
QUALITY = Actor("quality-desk", "quality-desk", Role.QUALITY)
HASH = "a" * 64
LADDER = (Level.TIER1, Level.TIER2, Level.TIER3, Level.ONSITE, Level.IT_MANAGER)
BEGUN: tuple[e.Event, ...] = (
    e.RequestReceived(Channel.PHONE, "The printer is silent."),
    e.ClientIdentified("client-a", "client-a"),
    e.Created("T-000001"),
    e.IssueDocumented("No print", "It does not print.", "printing", Grade.MEDIUM, Grade.HIGH, 2),
)
INTAKE = (State.RECEIVED, State.IDENTIFIED, State.CREATED, State.DOCUMENTED)
COMPILED, APPROVED = e.DossierCompiled("all of it", HASH, 12, ("1. all",)), e.ClientApproved(HASH, Channel.EMAIL)
MANAGED = {State.DECIDING: (), State.AWAITING_APPROVAL: (COMPILED,), State.APPROVED: (COMPILED, APPROVED)}


def ticket_in(state: State, level: Level = Level.TIER1, verdict: Qualification | None = None, *then: e.Event) -> Ticket:
    """A ticket that came to a state by the procedure; in support `verdict` is what its level said, if it said anything."""
    level = Level.IT_MANAGER if state in MANAGED else level
    told: list[e.Event] = [*BEGUN, e.Routed(Level.TIER1)]
    for lower, upper in pairwise(LADDER[: LADDER.index(Level.IT_MANAGER if level is Level.NOC else level) + 1]):
        told += [e.Qualified(lower, False, "too hard")] * (lower is not Level.TIER1) + [
            e.Escalated(lower, upper, "more")
        ]
    told += [COMPILED, APPROVED, e.Routed(Level.NOC)] if level is Level.NOC else MANAGED.get(state, ())
    if verdict:
        told.append(e.Qualified(level, verdict is Qualification.CAN_RESOLVE, "looked at"))
    ends = [e.Resolved(level, "fixed"), e.QCVerified(level, Channel.PHONE, "It prints.")]
    ends += [e.ResolutionDocumented(level, "cause", "actions", "method"), e.Closed(level)]
    told += ends[: {State.RESOLVED: 1, State.VERIFIED: 2, State.CLOSED: 4}.get(state, 0)]
    told = told[: INTAKE.index(state) + 1] if state in INTAKE else told
    return after(None, [*told, *[e.Cancelled("withdrawn")] * (state is State.CANCELLED), *then])
