"""What manners cost: commands over HTTP with an idempotency key, a checked API key, an access line and metrics, beside
commands with none of the four, and beside commands that lack one of them.

    python -m tests.benchmarks.manners [--turns 9] [--each]

Every desk is a server of its own on a database of its own in one PostgreSQL, and idle while another one is measured;
they take turns, in changing order. In each turn they get tickets that are as young: a ticket with more events takes
longer to load. The desk without manners is the product with pieces taken out (bare/unmannered.py): no request has a
name or a trace, no line, no count, the caller is a constant, and no key comes with the request.
"""

import argparse
import asyncio
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from statistics import median, quantiles

from tests.benchmarks import ground, over_http
from tests.benchmarks.figures import Notebook, interleaved
from tests.benchmarks.over_http import Target

CONNECTIONS, SECONDS, TURNS = 32, 2, 9
AGE = 4_000  # tickets in each turn
MOST_SHARE = 0.15
ALL, NONE = "with all four", "with none"
WAYS: dict[str, tuple[str, ...]] = {
    ALL: (),
    NONE: ("key", "auth", "log", "metrics"),
    "without idempotency keys": ("key",),
    "without authentication": ("auth",),
    "without log and names": ("log",),
    "without metrics": ("metrics",),
}


class Lacking(ground.RunningDesk):
    """API and worker, of which the API lacks something."""

    lacks: tuple[str, ...] = ()

    def start(self, part: str) -> None:
        """As a desk's, but that the API is started by a program that takes the pieces out."""
        if part != "api" or not set(self.lacks) - {"key"}:
            super().start(part)
            return
        program = str(ground.HERE / "bare" / "unmannered.py")
        environment = {**self.environment, "LACKS": ",".join(self.lacks), "PYTHONPATH": str(ground.ROOT)}
        with (self.directory / "api.log").open("ab") as log:
            self.processes[part] = subprocess.Popen(
                [sys.executable, program, part], cwd=ground.ROOT, env=environment, stdout=log, stderr=log
            )


def main() -> int:
    """Measures and prints; 1 when the four take more than they may."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=TURNS)
    parser.add_argument("--each", action="store_true", help="each of the four by itself, too")
    options = parser.parse_args()
    names = list(WAYS) if options.each else [ALL, NONE]
    turns = {name: Notebook() for name in names}
    with ExitStack() as stack:
        server = stack.enter_context(ground.server())
        desks = {name: stack.enter_context(desk(server, name, options.turns)) for name in names}
        for one in desks.values():
            over_http.drive(one[0], CONNECTIONS, SECONDS)
        planned = [(name, partial(measure, turns[name], desks[name])) for name in names]
        interleaved(planned, options.turns, tell, server.tidy)
    rates = {name: turns[name].figures()[0].values for name in names}
    for name in names:
        print(line(name, rates[name], rates[NONE], [figure.median for figure in turns[name].figures()[1:]]))
    share = 1 - median(rates[ALL]) / median(rates[NONE])
    print(f"the four take {share:.1%} of what goes through without them; at most {MOST_SHARE:.0%} is allowed")
    return int(share > MOST_SHARE)


def tell(name: str) -> None:
    """Says what is measured next."""
    print(f"… {name}", file=sys.stderr, flush=True)


def desk(server: ground.Server, name: str, turns: int) -> "Running":
    """A desk that lacks what `WAYS` says, with fresh tickets for every turn."""
    lacks = WAYS[name]
    database = server.database("desk_" + ("_".join(lacks) or "whole"))
    directory = server.directory / database.rpartition("/")[2].partition("?")[0]
    directory.mkdir()
    served = Lacking(database, directory)
    served.lacks = lacks
    return Running(served, lacks, turns, server.pid)


class Running:
    """A desk with its tickets: one target for each turn, and one more to warm up on."""

    def __init__(self, served: Lacking, lacks: tuple[str, ...], turns: int, postgres: int) -> None:
        self._served, self._lacks, self._turns, self._postgres = served, lacks, turns, postgres

    def __enter__(self) -> list[Target]:
        served = self._served
        ids = asyncio.run(over_http.open_tickets(served.database, AGE * (self._turns + 1)))
        served.__enter__()
        ground.caught_up(served.database)
        key = "-" if "auth" in self._lacks else served.staff
        kind = "command_once" if "key" in self._lacks else "command"
        pids = {name: process.pid for name, process in served.processes.items()} | {"PostgreSQL": self._postgres}
        settle: Callable[[], None] = partial(ground.caught_up, served.database)
        targets = []
        for turn in range(self._turns + 1):
            path = served.directory / f"tickets-{turn}"
            path.write_text("\n".join(map(str, ids[turn * AGE : (turn + 1) * AGE])) + "\n")
            targets.append(Target("a command", kind, served.base, pids, key, path, settle))
        return targets

    def __exit__(self, *_: object) -> None:
        self._served.__exit__()


def measure(notebook: Notebook, targets: list[Target]) -> None:
    """One turn of one desk: requests a second, and the CPU time of the API and of the worker for one."""
    target = targets.pop()
    spent = ground.Spent(**target.pids)
    said = over_http.drive(target, CONNECTIONS, SECONDS)
    during = spent.so_far()
    target.settle()
    notebook.note("manners", "rate", "requests/s", said.requests / said.microseconds * 1e6)
    for process in ("api", "PostgreSQL"):
        notebook.note("manners", process, "µs", during[process] * 1e6 / said.requests)
    notebook.note("manners", "worker", "µs", spent.so_far()["work"] * 1e6 / said.requests)


def line(name: str, rates: list[float], without: list[float], cpu: list[float]) -> str:
    """A row for people: median rate and its quartiles, the share that is missing, CPU time for a command."""
    low, _, high = quantiles(rates, n=4)
    shares = [1 - mine / other for mine, other in zip(rates, without, strict=True)]
    low_share, mid_share, high_share = quantiles(shares, n=4)
    less = 1 - median(rates) / median(without)
    return (
        f"{name:26} {median(rates):6.0f}/s ({low:.0f}–{high:.0f})  "
        f"less by {less:6.1%}; turn by turn {mid_share:.1%} ({low_share:.1%}–{high_share:.1%})  "
        f"CPU of the API {cpu[0]:.0f} µs, of PostgreSQL {cpu[1]:.0f} µs, of the worker {cpu[2]:.0f} µs"
    )


if __name__ == "__main__":
    sys.exit(main())
