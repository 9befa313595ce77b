"""The feed's streams under strain: readers that hang up anywhere, that do not read, that are too many, and a server
that ends. Nobody misses an event, and nobody else waits."""

import asyncio
import json
import os
import random
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
import uvloop

from api.http.streaming.event_formats import LINES
from api.http.streaming.event_stream import Stream, StreamRequest
from api.http.streaming.open_streams import OpenStream, OpenStreams
from application.clock import utc_now
from application.identity.api_keys import revoke_key
from application.store.postgres.database import connect
from application.store.sealing import seal_all
from domain.client import client_stream
from domain.values import Role
from projections.queries.event_feed import EventFilters, FeedRow
from projections.queries.log_tail import LOG_TAIL_POLL_SECONDS, Happened, LogTail, _hand_out
from tests.benchmarks.population import populate
from tests.support.api_requests import problem
from tests.support.read_models import Asked
from tests.support.running_desk import RunningDesk, wait_until
from tests.support.stream_readers import NDJSON, SSE, Told, read, stream, told
from tests.support.write_side import append, beside, notes, rows

GOAL = 10_000
MANY = 50_000
LARGE = 100
FILL = """
    with given as materialized (
        select nextval('events_ord') as ord, gen_random_uuid() as stream_id from generate_series(1, %s))
    insert into events (ord, stream_id, version, at, type, body, private, meta, leaf)
    select ord, stream_id, 1, now(), 'Ticket.Cancelled', jsonb_build_object('reason', repeat('not needed ', 30)), null,
        '{"actor": {"id": "bulk", "name": "Bulk", "role": "intake"}}', '' from given"""


# ── Readers that hang up ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("accept", [NDJSON, SSE])
def test_who_hangs_up_anywhere_and_resumes_misses_nothing(database: str, tmp_path: Path, accept: str) -> None:
    """10,000 events, most of them there and the others written meanwhile; the reader hangs up after any number of
    bytes, mostly in the middle of a line, and goes on from what was complete: all events, once, in order."""
    populate(database, 1_100, processes=1)
    with RunningDesk(database, tmp_path) as served, connect(database, "test") as connection:
        with beside(
            lambda: read_in_pieces(served, accept, random.Random(accept)), *[lambda: write(served)] * 2
        ) as done:
            pass
        query = """select position, stream_id, version from log join events using (ord)
            where position <= %s order by position"""
        expected = connection.execute(query, (GOAL,)).fetchall()
    assert len(expected) == GOAL
    assert done[0].result()[:GOAL] == expected


def read_in_pieces(served: RunningDesk, accept: str, choose: random.Random) -> list[tuple[int, UUID, int]]:
    """What a reader has got when it has got so much: position, stream, version."""
    got: list[tuple[int, UUID, int]] = []
    position = 0
    while len(got) < GOAL:
        resumes = {"Last-Event-ID": str(position)} if accept == SSE and position else {}
        query = f"after={0 if resumes else position}&wait=10"
        with stream(served, accept, query, **resumes) as response:
            assert response.status == 200
            found: Told = told(accept, read(response, choose.choice((1, 700, 30_000, 400_000))), position)
        assert [event["position"] for event in found.events] == [len(got) + n for n in range(1, len(found.events) + 1)]
        position = found.position
        got += [(event["position"], stream_of(event), event["version"]) for event in found.events]
    return got


def stream_of(event: dict[str, str]) -> UUID:
    """The stream of an event: a ticket's is its id."""
    return UUID(event["ticket_id"]) if event["ticket_id"] else client_stream(event["client_user_id"])


def write(served: RunningDesk) -> None:
    """Opens tickets until the log is long enough."""
    while int(served.get("/v1/events?limit=1").headers["Deskledger-Position"]) <= GOAL:
        served.ticket()


