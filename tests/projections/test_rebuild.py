"""A projection is built anew beside the old one, caught up, compared and swapped; readers notice nothing."""

import os
import subprocess
import sys
import threading
import time
from multiprocessing import active_children
from pathlib import Path

import psycopg
import pytest

from application.helpdesk import HelpDesk
from application.store.postgres.database import connect
from application.store.sealing import seal_all
from projections.engine.background_priority import NICE, SLICE_MILLISECONDS, stand_back
from projections.engine.parking import parked_streams
from projections.engine.process_pool import REST_TIMES, ProcessPoolError, process_pool
from projections.engine.projection import positions
from projections.rebuild.rebuild_projections import Sizes, execute, far_behind, rebuild
from projections.rebuild.retired_tables import NotRetired, TablesState, UnknownVersion, drop_retired, roll_back
from projections.runner import PROJECTIONS, ensure_projections, project, project_all
from tests.support.postgres_servers import GIVEN
from tests.support.random_walk import Walk
from tests.support.read_models import contents, start_again
from tests.support.running_desk import wait_until
from tests.support.write_side import append, beside, notes, rows, wait_for_locks

LONG_SLICES = tuple(map(int, os.uname().release.split(".")[:2])) >= (6, 12)


@pytest.fixture
def worked(desk: HelpDesk, connection: psycopg.Connection) -> Walk:
    """A desk with 400 random steps behind it."""
    walk = Walk(desk, seed=13)
    list(walk.steps(400))
    seal_all(connection)
    project_all(connection)
    return walk


@pytest.mark.parametrize("projection", PROJECTIONS, ids=lambda projection: projection.name)
def test_a_rebuilt_projection_equals_the_live_one(worked: Walk, connection: psycopg.Connection, projection) -> None:
    """The same fold over the same log: no row differs, and the position stays."""
    before = contents(connection), positions(connection)
    differences = rebuild(connection, projection)
    assert [(each.table, each.only_old, each.only_new) for each in differences] == [
        (table, 0, 0) for table in projection.tables
    ]
    assert sum(each.rows for each in differences) > 0
    assert (contents(connection), positions(connection)) == before


def test_what_was_wrong_is_said_and_mended(worked: Walk, connection: psycopg.Connection) -> None:
    """A row that somebody spoilt is counted as a difference, and right again afterwards."""
    before = contents(connection)
    spoilt = "update queue_stays set queue = 'noc' where ctid in (select ctid from queue_stays limit 3)"
    connection.execute(spoilt)
    differences = {each.table: each for each in rebuild(connection, PROJECTIONS[1])}
    assert (differences["queue_stays"].only_old, differences["queue_stays"].only_new) == (3, 3)
    assert contents(connection) == before


def test_readers_see_the_old_tables_until_the_swap(worked: Walk, database: str, connection: psycopg.Connection) -> None:
    """While a rebuild runs, a reader finds every row at any time, and writers and the runner go on."""
    expected = connection.execute("select count(*) from ticket_summaries").fetchone()[0]
    done, seen = threading.Event(), []

    def read() -> None:
        with connect(database, "reader") as reader:
            while not done.is_set():
                seen.append(reader.execute("select count(*) from ticket_summaries").fetchone()[0])

    def record() -> None:
        with connect(database, "runner") as runner:
            for _ in worked.steps(60):
                seal_all(runner)
                project_all(runner)

    readers = [threading.Thread(target=read), threading.Thread(target=record)]
    for each in readers:
        each.start()
    for _ in range(5):
        rebuild(connection, PROJECTIONS[0])
    readers[1].join()
    done.set()
    readers[0].join()
    assert len(seen) > 10
    assert min(seen) >= expected
    project_all(connection)
    live = contents(connection)
    rebuild(connection, PROJECTIONS[0])
    assert contents(connection) == live


def test_a_long_log_is_read_in_batches(worked: Walk, connection: psycopg.Connection) -> None:
    """The batches before the swap and the last one in it make the same rows; the progress rises to the end."""
    before, told = contents(connection), []
    rebuild(connection, PROJECTIONS[1], progress=lambda done, total: told.append((done, total)), sizes=Sizes(chunk=50))
    assert contents(connection) == before
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert len(told) > 3
    assert told[-1][1] == told[-1][0]


def test_a_rebuild_that_is_cut_off_leaves_nothing(worked: Walk, connection: psycopg.Connection) -> None:
    """A failure in the middle keeps the old tables, and the next rebuild begins anew."""
    before = contents(connection)

    class Cut(Exception):
        pass

    def cut(done: int, total: int) -> None:
        raise Cut

    with pytest.raises(Cut):
        rebuild(connection, PROJECTIONS[0], progress=cut)
    assert contents(connection) == before
    schemas = connection.execute("select count(*) from pg_namespace where nspname like 'building%'").fetchone()[0]
    assert schemas == 0
    rebuild(connection, PROJECTIONS[0])
    assert contents(connection) == before


