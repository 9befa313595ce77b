"""The API's own line to PostgreSQL: large, broken off, refused, and always the answer to the question."""

import asyncio
import os
import signal
from contextlib import suppress
from typing import Any

import psycopg
import pytest

from application.store.postgres.embedded_postgres import EmbeddedPostgres
from application.store.postgres.pg_connection import PgConnection, Unavailable, numbered
from tests.support.running_desk import wait_until

ECHO = "select %s::text"


def on(database: str, work: Any) -> Any:
    """What a piece of work with a line gives."""

    async def run() -> Any:
        line = PgConnection(database, "test line")
        try:
            return await work(line)
        finally:
            await line.close()

    return asyncio.run(run())


def test_a_large_statement_is_sent_piece_by_piece(database: str) -> None:
    """More than the socket takes at once arrives whole, and so does the answer."""
    large = [f"{number:08}" * 100_000 for number in range(20)]

    async def work(line: PgConnection) -> Any:
        return await line.fetch("select * from unnest(%b::text[])", (large,))

    assert on(database, work) == [(text,) for text in large]


def test_who_is_cut_off_leaves_nothing_behind(database: str, connection: psycopg.Connection) -> None:
    """The statement is stopped on the server, and the next one gets its own answer."""
    running = "select count(*) from pg_stat_activity where query like %s and state = 'active'"

    def count() -> int:
        row = connection.execute(running, ("%pg_sleep($1::float8)%",)).fetchone()
        return int(row[0]) if row else 0

    async def work(line: PgConnection) -> Any:
        cut = asyncio.create_task(line.fetch("select pg_sleep(%s::float8)", ("60",)))
        await asyncio.to_thread(wait_until, lambda: count() == 1, "it runs")
        cut.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cut
        return await line.fetch(ECHO, ("next",))

    assert on(database, work) == [("next",)]
    wait_until(lambda: count() == 0, "it is stopped")


def test_an_error_is_the_statements_own(database: str) -> None:
    """A refused statement raises what PostgreSQL says, at its preparation or later; the line goes on."""

    async def work(line: PgConnection) -> Any:
        with pytest.raises(psycopg.errors.UndefinedTable, match="nowhere"):
            await line.fetch("table nowhere")
        with pytest.raises(psycopg.errors.InvalidTextRepresentation, match="many"):
            await line.fetch("select %s::int", ("many",))
        return await line.fetch(ECHO, ("on",))

    assert on(database, work) == [("on",)]


def test_a_connection_that_is_ended_under_a_statement(database: str) -> None:
    """It is Unavailable, once; the next statement has a new connection, and what was prepared is prepared again."""

    async def work(line: PgConnection) -> Any:
        await line.fetch(ECHO, ("first",))
        with pytest.raises(Unavailable):
            await line.fetch("select pg_terminate_backend(pg_backend_pid())")
        return await line.fetch(ECHO, ("second",))

    assert on(database, work) == [("second",)]


def test_lines_that_break_together_leave_each_other_alone(database: str, connection: psycopg.Connection) -> None:
    """The socket of a broken connection is closed: whoever gets its number next is not unwatched with it."""

    async def work(first: PgConnection) -> Any:
        second = PgConnection(database, "test line")
        for line in (first, second):
            await line.fetch(ECHO, ("before",))
        end = (
            "select pg_terminate_backend(pid, 60000) from pg_stat_activity"
            " where application_name = 'deskledger test line'"
        )
        assert len(connection.execute(end).fetchall()) == 2
        async with asyncio.timeout(10):
            while first._socket >= 0 or second._socket >= 0:
                await asyncio.sleep(0.01)
            answers = [await line.fetch(ECHO, ("after",)) for line in (second, first, second)]
        await second.close()
        return answers

    assert on(database, work) == [[("after",)]] * 3


def test_placeholders_are_numbered() -> None:
    """psycopg's placeholders, text and binary, become PostgreSQL's, in order."""
    assert numbered("select %s, %b::uuid[], %s") == "select $1, $2::uuid[], $3"


def test_a_backend_that_is_killed_says_nothing(own_postgres: EmbeddedPostgres) -> None:
    """Its connection ends without a word, in the middle of a statement: Unavailable, and then a new connection."""

    async def work(line: PgConnection) -> Any:
        ((pid,),) = await line.fetch("select pg_backend_pid()")
        cut = asyncio.create_task(line.fetch("select pg_sleep(%s::float8)", ("60",)))
        await asyncio.sleep(0)
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(Unavailable):
            await cut
        async with asyncio.timeout(20):
            while True:
                with suppress(Unavailable):  # until PostgreSQL has recovered
                    return await line.fetch(ECHO, ("again",))

    assert on(own_postgres.url, work) == [("again",)]
