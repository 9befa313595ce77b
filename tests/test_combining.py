"""The combining shell: what is under way at once goes out together, and nobody harms anybody else by it."""

import asyncio
from collections.abc import Awaitable, Iterator
from typing import Any
from uuid import UUID

import psycopg
import pytest
import uvloop
from served import wait_until
from writing import (
    CONTACT,
    NOW,
    OPEN,
    STAFF,
    append,
    history,
    own_postgres,
    request,
    rows,
    wait_for_locks,
)

from application import combining
from application.combining import CombiningDesk, Unavailable
from application.database import connect, migrate
from application.deciding import Outcome, new_stream_id
from application.keys import Wanted, create_key, hash_of
from application.sealing import seal_all
from application.supporting import AddNote
from domain import errors as no
from domain.values import Level, Role

NOTE = AddNote("looked at it")
BAD_NOTE = AddNote("PostgreSQL cannot store \0")


class Loop:
    """A desk in the event loop that the API runs in."""

    def __init__(self, url: str) -> None:
        self.runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        self.desk = CombiningDesk(url)

    def run(self, awaitable: Any) -> Any:
        """What the coroutine returns."""
        return self.runner.run(awaitable)

    def close(self) -> None:
        """Closes desk and loop."""
        self.run(self.desk.close())
        self.runner.close()


@pytest.fixture
def loop(database: str) -> Iterator[Loop]:
    """A combining desk on the test's database."""
    opened = Loop(database)
    yield opened
    opened.close()


@pytest.fixture
def rival(database: str) -> Iterator[psycopg.Connection]:
    """A connection with an open transaction, to stand in somebody's way."""
    with connect(database, "test rival") as opened:
        opened.execute("begin")
        yield opened


async def open_tickets(desk: CombiningDesk, count: int) -> list[UUID]:
    """Tickets at tier 1, opened at once."""
    await desk.register_client("client-1", CONTACT, STAFF, NOW)
    ids = [new_stream_id(NOW) for _ in range(count)]
    await asyncio.gather(*(desk.execute(request(ticket_id, OPEN)) for ticket_id in ids))
    return ids


async def all_of(*work: Awaitable[Any]) -> list[Any]:
    """What each of them returned or raised."""
    return await asyncio.gather(*work, return_exceptions=True)


async def stands_still(watcher: psycopg.Connection[Any], connections: int = 1) -> None:
    """Lets the loop go on until so many of the desk's statements wait for somebody's lock."""
    await asyncio.to_thread(wait_for_locks, watcher, connections)


def transactions(connection: psycopg.Connection[Any], streams: list[UUID], version: int) -> int:
    """In how many transactions that version of the streams was recorded."""
    query = "select count(distinct xmin::text) from events where stream_id = any(%s) and version = %s"
    return int(connection.execute(query, (streams, version)).fetchone()[0])


def test_commands_at_once_go_out_together(loop: Loop, connection: psycopg.Connection) -> None:
    """Sixty commands on sixty tickets take a few commits, not sixty, and each gets its own answer."""

    async def work() -> tuple[list[UUID], list[Outcome]]:
        ids = await open_tickets(loop.desk, 60)
        return ids, await all_of(*(loop.desk.execute(request(ticket_id, AddNote(str(ticket_id)))) for ticket_id in ids))

    ids, outcomes = loop.run(work())
    assert [outcome.ticket.ticket_id for outcome in outcomes] == ids
    assert [outcome.events[0].event.text for outcome in outcomes] == [str(ticket_id) for ticket_id in ids]
    assert all(history(connection, ticket_id) == [1, 2, 3, 4, 5, 6] for ticket_id in ids)
    assert transactions(connection, ids, 6) < 12


def test_more_than_one_trip_takes_wait_for_the_next(loop: Loop, connection: psycopg.Connection) -> None:
    """A trip takes two hundred wants at most; nobody is forgotten."""
    ids = loop.run(open_tickets(loop.desk, 450))
    assert all(history(connection, ticket_id) == [1, 2, 3, 4, 5] for ticket_id in ids)
    numbers = {stream[2].body["number"] for stream in loop.run(load(loop.desk, ids)).values()}
    assert numbers == {f"T-{n:06}" for n in range(1, 451)}


async def load(desk: CombiningDesk, ids: list[UUID]) -> dict[UUID, Any]:
    """The histories of several tickets."""
    return await desk.load(tuple(ids))


def test_a_command_that_lost_leaves_the_others_of_its_batch(
    loop: Loop, connection: psycopg.Connection, rival: psycopg.Connection
) -> None:
    """(a) In one batch a winner is recorded whole and a loser not at all; the loser learns what it missed."""

    async def work() -> list[Any]:
        first, lost, won = await open_tickets(loop.desk, 3)
        append(rival, rows(first, 6))
        with connect(loop.desk._lines["load"]._url, "test second rival") as second:
            blocked = asyncio.create_task(loop.desk.execute(request(first, NOTE)))
            await stands_still(connection)
            others = [asyncio.create_task(loop.desk.execute(request(one, NOTE, expected_version=5))) for one in (lost, won)]
            await asyncio.sleep(0)
            append(second, rows(lost, 6, 2))
        rival.execute("rollback")
        return [(first, lost, won), *await all_of(blocked, *others)]

    (first, lost, won), *answers = loop.run(work())
    assert [type(answer) for answer in answers] == [Outcome, no.StaleVersion, Outcome]


def test_many_commands_on_one_ticket_all_succeed(loop: Loop, connection: psycopg.Connection) -> None:
    """(e) Commands without a version on one ticket are recorded one behind the other, each once."""

    async def work() -> tuple[UUID, list[Any]]:
        (ticket_id,) = await open_tickets(loop.desk, 1)
        return ticket_id, await all_of(*(loop.desk.execute(request(ticket_id, AddNote(str(n)))) for n in range(80)))

    ticket_id, outcomes = loop.run(work())
    assert [outcome.events[0].originator_version for outcome in outcomes] == list(range(6, 86))
    assert history(connection, ticket_id) == list(range(1, 86))
