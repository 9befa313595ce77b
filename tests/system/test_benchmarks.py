"""The benchmarks run, and say what they measured as it is. The figures themselves are no promise."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import msgspec
import pytest

from tests.benchmarks import append, figures, ground, over_http, page, targets, trees
from tests.benchmarks.figures import Figure

needs_wrk = pytest.mark.skipif(not shutil.which("wrk"), reason="requests are sent by wrk")


def bench(*words: str | Path, path: str = os.environ["PATH"], module: str = "run") -> subprocess.CompletedProcess[str]:
    """What `make bench` runs, or another of the benchmarks, with these words behind it."""
    command = [sys.executable, "-m", f"tests.benchmarks.{module}", *words]
    environment = {**os.environ, "PATH": path, "COLUMNS": "200"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)


def rate(name: str, *values: float) -> Figure:
    """A figure of the group http rate."""
    return Figure("http rate", name, "requests/s", list(values))


def test_a_quick_run_writes_page_figures_and_plots(tmp_path: Path) -> None:
    """Each contender is measured; the page has its row, the JSON its value, the SVG is well-formed."""
    done = bench("append", "--quick", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    found = figures.read(tmp_path / "performance" / "results.json")
    names = [name for name, _ in append.points(quick=True)]
    assert sorted(figure.row for figure in found) == sorted(names)
    assert all(len(figure.values) == 1 and figure.values[0] > 0 for figure in found)
    written = (tmp_path / "performance.md").read_text()
    assert all(f"\n| {name} | {page.cell([figure])} |" in written for name, figure in by_row(found).items())
    plot = ET.fromstring((tmp_path / "performance" / "append.svg").read_bytes())
    assert plot.tag == "{http://www.w3.org/2000/svg}svg"
    (tmp_path / "performance.md").unlink()
    assert bench("--page", "--out", tmp_path).returncode == 0
    assert (tmp_path / "performance.md").read_text() == written


def by_row(found: list[Figure]) -> dict[str, Figure]:
    """The figures by their row."""
    return {figure.row: figure for figure in found}


def test_without_wrk_everything_else_is_measured(tmp_path: Path) -> None:
    """Where wrk is missing, the run says what to do and ends with 1; the other groups are there."""
    done = bench("http", "drain", "--quick", "--out", tmp_path, path=str(tmp_path))
    assert done.returncode == 1
    wanted = "http was not measured: wrk is not installed: on Debian, apt install wrk. Then run it again: make bench"
    assert f"{wanted} ONLY=http" in " ".join(done.stderr.split())
    found = figures.read(tmp_path / "performance" / "results.json")
    assert [figure.group for figure in found] == ["drain"]


def test_a_single_group_is_measured_on_any_machine_and_joins_its_equals_only(tmp_path: Path) -> None:
    """Figures of one page are of one machine; a group that is measured elsewhere is printed, and the page stays."""
    (tmp_path / "performance").mkdir()
    (tmp_path / "performance" / "machine.json").write_bytes(msgspec.json.encode({"CPU": "another one"}))
    done = bench("drain", "--quick", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.search(r"drain/sealer, a backlog of [\d,]+ events: [\d,.]+ \(.*\) events/s", done.stdout)
    assert "is of another machine" in done.stderr
    assert [path.name for path in tmp_path.rglob("*.*")] == ["machine.json"]


def test_help_names_every_group() -> None:
    """--help says what can be measured."""
    said = bench("--help").stdout
    assert "append, drain, http, latency, rebuild, growth" in " ".join(said.split())


def test_a_ratio_is_of_the_same_repetition_and_of_the_faster_rival() -> None:
    """A repetition is divided by the same repetition of the rival with the higher median."""
    known = [rate("a command, 8 connections", 10, 40, 30)]
    known += [rate(f"bare INSERT: {over_http.GTHREAD}, 8 connections", 1, 1, 100)]
    known += [rate(f"bare INSERT: {over_http.ASGI}, 8 connections", 10, 20, 30)]
    [shown] = targets.shown(known, [targets.http(8, 1.5, "a command", "INSERT")])
    assert shown.values == [1, 2, 1]
    assert shown.met is False


@pytest.mark.parametrize(
    ("least", "most", "values", "met"),
    [(2, None, [1, 2, 9], True), (2.1, None, [1, 2, 9], False), (None, 2, [1, 2, 9], True), (None, 1.9, [2], False)],
)
def test_the_median_decides_whether_a_target_is_met(
    least: float | None, most: float | None, values: list[float], met: bool
) -> None:
    """A bound holds for the median of the repetitions, and holds exactly at the bound."""
    target = targets.Target("a command", "http rate/a command, 8 connections", least=least, most=most)
    [shown] = targets.shown([rate("a command, 8 connections", *values)], [target])
    assert shown.met is met


def test_what_a_sealer_takes_is_a_loss_in_percent() -> None:
    """90 of 100 appends beside a sealer: it takes 10 %."""
    target = targets.Target("cost", "http rate/with, 8", ["http rate/without, 8"], most=10, unit="%", turn="cost")
    [shown] = targets.shown([rate("with, 8", 90), rate("without, 8", 100)], [target])
    assert shown.values == pytest.approx([10])


def test_a_target_without_figures_is_not_measured_and_not_met() -> None:
    """What was not measured is said so."""
    [line] = page.targets(targets.shown([], [targets.http(8, 1, "a command", "INSERT")]))[1:]
    assert line[2:] == ["not measured", "–", "–"]


def test_a_table_of_several_units_names_them() -> None:
    """A cell is a number alone: where a table has several units, each row says its own."""
    group = [Figure("rebuild", "both, all", "events/s", [2]), Figure("rebuild", "command, all", "ms", [3])]
    assert page.cells([group])[1:] == [["both (events/s)", "2.00 (2.00–2.00)"], ["command (ms)", "3.00 (3.00–3.00)"]]


def test_a_missed_target_stands_on_the_page() -> None:
    """The page says plainly what was not reached."""
    target = targets.Target("a command", "http rate/a command, 8 connections", least=2)
    [line] = page.targets(targets.shown([rate("a command, 8 connections", 1)], [target]))[1:]
    assert line == ["a command", "≥ 2 ×", "1.00", "1.00–1.00", "**not met**"]


def test_repetitions_are_interleaved() -> None:
    """All steps once, then all of them again in the other order; `tidy` before each repetition."""
    said: list[str] = []
    steps = [(name, lambda name=name: said.append(f"{name} runs")) for name in "ab"]
    figures.interleaved(steps, 2, said.append, lambda: said.append("tidy"))
    assert said == ["tidy", "a", "a runs", "b", "b runs", "tidy", "b", "b runs", "a", "a runs"]


def test_a_group_that_is_measured_again_takes_the_place_of_its_old_figures() -> None:
    """The other groups stay as they are."""
    old = [Figure("append", "x, 8", "appends/s", [1]), rate("y, 8", 2)]
    assert figures.merged(old, [Figure("append", "z, 8", "appends/s", [3])]) == [
        rate("y, 8", 2),
        Figure("append", "z, 8", "appends/s", [3]),
    ]


def test_every_target_is_of_a_figure_that_the_benchmarks_make() -> None:
    """A target that names no figure would never be measured, and nobody would see it."""
    made = {f"append/{name}, {count} writers" for name, count in append.points(quick=False)}
    wanted = {name for target in targets.TARGETS for name in (target.of, *target.against) if name.startswith("append/")}
    assert wanted <= made


@needs_wrk
def test_two_trees_are_compared_under_every_load(tmp_path: Path) -> None:
    """An old tree runs with its own packages; the table has its rates, this tree's, and quartiles of the ratios."""
    for package in ("domain", "application", "projections", "api"):
        shutil.copytree(ground.ROOT / package, tmp_path / package)
    done = bench(tmp_path, "--pairs", "2", "--seconds", "1", "--tickets", "500", module="trees")
    loads = [f"{trees.KINDS[kind]} at {connections} connections" for kind, connections in trees.LOADS]
    rows = re.findall(
        r"^\| (.+?) \| [\d,.]+ \| [\d,.]+ \| [\d.]+ × \| [\d.]+ × \| [\d.]+ × \| (.+) \|$", done.stdout, re.MULTILINE
    )
    assert [name for name, _ in rows] == loads, done.stdout + done.stderr
    below = "; ".join(name for name, verdict in rows if verdict != "kept")
    assert done.stdout.endswith(f"\n2 pairs. Upper quartile below 0.85 ×: {below or 'none'}\n")
    assert done.returncode == bool(below)


@needs_wrk
def test_what_is_no_tree_is_not_compared(tmp_path: Path) -> None:
    """Neither a directory without the packages, nor one in whose place Python finds this tree's."""
    done = bench(tmp_path, module="trees")
    assert (done.returncode, done.stdout) == (2, "")
    assert f"{tmp_path} is no worktree of the desk" in done.stderr
    (tmp_path / "api").mkdir()
    done = bench(tmp_path, module="trees")
    assert (done.returncode, done.stdout) == (2, "")
    assert f"in place of the packages in {tmp_path}" in done.stderr


@pytest.mark.parametrize(("new", "holds"), [([1, 1, 1, 8.5, 36], True), ([8, 8, 8, 8, 36], False)])
def test_the_upper_quartile_of_the_pairs_decides_whether_a_tree_is_as_fast(new: list[float], holds: bool) -> None:
    """Each turn is divided by the other tree's of the same pair; three of four ratios may be below what counts."""
    rates = [Figure("trees", "a command, old", "", [10, 10, 10, 10, 40]), Figure("trees", "a command, new", "", new)]
    [one] = trees.compared(rates)
    assert one.holds is holds
