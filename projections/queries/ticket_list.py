"""Which tickets fit? Filters and words, newest first; and the tickets of one client."""

from datetime import datetime
from uuid import UUID

import msgspec
from psycopg.sql import SQL, Identifier

from domain.text import folded
from domain.values import Channel, Level, Priority, Qualification, Queue, State
from projections.queries.pages import BadCursor, Fetch, Filters, Moment, Page, Rank, cut, read_cursor, write_cursor

LIST_TICKETS = SQL("""
    select {columns},
        (select since_position from parked_streams where stream_id = t.ticket_id and projection = 'ticket_summaries'),
        (select position from projections where name = 'ticket_summaries')
    from ticket_summaries t where {filters} order by {order} limit %s""")
BY_ID = SQL("ticket_id desc")
BY_TIME = SQL("created_at desc, ticket_id desc")  # the same order, but another index gives it
_HAS = "exists (select from ticket_words w where w.ticket_id = t.ticket_id and words @@ {}('simple', %s))"
MATCHES_WORDS, MATCHES_PLAIN_WORDS = SQL(_HAS.format("websearch_to_tsquery")), SQL(_HAS.format("plainto_tsquery"))
MOST_MINUSES = 8  # each may be a "not", and PostgreSQL's parser takes 32 inside one another; what has more is no search
SELECT_TICKETS_POSITION = SQL("select position from projections where name = 'ticket_summaries'")


class TicketCursor(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="tickets"):
    """The place behind a row of the list; `created_at` where the list is of a time."""

    ticket_id: UUID
    created_at: datetime | None = None


class TicketRow(msgspec.Struct, frozen=True):
    """A ticket in a list; `incomplete_since` is the position of the first event that the row does not hold, if any."""

    ticket_id: UUID
    number: str | None
    version: int
    state: State
    level: Level | None
    qualification: Qualification | None
    queue: Queue | None
    client_user_id: str | None
    channel: Channel
    summary: str | None
    category: str | None
    priority: Priority | None
    assignee: str | None
    waiting_on_client: bool
    escalations: int
    created_at: datetime
    updated_at: datetime
    closed_at: datetime | None
    incomplete_since: int | None


TICKET_COLUMNS = SQL(", ").join(map(Identifier, TicketRow.__struct_fields__[:-1]))


class TicketFilters(msgspec.Struct, frozen=True):
    """What a reader of the list may ask for; `q` are words of the request, the issue, the client or the number."""

    client_user_id: str | None = None
    state: State | None = None
    level: Level | None = None
    queue: Queue | None = None
    assignee: str | None = None
    priority: Rank | None = None
    created_from: Moment | None = None
    created_to: Moment | None = None
    q: str | None = None


async def ticket_page(fetch: Fetch, filters: TicketFilters, cursor: str | None, limit: int) -> Page:
    """The tickets that fit, newest first."""
    conditions = Filters()
    for column in ("client_user_id", "state", "level", "queue", "assignee", "priority"):
        conditions.equal(Identifier(column), getattr(filters, column))
    if filters.created_from:
        conditions.add(SQL("created_at >= %s"), filters.created_from)
    if filters.created_to:
        conditions.add(SQL("created_at < %s"), filters.created_to)
    if filters.q:
        q = folded(filters.q)
        conditions.add(MATCHES_WORDS if q.count("-") <= MOST_MINUSES else MATCHES_PLAIN_WORDS, q)
    of_a_time = bool(filters.created_from or filters.created_to)
    if behind := read_cursor(cursor, TicketCursor):
        _go_on(conditions, behind, of_a_time)
    query = LIST_TICKETS.format(columns=TICKET_COLUMNS, filters=conditions.where, order=BY_TIME if of_a_time else BY_ID)
    rows, more = cut(await fetch(query, (*conditions.parameters, limit + 1)), limit)
    last = write_cursor(TicketCursor(rows[-1][0], rows[-1][15] if of_a_time else None)) if more else None
    position = rows[0][19] if rows else (await fetch(SELECT_TICKETS_POSITION, ()))[0][0]
    return Page([TicketRow(*row[:19]) for row in rows], last, position)


def _go_on(conditions: Filters, behind: TicketCursor, of_a_time: bool) -> None:
    if (behind.created_at is not None) != of_a_time:
        raise BadCursor
    if of_a_time:
        conditions.add(SQL("(created_at, ticket_id) < (%s, %s)"), behind.created_at, behind.ticket_id)
    else:
        conditions.add(SQL("ticket_id < %s"), behind.ticket_id)
