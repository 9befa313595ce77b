"""What no client library would send, through a real socket: each is answered with the right 4xx, or served when it is
right after all; nothing hangs, and others are served meanwhile."""

import asyncio
import json
import re
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from random import Random
from typing import Any

import pytest

from api.http.middleware.response_headers import STRICT
from api.http.resources.service.contract_resources import BUNDLE, REDOC
from api.server.connection_guard import CROWDED_IDLE_SECONDS, KEEPALIVE_SECONDS
from application.store.postgres.database import connect
from tests.support.api_requests import MEMBERS, PROBLEM
from tests.support.raw_http import Answer, Cut, connected, read_answer, written
from tests.support.running_desk import ROOT, RunningDesk, wait_until

SLOW = 200  # connections that send a byte now and then
HEADER_SECONDS, BODY_SECONDS = 2.0, 3.0  # in place of 10 and 30, so that the tests need not wait so long
UNREAD_SECONDS = 2.0
MOST = 300  # connections of a process, in place of 2,000, where they are counted
REQUEST = json.dumps({"channel": "email", "text": "no network", "sender": {}}).encode()
STATUS = re.compile(rb"HTTP/1\.\d (\d{3}) [A-Z]")
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
PROGRAM = """
import sys, api.server.connection_guard as guard, api.server.gunicorn_server as server
import api.server.http_exchange as exchange
{}
from api.cli.command_line import main
sys.exit(main(["api"]))
"""
HASTY = f"""
guard.HEADER_SECONDS, exchange.BODY_SECONDS = {HEADER_SECONDS}, {BODY_SECONDS}
guard.UNREAD_SECONDS = {UNREAD_SECONDS}
"""
SMALL = f"server.MOST_CONNECTIONS = {MOST}"


class Hasty(RunningDesk):
    """A desk that waits less long for what comes slowly, or takes fewer connections."""

    limits = HASTY
    descriptors: int | None = None

    def start(self, part: str) -> None:
        """As usual, but for the limits of the API."""
        if part != "api":
            super().start(part)
            return
        with (self.directory / f"{part}.log").open("ab") as log:
            command = [sys.executable, "-c", PROGRAM.format(self.limits)]
            if self.descriptors:
                command[:0] = ["prlimit", f"--nofile={self.descriptors}:{self.descriptors}"]
            self.processes[part] = subprocess.Popen(command, cwd=ROOT, env=self.environment, stdout=log, stderr=log)


@pytest.fixture(scope="module")
def desk(module_database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hasty]:
    """A hasty desk that these tests share. At the end it still serves, and has met no error that it does not know."""
    with Hasty(module_database, tmp_path_factory.mktemp("sockets")) as running:
        running.client("client-1")
        yield running
        assert running.get("/v1/queues").status == 200
        log = (running.directory / "api.log").read_text()
        assert "Traceback" not in log
        assert "unexpected error" not in log


@pytest.fixture(scope="module")
def small(module_database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hasty]:
    """A desk of one process, which takes so few connections that a test can have them all."""
    desk = Hasty(module_database, tmp_path_factory.mktemp("small"), workers=1, parts=["api"])
    desk.limits = SMALL
    with desk as running:
        yield running


def answers(desk: RunningDesk, sent: bytes, count: int = 1) -> list[Answer]:
    """Sends bytes on a connection of their own; so many answers, and nothing behind them once the server hangs up."""

    async def talk() -> list[Answer]:
        async with connected(desk.port) as (reader, writer):
            writer.write(sent)
            return [await read_answer(reader) for _ in range(count)]

    return asyncio.run(talk())


def whole(desk: RunningDesk, sent: bytes) -> bytes:
    """Everything that comes back until the server hangs up."""

    async def talk() -> bytes:
        async with connected(desk.port) as (reader, writer), asyncio.timeout(20):
            writer.write(sent)
            return await reader.read()

    return asyncio.run(talk())


def get(desk: RunningDesk, path: str = "/v1/queues", *lines: bytes, first: bytes = b"") -> bytes:
    """A GET with more header lines."""
    return head(desk, first or f"GET {path} HTTP/1.1".encode(), *lines) + b"\r\n"


