"""The end of the log, for everybody in a process who waits for what happens next.

However many wait, one query every few milliseconds reads what is new; while nobody waits, none is asked. It reads only
events that somebody may want, so that a desk at full work costs next to nothing where all wait for what is rare.
"""

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from psycopg.sql import SQL

from application.store.postgres.pg_connection import Unavailable
from domain.client import client_stream
from projections.queries.event_feed import LEVEL, META, EventFilters, FeedRow
from projections.queries.pages import Fetch

# The position that was looked through, and behind it what may be wanted, at most so many. What belongs to a client is
# looked at as far as the summaries have come, which tell whose a ticket is.
TAIL = SQL("""
    with ending as materialized (
        select least(%s, case when %s then (select position from projections where name = 'ticket_summaries')
                         else (select coalesce(max(position), 0) from log) end) as through)
    select through, found.* from ending left join lateral (
        select position, stream_id, version, at, type, body, {meta}, meta -> 'actor' ->> 'id' as actor,
            {level} as level, client
        from log cross join lateral (select * from events where events.ord = log.ord offset 0) events
        cross join lateral (
            select (select client_user_id from ticket_summaries where %s and ticket_id = stream_id) as client
            offset 0) whose
        where position > %s and position <= through and (
            %s or type = any(%s) or stream_id = any(%s::uuid[]) or client = any(%s)
            or meta -> 'actor' ->> 'id' = any(%s) or {level} = any(%s))
        order by position limit %s) found on true""").format(meta=META, level=LEVEL)
LOG_TAIL_POLL_SECONDS = 0.05
MOST_ROWS = 500
RAREST_FIRST = ("ticket_id", "client_user_id", "type", "actor", "level")  # of the filters, by how few events fit
MOST_POSITIONS = 20_000  # that one query looks at


class Happened(msgspec.Struct, frozen=True):
    """A new event, and what of it the filters look at."""

    row: FeedRow
    actor: str | None
    level: str | None
    client: str | None


class EventWaiter:
    """Somebody who waits for an event that fits, above a position; `position` moves on with what did not fit."""

    def __init__(self, filters: EventFilters, position: int) -> None:
        self.filters, self.position = filters, position
        self.of_client = filters.client_user_id is not None  # the summaries have to be asked
        self.client = client_stream(filters.client_user_id or "")
        self.settled: asyncio.Future[list[FeedRow]] = asyncio.get_running_loop().create_future()

    def resolve(self, rows: list[FeedRow]) -> None:
        """Ends the waiting, once."""
        if not self.settled.done():
            self.settled.set_result(rows)


class LogTail:
    """Waits at the end of the log, for all readers of one event loop together."""

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch
        self._wishes: set[EventWaiter] = set()
        self._polling: asyncio.Task[None] | None = None
        self._seen = {False: 0, True: 0}
        self.ended = False

    def seen(self, filters: EventFilters) -> int:
        """How far the log was looked at for readers with such filters; 0 while nobody has waited."""
        return self._seen[filters.client_user_id is not None]

    def follow(self, filters: EventFilters, position: int) -> EventWaiter:
        """A wish for what comes after a position that is at, or near, the end of the log."""
        wish = EventWaiter(filters, position)
        if self.ended:
            wish.resolve([])
            return wish
        self._wishes.add(wish)
        if self._polling is None or self._polling.done():
            self._polling = asyncio.get_running_loop().create_task(self._poll())
        return wish

    async def wait(self, wish: EventWaiter, seconds: float) -> list[FeedRow]:
        """The rows that fulfil a wish; none when its time is over, or the process ends."""
        try:  # `wait` leaves the future alone: what it was given in the moment in which the time is over still counts
            await asyncio.wait((wish.settled,), timeout=seconds)
            return wish.settled.result() if wish.settled.done() else []
        finally:
            self._wishes.discard(wish)
            wish.settled.cancel()  # what is handed out from now on is read again from where it stands

    def end(self) -> None:
        """Nobody waits any more."""
        self.ended = True
        for wish in self._wishes:
            wish.resolve([])

    async def _poll(self) -> None:
        """Reads for everybody, until nobody waits."""
        full = False
        while self._wishes:
            await asyncio.sleep(0 if full else LOG_TAIL_POLL_SECONDS)
            full = False
            for of_clients in (False, True):
                if asked := [wish for wish in self._wishes if wish.of_client == of_clients and not wish.settled.done()]:
                    full |= await self._look(asked, of_clients)

    async def _look(self, asked: Sequence[EventWaiter], of_clients: bool) -> bool:
        """Whether there is more to read at once."""
        begin = min(wish.position for wish in asked)
        try:
            found = await self._fetch(TAIL, _parameters(asked, begin, of_clients))
        except Unavailable:  # it may come back while they wait
            return False
        except Exception as error:  # noqa: BLE001 - whoever waits is told; else nobody would be
            for wish in asked:
                if not wish.settled.done():
                    wish.settled.set_exception(error)
            return False
        rows = [Happened(FeedRow(*one[1:8]), *one[8:]) for one in found if one[1] is not None]
        through = rows[-1].row.position if len(rows) == MOST_ROWS else found[0][0]
        self._seen[of_clients] = max(self._seen[of_clients], through)
        _hand_out(asked, rows, through)
        return through == begin + MOST_POSITIONS or len(rows) == MOST_ROWS


def _parameters(asked: Iterable[EventWaiter], begin: int, of_clients: bool) -> tuple[Any, ...]:
    """What any of them may want: of each filter, the field that the fewest events have."""
    wanted, everything = {name: set[Any]() for name in RAREST_FIRST}, False
    for wish in asked:
        for name, values in wanted.items():
            if (value := getattr(wish.filters, name)) is not None:
                values.add(value)
                break
        else:
            everything = True
    streams, clients = wanted["ticket_id"], wanted["client_user_id"]
    streams |= {client_stream(client) for client in clients}
    of_events = (list(wanted["type"]), list(streams), list(clients), list(wanted["actor"]), list(wanted["level"]))
    return (begin + MOST_POSITIONS, of_clients, of_clients, begin, everything, *of_events, MOST_ROWS)


def _hand_out(asked: Iterable[EventWaiter], rows: Sequence[Happened], through: int) -> None:
    """Settles the wishes that are fulfilled, and moves the others on."""
    types, streams = {one.row.type for one in rows}, {one.row.stream_id for one in rows}
    for wish in asked:
        filters = wish.filters
        if wish.settled.done():  # it has ended meanwhile, and goes on from where it is
            continue
        may_fit = filters.type in (None, *types) and filters.ticket_id in (None, *streams)
        if may_fit and (fitting := [one.row for one in rows if _fits(wish, one)]):
            wish.resolve(fitting)
        wish.position = max(wish.position, through)


def _fits(wish: EventWaiter, one: Happened) -> bool:
    row, filters = one.row, wish.filters
    return (
        row.position > wish.position
        and (filters.type is None or row.type == filters.type)
        and (filters.ticket_id is None or row.stream_id == filters.ticket_id)
        and (not wish.of_client or one.client == filters.client_user_id or row.stream_id == wish.client)
        and (filters.actor is None or one.actor == filters.actor)
        and (filters.level is None or one.level == filters.level)
        and (filters.since is None or row.at >= filters.since)
        and (filters.until is None or row.at < filters.until)
    )
