"""How far is everything? For /readyz and /metrics, by one query that looks up what it needs."""

from datetime import datetime

import msgspec
import psycopg
from psycopg.sql import SQL

from application.clock import utc_now
from application.store.postgres.database import migrations
from projections.queries.pages import Fetch

APPLIED = SQL("select coalesce(array_agg(name), '{}') from schema_migrations")
# Where more than 1,000 wait, it is enough to know that. Nothing is negative: the clock of whoever recorded an event may
# be ahead of the database's.
STANDING = SQL("""
    select (select coalesce(array_agg(name), '{}') from schema_migrations), clock_timestamp(), jsonb_build_object(
        'position', ending.position,
        'oldest_unsealed_seconds', greatest((select extract(epoch from now() - at) from events
            where ord > (select hi from seal_state) order by ord limit 1), 0),
        'lag', (select coalesce(jsonb_object_agg(name, greatest(ending.position - position, 0)), '{}')
            from projections),
        'lag_seconds', (select coalesce(jsonb_object_agg(name, greatest((select extract(epoch from now() - at)
            from log join events using (ord) where log.position = projections.position + 1), 0)), '{}')
            from projections),
        'parked', (select coalesce(jsonb_object_agg(name,
            (select count(*) from parked_streams where projection = name)), '{}') from projections),
        'mails_due', due.count,
        'oldest_mail_due_seconds', greatest(due.seconds, 0),
        'mails_failed', (select count(*) from (select from closure_mails where state = 'failed' limit 1000) gone),
        'webhook_lag', greatest(ending.position - hooks.position, 0),
        'oldest_webhook_seconds', greatest(hooks.seconds, 0),
        'webhooks_pending', (select count(*) from (
            select from webhook_deliveries where state in ('waiting', 'due') limit 1000) left_to_do))
    from (select coalesce(max(position), 0) as position from log) ending,
        (select count(*), extract(epoch from now() - min(queued_at)) as seconds from (
            select queued_at from closure_mails where state = 'due' order by due_at limit 1000) waiting) due,
        (select min(position) as position, extract(epoch from now() - min(next.queued_at)) as seconds
            from webhooks left join lateral (
                select queued_at from webhook_deliveries where webhook_id = webhooks.id and state = 'due'
                order by due_at limit 1) next on true
            where enabled and deleted_at is null) hooks""")


class Health(msgspec.Struct, frozen=True):
    """Migrations, the log, the projections, the outbox and the webhooks.

    `lag` counts events, `parked` streams, by projection; `lag_seconds` is how old the first event is that a projection
    has yet to apply. Of mails and deliveries, at most 1,000 are counted. `webhook_lag` is that of the webhook which is
    furthest behind the log; `oldest_webhook_seconds` is how long the delivery that is tried next has waited, of the
    webhook where that is longest.
    """

    missing_migrations: list[str] = []
    position: int = 0
    oldest_unsealed_seconds: float = 0.0
    lag: dict[str, int] = {}
    lag_seconds: dict[str, float] = {}
    parked: dict[str, int] = {}
    mails_due: int = 0
    oldest_mail_due_seconds: float = 0.0
    mails_failed: int = 0
    webhook_lag: int = 0
    oldest_webhook_seconds: float = 0.0
    webhooks_pending: int = 0
    clock_off_seconds: float = 0.0


async def health(fetch: Fetch) -> Health:
    """What is there and how far it is. Raises Unavailable."""
    wanted, asked = [name for _, name, _ in migrations()], utc_now()
    try:
        applied, clock, found = (await fetch(STANDING, ()))[0]
    except (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn):
        return Health(await _missing(fetch, wanted))
    missing = [name for name in wanted if name not in applied]
    if missing:
        return Health(missing)
    off = clock_off(asked, clock, utc_now())
    return msgspec.structs.replace(msgspec.json.decode(found, type=Health), clock_off_seconds=off)


def clock_off(asked: datetime, clock: datetime, answered: datetime) -> float:
    """By how many seconds our clock is ahead of another one, at least, or behind (less than 0).

    The other one was read between two looks at ours.
    """
    ahead, behind = asked - clock, clock - answered
    return max(ahead.total_seconds(), 0.0) - max(behind.total_seconds(), 0.0)


async def _missing(fetch: Fetch, wanted: list[str]) -> list[str]:
    """The migrations that are missing; all of them where nobody has noted any. The projections come after them."""
    try:
        applied = (await fetch(APPLIED, ()))[0][0]
    except psycopg.errors.UndefinedTable:
        return wanted
    return [name for name in wanted if name not in applied] or wanted
