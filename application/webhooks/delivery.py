"""What becomes of a delivery: delivered, tried again later, or given up; and when a subscription is switched off.

An attempt that fails is repeated after a pause that doubles, with full jitter (a random part of it), so that receivers
that come back are not stormed. After three days the delivery is given up. Where nothing else was accepted since, the
receiver is gone: the subscription is switched off instead, and the delivery stays due for the day it is back.
"""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from random import SystemRandom
from typing import Any, LiteralString
from uuid import UUID

import msgspec
import psycopg

from application.webhooks.sender import AttemptOutcome

FIRST_DELIVERY_PAUSE, LONGEST_DELIVERY_PAUSE = 5.0, 6 * 3600.0
LONGEST_RETRY_AFTER = 24 * 3600.0
# a worker that was not there for days has not tried for days
DELIVERY_GIVE_UP_AFTER, LEAST_ATTEMPTS = timedelta(days=3), 6
DELIVERY_RETENTION = timedelta(days=30)
PRUNE_BATCH = 2_000
HTTP_GONE = 410

UPDATE_TRIED_DELIVERIES: LiteralString = """
    with told as (select * from json_to_recordset(%s::json) as t(
        webhook_id uuid, id bigint, stream_id uuid, state text, attempts int, due_at timestamptz,
        first_failed_at timestamptz, attempted_at timestamptz, last_status int, last_error text, duration_ms int,
        settled_at timestamptz, revision int)),
    settled as (
        update webhook_deliveries d set state = t.state, attempts = t.attempts, due_at = t.due_at,
            first_failed_at = t.first_failed_at, attempted_at = t.attempted_at, last_status = t.last_status,
            last_error = t.last_error, duration_ms = t.duration_ms, settled_at = t.settled_at
        from told t where d.webhook_id = t.webhook_id and d.id = t.id and d.state = 'due'
            and (t.state = 'delivered' or exists (  -- else an admin has given it a fresh start
                select from webhooks w where w.id = t.webhook_id and w.revision = t.revision))
        returning d.webhook_id, d.stream_id, d.settled_at)
    update webhook_deliveries n set state = 'due', due_at = settled.settled_at
    from settled cross join lateral (  -- the next one of the same ticket has its turn
        select id from webhook_deliveries w
        where w.webhook_id = settled.webhook_id and w.stream_id = settled.stream_id and w.state = 'waiting'
        order by id limit 1) following
    where settled.settled_at is not null and n.webhook_id = settled.webhook_id and n.id = following.id"""
LOCK_WEBHOOKS: LiteralString = "select from webhooks where id = any(%s) order by id for update"
DISABLE: LiteralString = """
    update webhooks set enabled = false, disabled_at = %s, disabled_reason = %s, revision = revision + 1
    where id = %s and enabled and revision = %s"""
ACCEPTED_SINCE: LiteralString = """
    select exists (
        select from webhook_deliveries where webhook_id = %s and settled_at > %s and state = 'delivered'
            and position is not null)"""
DELETE_OLD_DELIVERIES: LiteralString = """
    delete from webhook_deliveries where (webhook_id, id) in (
        select webhook_id, id from webhook_deliveries
        where queued_at < %s and settled_at < %s and state in ('delivered', 'failed') limit %s)"""
PRUNE_DELETED: LiteralString = """
    with gone as (select id from webhooks where deleted_at is not null limit 1),
    pruned as (
        delete from webhook_deliveries where (webhook_id, id) in (
            select webhook_id, d.id from gone join webhook_deliveries d on webhook_id = gone.id limit %s)
        returning 1),
    counted as (select count(*) as count from pruned)
    delete from webhooks using gone, counted where webhooks.id = gone.id and count = 0"""

Chance = Callable[[float, float], float]
uniform: Chance = SystemRandom().uniform


class Delivery(msgspec.Struct, frozen=True):
    """A delivery whose turn it is; a ping has no position."""

    webhook_id: UUID
    id: int
    position: int | None
    stream_id: UUID
    type: str
    attempts: int
    first_failed_at: datetime | None
    queued_at: datetime


class DeliveryResult(msgspec.Struct, frozen=True):
    """What a delivery comes to; `settled_at` is null while it is tried again."""

    webhook_id: UUID
    id: int
    stream_id: UUID
    state: str
    attempts: int
    due_at: datetime
    first_failed_at: datetime | None
    attempted_at: datetime
    last_status: int | None
    last_error: str | None
    duration_ms: int
    settled_at: datetime | None
    revision: int = 0  # of the subscription that it was sent for


