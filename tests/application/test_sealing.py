"""The sealed log: committed events get the positions 1, 2, 3 …, none lost, none twice, whoever holds what open."""

import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from threading import Event as Flag
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from application.store.postgres import embedded_postgres as postgres
from application.store.postgres.database import connect
from application.store.sealing import IS_SEALING_PENDING, SEAL, delay, seal, seal_all
from tests.support.running_desk import ROOT, wait_until
from tests.support.write_side import append, beside, make_schema, own_postgres, rows, sealed, wait_for_locks

HOLES = "select holes::text from seal_state"
SEALER = """
import sys
from application.store.postgres.database import connect
from application.store.sealing import seal
with connect(sys.argv[1], "sealer to kill") as connection:
    while True:
        seal(connection, 7)
"""


@pytest.fixture
def held(database: str) -> Iterator[Callable[[], psycopg.Connection[Any]]]:
    """Gives connections with an open transaction, which hold whatever the test lets them hold."""
    opened = []

    def begin() -> psycopg.Connection[Any]:
        opened.append(connect(database, "test held"))
        opened[-1].execute("begin")
        return opened[-1]

    yield begin
    for connection in opened:
        connection.close()


def holes(connection: psycopg.Connection[Any]) -> str:
    """The numbers that the sealer has not seen yet."""
    return str(connection.execute(HOLES).fetchone()[0])


def drop_holes(connection: psycopg.Connection[Any], left: str = "{}") -> None:
    """Seals until only these holes are left; with nobody writing, a few passes prove every hole dead."""
    wait_until(lambda: seal_all(connection) == 0 and holes(connection) == left, f"only {left} are left as holes")


def check_log(connection: psycopg.Connection[Any]) -> None:
    """Every committed event stands in the log once, without a gap, and each stream in the order of its versions."""
    log = sealed(connection)
    assert [position for position, _, _ in log] == list(range(1, len(log) + 1))
    events = connection.execute("select stream_id, version from events").fetchall()
    assert sorted((stream, version) for _, stream, version in log) == sorted(events)
    last: dict[UUID, int] = {}
    for _, stream, version in log:
        assert version > last.get(stream, 0)
        last[stream] = version


def test_positions_are_contiguous_from_one(connection: psycopg.Connection) -> None:
    """Events get 1, 2, 3 … in the order in which they drew their numbers, over any number of passes."""
    streams = [uuid4() for _ in range(5)]
    for stream in streams:
        append(connection, rows(stream, 1, 3))
    assert [seal(connection, 4), seal(connection, 4)] == [4, 4]
    append(connection, rows(streams[0], 4, 2))
    assert seal_all(connection, 4) == 9
    expected = [(stream, version) for stream in streams for version in (1, 2, 3)] + [(streams[0], 4), (streams[0], 5)]
    assert sealed(connection) == [(position, *event) for position, event in enumerate(expected, 1)]


def test_nothing_to_seal_writes_nothing(connection: psycopg.Connection) -> None:
    """A pass over an empty or wholly sealed log changes nothing, not even the sealer's own row."""
    append(connection, rows(uuid4()))
    before = connection.execute("select xmin, s from seal_state s").fetchone()
    assert seal_all(connection) == 1
    after = connection.execute("select xmin, s from seal_state s").fetchone()
    assert after != before
    assert seal_all(connection) == 0
    assert connection.execute("select xmin, s from seal_state s").fetchone() == after


def test_a_held_transaction_is_sealed_later_and_stalls_nobody(connection: psycopg.Connection, held: Any) -> None:
    """Numbers drawn early and committed after 10,000 others are not lost: they get the next positions."""
    writer, late = held(), uuid4()
    append(writer, rows(late, 1, 2))
    for _ in range(10):
        append(connection, rows(uuid4(), 1, 1_000))
        seal_all(connection)
    assert connection.execute("select count(*), max(position) from log").fetchone() == (10_000, 10_000)
    for _ in range(3):
        assert seal(connection) == 0
    writer.execute("commit")
    assert seal(connection) == 2
    assert sealed(connection)[10_000:] == [(10_001, late, 1), (10_002, late, 2)]
    check_log(connection)


