"""The headers of the contract: what a request may carry and what an answer carries, with form and words."""

from typing import Any

import msgspec

from api.http.request_parsing import IDEMPOTENCY_KEY, IF_MATCH


class Header(msgspec.Struct, frozen=True):
    """A header: what it says, how it is written, and whether it is always there."""

    says: str
    schema: dict[str, Any]
    example: str
    always: bool = True


NUMBER_SCHEMA = {"type": "string", "pattern": "^[0-9]+$"}
QUOTED = {"type": "string", "pattern": '^"[^"]*"$'}
TEXT = {"type": "string"}

TAKEN: dict[str, Header] = {
    "If-Match": Header(
        "The version that the command was decided on, in double quotes, as in the `ETag`; `*` for any."
        " Missing: 428. Stale: 412 with what happened since.",
        {"type": "string", "pattern": IF_MATCH},
        '"5"',
    ),
    "Idempotency-Key": Header(
        "The request may be sent again under this key, and is done once: the first answer comes again byte for byte,"
        " with `Idempotency-Replayed: true`. The key is the caller's own, for one request: method, address and body.",
        {"type": "string", "pattern": IDEMPOTENCY_KEY},
        "0d1f7bc2-5a10-4c5b-8f0e-6a2f7f1c9b3d",
        always=False,
    ),
    "Prefer": Header(
        "`wait=5`: the answer of a command waits, at most so many seconds (30 at most), until lists and queues hold the"
        " change; a query that names `min_version` or `min_position` waits so long.",
        TEXT,
        "wait=5",
        always=False,
    ),
    "X-Correlation-Id": Header(
        "The journey that a request belongs to, at most 200 printable characters. It is kept in the events.",
        TEXT,
        "onboarding-2026-11",
        always=False,
    ),
    "traceparent": Header(
        "The W3C trace. It is kept in the events.",
        TEXT,
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        always=False,
    ),
    "Last-Event-ID": Header(
        "With `text/event-stream`: the `id` of the last event that was got. The stream goes on behind it, and `after`"
        " does not count.",
        TEXT,
        "4711",
        always=False,
    ),
    "If-None-Match": Header(
        "The `ETag` of the copy that the caller has: 304 when it is the same still.", TEXT, '"5f0c"', always=False
    ),
}

GIVEN: dict[str, Header] = {
    "ETag": Header("The version of what is answered, in double quotes: for `If-Match`.", QUOTED, '"5"'),
    "Location": Header("The address of what was made.", TEXT, "/v1/tickets/019ab000-7c00-7000-8000-00000000002a"),
    "Deskledger-Position": Header("The position of the log that the answer stands at.", NUMBER_SCHEMA, "4711"),
    "Preference-Applied": Header(
        "Lists and queues hold the change, or the query has what it waited for. Missing, the wait was in vain; a"
        " command is recorded either way.",
        {"type": "string", "pattern": "^wait=[0-9]+$"},
        "wait=5",
        always=False,
    ),
    "Idempotency-Replayed": Header(
        "This is the first answer to the request, which has come again.",
        {"type": "string", "enum": ["true"]},
        "true",
        always=False,
    ),
    "Link": Header(
        'The next page, as `rel="next"`.', TEXT, '</v1/tickets?cursor=WyJ0aWNrZXRzIl0>; rel="next"', always=False
    ),
    "Deskledger-After": Header("The position to ask from next.", NUMBER_SCHEMA, "4711", always=False),
    "X-Request-Id": Header(
        "The name of this request in the desk's logs: the caller's own, if it sent one.", TEXT, "3f1c"
    ),
    "RateLimit": Header(
        "How many requests are left, and in how many seconds all of them are back. Where the desk has a limit.",
        {"type": "string", "pattern": '^"default";r=[0-9]+;t=[0-9]+$'},
        '"default";r=499;t=1',
        always=False,
    ),
    "RateLimit-Policy": Header(
        "How many requests may be sent in how many seconds.",
        {"type": "string", "pattern": '^"default";q=[0-9]+;w=[0-9]+$'},
        '"default";q=500;w=10',
        always=False,
    ),
    "Retry-After": Header("The seconds after which to try again.", NUMBER_SCHEMA, "2"),
    "WWW-Authenticate": Header("How to say who asks.", TEXT, 'Bearer realm="deskledger"'),
    "Allow": Header("The methods that the address takes.", TEXT, "GET, HEAD, OPTIONS"),
    "Cache-Control": Header("How long the answer may be kept.", TEXT, "no-cache"),
}