def settled(delivery: Delivery, answer: AttemptOutcome, now: datetime, chance: Chance = uniform) -> DeliveryResult:
    """A delivery after an attempt: delivered, due again later, or (a ping has one attempt) failed."""
    failed_at = None if answer.accepted else delivery.first_failed_at or now
    state, due_at = "due", now
    if answer.accepted:
        state = "delivered"
    elif delivery.position is None:
        state = "failed"
    else:
        due_at = now + delivery_backoff(delivery.attempts + 1, answer.retry_after, chance)
    return DeliveryResult(
        delivery.webhook_id,
        delivery.id,
        delivery.stream_id,
        state,
        delivery.attempts + 1,
        due_at,
        failed_at,
        now,
        answer.status,
        None if answer.accepted else answer.error or f"answered {answer.status}",
        answer.duration_ms,
        None if state == "due" else now,
    )


def delivery_backoff(attempts: int, retry_after: float | None, chance: Chance = uniform) -> timedelta:
    """How long to wait before the next attempt; never less than the receiver asked for, up to a day."""
    ceiling = min(FIRST_DELIVERY_PAUSE * 2 ** min(attempts - 1, 20), LONGEST_DELIVERY_PAUSE)
    return timedelta(seconds=max(chance(0, ceiling), min(retry_after or 0, LONGEST_RETRY_AFTER)))


def is_exhausted(tried: DeliveryResult) -> bool:
    """Whether it has been tried for three days."""
    failed_at = tried.first_failed_at
    return (
        tried.state == "due"
        and tried.attempts >= LEAST_ATTEMPTS
        and failed_at is not None
        and tried.attempted_at - failed_at >= DELIVERY_GIVE_UP_AFTER
    )


def record_attempts(connection: psycopg.Connection[Any], tried: Sequence[DeliveryResult]) -> dict[UUID, str]:
    """Writes what deliveries came to, and lets the next ones of their tickets have their turn.

    A subscription that was changed since the attempt is not switched off for it, nor is the delivery put off.
    Returns the subscriptions that were switched off, with the reason.
    """
    off: dict[UUID, tuple[str, int]] = {}
    rows = [_ended(connection, one, off) for one in tried]
    with connection.transaction():  # subscriptions first, as an admin's change takes them: nobody waits in a circle
        connection.execute(LOCK_WEBHOOKS, ([one.webhook_id for one in tried],))
        connection.execute(UPDATE_TRIED_DELIVERIES, (msgspec.json.encode(rows).decode(),))
        return {
            webhook_id: reason
            for webhook_id, (reason, revision) in sorted(off.items())
            if connection.execute(DISABLE, (rows[0].attempted_at, reason, webhook_id, revision)).rowcount
        }


def _ended(
    connection: psycopg.Connection[Any], tried: DeliveryResult, off: dict[UUID, tuple[str, int]]
) -> DeliveryResult:
    """A delivery that was tried for three days is given up, unless it is the receiver who is gone."""
    if tried.state == "due" and tried.last_status == HTTP_GONE:
        off[tried.webhook_id] = "the receiver answered 410 Gone", tried.revision
        return tried
    if not is_exhausted(tried):
        return tried
    row = connection.execute(ACCEPTED_SINCE, (tried.webhook_id, tried.first_failed_at)).fetchone()
    if row and row[0]:
        return msgspec.structs.replace(tried, state="failed", settled_at=tried.attempted_at)
    reason = f"nothing was accepted for {DELIVERY_GIVE_UP_AFTER.days} days; the last attempt: {tried.last_error}"
    off[tried.webhook_id] = reason, tried.revision
    return tried


def prune_deliveries(connection: psycopg.Connection[Any], now: datetime) -> int:
    """Clears away what is settled and old, and what deleted subscriptions left, a batch at a time. Returns how much."""
    old = connection.execute(
        DELETE_OLD_DELIVERIES, (now - DELIVERY_RETENTION, now - DELIVERY_RETENTION, PRUNE_BATCH)
    ).rowcount
    connection.execute(PRUNE_DELETED, (PRUNE_BATCH,))
    return old
