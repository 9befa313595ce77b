"""The client directory over HTTP."""

import msgspec
from falcon.asgi import Request, Response

from api.http.paging import Listing, Paging, place, send
from api.http.read_your_writes import LIST_PROJECTIONS, MinPosition, wait_for_position
from api.http.request_parsing import Decoders, invalid, parameters, trace
from application.batching_desk import BatchingDesk
from application.clock import utc_now
from application.commands.supporting_commands import RegisterClient
from application.commands.text_types import UserId
from application.store.postgres.read_pool import Readers
from domain import roles
from domain.client import Client, client_stream, fold_client
from domain.errors import UnknownUserId
from domain.values import Principal
from projections.queries.pages import Page
from projections.queries.ticket_list import TicketFilters, TicketRow, ticket_page
from projections.status.freshness import Freshness


class PageParameters(Paging, frozen=True, forbid_unknown_fields=True):
    """A page of the client's tickets."""

    min_position: MinPosition = None


class ClientTickets(Listing[TicketRow], frozen=True):
    """A client's tickets, newest first."""


class ClientEntry(msgspec.Struct, frozen=True):
    """A directory entry and the client's tickets."""

    version: int
    user_id: str
    name: str
    email: str
    phone: str | None
    organisation: str | None
    tickets: ClientTickets


class Clients:
    """One directory entry."""

    def __init__(self, desk: BatchingDesk, readers: Readers, freshness: Freshness) -> None:
        self._desk, self._readers, self._freshness = desk, readers, freshness
        self._decoders = Decoders()

    async def on_put(self, req: Request, resp: Response, user_id: str) -> None:
        """Registers a client, 201, or changes the entry, 200; the same entry again records nothing."""
        known_shape(user_id)
        entry = await self._decoders.body(req, RegisterClient)
        known = await self._find(user_id)
        client = await self._desk.register_client(user_id, entry.contact(), req.context.who, utc_now(), trace(req))
        resp.status = 200 if known else 201
        resp.set_header("Location", f"/v1/clients/{user_id}")
        await self._answer(resp, client, None)

    async def on_get(self, req: Request, resp: Response, user_id: str) -> None:
        """The entry and the client's tickets."""
        who: Principal = req.context.who
        roles.require_read(who, "client")
        asked = parameters(req, PageParameters)
        if roles.sees_only_own(who) and who.client_user_id != user_id:
            raise UnknownUserId
        client = await self._find(user_id)
        if client is None:
            raise UnknownUserId
        filters = TicketFilters(client_user_id=user_id)
        await wait_for_position(req, resp, self._freshness, asked.min_position, LIST_PROJECTIONS)
        page = await ticket_page(self._readers.fetch, filters, asked.cursor, asked.limit)
        place(req, resp, page)
        await self._answer(resp, client, page)

    async def _find(self, user_id: str) -> Client | None:
        stream = client_stream(user_id)
        return fold_client((await self._desk.load((stream,))).get(stream, ()))

    async def _answer(self, resp: Response, client: Client, page: Page | None) -> None:
        resp.set_header("ETag", f'"{client.version}"')
        if page is None:
            send(resp, client)
        else:
            send(resp, ClientEntry(**msgspec.structs.asdict(client), tickets=ClientTickets(page.items, page.next)))


def known_shape(user_id: str) -> None:
    """Raises Problem with status 422 for what can never be a user ID."""
    try:
        msgspec.convert(user_id, UserId)
    except msgspec.ValidationError as error:
        raise invalid(422, error) from None
