"""What has to be shown: ratios and bounds, computed from the figures and said as they are."""

from collections.abc import Mapping, Sequence
from statistics import median

import msgspec

from tests.benchmarks import append, over_http
from tests.benchmarks.figures import Figure


class Target(msgspec.Struct, frozen=True):
    """A figure, or a figure against another one, and the bound that it has to keep.

    `of` and `against` are "group/row, column"; of several in `against` the largest counts.
    "*" stands for any column.
    """

    text: str
    of: str
    against: Sequence[str] = ()
    least: float | None = None
    most: float | None = None
    unit: str = "×"
    turn: str = ""  # "cost": how much is lost against the other, in %


class Shown(msgspec.Struct, frozen=True):
    """What a target came to; no values when nothing was measured."""

    target: Target
    values: list[float]

    @property
    def met(self) -> bool | None:
        """Whether the median keeps the bound; None when nothing was measured."""
        if not self.values:
            return None
        value, target = median(self.values), self.target
        return (target.least is None or value >= target.least) and (target.most is None or value <= target.most)


def compare(load: str, least: float, name: str, of: str, against: Sequence[str]) -> Target:
    """A ratio under one load."""
    return Target(f"{name}, {load}", f"{of}, {load}", [f"{other}, {load}" for other in against], least)


def http(connections: int, least: float, name: str, bare: str) -> Target:
    """A rate over HTTP against the faster of the two bare endpoints."""
    others = [f"http rate/bare {bare}: {kind}" for kind in (over_http.GTHREAD, over_http.ASGI)]
    target = compare(f"{connections} connections", least, "", f"http rate/{name}", others)
    text = f"{name}, against the faster bare {bare}, {connections} connections"
    return msgspec.structs.replace(target, text=text)


def writers(count: int, least: float, name: str, other: str) -> Target:
    """A rate of appends against another one."""
    return compare(f"{count} writers", least, f"{name}, against {other}", f"append/{name}", [f"append/{other}"])


TARGETS = (
    writers(8, 2.5, append.SEALED, append.LIBRARY),
    writers(32, 2.5, append.SEALED, append.LIBRARY),
    writers(8, 0.8, append.COMBINING, append.PGBENCH),
    writers(32, 1.3, append.COMBINING, append.PGBENCH),
    writers(128, 2.0, append.COMBINING, append.PGBENCH),
    writers(8, 1.5, append.COMBINING, append.UMADB),
    writers(32, 2.0, append.COMBINING, append.UMADB),
    writers(128, 3.0, append.COMBINING, append.UMADB),
    *(
        Target(
            f"what the sealer takes of the appends, {count} writers",
            f"append/{append.SEALED}, {count} writers",
            [f"append/{append.PLAIN}, {count} writers"],
            most=10,
            unit="%",
            turn="cost",
        )
        for count in (8, 32)
    ),
    Target("sealer, a backlog", "drain/sealer, a backlog of 200,000 events", least=100_000, unit="events/s"),
    http(8, 0.6, "a command", "INSERT"),
    http(32, 0.95, "a command", "INSERT"),
    http(128, 1.3, "a command", "INSERT"),
    http(32, 0.6, "create a ticket", "INSERT"),
    http(32, 1.0, "read a ticket", "SELECT"),
    http(32, 0.8, "a queue page of 50", "SELECT"),
    Target(
        "committed to seen in the queue, p99, 500/s",
        "latency p99/committed to seen in the queue, 500/s",
        most=100,
        unit="ms",
    ),
    *(
        Target(
            f"{what}, {size} tickets against 1,000", f"{name}, {size} tickets", [f"{name}, 1,000 tickets"], least, most
        )
        for group, size in (("growth", "100,000"), ("million", "1,000,000"))
        for what, name, least, most in (
            ("command throughput", f"{group} rate/a command at 32 connections", 0.9, None),
            ("queue page p99", f"{group} p99/a queue page of 50 at 8 connections", None, 1.5),
            ("queue counts p50", f"{group} p50/all queue counts at 8 connections", None, 1.1),
        )
    ),
    Target(
        "rebuild of both projections, nothing beside it",
        "rebuild/both projections, nothing beside",
        least=60_000,
        unit="events/s",
    ),
    Target(
        "command p99 while a rebuild runs",
        "rebuild/command p99, beside a rebuild",
        ["rebuild/command p99, alone"],
        most=2,
    ),
    Target("an idle worker", "idle/worker, nothing to do", most=1, unit="% of a core"),
)


def shown(figures: Sequence[Figure], targets: Sequence[Target] = TARGETS) -> list[Shown]:
    """Every target with its value in each repetition: a ratio compares what ran in the same one."""
    known = {f"{figure.group}/{figure.name}": figure for figure in figures}
    known |= {f"{figure.group}/{figure.row}, *": figure for figure in figures}
    return [Shown(target, values(known, target)) for target in targets]


def values(known: Mapping[str, Figure], target: Target) -> list[float]:
    """The values of one target; none when a figure is missing."""
    if target.of not in known or any(name not in known for name in target.against):
        return []
    of = known[target.of].values
    if not target.against:
        return of
    against = max((known[name] for name in target.against), key=lambda figure: figure.median).values
    ratios = [one / other for one, other in zip(of, against, strict=True)]
    return [(1 - ratio) * 100 for ratio in ratios] if target.turn == "cost" else ratios
