"""What does the database tell of the desk's health? For `deskledger doctor`."""

from typing import Any, LiteralString
from uuid import UUID

import msgspec
import psycopg

from application.store.postgres.database import migrations
from domain.values import Role
from projections.engine.parking import ParkedStream, parked_streams
from projections.runner import lag
from projections.status.lost_references import held_by_nobody, link_circles

SELECT_UNSEALED: LiteralString = """
    select count(*), greatest(coalesce(extract(epoch from now() - min(at)), 0), 0)::int
    from events, seal_state where ord > hi"""
COUNT_ADMIN_KEYS: LiteralString = """
    select count(*) from api_keys
    where %s = any(roles) and revoked_at is null and (expires_at is null or expires_at > now())"""
FAILED: LiteralString = """
    select ticket_id, last_error from closure_mails where state = 'failed' order by settled_at desc limit 3"""


class Checkup(msgspec.Struct, frozen=True):
    """Everything that is worth a look; `lag` counts events, `last_failed` are tickets and what the mail server said."""

    server_version: int
    missing_migrations: list[str]
    unsealed: int = 0
    oldest_unsealed_seconds: int = 0
    lag: dict[str, int] = {}
    parked: list[ParkedStream] = []
    admin_keys: int = 0
    mails_due: int = 0
    mails_failed: int = 0
    last_failed: list[tuple[UUID, str]] = []
    held_by_nobody: int = 0
    first_held: list[tuple[UUID, str]] = []
    circles: list[list[UUID]] = []


def checkup(connection: psycopg.Connection[Any]) -> Checkup:
    """Looks at everything; at no more than the version when migrations are missing."""
    version, missing = connection.info.server_version, _missing(connection)
    if missing:
        return Checkup(version, missing)
    unsealed, seconds = connection.execute(SELECT_UNSEALED).fetchone() or (0, 0)
    admins = (connection.execute(COUNT_ADMIN_KEYS, (Role.ADMIN,)).fetchone() or (0,))[0]
    mails = dict(connection.execute("select state, count(*) from closure_mails group by state").fetchall())
    failed = connection.execute(FAILED).fetchall()
    due, gone = mails.get("due", 0), mails.get("failed", 0)
    behind, parked = lag(connection), parked_streams(connection)
    lost = (*held_by_nobody(connection), link_circles(connection))
    return Checkup(version, [], unsealed, seconds, behind, parked, admins, due, gone, failed, *lost)


def _missing(connection: psycopg.Connection[Any]) -> list[str]:
    wanted = [name for _, name, _ in migrations()]
    try:
        done = {row[0] for row in connection.execute("select name from schema_migrations")}
        connection.execute("select from projections, parked_streams")
    except psycopg.errors.UndefinedTable:
        return wanted
    return [name for name in wanted if name not in done]
