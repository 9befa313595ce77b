"""What follows the log reads it here: every event in the one order of all events, from a position on.

A batch of a projection is a list of `Sealed`. An event that this program cannot read is in it as `Unreadable`; the fold
raises `UnreadableEvent` when it comes to it, so that only the stream of such an event has to wait.
"""

from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any, LiteralString
from uuid import UUID

import msgspec
import psycopg

from domain.client import CLIENT_EVENTS, EVENTS
from domain.events import Event

AFTER: LiteralString = """
    select position, stream_id, version, at, type, body::text from log join events using (ord)
    where position > %s and position <= %s order by position"""
SELECT_WHOLE_STREAMS: LiteralString = """
    select position, stream_id, version, at, type, body::text from events join log using (ord)
    where stream_id > %s and stream_id <= %s and position <= %s order by stream_id, version"""


SELECT_RECENT_TRACES: LiteralString = """
    select meta->>'traceparent' from log join events using (ord)
    where position > (select max(position) from log) - %s order by position desc limit %s"""
MOST_TRACES = 32


class Unreadable(Event, frozen=True):
    """Stands for an event of a type that this program does not know, or with a body that it cannot decode."""

    reason: str


class UnreadableEvent(LookupError):
    """An event of the log cannot be read by this program."""


class Sealed(msgspec.Struct, frozen=True, gc=False):
    """An event at its position in the log: what the folds read of it."""

    position: int
    stream_id: UUID
    version: int
    at: datetime
    type: str
    event: Event


_DECODE = {name: msgspec.json.Decoder(event).decode for name, event in EVENTS.items()}
_OF_CLIENTS = frozenset(CLIENT_EVENTS.values())


def read_after(connection: psycopg.Connection[Any], position: int, through: int) -> list[Sealed]:
    """The events above `position` up to `through`, in order."""
    return _decoded(connection.execute(AFTER, (position, through), binary=True))


def read_streams(connection: psycopg.Connection[Any], above: UUID, last: UUID, through: int) -> list[Sealed]:
    """What the log holds up to `through` of the streams above one and up to another, stream by stream."""
    return _decoded(connection.execute(SELECT_WHOLE_STREAMS, (above, last, through), binary=True))


def last_position(connection: psycopg.Connection[Any]) -> int:
    """The highest position of the log; 0 while nothing is sealed."""
    row = connection.execute("select coalesce(max(position), 0) from log").fetchone()
    return int(row[0]) if row else 0


def recent_traces(connection: psycopg.Connection[Any], count: int) -> list[str]:
    """By which requests the last so many events came, as traceparents: some of them, each once."""
    found = connection.execute(SELECT_RECENT_TRACES, (count, MOST_TRACES)).fetchall()
    return list(dict.fromkeys(traceparent for (traceparent,) in found if traceparent))


def of_tickets(batch: Iterable[Sealed]) -> Iterator[Sealed]:
    """The events of a batch that happened to tickets. Raises UnreadableEvent at one that cannot be read."""
    for sealed in batch:
        kind = type(sealed.event)
        if kind is Unreadable:
            raise UnreadableEvent(f"{sealed.type} of {sealed.stream_id}: {sealed.event.reason}")  # type: ignore[attr-defined]
        if kind not in _OF_CLIENTS:
            yield sealed


def _decoded(rows: psycopg.Cursor[tuple[Any, ...]]) -> list[Sealed]:
    return [
        Sealed(position, id_, version, at, type_, _read(type_, body))
        for position, id_, version, at, type_, body in rows.fetchall()
    ]


def _read(type_: str, body: str) -> Event:
    try:
        return _DECODE[type_](body)
    except LookupError:
        return Unreadable("this program does not know its type")
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        return Unreadable(str(error))
