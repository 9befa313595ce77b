"""What happened on the whole desk, in the one order of all events? For auditors and whoever follows."""

from datetime import datetime
from uuid import UUID

import msgspec
from psycopg.sql import SQL

from application.event_store import to_recorded
from domain.client import client_stream
from domain.values import Level
from projections.pages import Fetch, Filters
from projections.ticket_view import EventView, event_view

# "offset 0" keeps it a walk along the log, whatever the planner expects of the filters: at most SLICE steps.
FEED = SQL("""
    select position, stream_id, version, at, type, body, meta from log cross join lateral (
        select * from events where events.ord = log.ord offset 0) event
    where position > %s and position <= %s and {filters} order by position limit %s""")
OF_STREAMS = SQL("""
    select position, stream_id, version, at, type, body, meta from log join events using (ord)
    where position > %s and position <= %s and {filters} order by position limit %s""")
SLICE = 50_000
LAST = SQL("select coalesce(max(position), 0) from log")
KNOWN = SQL("select position from projections where name = 'ticket_summaries'")
OF_CLIENT = SQL("stream_id in (select ticket_id from ticket_summaries where client_user_id = %s union all select %s)")


class EventFilters(msgspec.Struct, frozen=True):
    """What a reader of the feed may ask for; `since` and `until` are the contract's from and to."""

    type: str | None = None
    ticket_id: UUID | None = None
    client_user_id: str | None = None
    actor: str | None = None
    level: Level | None = None
    since: datetime | None = None
    until: datetime | None = None


class FeedPage(msgspec.Struct, frozen=True):
    """Events above a position. `position` is where the log ends; `after` is where the next page begins."""

    items: list[EventView]
    after: int
    more: bool
    position: int


async def feed_page(fetch: Fetch, after: int, filters: EventFilters, limit: int, most: int = SLICE) -> FeedPage:
    """The events above `after` that fit, in order.

    It looks at `most` positions and no further, unless the filters name a ticket or a client: what fits seldom comes
    in pages that are not full, or empty, and there is more all the same.
    """
    conditions = Filters()
    conditions.equal(SQL("type"), filters.type)
    conditions.equal(SQL("stream_id"), filters.ticket_id)
    conditions.equal(SQL("meta -> 'actor' ->> 'id'"), filters.actor)
    conditions.equal(SQL("meta ->> 'level'"), filters.level)
    if filters.client_user_id is not None:
        conditions.add(OF_CLIENT, filters.client_user_id, client_stream(filters.client_user_id))
    if filters.since:
        conditions.add(SQL("at >= %s"), filters.since)
    if filters.until:
        conditions.add(SQL("at < %s"), filters.until)
    last = await log_end(fetch)
    if filters.client_user_id is not None:  # whose a ticket is, the summaries tell: what they have not seen has to wait
        last = (await fetch(KNOWN, ()))[0][0]
    of_streams = filters.ticket_id is not None or filters.client_user_id is not None
    through = last if of_streams else min(last, after + most)
    query = (OF_STREAMS if of_streams else FEED).format(filters=conditions.where)
    rows = await fetch(query, (after, through, *conditions.parameters, limit + 1))
    items = [event_view(row[0], to_recorded(*row[1:])) for row in rows[:limit]]
    if len(rows) > limit:
        return FeedPage(items, rows[limit - 1][0], True, last)
    return FeedPage(items, max(through, after), through < last, last)


async def log_end(fetch: Fetch) -> int:
    """The highest position of the log; 0 while nothing is sealed."""
    rows = await fetch(LAST, ())
    return int(rows[0][0])
