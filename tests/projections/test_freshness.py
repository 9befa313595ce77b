"""Reading what one wrote: queries and commands wait for the read side, cheaply, and say when it was in vain."""

import asyncio
from typing import Any
from uuid import UUID

import psycopg
import pytest

from application.helpdesk import HelpDesk
from application.store.postgres.database import connect
from application.store.read_pool import Readers
from application.store.sealing import seal_all
from projections.runner import PROJECTIONS, project_all
from projections.status.freshness import FRESHNESS_POLL_SECONDS, LOG, Freshness
from tests.support.api_requests import client_key, problem, standing_still
from tests.support.read_models import Asked
from tests.support.running_desk import Reply, RunningDesk
from tests.support.write_side import append, beside, notes, opened

NAMES = [projection.name for projection in PROJECTIONS]
POSITIONED = (
    "/v1/tickets",
    "/v1/queues",
    "/v1/queues/tier1",
    "/v1/clients/client-1",
    "/v1/reports/throughput",
    "/v1/events?client_user_id=client-1",
)


@pytest.fixture
def asked(connection: psycopg.Connection) -> Asked:
    """What the read side is asked through."""
    return Asked(connection)


def caught_up(connection: psycopg.Connection) -> int:
    """Everything that was recorded is sealed and applied; the position that it stands at."""
    seal_all(connection)
    project_all(connection)
    return connection.execute("select max(position) from log").fetchone()[0]


def test_a_hundred_who_wait_share_one_question(desk: HelpDesk, asked: Asked) -> None:
    """However many wait, for positions and for versions, the database is asked once in each interval, not by each."""
    tickets = [opened(desk) for _ in range(5)]

    async def wait() -> list[bool]:
        fresh = Freshness(asked.fetch)
        wishes = [fresh.holds_version(tickets[n % 5], 6, 0.5) for n in range(50)]
        return await asyncio.gather(*wishes, *(fresh.stands_at(99, NAMES, 0.5) for _ in range(50)))

    assert asyncio.run(wait()) == [False] * 100
    assert 2 <= asked.times <= 0.5 / FRESHNESS_POLL_SECONDS + 2


def test_nobody_who_waits_is_nothing_asked(desk: HelpDesk, connection: psycopg.Connection, asked: Asked) -> None:
    """What holds already is answered by the first look, and after the last one has gone there is none."""
    ticket = opened(desk)
    last = caught_up(connection)

    async def wait() -> tuple[bool, bool, int]:
        fresh = Freshness(asked.fetch)
        held = await fresh.holds_version(ticket, 5, 0), await fresh.stands_at(last, [*NAMES, LOG], 0)
        before = asked.times
        await asyncio.sleep(5 * FRESHNESS_POLL_SECONDS)
        return (*held, asked.times - before)

    assert asyncio.run(wait()) == (True, True, 0)


def test_each_gets_its_own_answer(desk: HelpDesk, connection: psycopg.Connection, asked: Asked) -> None:
    """Two versions of one ticket, another ticket, a position that is there and one that is not."""
    first, second = opened(desk), opened(desk)
    last = caught_up(connection)
    append(connection, notes(first))
    seal_all(connection)

    async def wait() -> list[bool]:
        fresh = Freshness(asked.fetch)
        versions = [fresh.holds_version(first, 5, 0.1), fresh.holds_version(first, 6, 0.1)]
        positions = [fresh.stands_at(last, NAMES, 0.1), fresh.stands_at(last + 1, NAMES, 0.1)]
        return await asyncio.gather(*versions, fresh.holds_version(second, 5, 0.1), *positions)

    assert asyncio.run(wait()) == [True, False, True, True, False]
    assert asyncio.run(Freshness(asked.fetch).stands_at(last + 1, [LOG], 0)) is True


def test_a_version_is_held_when_queues_hold_it_too(
    desk: HelpDesk, connection: psycopg.Connection, asked: Asked
) -> None:
    """The list alone is not enough: while the queues lag, the version is waited for."""
    ticket = opened(desk)
    caught_up(connection)
    connection.execute("update projections set position = 4 where name = 'queue_stays'")
    assert asyncio.run(Freshness(asked.fetch).holds_version(ticket, 5, 0.05)) is False
    connection.execute("update projections set position = 6 where name = 'queue_stays'")
    assert asyncio.run(Freshness(asked.fetch).holds_version(ticket, 5, 0.05)) is True


def test_a_database_that_comes_back_is_waited_for(desk: HelpDesk, connection: psycopg.Connection, asked: Asked) -> None:
    """While it does not answer, those who wait go on waiting, up to their time and no longer."""
    opened(desk)
    last, asked.answers = caught_up(connection), False

    async def wait() -> tuple[bool, bool]:
        fresh = Freshness(asked.fetch)
        vain = await fresh.stands_at(last, [LOG], 0.05)
        waiting = asyncio.create_task(fresh.stands_at(last, [LOG], 20))
        while asked.times < 10:
            await asyncio.sleep(FRESHNESS_POLL_SECONDS)
        asked.answers = True
        return vain, await waiting

    assert asyncio.run(wait()) == (False, True)


