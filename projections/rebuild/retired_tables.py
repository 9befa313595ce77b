"""The tables that a rebuild has replaced: kept, so that they can be brought back at once.

They lie in a schema of their own for each projection, with the checkpoint at which they stood. Nobody reads or writes
them there; they take as much of the disk as they took before.
"""

import time
from collections.abc import Callable
from typing import Any, LiteralString

import msgspec
import psycopg
import structlog
from psycopg.errors import DeadlockDetected, LockNotAvailable
from psycopg.rows import class_row
from psycopg.sql import SQL, Identifier

from application.store.postgres.database import LOCK_SECONDS, migration_lock, oldest_transactions
from projections.engine.parking import move_parked
from projections.engine.projection import Projection
from projections.reports.reporting_schema import create_reporting

STOOD: LiteralString = "select version, position from {}"
KEEP: LiteralString = """
    create table {} as select version, position, now() as retired_at from projections where name = {}"""
SET_CHECKPOINT: LiteralString = "update projections set version = %s, position = %s, updated_at = now() where name = %s"
log = structlog.get_logger()


class NotRetired(Exception):
    """Nothing of this projection is kept: no rebuild has replaced its tables, or what it replaced was dropped."""


class UnknownVersion(Exception):
    """What is kept is of a version that this program does not know."""


class TablesState(msgspec.Struct, frozen=True):
    """Where a set of tables stands: the version that made them, and the position up to which they hold the log."""

    version: int
    position: int


def put_in_place(connection: psycopg.Connection[Any], projection: Projection, schema: str, stood: TablesState) -> None:
    """Puts the tables of a schema in the place of the public ones, and keeps those; in the caller's transaction.

    The caller has locked the checkpoint. Whatever was kept of this projection before is dropped.
    """
    name, kept = projection.name, retired_schema(projection)
    connection.execute(SQL("drop schema if exists {} cascade").format(Identifier(kept)))
    connection.execute(SQL("create schema {}").format(Identifier(kept)))
    connection.execute(SQL(KEEP).format(Identifier(kept, "checkpoint"), name))
    parked = "create table {} (like public.parked_streams including all)"
    connection.execute(SQL(parked).format(Identifier(kept, "parked_streams")))
    move_parked(connection, name, "public", kept)
    move_parked(connection, name, schema, "public")
    for table in projection.tables:
        _move(connection, table, "public", kept)
        _move(connection, table, schema, "public")
    connection.execute(SET_CHECKPOINT, (stood.version, stood.position, name))


def swap_tables(connection: psycopg.Connection[Any], swap: Callable[[], None]) -> bool:
    """Puts tables in the place of others in one transaction, and the reporting views on them.

    False when somebody reads an old table for so long that readers behind this would have to wait. A view may need what
    a projection of another version does not have yet: where the views cannot be made, they are only dropped, and
    `ensure_projections` makes them at the end.
    """
    try:
        with connection.transaction():
            connection.execute(f"set local lock_timeout to '{LOCK_SECONDS}s'")
            swap()
            connection.execute("set local search_path to public")
            try:
                with connection.transaction():
                    create_reporting(connection)
            except (psycopg.errors.UndefinedColumn, psycopg.errors.UndefinedTable):
                connection.execute("drop schema if exists reporting cascade")
    except (LockNotAvailable, DeadlockDetected):
        log.warning("the tables are held by others, trying again", holders=oldest_transactions(connection))
        return False
    return True


def roll_back(connection: psycopg.Connection[Any], projection: Projection) -> TablesState:
    """Brings the kept tables back in one transaction, and keeps those that they replace. Returns where they stand.

    The runner takes them up from there. Raises NotRetired or UnknownVersion.
    """
    with migration_lock(connection):
        stood = _stood(connection, projection)
        if stood.version != projection.version:
            raise UnknownVersion(
                f"the kept tables of {projection.name} are of version {stood.version}, this program knows version"
                f" {projection.version}: roll back with the program that made them, or rebuild"
            )
        while not swap_tables(connection, lambda: _bring_back(connection, projection, stood)):
            time.sleep(LOCK_SECONDS)
    return stood


def drop_retired(connection: psycopg.Connection[Any], projection: Projection) -> bool:
    """Drops what is kept of a projection. Returns whether there was anything."""
    with migration_lock(connection):
        kept = retired_schema(projection)
        known = connection.execute("select from pg_namespace where nspname = %s", (kept,)).fetchone() is not None
        connection.execute(SQL("drop schema if exists {} cascade").format(Identifier(kept)))
    return known


def retired_schema(projection: Projection) -> str:
    """The schema that what is kept of a projection lies in."""
    return f"retired_{projection.name}"


def _stood(connection: psycopg.Connection[Any], projection: Projection) -> TablesState:
    query = SQL(STOOD).format(Identifier(retired_schema(projection), "checkpoint"))
    try:
        with connection.cursor(row_factory=class_row(TablesState)) as cursor:
            found = cursor.execute(query).fetchone()
    except psycopg.errors.UndefinedTable:
        found = None
    if not found:
        raise NotRetired(f"no tables of {projection.name} are kept: rebuild it instead")
    return found


def _bring_back(connection: psycopg.Connection[Any], projection: Projection, stood: TablesState) -> None:
    back = f"returning_{projection.name}"
    connection.execute("select from projections where name = %s for update", (projection.name,))
    rename = SQL("alter schema {} rename to {}")
    connection.execute(rename.format(Identifier(retired_schema(projection)), Identifier(back)))
    put_in_place(connection, projection, back, stood)
    connection.execute(SQL("drop schema {} cascade").format(Identifier(back)))


def _move(connection: psycopg.Connection[Any], table: str, source: str, target: str) -> None:
    statement = SQL("alter table {} set schema {}")
    connection.execute(statement.format(Identifier(source, table), Identifier(target)))
