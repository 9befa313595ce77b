"""The process of a worker: its log, its counts and its spans, and the signals that end it."""

import signal
import threading
from contextlib import AbstractContextManager, nullcontext

import structlog

from api.telemetry.process_watch import sends_spans, start_process_stats
from api.worker.worker_loop import TraceWork, Worker, no_trace
from application.settings import Settings

log = structlog.get_logger()


def tracing(settings: Settings) -> AbstractContextManager[TraceWork]:
    """What a worker tells of its work: to OpenTelemetry, where that is wanted."""
    if not sends_spans(settings):
        return nullcontext(no_trace)
    from api.worker.worker_spans import work_spans

    return work_spans()


def stop_on_signals(worker: Worker) -> None:
    """SIGTERM and SIGINT end the worker: in a thread of their own, since the thread that they interrupt may be just in
    the middle of waiting for the end, with the lock that ending takes."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: threading.Thread(target=worker.stop).start())


def work(settings: Settings) -> None:
    """Runs a worker in this process until SIGTERM or SIGINT."""
    start_process_stats("work", settings)
    with tracing(settings) as trace:
        worker = Worker(settings, trace)
        stop_on_signals(worker)
        log.info("worker started")
        worker.run()
        log.info("worker stopped")
