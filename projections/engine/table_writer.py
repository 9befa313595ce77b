"""Writing many rows of a read model in one statement."""

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import psycopg
from psycopg import sql


class Table:
    """A table of a read model whose rows are structs: field for field the columns, `types` their PostgreSQL types,
    separated by blanks."""

    def __init__(self, name: str, row: type[msgspec.Struct], types: str, key: Sequence[str]) -> None:
        self.columns = row.__struct_fields__
        self.row = row
        self._types = types.split()
        names = sql.SQL(", ").join(map(sql.Identifier, self.columns))
        rest = [column for column in self.columns if column not in key]
        self.select = sql.SQL("select {} from {}").format(names, sql.Identifier(name))
        self._copy = sql.SQL("copy {} ({}) from stdin (format binary)").format(sql.Identifier(name), names)
        insert = sql.SQL("insert into {} ({}) select * from json_to_recordset(%b::json) as given({})").format(
            sql.Identifier(name),
            names,
            sql.SQL(", ").join(
                map(sql.SQL("{} {}").format, map(sql.Identifier, self.columns), map(sql.Identifier, self._types))
            ),
        )
        upsert = sql.SQL("{} on conflict ({}) do update set {}").format(
            insert,
            sql.SQL(", ").join(map(sql.Identifier, key)),
            sql.SQL(", ").join(sql.SQL("{0} = excluded.{0}").format(sql.Identifier(name)) for name in rest),
        )
        self._insert, self._upsert = insert.as_bytes(), upsert.as_bytes()  # once: it takes as long as the statement

    def read(self, rows: Iterable[Sequence[Any]]) -> list[Any]:
        """The structs of rows that `select` gave, their words as the enums that they are."""
        return [msgspec.convert(dict(zip(self.columns, row, strict=True)), self.row) for row in rows]

    def insert(self, connection: psycopg.Connection[Any], rows: Sequence[msgspec.Struct]) -> None:
        """Adds a few rows that are not there."""
        if rows:  # as JSON: a quarter of the time that arrays take, column by column
            connection.execute(self._insert, (msgspec.json.encode(rows).decode(),))

    def upsert(self, connection: psycopg.Connection[Any], rows: Sequence[msgspec.Struct]) -> None:
        """Overwrites rows, and inserts those that are not there."""
        if rows:
            connection.execute(self._upsert, (msgspec.json.encode(rows).decode(),))

    def copy(self, connection: psycopg.Connection[Any], rows: Iterable[msgspec.Struct]) -> None:
        """Adds rows of which the table has none yet: half the work of an upsert."""
        with connection.cursor().copy(self._copy) as copy:
            copy.set_types(self._types)
            for row in rows:
                copy.write_row(msgspec.structs.astuple(row))
