"""How does the desk do? One query computes every metric from the view of its rows, one cell for each group."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, TypedDict, cast

import msgspec
from msgspec import UNSET, UnsetType
from psycopg.sql import SQL, Composed, Identifier

from domain.values import Level, Queue
from projections.queries.pages import Fetch, Query
from projections.reports.report_metrics import GroupName, ReportMetric

READ_MODELS = ["ticket_summaries", "queue_stays", "closings"]
REPORT = SQL("""
    with asked as not materialized (
        select coalesce(%s::timestamptz, '-infinity') as lo, %s::timestamptz as hi),
    stands as (
        select (select min(position) from projections where name = any(%s)) as position, {opening}, {ending}
        from asked),
    facts as (
        select {part} as part, ticket_id, counted, value {groups}
        from asked, {view} where {where} and at < hi and since < hi and (until is null or until >= hi)),
    cells as (
        select part, grouping(part) = 1 as whole, count(*) as rows, count(*) filter (where counted) as counted,
            count(distinct ticket_id) as tickets, sum(value::numeric)::float8 as total,
            percentile_cont(array[0.5, 0.9]) within group (order by value) as percentiles {groups}
        from facts group by grouping sets ({sets}))
    select stands.*, part, whole, rows, counted, tickets, total, percentiles {groups}
    from stands left join cells on true order by {order} part""")
OPEN_AT = SQL("""
    (select count(*) from queue_stays where entered_at < {moment} and (left_at is null or left_at >= {moment}))""")
NO_COUNT = SQL("null::bigint")


class Figures(msgspec.Struct, frozen=True):
    """The figures of one population. A share is numerator / denominator; a duration has the total of the seconds over
    the number of rows, and beside the mean the percentiles; a count is the number of rows, thrice.

    `tickets` is how many different tickets the rows are of.
    """

    value: float | int | None
    numerator: float | int
    denominator: int
    tickets: int
    mean: float | UnsetType | None = UNSET
    p50: float | UnsetType | None = UNSET
    p90: float | UnsetType | None = UNSET


class CellGroup(TypedDict, total=False):
    """What the rows of a cell have in common: a member for each name that was grouped by."""

    level: Level | None
    category: str | None
    priority: int | None
    week: str | None
    queue: Queue | None


class ReportCell(Figures, frozen=True):
    """The figures of one group, and of each part of it: an edge, an age band, a verdict."""

    group: CellGroup = {}
    parts: dict[str, Figures] | UnsetType = UNSET


class Flow(msgspec.Struct, frozen=True):
    """What came and went: ending = opening + new + reopened - closed - cancelled.

    `opening` and `ending` are counted by who is open at that moment, the rest by what happened in between.
    """

    opening: int
    new: int
    reopened: int
    closed: int
    cancelled: int
    ending: int


class Report(msgspec.Struct, frozen=True):
    """A metric's answer. `since` is inclusive, `until` is not; `flow` is there for throughput.

    Without `until` the window is not over: the figures are of what the desk knows at `position`, and go on changing.
    """

    metric: str
    definition: str
    formula: str
    population: str
    unit: str
    since: datetime | None = msgspec.field(name="from")
    until: datetime | None = msgspec.field(name="to")
    group_by: list[GroupName]
    position: int
    items: list[ReportCell]
    flow: Flow | UnsetType = UNSET


async def report(
    fetch: Fetch,
    metric: ReportMetric,
    since: datetime | None,
    until: datetime | None,
    group_by: Sequence[GroupName] = (),
    now: datetime | None = None,
) -> Report:
    """The figures of a metric from `since` on and before `until`, and the position that they are of: one statement.

    Without `until`, before `now`.
    """
    rows = await fetch(_query(metric, group_by), (since, until or now, READ_MODELS))
    report_cells = _cells(metric, group_by, rows)
    position, opening, ending = rows[0][:3]
    return Report(
        metric.name,
        metric.definition,
        metric.formula,
        metric.population,
        metric.unit,
        since if metric.has_beginning else None,
        until,
        list(group_by),
        position,
        report_cells,
        UNSET if opening is None else Flow(opening, **_movements(report_cells), ending=ending),
    )


def _query(metric: ReportMetric, group_by: Sequence[str]) -> Query:
    columns = [Identifier(name) for name in group_by]
    whole = SQL("({})").format(SQL(", ").join(columns))
    parts = SQL("({})").format(SQL(", ").join([*columns, Identifier("part")]))
    flows = metric.name == "throughput"
    return REPORT.format(
        opening=(OPEN_AT.format(moment=Identifier("lo")) if flows else NO_COUNT) + SQL(" as opening"),
        ending=(OPEN_AT.format(moment=Identifier("hi")) if flows else NO_COUNT) + SQL(" as ending"),
        part=SQL(metric.part),
        view=Identifier("reporting", metric.name),
        where=SQL(metric.where),
        groups=Composed([SQL(", ") + column for column in columns]),
        sets=SQL(", ").join([whole, parts]),
        order=Composed([column + SQL(" nulls last, ") for column in columns]),
    )


def _cells(metric: ReportMetric, group_by: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[ReportCell]:
    """One cell for each group, in order; none where a grouped population is empty."""
    found: dict[tuple[Any, ...], dict[str | None, Figures]] = {}
    for _, _, _, part, whole, *numbers in rows:
        if whole is not None:
            parts = found.setdefault(tuple(numbers[5:]), {})
            parts[None if whole else part] = _figures(metric, *numbers[:5])
    groups = [cast("CellGroup", dict(zip(group_by, key, strict=True))) for key in found]
    return [_cell(metric, group, parts) for group, parts in zip(groups, found.values(), strict=True)]


def _cell(metric: ReportMetric, group: CellGroup, parts: dict[str | None, Figures]) -> ReportCell:
    shown = parts.get(metric.headline) or _figures(metric, 0, 0, 0, None, None)
    named = {part: figures for part, figures in parts.items() if part is not None}
    return ReportCell(**msgspec.structs.asdict(shown), group=group, parts=named if metric.split else UNSET)


def _figures(
    metric: ReportMetric, rows: int, counted: int, tickets: int, total: float | None, percentiles: list[float] | None
) -> Figures:
    if metric.kind == "count":
        return Figures(rows, rows, rows, tickets)
    if metric.kind == "share":
        return Figures(counted / rows if rows else None, counted, rows, tickets)
    mean = total / rows if rows and total is not None else None
    p50, p90 = percentiles or (None, None)
    return Figures(mean, total or 0.0, rows, tickets, mean, p50, p90)


def _movements(report_cells: Iterable[ReportCell]) -> dict[str, int]:
    names = ("new", "reopened", "closed", "cancelled")
    parts = [cell.parts for cell in report_cells if isinstance(cell.parts, dict)]
    return {name: sum(part[name].denominator for part in parts if name in part) for name in names}
