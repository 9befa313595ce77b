"""`GET /metrics`: what every process of this machine has counted, and what the database says, for Prometheus."""

import asyncio
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from itertools import accumulate

from falcon.asgi import Request, Response
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.openmetrics import exposition as openmetrics

from application.observability import metrics
from application.observability.metric_store import Sums
from application.store.postgres.pg_connection import Unavailable
from application.store.postgres.read_pool import Readers
from projections.status.readiness import Health, health

METRICS_CACHE_SECONDS = 1.0  # whoever asks more often is given the same again
OPENMETRICS = "application/openmetrics-text"
Family = CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily


class Metrics:
    """The metrics of this machine's processes."""

    def __init__(self, readers: Readers) -> None:
        self._readers = readers
        self._kept: dict[str, tuple[float, bytes]] = {}

    async def on_get(self, req: Request, resp: Response) -> None:
        """Prometheus' text, or OpenMetrics where `Accept` names it."""
        wants = OPENMETRICS in (req.get_header("Accept") or "")
        kind, write = FORMATS[wants]
        resp.content_type = kind
        until, document = self._kept.get(kind, (0.0, b""))
        if time.monotonic() >= until:
            try:
                found = await health(self._readers.fetch)
            except Unavailable:
                found = None
            registry = CollectorRegistry(auto_describe=False)
            registry.register(Families(await asyncio.to_thread(metrics.total) | readiness_sums(found)))
            document = write(registry)
            self._kept[kind] = time.monotonic() + METRICS_CACHE_SECONDS, document
        resp.data = document


FORMATS: dict[bool, tuple[str, Callable[[CollectorRegistry], bytes]]] = {
    False: (CONTENT_TYPE_PLAIN_0_0_4, generate_latest),
    True: (openmetrics.CONTENT_TYPE_LATEST, openmetrics.generate_latest),
}


def readiness_sums(health: Health | None) -> Sums:
    """What the database says, and what this program is."""
    found: Sums = {(metrics.BUILD.name, (version("deskledger"),)): [1.0]}
    up = health is not None and not health.missing_migrations
    found[metrics.DATABASE_UP.name, ()] = [float(up)]
    if health is None or not up:
        return found
    found[metrics.LOG_POSITION.name, ()] = [health.position]
    found[metrics.OLDEST_UNSEALED_SECONDS.name, ()] = [health.oldest_unsealed_seconds]
    for metric, values in (
        (metrics.LAG, health.lag),
        (metrics.LAG_SECONDS, health.lag_seconds),
        (metrics.PARKED_STREAMS, health.parked),
    ):
        found |= {(metric.name, (name,)): [float(value)] for name, value in values.items()}
    found[metrics.MAILS.name, ("due",)] = [health.mails_due]
    found[metrics.MAILS.name, ("failed",)] = [health.mails_failed]
    found[metrics.MAIL_AGE.name, ()] = [health.oldest_mail_due_seconds]
    found[metrics.WEBHOOK_LAG.name, ()] = [health.webhook_lag]
    found[metrics.WEBHOOK_AGE.name, ()] = [health.oldest_webhook_seconds]
    found[metrics.WEBHOOKS_PENDING.name, ()] = [health.webhooks_pending]
    return found


class Families:
    """Sums, as the library takes them; a metric that nothing is known of is there all the same, with its words."""

    def __init__(self, sums: Sums) -> None:
        self._sums = sums

    def collect(self) -> Iterator[Metric]:
        """Each metric with all its labels."""
        families = {name: family(metric) for name, metric in metrics.METRICS_BY_NAME.items()}
        for (name, labels), values in sorted(self._sums.items()):
            add(families[name], metrics.METRICS_BY_NAME[name], labels, values)
        yield from families.values()


def family(metric: metrics.Metric) -> Family:
    """A metric without values."""
    kinds: dict[str, type[Family]] = {
        metrics.COUNTER: CounterMetricFamily,
        metrics.GAUGE: GaugeMetricFamily,
        metrics.HISTOGRAM: HistogramMetricFamily,
    }
    return kinds[metric.kind](metric.name, metric.says, labels=metric.labels)


def add(to: Family, metric: metrics.Metric, labels: tuple[str, ...], values: list[float]) -> None:
    """Adds the value of one set of labels. The buckets of a histogram count what they and the lower ones hold."""
    if isinstance(to, HistogramMetricFamily):
        bounds = [*map(str, metric.buckets), "+Inf"]
        to.add_metric(labels, list(zip(bounds, accumulate(values[:-1]), strict=True)), values[-1])
    else:
        to.add_metric(labels, values[0])
