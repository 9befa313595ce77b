"""Writing many rows of a read model in one statement."""

from collections.abc import Iterable, Sequence
from enum import Enum
from typing import Any, get_args, get_type_hints

import msgspec
import psycopg
from psycopg import sql


class Table:
    """A table of a read model whose rows are structs: field for field the columns, `types` their PostgreSQL types,
    separated by blanks."""

    def __init__(self, name: str, row: type[msgspec.Struct], types: str, key: Sequence[str]) -> None:
        self.columns = row.__struct_fields__
        self.row = row
        self._enums = [(place, kind) for place, kind in enumerate(map(_enum_of, get_type_hints(row).values())) if kind]
        names = sql.SQL(", ").join(map(sql.Identifier, self.columns))
        rest = [column for column in self.columns if column not in key]
        self.select = sql.SQL("select {} from {}").format(names, sql.Identifier(name))
        self._upsert = sql.SQL(
            "insert into {table} ({names}) select * from unnest({arrays}) on conflict ({key}) do update set {changes}"
        ).format(
            table=sql.Identifier(name),
            names=names,
            arrays=sql.SQL(", ").join(
                sql.SQL("{}::{}[]").format(sql.Placeholder(), sql.Identifier(type_)) for type_ in types.split()
            ),
            key=sql.SQL(", ").join(map(sql.Identifier, key)),
            changes=sql.SQL(", ").join(sql.SQL("{0} = excluded.{0}").format(sql.Identifier(name)) for name in rest),
        )

    def read(self, row: Sequence[Any]) -> Any:
        """The struct of a row that `select` gave, its words as the enums that they are."""
        values = list(row)
        for place, kind in self._enums:
            if values[place] is not None:
                values[place] = kind(values[place])
        return self.row(*values)

    def upsert(self, connection: psycopg.Connection[Any], rows: Iterable[msgspec.Struct]) -> None:
        """Inserts the rows, or overwrites those that are there."""
        columns = list(zip(*map(msgspec.structs.astuple, rows), strict=True))
        if columns:
            connection.execute(self._upsert, [list(column) for column in columns])


def _enum_of(hint: Any) -> type[Enum] | None:
    """The enum among the types that a field may have."""
    return next((kind for kind in (hint, *get_args(hint)) if isinstance(kind, type) and issubclass(kind, Enum)), None)
