"""How fast are both large projections built anew, and what does a command feel of it?

    python -m tests.benchmarks.rebuild [--tickets 30000] [--quick]

A rebuild is `deskledger rebuild ticket_summaries queue_stays`: the whole command, with the start of its processes, the
indexes, the comparison and the swap. Its rate is that on an idle desk. Then commands are given at 100 a second, first
with nothing beside them, and then beside another rebuild, in turns.
"""

import argparse
import asyncio
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import uvloop

from tests.benchmarks import ground
from tests.benchmarks.figures import Figure, Notebook
from tests.benchmarks.latency import escalate, quantile
from tests.benchmarks.over_http import open_tickets
from tests.benchmarks.population import populate

COMMAND = [sys.executable, "-m", "api.cli", "rebuild", "ticket_summaries", "queue_stays"]
TICKETS, REPETITIONS, SECONDS, RATE = 20_000, 5, 6, 100  # alone as long as beside a rebuild: a p99 of as many
MOST_SECONDS = 20  # of commands in a repetition


def measure(quick: bool, count: Callable[[str], None], tickets: int = TICKETS) -> list[Figure]:
    """Events a second, and the delay of commands alone and beside a rebuild."""
    notebook, repetitions = Notebook(), 1 if quick else REPETITIONS
    with ground.server() as server:
        database = server.database("desk", schema=False)
        populate(database, 1_000 if quick else tickets)
        opened = asyncio.run(open_tickets(database, (2 + MOST_SECONDS * repetitions) * RATE))
        chosen = list(map(str, opened))
        with (
            ground.desk(database, server.directory / "desk") as served,
            asyncio.Runner(loop_factory=uvloop.new_event_loop) as loop,
        ):
            ground.caught_up(database)
            give(loop, served, chosen, 2 * RATE)  # warm
            for _ in range(repetitions):
                server.tidy()
                with ground.connect(database, "benchmark", statement_seconds=60) as connection:
                    connection.execute("checkpoint")  # a server at work has files of the WAL to use again
                count("a rebuild alone")
                events, started = log_size(database), time.perf_counter()
                subprocess.run(COMMAND, env=environment(database), check=True, capture_output=True)
                rate = events / (time.perf_counter() - started)
                notebook.note("rebuild", "both projections, nothing beside", "events/s", rate)
                count("commands alone")
                note(notebook, "alone", give(loop, served, chosen, SECONDS * RATE))
                count("commands beside a rebuild")
                events, begun = log_size(database), time.perf_counter()
                delays = beside(loop, served, chosen, database)
                note(notebook, "beside a rebuild", delays)
                slower = events / (time.perf_counter() - begun)
                notebook.note(
                    "rebuild",
                    f"both projections, {RATE} commands a second beside",
                    "events/s",
                    slower,
                )
    return notebook.figures()


def log_size(database: str) -> int:
    """How many events a rebuild has to read."""
    with ground.connect(database, "benchmark") as connection:
        row = connection.execute("select max(position) from log").fetchone()
    return int(row[0]) if row else 0


def steps(quick: bool) -> int:
    """How many measurements there are."""
    return 3 * (1 if quick else REPETITIONS)


def beside(loop: asyncio.Runner, served: ground.RunningDesk, tickets: list[str], database: str) -> list[float]:
    """The delays of commands for as long as a rebuild runs, without the half second in which its program starts."""

    def until_done() -> Iterator[str]:
        while rebuild.poll() is None:
            yield tickets.pop()

    with subprocess.Popen(COMMAND, env=environment(database), stdout=subprocess.DEVNULL) as rebuild:
        begun = "select from pg_namespace where nspname = 'building'"
        with ground.connect(database, "benchmark") as connection:
            ground.wait_until(lambda: connection.execute(begun).fetchone() is not None, "a rebuild")
        delays = loop.run(escalate(served.base, served.staff, until_done(), RATE))
    if rebuild.returncode:
        raise RuntimeError("the rebuild failed")
    return delays


def give(loop: asyncio.Runner, served: ground.RunningDesk, tickets: list[str], number: int) -> list[float]:
    """The delays in milliseconds of so many commands."""
    taken = [tickets.pop() for _ in range(number)]
    return loop.run(escalate(served.base, served.staff, taken, RATE))


def note(notebook: Notebook, load: str, delays: list[float]) -> None:
    """Median and p99 of one repetition."""
    for share in (0.5, 0.99):
        notebook.note("rebuild", f"command p{share * 100:.0f}, {load}", "ms", quantile(delays, share))


def environment(database: str) -> dict[str, str]:
    """What the command gets."""
    return {"DATABASE_URL": database, "PATH": "/usr/bin:/bin"}


def main() -> None:
    """Prints the figures as a table."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--tickets", type=int, default=TICKETS)
    arguments.add_argument("--quick", action="store_true", help="1,000 tickets, once: shows that it works")
    options = arguments.parse_args()
    for figure in measure(options.quick, lambda name: print(f"  {name}", file=sys.stderr), options.tickets):
        low, middle, high = min(figure.values), statistics.median(figure.values), max(figure.values)
        print(f"{figure.name:45} median {middle:10,.2f} {figure.unit:9} ({low:,.2f} to {high:,.2f})")


if __name__ == "__main__":
    main()
