"""Load → decide → append, for both shells: each has a store, and the one loop is here."""

from collections.abc import Awaitable, Coroutine, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any, Protocol, TypeVar
from uuid import UUID

from msgspec.structs import replace
from psycopg.errors import CheckViolation

from application.clock import utc_now
from application.commands.deciding import (
    NO_TRACE,
    CommandRequest,
    Outcome,
    Trace,
    decide,
    decide_client,
    record_of,
    time_after,
)
from application.commands.idempotency import IdempotencyRequest, StoredAnswer
from application.store.assignees import SELECT_ASSIGNEE, assignee
from application.store.idempotency_records import FIND_RECORD, IdempotencyRecord
from application.store.stream_loader import StreamLoader, Streams
from domain.client import NO_PRECONDITION, Client, Contact, Precondition, client_stream
from domain.decisions import take_back
from domain.errors import DeskError, Forbidden, StaleVersion, UnknownTicket
from domain.events import Event, Recorded
from domain.ticket import fold
from domain.values import Actor, Level, Principal
from domain.visibility import Audience, audience_of

MOST_TRIES = 100  # a command without a version is decided again this often before somebody else's haste is reported
ON_TIME = timedelta(seconds=1)  # an event this young by our own clock, and too old for the database's: ours is wrong
Result = TypeVar("Result")


class ClockOff(Exception):
    """The clock of this host and the database's are more than 2 s apart: nothing is recorded. Set them right."""


class CommandStore(Protocol):
    """What a shell does for the loop. A synchronous one answers without waiting (`run_at_once`)."""

    loader: StreamLoader

    def load_streams(
        self, stream_ids: tuple[UUID, ...], draw_number: bool = False, whole: bool = False
    ) -> Awaitable[tuple[Streams, str]]:
        """Several streams, and a ticket number that nobody else gets where one is drawn.

        Each is the events from its last snapshot on, which comes first; every event where the `whole` is wanted.
        """

    def append_events(self, events: Sequence[Recorded], record: IdempotencyRecord | None) -> Awaitable[bool]:
        """Appends the events of one command, all or none, with its idempotency record.

        False when somebody else came first, or the key is known. Raises CheckViolation when their time is not now.
        """

    async def append_in_time(self, events: Sequence[Recorded], record: IdempotencyRecord | None) -> bool:
        """As `append_events`; False also when it has taken so long that it has to be decided anew. Raises ClockOff."""
        try:
            return await self.append_events(events, record)
        except CheckViolation as error:
            if utc_now() - events[-1].at < ON_TIME:
                raise ClockOff(ClockOff.__doc__) from error
            return False

    def keep_answer(self, record: IdempotencyRecord) -> Awaitable[None]:
        """Records the answer of a command that had nothing to change."""

    async def find_assignee(self, id_: str) -> Principal | None:
        """Who has that id: the holder of a valid key, or a person whom the desk has seen; None for nobody."""
        return assignee(id_, await self.loader.read(SELECT_ASSIGNEE, (id_, id_)))

    async def find_answer(self, idempotency: IdempotencyRequest | None) -> StoredAnswer | None:
        """The first answer to a request that comes again. Raises KeyReused."""
        if idempotency is None:
            return None
        rows = await self.loader.read(FIND_RECORD, (idempotency.principal, idempotency.key))
        return idempotency.stored_answer(*rows[0]) if rows else None


