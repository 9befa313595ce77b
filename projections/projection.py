"""What a projection is, and the one table that says how far each has come."""

from collections.abc import Sequence
from typing import Any, ClassVar, LiteralString, Protocol

import psycopg

from projections.sealed_log import Sealed

CHECKPOINTS: LiteralString = """
    create table if not exists projections (
        name text primary key, version int not null, position bigint not null default 0, updated_at timestamptz)"""


class Projection(Protocol):
    """A fold of the sealed log into tables.

    `apply` gets a batch in the order of positions, on a connection whose transaction also moves the checkpoint. It is
    deterministic: no clock and no random value, so that building it anew gives equal rows.
    """

    name: ClassVar[str]
    version: ClassVar[int]  # of the tables and the fold; raise it when either changes, and `migrate` rebuilds
    tables: ClassVar[tuple[str, ...]]
    ddl: ClassVar[LiteralString]
    indexes: ClassVar[LiteralString]

    def apply(self, connection: psycopg.Connection[Any], batch: Sequence[Sealed]) -> None:
        """Brings the tables from before the batch to after it."""
        ...


def positions(connection: psycopg.Connection[Any]) -> dict[str, int]:
    """How far each projection has come."""
    return dict(connection.execute("select name, position from projections").fetchall())
