"""Threads that append at the same time share a commit: what each of them gets, whatever becomes of the others."""

import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from functools import partial
from threading import Barrier
from threading import Event as Flag
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from eventsourcing import persistence as library
from psycopg_pool import ConnectionPool, PoolClosed

from application import database as databases
from application import group_commit
from application.database import connect, migrate
from application.event_store import INSERT_AND_KEEP, Kept, StoredRow, insert_parameters
from application.group_commit import BROKEN_OFF, GroupCommit
from application.helpdesk import HelpDesk
from application.postgres import EmbeddedPostgres
from application.recorder import EventRecorder
from application.sealing import seal
from application.supporting import AddNote
from tests.support.running_desk import wait_until
from tests.support.write_side import NOW, append, beside, history, opened, request, rows, wait_for_locks

NAME = "test group"
A, B, C, HELD, LAST = (UUID(int=n) for n in (1, 2, 3, 4, 5))
Command = tuple[Sequence[StoredRow], Kept | None]


@pytest.fixture
def pool(database: str) -> Iterator[ConnectionPool[Any]]:
    """The pool that the threads append with."""
    with databases.pool(database, NAME, size=4) as connections:
        yield connections


@pytest.fixture
def group(pool: ConnectionPool[Any]) -> GroupCommit:
    """The group commit under test."""
    return GroupCommit(pool)


@pytest.fixture
def rivals(database: str) -> Iterator[list[psycopg.Connection]]:
    """Two connections with an open transaction, to stand in somebody's way."""
    rivals = [connect(database, "test rival") for _ in range(2)]
    for rival in rivals:
        rival.execute("begin")
    yield rivals
    for rival in rivals:
        rival.close()


def key(name: str) -> Kept:
    """An idempotency record."""
    return Kept("key_1", name, b"hash", b"answer")


def queued(group: GroupCommit, count: int) -> None:
    """Waits until so many commands wait for the next statement."""
    wait_until(lambda: len(group._waiting) == count, 20, f"{count} commands wait")


@contextmanager
def one_under_way(group: GroupCommit, rival: psycopg.Connection[Any]) -> Iterator[None]:
    """Somebody leads, and its statement stands still until the rival's transaction ends: what comes now collects."""
    append(rival, rows(HELD))
    with connect(rival.info.dsn, "test watcher") as watcher, beside(lambda: group.append(rows(HELD))) as held:
        wait_for_locks(watcher, 1)
        yield
    assert held[0].result() is None


@contextmanager
def together(
    group: GroupCommit,
    rival: psycopg.Connection[Any],
    *commands: Command,
    when_all_wait: Callable[[], object] = lambda: None,
) -> Iterator[list[Exception | None]]:
    """Commands go out as one statement, in the order in which they are given; their answers are there after the block.

    The block runs when the statement is on its way.
    """

    busy = Flag()

    def append_in_turn(number: int) -> Exception | None:
        busy.wait(20)
        queued(group, number)
        return group.append(*commands[number])

    answers: list[Exception | None] = []
    with beside(*(partial(append_in_turn, number) for number in range(len(commands)))) as asked:
        with one_under_way(group, rival):
            busy.set()
            queued(group, len(commands))
            when_all_wait()
            rival.execute("rollback")
        yield answers
    answers += [one.result() for one in asked]


def test_who_comes_meanwhile_shares_one_commit(
    group: GroupCommit, connection: psycopg.Connection, rivals: list[psycopg.Connection]
) -> None:
    """Three commands that collected while another one was under way are one transaction after it."""
    with together(group, rivals[0], (rows(A), None), (rows(B, 1, 2), key("b")), (rows(C), None)) as answers:
        pass
    assert answers == [None] * 3
    assert [history(connection, stream) for stream in (A, B, C)] == [[1], [1, 2], [1]]
    query = "select array_agg(distinct stream_id order by stream_id) from events group by xmin::text order by 1"
    assert connection.execute(query).fetchall() == [([A, B, C],), ([HELD],)]
    assert connection.execute("select xmin::text from idempotency union select xmin::text from events").rowcount == 2


def test_a_lone_writer_waits_for_nobody(group: GroupCommit, connection: psycopg.Connection) -> None:
    """Who appends alone is not held back in the hope that somebody joins."""
    began = time.monotonic()
    for version in range(1, 31):
        assert group.append(rows(A, version)) is None
    assert time.monotonic() - began < 3
    assert history(connection, A) == list(range(1, 31))


