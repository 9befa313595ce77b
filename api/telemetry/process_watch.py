"""What a process says of itself while it serves: its log, its counts, its memory, how late its event loop is."""

import asyncio
import gc
import os
import time
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import structlog

from application.observability import logs, metrics
from application.settings import Settings
from application.store.read_pool import Readers

EVERY_SECONDS = 1.0
OWN = Path("/proc/self")  # Linux
MEMORY_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
GARBAGE = 20_000  # new objects between two looks for cycles; the usual 700 are those of a few requests
log = structlog.get_logger()


def seldom_collect() -> None:
    """For a process that has begun: what is there by now stays, and what it makes from now on has hardly any cycles."""
    gc.freeze()
    gc.set_threshold(GARBAGE)


class ProcessStats:
    """The figures of this process, under the name of its part."""

    def __init__(self, part: str) -> None:
        self._labels = (part,)
        self._cpu = 0.0
        self._due = 0.0

    def look(self) -> None:
        """Brings the figures up to date, at most once a second."""
        now = time.monotonic()
        if now < self._due:
            return
        self._due = now + EVERY_SECONDS
        cpu = time.process_time()
        metrics.CPU.add(self._labels, cpu - self._cpu)
        self._cpu = cpu
        metrics.LIVE_PROCESSES.set(self._labels, 1)
        if OWN.exists():
            metrics.MEMORY.set(self._labels, int((OWN / "statm").read_text().split()[1]) * MEMORY_PAGE_BYTES)
            metrics.DESCRIPTORS.set(self._labels, len(os.listdir(OWN / "fd")))  # noqa: PTH208 - only how many there are


def start_process_stats(part: str, settings: Settings) -> ProcessStats:
    """Begins to log without waiting, and to count where the other processes of this machine do."""
    logs.start_writer()
    if settings.metrics:
        try:
            metrics.start_counting(settings.data_dir / "metrics")
        except OSError as error:
            log.warning("what this process counts, it alone will tell", reason=str(error))
    return ProcessStats(part)


def sends_spans(settings: Settings) -> bool:
    """Whether OpenTelemetry is wanted and installed."""
    if not settings.otlp_endpoint:
        return False
    with suppress(ModuleNotFoundError):  # of what it would lie in
        if find_spec("opentelemetry.exporter.otlp.proto.http"):
            return True
    log.warning("OTEL_EXPORTER_OTLP_ENDPOINT is set, and nothing here can send: install deskledger[otel]")
    return False


class Watch:
    """Looks at a process of the API each second."""

    def __init__(self, settings: Settings, readers: Readers) -> None:
        self._settings, self._readers = settings, readers
        self._looking: asyncio.Task[None] | None = None

    async def process_startup(self, scope: dict[str, Any], event: dict[str, Any]) -> None:
        """Runs in each worker, after the fork."""
        stats = start_process_stats("api", self._settings)
        if self._settings.metrics:
            self._looking = asyncio.create_task(self._look(stats))

    async def process_shutdown(self, scope: dict[str, Any], event: dict[str, Any]) -> None:
        """Runs at the end."""
        if self._looking:
            self._looking.cancel()

    async def _look(self, stats: ProcessStats) -> None:
        loop = asyncio.get_running_loop()
        while True:
            with suppress(OSError):  # too many files are open, perhaps
                stats.look()
            waits = self._readers.pop_stats()
            metrics.POOL_WAITS.add(by=waits.get("requests_queued", 0))
            metrics.POOL_WAIT_SECONDS.add(by=waits.get("requests_wait_ms", 0) / 1000)
            metrics.POOL_WAITING.set((), waits.get("requests_waiting", 0))
            due = loop.time() + EVERY_SECONDS
            await asyncio.sleep(EVERY_SECONDS)
            metrics.LOOP_LAG.observe((), max(loop.time() - due, 0.0))