def test_a_new_version_of_a_projection_is_rebuilt_by_migrate(worked: Walk, connection: psycopg.Connection) -> None:
    """Tables of an older version than the code's are built anew when the schema is brought up to date."""
    before = contents(connection)
    connection.execute("update projections set version = 0 where name = 'closings'")
    connection.execute("update closings set level = 'noc'")
    assert ensure_projections(connection) == ["closings"]
    assert contents(connection) == before
    assert ensure_projections(connection) == []


def test_reports_read_the_new_tables(worked: Walk, connection: psycopg.Connection) -> None:
    """The reporting views follow the swap: they show rows that came after it."""
    for projection in PROJECTIONS:
        rebuild(connection, projection)
    count = "select count(*) from reporting.queue_stays"
    before = connection.execute(count).fetchone()[0]
    list(worked.steps(60))
    seal_all(connection)
    project_all(connection)
    assert connection.execute(count).fetchone()[0] > before > 0


def test_several_processes_build_what_one_builds(worked: Walk, connection: psycopg.Connection) -> None:
    """All projections at once, folded by two processes in small ranges of streams: the rows are those of the runner."""
    before, told = (contents(connection), positions(connection)), []
    differences = rebuild(
        connection, *PROJECTIONS, progress=lambda *done: told.append(done), processes=2, sizes=Sizes(chunk=100, small=0)
    )
    assert {(each.only_old, each.only_new) for each in differences} == {(0, 0)}
    assert (contents(connection), positions(connection)) == before
    last = connection.execute("select count(*) from log").fetchone()[0]
    assert told[-1] == (last, last)
    assert len(told) > 3


def test_a_projection_far_behind_is_brought_to_the_end_of_the_log(worked: Walk, connection: psycopg.Connection) -> None:
    """What was set back is not compared; the checkpoint goes to the end with the rows, so nothing is applied twice."""
    before = contents(connection), positions(connection)
    start_again(connection)
    differences = rebuild(connection, *PROJECTIONS, sizes=Sizes(far=100))
    assert {(each.only_old, each.only_new) for each in differences} == {(None, None)}
    assert project_all(connection) == 0
    assert (contents(connection), positions(connection)) == before


def test_a_swap_is_taken_back_at_once(worked: Walk, connection: psycopg.Connection) -> None:
    """The tables of before come back with their position and go on from there; the others can be had again."""
    old, stood = contents(connection), positions(connection)["queue_stays"]
    rebuild(connection, PROJECTIONS[1])
    list(worked.steps(60))
    seal_all(connection)
    project_all(connection)
    new = contents(connection)
    assert roll_back(connection, PROJECTIONS[1]) == TablesState(PROJECTIONS[1].version, stood)
    assert contents(connection) == new | {table: old[table] for table in PROJECTIONS[1].tables}
    project_all(connection)
    assert contents(connection) == new
    rebuild(connection, PROJECTIONS[1])
    assert contents(connection) == new


def test_only_what_is_kept_and_known_can_be_brought_back(worked: Walk, connection: psycopg.Connection) -> None:
    """Without a rebuild before, or after the kept tables were dropped, there is nothing; another version is refused."""
    with pytest.raises(NotRetired, match="no tables of closings are kept"):
        roll_back(connection, PROJECTIONS[2])
    rebuild(connection, PROJECTIONS[2])
    connection.execute("update retired_closings.checkpoint set version = 7")
    with pytest.raises(UnknownVersion, match="are of version 7, this program knows version 2"):
        roll_back(connection, PROJECTIONS[2])
    assert [drop_retired(connection, PROJECTIONS[2]) for _ in range(2)] == [True, False]
    with pytest.raises(NotRetired):
        roll_back(connection, PROJECTIONS[2])


@pytest.mark.parametrize("chunk", [40, 100_000])
def test_a_stream_that_cannot_be_applied_stops_no_rebuild(
    worked: Walk, connection: psycopg.Connection, chunk: int
) -> None:
    """It is parked at the event that fails, with the rows of the events before it; all others are as ever."""
    before, bad = contents(connection), worked.tickets[3]
    version = len(worked.desk.history(bad))
    append(connection, [*rows(bad, version + 1), *notes(bad, version + 2)])
    seal_all(connection)
    rebuild(connection, *PROJECTIONS, sizes=Sizes(chunk=chunk, far=0))
    parked = [(each.projection, each.stream_id, each.version, each.type) for each in parked_streams(connection)]
    assert sorted(parked) == [
        (p.name, bad, version + 1, "Ticket.Test") for p in sorted(PROJECTIONS, key=lambda p: p.name)
    ]
    assert contents(connection) == before
    rebuild(connection, PROJECTIONS[0])
    assert [each.projection for each in parked_streams(connection)].count("ticket_summaries") == 1
    roll_back(connection, PROJECTIONS[0])
    assert [each.projection for each in parked_streams(connection)].count("ticket_summaries") == 1