def test_what_was_read_never_changes(connection: psycopg.Connection, held: Any) -> None:
    """Once a position is read, the log up to it stays as it is, whatever is committed afterwards."""
    writer = held()
    append(writer, rows(uuid4(), 1, 3))
    append(connection, rows(uuid4(), 1, 3))
    seal_all(connection)
    read = sealed(connection)
    writer.execute("commit")
    append(connection, rows(uuid4()))
    seal_all(connection)
    assert sealed(connection)[:3] == read
    assert len(sealed(connection)) == 7


def test_rolled_back_numbers_stay_holes_until_the_fence_proves_them_dead(
    connection: psycopg.Connection, held: Any
) -> None:
    """A number is dropped only when every transaction that could own it has ended; then no hole is left."""
    older, writer = held(), held()
    older.execute("select pg_current_xact_id()")
    append(writer, rows(uuid4(), 1, 2))
    append(connection, rows(uuid4()))
    writer.execute("rollback")
    assert seal(connection) == 1
    for _ in range(3):
        seal(connection)
        assert holes(connection) == "{[1,3)}"
    older.execute("commit")
    drop_holes(connection)
    append(connection, rows(uuid4()))
    assert seal(connection) == 1
    check_log(connection)


def test_a_hole_above_the_fence_outlives_the_holes_below_it(connection: psycopg.Connection, held: Any) -> None:
    """A fence that has passed says nothing of numbers drawn after it was set."""
    first, older = held(), held()
    append(first, rows(uuid4()))
    older.execute("select pg_current_xact_id()")
    append(connection, rows(uuid4()))
    seal(connection)  # hole 1, fence at 2
    second = held()
    append(second, rows(uuid4()))
    append(connection, rows(uuid4()))
    seal(connection)  # hole 3, above the fence
    first.execute("rollback")
    older.execute("rollback")
    drop_holes(connection, left="{[3,4)}")
    for _ in range(3):
        seal(connection)
    second.execute("commit")
    assert seal(connection) == 1
    check_log(connection)


def test_many_rollbacks_leave_no_holes_behind(connection: psycopg.Connection) -> None:
    """However many commands were rolled back, a few passes later the list of holes is empty again."""
    for n in range(200):
        connection.execute("begin")
        append(connection, rows(uuid4(), 1, 2))
        connection.execute("rollback" if n % 3 else "commit")
    seal_all(connection)
    assert holes(connection) != "{}"
    drop_holes(connection)
    check_log(connection)


def test_a_fence_from_another_cluster_is_drawn_anew(connection: psycopg.Connection) -> None:
    """A restored dump brings a fence whose xid means nothing here: its holes are dropped all the same."""
    connection.execute("begin")
    append(connection, rows(uuid4()))
    connection.execute("rollback")
    append(connection, rows(uuid4()))
    seal(connection)
    connection.execute("update seal_state set fence_xid = '4000000000', fence_hi = 2")
    drop_holes(connection)


def test_a_pass_takes_late_events_first_and_no_more_than_its_batch(connection: psycopg.Connection, held: Any) -> None:
    """However much was late, a pass is not longer for it; a full pass drops no hole, and nothing overtakes a stream."""
    writer, late = held(), uuid4()
    append(writer, rows(late, 1, 5))
    append(connection, rows(uuid4()))
    seal(connection)
    writer.execute("commit")
    append(connection, rows(late, 6, 2))
    assert [seal(connection, 2) for _ in range(5)] == [2, 2, 2, 1, 0]
    check_log(connection)


