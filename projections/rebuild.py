"""Builds a projection anew beside the old one, catches up, compares the two, and swaps them in one transaction.

Readers see the old tables until the swap and the new ones after it; nothing is missing in between.
"""

from collections.abc import Callable
from typing import Any

import msgspec
import psycopg
from psycopg.sql import SQL, Composed, Identifier

from application.database import migration_lock
from projections.projection import Projection
from projections.reporting import create_reporting
from projections.sealed_log import last_position, read_after

BATCH = 5_000
NEAR = 2_000  # so close to the end of the log, the rest is done in the transaction that swaps
Progress = Callable[[int, int], None]


class Difference(msgspec.Struct, frozen=True):
    """How a table that was built anew differs from the one that it replaces, in rows."""

    table: str
    rows: int
    only_old: int
    only_new: int


def rebuild(connection: psycopg.Connection[Any], projection: Projection, progress: Progress) -> list[Difference]:
    """Rebuilds one projection. `progress` is told how many events are applied, and of how many.

    Only one rebuild or migration runs at a time. Returns the difference of each table; a fold that has not changed
    gives none.
    """
    with migration_lock(connection):
        try:
            _begin(connection, projection)
            position = _catch_up(connection, projection, progress)
            with connection.transaction():
                differences = _swap(connection, projection, position)
        finally:
            connection.execute("set search_path to public")
            connection.execute(_drop(projection))
    return differences


def _building(projection: Projection) -> Identifier:
    return Identifier(f"building_{projection.name}")


def _drop(projection: Projection) -> Composed:
    return SQL("drop schema if exists {} cascade").format(_building(projection))


def _begin(connection: psycopg.Connection[Any], projection: Projection) -> None:
    """An empty set of tables in a schema of its own, which unqualified names now mean."""
    connection.execute(_drop(projection))
    connection.execute(SQL("create schema {}").format(_building(projection)))
    connection.execute(SQL("set search_path to {}, public").format(_building(projection)))
    with connection.transaction():
        connection.execute(projection.ddl)
        connection.execute(projection.indexes)


def _catch_up(connection: psycopg.Connection[Any], projection: Projection, progress: Progress) -> int:
    position = 0
    while (last := last_position(connection)) - position > NEAR:
        with connection.transaction():
            position = _apply(connection, projection, position, min(position + BATCH, last))
        progress(position, last)
    return position


def _apply(connection: psycopg.Connection[Any], projection: Projection, position: int, through: int) -> int:
    events = read_after(connection, position, through)
    projection.apply(connection, events)
    return events[-1].position if events else position


def _swap(connection: psycopg.Connection[Any], projection: Projection, position: int) -> list[Difference]:
    """With the checkpoint locked: the last events, the comparison, and the new tables in the place of the old ones."""
    row = connection.execute(
        "select position from projections where name = %s for update", (projection.name,)
    ).fetchone()
    target = int(row[0]) if row else 0
    _apply(connection, projection, position, target)
    differences = [_compare(connection, projection, table) for table in projection.tables]
    for table in projection.tables:
        connection.execute(SQL("drop table public.{} cascade").format(Identifier(table)))
        connection.execute(SQL("alter table {}.{} set schema public").format(_building(projection), Identifier(table)))
    connection.execute("update projections set version = %s where name = %s", (projection.version, projection.name))
    connection.execute("set local search_path to public")
    create_reporting(connection)
    return differences


def _compare(connection: psycopg.Connection[Any], projection: Projection, table: str) -> Difference:
    new, old = (
        SQL("{}.{}").format(schema, Identifier(table)) for schema in (_building(projection), Identifier("public"))
    )
    count = SQL(
        "select (select count(*) from {new}), (select count(*) from (table {old} except all table {new}) gone),"
        " (select count(*) from (table {new} except all table {old}) come)"
    )
    rows, only_old, only_new = connection.execute(count.format(new=new, old=old)).fetchone() or (0, 0, 0)
    return Difference(table, rows, only_old, only_new)
