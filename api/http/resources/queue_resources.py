"""Queues over HTTP: at a glance, one in order, and the next ticket of one for whoever asks."""

import msgspec
from falcon.asgi import Request, Response

from api.http.paging import Limit, Listing, NoFields, encode, finish, place, send
from api.http.problems import Problem
from api.http.request_parsing import idempotency_request, read_json, read_query
from api.http.resources.api_resource import QUEUE_PROJECTIONS, ApiDeps, ApiResource, MinPosition
from application.commands.deciding import Outcome
from application.commands.idempotency import IdempotencyRequest, StoredAnswer
from application.commands.supporting_commands import ClaimNext
from application.store.event_store import NotReadable
from domain import roles
from domain.errors import Forbidden, TicketElsewhere
from domain.values import Queue
from domain.visibility import audience_of_all, require_filters
from projections.queries.claim_dispenser import ClaimDispenser
from projections.queries.pages import DEFAULT_LIMIT, Moment
from projections.queries.queue_pages import QueueFilters, QueueRow, overview, queue_as_of, queue_page
from projections.queries.ticket_view import ticket_view


class QueueParameters(QueueFilters, frozen=True, forbid_unknown_fields=True):
    """Filters of one queue, or a moment of the past."""

    as_of: Moment | None = None
    cursor: str | None = None
    limit: Limit = DEFAULT_LIMIT
    min_position: MinPosition = None

    def __post_init__(self) -> None:
        if self.as_of and any(getattr(self, name) is not None for name in QueueFilters.__struct_fields__):
            raise Problem(400, "invalid_parameter", "as_of takes no other filter: read the whole queue of that moment.")


class OverviewParameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How far the read side has to be."""

    min_position: MinPosition = None


class QueueTickets(Listing[QueueRow], frozen=True):
    """Tickets of a queue, in the order in which they are worked."""


class Queues(ApiResource):
    """Every queue at a glance."""

    async def on_get(self, req: Request, resp: Response) -> None:
        """Nine queues: size, unassigned, oldest entry, by priority."""
        asked = read_query(req, "queues", OverviewParameters)
        await self.wait_for_position(req, resp, asked.min_position, QUEUE_PROJECTIONS)
        found = await overview(self.fetch)
        place(req, resp, found.position)
        send(resp, found)


class QueueResource(ApiResource):
    """One queue."""

    async def on_get(self, req: Request, resp: Response, queue: str) -> None:
        """Its tickets in the order in which they are worked; with `as_of`, as it stood then."""
        asked, name = read_query(req, "queues", QueueParameters), known_queue(queue)
        audience = audience_of_all(req.context.who)
        require_filters(audience, asked, QueueFilters.__struct_fields__)
        await self.wait_for_position(req, resp, asked.min_position, QUEUE_PROJECTIONS)
        await self.wait_for_time(req, resp, "as_of", asked.as_of, QUEUE_PROJECTIONS)
        if asked.as_of:
            page = await queue_as_of(self.fetch, name, asked.as_of, asked.cursor, asked.limit)
        else:
            page = await queue_page(self.fetch, name, asked, asked.cursor, asked.limit)
        finish(req, resp, page, QueueTickets, audience)


class ClaimNextTicket(ApiResource):
    """The next ticket of a queue, for whoever asks."""

    def __init__(self, deps: ApiDeps) -> None:
        super().__init__(deps)
        self._dispensers = {queue: ClaimDispenser(self.fetch, queue) for queue in Queue}

    async def on_post(self, req: Request, resp: Response, queue: str) -> None:
        """Assigns the first unassigned ticket to the caller: 200 with the ticket; 204 when there is none.

        The list of candidates may lag behind; the ticket itself decides, so two callers never get the same one.
        """
        name = known_queue(queue)
        roles.require_claim(req.context.who, name)
        await read_json(req, NoFields)
        idempotency = idempotency_request(req, claim_answer)
        # where none is free: perhaps because this request had the last one
        result = await self._claim(req, name, idempotency) or await self.deps.desk.find_answer(idempotency)
        if result is None:
            resp.status = 204
        else:
            await self.deps.commands.complete_response(req, resp, result, claim_answer)

    async def _claim(
        self, req: Request, queue: Queue, idempotency: IdempotencyRequest | None
    ) -> Outcome | StoredAnswer | None:
        """The first ticket that the caller gets; None when none is free."""
        dispenser = self._dispensers[queue]
        while free := await dispenser.next():
            passed_over = False
            try:
                request = self.deps.commands.request(req, free.ticket_id, ClaimNext(queue))
                result = await self.deps.desk.execute(request, idempotency)
                passed_over = not (isinstance(result, StoredAnswer) or result.events)
                if not passed_over:
                    return result
            except (
                Forbidden,
                TicketElsewhere,
                NotReadable,
            ):  # it has gone to where this caller may not claim, or is for the operator
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
