"""What the desk counts of itself: every metric with its labels, in one table. `/metrics` shows them.

A metric of one set of labels is counted by one thread of a process only: an addition is three steps.
"""

from bisect import bisect_left
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from application.observability import metric_store
from application.observability.metric_store import Cells, Sums

COUNTER, GAUGE, HISTOGRAM = "counter", "gauge", "histogram"
SECONDS_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
SIZE_BUCKETS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 200.0)


class Metric:
    """Something that is counted or measured; of a gauge, only what processes that live have set counts."""

    def __init__(
        self, kind: str, name: str, says: str, labels: Sequence[str] = (), buckets: Sequence[float] = ()
    ) -> None:
        self.kind, self.name, self.says = kind, name, says
        self.labels, self.buckets = tuple(labels), tuple(buckets)
        self._places: dict[tuple[str, ...], int] = {}
        METRICS_BY_NAME[name] = self

    @property
    def value_count(self) -> int:
        """How many cells it takes for each set of labels."""
        return len(self.buckets) + 2 if self.kind == HISTOGRAM else 1

    def add(self, labels: tuple[str, ...] = (), by: float = 1.0) -> None:
        """Counts."""
        at = self._places.get(labels) or self._place(labels)
        _store.values[at] += by

    def set(self, labels: tuple[str, ...], value: float) -> None:
        """Says how much there is of it now."""
        _store.values[self._places.get(labels) or self._place(labels)] = value

    def observe(self, labels: tuple[str, ...], value: float) -> None:
        """Counts a value into its bucket, and adds it to the sum, which is the last cell."""
        at = self._places.get(labels) or self._place(labels)
        values = _store.values
        values[at + bisect_left(self.buckets, value)] += 1.0
        values[at + len(self.buckets) + 1] += value

    def value(self, labels: tuple[str, ...] = ()) -> float:
        """What this process has counted."""
        return float(_store.values[self._places.get(labels) or self._place(labels)])

    def _place(self, labels: tuple[str, ...]) -> int:
        at = self._places[labels] = _store.place((self.name, labels), self.value_count)
        return at

    def forget(self) -> None:
        """Begins with new cells."""
        self._places = {}


METRICS_BY_NAME: Final[dict[str, Metric]] = {}
_store = Cells()
_directory: Path | None = None


def start_counting(directory: Path | None) -> None:
    """Counts from nought on, in a file of this process in that directory; in its memory only without one.

    Raises OSError when there can be no such file.
    """
    global _store, _directory
    begun = Cells(directory)
    for metric in METRICS_BY_NAME.values():
        metric.forget()
    _store.close()
    _store, _directory = begun, directory


def total() -> Sums:
    """What all processes of the directory have counted, dead ones included; of gauges, what those that live say.

    A metric that this program does not know, or counts in other cells than an older one did, is left out.
    """
    try:
        everything, alive = metric_store.gathered(_directory) if _directory else (_store.sums(),) * 2
    except OSError:  # what this process has counted is better than nothing
        everything = alive = _store.sums()
    found: Sums = {}
    for key, values in everything.items():
        metric = METRICS_BY_NAME.get(key[0])
        if metric and (len(key[1]), len(values)) == (len(metric.labels), metric.value_count):
            if metric.kind != GAUGE:
                found[key] = values
            elif key in alive:
                found[key] = alive[key]
    return found


# ── The API ─────────────────────────────────────────────────────────────────────────────────────────────────

REQUESTS = Metric(
    HISTOGRAM,
    "deskledger_http_request_duration_seconds",
    "From the beginning of a request to the end of its answer, by route template and class of status.",
    ("method", "route", "status"),
    SECONDS_BUCKETS,
)
IN_PROGRESS = Metric(GAUGE, "deskledger_http_requests_in_progress", "Requests that are being answered.")
UNREADABLE_REQUESTS = Metric(
    COUNTER,
    "deskledger_http_unreadable_requests_total",
    "What came over a connection and was no request that HTTP allows, by the status of its answer.",
    ("status",),
)
COMMANDS_TOTAL = Metric(
    COUNTER,
    "deskledger_commands_total",
    "Commands by what became of them: done, replayed, or the code of the problem.",
    ("command", "result"),
)
BATCH_SIZE = Metric(
    HISTOGRAM,
    "deskledger_batch_size",
    "How many requests went to the database together, in one round trip of each kind.",
    ("trip",),
    SIZE_BUCKETS,
)
BATCH_DURATION = Metric(
    HISTOGRAM, "deskledger_batch_duration_seconds", "How long such a round trip took.", ("trip",), SECONDS_BUCKETS
)
POOL_WAITS = Metric(COUNTER, "deskledger_pool_waits_total", "Queries that waited for a connection of the pool.")
POOL_WAIT_SECONDS = Metric(COUNTER, "deskledger_pool_wait_seconds_total", "How long they have waited, together.")
POOL_WAITING = Metric(GAUGE, "deskledger_pool_waiting", "Queries that wait for a connection of the pool now.")
LOOP_LAG = Metric(
    HISTOGRAM,
    "deskledger_event_loop_lag_seconds",
    "How much later than it was due the event loop of a process of the API came to something, looked at each second.",
    (),
    SECONDS_BUCKETS,
)

