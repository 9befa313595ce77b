"""Measures the desk, side by side with what else one would use, and writes docs/performance.md.

    make bench
    make bench ONLY="append http"
    python -m tests.benchmarks.run append http --quick --out /tmp/figures

Needs wrk for the group http; without it the other groups still run. All of it is on this machine: a PostgreSQL of its
own, with fsync on, in a directory under /var/tmp that is gone at the end. A single group joins the figures that are
there when they are of the same machine and versions; elsewhere it is printed, and --out keeps it in another place.
"""

import argparse
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from tests.benchmarks import append, drain, ground, growth, latency, machine, million, over_http, rebuild
from tests.benchmarks.figures import Figure, merged, read, rounded, write
from tests.benchmarks.page import cell, write_page
from tests.benchmarks.page import targets as lines
from tests.benchmarks.targets import Shown, shown


class Group(Protocol):
    """A module that measures: how many measurements there are, and their figures."""

    REPETITIONS: int

    def steps(self, quick: bool) -> int:
        """How often `count` is called."""

    def measure(self, quick: bool, count: Callable[[str], None]) -> list[Figure]:
        """The figures; `count` is told what is measured next."""


GROUPS: dict[str, Group] = {
    "append": append,
    "drain": drain,
    "http": over_http,
    "latency": latency,
    "rebuild": rebuild,
    "growth": growth,
    "million": million,
}
NEEDS_WRK = ("http", "growth", "million")
BY_NAME_ONLY = ("million",)  # takes more than ten minutes
WRK_MISSING = "wrk is not installed: on Debian, apt install wrk. Then run it again: make bench ONLY={}"
VARIES = ("Date", "Disk", "Wake-up")  # between two runs on one machine


def main() -> int:
    """Runs the groups; 1 when one of them could not be measured."""
    options = parser().parse_args()
    console = Console(stderr=True)
    chosen = options.groups or [group for group in GROUPS if group not in BY_NAME_ONLY]
    missing = {group: WRK_MISSING for group in chosen if group in NEEDS_WRK} if not shutil.which("wrk") else {}
    chosen = [group for group in chosen if group not in missing]
    out: Path = options.out
    if options.page:
        before = msgspec.json.decode((out / "performance" / "machine.json").read_bytes(), type=dict[str, str])
        write_all(out, before, read(out / "performance" / "results.json"))
        return 0
    described = machine.describe()
    other = strangers(out, described)
    for module in GROUPS.values() if options.repetitions else ():
        module.REPETITIONS = options.repetitions
    found, failed = measured(chosen, options.quick, console)
    known = [] if other else read(out / "performance" / "results.json")
    figures = [rounded(figure) for figure in merged(known, found)]
    if options.groups and other:  # the figures of one page are of one machine
        said = f"Not written: {out / 'performance.md'} is of another machine or of other versions ({other})."
        print(*(f"{figure.group}/{figure.name}: {cell([figure])} {figure.unit}" for figure in figures), sep="\n")
    else:
        said = f"Written: {out / 'performance.md'}, and {out / 'performance'}/ with the plots and results.json."
        write_all(out, described, figures)
    summary(console, shown(figures))
    for group, reason in (missing | failed).items():
        console.print(f"[bold red]{group} was not measured:[/] {reason.format(group)}")
    console.print(said)
    return 1 if missing or failed else 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    known = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known.add_argument(
        "groups", nargs="*", choices=[*GROUPS, []], metavar="GROUP", help=", ".join(GROUPS) + "; default: all"
    )
    known.add_argument("--quick", action="store_true", help="one short repetition: shows that it works, and no more")
    known.add_argument("--page", action="store_true", help="measure nothing: page and plots anew from results.json")
    known.add_argument("--repetitions", type=int, metavar="N", help="in place of 5")
    known.add_argument(
        "--out", type=Path, default=ground.ROOT / "docs", help="where performance.md goes; default: docs"
    )
    return known


def measured(chosen: list[str], quick: bool, console: Console) -> tuple[list[Figure], dict[str, str]]:
    """The figures of all groups, and why a group has none."""
    times = (TimeElapsedColumn(), TimeRemainingColumn())
    columns = (TextColumn("{task.description:60}"), BarColumn(), MofNCompleteColumn(), *times)
    figures, failed = list[Figure](), dict[str, str]()
    with Progress(*columns, console=console, refresh_per_second=2) as progress:
        tasks = {group: progress.add_task(group, total=GROUPS[group].steps(quick)) for group in chosen}
        for group, task in tasks.items():
            started = time.monotonic()
            try:
                figures += GROUPS[group].measure(quick, counter(progress, task, group))
            except Exception as error:
                failed[group] = f"{type(error).__name__}: {error}".replace("{", "{{").replace("}", "}}")
            progress.update(task, description=f"{group}, {time.monotonic() - started:.0f} s")
    return figures, failed


def counter(progress: Progress, task: int, group: str) -> Callable[[str], None]:
    """Moves a bar on, and says what is measured."""

    def count(name: str) -> None:
        progress.update(task, advance=1, description=f"{group}: {name}"[:60])

    return count


def strangers(out: Path, described: dict[str, str]) -> str:
    """What differs from the machine of the figures that are there: single groups join their equals only."""
    path = out / "performance" / "machine.json"
    if not path.exists():
        return ""
    before = msgspec.json.decode(path.read_bytes(), type=dict[str, str])
    return ", ".join(name for name in described if name not in VARIES and described[name] != before.get(name))


def write_all(out: Path, described: dict[str, str], figures: list[Figure]) -> None:
    """The page, the plots and the figures."""
    beside = out / "performance"
    beside.mkdir(parents=True, exist_ok=True)
    write(beside / "results.json", figures)
    (beside / "machine.json").write_bytes(msgspec.json.format(msgspec.json.encode(described)) + b"\n")
    write_page(out / "performance.md", beside, described, figures, shown(figures))


def summary(console: Console, seen: list[Shown]) -> None:
    """What has to be shown, on the terminal."""
    head, *body = lines([one for one in seen if one.values])
    table = Table(*head)
    for line in body:
        table.add_row(*(text.replace("**", "") for text in line))
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
