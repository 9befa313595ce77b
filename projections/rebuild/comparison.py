"""Do the tables that were built anew say the same as the old ones, at one position of the log?"""

from collections.abc import Sequence
from typing import Any, LiteralString

import msgspec
import psycopg
from psycopg.sql import SQL, Composable, Identifier

# Generated columns follow from the others; a tsvector has no hash of its own.
SELECT_COLUMNS: LiteralString = """
    select attname, atttypid = 'tsvector'::regtype from pg_attribute
    where attrelid = %s::regclass and attnum > 0 and not attisdropped and attgenerated = '' order by attnum"""
DIGEST = SQL("select count(*), coalesce(sum(hash_record_extended(row({columns}), 0)), 0) from {table} where {counts}")
DIFFERENCE = SQL("""
    with old as (select {columns} from {old} where {counts}), new as (select {columns} from {new} where {counts})
    select (select count(*) from (table old except all table new) gone),
        (select count(*) from (table new except all table old) come)""")


class Difference(msgspec.Struct, frozen=True):
    """How a table that was built anew differs from the one that it replaces, in rows.

    None where the two cannot be compared: the old table is of another version, or far behind.
    """

    table: str
    rows: int
    only_old: int | None
    only_new: int | None


def compare(connection: psycopg.Connection[Any], table: str, schema: str, counts: str = "true") -> Difference:
    """Compares the rows of a table in `public` and in another schema, as the caller's transaction sees both.

    First by the sums of the rows' hashes, and row by row only when these differ. `counts` says which rows count.
    """
    old, new = Identifier("public", table), Identifier(schema, table)
    columns = connection.execute(SELECT_COLUMNS, (f"public.{table}",)).fetchall()
    hashed = SQL(", ").join(SQL("{}::text" if text else "{}").format(Identifier(name)) for name, text in columns)
    known, found = (_digest(connection, each, hashed, SQL(counts)) for each in (old, new))
    if known == found:
        return Difference(table, found[0], 0, 0)
    names = SQL(", ").join(Identifier(name) for name, _ in columns)
    query = DIFFERENCE.format(columns=names, old=old, new=new, counts=SQL(counts))
    only_old, only_new = connection.execute(query).fetchone() or (0, 0)
    return Difference(table, found[0], only_old, only_new)


def count(connection: psycopg.Connection[Any], tables: Sequence[str], schema: str) -> list[Difference]:
    """The rows of tables that are not compared."""
    query = SQL("select count(*) from {}")
    rows = [connection.execute(query.format(Identifier(schema, table))).fetchone() for table in tables]
    return [Difference(table, row[0] if row else 0, None, None) for table, row in zip(tables, rows, strict=True)]


def _digest(
    connection: psycopg.Connection[Any], table: Identifier, columns: Composable, counts: SQL
) -> tuple[Any, ...]:
    return connection.execute(DIGEST.format(columns=columns, table=table, counts=counts)).fetchone() or (0, 0)