def test_a_large_insert_is_sent_piece_by_piece(group: GroupCommit, connection: psycopg.Connection) -> None:
    """More than the socket takes at once arrives whole."""
    body = b'"' + b"deskledger" * 200_000 + b'"'
    assert group.append([StoredRow(A, version, "Ticket.Test", body, NOW) for version in range(1, 9)]) is None
    lengths = connection.execute("select length(body #>> '{}') from events").fetchall()
    assert lengths == [(2_000_000,)] * 8


def test_a_bad_command_harms_only_itself(
    group: GroupCommit, connection: psycopg.Connection, rivals: list[psycopg.Connection]
) -> None:
    """(c) What the database refuses, and what cannot even be sent, leaves nothing; the others of its batch stand."""
    no_json = [*rows(B), StoredRow(B, 2, "Ticket.Test", b"{", NOW)]
    no_stream = [StoredRow("nobody", 1, "Ticket.Test", b"{}", NOW)]
    append(connection, rows(LAST))
    commands = [rows(A), no_json, no_stream, rows(LAST), rows(C)]
    with together(group, rivals[0], *((command, None) for command in commands)) as answers:
        pass
    refused = psycopg.errors.InvalidTextRepresentation, ValueError, psycopg.errors.UniqueViolation
    assert [type(answer) for answer in answers] == [type(None), *refused, type(None)]
    assert [history(connection, stream) for stream in (A, B, LAST, C)] == [[1], [], [1], [1]]


def test_of_two_on_one_version_the_first_wins(
    group: GroupCommit, connection: psycopg.Connection, rivals: list[psycopg.Connection]
) -> None:
    """(e) Two commands on one stream in one batch: the second has its conflict, and leaves none of its events."""
    with together(group, rivals[0], (rows(A, 1, 2), None), (rows(A, 1, 3), None), (rows(B), None)) as answers:
        pass
    assert [type(answer) for answer in answers] == [type(None), psycopg.errors.UniqueViolation, type(None)]
    assert [history(connection, stream) for stream in (A, B)] == [[1, 2], [1]]


def test_versions_of_a_stream_draw_their_numbers_in_order(
    group: GroupCommit, connection: psycopg.Connection, rivals: list[psycopg.Connection]
) -> None:
    """(5) Whatever order the commands of one stream come in, in one batch its versions rise with their numbers."""
    with together(group, rivals[0], (rows(A, 3, 2), None), (rows(B), None), (rows(A, 1, 2), None)) as answers:
        pass
    assert answers == [None] * 3
    assert history(connection, A) == [1, 2, 3, 4]


def test_a_known_key_stops_its_own_command_only(
    group: GroupCommit, connection: psycopg.Connection, rivals: list[psycopg.Connection]
) -> None:
    """A key that is recorded, or that comes twice in one batch, records nothing more; the others are recorded."""
    assert group.append(rows(LAST), key("known")) is None
    commands = [(rows(A), key("new")), (rows(B), key("new")), (rows(C), key("known")), (rows(uuid4()), key("last"))]
    with together(group, rivals[0], *commands) as answers:
        pass
    clash = psycopg.errors.UniqueViolation
    assert [type(answer) for answer in answers] == [type(None), clash, clash, type(None)]
    assert [history(connection, stream) for stream in (A, B, C)] == [[1], [], []]
    keys = connection.execute("select key from idempotency order by key").fetchall()
    assert keys == [("known",), ("last",), ("new",)]


def test_batches_in_opposite_order_do_not_deadlock(
    pool: ConnectionPool[Any], connection: psycopg.Connection, rivals: list[psycopg.Connection]
) -> None:
    """(b) Whatever order the streams of two batches are given in, they are written in one order: one batch waits."""
    append(rivals[0], rows(B))
    upwards = [*rows(A, 1, 2), *rows(B, 1, 2), *rows(C, 1, 2)]
    downwards = [*rows(C, 1, 3), *rows(B, 1, 3), *rows(A, 1, 3)]
    with beside(*(lambda given=given: GroupCommit(pool).append(given) for given in (upwards, downwards))) as appended:
        wait_for_locks(connection, 2)
        rivals[0].execute("rollback")
    assert {type(one.result()) for one in appended} == {type(None), psycopg.errors.UniqueViolation}
    assert len({len(history(connection, stream)) for stream in (A, B, C)}) == 1


