"""OpenTelemetry, where it is installed and told where to send: a request's span, its command's, loading and appending,
and what the worker does with links to the requests.

Without it this module is not imported. The library's own settings (`OTEL_SERVICE_NAME`, `OTEL_TRACES_SAMPLER` …) are
for itself to read.
"""

import time
from contextlib import AbstractContextManager
from typing import Any

import psycopg
from falcon.asgi import Request, Response
from opentelemetry import context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Link, Span, SpanKind, StatusCode, Tracer, get_current_span, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from api.http.request_context import SCOPE, Arrived, plain
from api.worker.worker_loop import Worker
from projections.engine.sealed_log import came_by

ROUND_TRIPS = frozenset({"load", "append"})
_extract = TraceContextTextMapPropagator().extract


class Sending:
    """Makes spans and sends them, from the moment that a process serves: a thread does not live through a fork."""

    tracer: Tracer

    def begin(self, part: str) -> None:
        """Starts to send, to where OTEL_EXPORTER_OTLP_ENDPOINT says."""
        named = Resource.create({"service.name": "deskledger", "service.instance.id": part})
        self._provider = TracerProvider(resource=Resource.create().merge(named) if _unnamed() else Resource.create())
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self.tracer = self._provider.get_tracer("deskledger")

    def span(self, name: str, **attributes: object) -> AbstractContextManager[object]:
        """The span of a command, or of its share of a round trip, inside the one that is under way."""
        asks = name in ROUND_TRIPS
        return self.tracer.start_as_current_span(
            name,
            kind=SpanKind.CLIENT if asks else SpanKind.INTERNAL,
            attributes={
                f"deskledger.{key}": value if isinstance(value, int) else str(value)
                for key, value in attributes.items()
            },
            record_exception=False,  # its text may quote what somebody wrote
            set_status_on_exception=asks,  # a refusal of a command is an answer
        )

    def end(self) -> None:
        """Sends what waits."""
        self._provider.shutdown()


def _unnamed() -> bool:
    """Whether the operator has given no name of the service."""
    return str(Resource.create().attributes.get("service.name", "")).startswith("unknown_service")


class Spanned:
    """The span of each request: the parent is the one that `traceparent` names."""

    def __init__(self, sending: Sending) -> None:
        self._sending = sending

    async def process_startup(self, scope: dict[str, Any], event: dict[str, Any]) -> None:
        """Runs in each worker, after the fork."""
        self._sending.begin("api")

    async def process_shutdown(self, scope: dict[str, Any], event: dict[str, Any]) -> None:
        """Runs at the end."""
        self._sending.end()

    async def process_request(self, req: Request, resp: Response) -> None:
        """Runs once the request has its names; what is recorded for it gets this span for a parent."""
        header = req.get_header("traceparent")
        parent = _extract({"traceparent": header} if header else {}, context.Context())
        span = self._sending.tracer.start_span(req.method, parent, SpanKind.SERVER)
        arrived: Arrived = req.scope[SCOPE]
        arrived.traceparent = arrived.kept = written(span)
        req.context.span = span, context.attach(set_span_in_context(span))

    async def process_response(self, req: Request, resp: Response, resource: object, succeeded: bool) -> None:
        """Runs when the answer is known; the body of a stream comes later."""
        span, token = req.context.__dict__.get("span", (None, None))
        if span is None:
            return
        route = plain(req.uri_template) if req.uri_template else ""
        span.update_name(f"{req.method} {route}".strip())
        span.set_attribute("http.request.method", req.method)
        span.set_attribute("http.response.status_code", resp.status_code)
        if route:
            span.set_attribute("http.route", route)
        if resp.status_code >= 500:
            span.set_status(StatusCode.ERROR)
        context.detach(token)
        span.end()


class SpannedWorker(Worker):
    """The worker, with a span for each sealing pass and each step of the projections that had something to do."""

    _sending = Sending()

    def run(self) -> None:
        """As the worker's."""
        self._sending.begin("work")
        super().run()
        self._sending.end()

    def _seal(self, connection: psycopg.Connection[Any]) -> int:
        begun = time.time_ns()
        return self._noted("seal", begun, super()._seal(connection), connection)

    def _project(self, connection: psycopg.Connection[Any]) -> int:
        begun = time.time_ns()
        return self._noted("project", begun, super()._project(connection), connection)

    def _noted(self, name: str, begun: int, count: int, connection: psycopg.Connection[Any]) -> int:
        if count:
            ended = time.time_ns()
            links = [Link(found) for each in came_by(connection, count) if (found := _named(each)).is_valid]
            span = self._sending.tracer.start_span(name, context.Context(), links=links, start_time=begun)
            span.set_attribute("deskledger.events", count)
            span.end(ended)
        return count


def _named(traceparent: str) -> Any:
    return get_current_span(_extract({"traceparent": traceparent}, context.Context())).get_span_context()


def written(span: Span) -> str:
    """A span as a traceparent."""
    of = span.get_span_context()
    return f"00-{of.trace_id:032x}-{of.span_id:016x}-{int(of.trace_flags):02x}"