def test_a_place_is_free_again_when_the_reader_is_gone(database: str, tmp_path: Path) -> None:
    """Too many of one key are 429, too many of a process 503, both with Retry-After; who hangs up makes room."""
    environment = {"DESKLEDGER_STREAMS": "3", "DESKLEDGER_STREAMS_EACH": "2"}
    with small(database, tmp_path, **environment) as served:
        other = served.key(Role.ADMIN)
        with stream(served, SSE), stream(served, NDJSON, "wait=60"):
            headers = {"Accept": SSE}
            refused = served.request("GET", "/v1/events", key=served.key(Role.AUDITOR), headers=headers)
            assert problem(refused, 429, "too_many_streams")
            assert refused.headers["Retry-After"] == "5"
            with stream(served, SSE, key=other):
                refused = served.request("GET", "/v1/events", key=served.key(Role.ADMIN, name="more"), headers=headers)
                assert problem(refused, 503, "streams_full")
                assert refused.headers["Retry-After"] == "5"
                assert served.get("/v1/events").status == 200
        wait_until(lambda: let_in(served) == 3, "there is room again")


def let_in(served: RunningDesk) -> int:
    """How many of three streams of two keys are let in at once."""
    admin = served.key(Role.ADMIN)
    with stream(served, SSE) as one, stream(served, SSE) as two, stream(served, SSE, key=admin) as three:
        return [answer.status for answer in (one, two, three)].count(200)


def small(database: str, directory: Path, **environment: str) -> RunningDesk:
    """An API of one process, without a worker, with these settings."""
    served = RunningDesk(database, directory, workers=1, parts=("api",))
    served.environment |= environment
    return served


# ── When a stream ends ──────────────────────────────────────────────────────────────────────────────────────


def test_a_revoked_key_ends_its_streams(database: str, tmp_path: Path) -> None:
    """Within seconds, and in order; the streams of others go on."""
    with small(database, tmp_path) as served, connect(database, "test") as connection:
        revoked, kept = served.key(Role.AUDITOR, name="revoked"), served.key(Role.AUDITOR, name="kept")
        with stream(served, SSE, key=revoked) as ending, stream(served, SSE, key=kept) as going_on:
            (id_,) = connection.execute("select id from api_keys where name = 'revoked'").fetchone() or ("",)
            assert revoke_key(connection, id_, utc_now())
            assert ending.read().endswith(b": passed\nid: 0\n\n")
            append(connection, notes(UUID(int=1), 1, 1))
            seal_all(connection)
            found = b""
            while b"event: Ticket.NoteAdded" not in found:
                found += (part := going_on.read1(1000))
                assert part, "the other stream has ended"


def test_streams_end_with_the_server(database: str, tmp_path: Path) -> None:
    """At once, in order, and long before the server would cut them; so do those who wait for a page."""
    with small(database, tmp_path) as served:
        with (
            stream(served, SSE) as one,
            stream(served, NDJSON, "wait=60") as two,
            beside(lambda: served.get("/v1/events?wait=30"), lambda: terminated(served)) as (page, ended),
        ):
            assert one.read().endswith(b"id: 0\n\n")
            assert two.read().endswith(b'{"position":0}\n')
        assert page.result().json["items"] == []
        assert ended.result() == 0


def terminated(served: RunningDesk) -> int:
    """SIGTERM, once somebody waits for a page; the exit status."""
    with connect(served.database, "test") as connection:
        query = "select count(*) from pg_stat_activity where application_name = 'deskledger api stream' and datname ="
        wait_until(lambda: connection.execute(query + " current_database()").fetchone() != (0,), "somebody waits")
    process = served.processes["api"]
    process.terminate()
    return process.wait(8)


