"""A stream that a projection cannot apply stands still there, by itself; replayed, it is as if nothing had been."""

import asyncio
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from application.helpdesk import HelpDesk
from application.store.postgres.database import connect
from application.store.sealing import seal_all
from domain.values import Queue
from projections.engine.parking import parked_streams, poisons, replay
from projections.engine.projection import positions
from projections.queries.queue_pages import QueueFilters, queue_as_of, queue_page
from projections.queries.ticket_list import TicketFilters, ticket_page
from projections.runner import PROJECTIONS, ensure_projections, lag, project, project_all
from projections.status.readiness import health
from tests.support.command_line import run
from tests.support.random_walk import Walk
from tests.support.read_models import contents, fetcher, start_again
from tests.support.running_desk import RunningDesk, wait_until
from tests.support.write_side import NOW, UNKNOWN, append, beside, notes, opened, poison, wait_for_locks

NAMES = [projection.name for projection in PROJECTIONS]
SPOILT = ("Ticket.Escalated", b'{"from_level": 7}')
NO_NOTE = ("Ticket.NoteAdded", b'{"text": 7, "visibility": "internal"}')
MEND = "update events set type = 'Ticket.NoteAdded', body = %s where stream_id = %s and version = %s"


def mend(connection: psycopg.Connection, ticket: UUID, version: int = 6) -> None:
    """Makes the event one that this program can read, as a new version of the program would."""
    connection.execute("alter table events disable trigger insert_only")
    connection.execute(MEND, (b'{"text": "mended", "visibility": "internal"}'.decode(), ticket, version))
    connection.execute("alter table events enable trigger insert_only")


def standing(connection: psycopg.Connection) -> list[tuple[str, UUID, int]]:
    """What is parked where, and since when."""
    found = [(each.projection, each.stream_id, each.since_position) for each in parked_streams(connection)]
    return sorted(found, key=repr)


def everywhere(ticket: UUID, position: int) -> list[tuple[str, UUID, int]]:
    """A stream that is parked in every projection since a position."""
    return sorted((name, ticket, position) for name in NAMES)


def folded_anew(connection: psycopg.Connection) -> dict[str, list[tuple[Any, ...]]]:
    """What the tables hold when everything is applied from the beginning."""
    start_again(connection)
    connection.execute("truncate parked_streams")
    project_all(connection)
    return contents(connection)


@pytest.mark.parametrize("batch", [1, 7, 100_000])
@pytest.mark.parametrize("kind", [UNKNOWN, SPOILT, NO_NOTE], ids=["type", "body", "note"])
def test_only_its_stream_stands_still(
    desk: HelpDesk, connection: psycopg.Connection, kind: tuple[str, bytes], batch: int
) -> None:
    """An event that cannot be read parks its stream where it stands, in batches of any size; all others go on."""
    walk, ticket = Walk(desk, seed=21), opened(desk)
    list(walk.steps(40))
    position = poison(connection, ticket, kind)
    append(connection, notes(ticket, first=7))
    list(walk.steps(60))
    seal_all(connection)
    project_all(connection, batch)
    assert standing(connection) == everywhere(ticket, position)
    assert set(lag(connection).values()) == {0}
    found = dict(connection.execute("select ticket_id, version from ticket_summaries").fetchall())
    assert found == {each: len(desk.history(each)) for each in walk.tickets} | {ticket: 5}


def test_what_has_no_beginning_is_parked(desk: HelpDesk, connection: psycopg.Connection) -> None:
    """A stream whose fold fails is parked in the projections that fold it, and in no other one."""
    stream, ticket = uuid4(), opened(desk)
    append(connection, notes(stream, first=1, count=2))
    seal_all(connection)
    project_all(connection)
    assert standing(connection) == [("queue_stays", stream, 7), ("ticket_summaries", stream, 7)]
    assert connection.execute("select ticket_id from ticket_summaries").fetchall() == [(ticket,)]


def test_what_the_database_refuses_is_parked(desk: HelpDesk, connection: psycopg.Connection) -> None:
    """A row that PostgreSQL does not take parks its stream; once it does, a replay makes it whole."""
    first, second = opened(desk), opened(desk)
    connection.execute(f"alter table rank_changes add constraint refused check (ticket_id <> '{first}')")
    seal_all(connection)
    project_all(connection)
    (parked,) = parked_streams(connection)
    assert (parked.projection, parked.stream_id, parked.type) == ("queue_stays", first, "Ticket.IssueDocumented")
    refused = 'new row for relation "rank_changes" violates check constraint "refused"'
    assert parked.error == f"CheckViolation: {refused}"  # and not what the row says, which may be personal
    connection.execute("alter table rank_changes drop constraint refused")
    assert replay(connection, PROJECTIONS[1]).healed == [first]
    assert contents(connection) == folded_anew(connection)
    assert {row[0] for row in connection.execute("select ticket_id from rank_changes")} == {first, second}


