"""Snapshots: whatever is in their table, or not, a ticket is the one that its events make."""

import ast
import asyncio
import inspect
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Thread
from typing import Any, LiteralString
from uuid import UUID, uuid4

import msgspec
import psycopg
import pytest

from api.worker.worker_loop import Worker
from application.batching_desk import BatchingDesk
from application.commands.command_handler import run_at_once
from application.commands.procedure_commands import CompileDossier, EscalateTicket, QualifyTicket
from application.commands.supporting_commands import AddNote, LinkTicket, RegisterClient
from application.helpdesk import HelpDesk
from application.settings import Settings
from application.store import snapshots
from application.store.event_store import HIGHEST_VERSION, LOAD, NotReadable, to_row
from application.store.postgres.database import connect
from application.store.snapshots import FOLD, forget_snapshots, take_all_snapshots, take_snapshots
from application.store.stream_loader import StreamLoader
from domain import ticket as ticket_module
from domain.client import ContactChanged, client_stream
from domain.errors import StaleVersion
from domain.events import Recorded
from domain.ticket import Snapshot, fold
from domain.values import Relation
from tests.support.running_desk import wait_until
from tests.support.write_side import (
    NOW,
    OPEN,
    STAFF,
    BatchingShell,
    Shell,
    append,
    notes,
    opened,
    poison,
    request,
)

NOTE = AddNote("looked at it")
LONG = 115  # events: four snapshots, and 15 behind the last


@pytest.fixture(params=["HelpDesk", "the combining desk"])
def shell(request: pytest.FixtureRequest, desk: HelpDesk, database: str) -> Iterator[Shell]:
    """Both shells."""
    if request.param == "HelpDesk":
        yield desk
        return
    combining = BatchingShell(database)
    yield combining
    combining.close()


@pytest.fixture
def long(desk: HelpDesk, connection: psycopg.Connection) -> UUID:
    """A ticket with many events, and every snapshot that is due."""
    ticket = opened(desk)
    append(connection, notes(ticket, 6, LONG - 5))
    take_all_snapshots(connection)
    return ticket


def made(connection: psycopg.Connection) -> dict[UUID, list[int]]:
    """The versions of each stream that have a snapshot of this program."""
    rows = connection.execute(
        "select stream_id, array_agg(version order by version) from snapshots where fold = %s group by 1", (FOLD,)
    )
    return dict(rows.fetchall())


def loaded(connection: psycopg.Connection, ticket: UUID) -> list[tuple[str, int]]:
    """What a load of a ticket gives: type and version of each row."""
    return [
        (row[3], row[1])
        for row in connection.execute(LOAD, ([ticket], FOLD, HIGHEST_VERSION, HIGHEST_VERSION)).fetchall()
    ]


def by_snapshot(desk: HelpDesk, ticket: UUID) -> Sequence[Recorded]:
    """The events of a ticket from its last snapshot on."""

    async def read(sql: LiteralString, parameters: Sequence[Any]) -> list[Any]:
        return desk.recorder.fetch(sql, parameters)

    return run_at_once(StreamLoader(read).load([ticket]))[ticket]


def noted(shell: Shell, ticket: UUID, **more: int) -> int:
    """The version of a ticket after one more command."""
    return shell.execute(request(ticket, NOTE, **more)).ticket.version


def test_every_25th_version_has_one(connection: psycopg.Connection, desk: HelpDesk, long: UUID) -> None:
    """Each is the ticket as it was then; a load begins at the last, and a short ticket has none."""
    assert made(connection) == {long: [25, 50, 75, 100]}
    assert loaded(connection, long) == [("Snapshot", 100), *(("Ticket.NoteAdded", n) for n in range(101, LONG + 1))]
    whole = desk.history(long)
    for version in (25, 50, 75, 100):
        (row,) = connection.execute("select ticket from snapshots where version = %s", (version,)).fetchone()
        assert Snapshot(fold(whole[:version])) == msgspec.json.decode(row, type=Snapshot)
    assert fold(by_snapshot(desk, long)) == fold(whole)
    assert take_snapshots(connection) is None


def test_a_command_goes_on_from_a_snapshot(desk: HelpDesk, shell: Shell, long: UUID) -> None:
    """Its decision is on the ticket as it stands, and its events follow those that are there."""
    outcome = shell.execute(request(long, NOTE, expected_version=LONG))
    assert [event.originator_version for event in outcome.events] == [LONG + 1]
    assert fold(desk.history(long)) == outcome.ticket


