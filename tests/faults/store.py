"""What the store holds, as of one moment, for the checker."""

from typing import Any

import msgspec
import psycopg

from application.store.event_store import to_recorded, to_row
from domain.events import TICKET_EVENTS
from tests.faults.checker import Store, Stored

EVENTS = """
    select stream_id, version, ord, leaf, meta ->> 'correlation_id', type, body ->> 'number' from events order by ord"""
CONTENT = "select ord, leaf, stream_id, version, at, type, body, meta from events order by ord"
STATE = (
    "select next_position, hi, array(select array[lower(hole), upper(hole)] from unnest(holes) hole) from seal_state"
)
UNSEALED = """
    select events.ord from events, seal_state where ord > hi union all
    select events.ord from seal_state, unnest(holes) hole
    join lateral (select ord from events where ord >= lower(hole) and ord < upper(hole)) events on true"""
END = "select coalesce(max(position), 0) from log"


def snapshot(connection: psycopg.Connection[Any], thoroughly: bool = False) -> Store:
    """Events, log, sealer and projections in one snapshot; thoroughly: with each leaf hashed again from the content."""
    with connection.transaction():
        connection.execute("set transaction isolation level repeatable read, read only")
        broken = _broken(connection) if thoroughly else set()
        events = [
            Stored(*row[:5], row[5], row[6] if row[5] == "Ticket.Created" else None, row[2] not in broken)
            for row in connection.execute(EVENTS)
        ]
        log = connection.execute("select position, ord from log order by position").fetchall()
        next_position, highest, holes = connection.execute(STATE).fetchone() or (0, 0, [])
        projections = dict(connection.execute("select name, position from projections").fetchall())
    events = [event if event.type in TICKET_EVENTS else _of_the_directory(event) for event in events]
    return Store(events, log, next_position, highest, [(start, end) for start, end in holes], projections)


def _broken(connection: psycopg.Connection[Any]) -> set[int]:
    """The numbers of events whose content is not what was hashed when they were written."""
    rows = connection.execute(CONTENT)
    return {ord_ for ord_, leaf, *event in rows if to_row(to_recorded(*event)).leaf != leaf}


def _of_the_directory(event: Stored) -> Stored:
    """Events of clients carry no mark."""
    return msgspec.structs.replace(event, mark=None)


def unsealed(connection: psycopg.Connection[Any]) -> list[int]:
    """The numbers of committed events without a position."""
    return [row[0] for row in connection.execute(UNSEALED)]


def log_end(connection: psycopg.Connection[Any]) -> int:
    """The highest position."""
    return int(connection.execute(END).fetchone()[0])  # type: ignore[index]
