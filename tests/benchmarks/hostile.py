"""How long others wait while somebody sends what no client library would: slowly, too much, too deep, not HTTP at all,
thousands of requests at once.

    python -m tests.benchmarks.hostile

By turns, on one desk: in calm; with 200 connections that send byte by byte and a stream of bad requests; with 8
connections without a key that send one `GET /livez` after another; and with the same 8, each of which sends 2,000 of
them in one write, again and again. Meanwhile, somebody asks and commands 50 times a second each, and is timed. Exit
status 1 when the p99 of any turn with hostile clients is above 100 ms, when that of the turns with many requests at
once is, in the middle, above 50 ms and above 5 times that in calm, or above 1.2 times that with one after another.
"""

import asyncio
import sys
import time
from itertools import cycle
from multiprocessing import get_context
from random import Random
from statistics import median, quantiles

from tests.api.test_sockets import REFUSED, SLOW, UNREADABLE, get, head, post
from tests.benchmarks import ground
from tests.support.raw_http import connected, read_answer
from tests.support.running_desk import RunningDesk

Process = get_context("spawn").Process  # no threads and sockets of the parent

TURNS, TURN_SECONDS, MOST_MS = 4, 6.0, 100.0
TOGETHER_MS, TIMES_CALM, TIMES_ALONE = 50.0, 5.0, 1.2
CALM, HOSTILE, ALONE, TOGETHER = "calm", "hostile", "one by one", "2,000 at once"
FLOODS = {ALONE: 1, TOGETHER: 2_000}  # requests in one write
FLOODERS = 8
GOOD = b"HTTP/1.1 200 OK"
PAUSE = 0.02
BAD_SENDERS = 8


async def slowly(desk: RunningDesk, until: asyncio.Event, chance: Random) -> None:
    """A connection that sends headers byte by byte; when the server has had enough, another one."""
    sent = head(desk, b"GET /v1/queues HTTP/1.1", *(b"X-%d: a" % n for n in range(90)))
    while not until.is_set():
        async with connected(desk.port) as (_, writer):
            for byte in sent:
                if until.is_set() or writer.is_closing():
                    break
                writer.write(bytes([byte]))
                await asyncio.sleep(0.1 + 0.1 * chance.random())


async def badly(desk: RunningDesk, until: asyncio.Event, sent: list[bytes], first: int) -> None:
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


async def anew(desk: RunningDesk, sent: bytes, seconds: float) -> list[float]:
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


async def timed(desk: RunningDesk, sent: bytes, seconds: float) -> list[float]:
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


def flood(port: int, count: int) -> None:
    """Runs in a process of its own until it is ended: connections that send so many requests in one write, and again
    when all of them are answered."""
    sent = b"GET /livez HTTP/1.1\r\nHost: desk\r\n\r\n" * count

    async def one() -> None:
        async with connected(port) as (reader, writer):
            while True:
                writer.write(sent)
                left, seen = count, b""
                while left > 0:
                    part = await reader.read(1 << 20)
                    if not part:
                        raise RuntimeError("the server has hung up")
                    seen = seen[1 - len(GOOD) :] + part
                    left -= seen.count(GOOD)

    async def all_of_them() -> None:
        await asyncio.gather(*[one() for _ in range(FLOODERS)])

    asyncio.run(all_of_them())


async def turn(desk: RunningDesk, kind: str) -> list[float]:
    """What others wait in one turn."""
    until = asyncio.Event()
    beside = []
    process = Process(target=flood, args=(desk.port, FLOODS[kind])) if kind in FLOODS else None
    if process:
        process.start()
    if kind == HOSTILE:
        bad = [sent(desk) for _, sent in UNREADABLE.values()] + [sent(desk) for *_, sent in REFUSED.values()]
        beside += [slowly(desk, until, Random(n)) for n in range(SLOW)]
        beside += [badly(desk, until, bad, n * len(bad) // BAD_SENDERS) for n in range(BAD_SENDERS)]
    tasks = [asyncio.create_task(one) for one in beside]
    await asyncio.sleep(0.5)
    others = [timed(desk, sent, TURN_SECONDS) for sent in (get(desk), post(desk))]
    found = await asyncio.gather(*others, anew(desk, get(desk), TURN_SECONDS))
    until.set()
    await asyncio.gather(*tasks)
    if process:
        if not process.is_alive():
            raise RuntimeError("the flood has ended by itself")
        process.terminate()
        process.join()
    return [ms for one in found for ms in one]


def main() -> int:
    """Measures by turns, prints each, and returns the exit status."""
    found: dict[str, list[float]] = {CALM: [], HOSTILE: [], ALONE: [], TOGETHER: []}
    with ground.server() as server:
        url = server.database("hostile")
        with ground.desk(url, server.directory / "desk") as desk:
            for kind in list(found) * TURNS:
                ms = asyncio.run(turn(desk, kind))
                found[kind].append(quantiles(ms, n=100)[98])
                print(f"{kind:13} p50 {median(ms):6.1f} ms   p99 {found[kind][-1]:6.1f} ms", flush=True)
    p99 = {kind: median(each) for kind, each in found.items()}
    print(f"p99, median of {TURNS} turns: " + ", ".join(f"{kind} {ms:.1f} ms" for kind, ms in p99.items()))
    slow = p99[TOGETHER] > max(TOGETHER_MS, TIMES_CALM * p99[CALM]) or p99[TOGETHER] > TIMES_ALONE * p99[ALONE]
    return int(max(found[HOSTILE]) > MOST_MS or slow)


if __name__ == "__main__":
    sys.exit(main())
