"""Commands on tickets over HTTP: a request in, its answer out."""

from collections.abc import Callable
from uuid import UUID

import msgspec
from falcon.asgi import Request, Response

from api.http.paging import JSON, encode
from api.http.problems import Problem
from api.http.request_parsing import expected_version, idempotency_request, prefer_wait, read_json, trace
from application.batching_desk import BatchingDesk
from application.clock import utc_now
from application.commands.command import Command, Opening
from application.commands.deciding import CommandRequest, Outcome, Policy, answer, new_stream_id
from application.commands.idempotency import StoredAnswer
from application.commands.procedure_commands import COMMANDS
from domain.roles import own, sees_only_own
from domain.ticket import fold
from domain.values import Principal
from projections.status.freshness import Freshness

COMMANDS_WITHOUT_VERSION = frozenset({"add_note"})


class TicketVersion(msgspec.Struct, frozen=True):
    """What every answer to a command tells of its ticket."""

    ticket_id: UUID
    version: int


class TicketCommands:
    """Takes commands on tickets and answers them."""

    keeps = ("If-Match",)

    def __init__(self, desk: BatchingDesk, freshness: Freshness, policy: Policy) -> None:
        self.desk, self._freshness, self._policy = desk, freshness, policy

    async def on_post(self, req: Request, resp: Response, ticket_id: UUID, command: str) -> None:
        """A command on a ticket that is there."""
        kind = COMMANDS.get(command)
        if kind is None:
            raise Problem(404, "unknown_command", f"There is no command {command!r}: {', '.join(sorted(COMMANDS))}.")
        free = command in COMMANDS_WITHOUT_VERSION and req.get_header("If-Match") is None
        version = None if free else expected_version(req)
        result = await self._execute(req, kind, ticket_id, version)
        await self.complete_response(req, resp, result, command_answer)

    async def open_ticket(self, req: Request, resp: Response, kind: type[Opening]) -> None:
        """A command that begins a ticket: 201, with its address."""
        result = await self._execute(req, kind, new_stream_id(utc_now()))
        ticket = await self.complete_response(req, resp, result, command_answer)
        resp.status = 201
        resp.set_header("Location", f"/v1/tickets/{ticket.ticket_id}")

    async def _execute(
        self, req: Request, kind: type[Command | Opening], ticket_id: UUID, version: int | None = None
    ) -> Outcome | StoredAnswer:
        """Does what the body asks for. A body that an earlier, less strict version has taken keeps its first answer,
        for whoever may still read it."""
        try:
            command = await read_json(req, kind)
        except Problem as problem:
            if problem.status != 422:
                raise
            stored = await self.desk.find_answer(idempotency_request(req, command_answer))
            if stored is None or not await self._may_read(req.context.who, ticket_id):
                raise
            return stored
        request = self.request(req, ticket_id, command, version)
        return await self.desk.execute(request, idempotency_request(req, command_answer))

    async def _may_read(self, who: Principal, ticket_id: UUID) -> bool:
        if not sees_only_own(who):
            return True
        return own(who, fold((await self.desk.load((ticket_id,))).get(ticket_id, ())))

    def request(
        self, req: Request, ticket_id: UUID, command: Command | Opening, version: int | None = None
    ) -> CommandRequest:
        """A command of the caller, given now."""
        return CommandRequest(ticket_id, command, req.context.who, utc_now(), version, trace(req), self._policy)

    async def complete_response(
        self, req: Request, resp: Response, result: Outcome | StoredAnswer, answer: Callable[[Outcome], bytes]
    ) -> TicketVersion:
        """Waits for the projections where the caller prefers it, and answers with the body and the ticket's version."""
        if isinstance(result, StoredAnswer):
            resp.set_header("Idempotency-Replayed", "true")
            body = result.body
            ticket = msgspec.json.decode(body, type=TicketVersion)  # the record has nothing but the bytes
        else:
            body = result.answer or answer(result)
            ticket = TicketVersion(result.ticket.ticket_id, result.ticket.version)
        req.context.ticket_id = ticket.ticket_id
        seconds = prefer_wait(req)
        if seconds is not None and await self._freshness.holds_version(ticket.ticket_id, ticket.version, seconds):
            resp.set_header("Preference-Applied", f"wait={seconds}")
        resp.set_header("ETag", f'"{ticket.version}"')
        resp.content_type, resp.data = JSON, body
        return ticket


def command_answer(outcome: Outcome) -> bytes:
    """The body that answers a command."""
    return encode(answer(outcome))
