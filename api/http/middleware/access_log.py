"""Every request as one log line and one count, whatever becomes of it."""

import asyncio
import time
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import falcon.asgi
import msgspec
import structlog
from falcon import HTTP_METHODS
from falcon.asgi import Request, Response
from falcon.routing import CompiledRouter

from api.http.request_context import SCOPE, Arrived, plain
from application.commands.procedure_commands import COMMANDS as ON_TICKETS
from application.observability.logs import HANDLER, is_console
from application.observability.metrics import COMMANDS_TOTAL, IN_PROGRESS, REQUESTS
from application.settings import Settings

NO_ROUTE = "-"
CLIENT_CLOSED_REQUEST = 499  # as nginx writes it: the client went away before there was an answer
BEGINS = {  # commands whose name is not part of their address
    ("POST", "/v1/requests"): "receive_request",
    ("POST", "/v1/tickets"): "open_ticket",
    ("PUT", "/v1/clients/{user_id}"): "register_client",
    ("POST", "/v1/queues/{queue}:claim_next"): "claim_next",
}
ON_TICKET = "/v1/tickets/{ticket_id}:{command}"
_encode = msgspec.json.Encoder().encode
log = structlog.get_logger()


class AccessLine(msgspec.Struct, omit_defaults=True, gc=False):
    """A line of the access log; what is not known is left out."""

    event: str
    level: str
    timestamp: datetime
    method: str
    route: str
    status: int
    duration_ms: float
    request_id: str | None = None
    trace_id: str | None = None
    principal: str | None = None
    ticket_id: UUID | str | None = None
    command: str | None = None
    code: str | None = None


class LoggingApp(falcon.asgi.App[Request, Response]):
    """An application whose requests are logged and counted."""

    def watch(self, settings: Settings, router: CompiledRouter) -> None:
        """As the settings want it."""
        self._routes = router
        self._logs = settings.access_log and settings.log_level in ("debug", "info")
        self._counts = settings.metrics
        self._console = is_console()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:  # type: ignore[override]
        """Serves, and then says what it was."""
        if scope["type"] != "http":
            await super().__call__(scope, receive, send)
            return
        begun, gone = time.perf_counter(), False
        IN_PROGRESS.add()
        try:
            await super().__call__(scope, receive, send)
        except asyncio.CancelledError:
            gone = True
            raise
        finally:
            IN_PROGRESS.add(by=-1.0)
            arrived = scope.pop(SCOPE, None)  # or it, the request and the scope would wait for the garbage collector
            if self._logs or self._counts:
                self._log_request(scope["method"], arrived, time.perf_counter() - begun, gone)

    def _log_request(self, method: str, arrived: Arrived | None, seconds: float, gone: bool) -> None:
        method, status = method if method in HTTP_METHODS else "other", CLIENT_CLOSED_REQUEST if gone else 400
        milliseconds = int(seconds * 1e6) / 1000
        line = AccessLine("request", "info", datetime.now(UTC), method, NO_ROUTE, status, milliseconds)
        if arrived:  # else its method is one that falcon refuses before anything else
            self._describe(line, arrived, gone)
        if self._counts:
            REQUESTS.observe((method, line.route, f"{line.status // 100}xx"), seconds)
            if arrived and line.command:
                COMMANDS_TOTAL.add((line.command, line.code or result(arrived.resp, gone)))
        if self._logs:
            self._write(line)

    def _describe(self, line: AccessLine, arrived: Arrived, gone: bool) -> None:
        """Writes down what is known of a request and its answer."""
        req, resp, known = arrived.req, arrived.resp, arrived.req.context.__dict__
        template, params = req.uri_template, known.get("params", {})
        if template is None and (found := self._routes.find(req.path, req)):  # refused before it was routed
            params, template = found[2:]
        if template:
            line.route = plain(template)
        if not gone or resp.stream is not None or resp.sse is not None:
            line.status = resp.status_code
        line.request_id, line.trace_id = arrived.request_id, arrived.traceparent[3:35]
        if "who" in known:
            line.principal = printable(known["who"].id)
        line.ticket_id, line.code = known.get("ticket_id") or params.get("ticket_id"), known.get("code")
        line.command = BEGINS.get((line.method, line.route))
        if line.route == ON_TICKET and line.method == "POST":
            line.command = params["command"] if params["command"] in ON_TICKETS else "unknown"

    def _write(self, line: AccessLine) -> None:
        if self._console:
            shown = msgspec.to_builtins(line)
            log.info(shown.pop("event"), **{name: shown[name] for name in shown if name not in ("level", "timestamp")})
        else:
            HANDLER.enqueue(_encode(line) + b"\n")


def result(resp: Response, gone: bool) -> str:
    """What became of a command that no problem answers."""
    if gone:
        return "client_gone"
    return "replayed" if resp.get_header("Idempotency-Replayed") else "done"


def printable(text: str) -> str:
    """A name as ASCII that says nothing to a terminal."""
    return text if text.isascii() and text.isprintable() else ascii(text)[1:-1]
