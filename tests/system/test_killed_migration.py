"""`deskledger migrate` is killed at each of its statements: what it had not finished is not there, and is done later."""

import subprocess
from typing import Any

import psycopg
import pytest

from application.database import connect, migrations
from projections.runner import PROJECTIONS
from tests.support.running_desk import ROOT, wait_until
from tests.upgrade.earlier_version import migrate_all, migrate_command, restore

LOCK = 7_365_636_199
FIRST = 1_000_000
# Stops whoever defines something at the statement that is wanted: there it waits for a lock that the test holds.
STOP = f"""
    create schema stops;
    create sequence stops.counted;
    create function stops.wait() returns event_trigger language plpgsql as $$
    begin
        if nextval('stops.counted') = {FIRST} then perform pg_advisory_xact_lock({LOCK}); end if;
    end $$;
    create event trigger stop on ddl_command_end execute function stops.wait();"""
REMOVE = "drop event trigger stop; drop schema stops cascade"
WAITING = f"select exists (select from pg_locks where locktype = 'advisory' and objid = {LOCK % 2**32} and not granted)"
GONE = """
    select not exists (select from pg_stat_activity
        where datname = current_database() and application_name = 'deskledger migrate')"""
SCHEMA = """
    select 'column', table_schema, table_name, column_name, data_type, is_nullable, column_default
    from information_schema.columns where table_schema in ('public', 'reporting')
    union all select 'index', schemaname, tablename, indexname, indexdef, '', '' from pg_indexes
    where schemaname in ('public', 'reporting')
    union all select 'trigger', '', tgrelid::regclass::text, tgname, pg_get_triggerdef(oid), '', '' from pg_trigger
    where not tgisinternal
    union all select 'constraint', '', conrelid::regclass::text, conname, pg_get_constraintdef(oid), '', ''
    from pg_constraint where connamespace = 'public'::regnamespace
    order by 1, 2, 3, 4, 5"""
DONE = "select coalesce(array_agg(name order by name), '{}') from "
HELD = """
    select (select count(*) from events), (select count(*) from log), (select count(*) from idempotency),
        (select count(*) from api_keys), (select count(*) from closure_mails), (select count(*) from webhooks),
        (select count(*) from webhook_deliveries), (select count(*) from ticket_summaries),
        (select count(*) from queue_stays), (select next_position from seal_state),
        (select encode(sha256(string_agg(leaf, '' order by ord)), 'hex') from events)"""


def is_there(connection: psycopg.Connection[Any], table: str) -> bool:
    """Whether there is such a table."""
    return bool(connection.execute("select to_regclass(%s) is not null", (table,)).fetchone()[0])


def done(connection: psycopg.Connection[Any]) -> list[str]:
    """What is written down as done: migrations, and projections."""
    found: list[str] = []
    for table in ("schema_migrations", "projections"):
        if is_there(connection, table):
            found += connection.execute((DONE + table).encode()).fetchone()[0]
    return found


def killed_at(connection: psycopg.Connection[Any], database: str, statement: int) -> bool:
    """Kills `deskledger migrate` at its so-and-so-manieth definition. Returns False when it ended before that."""
    connection.execute("select setval('stops.counted', %s)", (FIRST - statement,))
    connection.execute("select pg_advisory_lock(%s)", (LOCK,))
    command, environment = migrate_command(database)
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)

    def stands_or_has_ended() -> bool:
        return process.poll() is not None or connection.execute(WAITING).fetchone()[0]

    try:
        wait_until(stands_or_has_ended, 60, f"it stands at statement {statement}, or has ended")
    finally:
        stood = process.poll() is None
        process.kill()
        process.wait()
        connection.execute("select pg_advisory_unlock(%s)", (LOCK,))
    wait_until(lambda: connection.execute(GONE).fetchone()[0], 60, "its connection has ended")
    assert stood or process.returncode == 0
    return stood


def kill_at_each_statement(database: str) -> int:
    """Kills it everywhere, until it has nothing left to do. Returns how often."""
    kills, statement = 0, 1
    with connect(database, "test") as connection:
        connection.execute(STOP)
        before = done(connection)
        while killed_at(connection, database, statement):
            kills += 1
            now = done(connection)
            assert set(before) <= set(now)
            statement = statement + 1 if now == before else 2  # what is done is passed over: the next one begins
            before = now
        connection.execute(REMOVE)
    return kills


def schema(database: str) -> list[tuple[Any, ...]]:
    """Every column, index, trigger and constraint of ours."""
    with connect(database, "test") as connection:
        return connection.execute(SCHEMA).fetchall()


@pytest.mark.usefixtures("superuser")
def test_killed_anywhere_from_nothing_on(empty_database: str, database: str) -> None:
    """From an empty database: in the end everything is there once, as if nobody had been killed."""
    kills = kill_at_each_statement(empty_database)
    assert kills > len(migrations()) + len(PROJECTIONS)
    assert migrate_all(empty_database) == "the schema is up to date\n"
    assert schema(empty_database) == schema(database)
    with connect(empty_database, "test") as connection:
        assert done(connection) == [name for _, name, _ in migrations()] + sorted(one.name for one in PROJECTIONS)


@pytest.mark.usefixtures("superuser")
def test_killed_anywhere_from_an_earlier_version_on(empty_database: str, database: str) -> None:
    """From a desk of before: the same, and what people did is there, once."""
    restore(empty_database)
    with connect(empty_database, "test") as connection:
        before = connection.execute(HELD).fetchone()
    kill_at_each_statement(empty_database)
    assert migrate_all(empty_database) == "the schema is up to date\n"
    assert schema(empty_database) == schema(database)
    with connect(empty_database, "test") as connection:
        assert connection.execute(HELD).fetchone() == before
