"""Which time is over? For reads by time: a figure for a window that is over never changes.

An append is refused when its event is more than 2 s older than the database's clock, which it looks at while it holds
its lock on `events`. So: read the clock, list who holds that lock, wait until all of them have ended, look once more at
what is there, and wait until that has its position. No event of 2 s before that clock can come any more. This goes by
who writes events, and not by the oldest transaction of the server: no long report and no other database holds it up
(docs/decisions/0042).
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import msgspec
from psycopg.sql import SQL

from application.clock import utc_now
from application.store.batcher import Batcher
from application.store.postgres.database import IMPORT_LOCK
from application.store.postgres.pg_connection import Unavailable
from projections.queries.pages import Fetch
from projections.status.freshness import LOG

LATEST = timedelta(seconds=2)  # an event may be this much older than the append, and its clock this much ahead
# The clock is that of the statement's beginning: before the locks are listed. A prepared transaction holds its locks
# under another name than before it was prepared, so any of them is waited for.
LOOK = SQL("""
    with held as materialized (
        select * from pg_locks
        where granted and database = (select oid from pg_database where datname = current_database()))
    select now(),
        (select coalesce(array_agg(virtualtransaction), '{}') from held
            where locktype = 'relation' and relation = 'events'::regclass and mode = 'RowExclusiveLock'),
        exists (select from held
            where locktype = 'advisory' and objsubid = 1 and classid::bigint << 32 | objid::bigint = %s),
        (select coalesce(max(ord), 0) from events),
        (select coalesce(array_agg(ord), '{}') from unnest(holes) hole
            join lateral (select ord from events where ord >= lower(hole) and ord < upper(hole)) late on true),
        hi, (select coalesce(array_agg(ord), '{}') from unnest(%s::bigint[]) ord where holes @> ord),
        (select jsonb_object_agg(name, position) from projections), next_position - 1
    from seal_state""")
CLOSED_TIME_POLL_SECONDS = 0.02
PREPARED = "-1/"


class Proof(msgspec.Struct):
    """What is under way: `clock` is what is to be proven, `holders` who may still write events that are older.

    Once they have ended, everything that is there is known as `last` and `late`, and gets its position.
    """

    clock: datetime
    holders: frozenset[str]
    last: int | None = None
    late: Sequence[int] = ()


class ClosedUpTo(msgspec.Struct, frozen=True):
    """The time that is over, the position of the last event before it, and where everything stands."""

    closed: datetime
    position: int
    positions: dict[str, int]

    def holds(self, moment: datetime, names: Sequence[str]) -> bool:
        """Whether that moment is over, and each of these projections (or the `log`) has everything up to it."""
        return self.closed > moment and min(self.positions.get(name, 0) for name in names) >= self.position


NOTHING_CLOSED = ClosedUpTo(datetime.min.replace(tzinfo=UTC), 0, {})


class ClosedTime:
    """Waits until a time is over, for all requests of one event loop together; while nobody waits, nothing is asked."""

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch
        self._look: Batcher[None, ClosedUpTo] = Batcher(self._step, name="closed_time")
        self._pause: asyncio.Task[None] | None = None
        self._closed, self._position = NOTHING_CLOSED.closed, 0
        self._proof: Proof | None = None

    async def passed(self, moment: datetime, names: Sequence[str], seconds: float) -> bool:
        """Whether, within so many seconds, that moment is over and each of these projections has all that was before.

        The moment itself is included.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        if (ahead := (moment + LATEST - utc_now()).total_seconds()) > 0:  # it cannot be before
            await asyncio.sleep(min(ahead, seconds))
        with suppress(TimeoutError):
            async with asyncio.timeout_at(deadline + 1.0):  # a database that does not answer
                while not (await self._look(None)).holds(moment, names):
                    if loop.time() >= deadline:
                        return False
                    if self._pause is None or self._pause.done():
                        self._pause = loop.create_task(asyncio.sleep(CLOSED_TIME_POLL_SECONDS))
                    await asyncio.shield(self._pause)
                return True
        return False

    async def _step(self, asked: list[None]) -> list[ClosedUpTo]:
        """One look for all who ask, and what it proves; nothing while the database does not answer."""
        found = NOTHING_CLOSED
        with suppress(Unavailable):
            late = list(self._proof.late) if self._proof else []
            found = self._learn(*(await self._fetch(LOOK, (IMPORT_LOCK, late)))[0])
        return [found] * len(asked)

    def _learn(
        self,
        clock: datetime,
        holders: Sequence[str],
        importing: bool,
        last: int,
        late: Sequence[int],
        highest_seen: int,
        still_late: Sequence[int],
        positions: bytes | None,
        end: int,
    ) -> ClosedUpTo:
        """What a look shows; each of its statements sees what was there when it began."""
        proof = self._proof
        if importing:  # the past is being written: nothing is over
            self._proof, self._closed, self._position = None, NOTHING_CLOSED.closed, 0
            return NOTHING_CLOSED
        if proof is None:
            self._proof = Proof(clock, frozenset(holders))
        elif proof.holders:
            proof.holders = frozenset(one for one in holders if one in proof.holders or one.startswith(PREPARED))
        else:
            if proof.last is None:
                proof.last, proof.late, still_late = last, late, late
            if highest_seen >= proof.last and not still_late:
                self._closed, self._position, self._proof = max(self._closed, proof.clock - LATEST), end, None
        known = msgspec.json.decode(positions or b"{}", type=dict[str, int])
        return ClosedUpTo(self._closed, self._position, known | {LOG: end})


def is_future(moment: datetime) -> bool:
    """Whether a moment lies further ahead than clocks differ."""
    return moment > utc_now() + LATEST
