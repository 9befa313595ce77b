"""Every request as one log line and one count, whatever becomes of it, and under a name that it can be found by."""

import asyncio
import re
import time
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any
from uuid import UUID

import falcon.asgi
import msgspec
import structlog
from falcon.asgi import Request, Response
from falcon.routing import CompiledRouter

from api.http.request_context import SCOPE, Arrived, plain
from application.commands.procedure_commands import COMMANDS as ON_TICKETS
from application.observability.logs import HANDLER, is_console
from application.observability.metrics import COMMANDS_TOTAL, IN_PROGRESS, REQUESTS, UNREADABLE_REQUESTS
from application.observability.trace_context import child_of
from application.settings import Settings

NO_ROUTE = "-"
CLIENT_CLOSED_REQUEST = 499  # as nginx writes it: the client went away before there was an answer
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
BEGINS = {  # commands whose name is not part of their address
    ("POST", "/v1/requests"): "receive_request",
    ("POST", "/v1/tickets"): "open_ticket",
    ("PUT", "/v1/clients/{user_id}"): "register_client",
    ("POST", "/v1/queues/{queue}:claim_next"): "claim_next",
}
TICKET_PATTERN = "{ticket_id}"
_TICKET = re.compile(r"/v1/tickets/([0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12})[:/]?")
CLASSES = [f"{digit}xx" for digit in range(10)]
ON_TICKET = "/v1/tickets/{ticket_id}:{command}"
_encode = msgspec.json.Encoder().encode
log = structlog.get_logger()


class AccessLogEntry(msgspec.Struct, omit_defaults=True, gc=False):
    """A line of the access log. What is not known is left out; the duration is in seconds until it is written."""

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


class Arrival:
    """Names each request before anything is done for it."""

    async def process_request(self, req: Request, resp: Response) -> None:
        """Runs first."""
        arrived = req.scope[SCOPE] = Arrived(req, resp)
        resp.set_header("X-Request-Id", arrived.request_id)


class Watched(falcon.asgi.App[Request, Response]):
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
                self._note(scope, arrived, time.perf_counter() - begun, gone)

    def _note(self, scope: dict[str, Any], arrived: Arrived | None, seconds: float, gone: bool) -> None:
        method = scope["method"] if scope["method"] in METHODS else "other"
        if arrived is None:  # a method that falcon refuses before anything else
            self._write(
                AccessLogEntry(
                    "request",
                    "info",
                    datetime.now(UTC),
                    method,
                    NO_ROUTE,
                    CLIENT_CLOSED_REQUEST if gone else 400,
                    seconds,
                )
            )
            return
        req, resp = arrived.req, arrived.resp
        known = req.context.__dict__
        status = CLIENT_CLOSED_REQUEST if gone and resp.stream is None and resp.sse is None else resp.status_code
        template = req.uri_template or self._template(req)
        route = plain(template) if template else NO_ROUTE
        code, command = known.get("code"), BEGINS.get((method, route))
        if route == ON_TICKET and method == "POST":
            named = req.path.rpartition(":")[2]
            command = named if named in ON_TICKETS else "unknown"
        if command and self._counts:
            COMMANDS_TOTAL.add((command, code or result(resp, gone)))
        who = known.get("who")
        self._write(
            AccessLogEntry(
                "request",
                "info",
                datetime.now(UTC),
                method,
                route,
                status,
                seconds,
                arrived.request_id,
                arrived.traceparent[3:35],
                printable(who.id) if who else None,
                known.get("ticket_id") or (ticket_in(req.path) if TICKET_PATTERN in route else None),
                command,
                code,
            )
        )

    def _write(self, line: AccessLogEntry) -> None:
        if self._counts:
            REQUESTS.observe((line.method, line.route, CLASSES[line.status // 100]), line.duration_ms)
        if not self._logs:
            return
        line.duration_ms = int(line.duration_ms * 1e6) / 1000
        if self._console:
            shown = msgspec.to_builtins(line)
            log.info(shown.pop("event"), **{name: shown[name] for name in shown if name not in ("level", "timestamp")})
        else:
            HANDLER.enqueue(_encode(line) + b"\n")

    def _template(self, req: Request) -> str | None:
        """The route of a request that was refused before it was routed."""
        found = self._routes.find(req.path, req)
        return found[3] if found else None


def result(resp: Response, gone: bool) -> str:
    """What became of a command that no problem answers."""
    if gone:
        return "client_gone"
    return "replayed" if resp.get_header("Idempotency-Replayed") else "done"


def unreadable(status: int) -> dict[str, str]:
    """Counts and logs what came over a connection and was no request. Returns the names that its answer has."""
    made = child_of(None)
    named = {"request_id": made[36:52], "trace_id": made[3:35]}
    UNREADABLE_REQUESTS.add((str(status),))
    log.info("unreadable request", status=status, **named)
    return named


def ticket_in(path: str) -> str | None:
    """The ticket that an address names."""
    found = _TICKET.match(path)
    return found[1].lower() if found else None


@lru_cache(1024)
def printable(text: str) -> str:
    """A name as ASCII that says nothing to a terminal."""
    return text if text.isascii() and text.isprintable() else ascii(text)[1:-1]
