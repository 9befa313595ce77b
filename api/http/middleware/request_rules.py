"""What comes first: a request is named, and refused where HTTP demands what gunicorn does not."""

from collections.abc import Hashable
from functools import cache
from typing import Any

from falcon.asgi import Request, Response

from api.http.problems import Problem
from api.http.request_context import SCOPE, Arrived
from api.http.request_parsing import require_kept

LENGTH_MOST_DIGITS = 100  # of a length
NOT_IMPLEMENTED = "Transfer-Encoding takes chunked alone, and there is no WebSocket here."


class Arrival:
    """Names each request; refuses what RFC 9112 does not allow and gunicorn lets through: 3.2 (a Host), 6.1 (codings
    that nobody undoes here)."""

    async def process_request(self, req: Request, resp: Response) -> None:
        """Runs first, before anybody is asked for a key. Raises Problem: 400, 501."""
        arrived = req.scope[SCOPE] = Arrived(req, resp)
        resp.set_header("X-Request-Id", arrived.request_id)
        if req.get_header("Host") is None and req.scope["http_version"] != "1.0":
            raise Problem(400, "bad_request", "HTTP/1.1 demands the header Host.")
        if len(req.get_header("Content-Length") or "") > LENGTH_MOST_DIGITS:
            raise Problem(400, "bad_request", "Content-Length has more digits than any body has bytes.")
        codings = req.get_header("Transfer-Encoding")
        if codings and codings.strip().lower() != "chunked":
            raise Problem(501, "not_implemented", NOT_IMPLEMENTED)

    async def process_resource(self, req: Request, resp: Response, resource: Hashable, params: dict[str, Any]) -> None:
        """Runs when the route is known: what its template names is for the log, too.

        Raises Problem with status 400 for a condition that the resource does not keep.
        """
        req.context.params = params
        if req.method in changing_methods(resource):
            require_kept(req, getattr(resource, "keeps", ()))


@cache
def changing_methods(resource: Hashable) -> frozenset[str]:
    """The methods by which something under an address of this resource is changed; any other is 405."""
    found = {name.split("_")[1].upper() for name in dir(resource) if name.startswith("on_")}
    return frozenset(found - {"GET", "HEAD", "OPTIONS"})
