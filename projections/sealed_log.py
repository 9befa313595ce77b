"""What follows the log reads it here: every event in the one order of all events, from a position on."""

from typing import Any, LiteralString
from uuid import UUID

import msgspec
import psycopg

from application.event_store import to_recorded
from domain.events import Recorded

AFTER: LiteralString = """
    select position, stream_id, version, at, type, body, meta from log join events using (ord)
    where position > %s and position <= %s order by position"""


class Sealed(msgspec.Struct, frozen=True):
    """An event at its position in the log."""

    position: int
    recorded: Recorded

    @property
    def stream_id(self) -> UUID:
        """The ticket or client that it happened to."""
        return self.recorded.originator_id


def read_after(connection: psycopg.Connection[Any], position: int, through: int) -> list[Sealed]:
    """The events above `position` up to `through`, in order."""
    return [Sealed(row[0], to_recorded(*row[1:])) for row in connection.execute(AFTER, (position, through))]


def last_position(connection: psycopg.Connection[Any]) -> int:
    """The highest position of the log; 0 while nothing is sealed."""
    row = connection.execute("select coalesce(max(position), 0) from log").fetchone()
    return int(row[0]) if row else 0
