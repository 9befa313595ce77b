"""Folds whole streams into new tables: the long part of a rebuild, in as many processes as there are.

What a projection makes of one stream depends on no other stream. So the streams are taken in the order of their IDs,
a range at a time: nothing has to be loaded, each row is written once, and indexes are built at the end.
"""

from collections.abc import Iterator, Sequence
from typing import Any, LiteralString
from uuid import UUID

import psycopg

from projections.engine.parking import write_or_park
from projections.engine.process_pool import Task
from projections.engine.projection import Projection
from projections.engine.sealed_log import read_streams

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
            write_or_park(connection, projection.name, projection.build, events)
    return len(events)
