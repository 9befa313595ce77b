"""Has the read side caught up? For those who want to read what they wrote.

However many requests of a process wait, they share one question to the database every few milliseconds; while nobody
waits, none is asked.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from uuid import UUID

import msgspec
from psycopg.sql import SQL

from application.store.batcher import Batcher
from application.store.postgres.pg_connection import Unavailable
from projections.queries.pages import Fetch

# A version is held when the ticket's row has it and the queues have come as far as that row.
SELECT_POSITIONS = SQL("""
    select (select jsonb_object_agg(name, position) from projections), (select coalesce(max(position), 0) from log),
        (select jsonb_object_agg(ticket_id, version) from ticket_summaries where ticket_id = any(%s)
            and position <= (select position from projections where name = 'queue_stays'))""")
LOG = "log"
FRESHNESS_POLL_SECONDS = 0.02
FRESHNESS_PATIENCE_SECONDS = 1.0  # with a database that does not answer, beyond what the caller wants to wait


class Positions(msgspec.Struct, frozen=True):
    """Where everything stands: positions by name, `log` among them, and the versions of the tickets asked for."""

    positions: dict[str, int]
    versions: dict[UUID, int]


class Freshness:
    """Waits for the read side, for all requests of one event loop together."""

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch
        self._look: Batcher[UUID | None, Positions] = Batcher(self._positions, name="positions")
        self._pause: asyncio.Task[None] | None = None

    async def holds_version(self, ticket_id: UUID, version: int, seconds: float) -> bool:
        """Whether lists and queues hold this version of a ticket within so many seconds."""
        return await self._wait(lambda found: found.versions.get(ticket_id, 0) >= version, seconds, ticket_id)

    async def stands_at(self, position: int, names: Sequence[str], seconds: float) -> bool:
        """Whether each of these projections (or the `log`) stands at this position within so many seconds."""
        return await self._wait(lambda found: min(found.positions.get(name, 0) for name in names) >= position, seconds)

    async def _wait(self, holds: Callable[[Positions], bool], seconds: float, ticket_id: UUID | None = None) -> bool:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds + FRESHNESS_PATIENCE_SECONDS):
                while True:
                    if self._pause and not self._pause.done():  # one for all: whoever waits asks with the others
                        await asyncio.shield(self._pause)
                    if holds(await self._look(ticket_id)):
                        return True
                    if loop.time() >= deadline:
                        return False
                    if self._pause is None or self._pause.done():
                        self._pause = loop.create_task(asyncio.sleep(FRESHNESS_POLL_SECONDS))
        return False

    async def _positions(self, tickets: list[UUID | None]) -> list[Positions]:
        """One answer for all who ask; an empty one while the database does not answer, which may come back."""
        found = Positions({}, {})
        with suppress(Unavailable):
            asked = list({ticket for ticket in tickets if ticket})
            positions, last, versions = (await self._fetch(SELECT_POSITIONS, (asked,)))[0]
            known = msgspec.json.decode(positions or b"{}", type=dict[str, int])
            found = Positions(known | {LOG: last}, msgspec.json.decode(versions or b"{}", type=dict[UUID, int]))
        return [found] * len(tickets)
