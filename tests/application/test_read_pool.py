"""The API's queries: a pool that gives up soon and says so, and works again when the database is back."""

import asyncio

import pytest
from psycopg.sql import SQL

from application.store import read_pool as reading
from application.store.postgres.embedded_postgres import EmbeddedPostgres
from application.store.postgres.pg_connection import Unavailable
from application.store.read_pool import Readers
from projections.queries.queue_pages import overview
from tests.support.running_desk import free_port

ONE = SQL("select %s::int")


def test_rows_come_back(database: str) -> None:
    """A query gives its rows; many at once share the few connections of the pool."""

    async def read() -> list[list[tuple[int]]]:
        readers = Readers(database)
        await readers.open()
        try:
            return await asyncio.gather(*(readers.fetch(ONE, (number,)) for number in range(3 * reading.POOL_SIZE)))
        finally:
            await readers.close()

    assert asyncio.run(read()) == [[(number,)] for number in range(3 * reading.POOL_SIZE)]


SLOW = SQL("select nextval('ticket_numbers'), pg_sleep(%s)")


def test_who_asks_the_same_is_answered_together(database: str) -> None:
    """One run for all who wait; who comes while it runs shares the next one, and who goes away takes nobody along."""

    async def read() -> list[int]:
        readers = Readers(database)
        await readers.open()
        try:
            first = [asyncio.create_task(readers.fetch(SLOW, (0.3,))) for _ in range(5)]
            while not any(one._under_way for one in readers._shared.values()):
                await asyncio.sleep(0)
            second = [asyncio.create_task(readers.fetch(SLOW, (0.3,))) for _ in range(3)]
            await asyncio.sleep(0)
            first[0].cancel()
            second[0].cancel()
            return [rows[0][0] for rows in await asyncio.gather(*first[1:], *second[1:])]
        finally:
            await readers.close()

    assert asyncio.run(read()) == [1, 1, 1, 1, 2, 2]


def test_all_queues_at_a_glance_are_looked_up_once_for_everybody(database: str) -> None:
    """Whoever asks for it while others wait for it gets their answer: many screens ask for it all day."""

    async def read() -> int:
        readers = Readers(database)
        await readers.open()
        try:
            several = [asyncio.create_task(overview(readers.fetch)) for _ in range(5)]
            await asyncio.sleep(0)
            shared = len(readers._shared)
            await asyncio.gather(*several)
            return shared
        finally:
            await readers.close()

    assert asyncio.run(read()) == 1


def test_what_is_not_the_same_runs_apart(database: str) -> None:
    """Other values, a composed text and a list of values have runs of their own."""
    several = [SQL("select nextval('ticket_numbers') {}").format(SQL("")), SQL("select nextval('ticket_numbers')")]

    async def read() -> set[int]:
        readers = Readers(database)
        await readers.open()
        try:
            fetches = [readers.fetch(query, ()) for query in several for _ in range(2)]
            lists = SQL("select nextval('ticket_numbers') where 1 = any(%s)")
            fetches += [readers.fetch(lists, ([1],)) for _ in range(2)]
            fetches += [readers.fetch(SLOW, (seconds,)) for seconds in (0.01, 0.02)]
            return {rows[0][0] for rows in await asyncio.gather(*fetches)}
        finally:
            await readers.close()

    assert len(asyncio.run(read())) == 7


def test_a_query_that_takes_too_long_is_given_up_once(database: str) -> None:
    """A cancelled statement is not asked again: it would take as long again."""
    count = SQL("select nextval('ticket_numbers')")
    cancel = SQL("""
        do $$ begin
            perform nextval('ticket_numbers');
            raise exception 'too long' using errcode = 'query_canceled';
        end $$""")

    async def read() -> int:
        readers = Readers(database)
        await readers.open()
        try:
            with pytest.raises(Unavailable, match="too long"):
                await readers.fetch(cancel, ())
            return int((await readers.fetch(count, ()))[0][0])
        finally:
            await readers.close()

    assert asyncio.run(read()) == 2


def test_an_outage_is_unavailable_and_ends_by_itself(
    own_postgres: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the database is gone, Unavailable; after a restart, rows again, though every connection was broken."""
    monkeypatch.setattr(reading, "READ_POOL_WAIT_SECONDS", 1.0)

    async def read() -> list[tuple[int]]:
        readers = Readers(own_postgres.url)
        await readers.open()
        try:
            await asyncio.gather(*(readers.fetch(ONE, (number,)) for number in range(reading.POOL_SIZE)))
            own_postgres.stop()
            with pytest.raises(Unavailable):
                await readers.fetch(ONE, (1,))
            own_postgres.start()
            return await readers.fetch(ONE, (2,))
        finally:
            await readers.close()

    assert asyncio.run(read()) == [(2,)]


def test_who_gets_no_connection_waits_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a database a query is Unavailable after one wait for a connection, not after two."""
    monkeypatch.setattr(reading, "READ_POOL_WAIT_SECONDS", 0.2)

    async def read() -> int:
        readers = Readers(f"postgresql://deskledger@127.0.0.1:{free_port()}/deskledger")
        await readers.open()
        try:
            with pytest.raises(Unavailable):
                await readers.fetch(ONE, (1,))
            return readers.get_stats()["requests_num"]
        finally:
            await readers.close()

    assert asyncio.run(read()) == 1
