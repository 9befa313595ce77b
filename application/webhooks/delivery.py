"""What becomes of a delivery: delivered, tried again later, or given up; and when a subscription is switched off.

An attempt that fails is repeated after a pause that doubles, with full jitter (a random part of it), so that receivers
that come back are not stormed. After three days the delivery is given up. Where nothing else was accepted since, the
receiver is gone: the subscription is switched off instead, and the delivery stays due for the day it is back.
"""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from random import SystemRandom
from typing import Annotated, Any, Literal, LiteralString
from uuid import UUID

import msgspec
import psycopg
from msgspec.structs import replace

from application.webhooks.sender import AttemptOutcome

FIRST_DELIVERY_PAUSE, LONGEST_DELIVERY_PAUSE = 5.0, 6 * 3600.0
LONGEST_RETRY_AFTER = 24 * 3600.0
# a worker that was not there for days has not tried for days
DELIVERY_GIVE_UP_AFTER, LEAST_ATTEMPTS = timedelta(days=3), 6
DELIVERY_RETENTION = timedelta(days=30)
PRUNE_BATCH = 2_000
HTTP_GONE = 410

LOCK_WEBHOOKS: LiteralString = "select id, revision from webhooks where id = any(%s) order by id for update"
UPDATE_TRIED_DELIVERIES: LiteralString = """
    with tried as (
        update webhook_deliveries d set state = t.state, attempts = t.attempts, due_at = t.due_at,
            first_failed_at = t.first_failed_at, attempted_at = t.attempted_at, last_status = t.last_status,
            last_error = t.last_error, duration_ms = t.duration_ms, settled_at = t.settled_at
        from json_populate_recordset(null::webhook_deliveries, %s::json) t
        where d.webhook_id = t.webhook_id and d.id = t.id and d.state = 'due'
        returning d.webhook_id, d.stream_id, d.settled_at)
    update webhook_deliveries n set state = 'due', due_at = tried.settled_at
    from tried cross join lateral (  -- the next one of the same ticket has its turn
        select id from webhook_deliveries w
        where w.webhook_id = tried.webhook_id and w.stream_id = tried.stream_id and w.state = 'waiting'
        order by id limit 1) following
    where tried.settled_at is not null and n.webhook_id = tried.webhook_id and n.id = following.id"""
DISABLE: LiteralString = """
    update webhooks set enabled = false, disabled_at = %s, disabled_reason = %s, revision = revision + 1
    where id = %s and enabled"""
ACCEPTED_SINCE: LiteralString = """
    select from webhook_deliveries
    where webhook_id = %s and settled_at > %s and state = 'delivered' and position is not null limit 1"""
PRUNE: LiteralString = """
    with gone as (select id from webhooks where deleted_at is not null limit 1 for update),
    pruned as (
        delete from webhook_deliveries where (webhook_id, id) in (
            select webhook_id, id from webhook_deliveries
            where queued_at < %(before)s and settled_at < %(before)s and state in ('delivered', 'failed')
            union all select webhook_id, d.id from gone join webhook_deliveries d on webhook_id = gone.id
            limit %(batch)s)
        returning 1),
    ended as (
        delete from webhooks using gone where webhooks.id = gone.id and not exists (
            select from webhook_deliveries d where d.webhook_id = gone.id)
        returning 1)
    select from pruned union all select from ended"""

Chance = Callable[[float, float], float]
uniform: Chance = SystemRandom().uniform
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


class WebhookPing(msgspec.Struct, frozen=True):
    """What tries a receiver: it stands behind no event."""

    at: datetime
    webhook_id: UUID
    type: Literal["Webhook.Ping"] = "Webhook.Ping"


class Delivery(DeliveryRow, frozen=True):
    """A delivery whose turn it is, for a subscription as it was at that revision."""

    webhook_id: UUID
    stream_id: UUID
    revision: int


def settled(delivery: Delivery, outcome: AttemptOutcome, now: datetime, chance: Chance = uniform) -> Delivery:
    """A delivery after an attempt: delivered, due again later, or (a ping has one attempt) failed."""
    tried = replace(
        delivery,
        attempts=delivery.attempts + 1,
        attempted_at=now,
        last_status=outcome.status,
        last_error=None if outcome.accepted else outcome.error or f"answered {outcome.status}",
        duration_ms=outcome.duration_ms,
    )
    if outcome.accepted:
        return replace(tried, state="delivered", first_failed_at=None, settled_at=now)
    failed = replace(tried, first_failed_at=delivery.first_failed_at or now)
    if delivery.position is None:
        return replace(failed, state="failed", settled_at=now)
    return replace(failed, next_attempt_at=now + delivery_backoff(failed.attempts, outcome.retry_after, chance))


def delivery_backoff(attempts: int, retry_after: float | None, chance: Chance = uniform) -> timedelta:
    """How long to wait before the next attempt; never less than the receiver asked for, up to a day."""
    ceiling = min(FIRST_DELIVERY_PAUSE * 2 ** min(attempts - 1, 20), LONGEST_DELIVERY_PAUSE)
    return timedelta(seconds=max(chance(0, ceiling), min(retry_after or 0, LONGEST_RETRY_AFTER)))


def record_attempts(connection: psycopg.Connection[Any], tried: Sequence[Delivery], now: datetime) -> dict[UUID, str]:
    """Writes what deliveries came to, and lets the next ones of their tickets have their turn.

    A subscription that was changed since the attempt is not switched off for it, nor is the delivery put off.
    Returns the subscriptions that were switched off, with the reason.
    """
    with connection.transaction():  # subscriptions first, as an admin's change takes them: nobody waits in a circle
        revisions = dict(connection.execute(LOCK_WEBHOOKS, ([one.webhook_id for one in tried],)).fetchall())
        ended = [
            _end(connection, one, now)
            for one in tried  # else an admin has given it a fresh start
            if one.state == "delivered" or revisions.get(one.webhook_id) == one.revision
        ]
        rows = [msgspec.structs.asdict(one) | {"due_at": one.next_attempt_at} for one, _ in ended]
        connection.execute(UPDATE_TRIED_DELIVERIES, (msgspec.json.encode(rows).decode(),))
        return {
            one.webhook_id: reason
            for one, reason in ended
            if reason and connection.execute(DISABLE, (now, reason, one.webhook_id)).rowcount
        }


def _end(connection: psycopg.Connection[Any], tried: Delivery, now: datetime) -> tuple[Delivery, str | None]:
    """A delivery that was tried for three days is given up; or it is the receiver who is gone, and why."""
    if tried.state != "due":
        return tried, None
    if tried.last_status == HTTP_GONE:
        return tried, "the receiver answered 410 Gone"
    since = tried.first_failed_at or now
    if tried.attempts < LEAST_ATTEMPTS or now - since < DELIVERY_GIVE_UP_AFTER:
        return tried, None
    if connection.execute(ACCEPTED_SINCE, (tried.webhook_id, since)).rowcount:
        return replace(tried, state="failed", settled_at=now), None
    return tried, f"nothing was accepted for {DELIVERY_GIVE_UP_AFTER.days} days; the last attempt: {tried.last_error}"


def prune_deliveries(connection: psycopg.Connection[Any], now: datetime) -> int:
    """Clears away what is settled and old, and what deleted subscriptions left, a batch at a time. Returns how much."""
    return connection.execute(PRUNE, {"before": now - DELIVERY_RETENTION, "batch": PRUNE_BATCH}).rowcount
