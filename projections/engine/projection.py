"""What a projection is, and the one table that says how far each has come."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, LiteralString
from uuid import UUID

import psycopg
from psycopg.sql import SQL, Identifier

from projections.engine.sealed_log import Sealed

CREATE_CHECKPOINTS: LiteralString = """
    create table if not exists projections (
        name text primary key, version int not null, position bigint not null default 0, updated_at timestamptz)"""


class Projection:
    """A fold of the sealed log into tables.

    `apply` gets a batch in the order of positions, on a connection whose transaction also moves the checkpoint. It is
    deterministic: no clock and no random value, so that building it anew gives equal rows. What it makes of a stream
    depends on no other stream: so a stream that cannot be applied can be parked, and applied again by itself.
    """

    name: ClassVar[str]
    version: ClassVar[int]  # of the tables and the fold; raise it when either changes, and `migrate` rebuilds
    tables: ClassVar[tuple[str, ...]]
    ddl: ClassVar[LiteralString]
    indexes: ClassVar[LiteralString]
    counts: ClassVar[Mapping[str, LiteralString]] = {}  # rows of a table that say something, where not all of them do
    finish: ClassVar[LiteralString] = ""  # what is counted at the end of a rebuild

    def apply(self, connection: psycopg.Connection[Any], batch: Sequence[Sealed]) -> None:
        """Brings the tables from before the batch to after it."""
        raise NotImplementedError

    def build(self, connection: psycopg.Connection[Any], streams: Sequence[Sealed]) -> None:
        """Adds what whole streams lead to, stream by stream, to tables that hold nothing of them and have no index.

        What only all streams together say is left to `finish`.
        """
        raise NotImplementedError

    def forget(self, connection: psycopg.Connection[Any], stream: UUID) -> None:
        """Removes what the tables hold of a stream, as if none of its events had been applied."""
        for table in self.tables:
            connection.execute(SQL("delete from {} where ticket_id = %s").format(Identifier(table)), (stream,))


def positions(connection: psycopg.Connection[Any]) -> dict[str, int]:
    """How far each projection has come."""
    return dict(connection.execute("select name, position from projections").fetchall())
