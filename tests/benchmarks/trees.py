"""An old tree of the desk beside this one: what has become faster, and what slower.

    make bench-trees OLD=/path/to/worktree
    python -m tests.benchmarks.trees /path/to/worktree [--pairs 9] [--seconds 2] [--tickets 12000]

Each tree runs its own API and worker, on a database of its own in one PostgreSQL, and makes its tables, its key and its
tickets with them: of the old tree, nothing is used but its command line and HTTP. Its packages are those of its own
.venv, or, where it has none, of this one. In each pair both trees get the same requests, now the old one first, now the
new one. Exit status 1 when the upper quartile of a ratio is below 0.85.
"""

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from statistics import median, quantiles

import msgspec
import urllib3

from tests.benchmarks import ground
from tests.benchmarks.figures import Figure, Notebook, interleaved
from tests.benchmarks.over_http import Target, drive
from tests.benchmarks.page import number, table
from tests.support.write_side import CONTACT

PAIRS, SECONDS, TICKETS = 9, 2, 12_000
LEAST = 0.85
OLD, NEW = "old", "new"
KINDS = {"command": "a command", "create": "create a ticket", "read": "read a ticket", "queue": "a queue page of 50"}
LOADS = (("command", 8), ("command", 32), ("command", 128), ("create", 32), ("read", 32), ("queue", 32))
CARRIED = ["--role=intake", "--role=agent", "--level=tier1"]  # by the key that the requests are sent with


class Compared(msgspec.Struct, frozen=True):
    """One load: the medians of both trees, and the quartiles of what the new one does for each request of the old."""

    name: str
    old: float
    new: float
    quartiles: tuple[float, float, float]

    @property
    def holds(self) -> bool:
        """Whether the upper quartile keeps the bound."""
        return self.quartiles[2] >= LEAST


def main() -> int:
    """Measures and prints; 1 when something has become slower than it may."""
    options = parser().parse_args()
    old = options.old.resolve()
    if reason := unfit(old):
        print(reason, file=sys.stderr)
        return 2
    seen = compared(measured(old, options.pairs, options.seconds, options.tickets))
    print(table([["Requests a second", OLD, NEW, "Lower quartile", "Median", "Upper quartile", ""], *map(line, seen)]))
    slower = [one.name for one in seen if not one.holds]
    print(f"\n{options.pairs} pairs. Upper quartile below {LEAST} ×: {'; '.join(slower) or 'none'}")
    return int(bool(slower))


def parser() -> argparse.ArgumentParser:
    """The command line."""
    known = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known.add_argument("old", type=Path, metavar="OLD", help="a worktree of an earlier commit")
    known.add_argument("--pairs", type=int, default=PAIRS, help=f"at least 2; default: {PAIRS}")
    known.add_argument("--seconds", type=int, default=SECONDS, help=f"of each turn; default: {SECONDS}")
    known.add_argument("--tickets", type=int, default=TICKETS, help=f"to begin with; default: {TICKETS}")
    return known


def unfit(old: Path) -> str:
    """Why these two cannot be compared; "" when they can."""
    if not shutil.which("wrk"):
        return "wrk is not installed: on Debian, apt install wrk."
    if not (old / "api").is_dir():
        return f"{old} is no worktree of the desk: it has no directory api. Make one: git worktree add PATH COMMIT"
    where = Path(said(old, "-c", "import api.cli; print(api.cli.__file__)"))
    return "" if where.is_relative_to(old) else f"Python finds {where} in place of the packages in {old}."


def said(root: Path, *words: str, **environment: str) -> str:
    """The last line of what a tree's Python prints; an error is raised with what it says."""
    done = subprocess.run(
        [python_of(root), *words], cwd=root, env={**os.environ, **environment}, capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)} in {root}: {done.stderr}")
    return done.stdout.rstrip().rpartition("\n")[2]


def python_of(root: Path) -> str:
    """The Python of a tree's own environment, if it has one."""
    own = root / ".venv" / "bin" / "python"
    return str(own) if own.exists() else sys.executable


def measured(old: Path, pairs: int, seconds: int, tickets: int) -> list[Figure]:
    """Requests a second of both trees under every load, a value for each pair."""
    notebook = Notebook()
    with ExitStack() as stack:
        server = stack.enter_context(ground.server())
        trees = {
            side: stack.enter_context(running(side, root, server, tickets))
            for side, root in ((OLD, old), (NEW, ground.ROOT))
        }

        def one(side: str, kind: str, connections: int) -> None:
            rate = requests(trees[side][kind], connections, seconds)
            notebook.note("trees", f"{KINDS[kind]} at {connections} connections, {side}", "requests/s", rate)

        steps = [
            (f"{side}: {KINDS[kind]} at {connections}", partial(one, side, kind, connections))
            for kind, connections in LOADS
            for side in trees
        ]
        interleaved(steps, pairs, tell, server.tidy)
    return notebook.figures()


