"""Makes docs/performance.md and its plots out of figures; nothing here is written by hand."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

import msgspec

from tests.benchmarks.figures import Figure, by_group
from tests.benchmarks.targets import Shown

WIDTH, HEIGHT = 860, 420


class Section(msgspec.Struct, frozen=True):
    """A table of one or more groups; of several, a cell has the median of each. `shown` is the group of the plot."""

    title: str
    text: str
    groups: Sequence[str]
    plot: str = ""
    shown: str = ""


SECTIONS = (
    Section(
        "Append",
        "Each append is one event on a stream of its own. Writers are threads of two processes, each of them with a "
        "pool; of the combining shell they are tasks, and each append also keeps an idempotency record. The sealer "
        "runs as in the worker. Appends a second:",
        ["append"],
        "append.svg",
    ),
    Section(
        "Sealer",
        "A backlog that was committed before is given its positions. Events a second:",
        ["drain"],
    ),
    Section(
        "HTTP: rate",
        "Two gunicorn processes each, driven by wrk with one thread. The desk runs as it ships: `deskledger api` and "
        "`deskledger work`. The bare endpoints are [threads.py](../tests/benchmarks/bare/threads.py) and "
        "[tasks.py](../tests/benchmarks/bare/tasks.py): they look up no key, check no rule and keep no record of an "
        "idempotency key. A command is one note on a ticket: its events are loaded, it is decided, and the event is "
        "appended. Requests a second:",
        ["http rate"],
        "http-rate.svg",
    ),
    Section(
        "HTTP: how long",
        "The same runs. Milliseconds, p50 / p95 / p99. The plot shows p99.",
        ["http p50", "http p95", "http p99"],
        "http-p99.svg",
        "http p99",
    ),
    Section(
        "HTTP: what it costs",
        "The same runs. CPU milliseconds for each request: gunicorn / PostgreSQL / worker. What the worker and "
        "PostgreSQL did after the run, until everything was sealed and projected, is counted. The plot shows gunicorn.",
        ["http cpu server", "http cpu PostgreSQL", "http cpu worker"],
        "http-cpu.svg",
        "http cpu server",
    ),
    Section(
        "From commit to queue",
        "Commands over HTTP at fixed times, whatever the answers do; each sends a ticket from tier 1 to tier 2. The "
        "times of the commits are PostgreSQL's own (`track_commit_timestamp`). Milliseconds, p50 / p99. The plot shows "
        "p99.",
        ["latency p50", "latency p99"],
        "latency.svg",
        "latency p99",
    ),
    *(
        section
        for group, size in (("growth", "100,000"), ("million", "1,000,000"))
        for section in (
            Section(
                f"A longer past, up to {size} tickets",
                "The same requests to desks of different sizes: their databases are on one server, each with "
                "an API and a worker of its own, in turns. Requests a second:",
                [f"{group} rate"],
                f"{group}.svg",
            ),
            Section(
                f"A longer past, up to {size} tickets: how long",
                "The same runs. Milliseconds, p50 / p95 / p99.",
                [f"{group} p50", f"{group} p95", f"{group} p99"],
            ),
        )
    ),
    Section("An idle worker", "Nothing to seal, to project or to send. Share of one core in %:", ["idle"]),
)


def write_page(
    page: Path, plots: Path, machine: Mapping[str, str], figures: Sequence[Figure], seen: Sequence[Shown]
) -> None:
    """Writes the page, and its plots into a directory beside it."""
    plots.mkdir(parents=True, exist_ok=True)
    parts = ["# Performance", introduction(figures), "## Must show", table(targets(seen)), "## The machine"]
    parts.append(table([["What", "Value"], *map(list, machine.items())]))
    for section in sections(figures):
        there = [[figure for figure in figures if figure.group == group] for group in section.groups]
        there = [group for group in there if group]
        if there:
            parts += [f"## {section.title}", section.text, table(cells(there))]
            if section.plot:
                (plots / section.plot).write_bytes(plot(section.title, plotted(section, there)))
                parts.append(f"![{section.title}]({plots.name}/{section.plot})")
            parts += notes(there)
    page.write_text("\n\n".join(part for part in parts if part) + "\n")


def introduction(figures: Sequence[Figure]) -> str:
    """How the page was made, and how to read it."""
    counts = sorted({len(figure.values) for figure in figures}) or [0]
    repetitions = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return INTRODUCTION.format(repetitions)


INTRODUCTION = """Made by `make bench`, together with the plots and [results.json](performance/results.json). Nothing on
this page is written by hand.

What is compared runs side by side in one run, in turns: A B C, C B A, A B C. A cell is the median of {}
repetitions, with the smallest and the largest. A ratio compares figures of the same repetition. Compare the columns of
one run, not the digits of two: client, server and database share the cores.

PostgreSQL is the embedded one, with the desk's settings and fsync on. Only two differ: it takes more connections, and
VACUUM ANALYZE takes the place of autovacuum, which would fall upon one of the contenders: before each repetition where
writers are compared, over HTTP and with growth, once before the delays.

