"""What waits where? Every queue at a glance, and one queue in the order in which it is worked."""

from datetime import datetime
from uuid import UUID

import msgspec
from psycopg.sql import SQL

from application.store.event_store import NotReadable, by_stream
from domain.events import Recorded
from domain.ticket import Ticket, fold
from domain.values import Qualification, Queue, State
from projections.models.queue_stays import UNRANKED
from projections.queries.pages import BadCursor, Fetch, Filters, Page, Rank, cut, read_cursor, write_cursor
from projections.queries.ticket_view import taken_over


class QueueOverview(msgspec.Struct, frozen=True):
    """One queue at a glance. `by_priority` counts under "1" to "5", and under "none" what is not documented yet."""

    queue: Queue
    size: int
    unassigned: int
    oldest_entered_at: datetime | None
    by_priority: dict[str, int]


class Overview(msgspec.Struct, frozen=True):
    """All nine queues; their sizes add up to the number of open tickets."""

    items: list[QueueOverview]
    open_tickets: int
    position: int


class QueueRow(msgspec.Struct, frozen=True):
    """A ticket in a queue; `incomplete_since` is the position of the first event that the row does not hold, if any."""

    ticket_id: UUID
    number: str | None
    version: int
    state: State
    qualification: Qualification | None
    priority: int | None
    summary: str | None
    client_user_id: str | None
    assignee: str | None
    waiting_on_client: bool
    entered_at: datetime
    escalations: int
    incomplete_since: int | None = None


class QueueFilters(msgspec.Struct, frozen=True):
    """What a reader of a queue may ask for."""

    priority: Rank | None = None
    assignee: str | None = None
    unassigned: bool | None = None
    state: State | None = None
    client_user_id: str | None = None
    waiting_on_client: bool | None = None


OVERVIEW = SQL("""
    select q.queue, coalesce(sum(c.size), 0), coalesce(sum(c.unassigned), 0),
        (select entered_at from queue_stays s where s.queue = q.queue and left_at is null order by entered_at limit 1),
        coalesce(jsonb_object_agg(c.rank, c.size) filter (where c.size > 0), '{}'),
        (select position from projections where name = 'queue_stays')
    from unnest(string_to_array(%s, ' ')) with ordinality q(queue, place) left join queue_counts c using (queue)
    group by q.queue, q.place order by q.place""")
SELECT_QUEUE_PAGE = SQL("""
    with page as (
        select ticket_id, rank, entered_at, assignee, state, qualification from queue_stays s
        where queue = %s and left_at is null and {filters}
        order by rank, entered_at, ticket_id limit %s)
    select page.ticket_id, number, version, page.state, page.qualification, nullif(page.rank, 6), summary,
        client_user_id, page.assignee, waiting_on_client, page.entered_at, escalations,
        (select min(since_position) from parked_streams
            where stream_id = page.ticket_id and projection in ('queue_stays', 'ticket_summaries')),
        page.rank, (select position from projections where name = 'queue_stays')
    from page left join ticket_summaries using (ticket_id) order by page.rank, page.entered_at, ticket_id""")
# the page that everybody reads keeps its plan
SELECT_UNFILTERED_QUEUE_PAGE = SQL(SELECT_QUEUE_PAGE.format(filters=SQL("true")).as_string())
AS_OF = SQL("""
    with present as (
        select ticket_id, entered_at, coalesce((
            select rank from rank_changes c where c.ticket_id = s.ticket_id and c.at <= %s
            and c.position >= s.entered_position order by position desc limit 1), entered_rank) as rank
        from queue_stays s where queue = %s and entered_at <= %s and (left_at is null or left_at > %s))
    select ticket_id, rank, entered_at, (select position from projections where name = 'queue_stays'),
        (select since_position from parked_streams p
            where p.stream_id = present.ticket_id and p.projection = 'queue_stays')
    from present where {filters} order by rank, entered_at, ticket_id limit %s""")
HISTORIES = SQL("""
    select stream_id, version, at, type, body, meta from unnest(%s::uuid[]) wanted(id) cross join lateral (
        select max(version) as through from events where stream_id = id and at <= %s) known
    join events on stream_id = id and version <= through order by stream_id, version""")
TICKET_OF_CLIENT = SQL("ticket_id in (select ticket_id from ticket_summaries where client_user_id = %s)")
# a value, not "exists": that can become a join, which may read every ticket that ever was to find those in this queue
IS_WAITING_ON_CLIENT = SQL("(select waiting_on_client from ticket_summaries t where t.ticket_id = s.ticket_id)")
AFTER_QUEUE_CURSOR = SQL("(rank, entered_at, ticket_id) > (%s, %s, %s)")
SELECT_QUEUES_POSITION = SQL("select position from projections where name = 'queue_stays'")


