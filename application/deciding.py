"""Load → decide → save without the I/O: what the synchronous and the combining shell have in common."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from secrets import token_bytes
from uuid import UUID

import msgspec

from application.command import Command, Loaded, Opening
from domain import rules
from domain.client import Client, Contact, client_stream, fold_client, register
from domain.errors import Forbidden, Refused, StaleVersion, UnknownTicket
from domain.events import Event, Recorded
from domain.procedure import POSSIBLE_IN, standing_after
from domain.roles import acting, entitled, may_give
from domain.ticket import Ticket, begin, evolve, fold
from domain.values import Actor, Level, Principal, Queue, State

MOST_TRIES = 100  # a command without a version is decided again this often before somebody else's haste is reported


class Trace(msgspec.Struct, frozen=True):
    """Where a command comes from: the journey, the request that caused it, and the W3C trace."""

    causation_id: str | None = None
    correlation_id: str | None = None
    traceparent: str | None = None


NO_TRACE = Trace()


class Policy(msgspec.Struct, frozen=True):
    """The desk's settings that decisions depend on."""

    four_eyes: bool = True
    reopen_window: timedelta = rules.REOPEN_WINDOW


class Request(msgspec.Struct, frozen=True):
    """A command with all that its decision is given."""

    ticket_id: UUID
    command: Command | Opening
    who: Principal
    now: datetime
    expected_version: int | None = None
    trace: Trace = Trace()
    policy: Policy = Policy()

    def reads(self) -> tuple[UUID, ...]:
        """Every stream that has to be loaded."""
        own = () if isinstance(self.command, Opening) else (self.ticket_id,)
        return (*own, *self.command.reads())


class Outcome(msgspec.Struct, frozen=True):
    """What a command led to: the ticket as it stands now, and the events that are new."""

    ticket: Ticket
    events: tuple[Recorded, ...]
    possible: tuple[str, ...]


class NewEvent(msgspec.Struct, frozen=True):
    """A new event in a command's answer."""

    type: str
    version: int
    at: datetime


class Answer(msgspec.Struct, frozen=True):
    """What a command is answered."""

    ticket_id: UUID
    number: str | None
    version: int
    state: State
    level: Level | None
    queue: Queue | None
    events: list[NewEvent]
    allowed_commands: list[str]


def new_stream_id(now: datetime) -> UUID:
    """A UUID of version 7 (RFC 9562): it begins with the time, so that new streams lie together in the index."""
    milliseconds = int(now.timestamp() * 1000)
    bits = int.from_bytes(milliseconds.to_bytes(6) + token_bytes(10))
    return UUID(int=bits & ~(0xF << 76) & ~(0x3 << 62) | 0x7 << 76 | 0x2 << 62)


def decide(request: Request, streams: Mapping[UUID, Sequence[Recorded]], number: str = "") -> Outcome:
    """The outcome of a command, given the streams that it reads. Pure: nothing is recorded yet.

    Raises Forbidden, UnknownTicket, StaleVersion, Refused or Unacceptable.
    """
    if isinstance(request.command, Opening):
        return _begin(request, request.command, Loaded(others=streams, number=number))
    history = streams.get(request.ticket_id, ())
    ticket = fold(history)
    if ticket is None:
        raise UnknownTicket
    entitled(request.who, request.command.name, ticket)
    if request.expected_version is not None and request.expected_version != ticket.version:
        missed = tuple(history[request.expected_version :])
        raise StaleVersion(ticket.ticket_id, ticket.version, request.expected_version, missed)
    given = _given(request, Actor(request.who.id, request.who.name, min(request.who.roles)), ticket.updated_at)
    try:
        given = msgspec.structs.replace(given, by=_actor(request, ticket, given))
        wanted = request.command.decide(ticket, given, Loaded(history, streams, number))
    except Refused as refusal:
        refusal.possible = allowed(ticket, request.who, given)  # of what is possible, what this caller may do
        raise
    return _outcome(request, given, ticket, wanted)


def _begin(request: Request, command: Opening, loaded: Loaded) -> Outcome:
    given = _given(request, acting(request.who, command.name), request.now)
    first, *rest = command.begin(loaded)
    recorded = _record(request, given, 1, first, None)
    ticket = begin(recorded)
    outcome = _outcome(request, given, ticket, rest)
    return msgspec.structs.replace(outcome, events=(recorded, *outcome.events))


def _actor(request: Request, ticket: Ticket, given: rules.Given) -> Actor:
    """Who acts. Where the procedure refuses the command to everybody, that is said, and not which role is missing."""
    name = request.command.name
    try:
        return acting(request.who, name, ticket)
    except Forbidden:
        if name in POSSIBLE_IN:
            rules.demand(name, ticket, given)
        raise


def _given(request: Request, by: Actor, not_before: datetime) -> rules.Given:
    """A clock that was set back must not make a ticket's history run backwards."""
    now = max(request.now, not_before)
    return rules.Given(by, now, request.policy.four_eyes, request.policy.reopen_window)


def _outcome(request: Request, given: rules.Given, ticket: Ticket, wanted: Sequence[Event]) -> Outcome:
    recorded = []
    for event in wanted:
        _, level, _ = standing_after(ticket, event)
        recorded.append(_record(request, given, ticket.version + 1, event, level))
        ticket = evolve(ticket, recorded[-1])
    return Outcome(ticket, tuple(recorded), allowed(ticket, request.who, given))


def _record(request: Request, given: rules.Given, version: int, event: Event, level: Level | None) -> Recorded:
    trace = request.trace
    return Recorded(
        request.ticket_id,
        version,
        given.now,
        given.by,
        event,
        trace.correlation_id,
        trace.causation_id,
        trace.traceparent,
        level,
    )


def allowed(ticket: Ticket, who: Principal, given: rules.Given) -> tuple[str, ...]:
    """The commands that this caller may give now."""
    return tuple(command for command in rules.possible(ticket, given) if may_give(who, command, ticket))


def decide_client(
    user_id: str,
    contact: Contact,
    who: Principal,
    now: datetime,
    history: Sequence[Recorded],
    trace: Trace = NO_TRACE,
) -> tuple[Client, tuple[Recorded, ...]]:
    """The directory entry as wanted, and the events that make it so. Raises Forbidden."""
    by = acting(who, "register_client")
    wanted = register(fold_client(history), user_id, contact)
    stream, known = client_stream(user_id), len(history)
    at = max(now, history[-1].at) if history else now  # as with tickets: a history never runs backwards
    came = (trace.correlation_id, trace.causation_id, trace.traceparent)
    new = tuple(Recorded(stream, known + n, at, by, event, *came) for n, event in enumerate(wanted, 1))
    fields = (contact.name, contact.email, contact.phone, contact.organisation)
    return Client(known + len(new), user_id, *fields), new


def answer(outcome: Outcome) -> Answer:
    """The answer to a command, the same from either shell."""
    ticket = outcome.ticket
    return Answer(
        ticket.ticket_id,
        ticket.number,
        ticket.version,
        ticket.state,
        ticket.level,
        ticket.queue,
        [NewEvent(event.type, event.originator_version, event.at) for event in outcome.events],
        list(outcome.possible),
    )
