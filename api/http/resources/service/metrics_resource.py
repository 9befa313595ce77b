"""`GET /metrics`: what every process of this machine has counted, and what the database says, for Prometheus."""

import asyncio
import time
from collections.abc import Callable, Iterable
from importlib.metadata import version
from itertools import accumulate
from typing import Any

from falcon.asgi import Request, Response
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector

from application.observability import metrics
from application.observability.metric_store import Sums
from application.store.postgres.pg_connection import Unavailable
from application.store.read_pool import Readers
from projections.status.readiness import Health, health

METRICS_CACHE_SECONDS = 1.0  # whoever asks more often is given the same again
OPENMETRICS = "application/openmetrics-text"
FORMATS: dict[bool, tuple[str, Callable[[Collector], bytes]]] = {
    False: (CONTENT_TYPE_PLAIN_0_0_4, generate_latest),
    True: (openmetrics.CONTENT_TYPE_LATEST, openmetrics.generate_latest),
}
FAMILIES: dict[str, Any] = {
    metrics.COUNTER: CounterMetricFamily,
    metrics.GAUGE: GaugeMetricFamily,
    metrics.HISTOGRAM: HistogramMetricFamily,
}


class Metrics:
    """The metrics of this machine's processes."""

    def __init__(self, readers: Readers) -> None:
        self._readers = readers
        self._kept: dict[str, tuple[float, bytes]] = {}

    async def on_get(self, req: Request, resp: Response) -> None:
        """Prometheus' text, or OpenMetrics where `Accept` names it."""
        resp.content_type, write = FORMATS[OPENMETRICS in (req.get_header("Accept") or "")]
        until, resp.data = self._kept.get(resp.content_type, (0.0, b""))
        if time.monotonic() >= until:
            try:
                found = await health(self._readers.fetch)
            except Unavailable:
                found = None
            resp.data = await asyncio.to_thread(lambda: write(Families(metrics.total() | readiness_sums(found))))
            self._kept[resp.content_type] = time.monotonic() + METRICS_CACHE_SECONDS, resp.data


def readiness_sums(health: Health | None) -> Sums:
    """What the database says, and what this program is."""
    up = health is not None and not health.missing_migrations
    found: Sums = {metrics.BUILD.key(version("deskledger")): [1.0], metrics.DATABASE_UP.key(): [float(up)]}
    if health is None or not up:
        return found
    for metric, values in (
        (metrics.LAG, health.lag),
        (metrics.LAG_SECONDS, health.lag_seconds),
        (metrics.PARKED_STREAMS, health.parked),
    ):
        found |= {metric.key(name): [float(value)] for name, value in values.items()}
    return found | {
        metrics.LOG_POSITION.key(): [health.position],
        metrics.OLDEST_UNSEALED_SECONDS.key(): [health.oldest_unsealed_seconds],
        metrics.MAILS.key("due"): [health.mails_due],
        metrics.MAILS.key("failed"): [health.mails_failed],
        metrics.MAIL_AGE.key(): [health.oldest_mail_due_seconds],
        metrics.WEBHOOK_LAG.key(): [health.webhook_lag],
        metrics.WEBHOOK_AGE.key(): [health.oldest_webhook_seconds],
        metrics.WEBHOOKS_PENDING.key(): [health.webhooks_pending],
    }


class Families(Collector):
    """Sums, as the library takes them; a metric that nothing is known of is there all the same, with its words."""

    def __init__(self, sums: Sums) -> None:
        self._sums = sums

    def collect(self) -> Iterable[Any]:
        """Each metric with all its labels; the buckets of a histogram count what they and the lower ones hold."""
        families = {
            name: FAMILIES[metric.kind](name, metric.says, labels=metric.labels)
            for name, metric in metrics.METRICS_BY_NAME.items()
        }
        for (name, labels, _), values in sorted(self._sums.items()):
            if bounds := metrics.METRICS_BY_NAME[name].buckets:
                buckets = zip([*map(str, bounds), "+Inf"], accumulate(values[:-1]), strict=True)
                families[name].add_metric(labels, list(buckets), values[-1])
            else:
                families[name].add_metric(labels, values[0])
        return families.values()
