"""The API's shell over the same decisions and the same SQL: many requests, one round trip, one commit.

What requests want while a round trip is under way goes out together as the next one (`store/batcher.py`). An append
also waits for the load that is under way: whoever gets its answer will append too. A lone request waits for nothing.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime
from typing import Any
from uuid import UUID
from weakref import WeakValueDictionary

import msgspec
import psycopg

from application.commands.command_handler import CommandStore, handle_command, handle_registration
from application.commands.deciding import NO_TRACE, CommandRequest, Outcome, Trace
from application.commands.idempotency import IdempotencyRequest, StoredAnswer
from application.identity.api_keys import SELECT_KEYS_BY_HASH
from application.store.batcher import Batcher
from application.store.event_store import APPEND, INSERT_AND_KEEP, INSERT_EVENTS, batch_parameters
from application.store.idempotency_records import INSERT_RECORD, IdempotencyRecord
from application.store.postgres.pg_connection import PgConnection, Unavailable
from application.store.sealing import WAKE
from application.store.stream_loader import StreamLoader, Streams
from domain.client import NO_PRECONDITION, Client, Contact, Precondition, client_stream
from domain.events import Recorded
from domain.values import Principal

WAKE_SECONDS = 0.03

StartSpan = Callable[..., AbstractContextManager[object]]  # a name, and attributes by name
_NOTHING = nullcontext()


def no_span(name: str, **attributes: object) -> AbstractContextManager[object]:
    """Where nobody traces."""
    return _NOTHING


class BatchingDesk(CommandStore):
    """Takes commands: load → decide → append, combined with whatever else is under way in this process.

    `span` is entered around each command and around its share of the round trips.
    """

    def __init__(self, url: str, span: StartSpan = no_span) -> None:
        self._span = span
        self._lines = {name: PgConnection(url, f"api {name}") for name in ("load", "append", "keys", "wake")}
        self.loader = StreamLoader(self._lines["load"].read)
        self._load = Batcher(self._load_all, name="load")
        self._append = Batcher(self._append_all, after=(self._load,), name="append")
        self.find_key = Batcher(self._find_keys, name="find_key")
        self._turns: WeakValueDictionary[UUID, asyncio.Lock] = WeakValueDictionary()
        self._waking: asyncio.Task[None] | None = None
        self._unsealed = False

    async def execute(
        self, request: CommandRequest, idempotency: IdempotencyRequest | None = None
    ) -> Outcome | StoredAnswer:
        """As `handle_command`; also raises Unavailable."""
        with self._span(f"command {request.command.name}", ticket_id=request.ticket_id):
            async with self._turn(request.ticket_id):
                return await handle_command(self, request, idempotency)

    async def register_client(
        self,
        user_id: str,
        contact: Contact,
        who: Principal,
        now: datetime,
        trace: Trace = NO_TRACE,
        precondition: Precondition = NO_PRECONDITION,
    ) -> Client:
        """As `handle_registration`."""
        async with self._turn(client_stream(user_id)):
            return await handle_registration(self, user_id, contact, who, now, trace, precondition)

    async def load_streams(
        self, stream_ids: tuple[UUID, ...], draw_number: bool = False, whole: bool = False
    ) -> tuple[Streams, str]:
        """Several streams, and a ticket number that nobody else gets where one is drawn."""
        with self._span("load"):
            if whole:
                return await self.loader.load_events(stream_ids), ""
            return await self._load((stream_ids, draw_number))

    async def load(self, stream_ids: tuple[UUID, ...]) -> Streams:
        """Several streams, in one round trip with what others load."""
        return (await self._load((stream_ids, False)))[0]

    async def append_events(self, events: Sequence[Recorded], record: IdempotencyRecord | None) -> bool:
        """Appends the events of one command to one stream, all or none; False when they came too late."""
        with self._span("append", events=len(events)):
            won = await self._append((events, record))
        if won:
            self._unsealed = True
            if self._waking is None or self._waking.done():
                self._waking = asyncio.create_task(self._wake())
        return won

    async def keep_answer(self, record: IdempotencyRecord) -> None:
        """Records the answer of a command that had nothing to change."""
        await self._lines["append"].fetch(INSERT_RECORD, msgspec.structs.astuple(record))

    async def close(self) -> None:
        """Closes every connection, once the wake-up call that is on its way has been made."""
        if self._waking:
            await self._waking
        for line in self._lines.values():
            await line.close()

    def _turn(self, stream_id: UUID) -> asyncio.Lock:
        """Commands of this process on one stream take turns, so that no batch holds two of them."""
        return self._turns.setdefault(stream_id, asyncio.Lock())

    async def _load_all(self, wants: list[tuple[tuple[UUID, ...], bool]]) -> list[tuple[Streams, str]]:
        stream_ids = list({stream for wanted, _ in wants for stream in wanted})
        streams, drawn = await self.loader.load_and_draw(stream_ids, sum(draw_number for _, draw_number in wants))
        numbers = iter(drawn)
        return [(streams, next(numbers) if draw_number else "") for _, draw_number in wants]

    async def _append_all(self, commands: list[tuple[Sequence[Recorded], IdempotencyRecord | None]]) -> list[bool]:
        line, given = self._lines["append"], batch_parameters(commands)
        keyed = any(record for _, record in commands)
        try:
            inserted = await (line.execute(INSERT_AND_KEEP, given) if keyed else line.execute(INSERT_EVENTS, given[:1]))
            if inserted == sum(len(events) for events, _ in commands):
                return [True] * len(commands)
        except psycopg.errors.UniqueViolation:
            pass  # one of them came too late, so that nothing is recorded: now those win that can
        try:
            won = {row[0] for row in await line.fetch(APPEND, given)}
        except psycopg.errors.UniqueViolation:  # a key that was under way elsewhere is known now
            if len(commands) > 1:
                raise
            won = set()
        return [events[0].originator_id in won for events, _ in commands]

    async def _find_keys(self, hashes: list[bytes]) -> list[Sequence[Any] | None]:
        rows = {row[0]: row for row in await self._lines["keys"].read(SELECT_KEYS_BY_HASH, (hashes,))}
        return [rows.get(hash_) for hash_ in hashes]

    async def _wake(self) -> None:
        """Tells the worker that there is something to seal, in a transaction of its own: at once, and then not again
        for 30 ms. Each call costs as much as a command."""
        while self._unsealed:
            self._unsealed = False
            try:
                await self._lines["wake"].fetch(WAKE)
            except (Unavailable, psycopg.Error):
                return  # the worker looks by itself too
            await asyncio.sleep(WAKE_SECONDS)
