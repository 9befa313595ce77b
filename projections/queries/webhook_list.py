"""Who is told what, and what became of it? Subscriptions, and the deliveries of one."""

from typing import Annotated, Any
from uuid import UUID

import msgspec
from psycopg.sql import SQL, Identifier

from application.webhooks.delivery import DeliveryRow
from application.webhooks.subscriptions import WEBHOOK_COLUMNS, Subscription
from projections.queries.event_feed import log_end
from projections.queries.pages import Fetch, Filters, Page, cut, read_cursor, write_cursor

LIST_WEBHOOKS = SQL(
    "select" + WEBHOOK_COLUMNS + " from webhooks where deleted_at is null and {filters} order by id limit %s"
)
LIST_DELIVERIES = SQL("""
    select id, position, type, state, attempts, case when state = 'due' then due_at end, first_failed_at,
        attempted_at, last_status, last_error, duration_ms, queued_at, settled_at
    from webhook_deliveries where {filters} order by id desc limit %s""")


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
    return await _page(fetch, LIST_WEBHOOKS, conditions, limit, Subscription, WebhookCursor)


async def delivery_page(fetch: Fetch, webhook: UUID, state: str | None, cursor: str | None, limit: int) -> Page:
    """The deliveries of a subscription, newest first."""
    conditions = Filters()
    conditions.equal(Identifier("webhook_id"), webhook)
    conditions.equal(Identifier("state"), state)
    if behind := read_cursor(cursor, DeliveryPlace):
        conditions.add(SQL("id < %s"), behind.id)
    return await _page(fetch, LIST_DELIVERIES, conditions, limit, DeliveryRow, DeliveryPlace)


async def _page(
    fetch: Fetch, query: SQL, conditions: Filters, limit: int, row: type, place: type[WebhookCursor | DeliveryPlace]
) -> Page:
    given = (*conditions.parameters, limit + 1)
    rows, more = cut(await fetch(query.format(filters=conditions.where), given), limit)
    items: list[Any] = [row(*each) for each in rows]
    return Page(items, write_cursor(place(items[-1].id)) if more else None, await log_end(fetch))
