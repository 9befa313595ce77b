"""SIGTERM under load: what was accepted is answered, what is not is not recorded, and nobody holds up the end."""

import asyncio
import json
import signal
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path
from uuid import uuid4

import pytest

from application.store.postgres.database import connect
from tests.support.raw_http import Answer, Caller, Cut, connected, read_answer, written
from tests.support.running_desk import RunningDesk

CLIENTS, AFTER = 24, 300
FORCED = "Forcing close"  # gunicorn's words, in its log, when connections have held up the end for 15 seconds
BODY = {"channel": "api", "text": "under load", "sender": {}}


class Asked:
    """What a crowd has asked and was told, by key; None where the connection ended without an answer."""

    def __init__(self) -> None:
        self.told: dict[str, Answer | None] = {}
        self.halves: list[bytes] = []
        self.refused = 0

    async def ask(self, desk: RunningDesk) -> None:
        """Requests without a pause on one connection, as long as somebody listens."""
        caller = Caller(desk.port, desk.staff)
        while not self.refused:
            key = str(uuid4())
            try:
                self.told[key] = await caller("POST", "/v1/requests", BODY, Idempotency_Key=key)
            except ConnectionRefusedError:
                self.refused += 1
            except (Cut, ConnectionError) as error:
                self.told[key] = None
                if isinstance(error, Cut) and error.partial:
                    self.halves.append(error.partial)
                caller.close()
        caller.close()

    def answered(self, status: int) -> dict[str, Answer]:
        """The answers of a status, by key."""
        return {key: answer for key, answer in self.told.items() if answer and answer.status == status}


def recorded(database: str) -> dict[str, bytes]:
    """The first answers that are remembered, by key."""
    with connect(database, "test look") as connection:
        return dict(connection.execute("select key, answer from idempotency").fetchall())


async def ended(desk: RunningDesk) -> None:
    """Waits for the API's end, which no connection has held up."""
    async with asyncio.timeout(60):
        await asyncio.to_thread(desk.processes["api"].wait)
    assert FORCED not in (desk.directory / "api.log").read_text()


async def storm(desk: RunningDesk, asked: Asked) -> list[Answer]:
    """A crowd under which the API is ended, with two clients that never finish their request connected, one that
    leaves its connection idle, and one that follows the log."""
    crowd = [asyncio.create_task(asked.ask(desk)) for _ in range(CLIENTS)]
    async with AsyncExitStack() as stack:
        (head_reader, head), (body_reader, body), (idle_reader, idle), (stream_reader, stream) = [
            await stack.enter_async_context(connected(desk.port)) for _ in range(4)
        ]
        idle.write(written("GET", "/livez"))
        assert (await read_answer(idle_reader)).status == 200
        stream.write(written("GET", "/v1/events?wait=60", desk.staff, Accept="text/event-stream"))
        assert b" 200 " in await stream_reader.readuntil(b"\r\n\r\n")
        head.write(b"POST /v1/requests HTTP/1.1\r\nHost: de")
        body.write(written("POST", "/v1/requests", desk.staff, BODY, Idempotency_Key="slow")[:-5])
        while len(asked.answered(201)) < AFTER:
            await asyncio.sleep(0.01)
        desk.processes["api"].send_signal(signal.SIGTERM)
        slow = [await read_answer(head_reader), await read_answer(body_reader)]
        assert await idle_reader.read() == b""
        assert (await stream_reader.read()).endswith(b"0\r\n\r\n")
        await ended(desk)
    await asyncio.gather(*crowd)
    return slow


def test_under_load_each_request_is_answered_or_not_recorded(served: RunningDesk, tmp_path: Path) -> None:
    """No half answer, and no answer but the right one; what was answered is recorded, and nothing else. Another process
    takes the rest, under the same keys. Nobody holds up the end: neither who never finishes a request, nor who is idle,
    nor who follows the log."""
    asked = Asked()
    slow = asyncio.run(storm(served, asked))
    assert [answer.status for answer in slow] == [408, 408]
    assert asked.halves == []
    assert Counter(answer.status for answer in asked.told.values() if answer) == {201: len(asked.answered(201))}
    assert recorded(served.database) == {key: answer.body for key, answer in asked.answered(201).items()}
    lost = [key for key, answer in asked.told.items() if answer is None]
    (tmp_path / "other").mkdir()
    with RunningDesk(served.database, tmp_path / "other", workers=1, parts=["api"]) as other:
        again = [
            other.request("POST", "/v1/requests", json.dumps(BODY).encode(), None, {"Idempotency-Key": key})
            for key in lost
        ]
        assert {(reply.status, "Idempotency-Replayed" in reply.headers) for reply in again} <= {(201, False)}


async def refused(port: int) -> None:
    """Waits until nobody listens any more."""
    async with asyncio.timeout(60):
        while True:
            try:
                async with connected(port):
                    await asyncio.sleep(0.02)
            except ConnectionRefusedError:
                return
            except ConnectionError:  # accepted by the system, and by nobody else
                continue


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_who_is_connected_is_told_that_this_was_the_last_answer(served: RunningDesk, number: signal.Signals) -> None:
    """A request that was under way is answered with Connection: close, in time or not, and the connection ends; at a
    SIGINT it may end at once. A new one is refused; nobody waits for idle connections longer than they live anyway."""
    request = written("POST", "/v1/requests", served.staff, BODY, Idempotency_Key="last", Expect="100-continue")
    head, _, body = request.partition(b"\r\n\r\n")

    async def talk() -> Answer | None:
        async with connected(served.port) as (reader, writer):
            writer.write(head + b"\r\n\r\n")
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100 ")
            served.processes["api"].send_signal(number)
            await refused(served.port)
            last, half = None, b""
            try:
                writer.write(body)
                last = await read_answer(reader)
                assert await reader.read() == b""
            except (Cut, ConnectionError) as error:
                half = getattr(error, "partial", b"")
            assert half == b""
            await ended(served)
            return last

    last = asyncio.run(talk())
    assert last is not None or number is signal.SIGINT
    assert last is None or (last.status in (201, 408) and last.headers["connection"] == "close")
