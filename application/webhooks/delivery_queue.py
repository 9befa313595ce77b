"""From the sealed log to deliveries: which event goes to whom, and whose turn it is.

One worker at a time serves a subscription: it holds an advisory lock for as long as its connection lives, so a worker
that is killed lets go at once. It alone adds deliveries and moves them on, and so the order of a ticket needs no lock:
of the deliveries of one ticket, the first is `due`, the others are `waiting`.

Its SQL reads two things of the read side: where `ticket_summaries` stands, and whose a ticket is.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, LiteralString
from uuid import UUID

import msgspec
import psycopg

from application.store.postgres.database import connection_settings
from application.webhooks.delivery import Delivery

LOCK_SPACE = 736_563
DELIVERY_BATCH_MAX = 2_000
MOST_PENDING = 10_000  # what is behind them stays in the log until there is room
SERVED: LiteralString = """
    select id, number, revision, url, secret, old_secret, old_until, position, go_to, client_user_id is not null
    from webhooks where enabled and deleted_at is null order by number"""
STAND_STILL: LiteralString = "set idle_session_timeout = '30s'"  # whoever does loses the connection, and the locks
TRY_ADVISORY_LOCK: LiteralString = "select pg_try_advisory_lock(%s, %s)"
UNLOCK: LiteralString = "select pg_advisory_unlock(%s, %s)"
ENDS: LiteralString = """
    select coalesce((select max(position) from log), 0),
           coalesce((select position from projections where name = 'ticket_summaries'), 0)"""
GO_TO: LiteralString = """
    with gone as (
        update webhooks set position = go_to, go_to = null, revision = revision + 1
        where id = %s and go_to is not null returning id)
    delete from webhook_deliveries d using gone
    where d.webhook_id = gone.id and d.state in ('waiting', 'due') and d.position is not null"""
COUNT_PENDING_DELIVERIES: LiteralString = """
    select count(*) from (
        select from webhook_deliveries where webhook_id = %s and state in ('waiting', 'due') limit %s) pending"""
INSERT_DELIVERIES: LiteralString = """
    with place as materialized (
        select id, types, ticket_id, client_user_id, client_stream, actor, level from webhooks
        where id = any(%(ids)s) and position = %(after)s and go_to is null and enabled and deleted_at is null
        for update),
    batch as materialized (  -- row by row: the planner would take the range for a ninth of the log
        select next.position, stream_id, type, meta -> 'actor' ->> 'id' as actor, meta ->> 'level' as level
        from (select position, ord from log where position > %(after)s and position <= %(through)s
              order by position limit %(batch)s) next
        cross join lateral (select stream_id, type, meta from events where events.ord = next.ord limit 1) e),
    fits as (
        select place.id, batch.position, batch.stream_id, batch.type,
            row_number() over (partition by place.id, batch.stream_id order by batch.position) as nth
        from place cross join batch
        where (place.types = '{}' or batch.type = any(place.types))
          and (place.ticket_id is null or batch.stream_id = place.ticket_id)
          and (place.actor is null or batch.actor = place.actor)
          and (place.level is null or batch.level = place.level)
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
    update webhooks set position = (select max(position) from batch)
    from place where webhooks.id = place.id and exists (select from batch)"""
# SELECT_DUE_DELIVERIES names the columns of Delivery, in order
SELECT_DUE_DELIVERIES: LiteralString = """
    select d.* from unnest(%(ids)s::uuid[], %(room)s::int[]) as wanted(id, room) cross join lateral (
        select webhook_id, id, position, stream_id, type, attempts, first_failed_at, queued_at
        from webhook_deliveries
        where webhook_id = wanted.id and state = 'due' and due_at <= %(now)s and id <> all(%(without)s::bigint[])
        order by due_at limit wanted.room) d"""


class ServedSubscription(msgspec.Struct, frozen=True):
    """A subscription that is switched on."""

    id: UUID
    number: int
    revision: int
    url: str
    secret: str
    old_secret: str | None
    old_until: datetime | None
    position: int
    go_to: int | None
    by_client: bool


def connect_to_serve(url: str) -> psycopg.Connection[Any]:
    """A connection that holds what `lock_subscription` gives it, until it ends."""
    connection = psycopg.connect(url, **connection_settings("webhooks", look_ups=True))
    connection.execute(STAND_STILL)
    return connection


def served_subscriptions(connection: psycopg.Connection[Any]) -> list[ServedSubscription]:
    """Every subscription that is switched on."""
    return [ServedSubscription(*row) for row in connection.execute(SERVED)]


def lock_subscription(connection: psycopg.Connection[Any], number: int) -> bool:
    """Whether this connection may serve a subscription from now on. To be asked once."""
    row = connection.execute(TRY_ADVISORY_LOCK, (LOCK_SPACE, number)).fetchone()
    return bool(row and row[0])


def unlock_subscription(connection: psycopg.Connection[Any], number: int) -> None:
    """Lets others serve it."""
    connection.execute(UNLOCK, (LOCK_SPACE, number))


def queue_deliveries(
    connection: psycopg.Connection[Any], subscriptions: Sequence[ServedSubscription], now: datetime
) -> int:
    """Queues what the log has for these subscriptions, a batch of positions each.

    Those that stand at the same position are followed together: each event is read once. Returns how much was to do.
    """
    moved = [one.id for one in subscriptions if one.go_to is not None]
    for id_ in moved:
        connection.execute(GO_TO, (id_,))
    ends = connection.execute(ENDS).fetchone() or (0, 0)
    groups: dict[tuple[int, int], list[UUID]] = {}
    for one in subscriptions:
        # whose a ticket is, the summaries tell: what they have not seen has to wait
        through = ends[0] if not one.by_client else min(ends)
        if one.go_to is None and one.position < through and _has_room(connection, one.id):
            groups.setdefault((one.position, through), []).append(one.id)
    for (after, through), ids in groups.items():
        given = {"ids": ids, "after": after, "through": through, "batch": DELIVERY_BATCH_MAX, "now": now}
        connection.execute(INSERT_DELIVERIES, given)
    return len(moved) + len(groups)


def _has_room(connection: psycopg.Connection[Any], id_: UUID) -> bool:
    row = connection.execute(COUNT_PENDING_DELIVERIES, (id_, MOST_PENDING)).fetchone()
    return bool(row and row[0] < MOST_PENDING)


def due_deliveries(
    connection: psycopg.Connection[Any], room: dict[UUID, int], without: Iterable[int], now: datetime
) -> list[Delivery]:
    """The deliveries that are due, longest first: so many of each subscription, without those under way."""
    given = {"ids": list(room), "room": list(room.values()), "without": list(without), "now": now}
    return [Delivery(*row) for row in connection.execute(SELECT_DUE_DELIVERIES, given)]
