"""What do streams of events cost? Commands beside 50 idle streams and beside readers that catch up; a million events.

    python -m tests.benchmarks.streams idle
    python -m tests.benchmarks.streams memory --events 1000000

`idle` runs the same commands alone, beside 50 streams of server-sent events that wait for what does not happen, and
beside two readers that read the log from its beginning over and over. They take turns, so that what disturbs the
machine disturbs all of them. `memory` reads a log of so many events in one stream, and looks at the memory of the
process that serves it. Needs wrk and curl.
"""

import argparse
import asyncio
import http.client
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median

from application.store.postgres.database import connect
from domain.values import Role
from tests.benchmarks import ground
from tests.benchmarks.figures import Figure, Notebook, interleaved
from tests.benchmarks.over_http import Target, drive, open_tickets
from tests.support.running_desk import RunningDesk

STREAMS, READERS, TICKETS = 50, 2, 2_000
ALONE, IDLE, CATCHING_UP = "alone", f"beside {STREAMS} idle streams", f"beside {READERS} readers that catch up"
CONNECTIONS, SECONDS, REPETITIONS = 32, 2, 7
LEAST_SHARE, MOST_GROWTH_MIB = 0.9, 8.0
FILTERS = (  # what idle streams wait for: nothing of it happens
    "type=Ticket.ClientDeclined",
    "ticket_id=00000000-0000-7000-8000-00000000000{n}",
    "actor=nobody-{n}",
    "client_user_id=nobody-{n}",
    "level=noc",
)
FILL = """
    with given as materialized (
        select nextval('events_ord') as ord, gen_random_uuid() as stream_id from generate_series(1, %s))
    insert into events (ord, stream_id, version, at, type, body, private, meta, leaf)
    select ord, stream_id, 1, now(), 'Ticket.NoteAdded',
        jsonb_build_object('text', repeat('The printer was looked at. ', 10), 'visibility', 'internal'), null,
        '{"actor": {"id": "bulk", "name": "Bulk", "role": "agent"}, "level": "tier1"}', '' from given"""
LOG = "insert into log select row_number() over (order by ord), ord from events order by ord"


def commands(repetitions: int, count: Callable[[str], None]) -> list[Figure]:
    """The rate of commands, alone and beside streams."""
    notebook = Notebook()
    with ground.server() as server:
        database = server.database("desk")
        ids = server.directory / "tickets"
        ids.write_text("\n".join(map(str, asyncio.run(open_tickets(database, TICKETS)))) + "\n")
        with ground.desk(database, server.directory / "desk") as served:
            ground.caught_up(database)
            target = Target("a command", "command", served.base, {}, served.staff, ids)
            drive(target, CONNECTIONS, 2)
            besides = {ALONE: nothing, IDLE: idle, CATCHING_UP: catching_up}
            planned = [
                (name, lambda name=name, beside=beside: one(notebook, name, beside, served, target))
                for name, beside in besides.items()
            ]
            interleaved(planned, repetitions, count, server.tidy)
    return notebook.figures()


def one(
    notebook: Notebook, name: str, beside: Callable[[RunningDesk], object], served: RunningDesk, target: Target
) -> None:
    """One run of wrk with something beside it."""
    with ExitStack() as stack:
        stack.enter_context(beside(served))  # type: ignore[arg-type]
        said = drive(target, CONNECTIONS, SECONDS)
    ground.caught_up(served.database)
    notebook.note("streams rate", name, "commands/s", said.requests / said.microseconds * 1e6)
    notebook.note("streams p50", name, "ms", said.p50 / 1000)
    notebook.note("streams p99", name, "ms", said.p99 / 1000)


@contextmanager
def nothing(served: RunningDesk) -> Iterator[None]:
    """Nobody else is there."""
    yield


