"""The figures of growth.py up to 1,000,000 tickets: some minutes to make them, so it runs by its name only."""

from collections.abc import Callable

import msgspec

from tests.benchmarks import ground, growth
from tests.benchmarks.figures import Figure

REPETITIONS = 9  # their spread is what the ratios are about


def measure(quick: bool, count: Callable[[str], None]) -> list[Figure]:
    """The same figures as of `growth`, in groups of their own, so that both can stand on one page."""
    with ground.server() as server:
        sizes, repetitions = ((100, 1_000), 1) if quick else (growth.SIZES, REPETITIONS)
        found = growth.figures(server, sizes, repetitions, count)
    return [msgspec.structs.replace(figure, group=figure.group.replace("growth", "million")) for figure in found]


def steps(quick: bool) -> int:
    """How many measurements there are."""
    return len(growth.KINDS) * (2 if quick else len(growth.SIZES) * REPETITIONS)
