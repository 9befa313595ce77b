"""`deskledger migrate` is killed in each migration: what it had not finished is not there, and is done next time."""

import subprocess
from typing import Any

import psycopg
import pytest

from application.store.postgres.database import LEDGER, connect, migrations
from projections.engine.projection import CREATE_CHECKPOINTS
from projections.runner import NAMES
from tests.support.running_desk import ROOT, wait_until
from tests.upgrade.earlier_version import migrate_all, migrate_command, restore

MIGRATIONS = [name for _, name, _ in migrations()]
LOCK = 7_365_636_199
REPORTING = "reporting"
# Whoever has done what is wanted, and is about to write it down, waits for a lock that the test holds. The views of the
# schema `reporting` are written down nowhere: there the first one waits.
STOP = f"""
    create schema stops;
    create table stops.wanted (name text);
    create function stops.before_row() returns trigger language plpgsql as $$
    begin
        if new.name in (select name from stops.wanted) then perform pg_advisory_xact_lock({LOCK}); end if;
        return new;
    end $$;
    create function stops.after_view() returns event_trigger language plpgsql as $$
    begin
        if '{REPORTING}' in (select name from stops.wanted) then perform pg_advisory_xact_lock({LOCK}); end if;
    end $$;
    create trigger stop before insert on schema_migrations for each row execute function stops.before_row();
    create trigger stop before insert on projections for each row execute function stops.before_row();
    create event trigger stop on ddl_command_end when tag in ('CREATE VIEW') execute function stops.after_view();"""
REMOVE = "drop schema stops cascade"
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


def done(connection: psycopg.Connection[Any]) -> list[str]:
    """What is written down as done: migrations, then projections."""
    found = [
        connection.execute((DONE + table).encode()).fetchone()[0] for table in ("schema_migrations", "projections")
    ]
    return [*found[0], *found[1]]


def is_killed_in(connection: psycopg.Connection[Any], database: str, name: str) -> bool:
    """Kills `deskledger migrate` when it has done this, before it commits. Returns False where it was done before."""
    connection.execute("truncate stops.wanted")
    connection.execute("insert into stops.wanted values (%s)", (name,))
    connection.execute("select pg_advisory_lock(%s)", (LOCK,))
    command, environment = migrate_command(database)
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)

    def stands_or_has_ended() -> bool:
        return process.poll() is not None or connection.execute(WAITING).fetchone()[0]

    try:
        wait_until(stands_or_has_ended, f"it stands in {name}, or has ended", seconds=120)
    finally:
        stood = process.poll() is None
        process.kill()
        process.wait()
        connection.execute("select pg_advisory_unlock(%s)", (LOCK,))
    wait_until(lambda: connection.execute(GONE).fetchone()[0], "its connection has ended", seconds=120)
    assert stood or process.returncode == 0
    return stood


def kill_in_each(database: str) -> list[str]:
    """Kills it in everything that is to be done. Returns what that was."""
    killed = []
    with connect(database, "test") as connection:
        connection.execute(LEDGER)
        connection.execute(CREATE_CHECKPOINTS)
        connection.execute(STOP)
        for name in [*MIGRATIONS, *NAMES, REPORTING]:
            known = done(connection)
            if name not in known and is_killed_in(connection, database, name):
                killed.append(name)
                assert name not in done(connection)
        connection.execute(REMOVE)
    return killed


def schema(database: str) -> list[tuple[Any, ...]]:
    """Every column, index, trigger and constraint of ours."""
    with connect(database, "test") as connection:
        return connection.execute(SCHEMA).fetchall()


@pytest.mark.usefixtures("superuser")
def test_killed_in_each_migration_from_nothing_on(empty_database: str, strict_database: str) -> None:
    """From an empty database: in the end everything is there once, as if nobody had been killed."""
    assert kill_in_each(empty_database) == [*MIGRATIONS, *NAMES, REPORTING]
    migrate_all(empty_database)
    assert migrate_all(empty_database) == "the schema is up to date\n"
    assert schema(empty_database) == schema(strict_database)
    with connect(empty_database, "test") as connection:
        assert done(connection) == [*MIGRATIONS, *sorted(NAMES)]


@pytest.mark.usefixtures("superuser")
def test_killed_in_each_migration_from_an_earlier_version_on(empty_database: str, strict_database: str) -> None:
    """From a desk of before: the same, and what people did is there, once. A dump has no rights on the views."""
    restore(empty_database)
    with connect(empty_database, "test") as connection:
        before = connection.execute(HELD).fetchone()
        missing = [name for name in (*MIGRATIONS, *NAMES) if name not in done(connection)]
    assert kill_in_each(empty_database) == [*missing, REPORTING]
    migrate_all(empty_database)
    assert migrate_all(empty_database) == "the schema is up to date\n"
    assert schema(empty_database) == schema(strict_database)
    with connect(empty_database, "test") as connection:
        assert connection.execute(HELD).fetchone() == before