def test_a_swap_lets_no_reader_wait_behind_a_long_one(
    worked: Walk, database: str, connection: psycopg.Connection
) -> None:
    """While somebody reads the old table in a long transaction, the swap tries and gives way, and the desk works on;
    when it is done, no position has fallen."""
    count = "select count(*) from closings"
    with (
        connect(database, "long", 0) as reader,
        connect(database, "short", 9) as other,
        connect(database, "new") as own,
    ):
        reader.execute("begin")
        expected = reader.execute(count).fetchone()
        with beside(lambda: rebuild(own, PROJECTIONS[2])) as (done,):
            try:
                wait_for_locks(connection, 1)
                assert other.execute(count).fetchone() == expected
                list(worked.steps(40))
                seal_all(other)
                project_all(other)
                live = contents(other), positions(other)
                assert not done.done()
            finally:
                reader.execute("commit")
    assert done.result()[0].only_old == 0
    assert (contents(connection), positions(connection)) == live


def test_a_process_that_is_killed_leaves_the_old_tables(worked: Walk, connection: psycopg.Connection) -> None:
    """kill -9 of one of the processes ends the rebuild with a word; the old tables stand, and it can begin again."""
    before = contents(connection)

    def kill(done: int, total: int) -> None:
        for child in active_children()[:1]:  # none is left where what they had done before is told afterwards
            child.kill()

    with pytest.raises(ProcessPoolError):
        rebuild(connection, PROJECTIONS[0], progress=kill, processes=2, sizes=Sizes(chunk=10, small=0))
    assert contents(connection) == before
    assert connection.execute("select from pg_namespace where nspname = 'building'").fetchone() is None
    assert {each.only_old for each in rebuild(connection, PROJECTIONS[0])} == {0}


LONG_REBUILD = """
import os, sys
from application.store.postgres.database import connect
from projections.engine.process_pool import process_pool
from projections.rebuild.rebuild_projections import execute

if __name__ == "__main__":
    with connect(os.environ["DATABASE_URL"], "parent") as connection, process_pool(connection, 2, ()) as run:
        list(run([(execute, ("select pg_sleep(600)",))] * 2))
"""


def test_what_is_killed_with_kill_9_leaves_no_process(database: str, connection: psycopg.Connection) -> None:
    """When the one that gives the tasks is killed, the processes end, and their statements with them."""
    sleeping = """select pid from pg_stat_activity where application_name = 'deskledger rebuild'
        and datname = current_database() and state = 'active'"""
    command, environment = [sys.executable, "-c", LONG_REBUILD], os.environ | {"DATABASE_URL": database}
    with subprocess.Popen(command, env=environment) as parent:
        wait_until(lambda: len(connection.execute(sleeping).fetchall()) == 2, "both work")
        parent.kill()
    wait_until(lambda: not connection.execute(sleeping).fetchall(), "both have ended")


def test_an_error_in_a_process_is_raised_here(connection: psycopg.Connection) -> None:
    """What a task raises in another process comes back with its kind, and all processes end."""
    with pytest.raises(psycopg.errors.UndefinedTable), process_pool(connection, 2, ()) as run:
        list(run([(execute, ("select 1",)), (execute, ("select from nowhere",))]))
    gone = "select from pg_stat_activity where application_name = 'deskledger rebuild' and datname = current_database()"
    wait_until(lambda: not connection.execute(gone).fetchall(), "the connections of the processes end")


def test_the_processes_of_a_rebuild_stand_back(connection: psycopg.Connection) -> None:
    """They and the server's processes for them have a lower priority, also as groups, and a longer slice of time."""
    backends = """select pid from pg_stat_activity
        where application_name = 'deskledger rebuild' and datname = current_database()"""
    number = 2 if GIVEN else 4
    with process_pool(connection, 2, ()) as run:

        def processes() -> list[int]:
            servers = [] if GIVEN else [pid for (pid,) in connection.execute(backends).fetchall()]
            return servers + [child.pid for child in active_children()]

        list(run([(execute, ("select 1",))] * 4))
        wait_until(lambda: len(processes()) == number, "both have begun")
        pids = processes()
        wait_until(lambda: list(run([(execute, ("select 1",))])) and all(map(in_a_lower_group, pids)), "they do")
        assert {(os.getsid(pid) == pid, os.getpriority(os.PRIO_PROCESS, pid)) for pid in pids} == {(True, NICE)}
        assert {os.sched_getscheduler(pid) for pid in pids} == {os.SCHED_BATCH}
        assert {slice_of(pid) for pid in pids} == {SLICE_MILLISECONDS if LONG_SLICES else slice_of(os.getpid())}