def test_a_mistake_is_told_to_all_who_wait(connection: psycopg.Connection, asked: Asked) -> None:
    """A question that fails for good fails those who wait; whoever waits later is answered again."""
    connection.execute("alter table projections rename to gone")

    async def wait() -> tuple[list[Any], bool]:
        fresh = Freshness(asked.fetch)
        both = await asyncio.gather(fresh.stands_at(0, [LOG], 9), fresh.stands_at(0, [LOG], 9), return_exceptions=True)
        connection.execute("alter table gone rename to projections")
        return [type(each) for each in both], await fresh.stands_at(0, [LOG], 9)

    assert asyncio.run(wait()) == ([psycopg.errors.UndefinedTable] * 2, True)


def test_readers_of_the_api_are_what_it_asks_through(desk: HelpDesk, database: str) -> None:
    """It works on the API's own connections, beside other queries."""

    async def wait() -> bool:
        readers = Readers(database)
        await readers.open()
        try:
            return await Freshness(readers.fetch).stands_at(1, [LOG], 10)
        finally:
            await readers.close()

    with connect(database, "sealer") as connection, beside(lambda: asyncio.run(wait())) as (waiting,):
        opened(desk)
        seal_all(connection)
    assert waiting.result() is True


def with_position(path: str, position: int) -> str:
    """The address with min_position."""
    return f"{path}{'&' if '?' in path else '?'}min_position={position}"


@pytest.mark.parametrize("path", POSITIONED)
def test_a_query_waits_for_a_position(shared_desk: RunningDesk, path: str) -> None:
    """With `min_position` the answer comes when the read side is there, and stands at that position at least."""
    served = shared_desk
    served.ticket()
    served.caught_up()
    last = int(served.get("/v1/tickets").headers["Deskledger-Position"])
    with beside(lambda: served.get(with_position(path, last + 5))) as (waiting,), standing_still(served):
        served.ticket()
        assert not waiting.done()
    reply: Reply = waiting.result()
    assert (reply.status, reply.headers["Preference-Applied"]) == (200, "wait=5")
    assert int(reply.headers["Deskledger-Position"]) >= last + 5


@pytest.mark.parametrize("path", [*POSITIONED, "/v1/events"])
def test_a_wait_in_vain_says_so(shared_desk: RunningDesk, path: str) -> None:
    """What does not come within the time that the caller gives is a problem with status 503 and Retry-After."""
    shared_desk.ticket()
    reply = shared_desk.request("GET", with_position(path, 10**9), headers={"Prefer": "wait=1"})
    assert "after 1 s" in problem(reply, 503, "projection_behind")["detail"]
    assert reply.headers["Retry-After"] == "1"


def test_a_ticket_waits_for_its_version(shared_desk: RunningDesk) -> None:
    """With `min_version` a ticket and its history come when lists and queues hold that version."""
    served = shared_desk
    ticket = served.ticket()
    with standing_still(served):
        assert served.do(ticket, "add_note", text="wait for me").status == 200
        for path in (f"/v1/tickets/{ticket}", f"/v1/tickets/{ticket}/history"):
            reply = served.request("GET", f"{path}?min_version=6", headers={"Prefer": "wait=0"})
            problem(reply, 503, "projection_behind")
    history = served.get(f"/v1/tickets/{ticket}/history?min_version=6").json["items"]
    assert [event["version"] for event in history if event["position"]] == [1, 2, 3, 4, 5, 6]
    reply = served.get(f"/v1/tickets/{ticket}?min_version=6")
    assert (reply.version, reply.headers["Preference-Applied"]) == (6, "wait=5")
    listed = served.get("/v1/tickets").json["items"][0]
    assert (listed["ticket_id"], listed["version"]) == (ticket, 6)


def test_a_version_that_is_not_there_is_not_waited_for(shared_desk: RunningDesk) -> None:
    """A version that the ticket does not have is 404 at once; beside a past state `min_version` says nothing: 400."""
    served = shared_desk
    ticket = served.ticket()
    for path in (f"/v1/tickets/{ticket}", f"/v1/tickets/{ticket}/history"):
        problem(served.get(f"{path}?min_version=9"), 404, "unknown_version")
        problem(served.get(f"{path}?min_version=0"), 400, "invalid_parameter")
    problem(served.get(f"/v1/tickets/{ticket}?min_version=2&version=1"), 400, "invalid_parameter")
    problem(served.get(f"/v1/tickets/{UUID(int=7)}?min_version=1"), 404, "unknown_ticket")


def test_a_foreign_ticket_is_not_waited_for(shared_desk: RunningDesk) -> None:
    """A client who asks for another's ticket learns nothing of it, whatever version is asked for."""
    served = shared_desk
    ticket, other = served.ticket(), client_key(served, "client-2")
    for version in (1, 9):
        problem(served.get(f"/v1/tickets/{ticket}?min_version={version}", other), 404, "unknown_ticket")
