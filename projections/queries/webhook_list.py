"""Who is told what, and what became of it? Subscriptions, and the deliveries of one."""

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

import msgspec
from psycopg.sql import SQL, Identifier

from application.webhooks.subscriptions import WEBHOOK_COLUMNS, Subscription
from projections.queries.event_feed import log_end
from projections.queries.pages import Fetch, Filters, Page, cut, read_cursor, write_cursor

LIST_WEBHOOKS = SQL("select {columns} from webhooks where deleted_at is null and {filters} order by id limit %s")
LIST_DELIVERIES = SQL("""
    select id, position, type, state, attempts, case when state = 'due' then due_at end, first_failed_at,
        attempted_at, last_status, last_error, duration_ms, queued_at, settled_at
    from webhook_deliveries where webhook_id = %s and {filters} order by id desc limit %s""")
DeliveryState = Literal["waiting", "due", "delivered", "failed"]
Count = Annotated[int, msgspec.Meta(ge=0)]


class DeliveryRow(msgspec.Struct, frozen=True):
    """An event on its way to a receiver; a ping has no position."""

    id: Annotated[int, msgspec.Meta(ge=1)]
    position: Annotated[int, msgspec.Meta(ge=1)] | None
    type: str
    state: DeliveryState
    attempts: Count
    next_attempt_at: datetime | None
    first_failed_at: datetime | None
    attempted_at: datetime | None
    last_status: Annotated[int, msgspec.Meta(ge=100, le=999)] | None
    last_error: str | None
    duration_ms: Count | None
    queued_at: datetime
    settled_at: datetime | None


class WebhookCursor(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="webhooks"):
    """The place behind a subscription of the list."""

    id: UUID


class DeliveryPlace(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="deliveries"):
    """The place behind a delivery of the list."""

    id: Annotated[int, msgspec.Meta(ge=0, lt=2**62)]


async def webhook_page(fetch: Fetch, cursor: str | None, limit: int) -> Page:
    """The subscriptions, oldest ids first."""
    conditions = Filters()
    if behind := read_cursor(cursor, WebhookCursor):
        conditions.add(SQL("id > %s"), behind.id)
    query = LIST_WEBHOOKS.format(columns=SQL(WEBHOOK_COLUMNS), filters=conditions.where)
    rows, more = cut(await fetch(query, (*conditions.parameters, limit + 1)), limit)
    last = write_cursor(WebhookCursor(rows[-1][0])) if more else None
    return Page([Subscription(*row) for row in rows], last, await log_end(fetch))


async def delivery_page(fetch: Fetch, webhook: UUID, state: str | None, cursor: str | None, limit: int) -> Page:
    """The deliveries of a subscription, newest first."""
    conditions = Filters()
    conditions.equal(Identifier("state"), state)
    if behind := read_cursor(cursor, DeliveryPlace):
        conditions.add(SQL("id < %s"), behind.id)
    query = LIST_DELIVERIES.format(filters=conditions.where)
    rows, more = cut(await fetch(query, (webhook, *conditions.parameters, limit + 1)), limit)
    last = write_cursor(DeliveryPlace(rows[-1][0])) if more else None
    return Page([DeliveryRow(*row) for row in rows], last, await log_end(fetch))
