"""Which tickets fit? Filters and words, newest first; and the tickets of one client."""

from datetime import datetime
from uuid import UUID

import msgspec
from psycopg.sql import SQL, Identifier

from domain.values import Channel, Level, Priority, Qualification, Queue, State
from projections.pages import Fetch, Filters, Page, cut, read_cursor, write_cursor

COLUMNS = SQL(
    "ticket_id, number, version, state, level, qualification, queue, client_user_id, channel, summary, category,"
    " priority, assignee, waiting_on_client, escalations, created_at, updated_at, closed_at"
)
LIST = SQL("""
    select {columns}, (select position from projections where name = 'ticket_summaries')
    from ticket_summaries t where {filters} order by ticket_id desc limit %s""")
WORDS = SQL(
    "exists (select from ticket_words w where w.ticket_id = t.ticket_id"
    " and words @@ websearch_to_tsquery('simple', %s))"
)
POSITION = SQL("select position from projections where name = 'ticket_summaries'")


class Cursor(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="tickets"):
    """The place behind a row of the list."""

    ticket_id: UUID


class TicketRow(msgspec.Struct, frozen=True):
    """A ticket in a list."""

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


class TicketFilters(msgspec.Struct, frozen=True):
    """What a reader of the list may ask for; `q` are words of the request, the issue, the client or the number."""

    client_user_id: str | None = None
    state: State | None = None
    level: Level | None = None
    queue: Queue | None = None
    assignee: str | None = None
    priority: int | None = None
    created_from: datetime | None = None
    created_to: datetime | None = None
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
        conditions.add(WORDS, filters.q)
    if behind := read_cursor(cursor, Cursor):
        conditions.add(SQL("ticket_id < %s"), behind.ticket_id)
    query = LIST.format(columns=COLUMNS, filters=conditions.where)
    rows, more = cut(await fetch(query, (*conditions.parameters, limit + 1)), limit)
    last = write_cursor(Cursor(rows[-1][0])) if more else None
    position = rows[0][18] if rows else (await fetch(POSITION, ()))[0][0]
    return Page([TicketRow(*row[:18]) for row in rows], last, position)
