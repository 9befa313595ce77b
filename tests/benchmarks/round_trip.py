"""What a round trip to PostgreSQL costs the API: the desk's own line beside a cursor of psycopg that is kept.

python -m tests.benchmarks.round_trip [repetitions]
"""

import asyncio
import resource
import statistics
import sys
from collections.abc import Awaitable, Callable

import psycopg
import uvloop

from application.store.postgres.database import connection_settings
from application.store.postgres.pg_connection import CONNECTION_PATIENCE_SECONDS, PgConnection
from tests.benchmarks import ground

TRIPS = 3_000


async def cpu_of(trip: Callable[[], Awaitable[object]]) -> float:
    """Microseconds of this process's CPU for one trip, of many in a row."""
    for _ in range(200):
        await trip()
    before = resource.getrusage(resource.RUSAGE_SELF)
    for _ in range(TRIPS):
        await trip()
    after = resource.getrusage(resource.RUSAGE_SELF)
    return (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / TRIPS * 1e6


async def measure(url: str, repetitions: int) -> None:
    """Prints the median and the spread of both, taken by turns."""
    connection = await psycopg.AsyncConnection.connect(url, **connection_settings("benchmark"))
    line, cursor = PgConnection(url, "benchmark"), connection.cursor(binary=True)

    async def by_cursor() -> object:
        async with asyncio.timeout(CONNECTION_PATIENCE_SECONDS):
            await cursor.execute("select %s::int", ("1",), prepare=True)
        return await cursor.fetchall()

    async def by_line() -> object:
        return await line.fetch("select %s::int", ("1",))

    found: dict[str, list[float]] = {"cursor": [], "line": []}
    for _ in range(repetitions):
        found["cursor"].append(await cpu_of(by_cursor))
        found["line"].append(await cpu_of(by_line))
    for name, values in found.items():
        print(f"{name:8}{statistics.median(values):8.1f} µs  ({min(values):.1f}–{max(values):.1f})")
    await line.close()
    await connection.close()


if __name__ == "__main__":
    with ground.server() as server:
        uvloop.run(measure(server.database("round_trip", schema=False), int(sys.argv[1]) if sys.argv[1:] else 5))
