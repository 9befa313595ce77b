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
from application.commands.idempotency import KeyReused
from application.observability.logs import error_summary
from application.store.event_store import NotReadable
from application.store.postgres.pg_connection import Unavailable
from domain import errors, roles
from domain.values import Principal
from projections.queries.pages import BadCursor
from projections.queries.ticket_view import Placed, client_history, event_views

MEDIA_TYPE = "application/problem+json"
TYPE = "urn:deskledger:problem:"
RETRY_SECONDS = "2"
UPDATE_SECONDS = "60"
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
    """An error that belongs to HTTP: `code` is its stable name, `errors` points at what is wrong in the body."""

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        errors: list[dict[str, str]] | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status, self.code, self.detail = status, code, detail
        self.errors, self.headers = errors, headers or {}


def install(app: falcon.asgi.App[Any, Any]) -> None:
    """Sends every error of every kind through here."""
    app.set_error_reporter(_unanswered)
    app.add_error_handler(Exception, _unexpected)
    app.add_error_handler(falcon.HTTPError, _http_error)
    app.add_error_handler(errors.DeskError, _desk_error)
    app.add_error_handler(BadCursor, _bad_cursor)
    app.add_error_handler(Unavailable, _unavailable)
    app.add_error_handler(psycopg.OperationalError, _unavailable)  # its disk is full, it is shutting down, …
    app.add_error_handler(psycopg.errors.ReadOnlySqlTransaction, _unavailable)  # it is a standby now
    app.add_error_handler(KeyReused, _key_reused)
    app.add_error_handler(NotReadable, _not_readable)
    app.add_error_handler(Problem, _problem)


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


def write(req: Request, resp: Response, status: int, code: str, detail: str, **more: Any) -> None:
    """Makes the response a problem; members that are None are left out."""
    resp.status = status
    resp.content_type = MEDIA_TYPE
    req.context.code = code
    resp.data = problem_document(status, code, detail, req.path, **more, **names(req))
    resp.text = resp.media = None


async def _desk_error(req: Request, resp: Response, error: errors.DeskError, params: Any) -> None:
    status = next(status for kind, status in STATUS.items() if isinstance(error, kind))
    more: dict[str, Any] = {}
    match error:
        case errors.Refused():
            more = {"step": error.step, "allowed_commands": list(error.possible)}
        case errors.Unacceptable() if error.pointer:
            more = {"errors": [{"pointer": error.pointer, "detail": error.detail}]}
        case errors.StaleVersion():
            more = {"current_version": error.current_version, "missed_events": event_views(_missed(req, error))}
    write(req, resp, status, error.code, error.detail, **more)


def _missed(req: Request, error: errors.StaleVersion) -> list[Placed]:
    who: Principal = req.context.who
    missed: list[Placed] = [(None, recorded) for recorded in error.missed]
    return client_history(missed, who.client_user_id) if roles.sees_only_own(who) else missed


async def _problem(req: Request, resp: Response, error: Problem, params: Any) -> None:
    for name, value in error.headers.items():
        resp.set_header(name, value)
    write(req, resp, error.status, error.code, error.detail, errors=error.errors)


async def _bad_cursor(req: Request, resp: Response, error: BadCursor, params: Any) -> None:
    detail = BadCursor.__doc__ or ""
    write(req, resp, 400, "bad_cursor", detail, errors=[{"pointer": "/cursor", "detail": detail}])


async def _key_reused(req: Request, resp: Response, error: KeyReused, params: Any) -> None:
    write(req, resp, 422, "idempotency_key_reused", KeyReused.__doc__ or "")


async def _unavailable(req: Request, resp: Response, error: Exception, params: Any) -> None:
    log.warning("database unavailable", reason=error_summary(error), **names(req))
    resp.set_header("Retry-After", RETRY_SECONDS)
    detail = "The database does not answer now. Nothing is half recorded: read the ticket again, then retry."
    write(req, resp, 503, "database_unavailable", detail)


async def _not_readable(req: Request, resp: Response, error: NotReadable, params: Any) -> None:
    log.error("unreadable event", stream_id=str(error.stream_id), version=error.version, type=error.type, **names(req))
    resp.set_header("Retry-After", UPDATE_SECONDS)
    detail = (
        f"Event {error.version} of this ticket or client, {error.type}, cannot be read by this program: a newer one"
        " recorded it, or it is damaged. Nothing is done. The operator has to update the desk, or restore the event."
    )
    write(req, resp, 503, "unreadable_event", detail)


async def _http_error(req: Request, resp: Response, error: falcon.HTTPError, params: Any) -> None:
    resp.set_headers(error.headers or {})
    status = error.status_code
    text = CLEARER_DETAILS.get(error.description or "", error.description)
    detail = text or HTTP_ERROR_DETAILS.get(status, error.title or phrase(status))
    write(req, resp, status, code_of(status), detail)


def _unanswered(req: Request, error: Exception, params: Any, handled: bool) -> None:
    """What went wrong when it was too late for a problem: a stream that broke, or an error in here."""
    if not handled:
        log.error("unexpected error", route=req.uri_template, method=req.method, **names(req), exc_info=error)


async def _unexpected(req: Request, resp: Response, error: Exception, params: Any) -> None:
    log.error("unexpected error", route=req.uri_template, method=req.method, **names(req), exc_info=error)
    write(req, resp, 500, "internal_error", "That is our mistake, and it is in our log. Nothing is half recorded.")


def code_of(status: int) -> str:
    """The code of a problem that has no name but its status; Python's phrases are not the same in all versions."""
    return CODES.get(status, f"http_{status}")


PHRASES = {413: "Content Too Large", 414: "URI Too Long", 422: "Unprocessable Content"}
CODES = {
    400: "bad_request",
    404: "not_found",
    405: "method_not_allowed",
    406: "not_acceptable",
    408: "request_timeout",
    414: "uri_too_long",
    415: "unsupported_media_type",
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
