"""What a process says of itself while it serves: its log, its counts, its memory, how late its event loop is."""

import asyncio
from contextlib import suppress
from importlib.util import find_spec
from typing import Any

import structlog

from application.observability import logs, metrics
from application.observability.process_stats import EVERY_SECONDS, ProcessStats
from application.settings import Settings
from application.store.postgres.read_pool import Readers

log = structlog.get_logger()


def start_process_stats(part: str, settings: Settings) -> ProcessStats:
    """Begins to log without waiting, and to count where the other processes of this machine do."""
    logs.start_writer()
    if settings.metrics:
        try:
            metrics.start_counting(settings.data_dir / "metrics")
        except OSError as error:
            metrics.start_counting(None)
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
            waits = self._readers.get_stats()
            metrics.POOL_WAITS.set((), waits.get("requests_queued", 0))
            metrics.POOL_WAIT_SECONDS.set((), waits.get("requests_wait_ms", 0) / 1000)
            metrics.POOL_WAITING.set((), waits.get("requests_waiting", 0))
            due = loop.time() + EVERY_SECONDS
            await asyncio.sleep(EVERY_SECONDS)
            metrics.LOOP_LAG.observe((), max(loop.time() - due, 0.0))
