"""What a request is known by while it is served: its names, its trace, and its route as the contract writes it."""

import re
from functools import cache
from typing import Protocol

from falcon.asgi import Request, Response

from application.observability.trace_context import child_of

SCOPE, SCOPE_CONNECTION = "deskledger.arrived", "deskledger.connection"
_REQUEST_ID = re.compile(r"[A-Za-z0-9._~+/=:-]{1,128}")


class Arrived:
    """A request and its answer, and the names that it can be found by."""

    __slots__ = ("kept", "req", "request_id", "resp", "traceparent")

    def __init__(self, req: Request, resp: Response) -> None:
        self.req, self.resp = req, resp
        sent, wanted = req.get_header("traceparent"), req.get_header("X-Request-Id")
        self.traceparent = child_of(sent)
        # what is recorded for a request names its trace where somebody else knows it, too
        self.kept = self.traceparent if sent and self.traceparent[3:35] == sent[3:35] else None
        self.request_id = wanted if wanted and _REQUEST_ID.fullmatch(wanted) else self.traceparent[36:52]


class ClientConnection(Protocol):
    """The connection that a request came over, as the server guards it."""

    half_closed: bool  # the client sends nothing more, and may still read

    def is_closing(self) -> bool:
        """Whether its end has begun."""

    def abort(self) -> None:
        """Cuts it."""


def names(req: Request) -> dict[str, str]:
    """The names of a request, for a log line or a problem; none for what is no request."""
    arrived = req.scope.get(SCOPE)
    return {"request_id": arrived.request_id, "trace_id": arrived.traceparent[3:35]} if arrived else {}


def traceparent(req: Request) -> str | None:
    """What is recorded for a request belongs to this; None where nobody but the log has heard of its trace."""
    arrived = req.scope.get(SCOPE)
    return arrived.kept if arrived else None


@cache
def plain(template: str) -> str:
    """A route's template as the contract writes it, without the converters."""
    return re.sub(r":\w+\}", "}", template)
