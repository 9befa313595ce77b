"""A request's span, for OpenTelemetry. Imported only where spans are sent."""

from typing import Any

from falcon.asgi import Request, Response
from opentelemetry import context
from opentelemetry.trace import SpanKind, StatusCode, set_span_in_context

from api.http.request_context import SCOPE, Arrived, plain
from api.telemetry.span_exporter import Sending, context_of


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
        parent = context_of(req.get_header("traceparent"))
        span = self._sending.tracer.start_span(req.method, parent, SpanKind.SERVER)
        arrived: Arrived = req.scope[SCOPE]
        of = span.get_span_context()
        arrived.traceparent = arrived.kept = f"00-{of.trace_id:032x}-{of.span_id:016x}-{int(of.trace_flags):02x}"
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
