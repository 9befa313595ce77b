"""What the worker does as spans with links to the requests, for OpenTelemetry. Imported only where spans are sent."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from opentelemetry import context
from opentelemetry.trace import Link, get_current_span

from api.telemetry.span_exporter import Sending, context_of
from projections.engine.sealed_log import recent_traces


@contextmanager
def work_spans() -> Iterator[Callable[..., None]]:
    """A `TraceWork`: a span for each sealing pass and each step of the projections that had something to do."""
    sending = Sending()
    sending.begin("work")

    def trace(name: str, begun: int, count: int, connection: psycopg.Connection[Any]) -> None:
        ended = time.time_ns()
        named = [get_current_span(context_of(each)).get_span_context() for each in recent_traces(connection, count)]
        links = [Link(each) for each in named if each.is_valid]
        span = sending.tracer.start_span(name, context.Context(), links=links, start_time=begun)
        span.set_attribute("deskledger.events", count)
        span.end(ended)

    try:
        yield trace
    finally:
        sending.end()
