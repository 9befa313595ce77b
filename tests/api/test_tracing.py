"""One journey, one trace: from the header of a request to its events, the worker's lines, the mail and the spans."""

import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from structlog.testing import capture_logs

from api.telemetry.process_watch import sends_spans
from application.observability.trace_context import child_of, trace_of
from application.settings import Settings
from application.store.postgres.database import connect
from tests.support.running_desk import ROOT, RunningDesk, wait_until

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SENT = f"00-{TRACE}-{SPAN}-01"
WELL_FORMED = re.compile(r"00-[0-9a-f]{32}-[0-9a-f]{16}-0[0-3]")
BAD = [
    None,
    "",
    "nonsense",
    f"00-{TRACE}-{SPAN}",
    f"00-{TRACE.upper()}-{SPAN}-01",
    f"00-{'0' * 32}-{SPAN}-01",
    f"00-{TRACE}-{'0' * 16}-01",
    f"ff-{TRACE}-{SPAN}-01",
    f"00-{TRACE}-{SPAN}-01-more",
    f"00-{TRACE}-{SPAN}-01\n",
    f"01-{TRACE}-{SPAN}-01-{'x' * 300}",
]


@pytest.mark.parametrize("given", [SENT, f"00-{TRACE}-{SPAN}-00", f"01-{TRACE}-{SPAN}-01-what-comes-later"])
def test_a_trace_goes_on(given: str) -> None:
    """The trace stays, its flag too, and each piece of work has a span of its own (W3C Trace Context, section 3)."""
    first, second = child_of(given), child_of(given)
    assert WELL_FORMED.fullmatch(first)
    assert (trace_of(first), trace_of(given), first[-2:]) == (TRACE, TRACE, given[53:55])
    assert len({given[36:52], first[36:52], second[36:52]}) == 3


@pytest.mark.parametrize("given", BAD)
def test_what_cannot_be_read_begins_anew(given: str | None) -> None:
    """A new trace, which nobody has recorded so far; another one each time."""
    first, second = child_of(given), child_of(given)
    assert WELL_FORMED.fullmatch(first)
    assert first.endswith("-00")
    assert len({TRACE, trace_of(first), trace_of(second)}) == 3


@pytest.mark.parametrize("given", [None, "nonsense"])
def test_nothing_has_no_trace(given: str | None) -> None:
    """Of what is none, there is no trace."""
    assert trace_of(given) is None


def events(served: RunningDesk, ticket: str) -> list[tuple[str, str]]:
    """The type of each event of a ticket and the traceparent that is kept with it."""
    query = "select type, meta->>'traceparent' from events where stream_id = %s order by version"
    with connect(served.database, "test") as connection:
        return connection.execute(query, (ticket,)).fetchall()


def test_from_the_request_to_the_mail(served: RunningDesk) -> None:
    """The trace of the command that closes a ticket is in its event, in the mail, and in the event of the mail."""
    ticket = served.ticket()
    verdict = {"satisfied": True, "confirmed_via": "phone", "comment": "it prints again"}
    details = {"cause": "no toner", "actions": "toner replaced", "checked_by_method": "test page"}
    served.do(ticket, "resolve", resolution="new toner")
    served.do(ticket, "verify", key=served.checker, **verdict)
    served.do(ticket, "document_resolution", **details)
    headers = {"If-Match": "*", "traceparent": SENT}
    assert served.request("POST", f"/v1/tickets/{ticket}:close", {}, headers=headers).status == 200
    wait_until(lambda: served.mailbox.messages, "the mail has come")
    by_type = dict(events(served, ticket))
    (mail,) = served.mailbox.messages
    assert WELL_FORMED.fullmatch(by_type["Ticket.Closed"])
    assert trace_of(mail["traceparent"]) == trace_of(by_type["Ticket.Closed"]) == TRACE
    assert mail["traceparent"] != by_type["Ticket.Closed"]
    wait_until(lambda: "Ticket.ClosureEmailSent" in dict(events(served, ticket)), "the outcome is recorded")
    assert trace_of(dict(events(served, ticket))["Ticket.ClosureEmailSent"]) == trace_of(by_type["Ticket.Closed"])