async def handle_command(
    store: CommandStore, request: CommandRequest, idempotency: IdempotencyRequest | None = None
) -> Outcome | StoredAnswer:
    """Does what a command asks for; decides again on what is there now when somebody else came first.

    A request that was done before is answered as it was then, whatever could be decided now. Raises StaleVersion when
    the request names a version that is not the current one, the errors of `decide`, and KeyReused.
    """
    for now in times(request.now):
        request, command = replace(request, now=now), request.command
        try:
            loaded = await store.load_streams(request.reads(), command.takes_number, command.needs_history)
            named = command.names(request.who)
            outcome = decide(request, *loaded, await store.find_assignee(named) if named else None)
        except UnknownTicket:  # nor is a first answer for a client whose ticket it is no more
            raise
        except DeskError as error:  # what was done before may be impossible by now
            if may_hear_again(request.who, error) and (stored := await store.find_answer(idempotency)):
                return stored
            if isinstance(error, StaleVersion):
                seen, current = error.expected_version or 0, error.current_version or 0
                if seen < current:
                    error.missed = tuple(await store.loader.load_shown(error.stream_id, seen, current))
            raise
        record = idempotency.record(outcome) if idempotency else None
        if outcome.events and await store.append_in_time(outcome.events, record):
            return replace(outcome, answer=record.answer) if record else outcome
        if stored := await store.find_answer(idempotency):
            return stored
        if not outcome.events:
            if record:
                await store.keep_answer(record)
            return outcome
    raise StaleVersion(request.ticket_id)


def may_hear_again(who: Principal, error: DeskError) -> bool:
    """Whether the first answer may be given again to a caller whose request is refused by now: who may still read it.

    A ticket may be another client's by now, and a token may have lost its roles.
    """
    if isinstance(error, Forbidden):
        return audience_of(who) is Audience.STAFF
    return not isinstance(error, UnknownTicket)


async def handle_registration(
    store: CommandStore,
    user_id: str,
    contact: Contact,
    who: Principal,
    now: datetime,
    trace: Trace = NO_TRACE,
    precondition: Precondition = NO_PRECONDITION,
) -> Client:
    """Makes the directory say `contact` of `user_id`, if the entry is what the caller takes it to be.

    Raises Forbidden, and StaleVersion as `decide_client` and `handle_command` do.
    """
    stream = client_stream(user_id)
    for at in times(now):
        streams, _number = await store.load_streams((stream,))
        client, new = decide_client(user_id, contact, who, at, streams.get(stream, ()), trace, precondition)
        if not new or await store.append_in_time(new, None):
            return client
    raise StaleVersion(stream)


async def handle_fact(
    store: CommandStore,
    ticket_id: UUID,
    event: Event,
    actor: Actor,
    now: datetime,
    trace: Trace = NO_TRACE,
    level: Level | None = None,
) -> Recorded:
    """Records what no rule can refuse behind what the ticket has by then. Raises UnknownTicket, and StaleVersion.

    `level` is that of what caused it, where the ticket may have gone on since.
    """
    for moment in times(now):
        streams, _number = await store.load_streams((ticket_id,))
        ticket = fold(streams.get(ticket_id, ()))
        if ticket is None:
            raise UnknownTicket
        at = time_after(ticket.updated_at, moment)
        fact = record_of(ticket_id, ticket.version + 1, at, actor, event, trace, level or ticket.level)
        if await store.append_in_time((fact,), None):
            return fact
    raise StaleVersion(ticket_id)


async def handle_take_back(
    store: CommandStore, ticket_id: UUID, held_by: str, reason: str, actor: Actor, now: datetime
) -> bool:
    """Frees a ticket, if it is still held by that assignee and may be freed. Raises StaleVersion."""
    for moment in times(now):
        streams, _number = await store.load_streams((ticket_id,))
        ticket = fold(streams.get(ticket_id, ()))
        events = take_back(ticket, held_by, reason) if ticket else []
        if ticket is None or not events:
            return False
        at, version = time_after(ticket.updated_at, moment), ticket.version + 1
        if await store.append_in_time(
            [record_of(ticket_id, version, at, actor, event, NO_TRACE, ticket.level) for event in events], None
        ):
            return True
    raise StaleVersion(ticket_id)


def times(now: datetime) -> Iterator[datetime]:
    """What time it is at each try of a command: at the first one as it says, at each further one that of the clock."""
    yield now
    for _ in range(MOST_TRIES - 1):
        yield max(now, utc_now())


def run_at_once(work: Coroutine[Any, Any, Result]) -> Result:
    """The result of the loop over a synchronous store, which has nothing to wait for."""
    try:
        work.send(None)
    except StopIteration as done:
        result: Result = done.value
        return result
    work.close()
    raise RuntimeError("a synchronous store answers without waiting")
