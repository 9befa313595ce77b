"""Applies the sealed log to every projection: in batches, each with its position in the same transaction."""

from collections.abc import Sequence
from typing import Any

import psycopg

from application.database import migration_lock
from projections.closings import Closings
from projections.projection import CHECKPOINTS, Projection
from projections.queue_stays import QueueStays
from projections.rebuild import rebuild
from projections.reporting import create_reporting, reporting_stands
from projections.sealed_log import last_position, read_after
from projections.ticket_summaries import TicketSummaries

PROJECTIONS: tuple[Projection, ...] = (TicketSummaries(), QueueStays(), Closings())
BATCH = 2_000


def ensure_projections(connection: psycopg.Connection[Any]) -> list[str]:
    """Creates the projections that are not there yet, and rebuilds those of another version; then the reporting views.

    Returns the names of the projections that are new.
    """
    with migration_lock(connection):
        connection.execute(CHECKPOINTS)
        known = dict(connection.execute("select name, version from projections").fetchall())
        missing = [projection for projection in PROJECTIONS if projection.name not in known]
        for projection in missing:
            with connection.transaction():
                connection.execute(projection.ddl)
                connection.execute(projection.indexes)
                connection.execute(
                    "insert into projections (name, version) values (%s, %s)", (projection.name, projection.version)
                )
        outdated = [
            projection
            for projection in PROJECTIONS
            if known.get(projection.name, projection.version) != projection.version
        ]
        for projection in outdated:
            rebuild(connection, projection)
        if missing or not reporting_stands(connection):
            with connection.transaction():
                create_reporting(connection)
    return [projection.name for projection in (*missing, *outdated)]


def project(connection: psycopg.Connection[Any], batch: int = BATCH) -> int:
    """One batch: the projections that lag most get up to `batch` more events, all of them in one transaction.

    The row locks on the checkpoints make a second runner skip what the first is at. Returns how many events were
    applied; 0 when there is nothing to do, or somebody else does it.
    """
    if not _behind(connection):
        return 0
    with connection.transaction():
        held = dict(
            connection.execute("select name, position from projections order by name for update skip locked").fetchall()
        )
        mine = [projection for projection in PROJECTIONS if projection.name in held]
        if not mine:
            return 0
        start = min(held[projection.name] for projection in mine)
        lagging = [projection for projection in mine if held[projection.name] == start]
        ahead = [held[projection.name] for projection in mine if held[projection.name] > start]
        return _apply(connection, lagging, start, min([start + batch, *ahead]))


def _behind(connection: psycopg.Connection[Any]) -> bool:
    """Whether there is anything to apply; asks without a lock, since a lock costs a write even when there is not."""
    row = connection.execute("select min(position) < (select max(position) from log) from projections").fetchone()
    return bool(row and row[0])


def _apply(connection: psycopg.Connection[Any], lagging: Sequence[Projection], start: int, through: int) -> int:
    events = read_after(connection, start, through)
    if not events:
        return 0
    for projection in lagging:
        projection.apply(connection, events)
    moved = connection.execute(
        "update projections set position = %s, updated_at = now() where name = any(%s) and position = %s",
        (events[-1].position, [projection.name for projection in lagging], start),
    )
    if moved.rowcount != len(lagging):
        raise RuntimeError("a checkpoint moved under the runner: nothing of this batch is kept")
    return len(events)


def project_all(connection: psycopg.Connection[Any], batch: int = BATCH) -> int:
    """Batches until the projections stand at the end of the log. Returns how many events were applied."""
    total = 0
    while count := project(connection, batch):
        total += count
    return total


def lag(connection: psycopg.Connection[Any]) -> dict[str, int]:
    """How many events each projection has yet to apply."""
    last = last_position(connection)
    rows = connection.execute("select name, position from projections").fetchall()
    return {name: last - position for name, position in rows}
