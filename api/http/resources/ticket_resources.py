"""Tickets over HTTP: new ones in, one of them, their list and their history out."""

from typing import Annotated
from uuid import UUID

import msgspec
from falcon.asgi import Request, Response

from api.http.paging import Limit, Listing, finish, send
from api.http.problems import Problem
from api.http.request_parsing import read_query
from api.http.resources.api_resource import (
    LIST_PROJECTIONS,
    ApiResource,
    MinPosition,
    Version,
    known_position,
    known_version,
)
from application.clock import utc_now
from application.commands.procedure_commands import OpenTicket, ReceiveRequest
from domain import roles
from domain.errors import UnknownTicket, UnknownUserId
from domain.rules import allowed_commands
from domain.ticket import Ticket, fold
from domain.values import Principal
from domain.visibility import audience_of, require_filters, seen_by
from projections.queries import ticket_view as views
from projections.queries.event_feed import log_end
from projections.queries.pages import DEFAULT_LIMIT, Moment
from projections.queries.ticket_list import TicketFilters, TicketRow, ticket_page
from projections.status.freshness import LOG


class TicketParameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which earlier state of a ticket is wanted, or which version lists and queues have to hold: one of them."""

    version: Version | None = None
    as_of: Moment | None = None
    position: Annotated[int, msgspec.Meta(ge=0)] | None = None
    min_version: Version | None = None

    def __post_init__(self) -> None:
        if sum(value is not None for value in msgspec.structs.astuple(self)) > 1:
            detail = "Name one of version, as_of, position and min_version, not several."
            raise Problem(400, "invalid_parameter", detail)


class HistoryParameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which version lists and queues have to hold."""

    min_version: Version | None = None


class ListParameters(TicketFilters, frozen=True, forbid_unknown_fields=True):
    """Filters of the list of tickets."""

    cursor: str | None = None
    limit: Limit = DEFAULT_LIMIT
    min_position: MinPosition = None


class Requests(ApiResource):
    """Step 1: support requests come in."""

    async def on_post(self, req: Request, resp: Response) -> None:
        """ReceiveRequest."""
        await self.deps.commands.open_ticket(req, resp, ReceiveRequest)


class TicketList(Listing[TicketRow], frozen=True):
    """Tickets, newest first."""


class Tickets(ApiResource):
    """The list of tickets, and new ones whose client is known."""

    async def on_post(self, req: Request, resp: Response) -> None:
        """OpenTicket."""
        await self.deps.commands.open_ticket(req, resp, OpenTicket)

    async def on_get(self, req: Request, resp: Response) -> None:
        """The tickets that fit, newest first; a client gets the own ones."""
        who: Principal = req.context.who
        asked = read_query(req, "tickets", ListParameters)
        if roles.sees_only_own(who):
            if asked.client_user_id not in (None, who.client_user_id):
                raise UnknownUserId
            asked = msgspec.structs.replace(asked, client_user_id=who.client_user_id)
        audience = audience_of(who)
        require_filters(audience, asked, TicketFilters.__struct_fields__)
        await self.wait_for_position(req, resp, asked.min_position, LIST_PROJECTIONS)
        await self.wait_for_time(req, resp, "created_to", asked.created_to, LIST_PROJECTIONS)
        page = await ticket_page(self.fetch, asked, asked.cursor, asked.limit)
        finish(req, resp, page, TicketList, audience)


class TicketResource(ApiResource):
    """One ticket, now or as it was."""

    async def on_get(self, req: Request, resp: Response, ticket_id: UUID) -> None:
        """The ticket; with `version`, `as_of` or `position` as it stood then, when no command can be given.

        With `min_version`, as soon as lists and queues hold that version.
        """
        who: Principal = req.context.who
        asked = read_query(req, "ticket", TicketParameters)
        ticket = visible(fold((await self.deps.desk.load((ticket_id,))).get(ticket_id, ())), who)
        possible: tuple[str, ...] = ()
        if asked.min_version is None and asked != TicketParameters():
            await self.wait_for_time(req, resp, "as_of", asked.as_of, (LOG,))
            ticket = await self._as_it_was(resp, ticket, asked, who)
        else:
            await self.wait_for_version(req, resp, ticket, asked.min_version)
            possible = allowed_commands(ticket, self.deps.policy.given(who, utc_now()))
        resp.set_header("ETag", f'"{ticket.version}"')
        send(resp, seen_by(audience_of(who), views.ticket_view(ticket, possible)))

    async def _as_it_was(self, resp: Response, now: Ticket, asked: TicketParameters, who: Principal) -> Ticket:
        """The ticket of the past; who may see it is decided by whose it is now."""
        end = await log_end(self.fetch)
        resp.set_header("Deskledger-Position", str(end))
        known_position(asked.position or 0, end)
        version = asked.version
        if version is not None:
            known_version(now, version)
        elif asked.as_of is not None:
            version = await views.version_at_time(self.fetch, now.ticket_id, asked.as_of)
        elif asked.position is not None:
            version = await views.version_at_position(self.fetch, now.ticket_id, asked.position)
        then = fold((await self.deps.desk.loader.load([now.ticket_id], version or 0)).get(now.ticket_id, ()))
        if then is None:
            raise UnknownTicket("The ticket did not exist yet.")
        return visible(then, who) if then.client_user_id else then  # at first it may have been taken for another's


class History(Listing[views.EventView], frozen=True):
    """Every event of a ticket, oldest first."""


class TicketHistory(ApiResource):
    """Everything that happened to a ticket."""

    async def on_get(self, req: Request, resp: Response, ticket_id: UUID) -> None:
        """Every event, oldest first, in words; a client gets the client-visible ones of an own ticket.

        With `min_version`, as soon as lists and queues hold that version, so that its events have their position.
        """
        who: Principal = req.context.who
        asked = read_query(req, "ticket", HistoryParameters)
        if asked.min_version is not None:
            ticket, _ = await self._known(ticket_id, who)
            await self.wait_for_version(req, resp, ticket, asked.min_version)
        resp.set_header("Deskledger-Position", str(await log_end(self.fetch)))
        ticket, known = await self._known(ticket_id, who)
        resp.set_header("ETag", f'"{ticket.version}"')
        send(resp, History(views.event_views(known, who), None))

    async def _known(self, ticket_id: UUID, who: Principal) -> tuple[Ticket, list[views.Placed]]:
        known = await views.history(self.fetch, ticket_id)
        return visible(fold(recorded for _, recorded in known), who), known


def visible(ticket: Ticket | None, who: Principal) -> Ticket:
    """The ticket. Raises UnknownTicket when it is not there, or not the own one of a client."""
    if ticket is None or (roles.sees_only_own(who) and not roles.own(who, ticket)):
        raise UnknownTicket
    return ticket