@pytest.mark.parametrize("expected", [3, 25, 99, 100, 101, LONG - 1, LONG + 5])
def test_a_stale_command_is_told_all_that_it_missed(shell: Shell, long: UUID, expected: int) -> None:
    """Also the events that a snapshot stands for, each once and in order; none where the version is yet to come."""
    with pytest.raises(StaleVersion) as raised:
        noted(shell, long, expected_version=expected)
    assert raised.value.current_version == LONG
    assert [event.originator_version for event in raised.value.missed] == [*range(expected + 1, LONG + 1)]
    assert all(event.type == "Ticket.NoteAdded" or event.originator_version < 6 for event in raised.value.missed)


def test_a_dossier_has_all_of_the_history(connection: psycopg.Connection, shell: Shell) -> None:
    """Step 16 freezes everything that happened, with a snapshot or without."""
    ticket = opened(shell)
    append(connection, notes(ticket, 6, 60))
    up, too_hard = EscalateTicket("needs more skill"), QualifyTicket(False, "too hard")
    for command in (up, too_hard, up, too_hard, up, too_hard, up):
        shell.execute(request(ticket, command))
    take_all_snapshots(connection)
    assert made(connection)[ticket] == [25, 50]
    dossier = shell.execute(request(ticket, CompileDossier("all of it"))).events[0].event
    assert len(dossier.entries) >= 60
    take_all_snapshots(connection)  # one for the dossier, which is as long as everything before it
    assert (made(connection)[ticket], loaded(connection, ticket)) == ([25, 50, 73], [("Snapshot", 73)])


@pytest.mark.parametrize(
    "fault",
    [
        "truncate snapshots",
        "update snapshots set fold = 'another'",
        "update snapshots set ticket = 'garbage'",
        "update snapshots set ticket = '{\"ticket\": null}' where version = 100",
    ],
)
def test_a_snapshot_that_is_of_no_use_is_passed_over(
    connection: psycopg.Connection, desk: HelpDesk, shell: Shell, long: UUID, fault: str
) -> None:
    """None there, of another program, or damaged: commands are given as before, and in time it is replaced."""
    before = fold(desk.history(long))
    connection.execute(fault)
    assert fold(by_snapshot(desk, long)) == before
    assert noted(shell, long) == LONG + 1
    opening = OPEN
    other = shell.execute(request(uuid4(), opening)).ticket
    assert shell.execute(request(other.ticket_id, LinkTicket(long, Relation.RELATED_TO))).ticket.links
    append(connection, notes(long, LONG + 2, 60))
    for _ in range(2):
        take_all_snapshots(connection)
    assert made(connection)[long] == [25, 50, 75, 100, 125, 150, 175]
    assert fold(by_snapshot(desk, long)) == fold(desk.history(long))


@pytest.mark.parametrize("fault", ["", "truncate snapshots", "update snapshots set ticket = 'garbage'"])
def test_an_earlier_version_goes_by_the_snapshot_before_it(
    connection: psycopg.Connection, desk: HelpDesk, database: str, long: UUID, fault: str
) -> None:
    """It is the same with a snapshot, without one, and with one that is damaged; beyond the end it is the whole."""
    connection.execute(fault or "select")
    whole = desk.history(long)

    async def look() -> None:
        combining = BatchingDesk(database)
        for version in (0, 1, 24, 25, 26, 99, 100, LONG, LONG + 1):
            loaded = await combining.loader.load([long], version)
            assert fold(loaded.get(long, ())) == fold(whole[:version])
        assert len((await combining.loader.load([long], 113))[long]) == (113 if fault else 14)
        assert await combining.loader.load([uuid4()], 3) == {}
        await combining.close()

    asyncio.run(look())


def test_an_unreadable_event_is_said_at_an_earlier_version_too(
    connection: psycopg.Connection, desk: HelpDesk, database: str
) -> None:
    """It is not taken for a damaged snapshot."""
    ticket = opened(desk)
    poison(connection, ticket)

    async def look(version: int) -> None:
        combining = BatchingDesk(database)
        try:
            await combining.loader.load([ticket], version)
        finally:
            await combining.close()

    asyncio.run(look(5))
    with pytest.raises(NotReadable):
        asyncio.run(look(6))
    with pytest.raises(NotReadable):
        by_snapshot(desk, ticket)


