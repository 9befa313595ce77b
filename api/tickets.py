"""Tickets over HTTP: commands in, the ticket and its history out."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

import msgspec
from falcon.asgi import Request, Response

from api.decoding import Decoders, expected_version, parameters, prefer_wait, trace
from api.listing import NoParameters, Paging, finish, send
from api.problems import Problem
from application.combining import CombiningDesk
from application.command import Command, Opening
from application.commands import COMMANDS, OpenTicket, ReceiveRequest
from application.deciding import Outcome, Policy, allowed, answer, new_stream_id
from application.deciding import Request as Wish
from application.helpdesk import utc_now
from application.reading import Readers
from domain import roles
from domain.errors import Forbidden, UnknownTicket, UnknownUserId
from domain.rules import Given
from domain.ticket import Ticket, fold
from domain.values import Actor, Level, Principal, Queue, Role, State
from projections.feed import log_end
from projections.freshness import wait_for_version
from projections.ticket_list import TicketFilters, ticket_page
from projections.ticket_view import client_sees, history, in_words, ticket_view

Moment = Annotated[datetime, msgspec.Meta(tz=True)]
COMMANDS_WITHOUT_VERSION = frozenset({"add_note"})


class Commands:
    """Takes commands on tickets and answers them."""

    def __init__(self, desk: CombiningDesk, readers: Readers, policy: Policy) -> None:
        self._desk, self._readers, self._policy = desk, readers, policy
        self._decoders = Decoders()

    async def begin(self, req: Request, resp: Response, kind: type[Opening]) -> None:
        """A command that begins a ticket: 201, with its address."""
        command = await self._decoders.body(req, kind)
        now = utc_now()
        wish = Wish(new_stream_id(now), command, req.context.who, now, None, trace(req), self._policy)
        outcome = await self._desk.execute(wish)
        resp.status = 201
        resp.set_header("Location", f"/v1/tickets/{outcome.ticket.ticket_id}")
        await self._answer(req, resp, outcome)

    async def on_post(self, req: Request, resp: Response, ticket_id: UUID, command: str) -> None:
        """A command on a ticket that is there."""
        kind = COMMANDS.get(command)
        if kind is None:
            raise Problem(404, "unknown_command", f"There is no command {command!r}: {', '.join(sorted(COMMANDS))}.")
        version = (
            None if command in COMMANDS_WITHOUT_VERSION and not req.get_header("If-Match") else expected_version(req)
        )
        wanted: Command = await self._decoders.body(req, kind)
        await self._answer(req, resp, await self.execute(req, ticket_id, wanted, version))

    async def execute(self, req: Request, ticket_id: UUID, wanted: Command, version: int | None) -> Outcome:
        """Executes a command for the caller."""
        wish = Wish(ticket_id, wanted, req.context.who, utc_now(), version, trace(req), self._policy)
        return await self._desk.execute(wish)

    async def settle(self, req: Request, resp: Response, ticket: Ticket) -> None:
        """Waits for the projections where the caller prefers it, and names the version."""
        seconds = prefer_wait(req)
        if seconds is not None and await wait_for_version(
            self._readers.fetch, ticket.ticket_id, ticket.version, float(seconds)
        ):
            resp.set_header("Preference-Applied", f"wait={seconds}")
        resp.set_header("ETag", f'"{ticket.version}"')

    async def _answer(self, req: Request, resp: Response, outcome: Outcome) -> None:
        await self.settle(req, resp, outcome.ticket)
        send(resp, answer(outcome))


class Requests:
    """Step 1: support requests come in."""

    def __init__(self, commands: Commands) -> None:
        self._commands = commands

    async def on_post(self, req: Request, resp: Response) -> None:
        """ReceiveRequest."""
        await self._commands.begin(req, resp, ReceiveRequest)


class TicketParameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which earlier state of a ticket is wanted: at most one of them."""

    version: Annotated[int, msgspec.Meta(ge=1)] | None = None
    as_of: Moment | None = None
    position: Annotated[int, msgspec.Meta(ge=0)] | None = None


class ListParameters(Paging, frozen=True, forbid_unknown_fields=True):
    """Filters of the list of tickets."""

    client_user_id: str | None = None
    state: State | None = None
    level: Level | None = None
    queue: Queue | None = None
    assignee: str | None = None
    priority: Annotated[int, msgspec.Meta(ge=1, le=5)] | None = None
    created_from: Moment | None = None
    created_to: Moment | None = None
    q: str | None = None


