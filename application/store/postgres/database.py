"""Connections and migrations. Every connection is in autocommit mode, in UTC, and gives JSON as bytes to msgspec."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from hashlib import sha256
from pathlib import Path
from runpy import run_path
from types import SimpleNamespace
from typing import Any, LiteralString

import psycopg
import structlog
from psycopg.abc import Buffer
from psycopg.adapt import AdaptersMap, Loader
from psycopg_pool import ConnectionPool

MIGRATIONS = Path(__file__).with_name("migrations")
LEDGER: LiteralString = """
    create table if not exists schema_migrations (number int primary key, name text not null,
        sha256 text not null, applied_at timestamptz not null default now())"""
MIGRATION_LOCK = 7_365_636_100
OLDEST_TRANSACTIONS: LiteralString = """
    select pid, coalesce(nullif(application_name, ''), usename, 'unknown'),
        extract(epoch from clock_timestamp() - xact_start)::int
    from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid() and xact_start is not null
    order by xact_start limit 3"""
LOCK_SECONDS = 2  # whoever waits for a lock on a table makes every reader behind it wait
SCHEMA_TRIES = 30
PG_CONNECT_SECONDS = 3
STATEMENT_SECONDS = 10
LOOK_UP_OPTIONS = " -c enable_seqscan=off -c plan_cache_mode=force_generic_plan"
IMPORT_OPTIONS = " -c deskledger.importing=on"
IMPORT_LOCK = 7_365_636_102  # held, shared, by every session that imports: no figure is final meanwhile
log = structlog.get_logger()


class SchemaLocked(Exception):
    """Others hold what is to be changed for too long."""


class RawJson(Loader):
    """Leaves jsonb as the bytes of its text, for msgspec to decode into the type that is wanted."""

    def load(self, data: Buffer) -> bytes:
        """The bytes as they came."""
        return bytes(data)


ADAPTERS = AdaptersMap(psycopg.adapters)
ADAPTERS.register_loader("jsonb", RawJson)
CONTEXT = SimpleNamespace(adapters=ADAPTERS, connection=None)  # a psycopg.abc.AdaptContext


def connection_settings(
    name: str, statement_seconds: int = STATEMENT_SECONDS, look_ups: bool = False, importing: bool = False
) -> dict[str, Any]:
    """The keyword arguments for every psycopg connection; `name` is what pg_stat_activity shows.

    `look_ups` is for connections that only look things up by their keys: a plan that was made while a table was small
    must not go on reading all of it when it has grown, until PostgreSQL next counts. `importing` is for events of the
    past.
    """
    return {
        "autocommit": True,
        "context": CONTEXT,
        "connect_timeout": PG_CONNECT_SECONDS,
        "application_name": f"deskledger {name}",
        # where a server compiles queries, as most do unless told otherwise, a sealing pass takes 320 ms instead of 7
        "options": f"-c timezone=UTC -c jit=off -c statement_timeout={statement_seconds * 1000}"
        f"{LOOK_UP_OPTIONS if look_ups else ''}{IMPORT_OPTIONS if importing else ''}",
    }


def connect(url: str, name: str, statement_seconds: int = STATEMENT_SECONDS) -> psycopg.Connection[Any]:
    """One connection."""
    return psycopg.connect(url, **connection_settings(name, statement_seconds))


def pool(url: str, name: str, size: int = 2, importing: bool = False) -> ConnectionPool[psycopg.Connection[Any]]:
    """A pool of connections for look-ups and appends, open inside its `with` block."""
    settings = connection_settings(name, look_ups=True, importing=importing)
    begin = _hold_import_lock if importing else None
    return ConnectionPool(url, kwargs=settings, min_size=1, max_size=size, open=False, configure=begin)


def _hold_import_lock(connection: psycopg.Connection[Any]) -> None:
    """For as long as the session lasts, however it ends."""
    connection.execute("select pg_advisory_lock_shared(%s)", (IMPORT_LOCK,))


@cache
def migrations(folder: Path = MIGRATIONS) -> list[tuple[int, str, str]]:
    """The numbered migrations: number, name, and their text, which is SQL, or Python with `migrate(connection)`."""
    found = sorted(path for path in folder.iterdir() if path.suffix in (".sql", ".py"))
    return [(int(path.name[:4]), path.name, path.read_text("utf-8")) for path in found]


def migrate(connection: psycopg.Connection[Any], folder: Path = MIGRATIONS) -> list[str]:
    """Applies the migrations that are missing, each once, under the migration lock. Returns their names."""
    with migration_lock(connection):
        connection.execute(LEDGER)
        done = {row[0] for row in connection.execute("select number from schema_migrations").fetchall()}
        missing = [migration for migration in migrations(folder) if migration[0] not in done]
        for migration in missing:
            change_schema(connection, partial(_apply, connection, folder, *migration))
    return [name for _, name, _ in missing]


def _apply(connection: psycopg.Connection[Any], folder: Path, number: int, name: str, text: str) -> None:
    if name.endswith(".py"):  # it commits nothing by itself
        run_path(str(folder / name))["migrate"](connection)
    else:
        connection.execute(text.encode())
    connection.execute(
        "insert into schema_migrations (number, name, sha256) values (%s, %s, %s)",
        (number, name, sha256(text.encode()).hexdigest()),
    )


def change_schema(connection: psycopg.Connection[Any], change: Callable[[], None], tries: int = SCHEMA_TRIES) -> None:
    """Changes the schema in one transaction. It waits 2 s for a lock, then lets those through who wait behind it, and
    tries again. Raises SchemaLocked when somebody holds the lock for longer than all the tries.
    """
    while True:
        try:
            with connection.transaction():
                connection.execute(f"set local lock_timeout to '{LOCK_SECONDS}s'")
                return change()
        except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected) as error:
            tries, holders = tries - 1, oldest_transactions(connection)
            if tries == 0:
                detail = "the schema cannot be changed while others hold it; nothing is changed. End their transactions"
                raise SchemaLocked(f"{detail} and run it again: {holders}") from error
            log.warning("the schema is held by others, trying again", holders=holders)
            time.sleep(LOCK_SECONDS)


def oldest_transactions(connection: psycopg.Connection[Any]) -> str:
    """Who has been in a transaction for longest, in words: those who may hold what others wait for."""
    rows = connection.execute(OLDEST_TRANSACTIONS).fetchall()
    return "; ".join(f"process {pid} ({name}), {seconds} s in a transaction" for pid, name, seconds in rows)


@contextmanager
def migration_lock(connection: psycopg.Connection[Any]) -> Iterator[None]:
    """Only one process at a time changes the schema; the others wait, for as long as it takes."""
    connection.execute("set statement_timeout = 0")
    connection.execute("select pg_advisory_lock(%s)", (MIGRATION_LOCK,))
    try:
        yield
    finally:
        connection.execute("select pg_advisory_unlock(%s)", (MIGRATION_LOCK,))
        connection.execute("reset statement_timeout")  # to what `connection_settings` says