@pytest.mark.parametrize("statement", [IS_SEALING_PENDING, SEAL], ids=["is there anything", "a pass"])
def test_what_is_sealed_is_not_looked_at_again(connection: psycopg.Connection, statement: str) -> None:
    """A pass reads the index from where the last one ended, so it takes no longer when the log is long."""
    append(connection, rows(uuid4(), 1, 3_000))
    seal(connection)
    connection.execute("analyze events")
    append(connection, rows(uuid4()))
    lines = connection.execute("explain analyze " + statement, {"batch": 20_000}).fetchall()
    plan = "\n".join(line for (line,) in lines)
    assert "using events_by_ord on events" in plan
    assert "Rows Removed" not in plan, plan


def test_an_acknowledged_event_comes_before_one_sent_after_it(database: str, connection: psycopg.Connection) -> None:
    """What was committed before something else was sent has the lower position, also from another connection."""
    streams = [uuid4() for _ in range(20)]
    with connect(database, "test other") as other:
        for n, stream in enumerate(streams):
            append((connection, other)[n % 2], rows(stream))
    seal_all(connection)
    assert [stream for _, stream, _ in sealed(connection)] == streams


def test_the_fence_is_drawn_after_the_snapshot(database: str, connection: psycopg.Connection, held: Any) -> None:
    """A writer whose transaction began while the sealer was on its way is younger than the fence of a later sealer."""
    append(connection, rows(uuid4()))
    early, late, stream = held(), held(), uuid4()
    early.execute("lock table log in access exclusive mode")  # holds the sealer up on its way to its snapshot
    with beside(lambda: seal_with(database)) as sealers:
        wait_for_locks(connection, 1)
        late.execute("select pg_current_xact_id()")
        append(late, rows(stream))  # a number that is not committed yet …
        append(early, rows(uuid4()))  # … below one that is, when the sealer looks
        early.execute("commit")
    assert sealers[0].result() == 2
    assert holes(connection) == "{[2,3)}"
    for _ in range(3):
        seal(connection)
    late.execute("commit")
    assert seal(connection) == 1
    check_log(connection)


def test_a_late_commit_is_not_judged_by_what_was_seen_before_it(
    database: str, connection: psycopg.Connection, held: Any
) -> None:
    """Whether a number is there and whether its writer has ended are asked of one snapshot, or it would be given up."""
    writer = held()
    append(writer, rows(uuid4()))
    append(connection, rows(uuid4()))
    seal(connection)  # hole 1, and a fence that waits for the writer
    early = held()
    early.execute("lock table log in access exclusive mode")  # holds the sealer up on its way to its snapshot
    with beside(lambda: seal_with(database)) as sealers:
        wait_for_locks(connection, 1)
        writer.execute("commit")
        early.execute("commit")
    assert sealers[0].result() == 1
    check_log(connection)


def test_a_writer_has_its_xid_before_its_number(database: str, connection: psycopg.Connection, held: Any) -> None:
    """A writer that waits between its number and its row is older than the fence: its number is not given up."""
    rival, stream = held(), uuid4()
    append(rival, rows(stream))
    with connect(database, "test writer") as writer:
        writer.execute("begin")
        with beside(lambda: append(writer, rows(stream))) as appended:
            wait_for_locks(connection, 1)
            append(connection, rows(uuid4()))
            seal(connection)  # holes: the rival's number and the writer's
            rival.execute("rollback")
        assert appended[0].result() == {stream}
        for _ in range(3):
            seal(connection)
        writer.execute("commit")
    assert seal(connection) == 1
    check_log(connection)


def seal_with(database: str) -> int:
    """A pass of another sealer."""
    with connect(database, "test sealer") as sealer:
        return seal(sealer)


def test_the_second_of_two_sealers_goes_on_from_the_first(
    database: str, connection: psycopg.Connection, held: Any
) -> None:
    """A sealer that waits for another one sees what that one has written, and gives no position again."""
    append(connection, rows(uuid4(), 1, 3))
    first = held()
    assert seal(first) == 3
    with beside(lambda: seal_with(database)) as second:
        wait_for_locks(connection, 1)
        append(connection, rows(uuid4(), 1, 2))
        first.execute("commit")
    seal(connection)
    assert second[0].result() == 0
    assert [position for position, _, _ in sealed(connection)] == [1, 2, 3, 4, 5]
    check_log(connection)


