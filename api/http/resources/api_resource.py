"""What the resources work with, and how they let a caller read what it wrote: once the read side has come so far."""

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from functools import partial
from typing import Annotated, Any

import msgspec
from falcon.asgi import Request, Response

from api.http.problems import Problem
from api.http.request_parsing import prefer_wait
from api.http.resources.ticket_commands import TicketCommands
from api.http.streaming.open_streams import OpenStreams
from application.batching_desk import BatchingDesk
from application.commands.deciding import Policy
from application.store.read_pool import Readers
from domain.ticket import Ticket
from projections.status.closed_time import ClosedTime, is_future
from projections.status.freshness import Freshness

FRESHNESS_WAIT_SECONDS = 5
LIST_PROJECTIONS, QUEUE_PROJECTIONS = ("ticket_summaries",), ("queue_stays", "ticket_summaries")
MinPosition = Annotated[int, msgspec.Meta(ge=0, le=2**62)] | None
Version = Annotated[int, msgspec.Meta(ge=1)]


class ApiDeps(msgspec.Struct, frozen=True):
    """What the resources of one process share. As middleware, it opens the connections there, and closes them."""

    desk: BatchingDesk
    readers: Readers
    freshness: Freshness
    streams: OpenStreams
    policy: Policy
    commands: TicketCommands
    closed_time: ClosedTime

    async def process_startup(self, scope: dict[str, Any], event: dict[str, Any]) -> None:
        """Runs in each worker, after the fork."""
        await self.readers.open()
        await self.streams.readers.open()

    async def process_shutdown(self, scope: dict[str, Any], event: dict[str, Any]) -> None:
        """Runs when a worker has finished what it accepted."""
        await self.streams.readers.close()
        await self.readers.close()
        await self.desk.close()


class ApiResource:
    """What lies under an address; `fetch` reads over the connections of the read side."""

    def __init__(self, deps: ApiDeps) -> None:
        self.deps, self.fetch = deps, deps.readers.fetch

    async def wait_for_position(self, req: Request, resp: Response, position: int | None, names: Sequence[str]) -> None:
        """Waits until the named projections stand at a position; not at all when the caller names none.

        Raises Problem with status 503 when they do not in time.
        """
        if position is not None:
            await wait(req, resp, partial(self.deps.freshness.stands_at, position, names), f"position {position}")

    async def wait_for_time(
        self, req: Request, resp: Response, name: str, moment: datetime | None, names: Sequence[str]
    ) -> None:
        """Waits until the named projections hold everything up to a moment, so that what is read never changes.

        Not at all when the caller names none. Raises Problem: 400 for the future, 503 when they do not in time.
        """
        if moment is not None:
            if is_future(moment):
                detail = (
                    f"{name} must have passed: what will be then is not known. The desk's clock is the Date header."
                )
                raise Problem(400, "future_time", detail, errors=[{"pointer": f"/{name}", "detail": detail}])
            holds = partial(self.deps.closed_time.passed, moment, names)
            await wait(req, resp, holds, f"everything up to {moment.isoformat()}")

    async def wait_for_version(self, req: Request, resp: Response, ticket: Ticket, version: int | None) -> None:
        """Waits until lists and queues hold a version of a ticket; not at all when the caller names none.

        Raises Problem: 404 when the ticket has not so many versions, 503 when they do not hold it in time.
        """
        if version is not None:
            known_version(ticket, version)
            holds = partial(self.deps.freshness.holds_version, ticket.ticket_id, version)
            await wait(req, resp, holds, f"version {version} of the ticket")


def known_version(ticket: Ticket, version: int) -> None:
    """Raises Problem with status 404 when the ticket has not so many versions."""
    if version > ticket.version:
        raise Problem(404, "unknown_version", f"There is no such version: the ticket is at {ticket.version}.")


def known_position(position: int, end: int) -> None:
    """Raises Problem with status 409 when the log does not go as far as a position that somebody knows."""
    if position > end:
        detail = (
            f"The log ends at {end}. Whoever knows a later position knows it from before a restore, or from another"
            " desk: begin again, with what the log holds now."
        )
        raise Problem(409, "unknown_position", detail)


async def wait(req: Request, resp: Response, holds: Callable[[float], Awaitable[bool]], what: str) -> None:
    """Waits so many seconds as the caller prefers, at most 30; else 5. Raises Problem with status 503 in vain."""
    wanted = prefer_wait(req)
    seconds = FRESHNESS_WAIT_SECONDS if wanted is None else wanted
    if not await holds(seconds):
        detail = f"What is read here does not hold {what} yet, after {seconds} s. Ask again."
        raise Problem(503, "projection_behind", detail, headers={"Retry-After": "1"})
    resp.set_header("Preference-Applied", f"wait={seconds}")