class QueueCursor(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="queue"):
    """The place behind a row of a queue, now or as of a moment."""

    queue: Queue
    as_of: datetime | None
    rank: int
    entered_at: datetime
    ticket_id: UUID


async def overview(fetch: Fetch) -> Overview:
    """Every queue: how many, how many unassigned, since when, by priority."""
    rows = await fetch(OVERVIEW, (" ".join(Queue),))
    items = [
        QueueOverview(Queue(queue), int(size), int(unassigned), oldest, _by_priority(counts))
        for queue, size, unassigned, oldest, counts, _ in rows
    ]
    return Overview(items, sum(item.size for item in items), rows[0][5])


async def queue_page(fetch: Fetch, queue: Queue, filters: QueueFilters, cursor: str | None, limit: int) -> Page:
    """The tickets of a queue: priority first, then time of entry."""
    conditions = _conditions(filters)
    _go_on(conditions, cursor, queue, None)
    where = conditions.where
    query = SELECT_UNFILTERED_QUEUE_PAGE if where == SQL("true") else SELECT_QUEUE_PAGE.format(filters=where)
    rows, more = cut(await fetch(query, (queue, *conditions.parameters, limit + 1)), limit)
    last = write_cursor(QueueCursor(queue, None, rows[-1][13], rows[-1][10], rows[-1][0])) if more else None
    return Page([QueueRow(*row[:13]) for row in rows], last, rows[0][14] if rows else await _position(fetch))


async def queue_as_of(fetch: Fetch, queue: Queue, moment: datetime, cursor: str | None, limit: int) -> Page:
    """The same queue as it stood at a moment of the past; each row shows the ticket as it stood then."""
    conditions = Filters()
    _go_on(conditions, cursor, queue, moment)
    query = AS_OF.format(filters=conditions.where)
    parameters = (moment, queue, moment, moment, *conditions.parameters, limit + 1)
    rows, more = cut(await fetch(query, parameters), limit)
    streams = _readable(await fetch(HISTORIES, ([row[0] for row in rows], moment)))
    tickets = {stream: fold(history) for stream, history in streams.items()}
    items = [_past_row(ticket, row) for row in rows if (ticket := tickets.get(row[0]))]
    last = write_cursor(QueueCursor(queue, moment, rows[-1][1], rows[-1][2], rows[-1][0])) if more else None
    return Page(items, last, rows[0][3] if rows else await _position(fetch))


def _readable(rows: list[tuple[UUID, int, datetime, str, bytes, bytes]]) -> dict[UUID, list[Recorded]]:
    """The events of each stream, up to the first that this program cannot read: one such stream hides no other."""
    ends: dict[UUID, int] = {}
    while True:
        try:
            return by_stream(row for row in rows if row[0] not in ends or row[1] < ends[row[0]])
        except NotReadable as error:
            ends[error.stream_id] = error.version


def _go_on(conditions: Filters, cursor: str | None, queue: Queue, moment: datetime | None) -> None:
    place = read_cursor(cursor, QueueCursor)
    if place is None:
        return
    if (place.queue, place.as_of) != (queue, moment):
        raise BadCursor
    conditions.add(AFTER_QUEUE_CURSOR, place.rank, place.entered_at, place.ticket_id)


def _conditions(filters: QueueFilters) -> Filters:
    conditions = Filters()
    conditions.equal(SQL("rank"), filters.priority)
    conditions.equal(SQL("assignee"), filters.assignee)
    conditions.equal(SQL("state"), filters.state)
    conditions.equal(IS_WAITING_ON_CLIENT, filters.waiting_on_client)
    if filters.unassigned is not None:
        conditions.add(SQL("assignee is null" if filters.unassigned else "assignee is not null"))
    if filters.client_user_id is not None:
        conditions.add(TICKET_OF_CLIENT, filters.client_user_id)
    return conditions


def _past_row(ticket: Ticket, row: tuple[UUID, int, datetime, int, int | None]) -> QueueRow:
    summary = ticket.issue.summary if ticket.issue else None
    return QueueRow(**taken_over(ticket, QueueRow), summary=summary, entered_at=row[2], incomplete_since=row[4])


async def _position(fetch: Fetch) -> int:
    rows = await fetch(SELECT_QUEUES_POSITION, ())
    return int(rows[0][0])


def _by_priority(counts: bytes) -> dict[str, int]:
    found: dict[str, int] = msgspec.json.decode(counts)
    return {"none" if rank == UNRANKED else str(rank): found.get(str(rank), 0) for rank in range(1, UNRANKED + 1)}