def write_at_random(database: str, seed: int, shared: list[UUID]) -> int:
    """A writer with three transactions that begin, append, hold, commit and roll back in any order.

    Returns how many events it committed.
    """
    chance, committed = random.Random(seed), 0
    lines = [connect(database, "test writer") for _ in range(3)]
    held: dict[int, int] = {}
    for _ in range(150):
        n, shares = chance.randrange(3), False
        if n not in held:
            shares = not held  # who holds something must not wait for a stream
            lines[n].execute("begin")
            held[n] = append_next(lines[n], chance.choice(shared) if shares else uuid4(), chance.randint(1, 4))
        if shares or chance.random() < 0.4:
            count, end = held.pop(n), chance.choice(["commit", "commit", "rollback"])
            lines[n].execute(end)
            committed += count if end == "commit" else 0
    for line in lines:
        line.close()
    return committed


def append_next(connection: psycopg.Connection[Any], stream: UUID, count: int) -> int:
    """Appends events behind the last one that is committed. Returns how many; 0 when somebody else came first."""
    query = "select coalesce(max(version), 0) + 1 from events where stream_id = %s"
    first = connection.execute(query, (stream,)).fetchone()[0]
    return count if append(connection, rows(stream, first, count)) else 0


def seal_until(database: str, done: Flag, batch: int) -> int:
    """A sealer that goes on until it is told, and then to the end. Returns how many events it sealed."""
    with connect(database, "test sealer") as connection:
        total = 0
        while not done.is_set():
            total += seal(connection, batch)
        return total + seal_all(connection, batch)


def test_two_sealers_beside_writers_that_hold_and_roll_back(database: str, connection: psycopg.Connection) -> None:
    """Whatever the writers do, two sealers at once lose nothing, give nothing twice and leave no gap."""
    shared, done = [uuid4() for _ in range(4)], Flag()
    with ThreadPoolExecutor(6) as threads:
        sealers = [threads.submit(seal_until, database, done, batch) for batch in (3, 50)]
        writers = [threads.submit(write_at_random, database, random.getrandbits(32), shared) for _ in range(4)]
        try:
            committed = sum(writer.result() for writer in writers)
        finally:
            done.set()
        sealed_by = [sealer.result() for sealer in sealers]
    seal_all(connection)
    assert committed == connection.execute("select count(*) from events").fetchone()[0]
    assert sum(sealed_by) == len(sealed(connection)) == committed > 200
    check_log(connection)
    drop_holes(connection)


def test_a_killed_sealer_leaves_whole_passes(database: str, connection: psycopg.Connection) -> None:
    """Killed at any moment, a sealer has sealed or not sealed; the next one goes on without gap or repetition."""
    append(connection, rows(uuid4(), 1, 3_000))
    for goal in (300, 900, 1_500):
        sealer = subprocess.Popen([sys.executable, "-c", SEALER, database], cwd=ROOT)
        try:
            wait_until(lambda goal=goal: len(sealed(connection)) > goal, f"{goal} events are sealed")
        finally:
            sealer.kill()
            sealer.wait()
    seal_all(connection)
    assert len(sealed(connection)) == 3_000
    check_log(connection)


def starts(own: postgres.EmbeddedPostgres) -> bool:
    """Whether a killed server starts again; not while its last processes are still ending."""
    try:
        return own.start()
    except postgres.PostgresError:
        return False


