"""Reading what one wrote: a query waits until the read side has come to a position, or holds a ticket's version."""

from collections.abc import Sequence
from typing import Annotated

import msgspec
from falcon.asgi import Request, Response

from api.http.problems import Problem
from api.http.request_parsing import prefer_wait
from domain.ticket import Ticket
from projections.status.freshness import Freshness

FRESHNESS_WAIT_SECONDS = 5
LIST_PROJECTIONS, QUEUE_PROJECTIONS = ("ticket_summaries",), ("queue_stays", "ticket_summaries")
MinPosition = Annotated[int, msgspec.Meta(ge=0, le=2**62)] | None
Version = Annotated[int, msgspec.Meta(ge=1)]


async def wait_for_position(
    req: Request, resp: Response, freshness: Freshness, position: int | None, names: Sequence[str]
) -> None:
    """Waits until the named projections stand at a position; not at all when the caller names none.

    Raises Problem with status 503 when they do not in time.
    """
    if position is not None:
        seconds = patience(req)
        waited(resp, await freshness.stands_at(position, names, seconds), seconds, f"position {position}")


async def wait_for_version(
    req: Request, resp: Response, freshness: Freshness, ticket: Ticket, version: int | None
) -> None:
    """Waits until lists and queues hold a version of a ticket; not at all when the caller names none.

    Raises Problem: 404 when the ticket has not so many versions, 503 when they do not hold it in time.
    """
    if version is not None:
        known_version(ticket, version)
        seconds = patience(req)
        held = await freshness.holds_version(ticket.ticket_id, version, seconds)
        waited(resp, held, seconds, f"version {version} of the ticket")


def known_version(ticket: Ticket, version: int) -> None:
    """Raises Problem with status 404 when the ticket has not so many versions."""
    if version > ticket.version:
        raise Problem(404, "unknown_version", f"There is no such version: the ticket is at {ticket.version}.")


def patience(req: Request) -> int:
    """The seconds that a query waits for the read side: what the caller prefers, at most 30; else 5."""
    wanted = prefer_wait(req)
    return FRESHNESS_WAIT_SECONDS if wanted is None else wanted


def waited(resp: Response, held: bool, seconds: int, what: str) -> None:
    """Says that the wait was not in vain. Raises Problem with status 503 when it was."""
    if not held:
        detail = f"What is read here does not hold {what} yet, after {seconds} s. Ask again."
        raise Problem(503, "projection_behind", detail, headers={"Retry-After": "1"})
    resp.set_header("Preference-Applied", f"wait={seconds}")
