"""The desk as an application of the eventsourcing library: the way in for every process that is not the API, and for
the users' own Python programs."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any, LiteralString, Self, overload
from uuid import UUID

import msgspec
from eventsourcing.application import Application
from eventsourcing.persistence import InfrastructureFactory, IntegrityError
from eventsourcing.utils import Environment

from application.clock import utc_now
from application.commands.command import Command, Opening
from application.commands.command_handler import (
    CommandStore,
    handle_command,
    handle_fact,
    handle_registration,
    handle_take_back,
    run_at_once,
)
from application.commands.deciding import NO_TRACE, CommandRequest, Outcome, Policy, Trace, new_stream_id
from application.commands.idempotency import IdempotencyRequest, StoredAnswer
from application.store.idempotency_records import INSERT_RECORD, IdempotencyRecord
from application.store.postgres.database import pool
from application.store.recorder import Connections, EventRecorder, Factory
from application.store.stream_loader import StreamLoader, Streams
from domain.client import NO_PRECONDITION, Client, Contact, Precondition
from domain.events import Event, Recorded
from domain.values import Actor, Level, Principal

DEFAULT_POLICY = Policy()


class HelpDesk(Application[UUID]):
    """Takes commands: load → decide → append. Whoever made the connections that are handed in closes them."""

    recorder: EventRecorder

    def __init__(self, connections: Connections, policy: Policy = DEFAULT_POLICY) -> None:
        self.connections, self.policy = connections, policy
        super().__init__()
        self._store = _DeskStore(self)

    @classmethod
    @contextmanager
    def connect(
        cls, url: str, policy: Policy = DEFAULT_POLICY, size: int = 4, importing: bool = False
    ) -> Iterator[Self]:
        """A desk on this database with at most `size` connections of its own, which are closed at the end.

        An event's time is that of the database, give or take 2 s. With `importing` it may be any time of the past; as
        long as such a desk is open, reads by time are answered 503.
        """
        with pool(url, "helpdesk", size, importing) as connections, cls(connections, policy) as desk:
            yield desk

    def construct_factory(self, env: Environment) -> InfrastructureFactory:
        """The factory of the desk's own recorder and mapper."""
        factory = Factory(env)
        factory.connections = self.connections
        return factory

    def handle(
        self, command: Command | Opening, who: Principal, ticket_id: UUID | None = None, version: int | None = None
    ) -> Outcome:
        """Does now what somebody asks for: to the ticket, or where the command begins one, to a new ticket.

        With a `version`, only if that is still the ticket's version. Raises what `execute` raises.
        """
        now = utc_now()
        request = CommandRequest(ticket_id or new_stream_id(now), command, who, now, version, policy=self.policy)
        return self.execute(request)

    @overload
    def execute(self, request: CommandRequest, idempotency: None = None) -> Outcome:
        """Without a key there is nothing to be answered from."""

    @overload
    def execute(self, request: CommandRequest, idempotency: IdempotencyRequest | None) -> Outcome | StoredAnswer:
        """With a key, a request that comes again has its first answer."""

    def execute(self, request: CommandRequest, idempotency: IdempotencyRequest | None = None) -> Outcome | StoredAnswer:
        """As `handle_command`."""
        return run_at_once(handle_command(self._store, request, idempotency))

    def register_client(
        self,
        user_id: str,
        contact: Contact,
        who: Principal,
        now: datetime,
        trace: Trace = NO_TRACE,
        precondition: Precondition = NO_PRECONDITION,
    ) -> Client:
        """As `handle_registration`."""
        return run_at_once(handle_registration(self._store, user_id, contact, who, now, trace, precondition))

    def record(
        self,
        ticket_id: UUID,
        event: Event,
        by: Actor,
        now: datetime,
        trace: Trace = NO_TRACE,
        level: Level | None = None,
    ) -> Recorded:
        """Records a fact that no rule can refuse, as what became of an e-mail, behind what the ticket has by then.

        It belongs to `level`, that of what caused it, or without one to the ticket's present level.
        Raises UnknownTicket, and StaleVersion when others were faster too often.
        """
        return run_at_once(handle_fact(self._store, ticket_id, event, by, now, trace, level))

    def take_back(self, ticket_id: UUID, held_by: str, reason: str, by: Actor, now: datetime) -> bool:
        """Frees a ticket of an assignee who can work on it no more; False where there is nothing to free."""
        return run_at_once(handle_take_back(self._store, ticket_id, held_by, reason, by, now))

    def history(self, stream_id: UUID) -> list[Recorded]:
        """Every event of a stream, oldest first."""
        return list(run_at_once(self._store.loader.load_events([stream_id])).get(stream_id, ()))


class _DeskStore(CommandStore):
    """The store of the synchronous shell: the recorder of an application of the library."""

    def __init__(self, desk: HelpDesk) -> None:
        self._desk, self.loader = desk, StreamLoader(self._fetch)

    async def _fetch(self, sql: LiteralString, parameters: Sequence[Any]) -> list[Any]:
        return self._desk.recorder.fetch(sql, parameters)

    async def load_streams(
        self, stream_ids: tuple[UUID, ...], draw_number: bool = False, whole: bool = False
    ) -> tuple[Streams, str]:
        """In one statement."""
        if whole:
            return await self.loader.load_events(stream_ids), ""
        streams, numbers = await self.loader.load_and_draw(stream_ids, int(draw_number))
        return streams, "".join(numbers)

    async def append_events(self, events: Sequence[Recorded], record: IdempotencyRecord | None) -> bool:
        """Through the library's `save`, so that its mapper and recorder are in use."""
        try:
            self._desk.save(*events, record=record)
        except IntegrityError:
            return False
        return True

    async def keep_answer(self, record: IdempotencyRecord) -> None:
        """In a transaction of its own."""
        await self._fetch(INSERT_RECORD, msgspec.structs.astuple(record))
