"""Migrations: numbered, applied once, by whoever comes first; and what every connection is like."""

import re
import threading
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest

from application.store.postgres.database import SchemaLocked, change_schema, connect, migrate, migrations, pool
from projections.runner import PROJECTIONS, ensure_projections
from tests.support.write_side import beside, wait_for_locks

SCHEMA = """
    select table_schema, table_name, column_name, data_type, is_nullable, column_default
    from information_schema.columns where table_schema in ('public', 'reporting') order by 1, 2, 3"""


def schema(connection: psycopg.Connection) -> list[tuple[str, ...]]:
    """Every column of every table and view of ours."""
    return connection.execute(SCHEMA).fetchall()


def test_migrations_are_numbered_without_a_gap() -> None:
    """Their files are 0001_…, 0002_… in order, with names that say what they make."""
    found = migrations()
    assert [number for number, _, _ in found] == list(range(1, len(found) + 1))
    assert all(re.fullmatch(r"\d{4}_[a-z_]+\.(sql|py)", name) for _, name, _ in found)


def test_each_migration_is_applied_once(empty_database: str) -> None:
    """The first time all of them, the second time none; each is written down with the hash of its text."""
    with connect(empty_database, "test") as connection:
        assert migrate(connection) == [name for _, name, _ in migrations()]
        before = schema(connection)
        assert migrate(connection) == []
        assert schema(connection) == before
        written = connection.execute("select number, name, length(sha256) from schema_migrations order by 1").fetchall()
    assert written == [(number, name, 64) for number, name, _ in migrations()]


def test_four_at_once_apply_them_once(empty_database: str) -> None:
    """Processes that start together wait for each other; every migration and projection is made by exactly one."""
    applied: list[str] = []

    def start() -> None:
        with connect(empty_database, "test") as connection:
            applied.extend([*migrate(connection), *ensure_projections(connection)])

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(applied) == sorted(
        [name for _, name, _ in migrations()] + [projection.name for projection in PROJECTIONS]
    )


def test_the_template_has_the_schema_of_the_migrations(empty_database: str, connection: psycopg.Connection) -> None:
    """What the tests stand on is what the migrations make."""
    with connect(empty_database, "test") as other:
        migrate(other)
        ensure_projections(other)
        assert schema(connection) == schema(other)


def test_the_patience_of_a_connection_outlives_a_migration(connection: psycopg.Connection) -> None:
    """A migration may take its time; afterwards the connection's statements have their limit again."""
    migrate(connection)
    ensure_projections(connection)
    assert connection.execute("select current_setting('statement_timeout')").fetchone() == ("10s",)


def test_a_migration_that_fails_leaves_nothing_of_itself(empty_database: str) -> None:
    """A migration is one transaction: a table in its way stops it, and it is applied once the way is free."""
    with connect(empty_database, "test") as connection:
        connection.execute("create table closure_mails (in_the_way int)")
        try:
            migrate(connection)
        except psycopg.errors.DuplicateTable:
            done = connection.execute("select name from schema_migrations").fetchall()
        tables = {row[1] for row in schema(connection)}
        connection.execute("drop table closure_mails")
        assert (done, "events" in tables, "api_keys" in tables) == ([("0001_event_store.sql",)], True, False)
        assert migrate(connection)[0] == "0002_desk.sql"


def test_a_migration_is_applied_and_written_down_together(empty_database: str) -> None:
    """One that cannot be written down is not applied either, so that it is never applied twice."""
    with connect(empty_database, "test") as connection:
        connection.execute("create table schema_migrations (number int, name text check (name < '0002'), sha256 text)")
        with pytest.raises(psycopg.errors.CheckViolation):
            migrate(connection)
        assert connection.execute("select name from schema_migrations").fetchall() == [("0001_event_store.sql",)]
        assert "api_keys" not in {row[1] for row in schema(connection)}


