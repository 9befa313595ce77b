"""Is the process alive, and can it serve?"""

from typing import Any

import msgspec
from falcon.asgi import Request, Response

from api.listing import send
from application.line import Unavailable
from application.reading import Readers
from projections.health import Health, health

MOST_UNSEALED_SECONDS = 30.0


class Livez:
    """The process is alive: no dependencies."""

    async def on_get(self, req: Request, resp: Response) -> None:
        """Always 200."""
        send(resp, {"status": "alive"})


class Readyz:
    """The process can serve."""

    def __init__(self, readers: Readers) -> None:
        self._readers = readers

    async def on_get(self, req: Request, resp: Response) -> None:
        """200 with how far everything is; 503 when the database or the migrations are missing, or nobody seals."""
        try:
            found = await health(self._readers.fetch)
        except Unavailable as error:
            send_unready(resp, {"database": f"does not answer: {str(error).strip()[:200]}"})
            return
        problems = complaints(found)
        if problems:
            send_unready(resp, problems | msgspec.to_builtins(found))
        else:
            send(resp, {"status": "ready", **msgspec.to_builtins(found)})


def complaints(found: Health) -> dict[str, Any]:
    """What keeps the desk from serving."""
    if found.missing_migrations:
        return {"migrations": f"missing: {', '.join(found.missing_migrations)}; run deskledger migrate"}
    if found.oldest_unsealed_seconds > MOST_UNSEALED_SECONDS:
        return {"sealer": f"an event waits for {found.oldest_unsealed_seconds:.0f} s; start deskledger work"}
    return {}


def send_unready(resp: Response, detail: dict[str, Any]) -> None:
    """503 with what is wrong."""
    resp.status = 503
    resp.set_header("Retry-After", "2")
    send(resp, {"status": "not ready", **detail})
