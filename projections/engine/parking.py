"""An event that a projection cannot apply parks its stream, in that projection alone: everything else goes on.

Of a parked stream, the projection's tables hold what was before the event; later events of the stream are not applied
(they are in the log, nothing is copied). `replay` removes what is there of the stream and applies it from its first
event. A fold of one stream reads the rows of no other, so streams can be told apart here.

`parked_streams` is named without a schema, like every table of a projection. A rebuild makes one of its own in its
schema (`CREATE_PARKED_STREAMS` with that schema first in the search path): there it hides the public one, and it
begins empty. At the swap, `move_parked` puts its rows in the place of the public ones.
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, LiteralString
from uuid import UUID

import msgspec
import psycopg
import structlog
from psycopg.rows import class_row
from psycopg.sql import SQL, Identifier

from application.observability.trace_context import trace_of
from projections.engine.projection import Projection
from projections.engine.sealed_log import Sealed, read_streams

CREATE_PARKED_STREAMS: LiteralString = """
    create table if not exists parked_streams (
        projection text not null, stream_id uuid not null, since_position bigint not null, version int not null,
        type text not null, error text not null, parked_at timestamptz not null default now(),
        primary key (stream_id, projection))"""
ARE_PARKED: LiteralString = "select stream_id, since_position from parked_streams where projection = %s"
SELECT_PARKED: LiteralString = """
    select projection, stream_id, since_position, version, type, error, parked_at from parked_streams
    where %s::text is null or projection = %s order by since_position, projection"""
PARK: LiteralString = """
    insert into parked_streams (projection, stream_id, since_position, version, type, error)
    values (%s, %s, %s, %s, %s, %s) on conflict do nothing"""
SELECT_TRACE_OF_EVENT: LiteralString = "select meta->>'traceparent' from events where stream_id = %s and version = %s"
MOST_PARKING_ERROR = 500
PROGRAM_LIMIT = "54"  # the class of SQLSTATE for what is too much for PostgreSQL, such as a row of an index
log = structlog.get_logger()
Write = Callable[[psycopg.Connection[Any], Sequence[Sealed]], None]  # `apply` or `build` of a projection


class ParkedStream(msgspec.Struct, frozen=True):
    """A stream that stands still in a projection; `version` and `type` are those of the event that it stands at."""

    projection: str
    stream_id: UUID
    since_position: int
    version: int
    type: str
    error: str
    parked_at: datetime


class Replayed(msgspec.Struct, frozen=True):
    """What a replay led to: the streams that are whole again, and those that still stand still."""

    healed: list[UUID]
    parked: list[ParkedStream]


def poisons(error: Exception) -> bool:
    """Whether the events are at fault, so that trying again is in vain.

    A lost connection, a deadlock, a timeout, a full disk or a table that is not there is no stream's fault: whoever
    gets such an error tries the same again later.
    """
    if isinstance(error, psycopg.Error):
        of_the_data = isinstance(error, psycopg.DataError | psycopg.IntegrityError)
        return of_the_data or (error.sqlstate or "").startswith(PROGRAM_LIMIT)
    return not isinstance(error, OSError | MemoryError)


def parked_streams(connection: psycopg.Connection[Any], projection: str | None = None) -> list[ParkedStream]:
    """What is parked, in all projections or in one, oldest first."""
    with connection.cursor(row_factory=class_row(ParkedStream)) as cursor:
        return cursor.execute(SELECT_PARKED, (projection, projection)).fetchall()


def apply_or_park(connection: psycopg.Connection[Any], projection: Projection, batch: Sequence[Sealed]) -> None:
    """Brings the tables that unqualified names mean from before the batch to after it, in the caller's transaction.

    Events of parked streams are skipped, and streams that cannot be applied are parked. Raises what is no stream's
    fault (see `poisons`).
    """
    write_or_park(connection, projection.name, projection.apply, not_parked(connection, projection, batch))


def not_parked(
    connection: psycopg.Connection[Any], projection: Projection, batch: Sequence[Sealed]
) -> Sequence[Sealed]:
    """The batch without what comes behind the event that its stream is parked at."""
    since: dict[UUID, int] = dict(connection.execute(ARE_PARKED, (projection.name,)).fetchall())
    if not since:
        return batch
    return [sealed for sealed in batch if sealed.position < since.get(sealed.stream_id, sealed.position + 1)]


def write_or_park(connection: psycopg.Connection[Any], projection: str, write: Write, events: Sequence[Sealed]) -> None:
    """Writes events at once; when that fails, half of their streams and the other half, and parks what is at fault."""
    fault = _fault(connection, write, events)
    streams = list(dict.fromkeys(sealed.stream_id for sealed in events))
    if fault and len(streams) == 1:
        _write_beginning(connection, projection, write, events, fault)
    elif fault:
        first = set(streams[: len(streams) // 2])
        for half in (True, False):
            part = [sealed for sealed in events if (sealed.stream_id in first) is half]
            write_or_park(connection, projection, write, part)


def _fault(connection: psycopg.Connection[Any], write: Write, events: Sequence[Sealed]) -> Exception | None:
    """Writes events, all of them or, where they are at fault, none."""
    try:
        with connection.transaction():
            write(connection, events)
    except Exception as error:
        if not poisons(error):
            raise
        return error
    return None


def _write_beginning(
    connection: psycopg.Connection[Any], projection: str, write: Write, stream: Sequence[Sealed], fault: Exception
) -> None:
    """The events of one stream up to the first that fails; that one parks it."""
    good, bad = 0, len(stream)  # so many events can be written, so many cannot
    while bad - good > 1:
        middle = (good + bad) // 2
        with connection.transaction(force_rollback=True):
            tried = _fault(connection, write, stream[:middle])
        good, bad, fault = (good, middle, tried) if tried else (middle, bad, fault)
    write(connection, stream[:good])
    park(connection, projection, stream[good], fault)


def park(connection: psycopg.Connection[Any], projection: str, sealed: Sealed, error: Exception) -> None:
    """Parks the stream of an event in a projection, at this event; the log says it once."""
    cause = error.diag.message_primary if isinstance(error, psycopg.Error) else None  # no DETAIL, which quotes the row
    reason = f"{type(error).__name__}: {cause or error}".replace("\0", "")[:MOST_PARKING_ERROR]
    stands_at = (sealed.position, sealed.version, sealed.type)
    if connection.execute(PARK, (projection, sealed.stream_id, *stands_at, reason)).rowcount:
        where = {"stream_id": str(sealed.stream_id), "position": sealed.position, "type": sealed.type}
        (came,) = connection.execute(SELECT_TRACE_OF_EVENT, (sealed.stream_id, sealed.version)).fetchone() or (None,)
        where |= {"trace_id": trace} if (trace := trace_of(came)) else {}
        log.error("a stream is parked: see deskledger replay", projection=projection, **where, reason=reason)


def replay(connection: psycopg.Connection[Any], projection: Projection) -> Replayed:
    """Tries every parked stream of a projection again, from its first event; each in a transaction of its own.

    A stream that still cannot be applied is parked again. The runner leaves the projection alone meanwhile.
    """
    before = [parked.stream_id for parked in parked_streams(connection, projection.name)]
    for stream_id in before:
        with connection.transaction():
            _replay(connection, projection, stream_id)
    still = parked_streams(connection, projection.name)
    left = {parked.stream_id for parked in still}
    return Replayed([stream_id for stream_id in before if stream_id not in left], still)


def _replay(connection: psycopg.Connection[Any], projection: Projection, stream_id: UUID) -> None:
    """With the checkpoint locked: neither what is removed nor what is applied can change under a runner's batch."""
    checkpoint = "select position from projections where name = %s for update"
    (through,) = connection.execute(checkpoint, (projection.name,)).fetchone() or (0,)
    gone = "delete from parked_streams where projection = %s and stream_id = %s"
    connection.execute(gone, (projection.name, stream_id))
    projection.forget(connection, stream_id)
    apply_or_park(connection, projection, read_streams(connection, UUID(int=stream_id.int - 1), stream_id, through))


def move_parked(connection: psycopg.Connection[Any], projection: str, source: str, target: str) -> None:
    """Puts what is parked in one schema in the place of what is parked in another one, for one projection."""
    here, there = Identifier(source, "parked_streams"), Identifier(target, "parked_streams")
    connection.execute(SQL("delete from {} where projection = %s").format(there), (projection,))
    moved = "with moved as (delete from {} where projection = %s returning *) insert into {} select * from moved"
    connection.execute(SQL(moved).format(here, there), (projection,))
