"""What the worker does as spans with links to the requests, for OpenTelemetry. Imported only where spans are sent."""

import time
from typing import Any

import psycopg
from opentelemetry import context
from opentelemetry.trace import Link, get_current_span

from api.telemetry.span_exporter import Sending, context_of
from projections.engine.sealed_log import recent_traces


class WorkSpans:
    """A span for each sealing pass and each step of the projections that had something to do: a `TraceWork`."""

    def __init__(self, sending: Sending) -> None:
        self._sending = sending

    def __call__(self, name: str, begun: int, count: int, connection: psycopg.Connection[Any]) -> None:
        """The span of what has just ended."""
        ended = time.time_ns()
        named = [get_current_span(context_of(each)).get_span_context() for each in recent_traces(connection, count)]
        links = [Link(each) for each in named if each.is_valid]
        span = self._sending.tracer.start_span(name, context.Context(), links=links, start_time=begun)
        span.set_attribute("deskledger.events", count)
        span.end(ended)
