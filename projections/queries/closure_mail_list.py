"""Which closing e-mails wait, and which could not be delivered?"""

from datetime import datetime
from uuid import UUID

import msgspec
from psycopg.sql import SQL, Identifier

from projections.queries.pages import Fetch, Filters, Page, cut, read_cursor, write_cursor

LIST_CLOSURE_MAILS = SQL("""
    select ticket_id, closed_version, message_id, state, attempts, due_at, last_error, queued_at, settled_at
    from closure_mails where {filters} order by ticket_id desc, closed_version desc limit %s""")
SELECT_MAIL_FOLLOWER_POSITION = SQL("select position from followers where name = 'closure_mail'")


class MailRow(msgspec.Struct, frozen=True):
    """A closing e-mail: due, sent or failed."""

    ticket_id: UUID
    closed_version: int
    message_id: str
    state: str
    attempts: int
    due_at: datetime
    last_error: str | None
    queued_at: datetime
    settled_at: datetime | None


class ClosureMailCursor(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="closure_mails"):
    """The place behind a row of the list."""

    ticket_id: UUID
    closed_version: int


async def mail_page(fetch: Fetch, state: str | None, cursor: str | None, limit: int) -> Page:
    """The mails in a state, newest tickets first."""
    conditions = Filters()
    conditions.equal(Identifier("state"), state)
    if behind := read_cursor(cursor, ClosureMailCursor):
        conditions.add(SQL("(ticket_id, closed_version) < (%s, %s)"), behind.ticket_id, behind.closed_version)
    query = LIST_CLOSURE_MAILS.format(filters=conditions.where)
    rows, more = cut(await fetch(query, (*conditions.parameters, limit + 1)), limit)
    last = write_cursor(ClosureMailCursor(*rows[-1][:2])) if more else None
    position = (await fetch(SELECT_MAIL_FOLLOWER_POSITION, ()))[0][0]
    return Page([MailRow(*row) for row in rows], last, position)
