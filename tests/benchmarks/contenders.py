"""Who is compared in the group append: each makes, in a process of its own or beside, what appends for a while."""

import asyncio
import re
import subprocess
import sysconfig
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

import uvloop
from eventsourcing.persistence import StoredEvent
from eventsourcing.postgres import PostgresApplicationRecorder, PostgresDatastore
from psycopg_pool import ConnectionPool

from application.batching_desk import BatchingDesk
from application.clock import utc_now
from application.store.event_store import to_row
from application.store.idempotency_records import IdempotencyRecord
from application.store.postgres.database import connection_settings
from application.store.recorder import EventRecorder
from domain.events import NoteAdded, Recorded
from domain.values import Actor, Role, Visibility
from tests.benchmarks import ground

WRITERS = (1, 8, 32)
MANY = 128  # for what gathers the appends of many: the combining shell, UmaDB, and pgbench beside them
NOTE = NoteAdded("The printer was looked at; the toner is low and a new one is on its way.", Visibility.INTERNAL)
ACTOR = Actor("agent-tier1", "Agent at tier 1", Role.AGENT)
ANSWER = b"{}".ljust(300)
PLAIN_TABLE = """
    create sequence plain_ord cache 1;
    create table plain (like events including all)"""
PLAIN_INSERT = """insert into plain (ord, stream_id, version, at, type, body, private, meta, leaf)
values (nextval('plain_ord'), gen_random_uuid(), 1, now(), :type, :body::jsonb, null, :meta::jsonb,
    decode(:leaf, 'hex'));
"""

Run = Callable[[int, float], float]  # writers and seconds to appends a second


def in_threads(writers: int, seconds: float, append: Callable[[], object]) -> float:
    """Appends a second of so many threads."""
    counts, started = [0] * writers, time.perf_counter()
    deadline = started + seconds

    def write(number: int) -> None:
        while time.perf_counter() < deadline:
            append()
            counts[number] += 1

    with ThreadPoolExecutor(writers) as threads:
        list(threads.map(write, range(writers)))
    return sum(counts) / (time.perf_counter() - started)


def recorded() -> Recorded:
    """An event of a stream of its own."""
    return Recorded(uuid4(), 1, utc_now(), ACTOR, NOTE)


def ours(url: str) -> Run:
    """The synchronous recorder, in threads that share a pool."""
    connections = ConnectionPool(
        url, kwargs=connection_settings("benchmark", look_ups=True), min_size=1, max_size=max(WRITERS), open=True
    )
    recorder = EventRecorder(connections)
    return lambda writers, seconds: in_threads(writers, seconds, lambda: recorder.insert_events([to_row(recorded())]))


def library_recorder(url: str, functions: bool) -> PostgresApplicationRecorder:
    """The library's recorder, with as many connections as there are writers."""
    parts = urlsplit(url)
    host = parse_qs(parts.query)["host"][0]
    store = PostgresDatastore(
        parts.path[1:],
        host,
        5432,
        parts.username or "",
        "",
        max_overflow=max(WRITERS) - 1,
        enable_db_functions=functions,
    )
    return PostgresApplicationRecorder(store)


def library(url: str, functions: bool = False) -> Run:
    """The library's recorder, in threads that share its pool."""
    recorder = library_recorder(url, functions)

    def append() -> None:
        row = to_row(recorded())
        state = row.state + row.meta + row.leaf
        recorder.insert_events([StoredEvent(row.originator_id, row.originator_version, row.topic, state)])

    return lambda writers, seconds: in_threads(writers, seconds, append)


def library_functions(url: str) -> Run:
    """The same with POSTGRES_ENABLE_DB_FUNCTIONS=y."""
    return library(url, functions=True)


def combining(url: str) -> Run:
    """The append of the API's shell, with so many requests under way in one event loop."""
    runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
    desk: list[BatchingDesk] = []

    async def run(writers: int, seconds: float) -> float:
        if not desk:
            desk.append(BatchingDesk(url))
        counts, started = [0] * writers, time.perf_counter()

        async def write(number: int) -> None:
            while time.perf_counter() < started + seconds:
                event = recorded()
                kept = IdempotencyRecord(ACTOR.id, str(event.originator_id), sha256(b"").digest(), ANSWER)
                if not await desk[0].append_events((event,), kept):
                    raise RuntimeError("an append was refused")
                counts[number] += 1

        await asyncio.gather(*map(write, range(writers)))
        return sum(counts) / (time.perf_counter() - started)

    return lambda writers, seconds: runner.run(run(writers, seconds))


class Pgbench:
    """One INSERT of the same columns for each transaction, prepared."""

    def __init__(self, server: ground.Server, program: str) -> None:
        self._program, self._url = program, server.database("pgbench")
        self._script = server.directory / "insert.sql"
        self._script.write_text(" ".join(PLAIN_INSERT.split()) + "\n")
        with ground.connect(self._url, "benchmark") as connection:
            connection.execute(PLAIN_TABLE)

    def __call__(self, writers: int, seconds: float) -> float:
        row = to_row(recorded())
        values = {"type": row.topic, "body": row.state.decode(), "meta": row.meta.decode(), "leaf": row.leaf.hex()}
        command = [self._program, "-n", "-M", "prepared", "-c", str(writers), "-j", str(min(writers, 2))]
        command += ["-T", str(max(1, round(seconds))), "-f", str(self._script)]
        command += [word for name, value in values.items() for word in ("-D", f"{name}={value}")]
        done = subprocess.run([*command, self._url], capture_output=True, text=True, check=False)
        found = re.search(r"tps = ([\d.]+) \(without", done.stdout)
        if done.returncode or not found:
            raise RuntimeError(f"pgbench failed: {done.stdout}{done.stderr}")
        return float(found[1])


@contextmanager
def umadb_server(directory: Path) -> Iterator[str]:
    """UmaDB's own server, with the settings that it has by itself; its file lies beside PostgreSQL's. Its address."""
    address = f"127.0.0.1:{ground.free_port()}"
    command = [Path(sysconfig.get_path("scripts"), "umadb"), "--listen", address, "--db-path", directory / "uma.db"]
    log = directory / "umadb.log"
    with ground.program(command, log):
        ground.wait_until(lambda: "is listening" in log.read_text(), "UmaDB listens")
        yield f"http://{address}"


def umadb(url: str) -> Run:
    """Its client, in threads that share it: one for each thread was slower.

    Every event has a tag of its own, and is refused if any event has that tag already, as a stream's first event is.
    """
    from umadb import AppendCondition, Client, Event, Query, QueryItem  # it takes over what SIGINT does

    client = Client(url)

    def append() -> None:
        row = to_row(recorded())
        tag = str(row.originator_id)
        condition = AppendCondition(Query([QueryItem(tags=[tag])]))
        client.append([Event(row.topic, row.state + row.meta + row.leaf, [tag])], condition)

    return lambda writers, seconds: in_threads(writers, seconds, append)