@contextmanager
def idle(served: RunningDesk) -> Iterator[None]:
    """Streams that stand at the end of the log and wait for what does not happen."""
    end = served.get("/v1/events?limit=1").headers["Deskledger-Position"]
    headers = {"Accept": "text/event-stream", "Authorization": f"Bearer {served.key(Role.AUDITOR)}"}
    connections = [http.client.HTTPConnection("127.0.0.1", served.port, timeout=30) for _ in range(STREAMS)]
    for number, connection in enumerate(connections):
        query = FILTERS[number % len(FILTERS)].format(n=number % 10)
        connection.request("GET", f"/v1/events?after={end}&{query}", headers=headers)
        answer = connection.getresponse()
        if answer.status != 200 or b"retry:" not in answer.readline():
            raise RuntimeError(f"a stream was refused: {answer.status}")
    yield
    for connection in connections:
        connection.close()
    time.sleep(2)  # until the server has noticed


@contextmanager
def catching_up(served: RunningDesk) -> Iterator[None]:
    """Readers that read the whole log again and again, as fast as they get it."""
    again = 'while true; do curl -sN -H "$0" -H "Accept: application/x-ndjson" "$1" > /dev/null; done'
    command = ["bash", "-c", again, f"Authorization: Bearer {served.key(Role.AUDITOR)}", f"{served.base}/v1/events"]
    readers = [subprocess.Popen(command, start_new_session=True) for _ in range(READERS)]
    yield
    for reader in readers:
        subprocess.run(["kill", "--", f"-{reader.pid}"], check=False)
        reader.wait()
    time.sleep(2)


def memory(events: int) -> None:
    """Reads a long log in one stream, and tells how large the process is at each tenth of it."""
    with ground.server() as server:
        database = server.database("desk")
        with connect(database, "benchmark", 600) as connection:
            connection.execute("set deskledger.importing to on")  # its last event is seconds older than its row
            connection.execute(FILL, (events,))
            connection.execute(LOG)
            connection.execute("vacuum analyze events, log")
        directory = server.directory / "desk"
        directory.mkdir()
        served = RunningDesk(database, directory, workers=1, parts=("api",))
        with served:
            pid = served.processes["api"].pid
            (process,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            read(served, int(process), events)


def read(served: RunningDesk, process: int, events: int) -> None:
    """One stream from the beginning to the end."""
    headers = {"Accept": "application/x-ndjson", "Authorization": f"Bearer {served.key(Role.AUDITOR)}"}
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=60)
    connection.request("GET", "/v1/events", headers=headers)
    answer, count, size, begun, told, most = connection.getresponse(), 0, 0, time.monotonic(), 0, 0.0
    before = resident(process)
    print(f"before: {before:.1f} MiB")
    while part := answer.read1(1 << 20):
        count, size = count + part.count(b"\n"), size + len(part)
        most = max(most, resident(process))
        if count * 10 // events > told:
            told = count * 10 // events
            print(f"{count:>10,} events, {size / 2**20:8.1f} MiB sent: {resident(process):.1f} MiB, at most {most:.1f}")
    seconds = time.monotonic() - begun
    print(f"{count - 1:,} events in {seconds:.1f} s: {count / seconds:,.0f}/s, {size / seconds / 2**20:.1f} MiB/s")
    if count != events + 1:
        raise RuntimeError(f"{events + 1} lines were expected, {count} came")
    if most > before + MOST_GROWTH_MIB:
        raise RuntimeError(f"the memory of the process grew by {most - before:.1f} MiB")


def resident(pid: int) -> float:
    """The memory of a process, in MiB."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096 / 2**20


def main() -> int:
    """The command line. Returns the exit status: 1 where streams cost more than they may."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("idle", "memory"))
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--repetitions", type=int, default=REPETITIONS)
    options = parser.parse_args()
    if options.what == "memory":
        memory(options.events)
        return 0
    found = commands(options.repetitions, lambda what: print(what, file=sys.stderr))
    for figure in found:
        values = " ".join(f"{value:,.2f}" for value in sorted(figure.values))
        print(f"{figure.group} {figure.name}: median {median(figure.values):,.2f} {figure.unit} ({values})")
    rates = {figure.name: median(figure.values) for figure in found if figure.group == "streams rate"}
    for name in (IDLE, CATCHING_UP):
        print(f"commands {name}: {rates[name] / rates[ALONE]:.3f} of those alone")
    return int(rates[IDLE] < LEAST_SHARE * rates[ALONE])


if __name__ == "__main__":
    sys.exit(main())
