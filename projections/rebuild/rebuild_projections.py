"""Builds projections anew beside the old tables, catches up, compares the two, and swaps them in one transaction.

Readers see the old tables until the swap and the new ones after it; nothing is missing in between. The old ones are
kept (`projections/rebuild/retired_tables.py`), so that a swap can be taken back.

What a projection makes of one stream depends on no other stream. So the streams are taken in the order of their IDs, a
range at a time, in as many processes as there are: nothing has to be loaded, each row is written once, and indexes are
built at the end.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from os import cpu_count
from typing import Any, LiteralString
from uuid import UUID

import msgspec
import psycopg
from psycopg.sql import SQL, Identifier

from application.store.postgres.database import LOCK_SECONDS, migration_lock
from projections.engine.parking import CREATE_PARKED_STREAMS, apply_or_park, write_or_park
from projections.engine.process_pool import RunTasks, Task, process_pool
from projections.engine.projection import Projection, positions
from projections.engine.sealed_log import last_position, read_after, read_streams
from projections.rebuild.comparison import Difference, compare, count
from projections.rebuild.retired_tables import TablesState, put_in_place, swap_tables

SCHEMA = "building"
CHUNK = 10_000  # events of one task: some tens of megabytes of memory
LOWEST_STREAM, HIGHEST_STREAM = UUID(int=0), UUID(int=2**128 - 1)
BOUND: LiteralString = "select stream_id from events where stream_id > %s order by stream_id offset %s limit 1"
REBUILD_BATCH_MAX = 5_000
NEAR_END = 2_000  # events, which the swap applies under its locks
REBUILD_PROCESSES = min(4, cpu_count() or 1)
REBUILD_SETTINGS: tuple[
    LiteralString, ...
] = (  # what is half built may be lost in a crash; the swap's commit waits for the disk
    f"set search_path to {SCHEMA}, public",
    "set synchronous_commit to off",
    "set maintenance_work_mem to '128MB'",
    "set max_parallel_maintenance_workers to 0",
    "set max_parallel_workers_per_gather to 0",
    "set enable_hashjoin to off",  # for a range of streams it would read the whole log
    "set enable_mergejoin to off",
    "set random_page_cost to 1.1",  # a range lies close together
)
SELECT_CHECKPOINTS: LiteralString = """
    select name, position, version from projections where name = any(%s) order by name"""
Progress = Callable[[int, int], None]


class Sizes(msgspec.Struct, frozen=True):
    """In events: what one task folds; how far behind an old table is not waited for, so that the new one is not
    compared with it; what is folded before a process has begun."""

    chunk: int = CHUNK
    far: int = 100_000
    small: int = 50_000


REBUILD_SIZES = Sizes()


def rebuild(
    connection: psycopg.Connection[Any],
    *projections: Projection,
    progress: Progress = lambda *_: None,
    processes: int = REBUILD_PROCESSES,
    sizes: Sizes = REBUILD_SIZES,
) -> list[Difference]:
    """Rebuilds projections, each event read once for all of them. `progress` hears how many events are done, of how
    many.

    Only one rebuild or migration runs at a time. Returns the difference of each table; a fold that has not changed
    gives none.
    """
    with migration_lock(connection):
        _begin(connection, projections)
        try:
            last = last_position(connection)
            stands = _checkpoints(connection, projections).values()
            through = min([last, *(position for position, _ in stands if last - position <= sizes.far)])
            with process_pool(connection, processes if through > sizes.small else 0, REBUILD_SETTINGS) as run:
                for done in accumulate(run(fold_tasks(connection, projections, through, sizes.chunk))):
                    progress(done, through)
                _finish(run, projections)
                differences: list[Difference]
                (differences, reached), *_ = run([(compared, (projections, through))])
            connection.execute(REBUILD_SETTINGS[0])
            while not _swapped(connection, projections, reached):
                time.sleep(LOCK_SECONDS)
        finally:
            connection.execute("set search_path to public")
            connection.execute(SQL("drop schema if exists {} cascade").format(Identifier(SCHEMA)))
    return differences


def far_behind(
    connection: psycopg.Connection[Any], projections: Sequence[Projection], far: int = REBUILD_SIZES.far
) -> list[Projection]:
    """The projections that a rebuild brings to the end of the log sooner than going on from where they stand."""
    last, stands = last_position(connection), positions(connection)
    return [each for each in projections if last - stands[each.name] > max(far, last // 2)]


def _begin(connection: psycopg.Connection[Any], projections: Sequence[Projection]) -> None:
    """An empty set of tables, without indexes, in a schema of its own."""
    with connection.transaction():
        connection.execute(SQL("drop schema if exists {} cascade").format(Identifier(SCHEMA)))
        connection.execute(SQL("create schema {}").format(Identifier(SCHEMA)))
        connection.execute(SQL("set local search_path to {}, public").format(Identifier(SCHEMA)))
        connection.execute(CREATE_PARKED_STREAMS)
        for projection in projections:
            connection.execute(projection.ddl)


def fold_tasks(
    connection: psycopg.Connection[Any], projections: Sequence[Projection], through: int, chunk: int
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


def _finish(run: RunTasks, projections: Sequence[Projection]) -> None:
    """What is counted, then the indexes, then what the planner has to know: the statements of each side by side."""
    for texts in (
        [projection.finish for projection in projections],
        [projection.indexes for projection in projections],
        [f"analyze {table}" for projection in projections for table in projection.tables],
    ):
        statements = [statement for text in texts for statement in text.split(";") if statement.strip()]
        list(run((execute, (statement,)) for statement in statements))


def execute(connection: psycopg.Connection[Any], statement: str) -> None:
    """A task: one statement."""
    connection.execute(statement.encode())


def _checkpoints(connection: psycopg.Connection[Any], projections: Sequence[Projection]) -> dict[str, tuple[int, int]]:
    """Position and version of each of the old tables."""
    rows = connection.execute(SELECT_CHECKPOINTS, ([projection.name for projection in projections],))
    return {name: (position, version) for name, position, version in rows}


def compared(
    connection: psycopg.Connection[Any], projections: Sequence[Projection], through: int
) -> tuple[list[Difference], dict[str, int]]:
    """A task: brings the new tables exactly to where the old ones stand, in a snapshot that locks nobody out.

    Returns how they differ there, and at which position each of the new ones stands then.
    """
    found, stands = list[Difference](), dict.fromkeys((projection.name for projection in projections), through)
    with connection.transaction():
        connection.execute("set transaction isolation level repeatable read")
        checkpoints = _checkpoints(connection, projections)
        for projection in projections:
            position, version = checkpoints[projection.name]
            if version != projection.version or position < through:
                found += count(connection, projection.tables, SCHEMA)
                continue
            _catch_up(connection, projection, stands, position)
            for table in projection.tables:
                found.append(compare(connection, table, SCHEMA, projection.counts.get(table, "true")))
    return found, stands


def _catch_up(
    connection: psycopg.Connection[Any], projection: Projection, stands: dict[str, int], through: int
) -> None:
    """Applies what the log holds up to `through`, in batches; each batch in a transaction unless there is one."""
    while (position := stands[projection.name]) < through:
        with connection.transaction():
            events = read_after(connection, position, min(position + REBUILD_BATCH_MAX, through))
            apply_or_park(connection, projection, events)
        stands[projection.name] = min(position + REBUILD_BATCH_MAX, through)


def _swapped(connection: psycopg.Connection[Any], projections: Sequence[Projection], stands: dict[str, int]) -> bool:
    """With the checkpoints locked: the last events, and the new tables in the place of the old ones.

    False when somebody reads an old table for so long that readers behind this would have to wait.
    """
    for projection in projections:
        while (last := last_position(connection)) - stands[projection.name] > NEAR_END:
            _catch_up(connection, projection, stands, last)

    def swap() -> None:
        reached = dict(stands)
        connection.execute("select from projections where name = any(%s) order by name for update", (list(stands),))
        checkpoints = _checkpoints(connection, projections)
        for projection in projections:  # readers never see less than they saw
            _catch_up(connection, projection, reached, checkpoints[projection.name][0])
        for projection in projections:
            put_in_place(connection, projection, SCHEMA, TablesState(projection.version, reached[projection.name]))

    return swap_tables(connection, swap)
