"""What cannot be read as HTTP never reaches the application: it is answered with a problem all the same."""

import structlog

from api.http.middleware.request_rules import NOT_IMPLEMENTED
from api.http.middleware.response_headers import STRICT
from api.http.problems import MEDIA_TYPE, code_of, phrase, problem_document
from application.observability.metrics import UNREADABLE_REQUESTS
from application.observability.trace_context import child_of

TOO_SLOW = "The request did not come in time: headers within 10 s, the body within 30 s. Send it again."
UNPARSED_DETAILS = {  # what gunicorn finds is not always a sentence
    408: TOO_SLOW,
    414: "The first line of the request is too long: put less into the address, at most 8,190 bytes.",
    431: "The headers are too large: send at most 100, each of at most 8,190 bytes.",
    500: "That is our mistake, and it is in our log. Nothing is half recorded.",
    501: NOT_IMPLEMENTED,
    503: "The server has as many connections as it takes. Try again in a moment.",
}
log = structlog.get_logger()


def problem_bytes(status: int, message: str = "") -> bytes:
    """The whole answer, logged and counted, after which the connection ends."""
    made = child_of(None)
    named = {"request_id": made[36:52], "trace_id": made[3:35]}
    UNREADABLE_REQUESTS.add((str(status),))
    log.info("unreadable request", status=status, **named)
    detail = UNPARSED_DETAILS.get(status) or f"The server cannot read this request: {message[:200]}."
    body = problem_document(status, code_of(status), detail, "/", **named)
    lines = (
        f"HTTP/1.1 {status} {phrase(status)}",
        f"Content-Type: {MEDIA_TYPE}",
        f"Content-Length: {len(body)}",
        *(f"{name}: {value}" for name, value in STRICT.items()),
        f"x-request-id: {named['request_id']}",
        *(["Retry-After: 1"] if status == 503 else []),
        "Connection: close",
    )
    return "\r\n".join((*lines, "\r\n")).encode("latin-1") + body
