"""Folds whole streams into new tables: the long part of a rebuild, in as many processes as there are.

What a projection makes of one stream depends on no other stream. So the streams are taken in the order of their IDs,
a range at a time: nothing has to be loaded, each row is written once, and indexes are built at the end.
"""

from collections.abc import Iterator, Sequence
from typing import Any, LiteralString
from uuid import UUID

import psycopg

from projections.engine.parking import park, poisons
from projections.engine.process_pool import Task
from projections.engine.projection import Projection
from projections.engine.sealed_log import Sealed, read_streams

CHUNK = 10_000  # events of one task: some tens of megabytes of memory
LOWEST_STREAM, HIGHEST_STREAM = UUID(int=0), UUID(int=2**128 - 1)
BOUND: LiteralString = "select stream_id from events where stream_id > %s order by stream_id offset %s limit 1"


def sweeps(
    connection: psycopg.Connection[Any], projections: Sequence[Projection], through: int, chunk: int = CHUNK
) -> Iterator[Task]:
    """The tasks that together fold what the log holds up to `through`; each gives the number of its events."""
    above = LOWEST_STREAM
    while above != HIGHEST_STREAM:
        bound = connection.execute(BOUND, (above, chunk - 1)).fetchone()
        last = bound[0] if bound else HIGHEST_STREAM
        yield fold_streams, (projections, above, last, through)
        above = last


def fold_streams(
    connection: psycopg.Connection[Any], projections: Sequence[Projection], above: UUID, last: UUID, through: int
) -> int:
    """Folds the streams above one ID and up to another one into the tables that unqualified names mean."""
    events = read_streams(connection, above, last, through)
    with connection.transaction():
        for projection in projections:
            build_or_park(connection, projection, events)
    return len(events)


def build_or_park(connection: psycopg.Connection[Any], projection: Projection, streams: Sequence[Sealed]) -> None:
    """Adds whole streams; one that cannot be applied is parked at the event that fails, the events before it stand."""
    try:
        with connection.transaction():
            projection.build(connection, streams)
    except Exception as error:
        if not poisons(error):
            raise
        ids = list(dict.fromkeys(sealed.stream_id for sealed in streams))
        if len(ids) > 1:
            first = set(ids[: len(ids) // 2])
            build_or_park(connection, projection, [sealed for sealed in streams if sealed.stream_id in first])
            build_or_park(connection, projection, [sealed for sealed in streams if sealed.stream_id not in first])
        else:
            _build_before(connection, projection, streams)


def _build_before(connection: psycopg.Connection[Any], projection: Projection, stream: Sequence[Sealed]) -> None:
    """The events of one stream up to the first that fails; that one parks it."""
    for count, sealed in enumerate(stream):
        try:
            with connection.transaction() as trial:
                projection.build(connection, stream[: count + 1])
                raise psycopg.Rollback(trial)  # noqa: TRY301 - only tried
        except Exception as error:
            if not poisons(error):
                raise
            park(connection, projection.name, sealed, error)
            projection.build(connection, stream[:count])
            return