def post(
    desk: RunningDesk, *lines: bytes, body: bytes = REQUEST, path: str = "/v1/requests", length: bool = True
) -> bytes:
    """A POST of JSON with more header lines."""
    size = [b"Content-Length: %d" % len(body)] if length else []
    type_ = [] if any(line.startswith(b"Content-Type") for line in lines) else [b"Content-Type: application/json"]
    return head(desk, f"POST {path} HTTP/1.1".encode(), *type_, *size, *lines) + b"\r\n" + body


def head(desk: RunningDesk, first: bytes, *lines: bytes, host: bytes = b"Host: desk") -> bytes:
    """The first line and headers."""
    given = [host] * bool(host) + [b"Authorization: Bearer " + desk.staff.encode(), *lines]
    return b"".join(line + b"\r\n" for line in [first, *given])


def chunked(*chunks: bytes, trailer: bytes = b"") -> bytes:
    """A body in chunks, each with an extension."""
    return b"".join(b"%x;n=1\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n" + trailer + b"\r\n"


CHUNKED = b"Transfer-Encoding: chunked"
TICKET = "/v1/tickets/0190f3a0-0000-7000-8000-000000000001"
UNREADABLE: dict[str, tuple[int, Any]] = {
    # answered before the application sees it: gunicorn's parser, and what the desk demands beside it
    "a header of 100 kB": (431, lambda desk: get(desk, "/livez", b"X: " + b"a" * 100_000)),
    "headers without an end": (431, lambda desk: head(desk, b"GET /livez HTTP/1.1", b"X: " + b"a" * 500_000)),
    "500 headers": (431, lambda desk: get(desk, "/livez", *(b"X-%d: 1" % n for n in range(500)))),
    "a line of 100 kB": (414, lambda desk: get(desk, "/" + "a" * 100_000)),
    "a query of 9 kB": (414, lambda desk: get(desk, "/v1/tickets?q=" + "a" * 9_000)),
    "two Hosts": (400, lambda desk: get(desk, "/v1/queues", b"Host: other")),
    "two lengths": (400, lambda desk: post(desk, b"Content-Length: 3")),
    "twice the same length": (400, lambda desk: post(desk, b"Content-Length: %d" % len(REQUEST))),
    "two lengths in one": (400, lambda desk: post(desk, b"Content-Length: 42, 42", length=False)),
    "a negative length": (400, lambda desk: post(desk, b"Content-Length: -1", length=False)),
    "a length with a sign": (400, lambda desk: post(desk, b"Content-Length: +1", length=False)),
    "a blank before the colon": (400, lambda desk: post(desk, b"Content-Length : 9", length=False)),
    "two types": (400, lambda desk: post(desk, b"Content-Type: application/json\r\nContent-Type: text/plain")),
    "length and chunks": (400, lambda desk: post(desk, CHUNKED)),
    "smuggled behind chunks": (
        400,
        lambda desk: post(
            desk, b"Content-Length: 6", CHUNKED, body=b"0\r\n\r\nGET /livez HTTP/1.1\r\n\r\n", length=False
        ),
    ),
    "chunked twice": (400, lambda desk: post(desk, CHUNKED, CHUNKED, body=chunked(REQUEST), length=False)),
    "chunked, hidden": (
        501,
        lambda desk: post(desk, b"Transfer-Encoding: xchunked", body=chunked(REQUEST), length=False),
    ),
    "identity": (400, lambda desk: post(desk, b"Transfer-Encoding: identity", length=False)),
    "chunks in HTTP/1.0": (
        400,
        lambda desk: post(desk, CHUNKED, body=chunked(REQUEST), length=False).replace(b"HTTP/1.1", b"HTTP/1.0"),
    ),
    "a size that is none": (400, lambda desk: post(desk, CHUNKED, body=b"zz\r\n{}\r\n0\r\n\r\n", length=False)),
    "a negative size": (400, lambda desk: post(desk, CHUNKED, body=b"-2\r\n{}\r\n0\r\n\r\n", length=False)),
    "a size in C": (400, lambda desk: post(desk, CHUNKED, body=b"0x2\r\n{}\r\n0\r\n\r\n", length=False)),
    "chunks with bare LF": (400, lambda desk: post(desk, CHUNKED, body=b"2\n{}\n0\n\n", length=False)),
    "a chunk longer than it says": (400, lambda desk: post(desk, CHUNKED, body=b"1\r\n{}\r\n0\r\n\r\n", length=False)),
    "a length in the trailer": (
        400,
        lambda desk: post(desk, CHUNKED, body=chunked(REQUEST, trailer=b"Content-Length: 1\r\n"), length=False),
    ),
    "a folded header": (400, lambda desk: get(desk, "/v1/queues", b"X: a\r\n b")),
    "a bare CR": (400, lambda desk: get(desk, "/v1/queues", b"X: a\rb")),
    "a bare LF": (400, lambda desk: get(desk, "/v1/queues", b"X: a\nY: b")),
    "NUL in a header": (400, lambda desk: get(desk, "/v1/queues", b"X: a\0b")),
    "a header without a name": (400, lambda desk: get(desk, "/v1/queues", b": b")),
    "NUL in the address": (400, lambda desk: get(desk, first=b"GET /v1/queues/\0 HTTP/1.1")),
    "bytes in the address": (400, lambda desk: get(desk, first=b"GET /v1/queues/\xff HTTP/1.1")),
    "a word for an address": (400, lambda desk: get(desk, first=b"GET v1/queues HTTP/1.1")),
    "a small method": (400, lambda desk: get(desk, first=b"get /v1/queues HTTP/1.1")),
    "HTTP/0.9": (400, lambda desk: b"GET /livez\r\n\r\n"),
    "HTTP/2 without TLS": (400, lambda desk: b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
}
REFUSED: dict[str, tuple[int, str, Any]] = {
    # answered by the application
    "no Host": (400, "bad_request", lambda desk: head(desk, b"GET /v1/queues HTTP/1.1", host=b"") + b"\r\n"),
    "two keys for one request": (
        400,
        "bad_idempotency_key",
        lambda desk: post(desk, b"Idempotency-Key: a", b"Idempotency-Key: b"),
    ),
    "gzip and chunked": (
        501,
        "not_implemented",
        lambda desk: post(desk, b"Transfer-Encoding: gzip, chunked", body=chunked(REQUEST), length=False),
    ),
    "a length of 5,000 digits": (
        400,
        "bad_request",
        lambda desk: post(desk, b"Content-Length: " + b"9" * 5_000, length=False),
    ),
    "a body of 1 MiB and a byte": (413, "body_too_large", lambda desk: post(desk, body=b" " * (2**20 + 1))),
    "that body in chunks": (
        413,
        "body_too_large",
        lambda desk: post(desk, CHUNKED, body=chunked(*[b" " * 2**16] * 17), length=False),
    ),
    "a length of many digits": (
        413,
        "body_too_large",
        lambda desk: post(desk, b"Content-Length: " + b"9" * 30, length=False),
    ),
    "100,000 arrays": (422, "invalid_body", lambda desk: post(desk, body=b"[" * 100_000 + b"]" * 100_000)),
    "100,000 objects": (422, "invalid_body", lambda desk: post(desk, body=b'{"a":' * 100_000 + b"1" + b"}" * 100_000)),
    "100,000 arrays for a text": (
        422,
        "invalid_body",
        lambda desk: post(desk, body=REQUEST.replace(b'"no network"', b"[" * 100_000 + b"]" * 100_000)),
    ),
    "100,000 arrays without an end": (422, "invalid_body", lambda desk: post(desk, body=b"[" * 100_000)),
    "UTF-16": (400, "malformed_json", lambda desk: post(desk, body=REQUEST.decode().encode("utf-16"))),
    "a byte order mark": (400, "malformed_json", lambda desk: post(desk, body=b"\xef\xbb\xbf" + REQUEST)),
    "no UTF-8": (400, "malformed_json", lambda desk: post(desk, body=REQUEST.replace(b"no network", b"\xff\xfe"))),
    "half a surrogate pair": (400, "malformed_json", lambda desk: post(desk, body=REQUEST.replace(b"no ", b"\\ud800"))),
    "a surrogate in UTF-8": (
        400,
        "malformed_json",
        lambda desk: post(desk, body=REQUEST.replace(b"no", b"\xed\xa0\x80")),
    ),
    "NUL in a text": (422, "invalid_body", lambda desk: post(desk, body=REQUEST.replace(b"no ", b"\\u0000"))),
    "NUL in the JSON": (400, "malformed_json", lambda desk: post(desk, body=REQUEST + b"\0")),
    "gzip": (415, "unsupported_media_type", lambda desk: post(desk, b"Content-Encoding: gzip")),
    "a form": (415, "not_json", lambda desk: post(desk, b"Content-Type: application/x-www-form-urlencoded")),
    "two keys": (401, "key_unknown", lambda desk: get(desk, "/v1/queues", b"Authorization: Bearer dl_other")),
    "two versions": (
        400,
        "bad_if_match",
        lambda desk: post(desk, b'If-Match: "1"', b'If-Match: "2"', body=b"{}", path=f"{TICKET}:create"),
    ),
    "bytes for a key": (400, "bad_idempotency_key", lambda desk: post(desk, b"Idempotency-Key: \xff")),
    "an encoded slash": (404, "not_found", lambda desk: get(desk, "/v1/queues/a%2Fb")),
    "an encoded NUL": (404, "unknown_queue", lambda desk: get(desk, "/v1/queues/%00")),
    "encoded bytes": (404, "unknown_queue", lambda desk: get(desk, "/v1/queues/%ff%fe")),
    "half an escape": (404, "unknown_queue", lambda desk: get(desk, "/v1/queues/%z")),
    "a way up": (404, "not_found", lambda desk: get(desk, "/v1/../../etc/passwd")),
    "NUL in the query": (400, "invalid_parameter", lambda desk: get(desk, "/v1/tickets?q=%00")),
    "8,000 parameters": (400, "invalid_parameter", lambda desk: get(desk, "/v1/tickets?" + "&".join("a" * 2000))),
    "a method of another protocol": (
        405,
        "method_not_allowed",
        lambda desk: get(desk, first=b"TRACE /v1/queues HTTP/1.1"),
    ),
}


def problem(answer: Answer, status: int) -> dict[str, Any]:
    """The problem document of an answer; it quotes neither key nor code."""
    assert (answer.status, answer.headers["content-type"]) == (status, PROBLEM), answer
    assert answer.json.keys() >= MEMBERS
    assert answer.json["detail"].endswith(".")
    assert b"dl_" not in answer.body
    assert b"gunicorn" not in answer.body.lower()
    document: dict[str, Any] = answer.json
    return document


@pytest.mark.parametrize("name", UNREADABLE)
def test_what_is_no_request_is_a_problem_and_ends_the_connection(desk: Hasty, name: str) -> None:
    """400, 414, 431 or 501, and then the server hangs up: whatever comes behind it is no request of anybody."""
    status, sent = UNREADABLE[name]
    received = whole(desk, sent(desk) + get(desk, "/livez"))
    first, _, body = received.partition(b"\r\n\r\n")
    assert len(STATUS.findall(received)) == 1, received
    assert b"Connection: close" in first
    assert {line.partition(b":")[0].lower() for line in first.split(b"\r\n")} >= {name.encode() for name in STRICT}
    named = re.search(rb"x-request-id: ([0-9a-f]{16})", first)
    assert named
    assert json.loads(body)["request_id"] == named[1].decode()
    answer = Answer(int(first.split()[1]), {"content-type": PROBLEM if PROBLEM.encode() in first else ""}, body)
    assert problem(answer, status)["instance"] == "/"


@pytest.mark.parametrize("name", REFUSED)
def test_a_request_that_cannot_be_meant_is_refused(desk: Hasty, name: str) -> None:
    """The right 4xx with its code; nothing is recorded."""
    status, code, sent = REFUSED[name]
    (answer,) = answers(desk, sent(desk))
    assert problem(answer, status)["code"] == code


def test_chunks_make_a_body(desk: Hasty) -> None:
    """A body in chunks of any size, with extensions and a trailer, is the same as one with a length."""
    chance = Random(1)
    cuts = sorted(chance.sample(range(1, len(REQUEST)), 10))
    pieces = [REQUEST[a:b] for a, b in zip([0, *cuts], [*cuts, len(REQUEST)], strict=True)]
    sent = post(desk, CHUNKED, body=chunked(*pieces, trailer=b"X-Checksum: 1\r\n"), length=False)
    (answer,) = answers(desk, sent)
    assert answer.status == 201


def test_requests_that_come_at_once_are_answered_in_order(desk: Hasty) -> None:
    """Pipelining: 20 requests with bodies in one write, each its own answer; a bad one in between ends it."""
    many = [post(desk, body=REQUEST.replace(b"no network", b"%d" % n)) for n in range(20)]
    told = answers(desk, b"".join(many), 20)
    assert [answer.status for answer in told] == [201] * 20
    texts = [desk.get(answer.headers["location"]).json["text"] for answer in told]
    assert texts == [str(n) for n in range(20)]
    for bad in (b"GARBAGE\r\n\r\n", UNREADABLE["two lengths"][1](desk)):
        received = whole(desk, get(desk, "/livez") + bad + get(desk, "/livez"))
        assert STATUS.findall(received) == [b"200", b"400"]
    digits = REFUSED["a length of 5,000 digits"][2](desk)
    assert [answer.status for answer in answers(desk, get(desk, "/livez") + digits, 2)] == [200, 400]


def test_old_and_rare_ways_to_ask_are_answered(desk: Hasty) -> None:
    """HTTP/1.0, with and without Host; the absolute form of an address; a fragment of nothing in front."""
    old = head(desk, b"GET /v1/queues HTTP/1.0", host=b"") + b"\r\n"
    received = whole(desk, old)
    assert received.startswith(b"HTTP/1.0 200 OK\r\n")
    for address in ("http://desk/v1/queues", "HTTP://other:80/v1/queues", "http://desk/v1/queues?min_position=0"):
        (answer,) = answers(desk, get(desk, address))
        assert answer.json["items"][0]["queue"] == "intake", answer
    (answer,) = answers(desk, get(desk, "https://desk"))
    assert problem(answer, 404)["instance"] == "/"


def test_who_waits_to_be_asked_for_the_body_is_asked(desk: Hasty) -> None:
    """Expect: 100-continue is answered with 100 before the body comes."""

    async def talk() -> Answer:
        async with connected(desk.port) as (reader, writer), asyncio.timeout(20):
            headers = post(desk, b"Expect: 100-continue").removesuffix(REQUEST)
            writer.write(headers)
            assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            writer.write(REQUEST)
            return await read_answer(reader)

    assert asyncio.run(talk()).status == 201


def test_a_body_that_breaks_off_is_no_body(desk: Hasty) -> None:
    """Cut off where what has come is valid JSON: nothing is done, and nothing is remembered under the key."""
    text = REQUEST + b"\n"
    for kind, sent in {
        "length": post(desk, b"Idempotency-Key: cut-length", body=text)[:-1],
        "chunks": post(desk, b"Idempotency-Key: cut-chunks", CHUNKED, body=chunked(REQUEST), length=False)[:-5],
    }.items():
        before = known(desk)

        async def cut(sent: bytes = sent) -> None:
            async with connected(desk.port) as (reader, writer):
                writer.write(sent)
                writer.write_eof()
                await reader.read()

        asyncio.run(cut())
        assert known(desk) == before
        again = post(desk, b"Idempotency-Key: cut-" + kind.encode(), body=text)
        assert answers(desk, again)[0].status == 201, kind


def known(desk: RunningDesk) -> tuple[int, int]:
    """How many requests have come in, and how many keys are remembered."""
    query = (
        "select (select count(*) from events where type = 'Ticket.RequestReceived'), (select count(*) from idempotency)"
    )
    with connect(desk.database, "test look") as connection:
        requests, keys = connection.execute(query).fetchone()
    return requests, keys


def test_the_trace_of_two_is_none(desk: Hasty) -> None:
    """Two traceparent headers are no trace, as W3C says; the request is done all the same."""
    trace = f"traceparent: {TRACE}".encode()
    (answer,) = answers(desk, post(desk, trace, trace))
    assert answer.status == 201


def test_a_deadline_that_was_kept_cuts_nobody_off(desk: Hasty) -> None:
    """One connection for longer than both deadlines, with requests now and then: every one is answered on it."""

    async def talk() -> list[int]:
        statuses = []
        async with connected(desk.port) as (reader, writer):
            end = asyncio.get_running_loop().time() + HEADER_SECONDS + BODY_SECONDS
            while asyncio.get_running_loop().time() < end:
                for sent in (get(desk), post(desk)):
                    writer.write(sent)
                    statuses.append((await read_answer(reader)).status)
                with suppress(TimeoutError):
                    assert await asyncio.wait_for(reader.read(1), 0.5) == b"something else"
        return statuses

    assert set(asyncio.run(talk())) == {200, 201}


def test_an_idle_connection_is_kept_for_the_next_request(desk: Hasty) -> None:
    """Also where that comes after seconds, as from a proxy: it must not meet the end of the connection half-way."""

    async def talk() -> list[int]:
        async with connected(desk.port) as (reader, writer):
            statuses = []
            for pause in (0.0, CROWDED_IDLE_SECONDS + 0.5):
                await asyncio.sleep(pause)
                writer.write(get(desk))
                statuses.append((await read_answer(reader)).status)
            return statuses

    assert asyncio.run(talk()) == [200, 200]
    assert KEEPALIVE_SECONDS > 60  # as long as proxies keep theirs


def test_a_later_request_that_comes_slowly_is_told_so(desk: Hasty) -> None:
    """Its headers have as long as those of the first one, however often a byte comes, and not as long as an idle
    connection."""

    async def talk() -> Answer:
        async with connected(desk.port) as (reader, writer):
            writer.write(get(desk))
            assert (await read_answer(reader)).status == 200
            answer = asyncio.create_task(read_answer(reader))
            while not answer.done():
                writer.write(b"G")
                await asyncio.wait([answer], timeout=0.1)
            return await answer

    problem(asyncio.run(talk()), 408)


def shares(desk: Hasty) -> list[int]:
    """How many connections each process of the API has."""
    lines = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
    ours = {f"socket:[{line[9]}]" for line in lines if line[1].endswith(f":{desk.port:04X}") and line[3] == "01"}
    first = desk.processes["api"].pid
    children = Path(f"/proc/{first}/task/{first}/children").read_text().split()
    return [sum(target(fd) in ours for fd in Path(f"/proc/{child}/fd").iterdir()) for child in children]


def target(descriptor: Path) -> str:
    """What a descriptor of a process is; nothing, when it has been closed meanwhile."""
    try:
        return str(descriptor.readlink())
    except FileNotFoundError:
        return ""


async def waiting(desk: Hasty, stack: AsyncExitStack, count: int) -> list[tuple[Any, Any]]:
    """Connections on which the server waits for the body of a request."""
    asked = post(desk, b"Expect: 100-continue").removesuffix(REQUEST)
    opened = []
    for _ in range(count):
        reader, writer = await stack.enter_async_context(connected(desk.port))
        writer.write(asked)
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100 ")
        opened.append((reader, writer))
    return opened


def emptied(desk: Hasty) -> None:
    """Waits until the connections of earlier tests have ended."""
    desk.hang_up()
    wait_until(lambda: sum(shares(desk)) == 0, "the connections of earlier tests have ended")


def test_idle_connections_make_room_where_there_are_many(small: Hasty) -> None:
    """With more than half of the connections taken, each new one ends the one that was idle longest."""

    async def talk() -> list[int]:
        async with AsyncExitStack() as stack:

            async def more(count: int) -> list[asyncio.Task[bytes]]:
                opened = [await stack.enter_async_context(connected(small.port)) for _ in range(count)]
                for reader, writer in opened:
                    writer.write(get(small, "/livez"))
                    assert (await read_answer(reader)).status == 200
                return [asyncio.create_task(reader.read()) for reader, _ in opened]

            first = await more(MOST // 2)
            await asyncio.sleep(CROWDED_IDLE_SECONDS + 0.3)
            second = await more(40)
            async with asyncio.timeout(60):
                await asyncio.gather(*first[:40])
            return [sum(task.done() for task in tasks) for tasks in (first, second)]

    emptied(small)
    assert asyncio.run(talk()) == [40, 0]


@pytest.mark.parametrize("spoken", [b"", b"GET /livez HTTP/1.1\r\nHost: desk\r\n\r\n"], ids=["silent", "served"])
def test_whoever_comes_is_answered_however_many_are_idle(small: Hasty, spoken: bytes) -> None:
    """All connections are taken by clients that say nothing, or nothing more: the longest idle one ends, and the new
    client is answered at once. Who never asked is told why."""

    async def talk() -> tuple[set[int], list[bytes]]:
        async with AsyncExitStack() as stack:
            opened = [await stack.enter_async_context(connected(small.port)) for _ in range(MOST)]
            for reader, writer in opened if spoken else []:
                writer.write(spoken)
                assert (await read_answer(reader)).status == 200
            statuses = set()
            for _ in range(5):
                reader, writer = await stack.enter_async_context(connected(small.port))
                writer.write(get(small))
                statuses.add((await read_answer(reader)).status)
            async with asyncio.timeout(60):
                return statuses, [await reader.read() for reader, _ in opened[:5]]

    emptied(small)
    statuses, told = asyncio.run(talk())
    assert statuses == {200}
    assert [STATUS.findall(one) for one in told] == [[] if spoken else [b"503"]] * 5


def test_one_connection_too_many_is_told_so(small: Hasty) -> None:
    """Requests are under way on as many connections as the process takes: others are told 503."""

    async def talk() -> tuple[list[Answer], Counter[int]]:
        async with AsyncExitStack() as stack:
            opened = await waiting(small, stack, MOST)
            refused = [await stack.enter_async_context(connected(small.port)) for _ in range(50)]
            told = [await read_answer(reader) for reader, _ in refused]
            for _, writer in opened:
                writer.write(REQUEST)
            return told, Counter([(await read_answer(reader)).status for reader, _ in opened])

    emptied(small)
    told, served = asyncio.run(talk())
    assert {(answer.status, answer.headers["retry-after"]) for answer in told} == {(503, "1")}
    assert served == {201: MOST}


def test_there_are_always_descriptors_left(module_database: str, tmp_path: Path) -> None:
    """Where the system allows few descriptors, the process takes as many connections as leave it some: whoever asks
    is answered, and no descriptor is missing for anything."""
    desk = Hasty(module_database, tmp_path, workers=1, parts=["api"])
    desk.descriptors = 256

    async def talk() -> set[int]:
        async with AsyncExitStack() as stack:
            for _ in range(400):
                await stack.enter_async_context(connected(desk.port))
            statuses = set()
            for path in ("/livez", "/v1/tickets", "/v1/queues") * 3:
                reader, writer = await stack.enter_async_context(connected(desk.port))
                writer.write(get(desk, path))
                statuses.add((await read_answer(reader)).status)
            return statuses

    with desk:
        assert asyncio.run(talk()) == {200}
    log = (tmp_path / "api.log").read_text()
    assert "Traceback" not in log
    assert "open files" not in log


# ── Who has no key, and who closes its side ─────────────────────────────────────────────────────────────────


def test_who_has_no_key_is_told_so_before_the_body_comes(desk: Hasty) -> None:
    """401 while the body is awaited still. The body may come then, and the next request on the same connection."""
    first = b"POST /v1/requests HTTP/1.1\r\nHost: desk\r\nContent-Length: 1\r\n\r\n"

    async def talk() -> list[int]:
        async with connected(desk.port) as (reader, writer):
            writer.write(first)
            statuses = [(await read_answer(reader)).status]
            writer.write(b"x" + get(desk))
            return [*statuses, (await read_answer(reader)).status]

    assert asyncio.run(talk()) == [401, 200]


@pytest.mark.parametrize("pieces", [1, 2])
def test_who_closes_its_side_gets_the_answer(desk: Hasty, pieces: int) -> None:
    """The client sends all it has and then closes its side: each of its requests is done and answered."""
    sent = post(desk) + post(desk, body=REQUEST.replace(b"no ", b"slow "))

    async def talk() -> bytes:
        async with connected(desk.port) as (reader, writer), asyncio.timeout(60):
            half = len(sent) // pieces
            for piece in (sent[:half], sent[half:]):
                writer.write(piece)
                await asyncio.sleep(0)
            writer.write_eof()
            return await reader.read()

    before = known(desk)[0]
    assert STATUS.findall(asyncio.run(talk())) == [b"201", b"201"]
    assert known(desk)[0] == before + 2


def test_a_body_of_which_the_rest_will_never_come_is_refused(desk: Hasty) -> None:
    """The client closes its side in the middle of the body: it is told so."""
    received = whole_closed(desk, post(desk, body=REQUEST)[:-5])
    assert STATUS.findall(received) == [b"400"]
    assert b"body_cut_off" in received


def whole_closed(desk: RunningDesk, sent: bytes) -> bytes:
    """Everything that comes back after the client has closed its side."""

    async def talk() -> bytes:
        async with connected(desk.port) as (reader, writer), asyncio.timeout(60):
            writer.write(sent)
            writer.write_eof()
            return await reader.read()

    return asyncio.run(talk())


def test_a_stream_whose_reader_closed_its_side_tells_what_there_is(desk: Hasty) -> None:
    """All events so far, and then it ends: nobody knows whether anybody is there for more."""
    answers(desk, post(desk))
    received = whole_closed(desk, get(desk, "/v1/events?wait=60", b"Accept: application/x-ndjson"))
    with connect(desk.database, "test look") as connection:
        sealed = connection.execute("select count(*) from log").fetchone()[0]
    assert STATUS.findall(received) == [b"200"]
    assert received.endswith(b"0\r\n\r\n")
    assert received.count(b'"type":') >= min(sealed, 1)


def test_requests_that_are_sent_together_leave_others_their_turn(desk: Hasty) -> None:
    """Eight clients without a key send 2,000 requests at once, again and again: others are answered meanwhile."""
    many = b"GET /livez HTTP/1.1\r\nHost: desk\r\n\r\n" * 2_000

    async def flood(until: asyncio.Event) -> None:
        async with connected(desk.port) as (reader, writer):
            while not until.is_set():
                writer.write(many)
                received = 0
                while received < 200 and not until.is_set():
                    received += (await reader.read(1 << 20)).count(b"HTTP/1.1 200 OK")

    async def together() -> list[int]:
        until = asyncio.Event()
        floods = [asyncio.create_task(flood(until)) for _ in range(8)]
        statuses = []
        async with connected(desk.port) as (reader, writer):
            for sent in (get(desk), post(desk)) * 20:
                writer.write(sent)
                statuses.append((await read_answer(reader)).status)
        until.set()
        await asyncio.gather(*floods)
        return statuses

    assert asyncio.run(together()) == [200, 201] * 20


# ── Those who send slowly, many at once ─────────────────────────────────────────────────────────────────────


async def dribble(desk: RunningDesk, sent: bytes, chance: Random) -> str:
    """Sends a byte now and then until the server has had enough; what it said."""
    async with connected(desk.port) as (reader, writer), asyncio.timeout(30):
        writer.write(sent[: chance.randint(0, 40)])
        answer = asyncio.create_task(read_answer(reader))
        for byte in sent[40:]:
            writer.write(bytes([byte]))
            done, _ = await asyncio.wait([answer], timeout=0.2)
            if done:
                break
        try:
            document = problem(await answer, 408)
        except Cut:
            return "cut"
        with suppress(ConnectionResetError):  # a byte more was under way
            assert await reader.read() == b""
        return str(document["code"])


async def probe(desk: RunningDesk, until: asyncio.Event) -> int:
    """Asks and commands all the time, as everybody else does; each must be answered. How many were."""
    answered = 0
    while not until.is_set():
        for sent, status in ((get(desk), 200), (post(desk), 201)):
            async with connected(desk.port) as (reader, writer):
                writer.write(sent)
                assert (await read_answer(reader)).status == status
            answered += 1
        await asyncio.sleep(0.02)
    return answered


def test_the_slow_are_told_so_and_others_are_served_meanwhile(desk: Hasty) -> None:
    """200 connections that send headers or bodies byte by byte: each is told 408 within its deadline, and whoever asks
    meanwhile is answered."""
    slow_headers = head(desk, b"GET /v1/queues HTTP/1.1", *(b"X-%d: a" % n for n in range(60)))
    slow_body = post(desk, body=REQUEST + b" " * 2_000)
    chance = Random(2)

    async def together() -> tuple[Counter[str], int]:
        until = asyncio.Event()
        others = asyncio.create_task(probe(desk, until))
        slow = [dribble(desk, (slow_headers, slow_body)[n % 2], chance) for n in range(SLOW)]
        told = Counter(await asyncio.gather(*slow))
        until.set()
        return told, await others

    told, answered = asyncio.run(together())
    assert told == {"request_timeout": SLOW}
    assert answered > 0


def test_who_does_not_read_the_answer_is_cut_off(desk: Hasty) -> None:
    """An answer that is larger than what the system keeps waits for its reader so long, and no longer; one who reads
    slowly gets all of it."""
    wanted, times = written("GET", REDOC, desk.staff), 8

    whole = times * BUNDLE.stat().st_size

    def receive(pauses: float) -> int:
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.settimeout(10)
            client.connect(("127.0.0.1", desk.port))
            client.sendall(wanted * times)
            time.sleep(pauses)
            total = 0
            with suppress(ConnectionResetError):
                while total < whole and (part := client.recv(1 << 20)):
                    total += len(part)
            return total

    assert receive(UNREAD_SECONDS * 2) < whole
    assert receive(UNREAD_SECONDS / 4) >= whole
