"""The client directory over HTTP."""

import msgspec
from falcon.asgi import Request, Response

from api.http.paging import Listing, Paging, place, send
from api.http.request_parsing import PRECONDITIONS, client_precondition, invalid, read_json, read_query, trace
from api.http.resources.api_resource import LIST_PROJECTIONS, ApiResource, MinPosition
from application.clock import utc_now
from application.commands.supporting_commands import RegisterClient
from application.commands.text_types import UserId
from domain import roles
from domain.client import Client, client_stream, fold_client
from domain.errors import UnknownUserId
from domain.visibility import audience_of, seen_by
from projections.queries.ticket_list import TicketFilters, TicketRow, ticket_page


class PageParameters(Paging, frozen=True, forbid_unknown_fields=True):
    """A page of the client's tickets."""

    min_position: MinPosition = None


class ClientTickets(Listing[TicketRow], frozen=True):
    """A client's tickets, newest first."""


class ClientEntry(Client, frozen=True, kw_only=True):
    """A directory entry and the client's tickets."""

    tickets: ClientTickets


class Clients(ApiResource):
    """One directory entry."""

    keeps = PRECONDITIONS

    async def on_put(self, req: Request, resp: Response, user_id: str) -> None:
        """Registers a client, 201, or changes the entry, 200; the same entry again records nothing.

        With If-Match or If-None-Match, only if the entry is what the caller takes it to be; else 412.
        """
        known_shape(user_id)
        precondition, entry = client_precondition(req), await read_json(req, RegisterClient)
        known = await self._find(user_id)
        who, now = req.context.who, utc_now()
        client = await self.deps.desk.register_client(user_id, entry.contact(), who, now, trace(req), precondition)
        resp.status = 200 if known else 201
        resp.set_header("Location", f"/v1/clients/{user_id}")
        resp.set_header("ETag", f'"{client.version}"')
        send(resp, client)

    async def on_get(self, req: Request, resp: Response, user_id: str) -> None:
        """The entry and the client's tickets."""
        asked, who = read_query(req, "client", PageParameters), req.context.who
        if roles.sees_only_own(who) and who.client_user_id != user_id:
            raise UnknownUserId
        client = await self._find(user_id)
        if client is None:
            raise UnknownUserId
        await self.wait_for_position(req, resp, asked.min_position, LIST_PROJECTIONS)
        page = await ticket_page(self.fetch, TicketFilters(client_user_id=user_id), asked.cursor, asked.limit)
        place(req, resp, page.position, cursor=page.next)
        resp.set_header("ETag", f'"{client.version}"')
        audience = audience_of(who)
        tickets = ClientTickets([seen_by(audience, row) for row in page.items], page.next)
        send(resp, ClientEntry(**msgspec.structs.asdict(seen_by(audience, client)), tickets=tickets))

    async def _find(self, user_id: str) -> Client | None:
        stream = client_stream(user_id)
        return fold_client((await self.deps.desk.load((stream,))).get(stream, ()))


def known_shape(user_id: str) -> None:
    """Raises Problem with status 422 for what can never be a user ID."""
    try:
        msgspec.convert(user_id, UserId)
    except msgspec.ValidationError as error:
        raise invalid(422, error) from None
