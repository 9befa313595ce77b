"""How soon a committed event is sealed, and seen in its queue; and what an idle worker costs."""

import asyncio
import time
from collections.abc import Callable, Iterable
from urllib.parse import urlsplit
from uuid import uuid4

import uvloop

from tests.benchmarks import ground
from tests.benchmarks.figures import Figure, Notebook
from tests.benchmarks.over_http import open_tickets

# PostgreSQL notes when each transaction committed; the rows know which transaction wrote them. Nobody has to watch.
DELAYS = """
    select extract(epoch from pg_xact_commit_timestamp(l.xmin) - pg_xact_commit_timestamp(e.xmin)) * 1000,
        extract(epoch from pg_xact_commit_timestamp(s.xmin) - pg_xact_commit_timestamp(e.xmin)) * 1000
    from events e join log l using (ord)
    join queue_stays s on s.ticket_id = e.stream_id and s.entered_position = l.position
    where e.type = 'Ticket.Escalated' and e.stream_id = any(%s)"""
LOADS = {"idle": 5, "100/s": 100, "500/s": 500}
CONNECTIONS = 32
REPETITIONS, SECONDS = 5, 2


def measure(quick: bool, count: Callable[[str], None]) -> list[Figure]:
    """Delays at each load, in turns, and the CPU time of a worker with nothing to do."""
    notebook = Notebook()
    repetitions, seconds = (1, 1) if quick else (REPETITIONS, SECONDS)
    wanted = sum(LOADS.values()) * seconds * repetitions
    with ground.server(track_commit_timestamp="on") as server:
        database = server.database("desk")
        tickets = [str(ticket) for ticket in asyncio.run(open_tickets(database, wanted + 1_000))]
        with ground.desk(database, server.directory / "desk") as served:
            ground.caught_up(database)
            server.tidy()
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(escalate(served.base, served.staff, [tickets.pop() for _ in range(500)], 250))
                for _ in range(repetitions):
                    for load, rate in LOADS.items():
                        count(load)
                        ground.caught_up(database)
                        chosen = [tickets.pop() for _ in range(rate * seconds)]
                        answered = runner.run(escalate(served.base, served.staff, chosen, rate))
                        ground.caught_up(database)
                        note(notebook, database, load, chosen, answered)
            for _ in range(repetitions):
                count("an idle worker")
                pids = {"worker": served.processes["work"].pid, "PostgreSQL": server.pid}
                before = {name: ground.precise_cpu_seconds(pid) for name, pid in pids.items()}
                started = time.perf_counter()
                time.sleep(seconds)
                for name, pid in pids.items():
                    share = (ground.precise_cpu_seconds(pid) - before[name]) / (time.perf_counter() - started) * 100
                    notebook.note("idle", f"{name}, nothing to do", "% of a core", share)
    return notebook.figures()


def steps(quick: bool) -> int:
    """How many measurements there are."""
    return (len(LOADS) + 1) * (1 if quick else REPETITIONS)


def note(notebook: Notebook, database: str, load: str, tickets: list[str], answered: list[float]) -> None:
    """The percentiles of one repetition, in milliseconds."""
    with ground.connect(database, "benchmark") as connection:
        delays = connection.execute(DELAYS, (tickets,)).fetchall()
    if len(delays) != len(tickets):
        raise RuntimeError(f"{len(tickets)} commands were given, and {len(delays)} are in their queues")
    rows = {
        "sent to answered": answered,
        "committed to sealed": [float(sealed) for sealed, _ in delays],
        "committed to seen in the queue": [float(seen) for _, seen in delays],
    }
    for row, values in rows.items():
        for share in (0.5, 0.99):
            notebook.note(f"latency p{share * 100:.0f}", f"{row}, {load}", "ms", quantile(values, share))


def quantile(values: list[float], share: float) -> float:
    """The smallest value that so large a share of all values does not exceed."""
    return sorted(values)[max(0, round(share * len(values)) - 1)]


class Lines:
    """Connections to the API, kept open between requests; a new one is opened when none is free."""

    def __init__(self, base: str) -> None:
        self.address = urlsplit(base)
        self._free: list[tuple[float, asyncio.StreamReader, asyncio.StreamWriter]] = []
        self._turn = asyncio.Semaphore(CONNECTIONS)

    async def send(self, request: bytes) -> None:
        """One request; raises RuntimeError when it is not answered 200."""
        async with self._turn:
            reader, writer = await self._open()
            writer.write(request)
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            body = await reader.readexactly(int(head.partition(b"content-length:")[2].partition(b"\r\n")[0]))
            if b" 200 " not in head[:16]:
                raise RuntimeError(f"not answered well: {head!r} {body!r}")
            self._free.append((time.perf_counter(), reader, writer))

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        while self._free:
            used, reader, writer = self._free.pop()
            if time.perf_counter() - used < 1:  # the server closes those that are idle for two seconds
                return reader, writer
            writer.close()
        return await asyncio.open_connection(self.address.hostname, self.address.port)

    def close(self) -> None:
        """Closes those that are free."""
        for _, _, writer in self._free:
            writer.close()


async def escalate(base: str, key: str, tickets: Iterable[str], rate: int) -> list[float]:
    """Sends one command for each ticket, at fixed times whatever the answers do; milliseconds from then to the answer.

    A command that has to wait for a free connection waits on its own account: its time began when it was due.
    """
    lines, start, mark = Lines(base), time.perf_counter(), uuid4()

    async def send(request: bytes, due: float) -> float:
        await lines.send(request)
        return (time.perf_counter() - due) * 1000

    tasks = []
    for number, ticket in enumerate(tickets):
        due = start + number / rate
        if (early := due - time.perf_counter()) > 0:
            await asyncio.sleep(early)
        tasks.append(asyncio.create_task(send(message(lines.address.netloc, key, ticket, f"{mark}-{number}"), due)))
    took = await asyncio.gather(*tasks)
    lines.close()
    return took


def message(host: str, key: str, ticket: str, mark: str) -> bytes:
    """The request that sends a ticket one level up."""
    body = '{"reason": "It needs parts that tier 1 does not have."}'
    return (
        f"POST /v1/tickets/{ticket}:escalate HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {key}\r\n"
        f'If-Match: "5"\r\nIdempotency-Key: {mark}\r\nContent-Type: application/json\r\n'
        f"Content-Length: {len(body)}\r\n\r\n{body}"
    ).encode()