# ── The worker ──────────────────────────────────────────────────────────────────────────────────────────────

SEALED_EVENTS = Metric(COUNTER, "deskledger_sealed_events_total", "Events that were given their position.")
SEALING_DELAY = Metric(
    HISTOGRAM,
    "deskledger_sealing_delay_seconds",
    "How old the first event of a sealing pass was when it had its position.",
    (),
    SECONDS_BUCKETS,
)
CLOSING_MAILS_TRIED = Metric(
    COUNTER,
    "deskledger_closing_mail_attempts_total",
    "Attempts to send a closing e-mail: sent, postponed or failed for good.",
    ("result",),
)
WORK_FAILED = Metric(
    COUNTER, "deskledger_worker_failures_total", "Errors after which the worker began its work again.", ("work",)
)

# ── Every process ───────────────────────────────────────────────────────────────────────────────────────────

LIVE_PROCESSES = Metric(GAUGE, "deskledger_processes", "Processes that live, by part.", ("part",))
CPU = Metric(COUNTER, "deskledger_process_cpu_seconds_total", "CPU time of the processes of a part.", ("part",))
MEMORY = Metric(
    GAUGE, "deskledger_process_resident_memory_bytes", "Memory of the processes of a part that is resident.", ("part",)
)
DESCRIPTORS = Metric(
    GAUGE, "deskledger_process_open_fds", "Open files and sockets of the processes of a part.", ("part",)
)
LINES_DROPPED = Metric(
    COUNTER, "deskledger_log_lines_dropped_total", "Log lines that were not written because nobody read them."
)

# ── What the database says; the same from every process that is asked ───────────────────────────────────────

BUILD = Metric(GAUGE, "deskledger_build_info", "1; the label is the version of the program.", ("version",))
DATABASE_UP = Metric(
    GAUGE, "deskledger_database_up", "Whether the database answered: 1 or 0. Without it the rest is absent."
)
LOG_POSITION = Metric(GAUGE, "deskledger_log_position", "The highest position of the log.")
OLDEST_UNSEALED_SECONDS = Metric(
    GAUGE,
    "deskledger_oldest_unsealed_event_seconds",
    "How long the first event without a position has waited; 0 without.",
)
LAG = Metric(
    GAUGE, "deskledger_projection_lag_positions", "How many positions a projection is behind the log.", ("projection",)
)
LAG_SECONDS = Metric(
    GAUGE,
    "deskledger_projection_lag_seconds",
    "How old the first event is that a projection has yet to apply; 0 without.",
    ("projection",),
)
PARKED_STREAMS = Metric(
    GAUGE, "deskledger_parked_streams", "Streams that stand still in a projection.", ("projection",)
)
MAILS = Metric(
    GAUGE, "deskledger_closing_mails", "Closing e-mails that are not sent: due, or failed for good.", ("state",)
)
WEBHOOK_LAG = Metric(
    GAUGE, "deskledger_webhook_lag_positions", "How far the webhook that is furthest behind is from the log's end."
)
WEBHOOK_AGE = Metric(
    GAUGE,
    "deskledger_oldest_webhook_delivery_seconds",
    "How long the delivery that is tried next has waited, of the webhook where that is longest; or 0.",
)
WEBHOOKS_PENDING = Metric(
    GAUGE, "deskledger_webhook_deliveries", "Deliveries that are due or wait behind one; at most 1000 are counted."
)
MAIL_AGE = Metric(
    GAUGE,
    "deskledger_oldest_due_closing_mail_seconds",
    "How long the oldest due closing e-mail has been in the outbox.",
)
