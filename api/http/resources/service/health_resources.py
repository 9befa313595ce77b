"""Is the process alive, and can it serve?"""

from typing import Any, Literal

import msgspec
from falcon.asgi import Request, Response

from api.http.paging import send
from api.http.problems import Problem
from application.observability.logs import error_summary
from application.store.postgres.pg_connection import Unavailable
from application.store.read_pool import Readers
from projections.status.closed_time import LATEST
from projections.status.readiness import Health, health

UNSEALED_UNREADY_SECONDS = 30.0


class Liveness(msgspec.Struct, frozen=True):
    """The process answers."""

    status: Literal["alive"] = "alive"


class Readiness(Health, frozen=True):
    """The process can serve, and how far everything is."""

    status: Literal["ready"] = "ready"


class Livez:
    """The process is alive: no dependencies."""

    async def on_get(self, req: Request, resp: Response) -> None:
        """Always 200."""
        send(resp, Liveness())


class Readyz:
    """The process can serve."""

    def __init__(self, readers: Readers) -> None:
        self._readers = readers

    async def on_get(self, req: Request, resp: Response) -> None:
        """200 with how far everything is; 503 without database or migrations, when nobody seals, or a clock is off."""
        try:
            found = await health(self._readers.fetch)
        except Unavailable as error:
            raise unready(f"database: does not answer: {error_summary(error)[:200]}") from None
        if found.missing_migrations:
            missing = ", ".join(found.missing_migrations)
            raise unready(f"migrations: missing: {missing}; run deskledger migrate", health=found)
        if (seconds := found.oldest_unsealed_seconds) > UNSEALED_UNREADY_SECONDS:
            raise unready(f"sealer: an event waits for {seconds:.0f} s; start deskledger work", health=found)
        if abs(off := found.clock_off_seconds) > LATEST.total_seconds():
            way = "ahead of" if off > 0 else "behind"
            complaint = f"clock: this host's is {abs(off):.1f} s {way} the database's; set both right"
            raise unready(complaint, health=found)
        send(resp, Readiness(**msgspec.structs.asdict(found)))


def unready(complaint: str, **more: Any) -> Problem:
    """503 with what is wrong."""
    return Problem(503, "not_ready", complaint, headers={"Retry-After": "2"}, **more)
