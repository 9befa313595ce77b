"""The headers of the contract: what a request may carry and what an answer carries, as OpenAPI objects."""

from typing import Any

from api.http.request_parsing import IDEMPOTENCY_KEY, IF_MATCH

NUMBER = "^[0-9]+$"
QUOTED = '^"[^"]*"$'


def _header(description: str, pattern: str | None = None, *, required: bool = True) -> dict[str, Any]:
    schema = {"type": "string", "pattern": pattern} if pattern else {"type": "string"}
    return {"description": description, "required": required, "schema": schema}


TAKEN: dict[str, dict[str, Any]] = {
    "If-Match": _header(
        "The version that the caller decided on, in double quotes, as in the `ETag`; `*` for any. A command on a ticket"
        " cannot do without it: 428. Stale: 412 with what happened since.",
        IF_MATCH,
    ),
    "Idempotency-Key": _header(
        "The request may be sent again under this key, and is done once: the first answer comes again byte for byte,"
        " with `Idempotency-Replayed: true`. The key is the caller's own, for one request: method, address and body.",
        IDEMPOTENCY_KEY,
    ),
    "Prefer": _header(
        "`wait=5`: the answer of a command waits, at most so many seconds (30 at most), until lists and queues hold the"
        " change; a query that names `min_version` or `min_position` waits so long."
    ),
    "X-Correlation-Id": _header("The journey of the request, at most 200 printable characters: kept in the events."),
    "traceparent": _header("The W3C trace. It is kept in the events."),
    "Last-Event-ID": _header("With `text/event-stream`: the `id` to go on behind, whatever `after` says."),
    "If-None-Match": _header(
        "To read: the `ETag` of the copy that the caller has; 304 when it is the same still. To write: `*`, only where"
        " there is nothing yet; else 412."
    ),
}

GIVEN: dict[str, dict[str, Any]] = {
    "ETag": _header("The version of what is answered, in double quotes: for `If-Match`.", QUOTED),
    "Location": _header("The address of what was made."),
    "Deskledger-Position": _header("The position of the log that the answer stands at.", NUMBER),
    "Preference-Applied": _header(
        "Lists and queues hold what was waited for. Missing, they do not yet; a command is recorded either way.",
        "^wait=[0-9]+$",
        required=False,
    ),
    "Idempotency-Replayed": _header("This is the first answer, to a repetition.", "^true$", required=False),
    "Link": _header('The next page, as `rel="next"`.', required=False),
    "Deskledger-After": _header("The position to ask from next.", NUMBER, required=False),
    "Deskledger-Log": _header("The identity of the log: positions are of this one, and a restore begins another."),
    "X-Request-Id": _header("The name of this request in the desk's logs: the caller's own, if it sent one."),
    "RateLimit": _header('`"default";r=499;t=1`: 499 requests are left, all are back in a second.', required=False),
    "RateLimit-Policy": _header('`"default";q=500;w=10`: 500 requests may be sent in 10 seconds.', required=False),
    "Retry-After": _header("The seconds after which to try again.", NUMBER),
    "WWW-Authenticate": _header("How to say who asks."),
    "Cache-Control": _header("How long the answer may be kept."),
}