def test_keys_in_opposite_order_do_not_deadlock(
    database: str, connection: psycopg.Connection, rivals: list[psycopg.Connection]
) -> None:
    """(b) The keys of two batches are written in one order too: one batch clashes, the other one stands."""
    rivals[0].execute("insert into idempotency values ('key_1', 'b', '', '', now())")

    def insert(names: str) -> None:
        parameters = insert_parameters(rows(uuid4()), [(A, key(name)) for name in names])
        with connect(database, "test writer") as writer:
            writer.execute(INSERT_AND_KEEP, parameters)

    with beside(lambda: insert("abc"), lambda: insert("cba")) as inserted:
        wait_for_locks(connection, 2)
        rivals[0].execute("rollback")
    failures = [type(error) for one in inserted if (error := one.exception())]
    assert failures == [psycopg.errors.UniqueViolation]


@pytest.mark.parametrize("kept", [None, key("k")])
def test_an_insert_has_its_xid_before_its_number(
    group: GroupCommit, connection: psycopg.Connection, rivals: list[psycopg.Connection], kept: Kept | None
) -> None:
    """(3) Who stands still between its number and its row is older than the fence: its number is not given up."""
    connection.execute(
        f"""create function stand_still() returns trigger language plpgsql as
        $$ begin if new.stream_id = '{A}' then perform pg_advisory_xact_lock(1); end if; return new; end $$;
        create trigger between_number_and_row before insert on events for each row execute function stand_still()"""
    )
    rivals[0].execute("select pg_advisory_xact_lock(1)")
    append(connection, rows(C))  # the first number of 32 is written ahead, which gives its writer an ID anyway
    with beside(lambda: group.append(rows(A), kept)) as appended:
        wait_for_locks(connection, 1)
        append(connection, rows(B))
        assert [seal(connection) for _ in range(3)] == [2, 0, 0]
        rivals[0].execute("rollback")
    assert appended[0].result() is None
    assert seal(connection) == 1


def test_a_batch_that_broke_off_is_not_tried_again(
    group: GroupCommit, connection: psycopg.Connection, rivals: list[psycopg.Connection]
) -> None:
    """(c) Nobody knows whether it was recorded, so it is not repeated command by command: everybody in it is told."""
    append(rivals[1], rows(B))
    with together(group, rivals[0], (rows(A), None), (rows(B), None), (rows(C), None)) as answers:
        wait_for_locks(connection, 1)
        connection.execute(
            "select pg_terminate_backend(pid, 5000) from pg_stat_activity where wait_event_type = 'Lock'"
        )
        rivals[1].execute("rollback")
    assert [isinstance(answer, psycopg.OperationalError) for answer in answers] == [True] * 3
    assert [history(connection, stream) for stream in (A, B, C)] == [[], [], []]
    assert group.append(rows(A)) is None


def test_a_backend_that_is_killed_is_the_librarys_operational_error(own_postgres: EmbeddedPostgres) -> None:
    """Its connection ends without a word, in the middle of a statement; appends work again when PostgreSQL does."""
    with connect(own_postgres.url, "test") as connection, databases.pool(own_postgres.url, NAME) as pool:
        migrate(connection)
        recorder = EventRecorder(pool)
        recorder.insert_events(rows(B))
        with closing(connect(own_postgres.url, "test rival")) as rival:
            rival.execute("begin")
            append(rival, rows(A))
            with beside(lambda: recorder.insert_events(rows(A))) as cut:
                wait_for_locks(connection, 1)
                query = "select pid from pg_stat_activity where wait_event_type = 'Lock'"
                os.kill(connection.execute(query).fetchall()[0][0], signal.SIGKILL)
        assert isinstance(cut[0].exception(), library.OperationalError)

        def again() -> bool:
            with suppress(library.OperationalError):
                return recorder.insert_events(rows(A)) is None
            return False

        wait_until(again, 30, "PostgreSQL has recovered")


def test_a_pool_that_is_closed_ends_the_waiting(
    group: GroupCommit,
    pool: ConnectionPool[Any],
    connection: psycopg.Connection,
    rivals: list[psycopg.Connection],
) -> None:
    """What is on its way is recorded; who waits is told that the pool is closed; no connection is left."""
    with together(group, rivals[0], (rows(A), None), (rows(B), None), when_all_wait=pool.close) as answers:
        pass
    assert [type(answer) for answer in answers] == [PoolClosed, PoolClosed]
    assert [history(connection, stream) for stream in (HELD, A, B)] == [[1], [], []]
    query = "select count(*) from pg_stat_activity where application_name = %s"
    wait_until(lambda: connection.execute(query, (f"deskledger {NAME}",)).fetchone() == (0,), 10, "no connection")


