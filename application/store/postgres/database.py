"""Connections and migrations. Every connection is in autocommit mode, in UTC, and gives JSON as bytes to msgspec."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from hashlib import sha256
from pathlib import Path
from runpy import run_path
from typing import Any, LiteralString

import psycopg
from psycopg.abc import AdaptContext, Buffer
from psycopg.adapt import AdaptersMap, Loader
from psycopg_pool import ConnectionPool

MIGRATIONS = Path(__file__).with_name("migrations")
LEDGER: LiteralString = """
    create table if not exists schema_migrations (number int primary key, name text not null,
        sha256 text not null, applied_at timestamptz not null default now())"""
MIGRATION_LOCK = 7_365_636_100
PG_CONNECT_SECONDS = 3
STATEMENT_SECONDS = 10
LOOK_UP_OPTIONS = " -c enable_seqscan=off -c plan_cache_mode=force_generic_plan"


class RawJson(Loader):
    """Leaves jsonb as the bytes of its text, for msgspec to decode into the type that is wanted."""

    def load(self, data: Buffer) -> bytes:
        """The bytes as they came."""
        return bytes(data)


ADAPTERS = AdaptersMap(psycopg.adapters)
ADAPTERS.register_loader("jsonb", RawJson)


class _Context(AdaptContext):
    adapters = ADAPTERS
    connection = None


def connection_settings(
    name: str, statement_seconds: int = STATEMENT_SECONDS, look_ups: bool = False
) -> dict[str, Any]:
    """The keyword arguments for every psycopg connection; `name` is what pg_stat_activity shows.

    `look_ups` is for connections that only look things up by their keys: a plan that was made while a table was small
    must not go on reading all of it when it has grown, until PostgreSQL next counts.
    """
    return {
        "autocommit": True,
        "context": _Context(),
        "connect_timeout": PG_CONNECT_SECONDS,
        "application_name": f"deskledger {name}",
        # where a server compiles queries, as most do unless told otherwise, a sealing pass takes 320 ms instead of 7
        "options": f"-c timezone=UTC -c jit=off -c statement_timeout={statement_seconds * 1000}"
        f"{LOOK_UP_OPTIONS if look_ups else ''}",
    }


def connect(url: str, name: str, statement_seconds: int = STATEMENT_SECONDS) -> psycopg.Connection[Any]:
    """One connection."""
    return psycopg.connect(url, **connection_settings(name, statement_seconds))


@contextmanager
def pool(url: str, name: str, size: int = 2) -> Iterator[ConnectionPool[psycopg.Connection[Any]]]:
    """A pool of connections for look-ups and appends, closed at the end."""
    with ConnectionPool(
        url, kwargs=connection_settings(name, look_ups=True), min_size=1, max_size=size, open=True
    ) as connections:
        yield connections


@cache
def migrations(folder: Path = MIGRATIONS) -> list[tuple[int, str, str]]:
    """The numbered migrations: number, name, and their text, which is SQL, or Python with `migrate(connection)`."""
    found = sorted(path for path in folder.iterdir() if path.suffix in (".sql", ".py"))
    return [(int(path.name[:4]), path.name, path.read_text("utf-8")) for path in found]


def migrate(connection: psycopg.Connection[Any], folder: Path = MIGRATIONS) -> list[str]:
    """Applies the migrations that are missing, each once, under the migration lock. Returns their names."""
    applied: list[str] = []
    with migration_lock(connection):
        connection.execute(LEDGER)
        done = {row[0] for row in connection.execute("select number from schema_migrations").fetchall()}
        for number, name, text in migrations(folder):
            if number not in done:
                with connection.transaction():
                    _apply(connection, folder / name, text)
                    connection.execute(
                        "insert into schema_migrations (number, name, sha256) values (%s, %s, %s)",
                        (number, name, sha256(text.encode()).hexdigest()),
                    )
                applied.append(name)
    return applied


def _apply(connection: psycopg.Connection[Any], path: Path, text: str) -> None:
    """Runs a migration inside the caller's transaction. One in Python commits nothing by itself."""
    if path.suffix == ".py":
        run_path(str(path))["migrate"](connection)
    else:
        connection.execute(text.encode())


@contextmanager
def migration_lock(connection: psycopg.Connection[Any]) -> Iterator[None]:
    """Only one process at a time changes the schema; the others wait, for as long as it takes."""
    patience = connection.execute("select current_setting('statement_timeout')").fetchone()
    connection.execute("select set_config('statement_timeout', '0', false)")
    connection.execute("select pg_advisory_lock(%s)", (MIGRATION_LOCK,))
    try:
        yield
    finally:
        connection.execute("select pg_advisory_unlock(%s)", (MIGRATION_LOCK,))
        connection.execute("select set_config('statement_timeout', %s, false)", patience)