def requests(target: Target, connections: int, seconds: int) -> float:
    """Requests a second; what the worker does later is waited for, so that it does not fall upon the other tree."""
    done = drive(target, connections, seconds)
    target.settle()
    return done.requests / done.microseconds * 1e6


def tell(name: str) -> None:
    """Says what is measured next."""
    print(f"… {name}", file=sys.stderr, flush=True)


@contextmanager
def running(side: str, root: Path, server: ground.Server, tickets: int) -> Iterator[dict[str, Target]]:
    """A tree's API and worker, warmed up, with tickets: what can be asked of it."""
    tell(f"{side}: {root}, {python_of(root)}")
    database, directory, port = server.database(side, schema=False), server.directory / side, ground.free_port()
    directory.mkdir()
    environment = {
        "DATABASE_URL": database,
        "DESKLEDGER_DATA_DIR": str(directory),
        "DESKLEDGER_PORT": str(port),
        "PYTHONDONTWRITEBYTECODE": "1",  # a worktree stays as it is
    }
    said(root, "-m", "api.cli", "migrate", **environment)
    key = said(root, "-m", "api.cli", "keys", "create", "--name", "benchmark", *CARRIED, **environment)
    with ExitStack() as stack:
        for part in ("api", "work"):
            command = [python_of(root), "-m", "api.cli", part]
            stack.enter_context(ground.program(command, directory / f"{part}.log", cwd=root, **environment))
        base, ids = f"http://127.0.0.1:{port}", directory / "tickets"
        ground.wait_until(partial(ground.answers, f"{base}/readyz"), f"the API of {root} answers")
        settle = partial(ground.caught_up, database)
        targets = {kind: Target(f"{side}: {name}", kind, base, {}, key, ids, settle) for kind, name in KINDS.items()}
        ids.touch()
        fill(targets["create"], tickets)
        for target in targets.values():
            requests(target, 32, 1)
        yield targets


def fill(create: Target, tickets: int) -> None:
    """Opens so many tickets or some more, and writes their ids where the targets read them."""
    sent = {"Authorization": f"Bearer {create.key}"}
    client = {"name": CONTACT.name, "email": CONTACT.email}
    answer = urllib3.request("PUT", f"{create.address}/v1/clients/client-1", json=client, headers=sent)
    if answer.status not in (200, 201):
        raise RuntimeError(f"no client: {answer.data.decode()}")
    made = 0
    while made < tickets:
        made += drive(create, 32, 1).requests
    create.settle()
    create.ids.write_text("\n".join(ticket_ids(create.address, sent)) + "\n")


def ticket_ids(base: str, headers: dict[str, str]) -> Iterator[str]:
    """The ids of all tickets, page by page."""
    asked = {"limit": "200"}
    while True:
        page = urllib3.request("GET", f"{base}/v1/tickets", fields=asked, headers=headers).json()
        yield from (ticket["ticket_id"] for ticket in page["items"])
        if not page["next"]:
            return
        asked["cursor"] = page["next"]


def compared(figures: Sequence[Figure]) -> list[Compared]:
    """Each load, with the ratios of what ran in the same pair."""
    known = {(figure.row, figure.column): figure.values for figure in figures}
    pairs = [(row, known[row, OLD], known[row, NEW]) for row in dict.fromkeys(figure.row for figure in figures)]
    return [Compared(row, median(old), median(new), quartiles(old, new)) for row, old, new in pairs]


def quartiles(old: Sequence[float], new: Sequence[float]) -> tuple[float, float, float]:
    """The quartiles of the ratios, pair by pair."""
    ratios = [one / other for one, other in zip(new, old, strict=True)]
    lower, middle, upper = quantiles(ratios, n=4, method="inclusive")
    return lower, middle, upper


def line(one: Compared) -> list[str]:
    """A row of the table."""
    verdict = "kept" if one.holds else f"**below {LEAST}**"
    return [one.name, number(one.old), number(one.new), *(f"{ratio:.2f} ×" for ratio in one.quartiles), verdict]


if __name__ == "__main__":
    sys.exit(main())
