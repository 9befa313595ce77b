"""Does a desk get slower as its past gets longer? The same requests with 1,000, 100,000 and 1,000,000 tickets.

    python -m tests.benchmarks.growth --tickets 1000 --tickets 100000 --json growth.json
    python -m tests.benchmarks.growth --tickets 1000 --tickets 1000000 --directory /var/tmp/growth --load
    python -m tests.benchmarks.growth --tickets 1000 --tickets 1000000 --directory /var/tmp/growth --json growth.json

All databases lie on one server, and each has an API and a worker of its own. The rounds are interleaved, so that what
disturbs the machine for a while disturbs all of them. With `--directory`, the databases stay there and are used again;
`--load` only makes them. Needs wrk.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import NamedTuple
from uuid import UUID

from psycopg.errors import UndefinedTable
from psycopg.sql import SQL, Identifier
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from application.store.postgres import embedded_postgres as postgres
from tests.benchmarks import ground
from tests.benchmarks.figures import Figure, Notebook, interleaved, write
from tests.benchmarks.over_http import Said, Target, drive
from tests.benchmarks.population import FIRST, SPAN, populate
from tests.support.postgres_servers import of
from tests.support.running_desk import RunningDesk

SIZES = (1_000, 100_000, 1_000_000)
SEED = 1
AT_WORK = 1_000  # tickets that the commands go to, as many in each database
KINDS = {
    # kind of load.lua: what it is, and at how many connections
    "command": ("a command", 32),
    "create": ("create a ticket", 32),
    "read": ("read a ticket", 8),
    "queue": ("a queue page of 50", 8),
    "counts": ("all queue counts", 8),
}
SECONDS, REPETITIONS = 1, 5
TARGETS = (
    # what, kind, figure, least or most of the ratio between the largest and the smallest
    ("command throughput", "command", "rate", 0.9, None),
    ("queue page p99", "queue", "p99", None, 1.5),
    ("queue counts p50", "counts", "p50", None, 1.1),
)
SHOWN = tuple(kind for _, kind, *_ in TARGETS)  # what `make bench` has the time for; `make bench-growth` takes all


class Desk(NamedTuple):
    """A desk with so many tickets: where it answers, and the tickets that are asked for and worked on."""

    tickets: int
    served: RunningDesk
    at_work: Path
    any_ticket: Path

    def target(self, kind: str) -> Target:
        """What wrk is sent to."""
        ids = self.any_ticket if kind == "read" else self.at_work
        return Target(f"{KINDS[kind][0]}, {self.tickets:,} tickets", kind, self.served.base, {}, self.served.staff, ids)


def measure(quick: bool, count: Callable[[str], None]) -> list[Figure]:
    """The figures for 1,000 and 100,000 tickets; quick for 100 and 1,000."""
    with ground.server() as server:
        return figures(server, (100, 1_000) if quick else SIZES[:2], 1 if quick else REPETITIONS, count, SHOWN)


def steps(quick: bool) -> int:
    """How many measurements there are."""
    return 2 * len(SHOWN) * (1 if quick else REPETITIONS)


def figures(
    server: ground.Server,
    sizes: Sequence[int],
    repetitions: int,
    count: Callable[[str], None],
    kinds: Sequence[str] = tuple(KINDS),
) -> list[Figure]:
    """Rates and latencies of every kind at every size; `count` is told what is measured next."""
    notebook = Notebook()
    with desks(server, sizes) as known:
        for desk in known:
            for kind in kinds:  # pools and plans are there before anything counts
                drive(desk.target(kind), KINDS[kind][1], 1)
        planned = [
            (f"{KINDS[kind][0]} with {desk.tickets:,} tickets", lambda kind=kind, desk=desk: one(notebook, kind, desk))
            for kind in kinds
            for desk in known
        ]
        interleaved(planned, repetitions, count, lambda: settle(known))
    return notebook.figures()


def one(notebook: Notebook, kind: str, desk: Desk) -> None:
    """One run of wrk, noted down; then the worker catches up, so that its work falls on nobody else."""
    what, connections = KINDS[kind]
    said: Said = drive(desk.target(kind), connections, SECONDS)
    caught_up(desk.served.database)
    row = f"{what} at {connections} connections, {desk.tickets:,} tickets"
    notebook.note("growth rate", row, "requests/s", said.requests / said.microseconds * 1e6)
    for name in ("p50", "p95", "p99"):
        notebook.note(f"growth {name}", row, "ms", getattr(said, name) / 1000)


def caught_up(database: str) -> None:
    """Waits until everything is sealed and projected; asks nothing that takes longer where there is more."""
    query = """select (select max(ord) from events) <= hi
        and (select min(position) from projections) = next_position - 1 from seal_state"""
    with ground.connect(database, "growth wait") as connection:
        ground.wait_until(
            lambda: connection.execute(query).fetchone() == (True,), "the worker has caught up", seconds=120
        )


def settle(known: Sequence[Desk]) -> None:
    """Vacuums what the rounds change, since nothing else does while they run."""
    for desk in known:
        with ground.connect(desk.served.database, "growth", 600) as connection:
            connection.execute("vacuum seal_state, projections, queue_counts, queue_stays, ticket_summaries")


@contextmanager
def desks(server: ground.Server, sizes: Sequence[int]) -> Iterator[list[Desk]]:
    """A desk of each size, with API and worker, all of them running."""
    with ExitStack() as stack:
        known = []
        for size in sizes:
            database, directory = loaded(server, size), server.directory / f"desk-{size}"
            directory.mkdir(exist_ok=True)
            served = stack.enter_context(RunningDesk(database, directory))
            served.client()  # whose tickets are created
            known.append(Desk(size, served, at_work(served, directory), some(served, directory)))
            caught_up(database)
        yield known


def loaded(server: ground.Server, tickets: int, console: Console | None = None) -> str:
    """The URL of the database with so many tickets; it is made where it is missing, or was not finished."""
    name = f"growth_{tickets}"
    url = of(server.url, name)
    with ground.connect(server.url, "growth") as connection:
        if connection.execute("select from pg_database where datname = %s", (name,)).rowcount and finished(
            url, tickets
        ):
            return url
        connection.execute(SQL("drop database if exists {} with (force)").format(Identifier(name)))
        connection.execute(SQL("create database {}").format(Identifier(name)))
    with Progress(console=console, disable=console is None) as bar:
        task = bar.add_task(f"{tickets:,} tickets")
        populate(url, tickets, SEED, lambda done, total: bar.update(task, completed=done, total=total))
    return url


def finished(url: str, tickets: int) -> bool:
    """Whether the population is whole: as many tickets, and every projection at the end of the log."""
    query = """select (select last_value >= %s from ticket_numbers)
        and (select min(position) from projections) = (select max(position) from log)"""
    with ground.connect(url, "growth") as connection:
        try:
            return connection.execute(query, (tickets,)).fetchone() == (True,)
        except UndefinedTable:
            return False


def at_work(served: RunningDesk, directory: Path) -> Path:
    """A file of the newest tickets in support, which are those that a desk works on; made new where there are too few.

    As many in each database, and lying as close together: what differs is only what lies before them.
    """
    query = "select ticket_id from ticket_summaries where state = 'in_support' order by ticket_id desc limit %s"
    with ground.connect(served.database, "growth", 60) as connection:
        newest = [str(row[0]) for row in connection.execute(query, (AT_WORK,))]
    missing = AT_WORK - sum(created_after(newest, FIRST + SPAN))
    return written(directory / "at-work", [*[served.ticket() for _ in range(missing)], *newest][:AT_WORK])


def created_after(ids: Sequence[str], moment: datetime) -> list[bool]:
    """For each ticket, whether it was created after a moment: its id says when."""
    return [UUID(id_).int >> 80 > moment.timestamp() * 1000 for id_ in ids]


def some(served: RunningDesk, directory: Path) -> Path:
    """A file of tickets, old and new, open and closed."""
    query = "select ticket_id from ticket_summaries order by md5(ticket_id::text) limit %s"
    with ground.connect(served.database, "growth", 60) as connection:
        return written(directory / "any", [str(row[0]) for row in connection.execute(query, (AT_WORK,))])


def written(path: Path, ids: Sequence[str]) -> Path:
    """The file with one id a line."""
    path.write_text("\n".join(ids) + "\n")
    return path


def compared(found: Sequence[Figure], sizes: Sequence[int]) -> list[tuple[str, float, str, bool]]:
    """For each target: what, the ratio of the largest to the smallest, what is asked for, and whether it is met."""
    medians = {(figure.group, figure.name): median(figure.values) for figure in found}
    rows = []
    for what, kind, figure, least, most in TARGETS:
        name, connections = KINDS[kind]
        if not any(known.name.startswith(name) for known in found):
            continue
        small, large = (
            medians[f"growth {figure}", f"{name} at {connections} connections, {size:,} tickets"]
            for size in (min(sizes), max(sizes))
        )
        ratio = large / small
        asked = f"≥ {least}" if least else f"≤ {most}"
        rows.append((what, ratio, asked, ratio >= least if least else ratio <= (most or 0)))
    return rows


@contextmanager
def server_in(directory: Path | None) -> Iterator[ground.Server]:
    """The server of a directory that stays, or one that is gone at the end."""
    if directory is None:
        with ground.server() as server:
            yield server
        return
    directory.mkdir(parents=True, exist_ok=True)
    directory.chmod(0o755)
    postgres.POSTGRES_SETTINGS.update({"max_connections": "200", "autovacuum": "off"})  # see `settle`
    server = ground.Server(directory)
    server.embedded.start()
    try:
        yield server
    finally:
        server.embedded.stop()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tickets", type=int, action="append", help=f"a size; may be repeated (default: {SIZES})")
    parser.add_argument("--directory", type=Path, help="where the databases lie, and stay (default: gone at the end)")
    parser.add_argument("--load", action="store_true", help="only make the databases")
    parser.add_argument("--kind", action="append", choices=list(KINDS), help="what; may be repeated (default: all)")
    parser.add_argument("--repetitions", type=int, default=REPETITIONS, help="rounds (default: 5)")
    parser.add_argument("--json", type=Path, help="where the figures go")
    options = parser.parse_args()
    console, sizes, kinds = Console(stderr=True), tuple(options.tickets or SIZES), options.kind or list(KINDS)
    with server_in(options.directory) as server:
        for size in sizes:
            loaded(server, size, console)
        if options.load:
            return
        with Progress(console=console) as bar:
            task = bar.add_task("measuring", total=len(sizes) * len(kinds) * options.repetitions)

            def count(what: str) -> None:
                bar.update(task, advance=1, description=what)

            found = figures(server, sizes, options.repetitions, count, kinds)
    if options.json:
        write(options.json, found)
    show(found, sizes)


def show(found: Sequence[Figure], sizes: Sequence[int]) -> None:
    """The figures as a table: median, least and most; then what was asked for."""
    table = Table("what", "figure", "median", "least", "most", "unit", box=None)
    for figure in found:
        values = [f"{value:,.2f}" for value in (median(figure.values), min(figure.values), max(figure.values))]
        table.add_row(figure.name, figure.group.removeprefix("growth "), *values, figure.unit)
    Console(width=140).print(table)
    for what, ratio, asked, met in compared(found, sizes):
        print(f"{what}: {ratio:.2f} × with {max(sizes):,} tickets, asked for {asked}: {'met' if met else 'not met'}")


if __name__ == "__main__":
    sys.exit(main())