def test_a_replayed_stream_is_as_if_nothing_had_been(desk: HelpDesk, connection: psycopg.Connection) -> None:
    """After a replay the tables hold what a fold of the whole log gives, counts and all, and nothing is parked."""
    walk, tickets = Walk(desk, seed=23), [opened(desk) for _ in range(3)]
    for ticket in tickets:
        poison(connection, ticket)
        append(connection, notes(ticket, first=7, count=2))
    list(walk.steps(150))
    seal_all(connection)
    project_all(connection, 50)
    for ticket in tickets:
        mend(connection, ticket)
    assert [replay(connection, projection).healed for projection in PROJECTIONS] == [tickets] * 3
    assert standing(connection) == []
    assert contents(connection) == folded_anew(connection)


def test_a_replay_in_vain_changes_nothing(desk: HelpDesk, connection: psycopg.Connection) -> None:
    """A stream that still cannot be applied is parked again where it was, with the same rows."""
    ticket = opened(desk)
    position = poison(connection, ticket)
    project_all(connection)
    before = contents(connection)
    for projection in PROJECTIONS:
        replayed = replay(connection, projection)
        assert (replayed.healed, [parked.stream_id for parked in replayed.parked]) == ([], [ticket])
    assert (standing(connection), contents(connection)) == (everywhere(ticket, position), before)


def test_a_replay_goes_no_further_than_the_projection(desk: HelpDesk, connection: psycopg.Connection) -> None:
    """Events above the checkpoint are left to the runner: none is applied twice, none is left out."""
    ticket = opened(desk)
    poison(connection, ticket)
    project_all(connection)
    mend(connection, ticket)
    append(connection, notes(ticket, first=7))
    list(Walk(desk, seed=25).steps(30))
    seal_all(connection)
    replay(connection, PROJECTIONS[0])
    assert connection.execute("select version from ticket_summaries").fetchall() == [(6,)]
    project_all(connection)
    assert {parked.projection for parked in parked_streams(connection)} == set(NAMES[1:])
    for projection in PROJECTIONS:
        replay(connection, projection)
    assert contents(connection) == folded_anew(connection)


def test_migrate_tries_what_is_parked(desk: HelpDesk, connection: psycopg.Connection) -> None:
    """A new version of the program, which can read the event, makes the stream whole when the schema is migrated."""
    ticket = opened(desk)
    poison(connection, ticket)
    project_all(connection)
    mend(connection, ticket)
    ensure_projections(connection)
    assert standing(connection) == []
    assert connection.execute("select version from ticket_summaries").fetchall() == [(6,)]


def test_rows_say_since_when_they_are_incomplete(desk: HelpDesk, connection: psycopg.Connection) -> None:
    """Lists, queues and queues of the past name the first event that a row does not hold; /readyz counts streams."""
    ticket, whole, fetch = opened(desk), opened(desk), fetcher(connection)
    position = poison(connection, ticket)
    project_all(connection)
    page = asyncio.run(ticket_page(fetch, TicketFilters(), None, 50))
    assert {row.ticket_id: row.incomplete_since for row in page.items} == {ticket: position, whole: None}
    page = asyncio.run(queue_page(fetch, Queue.TIER1, QueueFilters(), None, 50))
    assert {row.ticket_id: row.incomplete_since for row in page.items} == {ticket: position, whole: None}
    found = asyncio.run(health(fetch))
    assert (found.parked, found.lag) == (dict.fromkeys(NAMES, 1), dict.fromkeys(NAMES, 0))


def test_a_queue_of_the_past_says_it_too(desk: HelpDesk, connection: psycopg.Connection) -> None:
    """As of a moment, a row is the ticket as far as it can be read, and says since when it is incomplete."""
    ticket, whole, fetch = opened(desk), opened(desk), fetcher(connection)
    position = poison(connection, ticket)
    project_all(connection)
    page = asyncio.run(queue_as_of(fetch, Queue.TIER1, NOW, None, 50))
    assert {row.ticket_id: row.incomplete_since for row in page.items} == {ticket: position, whole: None}
    assert {row.version for row in page.items} == {5}


