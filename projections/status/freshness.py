"""Has the read side caught up? For those who want to read what they wrote.

However many requests of a process wait, they share one question to the database every few milliseconds; while nobody
waits, none is asked.
"""

import asyncio
from collections.abc import Callable, Sequence
from uuid import UUID

import msgspec
from psycopg.sql import SQL

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


class FreshnessWaiter(msgspec.Struct, frozen=True, eq=False):
    """Somebody who waits until something holds, up to a moment of the loop's clock."""

    holds: Callable[[Positions], bool]
    deadline: float
    settled: asyncio.Future[bool]
    ticket_id: UUID | None = None


class Freshness:
    """Waits for the read side, for all requests of one event loop together."""

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch
        self._wishes: set[FreshnessWaiter] = set()
        self._polling: asyncio.Task[None] | None = None

    async def holds_version(self, ticket_id: UUID, version: int, seconds: float) -> bool:
        """Whether lists and queues hold this version of a ticket within so many seconds."""
        return await self._wait(lambda found: found.versions.get(ticket_id, 0) >= version, seconds, ticket_id)

    async def stands_at(self, position: int, names: Sequence[str], seconds: float) -> bool:
        """Whether each of these projections (or the `log`) stands at this position within so many seconds."""
        return await self._wait(lambda found: min(found.positions.get(name, 0) for name in names) >= position, seconds)

    async def _wait(self, holds: Callable[[Positions], bool], seconds: float, ticket_id: UUID | None = None) -> bool:
        loop = asyncio.get_running_loop()
        wish = FreshnessWaiter(holds, loop.time() + seconds, loop.create_future(), ticket_id)
        self._wishes.add(wish)
        if self._polling is None or self._polling.done():
            self._polling = loop.create_task(self._poll())
        try:
            async with asyncio.timeout(seconds + FRESHNESS_PATIENCE_SECONDS):
                return await wish.settled
        except TimeoutError:
            return False
        finally:
            self._wishes.discard(wish)

    async def _poll(self) -> None:
        """Asks for everybody, until nobody waits."""
        while asked := list(self._wishes):
            try:
                answer_waiters(asked, await self._look(asked))
            except Unavailable:  # it may answer before they give up
                answer_waiters(asked, Positions({}, {}))
            except Exception as error:  # noqa: BLE001 - whoever waits is told; else nobody would be
                for wish in asked:
                    if not wish.settled.done():
                        wish.settled.set_exception(error)
            await asyncio.sleep(FRESHNESS_POLL_SECONDS)

    async def _look(self, asked: Sequence[FreshnessWaiter]) -> Positions:
        tickets = list({wish.ticket_id for wish in asked if wish.ticket_id})
        positions, last, versions = (await self._fetch(SELECT_POSITIONS, (tickets,)))[0]
        known = msgspec.json.decode(positions or b"{}", type=dict[str, int])
        return Positions(known | {LOG: last}, msgspec.json.decode(versions or b"{}", type=dict[UUID, int]))


def answer_waiters(wishes: Sequence[FreshnessWaiter], found: Positions) -> None:
    """Tells those whose wish holds, and those whose time is over; so everybody is looked at once at least."""
    now = asyncio.get_running_loop().time()
    for wish in wishes:
        if wish.settled.done():
            continue
        if wish.holds(found):
            wish.settled.set_result(True)
        elif now >= wish.deadline:
            wish.settled.set_result(False)
