"""What the desk counts of itself: every metric with its labels, in one table. `/metrics` shows them.

A metric of one set of labels is counted by one thread of a process only: an addition is three steps.
"""

from bisect import bisect_left
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from application.observability.metric_store import Cells, Key, Sums, gathered

COUNTER, GAUGE, HISTOGRAM = "counter", "gauge", "histogram"
SECONDS_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
SIZE_BUCKETS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 200.0)


class Metric:
    """Something that is counted or measured; of a gauge, only what processes that live have set counts."""

    def __init__(
        self, kind: str, name: str, says: str, labels: Sequence[str] = (), buckets: Sequence[float] = SECONDS_BUCKETS
    ) -> None:
        self.kind, self.name, self.says, self.labels = kind, name, says, tuple(labels)
        self.buckets = tuple(buckets) if kind == HISTOGRAM else ()
        self.value_count = len(self.buckets) + 2 if self.buckets else 1  # how many cells it takes for a set of labels
        METRICS_BY_NAME[name] = self

    def key(self, *labels: str) -> Key:
        """Under what it is counted."""
        return self.name, labels, self.value_count

    def has(self, key: Key) -> bool:
        """Whether it counts under such a key; an older program may have had other labels or buckets."""
        return (len(key[1]), key[2]) == (len(self.labels), self.value_count)

    def add(self, labels: tuple[str, ...] = (), by: float = 1.0) -> None:
        """Counts."""
        _store.values[self._place(labels)] += by

    def set(self, labels: tuple[str, ...], value: float) -> None:
        """Says how much there is of it now."""
        _store.values[self._place(labels)] = value

    def observe(self, labels: tuple[str, ...], value: float) -> None:
        """Counts a value into its bucket, and adds it to the sum, which is the last cell."""
        at, values = self._place(labels), _store.values
        values[at + bisect_left(self.buckets, value)] += 1.0
        values[at + self.value_count - 1] += value

    def _place(self, labels: tuple[str, ...]) -> int:
        key = (self.name, labels, self.value_count)
        return _store.places.get(key) or _store.place(key)


METRICS_BY_NAME: Final[dict[str, Metric]] = {}
_store = Cells()
_directory: Path | None = None


def start_counting(directory: Path | None) -> None:
    """Counts in a file of that directory from now on; in this process's memory only, and from nought, without one.

    Raises OSError when there can be no such file.
    """
    global _store, _directory
    _store, _directory = Cells(directory), directory
    for key, at in _store.places.items():
        if key[0] in METRICS_BY_NAME and METRICS_BY_NAME[key[0]].kind == GAUGE:
            _store.values[at] = 0.0  # what an ended process had of it, this one does not have


def total() -> Sums:
    """What all processes of the directory have counted, dead ones included; of gauges, what those that live say.

    A metric that this program does not know, or counts in other cells than an older one did, is left out.
    """
    try:
        files = list(gathered(_directory)) if _directory else [(_store.sums(), True)]
    except OSError:  # what this process has counted is better than nothing
        files = [(_store.sums(), True)]
    found: Sums = {}
    for sums, lives in files:
        for key, values in sums.items():
            metric = METRICS_BY_NAME.get(key[0])
            if metric and metric.has(key) and (lives or metric.kind != GAUGE):
                found[key] = [a + b for a, b in zip(values, found.get(key, [0.0] * len(values)), strict=True)]
    return found


# ── The API ─────────────────────────────────────────────────────────────────────────────────────────────────

REQUESTS = Metric(
    HISTOGRAM,
    "deskledger_http_request_duration_seconds",
    "From the beginning of a request to the end of its answer, by route template and class of status.",
    ("method", "route", "status"),
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
BATCH_DURATION = Metric(HISTOGRAM, "deskledger_batch_duration_seconds", "How long such a round trip took.", ("trip",))
POOL_WAITS = Metric(COUNTER, "deskledger_pool_waits_total", "Queries that waited for a connection of the pool.")
POOL_WAIT_SECONDS = Metric(COUNTER, "deskledger_pool_wait_seconds_total", "How long they have waited, together.")
POOL_WAITING = Metric(GAUGE, "deskledger_pool_waiting", "Queries that wait for a connection of the pool now.")
LOOP_LAG = Metric(
    HISTOGRAM,
    "deskledger_event_loop_lag_seconds",
    "How much later than it was due the event loop of a process of the API came to something, looked at each second.",
)

# ── The worker ──────────────────────────────────────────────────────────────────────────────────────────────

SEALED_EVENTS = Metric(COUNTER, "deskledger_sealed_events_total", "Events that were given their position.")
SEALING_DELAY = Metric(
    HISTOGRAM,
    "deskledger_sealing_delay_seconds",
    "How old the first event of a sealing pass was when it had its position.",
)
CLOSING_MAILS_TRIED = Metric(
    COUNTER,
    "deskledger_closing_mail_attempts_total",
    "Attempts to send a closing e-mail: sent, postponed, withdrawn or failed for good.",
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