def test_sealing_resumes_after_a_crash_of_the_database() -> None:
    """What was acknowledged before a crash is there after it; holes of cut-off writers are dropped; nothing is lost."""
    with own_postgres() as own:
        with closing(connect(own.url, "test")) as connection, closing(connect(own.url, "test cut off")) as writer:
            make_schema(connection)
            append(connection, rows(uuid4(), 1, 5))
            seal(connection)
            writer.execute("begin")
            append(writer, rows(uuid4(), 1, 2))
            append(connection, rows(uuid4(), 1, 2))
            seal(connection)
            before = sealed(connection)
            append(connection, rows(uuid4()))
            os.kill(own.process.pid, signal.SIGKILL)
            own.process.wait()
        wait_until(lambda: starts(own), "the database is up again")
        with connect(own.url, "test") as connection:
            assert sealed(connection) == before
            assert seal_all(connection) == 1
            append(connection, rows(uuid4()))  # the numbers jump after a crash
            drop_holes(connection)
            check_log(connection)


def test_a_long_transaction_in_another_database_stalls_nothing(connection: psycopg.Connection, postgres: str) -> None:
    """Another database's old transaction keeps holes alive, and no event waits for it."""
    with psycopg.connect(postgres) as foreign:
        foreign.execute("select pg_current_xact_id()")
        connection.execute("begin")
        append(connection, rows(uuid4()))
        connection.execute("rollback")
        for n in range(3):
            append(connection, rows(uuid4()))
            assert seal(connection) == 1
            assert sealed(connection)[-1][0] == n + 1
        assert holes(connection) == "{[1,2)}"
    drop_holes(connection)


def test_a_prepared_transaction_stalls_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Events of a prepared transaction are sealed when it is committed, and nothing waits for it."""
    monkeypatch.setitem(postgres.POSTGRES_SETTINGS, "max_prepared_transactions", "1")
    late = uuid4()
    with own_postgres() as own, connect(own.url, "test") as connection:
        make_schema(connection)
        connection.execute("begin")
        append(connection, rows(late))
        connection.execute("prepare transaction 'late'")
        append(connection, rows(uuid4(), 1, 3))
        assert [seal(connection), seal(connection), seal(connection)] == [3, 0, 0]
        connection.execute("commit prepared 'late'")
        assert seal(connection) == 1
        assert sealed(connection)[-1] == (4, late, 1)
        check_log(connection)


@pytest.mark.parametrize(
    "again",
    [
        "insert into log (position, ord) values (2, 1)",
        "insert into log (position, ord) values (1, 2)",
        "insert into events select stream_id, 2, ord, at, type, body, private, meta, leaf from events",
        "insert into events select stream_id, version, 2, at, type, body, private, meta, leaf from events",
    ],
    ids=["the event", "the position", "the number", "the version"],
)
def test_nothing_is_given_twice(connection: psycopg.Connection, again: str) -> None:
    """The database itself refuses to seal an event twice, and to give a position, a number or a version again."""
    append(connection, rows(uuid4()))
    seal(connection)
    with pytest.raises(psycopg.errors.UniqueViolation):
        connection.execute(again)


@pytest.mark.parametrize("table", ["events", "log"])
@pytest.mark.parametrize(
    "change", ["update {} set ord = ord + 1", "delete from {}", "delete from {} where false", "truncate {}"]
)
def test_history_is_insert_only(connection: psycopg.Connection, table: str, change: str) -> None:
    """The database itself refuses to change or remove what happened."""
    append(connection, rows(uuid4()))
    seal(connection)
    with pytest.raises(psycopg.errors.RestrictViolation, match=f"the table {table} is insert-only"):
        connection.execute(change.format(table))
    assert len(sealed(connection)) == 1


def test_the_delay_is_that_of_the_first_event_of_a_pass(connection: psycopg.Connection) -> None:
    """What was recorded first has waited longest; nothing sealed, or a clock that is ahead, is no delay."""
    assert delay(connection, 1) == 0.0
    now = connection.execute("select clock_timestamp()").fetchone()[0]
    recorded = rows(uuid4(), count=3)
    for row, seconds in zip(recorded, (30, 20, -3600), strict=True):
        append(connection, [replace(row, at=now - timedelta(seconds=seconds))])
    assert seal_all(connection) == 3
    assert [round(delay(connection, count) / 10) for count in (3, 2, 1)] == [3, 2, 0]
