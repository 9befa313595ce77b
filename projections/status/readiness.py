"""How far is everything? For /readyz and /metrics, by one query that looks up what it needs."""

import time

import msgspec
import psycopg
from psycopg.sql import SQL

from application.store.postgres.database import migrations
from projections.queries.pages import Fetch

READINESS_CACHE_SECONDS = 1.0
APPLIED = SQL("select coalesce(array_agg(name), '{}') from schema_migrations")
# Where more than 1,000 wait, it is enough to know that.
STANDING = SQL("""
    select (select coalesce(array_agg(name), '{}') from schema_migrations),
        (select coalesce(max(position), 0) from log),
        (select extract(epoch from now() - at)::float8 from events
            where ord > (select hi from seal_state) order by ord limit 1),
        (select jsonb_object_agg(name, jsonb_build_array(position,
            (select extract(epoch from now() - at)::float8 from log join events using (ord)
                where log.position = projections.position + 1),
            (select count(*) from parked_streams where projection = name))) from projections),
        due.count, due.seconds, failed.count, hooks.lag, hooks.seconds, pending.count
    from (select count(*), extract(epoch from now() - min(queued_at))::float8 as seconds from (
            select queued_at from closure_mails where state = 'due' order by due_at limit 1000) waiting) due,
        (select count(*) from (select from closure_mails where state = 'failed' limit 1000) gone) failed,
        (select greatest((select max(position) from log) - min(position), 0) as lag,
            extract(epoch from now() - min(next.queued_at))::float8 as seconds
            from webhooks left join lateral (
                select queued_at from webhook_deliveries where webhook_id = webhooks.id and state = 'due'
                order by due_at limit 1) next on true
            where enabled and deleted_at is null) hooks,
        (select count(*) from (select from webhook_deliveries where state in ('waiting', 'due') limit 1000) left_to_do
            ) pending""")


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


async def health(fetch: Fetch) -> Health:
    """What is there and how far it is. Raises Unavailable."""
    wanted = [name for _, name, _ in migrations()]
    try:
        applied, last, unsealed, projections, due, age, failed, lag, waits, pending = (await fetch(STANDING, ()))[0]
    except (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn):
        return Health(await _missing(fetch, wanted))
    if missing := [name for name in wanted if name not in applied]:
        return Health(missing)
    stands = msgspec.json.decode(projections or b"{}", type=dict[str, tuple[int, float | None, int]])
    return Health(
        [],
        last,
        _age(unsealed),
        {name: max(last - position, 0) for name, (position, _, _) in stands.items()},
        {name: _age(seconds) for name, (_, seconds, _) in stands.items()},
        {name: parked for name, (_, _, parked) in stands.items()},
        due,
        _age(age),
        failed,
        lag or 0,
        _age(waits),
        pending,
    )


async def _missing(fetch: Fetch, wanted: list[str]) -> list[str]:
    """The migrations that are missing; all of them where nobody has noted any. The projections come after them."""
    try:
        applied = (await fetch(APPLIED, ()))[0][0]
    except psycopg.errors.UndefinedTable:
        return wanted
    return [name for name in wanted if name not in applied] or wanted


def _age(seconds: float | None) -> float:
    """Not negative: the clock of whoever recorded the event may be ahead of the database's."""
    return max(seconds or 0.0, 0.0)


class Kept:
    """The health of a moment ago, for whoever asks often."""

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch
        self._found, self._until = Health(), 0.0

    async def now(self) -> Health:
        """As it is. Raises Unavailable."""
        self._found = await health(self._fetch)
        self._until = time.monotonic() + READINESS_CACHE_SECONDS
        return self._found

    async def lately(self) -> Health:
        """As it was at most a second ago. Raises Unavailable."""
        return self._found if time.monotonic() < self._until else await self.now()
