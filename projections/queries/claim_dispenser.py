"""Which ticket is next for whoever asks? Free tickets in order, each in the hands of one claimer of this process.

One look-up serves all who have asked by then, in the order in which they asked. What it finds may be out of date: the
ticket itself decides. So a claimer who comes too late says so, and gets the next one.
"""

import asyncio
from uuid import UUID

import msgspec
from psycopg.sql import SQL

from application.store.batcher import Batcher
from domain.procedure import DOSSIER_STANDS
from domain.values import Queue
from projections.queries.pages import Fetch

# The list may lag behind. A ticket whose last event says that somebody took it is taken, and what somebody has passed
# over at this very version can be passed over again.
FREE = SQL("""
    select ticket_id, last.version from queue_stays cross join lateral (
        select version, type from events where stream_id = ticket_id order by version desc limit 1) last
    where queue = %s and left_at is null and assignee is null and state <> all(%s)
        and last.type <> 'Ticket.Assigned' and ticket_id <> all(%s::uuid[])
        and (ticket_id, last.version) not in (select * from unnest(%s::uuid[], %s::int[]))
    order by rank, entered_at, ticket_id limit %s""")
NOT_NOW = [str(state) for state in DOSSIER_STANDS]  # a claim would void what the client is looking at
MOST_CLAIMS_REMEMBERED = 1_000


class Free(msgspec.Struct, frozen=True):
    """A ticket that looked free at this version."""

    ticket_id: UUID
    version: int


class ClaimDispenser:
    """Hands out the free tickets of one queue, the best one to whoever has asked first."""

    def __init__(self, fetch: Fetch, queue: Queue) -> None:
        self._fetch, self._queue = fetch, queue
        self._look_up: Batcher[None, Free | None] = Batcher(self._find, name="find_free")
        self._held: set[UUID] = set()
        self._passed: dict[UUID, int] = {}
        self._settled = asyncio.Event()

    async def next(self) -> Free | None:
        """The next free ticket; None when there is none, and nobody has one in hand who might give it back.

        `complete` has to follow.
        """
        while True:
            settled = self._settled
            try:
                free = await self._look_up(None)
            except BaseException:  # what was found for who goes away is for the others
                self._wake()
                raise
            if free:  # nobody looks again before all who were found one have it in hand
                self._held.add(free.ticket_id)
                return free
            if not self._held and not settled.is_set():
                return None
            await settled.wait()

    def complete(self, free: Free, passed_over: bool) -> None:
        """What became of a ticket: somebody has it now or it was given back, or it was not to be had."""
        if passed_over:
            if len(self._passed) >= MOST_CLAIMS_REMEMBERED:
                self._passed.clear()
            self._passed[free.ticket_id] = free.version
        self._held.discard(free.ticket_id)
        self._wake()

    def _wake(self) -> None:
        """Whoever waits looks again."""
        self._settled.set()
        self._settled = asyncio.Event()

    async def _find(self, wants: list[None]) -> list[Free | None]:
        """A ticket for each who wants one, the best one first, as far as there are any."""
        passed = self._passed
        query = (self._queue, NOT_NOW, list(self._held), list(passed), list(passed.values()), len(wants))
        free = [Free(*row) for row in await self._fetch(FREE, query)]
        return [*free, *[None] * (len(wants) - len(free))]
