"""What happened on the whole desk, in the one order of all events? For auditors and whoever follows."""

from contextlib import suppress
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

import msgspec
import structlog
from psycopg.sql import SQL

from application.store.event_store import SHOWN_META, Meta, to_recorded
from domain.client import EventType, client_stream
from domain.events import TICKET_EVENTS
from domain.values import Level
from projections.queries.pages import Fetch, Filters, Moment
from projections.queries.ticket_view import EventActor, EventView, event_view

# "offset 0" keeps it a walk along the log, whatever the planner expects of the filters: at most SLICE steps.
FEED = SQL("""
    select position, stream_id, version, at, type, body, {meta} from log cross join lateral (
        select * from events where events.ord = log.ord offset 0) events
    where position > %s and position <= %s and {filters} order by position limit %s""")
OF_STREAMS = SQL("""
    select position, stream_id, version, at, type, body, {meta} from log join events using (ord)
    where position > %s and position <= %s and {filters} order by position limit %s""")
META = SQL(SHOWN_META)
LEVEL = SQL("{meta} ->> 'level'").format(meta=META)
SLICE = 50_000
LAST = SQL("select coalesce(max(position), 0) from log")
SELECT_LOG = SQL("select (select coalesce(max(position), 0) from log), id from log_identity")
SELECT_SUMMARIES_POSITION = SQL("select position from projections where name = 'ticket_summaries'")
STREAM_OF_CLIENT = SQL(
    "stream_id in (select ticket_id from ticket_summaries where client_user_id = %s union all select %s)"
)
UNREADABLE_EVENT_DETAIL = "This event cannot be read by this version of the program."
MOST_EVENT_ERROR = 1_000
log = structlog.get_logger()
_said: set[int] = set()


class EventFilters(msgspec.Struct, frozen=True):
    """What a reader of the feed may ask for; `since` and `until` are the contract's from and to."""

    type: EventType | None = None
    ticket_id: UUID | None = None
    client_user_id: str | None = None
    actor: str | None = None
    level: Level | None = None
    since: Moment | None = msgspec.field(default=None, name="from")
    until: Moment | None = msgspec.field(default=None, name="to")


class FeedRow(NamedTuple):
    """An event of the log as its table holds it."""

    position: int
    stream_id: UUID
    version: int
    at: datetime
    type: str
    body: bytes
    meta: bytes


class FeedRows(msgspec.Struct, frozen=True):
    """Rows above a position; `after` is where the next ones begin, and `more` whether there may be any."""

    rows: list[FeedRow]
    after: int
    more: bool


class FeedItem(msgspec.Struct, frozen=True):
    """An event as it is shown, and the trace that it belongs to."""

    event: EventView
    traceparent: str | None


class LogStanding(msgspec.Struct, frozen=True):
    """The highest position of the log, and the log's identity: a restore begins another one."""

    position: int
    log_id: UUID


class FeedPage(msgspec.Struct, frozen=True):
    """Events above a position. `position` is where the log ends; `after` is where the next page begins."""

    items: list[FeedItem]
    after: int
    more: bool
    position: int


async def feed_page(fetch: Fetch, after: int, filters: EventFilters, limit: int, most: int = SLICE) -> FeedPage:
    """The events above `after` that fit, in order.

    It looks at `most` positions and no further, unless the filters name a ticket or a client: what fits seldom comes
    in pages that are not full, or empty, and there is more all the same.
    """
    last = await feed_end(fetch, filters)
    found = await feed_rows(fetch, after, last, filters, limit, most)
    return FeedPage([feed_item(row) for row in found.rows], found.after, found.more, last)


async def feed_rows(
    fetch: Fetch, after: int, last: int, filters: EventFilters, limit: int, most: int = SLICE
) -> FeedRows:
    """As `feed_page`, up to the position `last`, as rows: one query."""
    of_streams = filters.ticket_id is not None or filters.client_user_id is not None
    through = last if of_streams else min(last, after + most)
    conditions = _conditions(filters)
    query = (OF_STREAMS if of_streams else FEED).format(filters=conditions.where, meta=META)
    rows = await fetch(query, (after, through, *conditions.parameters, limit + 1))
    found = [FeedRow(*row) for row in rows[:limit]]
    if len(rows) > limit:
        return FeedRows(found, found[-1].position, True)
    return FeedRows(found, max(through, after), through < last)


def _conditions(filters: EventFilters) -> Filters:
    conditions = Filters()
    conditions.equal(SQL("type"), filters.type)
    conditions.equal(SQL("stream_id"), filters.ticket_id)
    conditions.equal(SQL("meta -> 'actor' ->> 'id'"), filters.actor)
    conditions.equal(LEVEL, filters.level)
    if filters.client_user_id is not None:
        conditions.add(STREAM_OF_CLIENT, filters.client_user_id, client_stream(filters.client_user_id))
    if filters.since:
        conditions.add(SQL("at >= %s"), filters.since)
    if filters.until:
        conditions.add(SQL("at < %s"), filters.until)
    return conditions


async def feed_end(fetch: Fetch, filters: EventFilters) -> int:
    """How far a reader with these filters can read.

    Whose a ticket is, the summaries tell: what they have not seen yet has to wait for them.
    """
    if filters.client_user_id is not None:
        return int((await fetch(SELECT_SUMMARIES_POSITION, ()))[0][0])
    return await log_end(fetch)


async def log_standing(fetch: Fetch) -> LogStanding:
    """Which log this is, and where it ends."""
    return LogStanding(*(await fetch(SELECT_LOG, ()))[0])


async def log_end(fetch: Fetch) -> int:
    """The highest position of the log; 0 while nothing is sealed."""
    rows = await fetch(LAST, ())
    return int(rows[0][0])


def feed_item(row: FeedRow) -> FeedItem:
    """An event as it is shown; one that this program cannot read says so, so that nobody has to stop before it."""
    try:
        recorded = to_recorded(*row[1:])
        return FeedItem(event_view(row.position, recorded), recorded.traceparent)
    except (LookupError, ValueError, msgspec.MsgspecError) as error:
        _say(row, error)
        return _unreadable(row)


def _unreadable(row: FeedRow) -> FeedItem:
    known: Meta | None = None
    with suppress(ValueError, msgspec.MsgspecError):
        known = msgspec.json.decode(row.meta, type=Meta)
    actor = EventActor(known.actor.id, known.actor.name, known.actor.role) if known else None
    trace = (known.correlation_id, known.causation_id) if known else (None, None)
    of_ticket = row.type in TICKET_EVENTS or row.type.startswith("Ticket.")
    view = EventView(
        row.position,
        row.stream_id if of_ticket else None,
        None,
        row.version,
        row.type,
        row.at,
        actor,
        known.level if known else None,
        None,
        None,
        UNREADABLE_EVENT_DETAIL,
        *trace,
    )
    return FeedItem(view, known.traceparent if known else None)


def _say(row: FeedRow, error: Exception) -> None:
    """Once for each event, however many read it."""
    if row.position not in _said and len(_said) < MOST_EVENT_ERROR:
        _said.add(row.position)
        log.error("event cannot be read", position=row.position, type=row.type, reason=str(error)[:300])
