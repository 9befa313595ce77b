"""What a command leads to, as a pure function of the streams that it reads."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from secrets import token_bytes
from uuid import UUID

import msgspec
from msgspec.structs import astuple, replace

from application.commands.command import Command, Loaded, Opening
from domain.client import (
    NO_PRECONDITION,
    Client,
    Contact,
    EventType,
    Precondition,
    client_stream,
    fold_client,
    register,
)
from domain.errors import StaleVersion, UnknownTicket
from domain.events import Event, Recorded
from domain.procedure import CommandName
from domain.roles import actor_for, require_role
from domain.rules import REOPEN_WINDOW, Given, allowed_commands, require_giver
from domain.ticket import Ticket, begin_ticket, evolve, fold
from domain.values import Actor, Level, Principal, Queue, State

MOST_AHEAD = timedelta(seconds=4)  # of two hosts that are each within 2 s of the database's clock


class Trace(msgspec.Struct, frozen=True):
    """Where a command comes from: the journey, the request that caused it, and the W3C trace."""

    causation_id: str | None = None
    correlation_id: str | None = None
    traceparent: str | None = None


NO_TRACE = Trace()


class Policy(msgspec.Struct, frozen=True):
    """The desk's settings that decisions depend on."""

    four_eyes: bool = True
    reopen_window: timedelta = REOPEN_WINDOW

    def given(self, who: Principal, now: datetime) -> Given:
        """What a decision is given when somebody asks at that time."""
        return Given(who, now, self.four_eyes, self.reopen_window)


class CommandRequest(msgspec.Struct, frozen=True):
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
    """What a command led to: the ticket as it stands now, the events that are new, and how it was answered, where that
    is recorded under an idempotency key."""

    ticket: Ticket
    events: tuple[Recorded, ...]
    possible: tuple[str, ...]
    answer: bytes = b""


class NewEvent(msgspec.Struct, frozen=True):
    """A new event in a command's answer."""

    type: EventType
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
    allowed_commands: list[CommandName]


def new_stream_id(now: datetime) -> UUID:
    """A UUID of version 7 (RFC 9562): it begins with the time, so that new streams lie together in the index."""
    milliseconds = int(now.timestamp() * 1000)
    bits = int.from_bytes(milliseconds.to_bytes(6) + token_bytes(10))
    return UUID(int=bits & ~(0xF << 76) & ~(0x3 << 62) | 0x7 << 76 | 0x2 << 62)


def decide(
    request: CommandRequest,
    streams: Mapping[UUID, Sequence[Recorded]],
    number: str = "",
    assignee: Principal | None = None,
) -> Outcome:
    """The outcome of a command, given the streams that it reads and whom it names. Pure: nothing is recorded yet.

    Raises Forbidden, UnknownTicket, StaleVersion, Refused or Unacceptable.
    """
    command, who, history = request.command, request.who, streams.get(request.ticket_id, ())
    if isinstance(command, Opening):
        given = request.policy.given(who, request.now)
        return _open(request, command, Loaded(given, actor_for(who, command.name), (), streams, number))
    ticket = fold(history)
    if ticket is None:
        raise UnknownTicket
    require_role(who, command.name, ticket)
    require_version(request.expected_version, ticket)
    now = time_after(ticket.updated_at, request.now)
    given = request.policy.given(who, now)
    require_giver(command.name, ticket, given)
    loaded = Loaded(given, actor_for(who, command.name, ticket), history, streams, number, assignee)
    return _outcome(request, loaded, ticket, (command,))


def _open(request: CommandRequest, opening: Opening, loaded: Loaded) -> Outcome:
    """The outcome of a command that begins a ticket: its first event, and then what the commands decide that follow."""
    first = record_of(request.ticket_id, 1, loaded.given.now, loaded.actor, opening.begin(), request.trace)
    return _outcome(request, loaded, begin_ticket(first), opening.then(), first)


def require_version(expected: int | None, ticket: Ticket) -> None:
    """Raises StaleVersion when the caller saw another version of the ticket."""
    if expected is not None and expected != ticket.version:
        raise StaleVersion(ticket.ticket_id, ticket.version, expected)


def _outcome(
    request: CommandRequest, loaded: Loaded, ticket: Ticket, commands: Sequence[Command], *recorded: Recorded
) -> Outcome:
    """Each command decides on the ticket as those before have left it; `recorded` is what has happened already."""
    for command in commands:
        for event in command.decide(ticket, loaded):
            now, version = loaded.given.now, ticket.version + 1
            new = record_of(ticket.ticket_id, version, now, loaded.actor, event, request.trace)
            ticket = evolve(ticket, new)
            recorded = (*recorded, replace(new, level=ticket.level))
    return Outcome(ticket, recorded, allowed_commands(ticket, loaded.given))


def decide_client(
    user_id: str,
    contact: Contact,
    who: Principal,
    now: datetime,
    history: Sequence[Recorded],
    trace: Trace = NO_TRACE,
    precondition: Precondition = NO_PRECONDITION,
) -> tuple[Client, tuple[Recorded, ...]]:
    """The directory entry as wanted, and the events that make it so.

    Raises Forbidden, and StaleVersion where the entry is not what the caller takes it to be.
    """
    actor = actor_for(who, "register_client")
    known_entry = fold_client(history)
    require_entry(user_id, known_entry, history, precondition)
    events = register(known_entry, user_id, contact)
    stream, known = client_stream(user_id), len(history)
    at = time_after(history[-1].at, now) if history else now
    new = tuple(record_of(stream, version, at, actor, event, trace) for version, event in enumerate(events, known + 1))
    return Client(known + len(new), user_id, *astuple(contact)), new


def time_after(last: datetime, now: datetime) -> datetime:
    """The time of an event behind one of `last`: a clock that is a little behind turns no history backwards.

    What lies further ahead comes from a wrong clock, before appends were held against the database's: it binds nobody.
    """
    return last if now < last <= now + MOST_AHEAD else now


def require_entry(user_id: str, entry: Client | None, history: Sequence[Recorded], precondition: Precondition) -> None:
    """Raises StaleVersion, with what the caller has missed, unless the entry is what the caller takes it to be."""
    if precondition.holds(entry):
        return
    message = "This client is registered already." if entry else "This client is not registered yet."
    if entry and precondition.version is not None:
        message = "The entry reads differently since the version you named: read it again and decide again."
    stale = StaleVersion(client_stream(user_id), entry.version if entry else 0, precondition.version, message)
    stale.missed = tuple(history[precondition.version :]) if precondition.version else ()
    raise stale


def record_of(
    stream: UUID, version: int, at: datetime, actor: Actor, event: Event, trace: Trace, level: Level | None = None
) -> Recorded:
    """An event with its place in its stream, and where it came from."""
    came = (trace.correlation_id, trace.causation_id, trace.traceparent)
    return Recorded(stream, version, at, actor, event, *came, level)


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