def test_a_command_on_an_unreadable_event_says_so(connection: psycopg.Connection, shell: Shell) -> None:
    """As before, with a snapshot or without: the events decide, and not what may be loaded."""
    ticket = opened(shell)
    append(connection, notes(ticket, 6, 50))
    take_all_snapshots(connection)
    poison(connection, ticket, version=56)
    with pytest.raises(NotReadable):
        noted(shell, ticket)


def test_the_worker_takes_what_is_due(connection: psycopg.Connection, database: str, desk: HelpDesk) -> None:
    """What is there when it starts, and what comes."""
    first, second = opened(desk), opened(desk)
    append(connection, notes(first, 6, 60))
    worker = Worker(Settings(database_url=database))
    running = Thread(target=worker.run)
    running.start()
    try:
        wait_until(lambda: made(connection) == {first: [25, 50]}, "the first snapshot")
        append(connection, notes(second, 6, 60))
        wait_until(lambda: made(connection) == {first: [25, 50], second: [25, 50]}, "the second snapshot")
    finally:
        worker.stop()
        running.join()


def test_several_at_once_make_the_same(connection: psycopg.Connection, database: str, desk: HelpDesk) -> None:
    """Two workers, and a migration beside them: each snapshot is there once."""
    tickets = [opened(desk) for _ in range(3)]
    for ticket in tickets:
        append(connection, notes(ticket, 6, 300))

    def take(_: int) -> None:
        with connect(database, "test") as own:
            take_all_snapshots(own)

    with ThreadPoolExecutor(3) as threads:
        list(threads.map(take, range(3)))
    assert made(connection) == {ticket: [*range(25, 301, 25)] for ticket in tickets}


def test_batches_go_through_everything(connection: psycopg.Connection, desk: HelpDesk) -> None:
    """However small a batch is, it goes on where the one before ended, across tickets whose events lie mixed."""
    tickets = [opened(desk) for _ in range(2)]
    for first in range(6, 206, 20):
        for ticket in tickets:
            append(connection, notes(ticket, first, 20))
    after, batches = 0, 0
    while (last := take_snapshots(connection, after, 3)) is not None:
        assert last > after
        after, batches = last, batches + 1
    assert batches == 6
    assert made(connection) == {ticket: [*range(25, 201, 25)] for ticket in tickets}


def test_what_is_no_ticket_gets_none(connection: psycopg.Connection, desk: HelpDesk, long: UUID) -> None:
    """The directory's streams, and a ticket with an event that this program cannot read, stop nobody else."""
    event, stream = (
        ContactChanged("client-1", "Client One", "client-1@example.org", None, None),
        client_stream("client-1"),
    )
    by = desk.history(stream)[0].actor
    append(connection, [to_row(Recorded(stream, version, NOW, by, event)) for version in range(2, 61)])
    sick = opened(desk)
    poison(connection, sick)
    append(connection, notes(sick, 7, 60))
    later = opened(desk)
    append(connection, notes(later, 6, 60))
    take_all_snapshots(connection)
    assert made(connection) == {long: [25, 50, 75, 100], later: [25, 50]}
    desk.register_client("client-1", RegisterClient("Client One", "other@example.org").contact(), STAFF, NOW)


def test_those_of_another_program_are_forgotten_after_a_week(connection: psycopg.Connection, long: UUID) -> None:
    """Not before, as that program may still run; and one's own never."""
    connection.execute("update snapshots set made_at = now() - interval '1 year'")
    connection.execute("insert into snapshots select stream_id, 'old', version, ticket, made_at from snapshots")
    connection.execute(
        "insert into snapshots select stream_id, 'other', version, ticket from snapshots where fold = 'old'"
    )
    assert [forget_snapshots(connection, 1) for _ in range(5)] == [1, 1, 1, 1, 0]
    assert dict(connection.execute("select fold, count(*) from snapshots group by 1").fetchall()) == {
        FOLD: 4,
        "other": 4,
    }
    assert made(connection) == {long: [25, 50, 75, 100]}


def test_the_hash_is_over_everything_that_the_fold_depends_on() -> None:
    """Every module of the domain that the fold imports, and what they import, is part of it; errors decide nothing."""
    modules, left = {ticket_module}, [ticket_module]
    while left:
        for node in ast.walk(ast.parse(inspect.getsource(left.pop()))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "domain":
                names = (
                    [f"domain.{name.name}" for name in node.names] if node.module == "domain" else [str(node.module)]
                )
                new = {sys.modules[name] for name in names} - modules
                modules |= new
                left += new
    assert modules - {sys.modules["domain.errors"]} == set(snapshots.MADE_BY)
