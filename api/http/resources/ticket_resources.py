"""Tickets over HTTP: new ones in, one of them, their list and their history out."""

from uuid import UUID

import msgspec
from falcon.asgi import Request, Response

from api.http.paging import Listing, finish, send
from api.http.read_your_writes import LIST_PROJECTIONS, known_version, wait_for_position, wait_for_version
from api.http.request_parsing import parameters
from api.http.resources.ticket_commands import TicketCommands
from api.http.resources.ticket_parameters import HistoryParameters, ListParameters, TicketParameters, only_one
from application.batching_desk import BatchingDesk
from application.clock import utc_now
from application.commands.deciding import Policy
from application.commands.procedure_commands import OpenTicket, ReceiveRequest
from application.store.postgres.read_pool import Readers
from domain import roles
from domain.errors import Forbidden, UnknownTicket, UnknownUserId
from domain.rules import allowed_commands
from domain.ticket import Ticket, fold
from domain.values import Principal
from projections.queries.event_feed import log_end
from projections.queries.ticket_list import TicketFilters, TicketRow, ticket_page
from projections.queries.ticket_view import (
    EventView,
    client_history,
    event_views,
    history,
    ticket_view,
    version_at_position,
    version_at_time,
)
from projections.status.freshness import Freshness

WITHOUT_TEXT = ("summary", "assignee")  # what lists keep from reporters: an assignee is what somebody typed


class Requests:
    """Step 1: support requests come in."""

    def __init__(self, commands: TicketCommands) -> None:
        self._commands = commands

    async def on_post(self, req: Request, resp: Response) -> None:
        """ReceiveRequest."""
        await self._commands.open_ticket(req, resp, ReceiveRequest)


class TicketList(Listing[TicketRow], frozen=True):
    """Tickets, newest first."""


class Tickets:
    """The list of tickets, and new ones whose client is known."""

    def __init__(self, commands: TicketCommands, readers: Readers, freshness: Freshness) -> None:
        self._commands, self._readers, self._freshness = commands, readers, freshness

    async def on_post(self, req: Request, resp: Response) -> None:
        """OpenTicket."""
        await self._commands.open_ticket(req, resp, OpenTicket)

    async def on_get(self, req: Request, resp: Response) -> None:
        """The tickets that fit, newest first; a client gets the own ones."""
        who: Principal = req.context.who
        roles.require_read(who, "tickets")
        asked = parameters(req, ListParameters)
        user_id = asked.client_user_id
        if roles.sees_only_own(who):
            if user_id not in (None, who.client_user_id):
                raise UnknownUserId
            user_id = who.client_user_id
        if roles.sees_no_text(who) and (hidden := "q" if asked.q else "assignee" if asked.assignee else ""):
            raise Forbidden(f"for {hidden} one of the roles {', '.join(roles.STAFF)}")
        filters = TicketFilters(
            user_id,
            asked.state,
            asked.level,
            asked.queue,
            asked.assignee,
            asked.priority,
            asked.created_from,
            asked.created_to,
            asked.q,
        )
        await wait_for_position(req, resp, self._freshness, asked.min_position, LIST_PROJECTIONS)
        page = await ticket_page(self._readers.fetch, filters, asked.cursor, asked.limit)
        finish(req, resp, page, TicketList, without=WITHOUT_TEXT if roles.sees_no_text(who) else ())


class TicketResource:
    """One ticket, now or as it was."""

    def __init__(self, desk: BatchingDesk, readers: Readers, freshness: Freshness, policy: Policy) -> None:
        self._desk, self._readers, self._freshness, self._policy = desk, readers, freshness, policy

    async def on_get(self, req: Request, resp: Response, ticket_id: UUID) -> None:
        """The ticket; with `version`, `as_of` or `position` as it stood then, when no command can be given.

        With `min_version`, as soon as lists and queues hold that version.
        """
        who: Principal = req.context.who
        roles.require_read(who, "ticket")
        asked = only_one(parameters(req, TicketParameters)) if req.query_string else TicketParameters()
        possible: tuple[str, ...] = ()
        if asked.min_version is None and asked != TicketParameters():
            ticket = await self._as_it_was(resp, ticket_id, asked, who)
        else:
            ticket = visible(fold((await self._desk.load((ticket_id,))).get(ticket_id, ())), who)
            await wait_for_version(req, resp, self._freshness, ticket, asked.min_version)
            possible = allowed_commands(ticket, self._policy.given(who, utc_now()))
        resp.set_header("ETag", f'"{ticket.version}"')
        if roles.sees_only_own(who):  # other tickets may be other clients'
            ticket = msgspec.structs.replace(ticket, links=())
        send(resp, ticket_view(ticket, possible))

    async def _as_it_was(self, resp: Response, ticket_id: UUID, asked: TicketParameters, who: Principal) -> Ticket:
        """The ticket of the past; who may see it is decided by whose it is now."""
        resp.set_header("Deskledger-Position", str(await log_end(self._readers.fetch)))
        now = visible(fold((await self._desk.load((ticket_id,))).get(ticket_id, ())), who)
        version = asked.version
        if version is not None:
            known_version(now, version)
        elif asked.as_of is not None:
            version = await version_at_time(self._readers.fetch, ticket_id, asked.as_of)
        elif asked.position is not None:
            version = await version_at_position(self._readers.fetch, ticket_id, asked.position)
        then = fold((await self._desk.loader.load([ticket_id], version or 0)).get(ticket_id, ()))
        if then is None:
            raise UnknownTicket("The ticket did not exist yet.")
        return visible(then, who) if then.client_user_id else then  # at first it may have been taken for another's


class History(Listing[EventView], frozen=True):
    """Every event of a ticket, oldest first."""


class TicketHistory:
    """Everything that happened to a ticket."""

    def __init__(self, readers: Readers, freshness: Freshness) -> None:
        self._readers, self._freshness = readers, freshness

    async def on_get(self, req: Request, resp: Response, ticket_id: UUID) -> None:
        """Every event, oldest first, in words; a client gets the client-visible ones of an own ticket.

        With `min_version`, as soon as lists and queues hold that version, so that its events have their position.
        """
        who: Principal = req.context.who
        roles.require_read(who, "ticket")
        asked = parameters(req, HistoryParameters)
        if asked.min_version is not None:
            known = await history(self._readers.fetch, ticket_id)
            ticket = visible(fold(recorded for _, recorded in known), who)
            await wait_for_version(req, resp, self._freshness, ticket, asked.min_version)
        resp.set_header("Deskledger-Position", str(await log_end(self._readers.fetch)))
        known = await history(self._readers.fetch, ticket_id)
        ticket = visible(fold(recorded for _, recorded in known), who)
        if roles.sees_only_own(who):
            known = client_history(known, who.client_user_id)
        resp.set_header("ETag", f'"{ticket.version}"')
        send(resp, History(event_views(known), None))


def visible(ticket: Ticket | None, who: Principal) -> Ticket:
    """The ticket. Raises UnknownTicket when it is not there, or not the own one of a client."""
    if ticket is None or (roles.sees_only_own(who) and not roles.own(who, ticket)):
        raise UnknownTicket
    return ticket