def test_a_reader_that_does_not_read_is_dropped(many: RunningDesk) -> None:
    """After a time its connection is cut, and others go on meanwhile."""
    said = "its reader does not read"
    with socket.create_connection(("127.0.0.1", many.port), 20) as full:
        asked = f"GET /v1/events HTTP/1.1\r\nHost: x\r\nAccept: {NDJSON}\r\n"
        full.sendall(f"{asked}Authorization: Bearer {many.key(Role.AUDITOR)}\r\n\r\n".encode())
        with stream(many, NDJSON, f"after={MANY - 1000}") as response:
            assert len(told(NDJSON, response.read(), 0).events) == 1000
        wait_until(lambda: said in (many.directory / "api.log").read_text(), "its connection is cut")
        total, last = 0, b""
        while part := full.recv(1 << 20):
            total, last = total + len(part), part
    assert not last.endswith(b"0\r\n\r\n"), "it must see that this was not the end"
    assert 0 < total < MANY * 100


class Present:
    """The connection of a reader who stays."""

    half_closed = False

    def is_closing(self) -> bool:
        """No."""
        return False

    def abort(self) -> None:
        """Nobody cuts it."""
        raise AssertionError


def test_a_stream_outlasts_a_short_failure(connection: psycopg.Connection) -> None:
    """While the database does not answer, a stream that catches up waits; then it goes on where it stood."""
    append(connection, notes(UUID(int=1), 1, 3))
    seal_all(connection)
    asked = Asked(connection)

    async def outlast() -> bytes:
        streams = OpenStreams(connection.info.dsn, 1, 1, 30)
        streams.readers = asked  # type: ignore[assignment]
        credential: Any = None
        stream = Stream(streams, OpenStream(credential, Present()), StreamRequest(EventFilters(), 0, 3, 0, LINES))
        asked.answers = False
        asyncio.get_running_loop().call_later(0.1, setattr, asked, "answers", True)
        return b"".join([part async for part in stream])

    lines = asyncio.run(outlast()).splitlines()
    assert [json.loads(line)["position"] for line in lines] == [1, 2, 3, 3]


# ── What streams cost ───────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def many(module_database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDesk]:
    """An API of one process on a long log, which drops readers that do not read after a second."""
    with connect(module_database, "test", 60) as connection:
        connection.execute(FILL, (MANY,))
        seal_all(connection)
        connection.execute("vacuum analyze events, log")
    with small(module_database, tmp_path_factory.mktemp("many"), DESKLEDGER_UNREAD_SECONDS="1") as served:
        yield served


