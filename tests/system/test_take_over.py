"""Two workers at one log: the one that is killed, or stands still, in the middle of a batch keeps nobody waiting."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from subprocess import Popen
from uuid import uuid4

import psycopg
import pytest

from application.helpdesk import HelpDesk
from application.store.postgres.database import connect
from application.store.sealing import seal_all
from projections.engine.parking import replay
from projections.runner import PROJECTIONS, prepare_runner, project, project_all
from tests.support.random_walk import Walk
from tests.support.read_models import contents, start_again
from tests.support.running_desk import RunningDesk, wait_until
from tests.support.write_side import append, notes, wait_for_locks

BATCH, SEALING = "lock table queue_stays in exclusive mode", "select from seal_state for update"
WORKERS = """
    select count(*) from pg_stat_activity
    where application_name = 'deskledger worker' and datname = current_database()"""


@pytest.fixture
def first(served: RunningDesk) -> Iterator[Popen[bytes]]:
    """The worker that is there; a second one can be started beside it."""
    process = served.processes["first"] = served.processes.pop("work")
    yield process
    if process.poll() is None:
        process.send_signal(signal.SIGCONT)


@contextmanager
def in_the_middle(served: RunningDesk, connection: psycopg.Connection, lock: str) -> Iterator[None]:
    """In the block the worker is in the middle of its work, held up by a lock; after it, a second worker is there."""
    connection.execute("begin")
    connection.execute(lock)
    served.ticket()
    with connect(served.database, "watcher") as watcher:
        wait_for_locks(watcher, 1)
        yield
        served.start("work")
        wait_until(lambda: watcher.execute(WORKERS).fetchone()[0] == 2, "the second worker is there")
    connection.execute("commit")


def applied_once(served: RunningDesk, connection: psycopg.Connection) -> bool:
    """Whether what the workers made of the log is what one alone makes of it."""
    for part in ("first", "work"):
        served.end(part)
    live = contents(connection)
    start_again(connection)
    project_all(connection)
    return contents(connection) == live


def test_a_killed_worker_is_replaced_at_once(
    served: RunningDesk, connection: psycopg.Connection, first: Popen[bytes]
) -> None:
    """Kill −9 in the middle of a batch: the other worker applies everything."""
    with in_the_middle(served, connection, BATCH):
        first.kill()
        first.wait()
    served.caught_up()
    served.ticket()
    served.caught_up()
    assert applied_once(served, connection)


def test_a_worker_that_stands_still_is_replaced(
    served: RunningDesk, connection: psycopg.Connection, first: Popen[bytes]
) -> None:
    """Stopped in the middle of a batch, a worker loses it within seconds; when it goes on, nothing is applied twice."""
    with in_the_middle(served, connection, BATCH):
        first.send_signal(signal.SIGSTOP)
    served.caught_up()
    first.send_signal(signal.SIGCONT)
    lost = "worker failed, trying again"
    wait_until(lambda: lost in (served.directory / "work.log").read_text(), "the first one knows")
    served.ticket()
    served.caught_up()
    assert applied_once(served, connection)


def test_a_sealer_that_stands_still_holds_up_nobody(
    served: RunningDesk, connection: psycopg.Connection, first: Popen[bytes]
) -> None:
    """Stopped in the middle of a sealing pass, a worker keeps no lock: the pass ends without it."""
    with in_the_middle(served, connection, SEALING):
        first.send_signal(signal.SIGSTOP)
    served.caught_up()
    served.ticket()
    served.caught_up()
    first.send_signal(signal.SIGCONT)
    assert applied_once(served, connection)


def test_nobody_waits_for_a_runner_that_is_idle(desk: HelpDesk, database: str, connection: psycopg.Connection) -> None:
    """Who holds the checkpoints and sends nothing loses its session to the server: a replay waits no longer."""
    append(connection, notes(uuid4(), first=1))
    seal_all(connection)
    project_all(connection)
    with connect(database, "runner") as stuck:
        prepare_runner(stuck)
        stuck.execute("begin")
        stuck.execute("select from projections for update")
        assert len(replay(connection, PROJECTIONS[0]).parked) == 1
        with pytest.raises(psycopg.errors.IdleInTransactionSessionTimeout):
            stuck.execute("commit")


def test_a_runner_that_reads_no_more_is_ended(desk: HelpDesk, database: str, connection: psycopg.Connection) -> None:
    """Who holds the checkpoints and does not take what it asked for loses its session to the next runner."""
    list(Walk(desk, seed=27).steps(20))
    seal_all(connection)
    with connect(database, "test") as stuck:
        prepare_runner(stuck)
        stuck.execute("begin")
        stuck.execute("select from projections for update")
        stuck.pgconn.send_query(b"select repeat('x', 1000) from generate_series(1, 1000000)")
        assert stuck.pgconn.flush() == 0
        wait_until(lambda: project(connection), "the batch is ours")
        stuck.pgconn.finish()
