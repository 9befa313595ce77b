"""Reports over HTTP: what is measured, and the figures."""

from datetime import UTC, datetime

import msgspec
from falcon.asgi import Request, Response

from api.http.paging import Listing, send
from api.http.problems import Problem
from api.http.read_your_writes import MinPosition, wait_for_position
from api.http.request_parsing import parameters
from api.http.resources.ticket_parameters import Moment
from application.clock import utc_now
from application.store.postgres.read_pool import Readers
from domain import roles
from projections.reports.report_figures import READ_MODELS, report
from projections.reports.report_metrics import BY_NAME, REPORT_METRICS, ReportMetric
from projections.status.freshness import Freshness


class ReportParameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The window, `from` inclusive and `to` exclusive, and what to group by, separated by commas."""

    since: Moment | None = msgspec.field(name="from", default=None)
    until: Moment | None = msgspec.field(name="to", default=None)
    group_by: str | None = None
    min_position: MinPosition = None


class MetricWords(msgspec.Struct, frozen=True):
    """A metric in words; `parts` names what its cells are split by, null when they are not."""

    name: str
    definition: str
    formula: str
    population: str
    unit: str
    group_by: tuple[str, ...]
    parts: str | None


class MetricList(Listing[MetricWords], frozen=True):
    """Every metric in words."""


class Reports:
    """What is measured."""

    async def on_get(self, req: Request, resp: Response) -> None:
        """Every metric with its definition, formula, population and unit."""
        roles.require_read(req.context.who, "reports")
        send(resp, MetricList([metric_words(metric) for metric in REPORT_METRICS], None))


class ReportResource:
    """One metric."""

    def __init__(self, readers: Readers, freshness: Freshness) -> None:
        self._readers, self._freshness = readers, freshness

    async def on_get(self, req: Request, resp: Response, metric: str) -> None:
        """Its figures, one cell for each group: from the beginning, and up to now, unless the caller says otherwise."""
        roles.require_read(req.context.who, "reports")
        wanted, asked = known_metric(metric), parameters(req, ReportParameters)
        groups = known_groups(wanted, asked.group_by)
        since, until = in_utc("from", asked.since), in_utc("to", asked.until) or utc_now()
        if since and since >= until:
            raise Problem(400, "invalid_parameter", "from must lie before to, and before now when there is no to.")
        await wait_for_position(req, resp, self._freshness, asked.min_position, READ_MODELS)
        found = await report(self._readers.fetch, wanted, since, until, groups)
        resp.set_header("Deskledger-Position", str(found.position))
        send(resp, found)


def metric_words(metric: ReportMetric) -> MetricWords:
    """What is said of a metric."""
    words = (metric.definition, metric.formula, metric.population, metric.unit)
    return MetricWords(metric.name, *words, metric.group_by, metric.split)


def known_metric(name: str) -> ReportMetric:
    """The metric of that name. Raises Problem with status 404."""
    if name not in BY_NAME:
        raise Problem(404, "unknown_metric", f"There is no metric {name!r}: {', '.join(BY_NAME)}.")
    return BY_NAME[name]


def known_groups(metric: ReportMetric, asked: str | None) -> list[str]:
    """What to group by. Raises Problem with status 400 for a name that is unknown or comes twice."""
    groups = asked.split(",") if asked is not None else []
    if len(set(groups)) < len(groups) or not set(groups) <= set(metric.group_by):
        names = ", ".join(metric.group_by)
        raise Problem(400, "invalid_parameter", f"group_by takes, separated by commas and each once: {names}.")
    return groups


def in_utc(name: str, moment: datetime | None) -> datetime | None:
    """The moment in UTC. Raises Problem with status 400 when it lies outside the years 1 to 9999 there."""
    try:
        return moment.astimezone(UTC) if moment else None
    except OverflowError:
        raise Problem(400, "invalid_parameter", f"{name} must lie in the years 1 to 9999, in UTC.") from None