def interrupted(work: Callable[[], object], meanwhile: Callable[[], object]) -> None:
    """Runs work in the main thread, which is interrupted when `meanwhile`, in another one, has come to its end."""

    def interrupt() -> None:
        try:
            meanwhile()
        finally:
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a run in the background ignores it
    try:
        with beside(interrupt) as done, pytest.raises(KeyboardInterrupt):
            work()
    finally:
        signal.signal(signal.SIGINT, before)
    done[0].result()


def test_two_groups_share_a_connection(database: str) -> None:
    """Each has its own names for what it prepares there."""
    with databases.pool(database, NAME, size=1) as one:
        assert [GroupCommit(one).append(rows(stream)) for stream in (A, B)] == [None, None]


def test_what_was_deallocated_is_prepared_anew(database: str) -> None:
    """psycopg deallocates everything on a connection of the pool, its own and others', after a rollback for example."""
    with databases.pool(database, NAME, size=1) as one:
        group = GroupCommit(one)
        assert group.append(rows(A)) is None
        with one.connection() as shared:
            shared.execute("deallocate all")
        assert [group.append(rows(B)), group.append(rows(C))] == [None, None]


def test_patience_ends(group: GroupCommit, rivals: list[psycopg.Connection], monkeypatch: pytest.MonkeyPatch) -> None:
    """A database that says nothing is an OperationalError; the statement is stopped, and the next one goes."""
    monkeypatch.setattr(group_commit, "PATIENCE_SECONDS", 0.2)
    append(rivals[0], rows(HELD))
    assert isinstance(group.append(rows(HELD)), psycopg.OperationalError)
    rivals[0].execute("rollback")
    assert (group.append(rows(A)), history(rivals[0], HELD)) == (None, [])


def test_who_is_interrupted_while_waiting_is_not_recorded(
    group: GroupCommit, connection: psycopg.Connection, rivals: list[psycopg.Connection]
) -> None:
    """(d) Who goes away before its turn leaves nothing behind, and the others go on."""
    with one_under_way(group, rivals[0]), beside(lambda: group.append(rows(B))) as others:
        queued(group, 1)
        interrupted(lambda: group.append(rows(A)), lambda: queued(group, 2))
        rivals[0].execute("rollback")
    assert others[0].result() is None
    assert [history(connection, stream) for stream in (A, B)] == [[], [1]]


def test_a_leader_that_is_interrupted_hands_over(
    group: GroupCommit, connection: psycopg.Connection, rivals: list[psycopg.Connection]
) -> None:
    """(d) Its statement is stopped on the server; those who wait for it go on without it."""
    append(rivals[0], rows(A))
    with beside(lambda: wait_for_locks(connection, 1) or group.append(rows(B))) as others:
        interrupted(lambda: group.append(rows(A)), lambda: queued(group, 1))
    rivals[0].execute("rollback")
    assert others[0].result() is None
    assert [history(connection, stream) for stream in (A, B)] == [[], [1]]


def test_who_was_sent_by_an_interrupted_leader_is_told(
    group: GroupCommit, connection: psycopg.Connection, rivals: list[psycopg.Connection]
) -> None:
    """(d) The others of its batch hear that nobody knows, and whoever comes next is recorded."""
    append(rivals[1], rows(A))

    def second() -> Exception | None:
        queued(group, 1)
        return group.append(rows(B))

    def meanwhile() -> None:
        queued(group, 2)
        rivals[0].execute("rollback")
        wait_until(lambda: history(connection, HELD) == [1], 20, "the first statement is done")
        wait_for_locks(connection, 1)

    with one_under_way(group, rivals[0]), beside(second) as others:
        interrupted(lambda: group.append(rows(A)), meanwhile)
    rivals[1].execute("rollback")
    assert others[0].result() is BROKEN_OFF
    assert [history(connection, stream) for stream in (HELD, A, B)] == [[1], [], []]
    assert group.append(rows(A)) is None


def test_threads_of_one_desk_on_the_same_tickets(desk: HelpDesk, connection: psycopg.Connection) -> None:
    """Commands without a version that meet on a ticket are all recorded, each decided on what the others left."""
    tickets, start = [opened(desk) for _ in range(2)], Barrier(6)

    def work() -> None:
        start.wait(20)
        for _ in range(5):
            for ticket_id in tickets:
                desk.execute(request(ticket_id, AddNote("looked at it")))

    with beside(*[work] * 6) as done:
        pass
    assert [one.result() for one in done] == [None] * 6
    assert [history(connection, ticket_id) for ticket_id in tickets] == [list(range(1, 36))] * 2