def test_a_migration_may_be_python(empty_database: str, tmp_path: Path) -> None:
    """It runs in its number's turn and in the transaction that writes it down: when it fails, nothing of it is left."""
    body = "def migrate(connection):\n    connection.execute('insert into made values (2)')\n"
    (tmp_path / "0001_made.sql").write_text("create table made (number int); insert into made values (1);")
    (tmp_path / "0002_more.py").write_text(body)
    (tmp_path / "0003_fails.py").write_text(body + "    raise LookupError\n")
    with connect(empty_database, "test") as connection:
        with pytest.raises(LookupError):
            migrate(connection, tmp_path)
        done = connection.execute("select name from schema_migrations order by number").fetchall()
        assert done == [("0001_made.sql",), ("0002_more.py",)]
        assert connection.execute("select number from made order by 1").fetchall() == [(1,), (2,)]


def test_a_connection_commits_by_itself_in_utc_and_leaves_json_raw(database: str) -> None:
    """Autocommit, UTC, no JIT, a statement timeout, a name in pg_stat_activity, and jsonb as the bytes of its text."""
    with connect(database, "counter") as connection, pool(database, "pool") as connections:
        assert connection.autocommit
        shown = connection.execute(
            "select current_setting('timezone'), current_setting('statement_timeout'), application_name,"
            " (select setting || ' by ' || source from pg_settings where name = 'jit')"
            " from pg_stat_activity where pid = pg_backend_pid()"
        ).fetchone()
        assert shown == ("UTC", "10s", "deskledger counter", "off by client")
        moment, raw = connection.execute("""select '2026-03-02 08:00Z'::timestamptz, '{"a": 1}'::jsonb""").fetchone()
        assert (moment, raw) == (datetime(2026, 3, 2, 8, tzinfo=UTC), b'{"a": 1}')
        with connections.connection() as pooled:
            assert pooled.execute("""select '[]'::jsonb""").fetchone() == (b"[]",)


def test_a_change_of_the_schema_gives_way_and_tries_again(empty_database: str, tmp_path: Path) -> None:
    """While somebody reads what it wants to change, others who read it get through; it is done when they have ended."""
    with connect(empty_database, "changing") as connection, connect(empty_database, "reading") as reader:
        connection.execute("create table wanted (x int)")
        (tmp_path / "0001_change.sql").write_text("alter table wanted add column y int")
        reader.autocommit = False
        reader.execute("select * from wanted")
        with beside(lambda: migrate(connection, tmp_path)) as (change,):
            with connect(empty_database, "other") as other:
                wait_for_locks(other, 1)
                for _ in range(3):  # behind the change in the queue for the lock, and yet not for long
                    assert other.execute("select count(*) from wanted").fetchone() == (0,)
            assert not change.done()
            reader.commit()
        assert change.result() == ["0001_change.sql"]


def test_a_change_of_the_schema_ends_in_vain_and_names_the_holder(empty_database: str) -> None:
    """Nothing is changed, and whoever holds it is named with what to do."""
    with connect(empty_database, "changing") as connection, connect(empty_database, "holder") as reader:
        connection.execute("create table wanted (x int)")
        reader.autocommit = False
        reader.execute("select * from wanted")
        with pytest.raises(SchemaLocked, match=r"run it again: process \d+ \(deskledger holder\), \d+ s"):
            change_schema(connection, lambda: connection.execute("drop table wanted"), tries=2)
        assert connection.execute("select count(*) from wanted").fetchone() == (0,)
        reader.rollback()


def test_no_two_advisory_locks_are_the_same() -> None:
    """Each has a number of its own, in the whole program."""
    root = Path(__file__).parents[2]
    sources = [
        path.read_text() for room in ("application", "projections", "api") for path in (root / room).rglob("*.py")
    ]
    numbers = [number for source in sources for number in re.findall(r"^[A-Z_]*LOCK = ([0-9_]+)", source, re.MULTILINE)]
    assert len(numbers) == len(set(numbers)) >= 3
