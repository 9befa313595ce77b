"""Errors as RFC 9457 problems: one table from error class to status, one funnel for all of them."""

from http import HTTPStatus
from typing import Any
from urllib.parse import quote

import falcon
import falcon.asgi
import msgspec
import psycopg
import structlog
from falcon.asgi import Request, Response

from api.http.request_context import names
from application.commands.command_handler import ClockOff
from application.commands.idempotency import KeyReused
from application.observability.logs import error_summary
from application.store.event_store import NotReadable
from application.store.postgres.pg_connection import Unavailable
from domain import errors
from projections.queries.pages import BadCursor
from projections.queries.ticket_view import EventView, event_views

MEDIA_TYPE = "application/problem+json"
TYPE = "urn:deskledger:problem:"
IN_PATHS = "/:@!$&'()*+,;=~"  # RFC 3986, pchar: everything else in a path is percent-encoded
STATUS: dict[type[errors.DeskError], int] = {
    errors.Refused: 409,
    errors.Unacceptable: 422,
    errors.Forbidden: 403,
    errors.NotFound: 404,
    errors.StaleVersion: 412,
}
log = structlog.get_logger()


class Problem(Exception):
    """An error that belongs to HTTP: `code` is its stable name, `more` are the members that its document has beside.

    `errors` among them points at what is wrong in the body. Those that are None are left out.
    """

    def __init__(self, status: int, code: str, detail: str, headers: dict[str, str] | None = None, **more: Any) -> None:
        super().__init__(detail)
        self.status, self.code, self.detail = status, code, detail
        self.headers, self.more = headers or {}, more


def install(app: falcon.asgi.App[Any, Any]) -> None:
    """Sends every error of every kind through here."""
    app.set_error_reporter(_report)
    for kind in (Exception, falcon.HTTPError):  # falcon has an own handler for the latter
        app.add_error_handler(kind, _answer)


def problem_document(status: int, code: str, detail: str, path: str, **more: Any) -> bytes:
    """A problem document; members that are None are left out."""
    members = {
        "type": TYPE + code,
        "title": phrase(status),
        "status": status,
        "detail": detail,
        "instance": quote(path, safe=IN_PATHS, errors="replace"),
        "code": code,
        **{name: value for name, value in more.items() if value is not None},
    }
    return msgspec.json.encode(members)


def phrase(status: int) -> str:
    """What a status is called in RFC 9110; Python's names are not the same in all versions."""
    return PHRASES.get(status) or HTTPStatus(status).phrase


async def _answer(req: Request, resp: Response, error: Exception, params: Any) -> None:
    problem = problem_for(req, error)
    req.context.code = problem.code
    resp.set_headers(problem.headers)
    resp.status, resp.content_type = problem.status, MEDIA_TYPE
    more = problem.more | names(req)
    resp.data = problem_document(problem.status, problem.code, problem.detail, req.path, **more)


def problem_for(req: Request, error: Exception) -> Problem:
    """The problem that an error is answered with."""
    match error:
        case Problem():
            return error
        case errors.DeskError():
            return _desk_problem(req, error)
        case falcon.HTTPError():
            return _http_problem(error)
        case BadCursor():
            detail = BadCursor.__doc__ or ""
            return Problem(400, "bad_cursor", detail, errors=[{"pointer": "/cursor", "detail": detail}])
        case KeyReused():
            return Problem(422, "idempotency_key_reused", KeyReused.__doc__ or "")
        case ClockOff():
            return Problem(503, "clock_off", ClockOff.__doc__ or "", headers={"Retry-After": "10"})
        case NotReadable():
            return _not_readable(req, error)
        # its disk is full, it is shutting down, it is a standby now, …
        case Unavailable() | psycopg.OperationalError() | psycopg.errors.ReadOnlySqlTransaction():
            return _unavailable(req, error)
    return Problem(500, "internal_error", "That is our mistake, and it is in our log. Nothing is half recorded.")


def _desk_problem(req: Request, error: errors.DeskError) -> Problem:
    more: dict[str, Any] = {}
    match error:
        case errors.Refused():
            more = {"step": error.step, "allowed_commands": list(error.possible)}
        case errors.Unacceptable() if error.pointer:
            more = {"errors": [{"pointer": error.pointer, "detail": error.detail}]}
        case errors.StaleVersion():
            more = {"current_version": error.current_version, "missed_events": _missed(req, error)}
    status = next(status for kind, status in STATUS.items() if isinstance(error, kind))
    return Problem(status, error.code, error.detail, **more)


def _missed(req: Request, error: errors.StaleVersion) -> list[EventView]:
    return event_views([(None, recorded) for recorded in error.missed], req.context.who)


def _unavailable(req: Request, error: Exception) -> Problem:
    log.warning("database unavailable", reason=error_summary(error), **names(req))
    detail = "The database does not answer now. Nothing is half recorded: read the ticket again, then retry."
    return Problem(503, "database_unavailable", detail, headers={"Retry-After": "2"})


def _not_readable(req: Request, error: NotReadable) -> Problem:
    log.error("unreadable event", stream_id=str(error.stream_id), version=error.version, type=error.type, **names(req))
    detail = (
        f"Event {error.version} of this ticket or client, {error.type}, cannot be read by this program: a newer one"
        " recorded it, or it is damaged. Nothing is done. The operator has to update the desk, or restore the event."
    )
    return Problem(503, "unreadable_event", detail, headers={"Retry-After": "60"})


def _http_problem(error: falcon.HTTPError) -> Problem:
    status = error.status_code
    text = CLEARER_DETAILS.get(error.description or "", error.description)
    detail = text or HTTP_ERROR_DETAILS.get(status, error.title or phrase(status))
    return Problem(status, code_of(status), detail, headers=dict(error.headers or {}))


def _report(req: Request, error: Exception, params: Any, handled: bool) -> None:
    """Logs our own mistakes: also what went wrong when it was too late for a problem, as in a stream that broke."""
    if not handled or req.context.code == "internal_error":
        log.error("unexpected error", route=req.uri_template, method=req.method, **names(req), exc_info=error)


def code_of(status: int) -> str:
    """The code of a problem that has no name but its status; Python's phrases are not the same in all versions."""
    return CODES.get(status, f"http_{status}")


PHRASES = {413: "Content Too Large", 414: "URI Too Long", 422: "Unprocessable Content"}
CODES = {
    400: "bad_request",
    404: "not_found",
    405: "method_not_allowed",
    408: "request_timeout",
    414: "uri_too_long",
    431: "headers_too_large",
    500: "internal_error",
    501: "not_implemented",
    503: "too_many_connections",
}
# falcon's words
CLEARER_DETAILS = {"Invalid HTTP method": "There is no such method; OPTIONS says which ones an address takes."}
HTTP_ERROR_DETAILS = {
    404: "There is nothing at this address.",
    405: "This address does not take that method; the header Allow names those that it takes.",
}
