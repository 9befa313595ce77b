"""Free tickets, each in the hands of one claimer of a process at most: what happens when one is put down again."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import psycopg
import pytest

from application.store.read_pool import Readers
from application.store.sealing import seal_all
from domain.values import Queue
from projections.queries import claim_dispenser
from projections.queries.claim_dispenser import ClaimDispenser, Free
from projections.runner import project_all
from tests.support.full_queue import filled
from tests.support.write_side import append, notes


@pytest.fixture
def two(connection: psycopg.Connection[Any], database: str) -> list[UUID]:
    """Two free tickets at tier 1, in the order of the queue."""
    filled(database, 2)
    seal_all(connection)
    project_all(connection)
    query = "select ticket_id from queue_stays where left_at is null order by rank, entered_at, ticket_id"
    return [row[0] for row in connection.execute(query).fetchall()]


def dealt(database: str, talk: Callable[[ClaimDispenser], Awaitable[Any]]) -> Any:
    """What comes of a talk with a dealer of tier 1."""

    async def run() -> Any:
        readers = Readers(database)
        await readers.open()
        try:
            async with asyncio.timeout(20):
                return await talk(ClaimDispenser(readers.fetch, Queue.TIER1))
        finally:
            await readers.close()

    return asyncio.run(run())


def id_of(free: Free | None) -> UUID:
    """The ticket of a hand that must not be empty."""
    assert free
    return free.ticket_id


def test_who_asks_at_the_same_time_gets_another(two: list[UUID], database: str) -> None:
    """Two who ask get two tickets, the best one first, by one look-up."""

    async def talk(dealer: ClaimDispenser) -> list[UUID]:
        return [id_of(free) for free in await asyncio.gather(dealer.next(), dealer.next())]

    assert dealt(database, talk) == two


def test_what_is_put_down_is_dealt_again(two: list[UUID], database: str) -> None:
    """A claimer who did not take it, since the request was one of before, leaves it to the next."""

    async def talk(dealer: ClaimDispenser) -> list[UUID]:
        first = await dealer.next()
        assert first
        dealer.complete(first, passed_over=False)
        return [first.ticket_id, id_of(await dealer.next())]

    assert dealt(database, talk) == [two[0], two[0]]


def test_who_finds_all_in_other_hands_waits(two: list[UUID], database: str) -> None:
    """The third of three waits until one of the others is done, and gets what is put down."""

    async def talk(dealer: ClaimDispenser) -> UUID:
        hands = await asyncio.gather(dealer.next(), dealer.next())
        third = asyncio.create_task(dealer.next())
        done, _ = await asyncio.wait([third], timeout=0.2)
        assert not done
        assert hands[1]
        dealer.complete(hands[1], passed_over=False)
        return id_of(await third)

    assert dealt(database, talk) == two[1]


def test_what_was_passed_over_is_dealt_no_more(two: list[UUID], database: str) -> None:
    """None, once both were not to be had: whoever asks is not sent to the same ones again."""

    async def talk(dealer: ClaimDispenser) -> Free | None:
        for _ in two:
            free = await dealer.next()
            assert free
            dealer.complete(free, passed_over=True)
        return await dealer.next()

    assert dealt(database, talk) is None


def test_what_was_passed_over_comes_again_when_it_has_moved_on(
    two: list[UUID], connection: psycopg.Connection[Any], database: str
) -> None:
    """One more event, and it may be free: it is dealt at its new version."""

    async def talk(dealer: ClaimDispenser) -> list[Free | None]:
        first = await dealer.next()
        assert first
        dealer.complete(first, passed_over=True)
        append(connection, notes(first.ticket_id, first.version + 1))
        return [first, await dealer.next()]

    first, again = dealt(database, talk)
    assert (again.ticket_id, again.version) == (two[0], first.version + 1)


@pytest.mark.parametrize("moment", ["before", "while", "after"])
def test_who_goes_away_takes_no_ticket_along(two: list[UUID], database: str, moment: str) -> None:
    """Cancelled before, while or just after tickets are looked up: all of them are there for the next ones."""

    async def talk(dealer: ClaimDispenser) -> list[UUID]:
        fetch, begun, ready = dealer._fetch, asyncio.Event(), asyncio.Event()

        async def gated(query: Any, parameters: Any) -> list[Any]:
            begun.set()
            rows = await fetch(query, parameters)
            await ready.wait()
            if moment == "after":  # found for somebody who has not been told yet
                asyncio.get_running_loop().call_soon(asked.cancel)
            return rows

        dealer._fetch = gated
        asked = asyncio.create_task(dealer.next())
        if moment != "before":
            await begun.wait()
        if moment != "after":
            asked.cancel()
        ready.set()
        await asyncio.gather(asked, return_exceptions=True)
        assert asked.cancelled()
        return [id_of(free) for free in await asyncio.gather(dealer.next(), dealer.next())]

    assert dealt(database, talk) == two


def test_it_remembers_no_more_than_it_says(two: list[UUID], database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was passed over is forgotten when it is too much: then it is tried once more, and no harm is done."""
    monkeypatch.setattr(claim_dispenser, "MOST_CLAIMS_REMEMBERED", 1)

    async def talk(dealer: ClaimDispenser) -> list[UUID]:
        seen = []
        for _ in range(3):
            free = await dealer.next()
            assert free
            seen.append(free.ticket_id)
            dealer.complete(free, passed_over=True)
        return seen

    assert dealt(database, talk) == [two[0], two[1], two[0]]
