"""The combining shell: what is under way at once goes out together, and nobody harms anybody else by it."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
import uvloop

from application.batching_desk import BatchingDesk
from application.commands.deciding import Outcome, new_stream_id
from application.commands.supporting_commands import AddNote
from application.identity.api_keys import NewKey, create_key, hash_of, revoke_key
from application.store import batcher
from application.store.batcher import Batcher
from application.store.idempotency_records import IdempotencyRecord
from application.store.postgres import pg_connection as line
from application.store.postgres.database import connect, migrate
from application.store.postgres.pg_connection import Unavailable
from domain import errors
from domain.events import NoteAdded, Recorded
from domain.values import Actor, Role, Visibility
from tests.support.running_desk import wait_until
from tests.support.write_side import (
    CONTACT,
    NOW,
    OPEN,
    STAFF,
    append,
    history,
    notes,
    own_postgres,
    request,
    unchecked,
    wait_for_locks,
)

NOTE = AddNote("looked at it")
NOT_STORABLE = unchecked(AddNote("x"), text="PostgreSQL cannot store \0")
HELD = UUID(int=1)
Task = asyncio.Task[Outcome]


@pytest.fixture
def run() -> Iterator[Callable[[Coroutine[Any, Any, Any]], Any]]:
    """Runs a coroutine in the kind of loop that the API runs in."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        yield runner.run


@pytest.fixture
def shell(database: str, run: Any) -> Iterator[BatchingDesk]:
    """A combining desk on the test's database."""
    opened = BatchingDesk(database)
    yield opened
    run(opened.close())


@pytest.fixture
def rival(database: str) -> Iterator[psycopg.Connection]:
    """A connection with an open transaction, to stand in somebody's way."""
    with connect(database, "test rival") as opened:
        opened.execute("begin")
        yield opened


async def all_of(*work: Awaitable[Any]) -> list[Any]:
    """What each of them returned or raised."""
    async with asyncio.timeout(30):
        return await asyncio.gather(*work, return_exceptions=True)


async def tickets(shell: BatchingDesk, count: int) -> list[UUID]:
    """Tickets at tier 1, at version 5, opened at once."""
    await shell.register_client("client-1", CONTACT, STAFF, NOW)
    ids = [new_stream_id(NOW) for _ in range(count)]
    answers = await all_of(*(shell.execute(request(ticket_id, OPEN)) for ticket_id in ids))
    assert {type(answer) for answer in answers} == {Outcome}
    return ids


def start(shell: BatchingDesk, ticket_id: UUID, command: AddNote = NOTE, **more: Any) -> Task:
    """A command on its way."""
    return asyncio.create_task(shell.execute(request(ticket_id, command, **more)))


async def hold_up(shell: BatchingDesk, rival: psycopg.Connection[Any], ticket_id: UUID) -> Task:
    """A command whose trip to the database stands still until the rival's transaction ends."""
    append(rival, notes(ticket_id))
    held = start(shell, ticket_id)
    with psycopg.connect(rival.info.dsn, autocommit=True) as watcher:
        await asyncio.to_thread(wait_for_locks, watcher, 1)
    return held


async def until_queued(shell: BatchingDesk, count: int) -> None:
    """Until so many commands wait together for the next trip."""
    async with asyncio.timeout(20):
        while len(shell._append._waiting) < count:
            await asyncio.sleep(0)


CANCEL, TERMINATE = "pg_cancel_backend(pid)", "pg_terminate_backend(pid, 5000)"


def end(connection: psycopg.Connection[Any], function: str, line: str) -> None:
    """Has PostgreSQL cancel the statement, or end the connection, of one of the desk's lines."""
    query = f"select {function} from pg_stat_activity where datname = current_database() and application_name = %s"
    assert connection.execute(query, (f"deskledger api {line}",)).fetchall() == [(True,)]


