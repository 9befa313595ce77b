"""What does the database tell of the desk's health? For `deskledger doctor`."""

from typing import Any, LiteralString
from uuid import UUID

import msgspec
import psycopg

from application.clock import utc_now
from application.commands.email_addresses import is_address
from application.store.postgres.database import IMPORT_LOCK, migrations
from domain.values import Role
from projections.engine.parking import ParkedStream, parked_streams
from projections.runner import lag
from projections.status.lost_references import held_by_nobody, link_circles
from projections.status.readiness import clock_off

SELECT_UNSEALED: LiteralString = """
    select count(*), greatest(coalesce(extract(epoch from now() - min(at)), 0), 0)::int
    from events, seal_state where ord > hi"""
COUNT_ADMIN_KEYS: LiteralString = """
    select count(*) from api_keys
    where %s = any(roles) and revoked_at is null and (expires_at is null or expires_at > now())"""
# Reads by time wait for those who write events, at least for a moment; and for imports until they are done.
WRITERS: LiteralString = """
    select
        coalesce(max(extract(epoch from clock_timestamp() - xact_start)) filter (where locktype = 'relation'), 0)::int,
        count(*) filter (where locktype = 'advisory')
    from pg_locks left join pg_stat_activity using (pid)
    where granted and pg_locks.database = (select oid from pg_database where datname = current_database())
        and (locktype = 'relation' and relation = 'events'::regclass and mode = 'RowExclusiveLock'
            or locktype = 'advisory' and objsubid = 1 and classid::bigint << 32 | objid::bigint = %s)"""
COUNT_PREPARED: LiteralString = "select count(*) from pg_prepared_xacts where database = current_database()"
FOLLOWERS_AHEAD: LiteralString = """
    select name from (
        select 'projection ' || name, position from projections union all
        select name, position from followers union all
        select 'webhook ' || id, position from webhooks where deleted_at is null) follower(name, position)
    where position > (select coalesce(max(position), 0) from log) order by name"""
TICKETS_AHEAD: LiteralString = """
    select ticket_id from ticket_summaries where updated_at > clock_timestamp() + interval '2 seconds'
    order by updated_at desc limit 100"""
FAILED: LiteralString = """
    select ticket_id, last_error from closure_mails where state = 'failed' order by settled_at desc limit 3"""

WAITING: LiteralString = """
    select ticket_id, last_error from closure_mails
    where state = 'due' and last_error is not null and (needs_desk or first_refused_at < now() - interval '1 hour')
    order by needs_desk desc, queued_at limit 3"""
# What is plain to see is not handed over: an address is rarely anything else.
UNUSUAL_ADDRESSES: LiteralString = """
    select address.user_id, address.email from (
        select distinct on (stream_id) body ->> 'user_id' as user_id, body ->> 'email' as email from events
        where type in ('Client.Registered', 'Client.ContactChanged') order by stream_id, version desc) address
    where length(email) > 64 or email !~ '^[A-Za-z0-9_+-]+([.][A-Za-z0-9_+-]+)*@([A-Za-z0-9]+[.])+[A-Za-z]+$'"""


class Checkup(msgspec.Struct, frozen=True):
    """Everything that is worth a look; `lag` counts events, `last_failed` are tickets and what the mail server said.

    `waiting` are tickets whose mail waits for the desk, or for an hour already; `wrong_addresses` are user IDs.
    `oldest_writer_seconds` is since when somebody is in a transaction that writes events; `followers_ahead` stand
    beyond the end of the log, `tickets_ahead` have events of the future (at most 100).
    """

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
    waiting: list[tuple[UUID, str]] = []
    wrong_addresses: list[tuple[str, str]] = []
    clock_off_seconds: float = 0.0
    oldest_writer_seconds: int = 0
    imports: int = 0
    prepared_transactions: int = 0
    followers_ahead: list[str] = []
    tickets_ahead: list[UUID] = []
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
    failed, waiting = connection.execute(FAILED).fetchall(), connection.execute(WAITING).fetchall()
    due, gone = mails.get("due", 0), mails.get("failed", 0)
    behind, parked = lag(connection), parked_streams(connection)
    wrong, asked = wrong_addresses(connection), utc_now()
    (clock,) = connection.execute("select clock_timestamp()").fetchone() or (asked,)
    off = clock_off(asked, clock, utc_now())
    writing, imports = connection.execute(WRITERS, (IMPORT_LOCK,)).fetchone() or (0, 0)
    prepared = (connection.execute(COUNT_PREPARED).fetchone() or (0,))[0]
    ahead = [name for (name,) in connection.execute(FOLLOWERS_AHEAD).fetchall()]
    tickets = [ticket for (ticket,) in connection.execute(TICKETS_AHEAD).fetchall()]
    return Checkup(
        version,
        [],
        unsealed,
        seconds,
        behind,
        parked,
        admins,
        due,
        gone,
        failed,
        waiting,
        wrong,
        off,
        writing,
        imports,
        prepared,
        ahead,
        tickets,
        *held_by_nobody(connection),
        link_circles(connection),
    )


def wrong_addresses(connection: psycopg.Connection[Any]) -> list[tuple[str, str]]:
    """The clients whose address in the directory cannot be one: their user ID and the address."""
    return [(user_id, email) for user_id, email in connection.execute(UNUSUAL_ADDRESSES) if not is_address(email)]


def _missing(connection: psycopg.Connection[Any]) -> list[str]:
    wanted = [name for _, name, _ in migrations()]
    try:
        done = {row[0] for row in connection.execute("select name from schema_migrations")}
        connection.execute("select from projections, parked_streams")
    except psycopg.errors.UndefinedTable:
        return wanted
    return [name for name in wanted if name not in done]
