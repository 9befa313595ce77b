"""Requests over HTTP: the desk beside bare falcon and gunicorn endpoints, driven by wrk."""

import asyncio
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from uuid import UUID

import msgspec
import psycopg
from psycopg.types.json import Jsonb

from application.batching_desk import BatchingDesk
from application.clock import utc_now
from application.commands.deciding import CommandRequest, new_stream_id
from application.commands.procedure_commands import OpenTicket
from domain.values import Channel
from tests.benchmarks import ground
from tests.benchmarks.figures import Figure, Notebook, Step, interleaved
from tests.support.write_side import CONTACT, ISSUE, NOW, STAFF

CONNECTIONS = (1, 8, 32, 128)
REPETITIONS, LONELY_REPETITIONS = 5, 3  # of one connection, of which no ratio has to be shown
GTHREAD = "gthread, threads and a pool"
ASGI = "asgi, tasks and a pool"
TICKETS = 24_000  # so many that commands find tickets of some six events at the end, too
THREADS = 16  # of each of the two gthread workers; 32 are slower
POOL = {GTHREAD: THREADS, ASGI: 16}
DOCUMENT = {  # about as large as the answer to a ticket read
    "text": "My printer does not print. " * 30,
    "state": "in_support",
    "allowed_commands": ["add_note", "assign", "await_client", "cancel", "change_priority", "escalate", "link"],
}


class Said(msgspec.Struct):
    """What wrk said at its end; the times are in microseconds."""

    requests: int
    microseconds: int
    p50: float
    p95: float
    p99: float
    failed: int
    refused: int


class Target(msgspec.Struct, frozen=True):
    """Something that answers requests of one kind."""

    name: str
    kind: str
    address: str
    pids: dict[str, int]
    key: str = "-"
    ids: Path = Path("/dev/null")
    settle: Callable[[], None] = lambda: None


def measure(quick: bool, count: Callable[[str], None]) -> list[Figure]:
    """Rates, latencies and CPU times of every target at every number of connections."""
    notebook = Notebook()
    connections, seconds, repetitions = ((8,), 1, 1) if quick else (CONNECTIONS, 1, REPETITIONS)
    with ground.server() as server, targets(server, 500 if quick else TICKETS) as known:
        for target in known:  # prepared statements, pools and caches are there before anything counts
            drive(target, 32, 1)

        def planned(loads: Sequence[int]) -> list[Step]:
            return [
                (f"{target.name} at {load}", lambda target=target, load=load: one(notebook, target, load, seconds))
                for load in loads
                for target in known
            ]

        lonely = min(repetitions, LONELY_REPETITIONS)
        interleaved(planned(connections), lonely, count, server.tidy)
        interleaved(planned([load for load in connections if load > 1]), repetitions - lonely, count, server.tidy)
    return notebook.figures()


def steps(quick: bool) -> int:
    """How many measurements there are."""
    return 8 if quick else 8 * ((len(CONNECTIONS) - 1) * REPETITIONS + min(REPETITIONS, LONELY_REPETITIONS))


def one(notebook: Notebook, target: Target, connections: int, seconds: int) -> None:
    """One run of wrk against one target, noted down."""
    spent = ground.Spent(**target.pids)
    said = drive(target, connections, seconds)
    target.settle()  # what the worker does later belongs to these requests too, and must not fall on the next target
    load = "1 connection" if connections == 1 else f"{connections} connections"
    row = f"{target.name}, {load}"
    notebook.note("http rate", row, "requests/s", said.requests / said.microseconds * 1e6)
    for name in ("p50", "p95", "p99"):
        notebook.note(f"http {name}", row, "ms", getattr(said, name) / 1000)
    for process, cpu in spent.so_far().items():
        notebook.note(f"http cpu {process}", row, "ms/request", cpu * 1000 / said.requests)


