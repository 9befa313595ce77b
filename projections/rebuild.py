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
PUBLIC = Identifier("public")
DIFFERENCE = SQL("""
    select (select count(*) from {new}), (select count(*) from (table {old} except all table {new}) gone),
        (select count(*) from (table {new} except all table {old}) come)""")
Progress = Callable[[int, int], None]


class Difference(msgspec.Struct, frozen=True):
    """How a table that was built anew differs from the one that it replaces, in rows.

    None where the old table is of another version, so that its rows cannot be compared.
    """

    table: str
    rows: int
    only_old: int | None
    only_new: int | None


def rebuild(
    connection: psycopg.Connection[Any],
    projection: Projection,
    progress: Progress | None = None,
    batch: int = BATCH,
    near: int = NEAR,
) -> list[Difference]:
    """Rebuilds one projection. `progress` is told how many events are applied, and of how many.

    Only one rebuild or migration runs at a time. Returns the difference of each table; a fold that has not changed
    gives none.
    """
    with migration_lock(connection):
        try:
            _begin(connection, projection)
            position = 0
            while (last := last_position(connection)) - position > near:
                with connection.transaction():
                    position = _apply(connection, projection, position, min(position + batch, last))
                if progress:
                    progress(position, last)
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


def _apply(connection: psycopg.Connection[Any], projection: Projection, position: int, through: int) -> int:
    events = read_after(connection, position, through)
    projection.apply(connection, events)
    return events[-1].position if events else position


def _swap(connection: psycopg.Connection[Any], projection: Projection, position: int) -> list[Difference]:
    """With the checkpoint locked: the last events, the comparison, and the new tables in the place of the old ones."""
    query = "select position, version from projections where name = %s for update"
    target, version = connection.execute(query, (projection.name,)).fetchone() or (0, projection.version)
    _apply(connection, projection, position, target)
    same = version == projection.version
    differences = [_compare(connection, projection, table, same) for table in projection.tables]
    for table in projection.tables:
        connection.execute(SQL("drop table public.{} cascade").format(Identifier(table)))
        connection.execute(SQL("alter table {}.{} set schema public").format(_building(projection), Identifier(table)))
    connection.execute("update projections set version = %s where name = %s", (projection.version, projection.name))
    connection.execute("set local search_path to public")
    if same:
        create_reporting(connection)
    else:  # a view may need what another projection does not have yet: `ensure_projections` makes them at the end
        connection.execute("drop schema if exists reporting cascade")
    return differences


def _compare(connection: psycopg.Connection[Any], projection: Projection, table: str, same: bool) -> Difference:
    new, old = (SQL("{}.{}").format(schema, Identifier(table)) for schema in (_building(projection), PUBLIC))
    if not same:
        counted = connection.execute(SQL("select count(*) from {}").format(new)).fetchone()
        return Difference(table, counted[0] if counted else 0, None, None)
    row = connection.execute(DIFFERENCE.format(new=new, old=old)).fetchone() or (0, 0, 0)
    return Difference(table, *row)
