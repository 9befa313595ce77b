"""Reports over HTTP: what is measured, and the figures."""

from datetime import UTC, datetime
from typing import Annotated

import msgspec
from falcon.asgi import Request, Response

from api.http.paging import Listing, place, send
from api.http.problems import Problem
from api.http.request_parsing import read_query
from api.http.resources.api_resource import ApiResource, MinPosition
from application.clock import utc_now
from domain import roles
from projections.queries.pages import Moment
from projections.reports.report_figures import READ_MODELS, report
from projections.reports.report_metrics import BY_NAME, REPORT_METRICS, GroupName, ReportMetric


class ReportParameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The window, `from` inclusive and `to` exclusive, and what to group by, separated by commas."""

    since: Moment | None = msgspec.field(name="from", default=None)
    until: Moment | None = msgspec.field(name="to", default=None)
    group_by: Annotated[list[GroupName], msgspec.Meta(min_length=1, max_length=5)] | None = None
    min_position: MinPosition = None


class MetricWords(msgspec.Struct, frozen=True):
    """A metric in words; `parts` names what its cells are split by, null when they are not."""

    name: str
    definition: str
    formula: str
    population: str
    unit: str
    group_by: tuple[GroupName, ...]
    parts: str | None


class MetricList(Listing[MetricWords], frozen=True):
    """Every metric in words."""


class Reports(ApiResource):
    """What is measured."""

    async def on_get(self, req: Request, resp: Response) -> None:
        """Every metric with its definition, formula, population and unit."""
        roles.require_read(req.context.who, "reports")
        send(resp, MetricList([metric_words(metric) for metric in REPORT_METRICS], None))


class ReportResource(ApiResource):
    """One metric."""

    async def on_get(self, req: Request, resp: Response, metric: str) -> None:
        """Its figures, one cell for each group: from the beginning, and up to now, unless the caller says otherwise.

        Those up to a moment never change; those up to now do, and have no `to`.
        """
        asked, wanted = read_query(req, "reports", ReportParameters), known_metric(metric)
        groups = known_groups(wanted, asked.group_by)
        since, until, now = in_utc("from", asked.since), in_utc("to", asked.until), utc_now()
        if since and since >= (until or now):
            raise Problem(400, "invalid_parameter", "from must lie before to, and before now when there is no to.")
        await self.wait_for_position(req, resp, asked.min_position, READ_MODELS)
        await self.wait_for_time(req, resp, "to", until, READ_MODELS)
        found = await report(self.fetch, wanted, since, until, groups, now)
        place(req, resp, found.position)
        send(resp, found)


def metric_words(metric: ReportMetric) -> MetricWords:
    """What is said of a metric."""
    words = {name: getattr(metric, name) for name in MetricWords.__struct_fields__ if name != "parts"}
    return MetricWords(**words, parts=metric.split)


def known_metric(name: str) -> ReportMetric:
    """The metric of that name. Raises Problem with status 404."""
    if found := BY_NAME.get(name):
        return found
    raise Problem(404, "unknown_metric", f"There is no metric {name!r}: {', '.join(BY_NAME)}.")


def known_groups(metric: ReportMetric, asked: list[GroupName] | None) -> list[GroupName]:
    """What to group by. Raises Problem with status 400 for one that the metric does not know, or that comes twice."""
    groups = asked or []
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
