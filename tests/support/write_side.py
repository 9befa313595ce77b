"""What the tests of the application layer write with: bare rows, commands, and a PostgreSQL of one's own."""

import asyncio
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from copy import copy
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, LiteralString
from uuid import UUID

import psycopg
from msgspec.structs import force_setattr

from application.batching_desk import BatchingDesk
from application.commands.command import Command, Opening
from application.commands.deciding import CommandRequest, Outcome, new_stream_id
from application.commands.idempotency import IdempotencyRequest, StoredAnswer
from application.commands.procedure_commands import DocumentIssue, OpenTicket
from application.commands.supporting_commands import RegisterClient
from application.helpdesk import HelpDesk
from application.store.event_store import APPEND, StoredRow, append_parameters, to_row
from application.store.idempotency_records import IdempotencyRecord
from application.store.postgres.database import migrate
from application.store.postgres.embedded_postgres import EmbeddedPostgres
from application.store.sealing import seal_all
from domain.client import Client, Contact
from domain.events import NoteAdded, Recorded
from domain.values import Actor, Channel, Grade, Level, Principal, Role, Visibility
from tests.support.postgres_servers import own_server
from tests.support.running_desk import wait_until

# Most tests write what happened at a made-up time: only those about time hold it against the clock (`strict_database`).
ANY_TIME: LiteralString = "alter table events drop constraint recorded_in_time, drop constraint not_in_the_future"
NOW = datetime(2026, 11, 2, 9, 0, tzinfo=UTC)
UNKNOWN = ("Ticket.FromTheFuture", b"{}")
STAFF = Principal(
    "desk-1",
    "Desk One",
    frozenset({Role.INTAKE, Role.AGENT, Role.QUALITY, Role.IT_MANAGER, Role.ADMIN}),
    frozenset(Level) - {Level.IT_MANAGER},
)
CHECKER = Principal("checker", "Second Pair of Eyes", frozenset({Role.QUALITY}))
CONTACT = RegisterClient("Client One", "client-1@example.org", "+49 30 1", "Org A").contact()
ISSUE = DocumentIssue("printer is silent", "It does not print.", "printing", Grade.MEDIUM, Grade.HIGH)
OPEN = OpenTicket("client-1", Channel.EMAIL, "My printer does not print.", ISSUE)


def unchecked(struct: Any, **texts: str) -> Any:
    """The struct with texts that are not looked at: an earlier version took them."""
    made = copy(struct)
    for field, text in texts.items():
        force_setattr(made, field, text)
    return made


def rows(stream: UUID, first: int = 1, count: int = 1) -> list[StoredRow]:
    """Rows of one command: `count` events of a stream from version `first` on."""
    return [StoredRow(stream, version, "Ticket.Test", b"{}", NOW) for version in range(first, first + count)]


def notes(stream: UUID, first: int = 6, count: int = 1) -> list[StoredRow]:
    """Rows of what somebody else records on a ticket."""
    by, event = Actor("rival", "Rival", Role.AGENT), NoteAdded("I was faster", Visibility.INTERNAL)
    return [to_row(Recorded(stream, version, NOW, by, event)) for version in range(first, first + count)]


def append(
    connection: psycopg.Connection[Any], given: Iterable[StoredRow], kept: Iterable[tuple[UUID, IdempotencyRecord]] = ()
) -> set[UUID]:
    """Runs the append; the streams whose command won."""
    return {row[0] for row in connection.execute(APPEND, append_parameters(given, kept)).fetchall()}


def sealed(connection: psycopg.Connection[Any]) -> list[tuple[int, UUID, int]]:
    """The log: position, stream, version."""
    return connection.execute(
        "select position, stream_id, version from log join events using (ord) order by position"
    ).fetchall()


def history(connection: psycopg.Connection[Any], stream: UUID) -> list[int]:
    """The versions of a stream, in the order in which they drew their numbers."""
    found = connection.execute("select version from events where stream_id = %s order by ord", (stream,)).fetchall()
    return [version for (version,) in found]


def request(ticket_id: UUID, command: Command | Opening, who: Principal = STAFF, **more: Any) -> CommandRequest:
    """A command of the desk's own people, with what a decision is given."""
    return CommandRequest(ticket_id, command, who, **{"now": NOW} | more)


def opened(desk: "Shell", **more: Any) -> UUID:
    """A ticket at tier 1 on either shell."""
    desk.register_client("client-1", CONTACT, STAFF, NOW)
    ticket_id = new_stream_id(NOW)
    desk.execute(request(ticket_id, OPEN, **more))
    return ticket_id


class BatchingShell:
    """The API's shell behind the calls of the synchronous one, so that one suite runs against both."""

    def __init__(self, url: str) -> None:
        self._loop, self._desk = asyncio.Runner(), BatchingDesk(url)

    def execute(self, wanted: CommandRequest, idempotency: IdempotencyRequest | None = None) -> Outcome | StoredAnswer:
        """One command."""
        return self._loop.run(self._desk.execute(wanted, idempotency))

    def execute_all(self, wanted: Iterable[CommandRequest]) -> None:
        """Several commands at once."""

        async def execute() -> None:
            await asyncio.gather(*(self._desk.execute(each) for each in wanted))

        self._loop.run(execute())

    def register_client(self, user_id: str, contact: Contact, who: Principal, now: datetime) -> Client:
        """One client."""
        return self._loop.run(self._desk.register_client(user_id, contact, who, now))

    def history(self, stream_id: UUID) -> list[Recorded]:
        """Every event of a stream."""

        async def load() -> list[Recorded]:
            return (await self._desk.load((stream_id,))).get(stream_id, [])

        return self._loop.run(load())

    def close(self) -> None:
        """Closes the connections and the loop."""
        self._loop.run(self._desk.close())
        self._loop.close()


Shell = HelpDesk | BatchingShell


@contextmanager
def beside(*work: Any) -> Iterator[list[Future[Any]]]:
    """Runs each callable in a thread of its own, beside the block; their results are there after it."""
    with ThreadPoolExecutor(len(work)) as threads:
        yield [threads.submit(one) for one in work]


def wait_for_locks(connection: psycopg.Connection[Any], count: int) -> None:
    """Waits until so many connections to this database stand still, waiting for somebody else's lock."""
    query = """select count(*) from pg_stat_activity
        where datname = current_database() and wait_event_type = 'Lock'"""
    wait_until(lambda: connection.execute(query).fetchone() == (count,), f"{count} connections wait for a lock")


def make_schema(connection: psycopg.Connection[Any]) -> None:
    """The schema of a server of one's own, which takes what happened at a made-up time."""
    migrate(connection)
    connection.execute(ANY_TIME)


@contextmanager
def own_postgres() -> Iterator[EmbeddedPostgres]:
    """A PostgreSQL that one test may stop and kill, with nothing in it."""
    with TemporaryDirectory(prefix="deskledger-own-") as directory:
        Path(directory).chmod(0o755)  # root's servant has to get in
        postgres = own_server(Path(directory))
        postgres.start()
        try:
            yield postgres
        finally:
            postgres.stop()


def poison(connection: psycopg.Connection, ticket: UUID, kind: tuple[str, bytes] = UNKNOWN, version: int = 6) -> int:
    """Records an event that this program cannot read; its position."""
    append(connection, [StoredRow(ticket, version, *kind, NOW)])
    seal_all(connection)
    return connection.execute("select max(position) from log").fetchone()[0]
