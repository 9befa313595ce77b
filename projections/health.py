"""How far is everything? For /readyz and `deskledger doctor`."""

import msgspec
import psycopg
from psycopg.sql import SQL

from application.database import migrations
from projections.pages import Fetch

APPLIED = SQL("select coalesce(array_agg(name), '{}') from schema_migrations")
UNSEALED = SQL("""
    select coalesce(max(position), 0), coalesce((
        select extract(epoch from now() - min(at)) from events, seal_state where ord > hi), 0)::float8
    from log""")
POSITIONS = SQL("""
    select name, position, (select count(*) from parked_streams where projection = name) from projections
    order by name""")
MAILS = SQL("""
    select count(*) filter (where state = 'due'), count(*) filter (where state = 'failed')
    from closure_mails where state <> 'sent'""")


class Health(msgspec.Struct, frozen=True):
    """Migrations, the log, the projections and the outbox. `lag` counts events, `parked` streams, by projection."""

    missing_migrations: list[str] = []
    position: int = 0
    oldest_unsealed_seconds: float = 0.0
    lag: dict[str, int] = {}
    parked: dict[str, int] = {}
    mails_due: int = 0
    mails_failed: int = 0


async def health(fetch: Fetch) -> Health:
    """What is there and how far it is. Raises Unavailable."""
    wanted = [name for _, name, _ in migrations()]
    try:
        applied = (await fetch(APPLIED, ()))[0][0]
        missing = [name for name in wanted if name not in applied]
        if missing:
            return Health(missing)
        position, unsealed = (await fetch(UNSEALED, ()))[0]
        standing = await fetch(POSITIONS, ())
        lag, parked = {name: position - at for name, at, _ in standing}, {name: count for name, _, count in standing}
        due, failed = (await fetch(MAILS, ()))[0]
    except psycopg.errors.UndefinedTable:
        return Health(wanted)
    return Health([], position, max(unsealed, 0.0), lag, parked, due, failed)