def test_beside_commands_the_processes_rest(connection: psycopg.Connection) -> None:
    """When events were recorded while a task ran, the process rests several times as long before the next one."""
    working = "select pg_sleep(0.2), nextval('events_ord'), nextval('events_ord')"
    tasks = [(execute, (working,)), (execute, ("select 1",))]
    with process_pool(connection, 1, ()) as run:
        list(run(tasks[1:]))
        begun = time.monotonic()
        list(run(tasks))
        assert time.monotonic() - begun >= (1 + REST_TIMES) * 0.2


def test_the_comparison_stands_back_too(worked: Walk, database: str, connection: psycopg.Connection) -> None:
    """It reads all that there is, so it is a task of the processes that stand back, and not of the one that swaps."""
    waiting = "select application_name from pg_stat_activity where wait_event_type = 'Lock' and datname = %s"
    with connect(database, "lock") as lock, connect(database, "swap") as own:
        lock.execute("begin; lock table closings in access exclusive mode")
        with beside(lambda: rebuild(own, PROJECTIONS[2])) as (done,):
            try:
                wait_for_locks(connection, 1)
                assert connection.execute(waiting, (own.info.dbname,)).fetchall() == [("deskledger rebuild",)]
            finally:
                lock.execute("commit")
    assert [each.only_old for each in done.result()] == [0]


def in_a_lower_group(pid: int) -> bool:
    """Whether the kernel makes no groups of sessions, or has that of this process at the lower priority."""
    group = Path(f"/proc/{pid}/autogroup")
    return not group.exists() or group.read_text().endswith(f"nice {NICE}\n")


def slice_of(pid: int) -> float | None:
    """Milliseconds that a process may run on while others wait; None where the kernel does not say."""
    says = [line.split() for line in Path(f"/proc/{pid}/sched").read_text().splitlines() if "se.slice" in line]
    return int(says[0][-1]) / 1_000_000 if says else None


def test_what_is_gone_does_not_stand_in_the_way() -> None:
    """A process that has ended meanwhile is no error, and not asked for again."""
    with subprocess.Popen(["true"]) as ended:
        pass
    stand_back(ended.pid)
    assert not Path(f"/proc/{ended.pid}").exists()


def test_two_runners_catch_up_beside_one_another(worked: Walk, database: str, connection: psycopg.Connection) -> None:
    """From the beginning of the log on, with another runner at it in other batches, no event is applied twice."""
    before = contents(connection), positions(connection)
    start_again(connection)

    def rival() -> None:
        with connect(database, "runner") as own:
            while min(positions(own).values()) < before[1]["closings"]:
                project(own, 7)

    with beside(rival) as (done,):
        project_all(connection, 100)
    assert done.result() is None
    assert (contents(connection), positions(connection)) == before


def test_what_is_far_behind_is_rebuilt_by_migrate(worked: Walk, connection: psycopg.Connection) -> None:
    """Whether a rebuild is the shorter way follows from the lag: more than it takes to be far, and half of the log."""
    assert far_behind(connection, PROJECTIONS) == []
    connection.execute("update projections set position = 0 where name = 'closings'")
    assert far_behind(connection, PROJECTIONS) == []
    assert far_behind(connection, PROJECTIONS, far=100) == [PROJECTIONS[2]]
    connection.execute("update projections set position = (select max(position) from log) * 3 / 4")
    assert far_behind(connection, PROJECTIONS, far=100) == []


def test_a_swap_never_takes_readers_back(worked: Walk, database: str, connection: psycopg.Connection) -> None:
    """What was projected while the new tables were built is in them at the swap, and compared; no position falls."""
    live = []

    def work(done: int, total: int) -> None:
        with connect(database, "runner") as runner:
            list(worked.steps(20))
            seal_all(runner)
            project_all(runner)
            live[:] = [contents(runner), positions(runner)]

    differences = rebuild(connection, *PROJECTIONS, progress=work, sizes=Sizes(chunk=100))
    assert [contents(connection), positions(connection)] == live
    assert {(each.only_old, each.only_new) for each in differences} == {(0, 0)}
