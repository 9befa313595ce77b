"""OpenTelemetry, where it is installed and told where to send.

Without it this module is not imported. The library's own settings (`OTEL_SERVICE_NAME`, `OTEL_TRACES_SAMPLER` …) are
for itself to read.
"""

from contextlib import AbstractContextManager

from opentelemetry import context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

ROUND_TRIPS = frozenset({"load", "append"})
_extract = TraceContextTextMapPropagator().extract


class Sending:
    """Makes spans and sends them, from the moment that a process serves: a thread does not live through a fork."""

    tracer: Tracer

    def begin(self, part: str) -> None:
        """Starts to send, to where OTEL_EXPORTER_OTLP_ENDPOINT says."""
        ours = Resource.create({"service.name": "deskledger", "service.instance.id": part})
        # what the operator has set comes last, and stands
        self._provider = TracerProvider(resource=ours.merge(OTELResourceDetector().detect()))
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


def context_of(traceparent: str | None) -> context.Context:
    """The context that a traceparent names; an empty one where there is none."""
    return _extract({"traceparent": traceparent} if traceparent else {}, context.Context())
