"""Queues over HTTP: at a glance, one in order, and the next ticket of one for whoever asks."""

from typing import Annotated

import msgspec
from falcon.asgi import Request, Response

from api.http.idempotent_requests import idempotency_request
from api.http.paging import Listing, NoFields, Paging, encode, finish, send
from api.http.problems import Problem
from api.http.read_your_writes import QUEUE_PROJECTIONS, MinPosition, wait_for_position
from api.http.request_parsing import Decoders, parameters
from api.http.resources.ticket_commands import TicketCommands
from api.http.resources.ticket_parameters import Moment
from api.http.resources.ticket_resources import WITHOUT_TEXT
from application.commands.deciding import Outcome
from application.commands.idempotency import IdempotencyRequest, StoredAnswer
from application.commands.supporting_commands import ClaimNext
from application.store.batcher import Batcher
from application.store.event_store import NotReadable
from application.store.postgres.read_pool import Readers
from domain import roles
from domain.errors import Forbidden
from domain.values import Principal, Queue, State
from projections.queries.claim_dispenser import ClaimDispenser
from projections.queries.queue_pages import Overview, QueueFilters, QueueRow, overview, queue_as_of, queue_page
from projections.queries.ticket_view import ticket_view
from projections.status.freshness import Freshness


class QueueParameters(Paging, frozen=True, forbid_unknown_fields=True):
    """Filters of one queue, or a moment of the past."""

    as_of: Moment | None = None
    priority: Annotated[int, msgspec.Meta(ge=1, le=5)] | None = None
    assignee: str | None = None
    unassigned: bool | None = None
    state: State | None = None
    client_user_id: str | None = None
    waiting_on_client: bool | None = None
    min_position: MinPosition = None


class OverviewParameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How far the read side has to be."""

    min_position: MinPosition = None


class QueueTickets(Listing[QueueRow], frozen=True):
    """Tickets of a queue, in the order in which they are worked."""


class Queues:
    """Every queue at a glance."""

    def __init__(self, readers: Readers, freshness: Freshness) -> None:
        self._readers, self._freshness = readers, freshness
        self._overview = Batcher(self._look, name="overview")  # many screens ask for it all day: they share an answer

    async def on_get(self, req: Request, resp: Response) -> None:
        """Nine queues: size, unassigned, oldest entry, by priority."""
        roles.require_read(req.context.who, "queues")
        asked = parameters(req, OverviewParameters)
        await wait_for_position(req, resp, self._freshness, asked.min_position, QUEUE_PROJECTIONS)
        found = await self._overview(None)
        resp.set_header("Deskledger-Position", str(found.position))
        send(resp, found)

    async def _look(self, asked: list[None]) -> list[Overview]:
        return [await overview(self._readers.fetch)] * len(asked)


class QueueResource:
    """One queue."""

    def __init__(self, readers: Readers, freshness: Freshness) -> None:
        self._readers, self._freshness = readers, freshness

    async def on_get(self, req: Request, resp: Response, queue: str) -> None:
        """Its tickets in the order in which they are worked; with `as_of`, as it stood then."""
        who: Principal = req.context.who
        roles.require_read(who, "queues")
        name, asked = known_queue(queue), parameters(req, QueueParameters)
        filters = QueueFilters(
            asked.priority, asked.assignee, asked.unassigned, asked.state, asked.client_user_id, asked.waiting_on_client
        )
        if asked.assignee and who.roles.isdisjoint(roles.STAFF):
            raise Forbidden(f"for assignee one of the roles {', '.join(roles.STAFF)}")
        if asked.as_of and filters != QueueFilters():
            raise Problem(400, "invalid_parameter", "as_of takes no other filter: read the whole queue of that moment.")
        await wait_for_position(req, resp, self._freshness, asked.min_position, QUEUE_PROJECTIONS)
        if asked.as_of:
            page = await queue_as_of(self._readers.fetch, name, asked.as_of, asked.cursor, asked.limit)
        else:
            page = await queue_page(self._readers.fetch, name, filters, asked.cursor, asked.limit)
        finish(req, resp, page, QueueTickets, without=WITHOUT_TEXT if who.roles.isdisjoint(roles.STAFF) else ())


class ClaimNextTicket:
    """The next ticket of a queue, for whoever asks."""

    def __init__(self, commands: TicketCommands, readers: Readers) -> None:
        self._commands = commands
        self._dispensers = {queue: ClaimDispenser(readers.fetch, queue) for queue in Queue}
        self._decoders = Decoders()

    async def on_post(self, req: Request, resp: Response, queue: str) -> None:
        """Assigns the first unassigned ticket to the caller: 200 with the ticket; 204 when there is none.

        The list of candidates may lag behind; the ticket itself decides, so two callers never get the same one.
        """
        name = known_queue(queue)
        roles.require_claim(req.context.who, name)
        await self._decoders.body(req, NoFields)
        idempotency = idempotency_request(req, claim_answer)
        result = await self._claim(req, name, idempotency)
        if result is None:  # none is free: perhaps because this request had the last one
            result = await self._commands.desk.find_answer(idempotency)
        if result is None:
            resp.status = 204
        else:
            await self._commands.complete_response(req, resp, result, claim_answer)

    async def _claim(
        self, req: Request, queue: Queue, idempotency: IdempotencyRequest | None
    ) -> Outcome | StoredAnswer | None:
        """The first ticket that the caller gets; None when none is free."""
        dispenser, claim = self._dispensers[queue], ClaimNext(queue)
        while free := await dispenser.next():
            passed_over = False
            try:
                request = self._commands.request(req, free.ticket_id, claim)
                result = await self._commands.desk.execute(request, idempotency)
                if isinstance(result, StoredAnswer) or result.events:
                    return result
                passed_over = True
            except (Forbidden, NotReadable):  # it has gone to where this caller may not claim, or is for the operator
                passed_over = True
            finally:
                dispenser.complete(free, passed_over)
        return None


def claim_answer(outcome: Outcome) -> bytes:
    """The ticket that the caller has now; nothing when somebody else was faster."""
    return encode(ticket_view(outcome.ticket, outcome.possible)) if outcome.events else b""


def known_queue(name: str) -> Queue:
    """The queue of that name. Raises Problem with status 404."""
    try:
        return Queue(name)
    except ValueError:
        raise Problem(404, "unknown_queue", f"There is no queue {name!r}: {', '.join(Queue)}.") from None