def test_commands_at_once_go_out_together(shell: BatchingDesk, run: Any, connection: psycopg.Connection) -> None:
    """Sixty commands on sixty tickets take a few commits, not sixty, and each request gets its own answer."""

    async def work() -> tuple[list[UUID], list[Outcome]]:
        ids = await tickets(shell, 60)
        return ids, await all_of(*(start(shell, ticket_id, AddNote(str(ticket_id))) for ticket_id in ids))

    ids, outcomes = run(work())
    assert [outcome.ticket.ticket_id for outcome in outcomes] == ids
    assert [outcome.events[0].event.text for outcome in outcomes] == [str(ticket_id) for ticket_id in ids]
    assert all(history(connection, ticket_id) == [1, 2, 3, 4, 5, 6] for ticket_id in ids)
    query = "select count(distinct xmin::text) from events where version = 6"
    assert connection.execute(query).fetchone()[0] < 12


def test_what_one_trip_does_not_take_goes_with_the_next(
    shell: BatchingDesk, run: Any, connection: psycopg.Connection
) -> None:
    """A trip takes two hundred wants at most; nobody is forgotten, and every ticket has a number of its own."""
    run(tickets(shell, 450))
    query = """select count(*), count(distinct body::text) filter (where type = 'Ticket.Created')
        from events where type like 'Ticket.%'"""
    assert connection.execute(query).fetchone() == (5 * 450, 450)


def test_a_command_that_lost_leaves_the_rest_of_its_batch(
    shell: BatchingDesk, run: Any, connection: psycopg.Connection, rival: psycopg.Connection
) -> None:
    """(a) In one batch the winners are recorded whole and the losers not at all, and each is told its own."""

    async def work() -> tuple[list[UUID], list[Any]]:
        ids = first, overtaken, stale, free = await tickets(shell, 4)
        append(rival, [*notes(overtaken), *notes(stale)])
        held = await hold_up(shell, rival, first)
        others = [start(shell, overtaken), start(shell, stale, expected_version=5), start(shell, free)]
        await until_queued(shell, 3)
        rival.execute("commit")
        return ids, await all_of(held, *others)

    (first, overtaken, stale, free), answers = run(work())
    assert [type(answer) for answer in answers] == [Outcome, Outcome, errors.StaleVersion, Outcome]
    assert [event.actor.id for event in answers[2].missed] == ["rival"]
    versions = [len(history(connection, ticket_id)) for ticket_id in (first, overtaken, stale, free)]
    assert versions == [7, 7, 6, 6]


def test_a_bad_command_harms_only_itself(
    shell: BatchingDesk, run: Any, connection: psycopg.Connection, rival: psycopg.Connection
) -> None:
    """(c) A batch that the database refuses is repeated command by command; only the culprit fails."""

    async def work() -> tuple[list[UUID], list[Any]]:
        first, *ids = await tickets(shell, 4)
        held = await hold_up(shell, rival, first)
        others = [start(shell, one, note) for one, note in zip(ids, (NOTE, NOT_STORABLE, NOTE), strict=True)]
        await until_queued(shell, 3)
        rival.execute("rollback")
        return ids, await all_of(held, *others)

    ids, answers = run(work())
    assert [type(answer) for answer in answers] == [Outcome, Outcome, psycopg.errors.UntranslatableCharacter, Outcome]
    assert [len(history(connection, ticket_id)) for ticket_id in ids] == [6, 5, 6]


def test_who_went_away_before_the_trip_is_not_recorded(
    shell: BatchingDesk, run: Any, connection: psycopg.Connection, rival: psycopg.Connection
) -> None:
    """(d) A request that was cut off while it waited takes nobody with it and leaves nothing behind."""

    async def work() -> tuple[list[UUID], list[Any]]:
        first, *ids = await tickets(shell, 4)
        held = await hold_up(shell, rival, first)
        others = [start(shell, ticket_id) for ticket_id in ids]
        await until_queued(shell, 3)
        others[1].cancel()
        rival.execute("rollback")
        return ids, await all_of(held, *others)

    ids, answers = run(work())
    assert [type(answer) for answer in answers] == [Outcome, Outcome, asyncio.CancelledError, Outcome]
    assert [len(history(connection, ticket_id)) for ticket_id in ids] == [6, 5, 6]