def test_a_long_stream_takes_no_memory(many: RunningDesk) -> None:
    """50,000 events, and the process is as large at the end as after the first ones."""
    (process,) = children(many.processes["api"].pid)
    sizes, count = [], 0
    with stream(many, NDJSON) as response:
        rest = b""
        while part := response.read1(1 << 20):
            count += part.count(b"\n")
            sizes.append(resident(process))
            rest = part
    assert (count, rest[-20:]) == (MANY + 1, b'{"position":50000}\n'[-20:])
    settled = sizes[len(sizes) // 10]
    assert max(sizes) - settled < 8 * 1024, (settled, max(sizes))  # of the 40 MiB that went out


def test_large_events_come_a_few_at_once(database: str, tmp_path: Path) -> None:
    """Nobody knows how large the next events are: a hundred of the largest are not all held at once, and all come."""
    with connect(database, "test") as connection:
        connection.execute(FILL.replace("repeat('not needed ', 30)", "repeat('not needed ', 9000)"), (LARGE,))
        seal_all(connection)
    with small(database, tmp_path) as served:
        (process,) = children(served.processes["api"].pid)
        served.get("/v1/events?limit=1")
        before, most, body = resident(process), 0, bytearray()
        with stream(served, NDJSON) as response:
            while part := response.read1(1 << 20):
                most = max(most, resident(process))
                body += part
    *events, last = map(json.loads, body.splitlines())
    assert [event["position"] for event in events] == list(range(1, LARGE + 1))
    assert last == {"position": LARGE}
    assert most - before < 16 * 1024, (before, most)  # of the 20 MiB that went out


def children(pid: int) -> list[int]:
    """The processes that a process has started."""
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def resident(pid: int) -> int:
    """The memory of a process, in KiB."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024


def test_streams_share_two_connections(many: RunningDesk) -> None:
    """However many read at once, queries and commands have all of theirs; each reader gets all events."""
    with connect(many.database, "test") as connection:
        with beside(*[lambda: reads(many)] * 8) as done:
            seen = max(busy(connection) for _ in range(100))
        assert [future.result() for future in done] == [2000] * 8
        assert 0 < max(seen, busy(connection)) <= 2


def reads(served: RunningDesk) -> int:
    """How many events a reader got."""
    with stream(served, NDJSON, f"after={MANY - 2000}") as response:
        return len(told(NDJSON, response.read(), 0).events)


def busy(connection: psycopg.Connection) -> int:
    """How many connections the streams have."""
    query = "select count(*) from pg_stat_activity where application_name = 'deskledger api stream' and datname ="
    (count,) = connection.execute(query + " current_database()").fetchone() or (0,)
    return int(count)


def test_a_hundred_who_wait_share_one_query(connection: psycopg.Connection) -> None:
    """However many streams wait at the end of the log, it is read once in each interval; who wants what did not happen
    moves on with the others, and is not woken."""
    streams = [rows(UUID(int=number))[0].originator_id for number in range(1, 51)]
    asked = Asked(connection)

    async def follow() -> tuple[list[int], list[int]]:
        tail = LogTail(asked.fetch)
        wishes = [tail.follow(EventFilters(ticket_id=UUID(str(stream_id))), 0) for stream_id in streams]
        wishes += [tail.follow(EventFilters(type="Ticket.Nothing", client_user_id=f"c-{n}"), 0) for n in range(50)]
        append(connection, notes(UUID(int=7), 1, 3))
        seal_all(connection)
        found = await asyncio.gather(*(tail.wait(wish, 0.5) for wish in wishes))
        return [len(one) for one in found], [wish.position for wish in wishes[:50]]

    counts, positions = asyncio.run(follow())
    assert counts == [3 if number == 7 else 0 for number in range(1, 101)]
    assert positions == [3] * 50
    assert 2 <= asked.times <= 2 * (0.5 / LOG_TAIL_POLL_SECONDS + 2)  # those of clients are read for apart


def test_what_comes_in_the_moment_in_which_the_time_is_over_counts() -> None:
    """The event and the end of the waiting in one turn of the loop: the reader gets the event, or is not moved on."""

    async def meet(found_after: float) -> tuple[list[FeedRow], int]:
        loop = asyncio.get_running_loop()
        tail = LogTail(nothing_new)
        wish = tail.follow(EventFilters(), 5)
        row = FeedRow(6, uuid4(), 1, utc_now(), "Ticket.NoteAdded", b"{}", b"{}")

        waiting = asyncio.create_task(tail.wait(wish, 0.02))
        await asyncio.sleep(0)
        loop.call_later(found_after, _hand_out, [wish], [Happened(row, None, None, None)], 6)
        loop.call_soon(time.sleep, 0.05)  # so that both are due at once
        got = await waiting
        position = wish.position
        tail.end()
        return got, position

    for found_after in (0.01, 0.02, 0.03):
        for run in (asyncio.run, uvloop.run):
            got, position = run(meet(found_after))
            assert [row.position for row in got] == [6] * (position == 6)


def test_whoever_is_told_that_it_is_over_is_not_moved_on() -> None:
    """The process ends while a query is under way: what it finds is for whoever resumes."""

    async def meet() -> tuple[list[FeedRow], int]:
        tail = LogTail(nothing_new)
        wish = tail.follow(EventFilters(), 5)
        tail.end()
        row = FeedRow(6, uuid4(), 1, utc_now(), "Ticket.NoteAdded", b"{}", b"{}")
        _hand_out([wish], [Happened(row, None, None, None)], 6)
        return await tail.wait(wish, 1), wish.position

    assert asyncio.run(meet()) == ([], 5)


async def nothing_new(*_: object) -> list[tuple[object, ...]]:
    """What a query finds at the end of the log."""
    return [(5, *[None] * 10)]