TRANSIENT = [
    psycopg.OperationalError("server closed the connection"),
    psycopg.InterfaceError("the connection is closed"),
    psycopg.errors.SerializationFailure(),
    psycopg.errors.DeadlockDetected(),
    psycopg.errors.QueryCanceled(),
    psycopg.errors.DiskFull(),
    psycopg.errors.OutOfMemory(),
    psycopg.errors.AdminShutdown(),
    psycopg.errors.IdleInTransactionSessionTimeout(),
    psycopg.errors.UndefinedTable(),
    psycopg.errors.InsufficientPrivilege(),
    psycopg.errors.ReadOnlySqlTransaction(),
    psycopg.errors.DataCorrupted(),
    OSError("the disk is gone"),
    MemoryError(),
]


@pytest.mark.parametrize("error", TRANSIENT, ids=lambda error: type(error).__name__)
def test_what_may_pass_parks_nothing(error: Exception) -> None:
    """What is no stream's fault is tried again, and never blamed on one."""
    assert not poisons(error)


def test_a_failure_of_the_database_parks_nothing(desk: HelpDesk, connection: psycopg.Connection) -> None:
    """A statement that takes too long, or a table that is not there, leaves everything as it was."""
    opened(desk)
    seal_all(connection)
    before = contents(connection), positions(connection)
    connection.execute("set statement_timeout = '100ms'")
    with connect(connection.info.dsn, "holder") as holder, holder.transaction():
        holder.execute("lock table rank_changes")
        with pytest.raises(psycopg.errors.QueryCanceled):
            project_all(connection)
    connection.execute("alter table rank_changes rename to gone")
    with pytest.raises(psycopg.errors.UndefinedTable):
        project_all(connection)
    connection.execute("alter table gone rename to rank_changes")
    assert (contents(connection), positions(connection), standing(connection)) == (*before, [])


def test_a_stream_parked_under_the_runner_stays_parked(
    desk: HelpDesk, database: str, connection: psycopg.Connection
) -> None:
    """A runner that found nothing parked, and waits while another one parks a stream, skips its later events too."""
    ticket = opened(desk)
    position = poison(connection, ticket)
    append(connection, notes(ticket, first=7))
    seal_all(connection)
    connection.execute("begin")
    connection.execute("lock table projections in exclusive mode")  # the second may look, and has to wait with its lock
    with connect(database, "second") as second, beside(lambda: project(second)) as (late,):
        with connect(database, "watcher") as watcher:
            wait_for_locks(watcher, 1)
        while connection.execute("select min(position) from projections").fetchone()[0] < position:
            project(connection, position)
        connection.execute("commit")
    assert late.result() == 1
    assert standing(connection) == everywhere(ticket, position)
    assert connection.execute("select version from ticket_summaries").fetchall() == [(5,)]


def test_an_operator_sees_and_heals(served: RunningDesk) -> None:
    """From the log of the worker over /readyz, the list and doctor to the replay: one parked ticket, step by step."""
    ticket, whole = served.ticket(), served.ticket()
    with connect(served.database, "test") as connection:
        position = poison(connection, UUID(ticket))
        ready = lambda: served.get("/readyz").json  # noqa: E731
        wait_until(lambda: ready()["parked"] == dict.fromkeys(NAMES, 1), "the ticket is parked")
        assert served.get("/readyz").status == 200
        items = served.get("/v1/tickets").json["items"]
        assert {item["ticket_id"]: item["incomplete_since"] for item in items} == {ticket: position, whole: None}
        said = (served.directory / "work.log").read_text  # lines are written together, a moment later
        wait_until(lambda: said().count("a stream is parked") == 3, "the log says so")
        ill = run("doctor", DATABASE_URL=served.database)
        assert f"WRONG\tparked streams\t3; closings {ticket} since position {position}: " in ill.stdout
        assert run("replay", DATABASE_URL=served.database).returncode == 1
        mend(connection, UUID(ticket))
    healed = run("replay", "queue_stays", DATABASE_URL=served.database)
    assert healed.stdout.splitlines()[1:] == [f"queue_stays\t{ticket}\thealed"]
    assert run("replay", DATABASE_URL=served.database).returncode == 0
    assert ready()["parked"] == dict.fromkeys(NAMES, 0)
    assert run("replay", DATABASE_URL=served.database).stdout == "nothing is parked\n"
