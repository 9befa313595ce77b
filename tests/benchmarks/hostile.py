"""How long others wait while somebody sends what no client library would: slowly, too much, too deep, not HTTP at all.

    python -m tests.benchmarks.hostile

By turns, on one desk: in calm, and with 200 connections that send byte by byte and a stream of bad requests. Meanwhile,
somebody asks and commands 50 times a second each, and is timed. Exit status 1 when the p99 of any turn with hostile
clients is above 100 ms.
"""

import asyncio
import sys
import time
from itertools import cycle
from random import Random
from statistics import median, quantiles

from tests.api.test_sockets import REFUSED, SLOW, UNREADABLE, get, head, post
from tests.benchmarks import ground
from tests.support.raw_http import connected, read_answer
from tests.support.running_desk import Served

TURNS, TURN_SECONDS, MOST_MS = 4, 6.0, 100.0
PAUSE = 0.02
BAD_SENDERS = 8


async def slowly(desk: Served, until: asyncio.Event, chance: Random) -> None:
    """A connection that sends headers byte by byte; when the server has had enough, another one."""
    sent = head(desk, b"GET /v1/queues HTTP/1.1", *(b"X-%d: a" % n for n in range(90)))
    while not until.is_set():
        async with connected(desk.port) as (_, writer):
            for byte in sent:
                if until.is_set() or writer.is_closing():
                    break
                writer.write(bytes([byte]))
                await asyncio.sleep(0.1 + 0.1 * chance.random())


async def badly(desk: Served, until: asyncio.Event, sent: list[bytes], first: int) -> None:
    """One bad request after another."""
    for one in cycle(sent[first:] + sent[:first]):
        if until.is_set():
            return
        try:
            async with connected(desk.port) as (reader, writer), asyncio.timeout(5):
                writer.write(one)
                await reader.read(1)
        except (OSError, TimeoutError):
            pass
        await asyncio.sleep(PAUSE)


async def anew(desk: Served, sent: bytes, seconds: float) -> list[float]:
    """The same, each time on a connection of its own: with how long that took."""
    found, end = [], time.monotonic() + seconds
    while time.monotonic() < end:
        begun = time.monotonic()
        async with connected(desk.port) as (reader, writer):
            writer.write(sent)
            answer = await read_answer(reader)
        found.append((time.monotonic() - begun) * 1000)
        if answer.status != 200:
            raise RuntimeError(f"others are answered {answer}")
        await asyncio.sleep(PAUSE)
    return found


async def timed(desk: Served, sent: bytes, seconds: float) -> list[float]:
    """The same request again and again on one connection, 50 times a second: how many milliseconds each took."""
    found, end = [], time.monotonic() + seconds
    async with connected(desk.port) as (reader, writer):
        while time.monotonic() < end:
            begun = time.monotonic()
            writer.write(sent)
            answer = await read_answer(reader)
            found.append((time.monotonic() - begun) * 1000)
            if answer.status not in (200, 201):
                raise RuntimeError(f"others are answered {answer}")
            await asyncio.sleep(PAUSE)
    return found


async def turn(desk: Served, hostile: bool) -> list[float]:
    """What others wait in one turn."""
    until = asyncio.Event()
    beside = []
    if hostile:
        bad = [sent(desk) for _, sent in UNREADABLE.values()] + [sent(desk) for *_, sent in REFUSED.values()]
        beside += [slowly(desk, until, Random(n)) for n in range(SLOW)]
        beside += [badly(desk, until, bad, n * len(bad) // BAD_SENDERS) for n in range(BAD_SENDERS)]
    tasks = [asyncio.create_task(one) for one in beside]
    await asyncio.sleep(0.5)
    others = [timed(desk, sent, TURN_SECONDS) for sent in (get(desk), post(desk))]
    found = await asyncio.gather(*others, anew(desk, get(desk), TURN_SECONDS))
    until.set()
    await asyncio.gather(*tasks)
    return [ms for one in found for ms in one]


def main() -> int:
    """Measures by turns, prints each, and returns the exit status."""
    found: dict[bool, list[float]] = {False: [], True: []}
    with ground.server() as server:
        url = server.database("hostile")
        with ground.desk(url, server.directory / "desk") as desk:
            for number in range(TURNS * 2):
                hostile = bool(number % 2)
                ms = asyncio.run(turn(desk, hostile))
                found[hostile].append(quantiles(ms, n=100)[98])
                name = "hostile" if hostile else "calm"
                print(f"{name:8} p50 {median(ms):6.1f} ms   p99 {found[hostile][-1]:6.1f} ms")
    print(f"p99, median of {TURNS} turns: calm {median(found[False]):.1f} ms, hostile {median(found[True]):.1f} ms")
    return int(max(found[True]) > MOST_MS)


if __name__ == "__main__":
    sys.exit(main())
