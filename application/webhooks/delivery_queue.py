"""From the sealed log to deliveries: which event goes to whom, and whose turn it is.

One worker at a time sends webhooks: it holds an advisory lock for as long as its connection lives, so a worker that is
killed lets go at once. It alone adds deliveries and moves them on, and so the order of a ticket needs no lock: of the
deliveries of one ticket, the first is `due`, the others are `waiting`.

Its SQL reads two things of the read side: where `ticket_summaries` stands, and whose a ticket is.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, LiteralString
from uuid import UUID

import psycopg
from psycopg.sql import SQL

from application.store.event_store import SHOWN_META
from application.store.postgres.database import connection_settings
from application.webhooks.delivery import Delivery
from application.webhooks.subscriptions import WEBHOOK_COLUMNS, Subscription

SEND_LOCK = 7_365_636_101
DELIVERY_BATCH_MAX = 2_000
MOST_PENDING = 10_000  # what is behind them stays in the log until there is room
SERVED: LiteralString = "select" + WEBHOOK_COLUMNS + " from webhooks where enabled and deleted_at is null order by id"
STAND_STILL: LiteralString = "set idle_session_timeout = '30s'"  # whoever does loses the connection, and the lock
TRY_ADVISORY_LOCK: LiteralString = "select pg_try_advisory_lock(%s)"
GO_TO: LiteralString = """
    with gone as (
        update webhooks set position = go_to, go_to = null, revision = revision + 1
        where id = any(%s) and go_to is not null returning id)
    delete from webhook_deliveries d using gone
    where d.webhook_id = gone.id and d.state in ('waiting', 'due') and d.position is not null"""
INSERT_DELIVERIES = SQL("""
    with place as materialized (
        select id, position, through, types, ticket_id, client_user_id, client_stream, actor, level
        from webhooks w cross join lateral (
            -- whose a ticket is, the summaries tell: what they have not seen has to wait
            select least((select max(position) from log), case when w.client_user_id is not null then coalesce(
                (select position from projections where name = 'ticket_summaries'), 0) end) as through) reach
        where id = any(%(ids)s) and position < through and go_to is null and enabled and deleted_at is null
            and (select count(*) from (
                select from webhook_deliveries d where d.webhook_id = w.id and d.state in ('waiting', 'due')
                limit %(most)s) pending) < %(most)s
        for update of w),
    batch as materialized (  -- once for all that stand together, and row by row: the planner takes ranges for long
        select after, through, next.position, stream_id, type, meta
        from (select distinct position as after, through from place) stands cross join lateral (
            select position, ord from log where position > after and position <= through
            order by position limit %(batch)s) next
        cross join lateral (select stream_id, type, {meta} as meta from events where events.ord = next.ord limit 1) e),
    fits as (
        select id, batch.position, batch.stream_id, batch.type,
            row_number() over (partition by id, batch.stream_id order by batch.position) as nth
        from place join batch on batch.after = place.position and batch.through = place.through
        where (place.types = '{{}}' or batch.type = any(place.types))
          and (place.ticket_id is null or batch.stream_id = place.ticket_id)
          and (place.actor is null or batch.meta -> 'actor' ->> 'id' = place.actor)
          and (place.level is null or batch.meta ->> 'level' = place.level)
          and (place.client_user_id is null or batch.stream_id = place.client_stream or exists (
              select from ticket_summaries t
              where t.ticket_id = batch.stream_id and t.client_user_id = place.client_user_id))),
    queued as (
        insert into webhook_deliveries (webhook_id, position, stream_id, type, state, due_at, queued_at)
        select id, position, stream_id, type,
            case when nth = 1 and not exists (
                select from webhook_deliveries d where d.webhook_id = fits.id and d.stream_id = fits.stream_id
                    and d.state in ('waiting', 'due')) then 'due' else 'waiting' end,
            %(now)s, %(now)s
        from fits order by position)
    update webhooks set position = reached.position
    from place join (select after, through, max(position) as position from batch group by after, through) reached
        on reached.after = place.position and reached.through = place.through
    where webhooks.id = place.id""").format(meta=SQL(SHOWN_META))
# SELECT_DUE_DELIVERIES names the fields of Delivery, in order
SELECT_DUE_DELIVERIES: LiteralString = """
    select d.*, w.revision from unnest(%(ids)s::uuid[], %(revisions)s::int[], %(rooms)s::int[])
        as wanted(webhook, revision, room) join webhooks w on w.id = webhook and w.revision = wanted.revision
        cross join lateral (  -- not of one that was changed since it was read
        select id, position, type, state, attempts, due_at, first_failed_at, attempted_at, last_status, last_error,
            duration_ms, queued_at, settled_at, webhook_id, stream_id
        from webhook_deliveries
        where webhook_id = webhook and state = 'due' and due_at <= %(now)s and id <> all(%(without)s::bigint[])
        order by due_at limit room) d"""


def connect_to_serve(url: str) -> psycopg.Connection[Any]:
    """A connection that holds what `may_send` gives it, until it ends."""
    connection = psycopg.connect(url, **connection_settings("webhooks", look_ups=True))
    connection.execute(STAND_STILL)
    return connection


def may_send(connection: psycopg.Connection[Any]) -> bool:
    """Whether this connection may send webhooks from now on. Not to be asked again once it may."""
    row = connection.execute(TRY_ADVISORY_LOCK, (SEND_LOCK,)).fetchone()
    return bool(row and row[0])


def served_subscriptions(connection: psycopg.Connection[Any]) -> list[Subscription]:
    """Every subscription that is switched on."""
    return [Subscription(*row) for row in connection.execute(SERVED)]


def queue_deliveries(connection: psycopg.Connection[Any], served: Mapping[UUID, Subscription], now: datetime) -> int:
    """Queues what the log has for these subscriptions, a batch of positions each. Returns how many have moved on."""
    if moved := [one.id for one in served.values() if one.go_to is not None]:
        connection.execute(GO_TO, (moved,))
    given = {"ids": list(served), "most": MOST_PENDING, "batch": DELIVERY_BATCH_MAX, "now": now}
    return connection.execute(INSERT_DELIVERIES, given).rowcount


def due_deliveries(
    connection: psycopg.Connection[Any],
    room: Sequence[tuple[Subscription, int]],
    without: Iterable[int],
    now: datetime,
) -> list[Delivery]:
    """The deliveries that are due, longest first: so many of each subscription, without those under way."""
    given = {
        "ids": [one.id for one, _ in room],
        "revisions": [one.revision for one, _ in room],
        "rooms": [most for _, most in room],
        "without": list(without),
        "now": now,
    }
    return [Delivery(*row) for row in connection.execute(SELECT_DUE_DELIVERIES, given)]