class Tickets:
    """The list of tickets, and new ones whose client is known."""

    def __init__(self, commands: Commands, readers: Readers) -> None:
        self._commands, self._readers = commands, readers

    async def on_post(self, req: Request, resp: Response) -> None:
        """OpenTicket."""
        await self._commands.begin(req, resp, OpenTicket)

    async def on_get(self, req: Request, resp: Response) -> None:
        """The tickets that fit, newest first; a client gets the own ones."""
        who: Principal = req.context.who
        roles.reading(who, "tickets")
        asked = parameters(req, ListParameters)
        user_id = asked.client_user_id
        if roles.sees_only_own(who):
            if user_id not in (None, who.client_user_id):
                raise UnknownUserId
            user_id = who.client_user_id
        if asked.q and roles.sees_no_text(who):
            raise Forbidden(f"for q one of the roles {', '.join(roles.STAFF)}")
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
        page = await ticket_page(self._readers.fetch, filters, asked.cursor, asked.limit)
        finish(req, resp, page, without=("summary",) if roles.sees_no_text(who) else ())


class TicketResource:
    """One ticket, now or as it was."""

    def __init__(self, desk: CombiningDesk, readers: Readers, policy: Policy) -> None:
        self._desk, self._readers, self._policy = desk, readers, policy

    async def on_get(self, req: Request, resp: Response, ticket_id: UUID) -> None:
        """The ticket; with `version`, `as_of` or `position` as it stood then, when no command can be given."""
        who: Principal = req.context.who
        roles.reading(who, "ticket")
        asked = parameters(req, TicketParameters) if req.query_string else TicketParameters()
        possible: tuple[str, ...] = ()
        if asked != TicketParameters():
            ticket = await self._as_it_was(resp, ticket_id, asked, who)
        else:
            ticket = visible(fold((await self._desk.load((ticket_id,))).get(ticket_id, ())), who)
            possible = allowed(ticket, who, self._given(who))
        resp.set_header("ETag", f'"{ticket.version}"')
        send(resp, ticket_view(ticket, possible))

    def _given(self, who: Principal) -> Given:
        by = Actor(who.id, who.name, Role.AGENT)
        return Given(by, utc_now(), self._policy.four_eyes, self._policy.reopen_window)

    async def _as_it_was(self, resp: Response, ticket_id: UUID, asked: TicketParameters, who: Principal) -> Ticket:
        """The ticket of the past; who may see it is decided by whose it is now."""
        if sum(value is not None for value in (asked.version, asked.as_of, asked.position)) > 1:
            raise Problem(400, "invalid_parameter", "Name one of version, as_of and position, not several.")
        resp.set_header("Deskledger-Position", str(await log_end(self._readers.fetch)))
        known = await history(self._readers.fetch, ticket_id)
        now = visible(fold(recorded for _, recorded in known), who)
        if asked.version is not None and asked.version > now.version:
            raise Problem(404, "unknown_version", f"The ticket has {now.version} versions so far.")
        then = fold(
            recorded
            for position, recorded in known
            if (asked.version is None or recorded.originator_version <= asked.version)
            and (asked.as_of is None or recorded.at <= asked.as_of)
            and (asked.position is None or (position is not None and position <= asked.position))
        )
        if then is None:
            raise UnknownTicket("The ticket did not exist yet.")
        return visible(then, who) if then.client_user_id else then  # at first it may have been taken for another's


class TicketHistory:
    """Everything that happened to a ticket."""

    def __init__(self, readers: Readers) -> None:
        self._readers = readers

    async def on_get(self, req: Request, resp: Response, ticket_id: UUID) -> None:
        """Every event, oldest first, in words; a client gets the client-visible ones of an own ticket."""
        who: Principal = req.context.who
        roles.reading(who, "ticket")
        parameters(req, NoParameters)
        resp.set_header("Deskledger-Position", str(await log_end(self._readers.fetch)))
        known = await history(self._readers.fetch, ticket_id)
        ticket = visible(fold(recorded for _, recorded in known), who)
        if roles.sees_only_own(who):
            known = [item for item in known if client_sees(item[1].event, who.client_user_id)]
        resp.set_header("ETag", f'"{ticket.version}"')
        send(resp, {"items": in_words(known), "next": None})


def visible(ticket: Ticket | None, who: Principal) -> Ticket:
    """The ticket. Raises UnknownTicket when it is not there, or not the own one of a client."""
    if ticket is None or (roles.sees_only_own(who) and not roles.own(who, ticket)):
        raise UnknownTicket
    return ticket
