"""What a benchmark measured, as values: one form for the tables, the plots, the targets and the JSON."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median

import msgspec


class Figure(msgspec.Struct, frozen=True):
    """One row of results: a value for each repetition. `name` is "row, column" of the group's table."""

    group: str
    name: str
    unit: str
    values: list[float]
    note: str = ""

    @property
    def row(self) -> str:
        """What was measured."""
        return self.name.rpartition(", ")[0] or self.name

    @property
    def column(self) -> str:
        """Under which load."""
        return self.name.rpartition(", ")[2]

    @property
    def median(self) -> float:
        """The value that stands for all repetitions."""
        return median(self.values)


class Notebook:
    """Collects the values of repetitions that are interleaved: A B C, A B C, …"""

    def __init__(self) -> None:
        self._values: dict[tuple[str, str, str, str], list[float]] = {}

    def note(self, group: str, name: str, unit: str, value: float, note: str = "") -> None:
        """One value of one repetition."""
        self._values.setdefault((group, name, unit, note), []).append(value)

    def figures(self) -> list[Figure]:
        """Every figure, in the order in which they were first noted."""
        return [Figure(group, name, unit, values, note) for (group, name, unit, note), values in self._values.items()]


Step = tuple[str, Callable[[], None]]


def interleaved(
    steps: Sequence[Step], repetitions: int, count: Callable[[str], None], tidy: Callable[[], None] = lambda: None
) -> None:
    """Runs all steps once, then all of them again, …: what disturbs the machine for a while disturbs every contender.

    `count` is told the name of each step that begins; `tidy` runs before each repetition.
    """
    for repetition in range(repetitions):
        tidy()
        # every second time backwards, so that nobody always runs behind the same neighbour
        for name, step in steps if repetition % 2 == 0 else reversed(steps):
            count(name)
            step()


def read(path: Path) -> list[Figure]:
    """The figures of a JSON file; none when there is no such file."""
    return msgspec.json.decode(path.read_bytes(), type=list[Figure]) if path.exists() else []


def write(path: Path, figures: Sequence[Figure]) -> None:
    """A JSON file with one figure a line, so that two runs can be compared line by line."""
    lines = b",\n".join(msgspec.json.encode(rounded(figure)) for figure in figures)
    path.write_bytes(b"[\n" + lines + b"\n]\n")


def merged(before: Sequence[Figure], now: Sequence[Figure]) -> list[Figure]:
    """The figures of before, and in their place those of the groups that were measured now."""
    groups = {figure.group for figure in now}
    return [*(figure for figure in before if figure.group not in groups), *now]


def rounded(figure: Figure) -> Figure:
    """Four digits are more than any of these measurements knows."""
    return msgspec.structs.replace(figure, values=[float(f"{value:.4g}") for value in figure.values])


def by_group(figures: Sequence[Figure]) -> Iterator[tuple[str, list[Figure]]]:
    """The figures of each group, groups in the order of their first figure."""
    for group in dict.fromkeys(figure.group for figure in figures):
        yield group, [figure for figure in figures if figure.group == group]