def test_a_batch_of_those_who_went_away_is_no_trip(
    shell: BatchingDesk, run: Any, connection: psycopg.Connection, rival: psycopg.Connection
) -> None:
    """(d) When all of a batch are gone, the desk goes on with the next one."""

    async def work() -> tuple[UUID, UUID]:
        first, second = await tickets(shell, 2)
        held, gone = await hold_up(shell, rival, first), start(shell, second)
        await until_queued(shell, 1)
        gone.cancel()
        rival.execute("rollback")
        await all_of(held, gone)
        await start(shell, second, AddNote("once more"))
        return first, second

    assert [len(history(connection, ticket_id)) for ticket_id in run(work())] == [6, 6]


def test_who_goes_away_during_the_trip_takes_nobody_along(
    shell: BatchingDesk, run: Any, connection: psycopg.Connection, rival: psycopg.Connection
) -> None:
    """(d) Cut off while it is being recorded, a command is recorded whole, and the next on its ticket sees it."""

    async def work() -> tuple[list[UUID], Any, Any]:
        first, second = await tickets(shell, 2)
        held = await hold_up(shell, rival, first)
        held.cancel()
        behind, beside = start(shell, first), start(shell, second)
        await until_queued(shell, 2)
        rival.execute("rollback")
        return [first, second], await all_of(held), await all_of(behind, beside)

    ids, cut_off, (behind, _) = run(work())
    assert [type(one) for one in cut_off] == [asyncio.CancelledError]
    assert behind.events[0].originator_version == 7
    assert [len(history(connection, ticket_id)) for ticket_id in ids] == [7, 6]


@pytest.mark.parametrize("fails", [False, True])
def test_each_want_gets_its_own_answer(run: Any, fails: bool) -> None:
    """(d) Whoever is left gets the answer to what it wanted, also when others go while the trip is under way."""

    async def work() -> list[Any]:
        on_the_way, arrived = asyncio.Event(), asyncio.Event()

        async def round_trip(wants: list[int]) -> list[int]:
            on_the_way.set()
            await arrived.wait()
            if fails:
                raise Unavailable
            return [10 * want for want in wants]

        combined: Batcher[int, int] = Batcher(round_trip)
        first = combined(1)
        await on_the_way.wait()
        others = [combined(n) for n in (2, 3, 4)]
        first.cancel()
        others[1].cancel()
        arrived.set()
        return await all_of(first, *others)

    answers = run(work())
    gone = asyncio.CancelledError
    expected = [gone, Unavailable, gone, Unavailable] if fails else [gone, 20, gone, 40]
    assert [type(one) if isinstance(one, BaseException) else one for one in answers] == expected


@pytest.mark.parametrize("others", [0, 1])
def test_a_key_that_was_under_way_at_the_second_try_stops_its_own_command_only(
    shell: BatchingDesk, run: Any, rival: psycopg.Connection, monkeypatch: pytest.MonkeyPatch, others: int
) -> None:
    """(c) A batch failed, and while it is tried again, the key of one of its commands is recorded elsewhere."""
    keyed, *free = (uuid4() for _ in range(1 + others))
    kept = IdempotencyRecord("key_1", "under way", b"hash", b"answer")
    append(rival, notes(HELD, 1), [(HELD, kept)])

    async def fails(*_: Any) -> int:
        raise psycopg.errors.UniqueViolation

    def noted(stream: UUID) -> list[Recorded]:
        return [Recorded(stream, 1, NOW, Actor("desk", "Desk", Role.AGENT), NoteAdded("note", Visibility.INTERNAL))]

    async def work() -> list[Any]:
        monkeypatch.setattr(shell._lines["append"], "execute", fails)
        asked = [shell._append((noted(keyed), kept)), *(shell._append((noted(stream), None)) for stream in free)]
        with connect(rival.info.dsn, "test watcher") as watcher:
            await asyncio.to_thread(wait_for_locks, watcher, 1)
        rival.execute("commit")
        return await all_of(*asked)

    assert run(work()) == [False] + [True] * others
    assert [history(rival, stream) for stream in (keyed, *free)] == [[]] + [[1]] * others


async def many_turns() -> None:
    """Lets everybody go as far as they can."""
    for _ in range(20):
        await asyncio.sleep(0)