def drive(target: Target, connections: int, seconds: int) -> Said:
    """Runs wrk; every answer must be a good one."""
    wrk = shutil.which("wrk") or "wrk"
    arguments = [target.kind, target.key, str(target.ids), f"{random.getrandbits(60):x}-", str(random.randrange(10**6))]
    command = [wrk, "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s", "-s", str(ground.HERE / "load.lua")]
    done = subprocess.run([*command, target.address, "--", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"wrk failed: {done.stdout}{done.stderr}")
    said = msgspec.json.decode(done.stdout.rstrip().rpartition("\n")[2], type=Said)
    if said.failed or said.refused or not said.requests:
        raise RuntimeError(f"{target.name}: not every request was answered well: {said}")
    return said


@contextmanager
def targets(server: ground.Server, tickets: int) -> Iterator[list[Target]]:
    """The bare endpoints and the desk, all of them running, each idle while another one is measured."""
    with ExitStack() as stack:
        documents = server.database("documents", schema=False)
        ids = server.directory / "documents"
        ids.write_text("\n".join(map(str, fill(documents, tickets))) + "\n")
        known = []
        for name, module, options in (
            (GTHREAD, "threads", ["-k", "gthread", "--threads", str(THREADS)]),
            (ASGI, "tasks", ["-k", "asgi"]),
        ):
            address = stack.enter_context(bare(module, options, documents, POOL[name], server.directory))
            pids = {"server": address[1], "PostgreSQL": server.pid}
            known += [
                Target(f"bare INSERT: {name}", "bare_insert", address[0], pids),
                Target(f"bare SELECT: {name}", "bare_select", address[0], pids, ids=ids),
            ]
        database = server.database("desk")
        opened = server.directory / "tickets"
        opened.write_text("\n".join(map(str, asyncio.run(open_tickets(database, tickets)))) + "\n")
        served = stack.enter_context(ground.desk(database, server.directory / "desk"))
        ground.caught_up(database)
        pids = {name: process.pid for name, process in served.processes.items()}
        pids = {"server": pids["api"], "worker": pids["work"], "PostgreSQL": server.pid}
        for name, kind in (
            ("a command", "command"),
            ("create a ticket", "create"),
            ("read a ticket", "read"),
            ("a queue page of 50", "queue"),
        ):
            known.append(
                Target(name, kind, served.base, pids, served.staff, opened, partial(ground.caught_up, database))
            )
        yield known


@contextmanager
def bare(module: str, options: list[str], database: str, pool: int, directory: Path) -> Iterator[tuple[str, int]]:
    """A bare application under gunicorn with two workers: its address and its first process."""
    port = ground.free_port()
    command = [sys.executable, "-m", "gunicorn", "--chdir", str(ground.HERE / "bare"), "-w", "2", *options]
    command += ["-b", f"127.0.0.1:{port}", "--no-control-socket", "--http-parser", "python", f"{module}:create_app()"]
    environment = {"BARE_DATABASE": database, "BARE_POOL": str(pool)}
    with ground.program(command, directory / f"{module}.log", **environment) as process:
        ground.wait_until(lambda: ground.answers(f"http://127.0.0.1:{port}/ready"), f"{module} answers")
        yield f"http://127.0.0.1:{port}", process.pid


def fill(database: str, count: int) -> list[UUID]:
    """Documents to select; their ids."""
    ids = [new_stream_id(utc_now()) for _ in range(count)]
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("create table documents (id uuid primary key, body jsonb not null)")
        with connection.cursor() as cursor:
            cursor.executemany("insert into documents values (%s, %s)", [(key, Jsonb(DOCUMENT)) for key in ids])
        connection.execute("vacuum analyze documents")
    return ids


async def open_tickets(database: str, count: int) -> list[UUID]:
    """Tickets at tier 1, each with its five events; their ids."""
    desk = BatchingDesk(database)
    await desk.register_client("client-1", CONTACT, STAFF, NOW)
    opening = OpenTicket("client-1", Channel.EMAIL, "My printer does not print.", ISSUE)
    ids: list[UUID] = []
    for _ in range(0, count, 200):
        now = utc_now()
        wishes = [CommandRequest(new_stream_id(now), opening, STAFF, now) for _ in range(min(200, count))]
        ids += [outcome.ticket.ticket_id for outcome in await asyncio.gather(*map(desk.execute, wishes))]
    await desk.close()
    return ids