```sh
make bench              # everything, under ten minutes
make bench ONLY=append  # one group
```"""


def sections(figures: Sequence[Figure]) -> list[Section]:
    """The sections above, and one for each group that somebody else's benchmark wrote."""
    known = {group for section in SECTIONS for group in section.groups}
    others = [(group, found) for group, found in by_group(figures) if group not in known]
    more = [Section(group[:1].upper() + group[1:], units(found), [group]) for group, found in others]
    return [*SECTIONS, *more]


def units(figures: Sequence[Figure]) -> str:
    """In what a group is measured."""
    return f"In {', '.join(dict.fromkeys(figure.unit for figure in figures))}:"


def cells(groups: Sequence[Sequence[Figure]]) -> list[list[str]]:
    """The table of figures: a line for each row, a column for each load."""
    every = [figure for group in groups for figure in group]
    columns = list(dict.fromkeys(figure.column for figure in every))
    several = len({figure.unit for figure in every}) > 1
    known = [{(named_row(figure, several), figure.column): figure for figure in group} for group in groups]
    rows = list(dict.fromkeys(row for group in known for row, _ in group))
    body = [[row, *(cell([group.get((row, column)) for group in known]) for column in columns)] for row in rows]
    return [["", *columns], *body]


def named_row(figure: Figure, with_unit: bool) -> str:
    """What was measured, with its unit where a table has several."""
    return f"{figure.row} ({figure.unit})" if with_unit else figure.row


def cell(figures: Sequence[Figure | None]) -> str:
    """One figure with its spread, or the medians of several."""
    if not any(figures):
        return "–"
    if len(figures) > 1:
        return " / ".join(number(figure.median) if figure else "–" for figure in figures)
    figure = figures[0]
    return f"{number(figure.median)} ({spread(figure.values)})" if figure else "–"


def spread(values: Sequence[float]) -> str:
    """The smallest and the largest."""
    return f"{number(min(values))}–{number(max(values))}"


def number(value: float) -> str:
    """As many digits as say something."""
    return f"{value:,.{0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2}f}"


def plotted(section: Section, groups: Sequence[Sequence[Figure]]) -> Sequence[Figure]:
    """The group that the plot of a section shows."""
    return next((group for group in groups if group[0].group == section.shown), groups[0])


def notes(groups: Sequence[Sequence[Figure]]) -> list[str]:
    """What has to be said of single rows."""
    said = dict.fromkeys((figure.row, figure.note) for group in groups for figure in group if figure.note)
    return ["\n".join(f"- {row}: {note}" for row, note in said)] if said else []


def targets(seen: Sequence[Shown]) -> list[list[str]]:
    """The table of what has to be shown."""
    lines = [["What", "Wanted", "Median", "Smallest–largest", ""]]
    for one in seen:
        target = one.target
        bound = f"≥ {target.least:,g}" if target.least is not None else f"≤ {target.most:,g}"
        measured = [number(median(one.values)), spread(one.values)] if one.values else ["not measured", "–"]
        verdict = {True: "met", False: "**not met**", None: "–"}[one.met]
        lines.append([target.text, f"{bound} {target.unit}", *measured, verdict])
    return lines


def table(rows: Sequence[Sequence[str]]) -> str:
    """A table of Markdown; the first row is its head."""
    safe = [[text.replace("|", "/") for text in row] for row in rows]
    lines = ["| " + " | ".join(row) + " |" for row in safe]
    return "\n".join([lines[0], "| " + " | ".join("---" for _ in safe[0]) + " |", *lines[1:]])


def plot(title: str, figures: Sequence[Figure]) -> bytes:
    """A bar for each figure, with its smallest and largest value, grouped by load."""
    # imported when it is needed: importlib_metadata comes with it, and takes the place of Python's own in this process
    import pygal
    from pygal.style import Style

    style = Style(
        background="white", plot_background="white", font_family="sans-serif", title_font_size=15,
        guide_stroke_color="#ddd", major_guide_stroke_color="#ccc", opacity=".85",
    )  # fmt: skip
    chart = pygal.Bar(
        js=[], width=WIDTH, height=HEIGHT, style=style, title=f"{title} ({figures[0].unit})",
        legend_at_bottom=True, legend_at_bottom_columns=2, truncate_legend=-1, pretty_print=True,
    )  # fmt: skip
    chart.uuid = title.lower().replace(" ", "-").replace(":", "")  # not random, so that equal figures give equal files
    columns = list(dict.fromkeys(figure.column for figure in figures))
    chart.x_labels = columns
    known = {(figure.row, figure.column): figure for figure in figures}
    for row in dict.fromkeys(figure.row for figure in figures):
        chart.add(row, [bar(known.get((row, column))) for column in columns])
    return chart.render()  # type: ignore[no-any-return]


def bar(figure: Figure | None) -> dict[str, object] | None:
    """A bar in pygal's words."""
    if figure is None:
        return None
    return {"value": figure.median, "ci": {"low": min(figure.values), "high": max(figure.values)}}