def test_events_keep_the_trace_that_was_sent(served: RunningDesk) -> None:
    """With a span of the request's own; one that is known to nobody else is in the log and in problems only."""
    ticket = served.ticket()
    path = f"/v1/tickets/{ticket}:add_note"
    for number, header in enumerate((SENT, "nonsense")):
        served.request("POST", path, {"text": str(number)}, headers={"traceparent": header})
    *opening, sent, other = [traceparent for _, traceparent in events(served, ticket)]
    assert {other, *opening} == {None}
    assert trace_of(sent) == TRACE
    assert sent != SENT
    headers = {"traceparent": SENT, "X-Correlation-Id": "journey-7"}
    entry = {"name": "Client 7", "email": "client-7@example.org"}
    assert served.request("PUT", "/v1/clients/client-7", entry, headers=headers).status == 201
    with connect(served.database, "test") as connection:
        row = connection.execute("select meta from events where body->>'user_id' = 'client-7'").fetchone()
    meta = json.loads(row[0])
    assert (trace_of(meta["traceparent"]), meta["correlation_id"]) == (TRACE, "journey-7")
    refused = served.request("POST", path, {}, headers={"traceparent": SENT})
    assert (refused.status, refused.json["trace_id"]) == (422, TRACE)
    refused = served.request("POST", path, {}, headers={"traceparent": "nonsense"})
    assert re.fullmatch("[0-9a-f]{32}", refused.json["trace_id"])


# ── OpenTelemetry ───────────────────────────────────────────────────────────────────────────────────────────


class Collector:
    """A receiver of OTLP over HTTP on loopback: keeps the spans that it is sent."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.services: set[str] = set()
        keep = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                request = ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["Content-Length"])))
                for resource in request.resource_spans:
                    for attribute in resource.resource.attributes:
                        if attribute.key == "service.name":
                            keep.services.add(attribute.value.string_value)
                    for scope in resource.scope_spans:
                        keep.spans += scope.spans
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Says nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def named(self, name: str) -> list[Any]:
        """The spans of this name that came."""
        return [span for span in self.spans if span.name == name]


@pytest.fixture
def collector() -> Iterator[Collector]:
    """A receiver that runs."""
    collector = Collector()
    thread = threading.Thread(target=collector.server.serve_forever)
    thread.start()
    yield collector
    collector.server.shutdown()
    thread.join()
    collector.server.server_close()


def test_spans_reach_a_collector(database: str, tmp_path: Path, collector: Collector) -> None:
    """A request's span has the sent one for a parent, the command's has the request's, loading and appending the
    command's; what is recorded names the request's span, and the worker's spans are linked to it."""
    served = RunningDesk(database, tmp_path, workers=1)
    served.environment |= {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "100"}
    with served:
        ticket = served.ticket()
        headers = {"traceparent": SENT}
        assert served.request("POST", f"/v1/tickets/{ticket}:add_note", {"text": "x"}, headers=headers).status == 200
        assert served.request("POST", f"/v1/tickets/{ticket}:add_note", {"text": " "}, headers=headers).status == 422
        served.caught_up()
        recorded = events(served, ticket)[-1][1]
    trace = bytes.fromhex(TRACE)
    route = "POST /v1/tickets/{ticket_id}:{command}"
    done, refused = [span for span in collector.named(route) if span.trace_id == trace]
    assert (done.parent_span_id.hex(), refused.parent_span_id.hex()) == (SPAN, SPAN)
    (command,) = [span for span in collector.named("command add_note") if span.trace_id == trace]
    assert command.parent_span_id == done.span_id
    for name in ("load", "append"):
        (part,) = [span for span in collector.named(name) if span.trace_id == trace]
        assert part.parent_span_id == command.span_id
    assert recorded == f"00-{TRACE}-{done.span_id.hex()}-01"
    for name in ("seal", "project"):
        links = [link.span_id for span in collector.named(name) for link in span.links if link.trace_id == trace]
        assert done.span_id in links
    assert collector.services == {"deskledger"}
    attributes = {one.key: one.value for one in refused.attributes}
    assert attributes["http.response.status_code"].int_value == 422
    assert attributes["http.route"].string_value == "/v1/tickets/{ticket_id}:{command}"


def test_nothing_of_it_is_imported_unless_it_is_wanted() -> None:
    """Without the setting, neither part imports the library, nor the module that would use it."""
    program = """if True:
        import json, sys
        from api.http.app import create_app
        from api.worker.worker_loop import no_trace, tracing
        from application.settings import Settings
        settings = Settings(database_url="postgresql://nobody@127.0.0.1/nothing")
        create_app(settings)
        with tracing(settings) as trace:
            assert trace is no_trace
        loaded = [name for name in sys.modules if name.startswith("opentelemetry") or name.endswith("_spans")]
        loaded += [name for name in sys.modules if name == "api.telemetry.span_exporter"]
        print(json.dumps(loaded))"""
    ran = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert json.loads(ran.stdout) == []


def test_a_wish_that_cannot_be_met_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the setting and without the library, the parts run as without both, and a line says what to install."""
    wanted = Settings(otlp_endpoint="http://127.0.0.1:4318")
    assert sends_spans(wanted)
    assert not sends_spans(Settings())
    for name in [
        *[name for name in sys.modules if name.startswith("opentelemetry.exporter")],
        "opentelemetry.exporter",
    ]:
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter", None)
    with capture_logs() as logged:
        assert not sends_spans(wanted)
    assert "install deskledger[otel]" in logged[0]["event"]