def test_an_append_waits_for_who_is_about_to_append(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A load is under way: those who get its answer go with the append that was asked for meanwhile."""
    monkeypatch.setattr(batcher, "LONGEST_WAIT_SECONDS", 20)  # however slow the machine is
    answered, trips = asyncio.Event(), list[list[int]]()

    async def load(wanted: list[int]) -> list[int]:
        await answered.wait()
        return wanted

    async def append(wanted: list[int]) -> list[int]:
        trips.append(wanted)
        return wanted

    async def go() -> None:
        loads: Batcher[int, int] = Batcher(load)
        appends: Batcher[int, int] = Batcher(append, after=(loads,))

        async def command(number: int) -> int:
            return await appends(await loads(number))

        asked: list[Awaitable[int]] = [asyncio.create_task(command(number)) for number in (1, 2)]
        await many_turns()
        asked.append(appends(0))
        await many_turns()
        answered.set()
        await all_of(*asked)

    run(go())
    assert trips == [[0, 1, 2]]


def test_a_load_that_takes_long_holds_up_no_append(run: Any) -> None:
    """A stream of any length may be read: who has decided does not wait for that."""

    async def never(_: list[int]) -> list[int]:
        await asyncio.Event().wait()
        return []

    async def append(wanted: list[int]) -> list[int]:
        return wanted

    async def go() -> int:
        loads: Batcher[int, int] = Batcher(never)
        loads(1)
        await many_turns()
        async with asyncio.timeout(5):
            return await Batcher(append, after=(loads,))(2)

    assert run(go()) == 2


def test_many_commands_on_one_ticket_all_succeed(shell: BatchingDesk, run: Any, connection: psycopg.Connection) -> None:
    """(e) Commands without a version on one ticket are recorded one behind the other, each once."""

    async def work() -> tuple[UUID, list[Any]]:
        (ticket_id,) = await tickets(shell, 1)
        return ticket_id, await all_of(*(start(shell, ticket_id, AddNote(str(n))) for n in range(80)))

    ticket_id, outcomes = run(work())
    assert sorted(outcome.events[0].originator_version for outcome in outcomes) == list(range(6, 86))
    assert [outcome.events[0].event.text for outcome in outcomes] == [str(n) for n in range(80)]
    assert history(connection, ticket_id) == list(range(1, 86))


def test_one_of_many_commands_with_one_version_wins(
    shell: BatchingDesk, run: Any, connection: psycopg.Connection
) -> None:
    """(e) Of several commands that name the same version exactly one is recorded; the others see its event."""

    async def work() -> tuple[UUID, list[Any]]:
        (ticket_id,) = await tickets(shell, 1)
        return ticket_id, await all_of(*(start(shell, ticket_id, expected_version=5) for _ in range(20)))

    ticket_id, answers = run(work())
    assert [type(answer) for answer in answers].count(Outcome) == 1
    assert {answer.current_version for answer in answers if isinstance(answer, errors.StaleVersion)} == {6}
    assert history(connection, ticket_id) == [1, 2, 3, 4, 5, 6]


def test_two_processes_on_the_same_tickets(
    shell: BatchingDesk, run: Any, database: str, connection: psycopg.Connection
) -> None:
    """Two desks that know nothing of each other lose nothing on tickets that both work at."""

    async def work() -> tuple[list[UUID], list[Any]]:
        other, ids = BatchingDesk(database), await tickets(shell, 6)
        answers = await all_of(*(start(desk, one) for _ in range(8) for one in ids for desk in (shell, other)))
        await other.close()
        return ids, answers

    ids, answers = run(work())
    assert {type(answer) for answer in answers} == {Outcome}
    assert all(history(connection, ticket_id) == list(range(1, 22)) for ticket_id in ids)


def test_numbers_given_before_do_not_stop_a_batch(
    shell: BatchingDesk, run: Any, connection: psycopg.Connection
) -> None:
    """Tickets opened at once, some of whose numbers others have already: each gets one of its own."""

    async def work() -> None:
        await tickets(shell, 5)
        connection.execute("select setval('ticket_numbers', 1, false)")
        await tickets(shell, 12)

    run(work())
    numbers = connection.execute("select body ->> 'number' from events where type = 'Ticket.Created'").fetchall()
    assert len(set(numbers)) == len(numbers) == 17


def test_a_key_is_found_by_its_hash(shell: BatchingDesk, run: Any, connection: psycopg.Connection) -> None:
    """Keys that are looked up at once are found in one round trip; unknown and revoked ones are not."""
    made = [create_key(connection, NewKey(name, [Role.INTAKE]), NOW) for name in ("one", "two", "three")]
    revoke_key(connection, made[2][0], NOW)

    async def work() -> list[Any]:
        return await all_of(*(shell.find_key(hash_of(key)) for key in (*(key for _, key in made), "dl_unknown")))

    found = run(work())
    assert [row and row[1] for row in found] == [made[0][0], made[1][0], None, None]


def test_the_worker_is_told_once_for_many(shell: BatchingDesk, run: Any, database: str) -> None:
    """The worker is woken at most every ten milliseconds, however many commands are recorded meanwhile."""

    async def work() -> float:
        (ticket_id,) = await tickets(shell, 1)
        began = asyncio.get_running_loop().time()
        for _ in range(60):
            await shell.execute(request(ticket_id, NOTE))
        await shell._waking
        return asyncio.get_running_loop().time() - began

    with connect(database, "test listener") as listener:
        listener.execute("listen deskledger_appended")
        took = run(work())
        assert 1 <= len(list(listener.notifies(timeout=0.1))) <= took / 0.01 + 3


def test_a_lost_wake_up_line_fails_no_command(
    shell: BatchingDesk, run: Any, connection: psycopg.Connection, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker looks by itself too, so a wake-up call that cannot be made is dropped; the next one is made."""

    async def wake(desk: BatchingDesk, ticket_id: UUID) -> None:
        await desk.execute(request(ticket_id, NOTE))
        await desk._waking

    (ticket_id,) = run(tickets(shell, 1))
    run(wake(shell, ticket_id))
    end(connection, TERMINATE, "wake")
    with monkeypatch.context() as elsewhere:  # where the next one cannot be opened
        elsewhere.setattr(shell._lines["wake"], "_url", "postgresql://127.0.0.1:1/nothing")
        run(wake(shell, ticket_id))
    with connect(database, "test listener") as listener:
        listener.execute("listen deskledger_appended")
        run(wake(shell, ticket_id))
        assert list(listener.notifies(timeout=10, stop_after=1))
    assert len(history(connection, ticket_id)) == 8


def test_closing_leaves_no_connection_behind(database: str, run: Any, connection: psycopg.Connection) -> None:
    """A desk that is closed right after a command lets go of everything, the wake-up call on its way included."""
    desk = BatchingDesk(database)
    run(tickets(desk, 3))
    run(desk.close())
    run(all_of(desk._waking))
    query = """select count(*) from pg_stat_activity
        where datname = current_database() and application_name like 'deskledger api %'"""
    wait_until(lambda: connection.execute(query).fetchone() == (0,), "no connection of the desk is left")
    run(BatchingDesk(database).close())


@pytest.mark.parametrize("line", ["load", "append"])
def test_a_connection_that_ended_while_idle_is_replaced(
    shell: BatchingDesk, run: Any, connection: psycopg.Connection, line: str
) -> None:
    """After a restart of the database nobody notices: the desk sees that it was hung up on before it sends anything."""
    run(tickets(shell, 1))
    end(connection, TERMINATE, line)
    (ticket_id,) = run(tickets(shell, 1))
    assert history(connection, ticket_id) == [1, 2, 3, 4, 5]


def test_a_query_that_broke_is_asked_once_more(
    shell: BatchingDesk, run: Any, connection: psycopg.Connection, rival: psycopg.Connection
) -> None:
    """What only reads is asked again on a new connection, once; a second break is reported."""

    async def load(breaks: int) -> list[Any]:
        rival.execute("lock table events in access exclusive mode")
        asked = asyncio.create_task(shell.load((uuid4(),)))
        for _ in range(breaks):
            await asyncio.to_thread(wait_for_locks, connection, 1)
            end(connection, TERMINATE, "load")
        if breaks == 1:
            await asyncio.to_thread(wait_for_locks, connection, 1)
        rival.execute("commit")
        rival.execute("begin")
        return await all_of(asked)

    assert run(load(1)) == [{}]
    assert [type(answer) for answer in run(load(2))] == [Unavailable]


def test_a_query_that_is_cancelled_is_not_asked_again(
    shell: BatchingDesk, run: Any, connection: psycopg.Connection, rival: psycopg.Connection
) -> None:
    """It would take as long again: whoever asked is told that the database is unavailable."""

    async def load() -> list[Any]:
        rival.execute("lock table events in access exclusive mode")
        asked = asyncio.create_task(shell.load((uuid4(),)))
        await asyncio.to_thread(wait_for_locks, connection, 1)
        end(connection, CANCEL, "load")
        return await all_of(asked)

    assert [type(answer) for answer in run(load())] == [Unavailable]


def test_a_batch_that_broke_off_is_not_tried_again(
    shell: BatchingDesk, run: Any, database: str, connection: psycopg.Connection, rival: psycopg.Connection
) -> None:
    """(c) Nobody knows whether it was recorded, so it is not repeated command by command: everybody in it is told."""

    async def work() -> tuple[list[UUID], list[Any]]:
        first, *ids = await tickets(shell, 3)
        held = await hold_up(shell, rival, first)
        others = [start(shell, ticket_id) for ticket_id in ids]
        await until_queued(shell, 2)
        with connect(database, "test second rival") as second:
            second.execute("begin")
            append(second, notes(ids[0]))
            rival.execute("rollback")
            await held
            await asyncio.to_thread(wait_for_locks, connection, 1)
            end(connection, TERMINATE, "append")
            second.execute("rollback")
        return ids, await all_of(*others)

    ids, answers = run(work())
    assert [type(answer) for answer in answers] == [Unavailable, Unavailable]
    assert [len(history(connection, ticket_id)) for ticket_id in ids] == [5, 5]


@pytest.mark.parametrize("how", [CANCEL, TERMINATE])
def test_a_trip_that_the_database_ends_is_unavailable(
    shell: BatchingDesk, run: Any, connection: psycopg.Connection, rival: psycopg.Connection, how: str
) -> None:
    """Ended by a timeout or an administrator, a command is not recorded, says so, and the next one works."""

    async def work() -> tuple[UUID, list[Any]]:
        (ticket_id,) = await tickets(shell, 1)
        held = await hold_up(shell, rival, ticket_id)
        end(connection, how, "append")
        answers = await all_of(held)
        rival.execute("rollback")
        return ticket_id, [*answers, *await all_of(start(shell, ticket_id))]

    ticket_id, answers = run(work())
    assert [type(answer) for answer in answers] == [Unavailable, Outcome]
    assert history(connection, ticket_id) == [1, 2, 3, 4, 5, 6]


def test_patience_ends(
    shell: BatchingDesk,
    run: Any,
    connection: psycopg.Connection,
    rival: psycopg.Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A database that does not answer in time is given up: nothing is recorded later, and the next command works."""
    (ticket_id,) = run(tickets(shell, 1))
    append(rival, notes(ticket_id))
    with monkeypatch.context() as hasty:
        hasty.setattr(line, "CONNECTION_PATIENCE_SECONDS", 0.3)
        gave_up = run(all_of(shell.execute(request(ticket_id, NOTE))))
    rival.execute("rollback")
    again = run(all_of(shell.execute(request(ticket_id, AddNote("once more")))))
    assert [type(answer) for answer in (*gave_up, *again)] == [Unavailable, Outcome]
    assert history(connection, ticket_id) == [1, 2, 3, 4, 5, 6]


def test_without_a_database_the_desk_is_unavailable_until_it_is_back(run: Any) -> None:
    """Commands fail at once and by that name while the database is away, and work again when it is back."""
    with own_postgres() as own:
        with connect(own.url, "test") as connection:
            migrate(connection)
        desk = BatchingDesk(own.url)
        (ticket_id,) = run(tickets(desk, 1))
        own.stop()
        answers = run(all_of(*(desk.execute(request(ticket_id, NOTE)) for _ in range(3))))
        assert {type(answer) for answer in answers} == {Unavailable}
        own.start()
        answers = run(all_of(*(desk.execute(request(ticket_id, NOTE)) for _ in range(3))))
        assert {type(answer) for answer in answers} == {Outcome}
        with connect(own.url, "test") as connection:
            assert history(connection, ticket_id) == list(range(1, 9))
        run(desk.close())
