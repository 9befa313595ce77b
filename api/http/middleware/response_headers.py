"""The headers of every answer: what may be kept, what a browser may do with it, OPTIONS, Accept, other origins."""

from collections.abc import Mapping
from typing import Any

from falcon import CORSMiddleware, HTTPRouteNotFound
from falcon.asgi import Request, Response
from falcon.routing import CompiledRouter

from api.http.paging import JSON
from api.http.problems import Problem
from api.http.request_context import plain

NOTHING = "default-src 'none'; frame-ancestors 'none'"  # what a browser may load for, or do with, an answer
STRICT = {
    "cache-control": "no-store",
    "content-security-policy": NOTHING,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}
ONLY_JSON = (JSON,)


class ResponseHeaders:
    """Answers OPTIONS without a key, and 406 to an Accept that nothing fits; adds what every answer carries.

    `media` says for the templates of the contract what an address answers with; the others answer with JSON alone.
    """

    def __init__(self, router: CompiledRouter, media: Mapping[str, tuple[str, ...]]) -> None:
        self._router, self._media = router, media

    async def process_request(self, req: Request, resp: Response) -> None:
        """Runs before anybody is asked for a key: which methods an address takes, everybody may know."""
        resp.set_headers(STRICT)  # what a resource says itself stands: it says it later
        if req.method == "OPTIONS":
            found = self._router.find(req.path, req)
            if found is None:
                raise HTTPRouteNotFound
            responders: Any = found[1]
            await responders["OPTIONS"](req, resp)  # falcon's own says in Allow what else the address takes
            resp.set_header("Allow", ", ".join(sorted(["OPTIONS", *(resp.get_header("Allow") or "").split(", ")])))
            resp.status, resp.complete = 204, True

    async def process_resource(self, req: Request, resp: Response, resource: object, params: dict[str, Any]) -> None:
        """Runs when the route is known, and before anything is done."""
        media = self._media.get(plain(req.uri_template or ""), ONLY_JSON)
        if req.accept not in ("*/*", *media) and req.client_prefers(media) is None:
            raise Problem(406, "not_acceptable", f"This comes as {', '.join(media)}: name one of them in Accept.")

    async def process_response(self, req: Request, resp: Response, resource: object, succeeded: bool) -> None:
        """Runs after every request, also after one that was refused before anything else."""
        if resp.get_header("Cache-Control") is None:
            resp.set_headers(STRICT)


class Origins(CORSMiddleware[Request, Response]):
    """Lets the pages of other origins use the API (fetch.spec.whatwg.org, CORS): those of the setting, or all.

    They may read the headers that are `exposed`.
    """

    def __init__(self, origins: str, exposed: tuple[str, ...]) -> None:
        super().__init__("*" if origins == "*" else origins.split(","), expose_headers=exposed)

    async def process_response_async(self, req: Request, resp: Response, resource: object, succeeded: bool) -> None:
        """Runs after every request."""
        await super().process_response_async(req, resp, resource, succeeded)
        if self.allow_origins != "*":
            resp.append_header("Vary", "Origin")
