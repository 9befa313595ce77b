"""Applies the sealed log to every projection: in batches, each with its position in the same transaction."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, LiteralString

import psycopg

from application.store.postgres.database import change_schema, migration_lock
from projections.engine.parking import CREATE_PARKED_STREAMS, apply_or_park, not_parked, poisons, replay
from projections.engine.projection import CREATE_CHECKPOINTS, Projection, positions
from projections.engine.sealed_log import Sealed, last_position, read_after
from projections.models.closings import Closings
from projections.models.queue_stays import QueueStays
from projections.models.ticket_summaries import TicketSummaries
from projections.rebuild.rebuild_projections import far_behind, rebuild
from projections.reports.reporting_schema import create_reporting, reporting_stands

PROJECTIONS: tuple[Projection, ...] = (TicketSummaries(), QueueStays(), Closings())
NAMES = [projection.name for projection in PROJECTIONS]
PROJECTION_BATCH_MAX = 2_000
TAKE_OVER_SECONDS = 5
# A plan that was made while a table was small must not go on reading all of it when it has grown.
PREPARE_RUNNER: LiteralString = """
    select set_config('idle_in_transaction_session_timeout', %s, false), set_config('enable_seqscan', 'off', false),
        set_config('enable_hashjoin', 'off', false), set_config('enable_mergejoin', 'off', false)"""
# Ends the sessions like this one that stand in a transaction and wait for their client, who neither sends nor reads.
END_STUCK: LiteralString = """
    select pg_terminate_backend(pid) from pg_stat_activity
    where datname = current_database() and usename = current_user and pid <> pg_backend_pid()
    and application_name = current_setting('application_name') and xact_start is not null
    and wait_event_type = 'Client' and state_change < clock_timestamp() - make_interval(secs => %s)"""
ARE_PROJECTIONS_BEHIND: LiteralString = """
    select min(position) < (select max(position) from log) from projections where name = any(%s)"""
HOLD: LiteralString = "select name, position from projections where name = any(%s) order by name for update skip locked"
ADVANCE_CHECKPOINTS: LiteralString = """
    update projections set position = %s, updated_at = now() where name = any(%s) and position = %s"""
Apply = Callable[[psycopg.Connection[Any], Projection, Sequence[Sealed]], None]


def ensure_projections(connection: psycopg.Connection[Any]) -> list[str]:
    """Creates the projections that are not there yet, and rebuilds those of another version; then the reporting
    views; then tries again what is parked.

    One that is far behind, or new beside a long log, is rebuilt too. Returns the names of those that are new.
    """
    with migration_lock(connection):
        connection.execute(CREATE_CHECKPOINTS)
        connection.execute(CREATE_PARKED_STREAMS)
        known = dict(connection.execute("select name, version from projections").fetchall())
        missing = [projection for projection in PROJECTIONS if projection.name not in known]
        for projection in missing:
            change_schema(connection, partial(_create, connection, projection))
        others = [each for each in PROJECTIONS if known.get(each.name, each.version) != each.version]
        outdated = list(dict.fromkeys([*others, *far_behind(connection, PROJECTIONS)]))
        if outdated:
            rebuild(connection, *outdated)
        if missing or not reporting_stands(connection):
            change_schema(connection, partial(create_reporting, connection))
        for projection in PROJECTIONS:
            replay(connection, projection)  # this program may know what an older one did not
    return [projection.name for projection in (*missing, *outdated)]


def _create(connection: psycopg.Connection[Any], projection: Projection) -> None:
    connection.execute(projection.ddl)
    connection.execute(projection.indexes)
    connection.execute("insert into projections (name, version) values (%s, %s)", (projection.name, projection.version))


def prepare_runner(connection: psycopg.Connection[Any]) -> None:
    """Prepares a connection for `project`: whoever stands still in a batch loses it, so that another one can go on.

    The locks of a killed process go with its connection. One that is stopped, or cut off by the network, would keep
    them: the server ends its session when it sends nothing for `TAKE_OVER_SECONDS`, and the next runner when it reads
    nothing. All its statements look up by keys what they need.
    """
    connection.execute(PREPARE_RUNNER, (f"{TAKE_OVER_SECONDS}s",))


def project(connection: psycopg.Connection[Any], batch: int = PROJECTION_BATCH_MAX) -> int:
    """One batch: the projections that lag most get up to `batch` more events, all of them in one transaction.

    The row locks on the checkpoints make a second runner skip what the first is at. Returns how many events were
    applied; 0 when there is nothing to do, or somebody else does it. A batch that fails by the fault of a stream is
    done again with care, and parks the stream.
    """
    # asked without a lock, which would cost a write even when there is nothing to do
    (behind,) = connection.execute(ARE_PROJECTIONS_BEHIND, (NAMES,)).fetchone() or (False,)
    if not behind:
        return 0
    try:
        return _advance(connection, batch, _apply_unparked)
    except Exception as error:
        if not poisons(error):
            raise
    return _advance(connection, batch, apply_or_park)


def _advance(connection: psycopg.Connection[Any], batch: int, apply: Apply) -> int:
    with connection.transaction():
        held = dict(connection.execute(HOLD, (NAMES,)).fetchall())
        locked = [projection for projection in PROJECTIONS if projection.name in held]
        if not locked:
            connection.execute(END_STUCK, (TAKE_OVER_SECONDS,))
            return 0
        start = min(held[projection.name] for projection in locked)
        lagging = [projection for projection in locked if held[projection.name] == start]
        ahead = [held[projection.name] for projection in locked if held[projection.name] > start]
        events = read_after(connection, start, min([start + batch, *ahead]))
        if not events:
            return 0
        for projection in lagging:
            apply(connection, projection, events)
        names = [projection.name for projection in lagging]
        moved = connection.execute(ADVANCE_CHECKPOINTS, (events[-1].position, names, start))
        if moved.rowcount != len(lagging):
            raise RuntimeError("a checkpoint moved under the runner: the batch is undone")
        return len(events)


def _apply_unparked(connection: psycopg.Connection[Any], projection: Projection, events: Sequence[Sealed]) -> None:
    projection.apply(connection, not_parked(connection, projection, events))


def project_all(connection: psycopg.Connection[Any], batch: int = PROJECTION_BATCH_MAX) -> int:
    """Batches until the projections stand at the end of the log. Returns how many events were applied."""
    total = 0
    while count := project(connection, batch):
        total += count
    return total


def lag(connection: psycopg.Connection[Any]) -> dict[str, int]:
    """How many events each projection has yet to apply."""
    last = last_position(connection)
    return {name: last - position for name, position in positions(connection).items()}
