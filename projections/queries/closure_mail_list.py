"""Which closing e-mails wait, and which could not be delivered?"""

from datetime import datetime
from typing import Literal
from uuid import UUID

import msgspec
from psycopg.sql import SQL, Identifier

from projections.queries.pages import Fetch, Filters, Page, cut, read_cursor, write_cursor

LIST_CLOSURE_MAILS = SQL("""
    select ticket_id, closed_version, message_id, state, attempts, due_at, last_error, queued_at, settled_at, address,
        first_refused_at, needs_desk
    from closure_mails where {filters} order by ticket_id desc, closed_version desc limit %s""")
MailState = Literal["due", "sent", "failed", "withdrawn"]
SELECT_MAIL_FOLLOWER_POSITION = SQL("select position from followers where name = 'closure_mail'")


class MailRow(msgspec.Struct, frozen=True):
    """A closing e-mail. `address` is that of the last attempt, `first_refused_at` when patience with it began.

    `needs_desk`: it waits for whoever runs the desk, and `last_error` says for what.
    """

    ticket_id: UUID
    closed_version: int
    message_id: str
    state: MailState
    attempts: int
    due_at: datetime
    last_error: str | None
    queued_at: datetime
    settled_at: datetime | None
    address: str | None
    first_refused_at: datetime | None
    needs_desk: bool


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


async def find_mail(fetch: Fetch, message_id: str) -> MailRow | None:
    """The mail with a Message-ID, with or without its angle brackets."""
    conditions = Filters()
    conditions.add(SQL("message_id = %s"), f"<{message_id.removeprefix('<').removesuffix('>')}>")
    rows = await fetch(LIST_CLOSURE_MAILS.format(filters=conditions.where), (*conditions.parameters, 1))
    return MailRow(*rows[0]) if rows else None
