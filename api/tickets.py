"""Tickets over HTTP: commands in, the ticket and its history out."""

from collections.abc import Callable
from hashlib import sha256
from uuid import UUID

import msgspec
from falcon.asgi import Request, Response

from api.decoding import Decoders, expected_version, idempotency_key, parameters, prefer_wait, sent, trace
from api.listing import JSON, Listing, encode, finish, send
from api.problems import Problem
from api.ticket_parameters import HistoryParameters, ListParameters, TicketParameters, only_one
from api.waiting import LISTS, known_version, wait_for_position, wait_for_version
from application.clock import utc_now
from application.combining import CombiningDesk
from application.command import Command, Opening
from application.commands import COMMANDS, OpenTicket, ReceiveRequest
from application.deciding import Outcome, Policy, allowed, answer, new_stream_id
from application.deciding import Request as Wish
from application.reading import Readers
from application.repeating import Once, Repeated
from domain import roles
from domain.errors import Forbidden, UnknownTicket, UnknownUserId
from domain.rules import Given
from domain.ticket import Ticket, fold
from domain.values import Actor, Principal, Role
from projections.feed import log_end
from projections.freshness import Freshness
from projections.ticket_list import TicketFilters, TicketRow, ticket_page
from projections.ticket_view import EventView, client_history, history, in_words, ticket_view

WITHOUT_TEXT = ("summary", "assignee")  # what lists keep from reporters: an assignee is what somebody typed
COMMANDS_WITHOUT_VERSION = frozenset({"add_note"})


class Place(msgspec.Struct, frozen=True):
    """What every answer to a command tells of its ticket."""

    ticket_id: UUID
    version: int


_place = msgspec.json.Decoder(Place).decode


class Commands:
    """Takes commands on tickets and answers them."""

    def __init__(self, desk: CombiningDesk, freshness: Freshness, policy: Policy) -> None:
        self._desk, self._freshness, self._policy = desk, freshness, policy
        self._decoders = Decoders()

    async def begin(self, req: Request, resp: Response, kind: type[Opening]) -> None:
        """A command that begins a ticket: 201, with its address."""
        command = await self._decoders.body(req, kind)
        place = await self.do(req, resp, new_stream_id(utc_now()), command)
        resp.status = 201
        resp.set_header("Location", f"/v1/tickets/{place.ticket_id}")

    async def on_post(self, req: Request, resp: Response, ticket_id: UUID, command: str) -> None:
        """A command on a ticket that is there."""
        kind = COMMANDS.get(command)
        if kind is None:
            raise Problem(404, "unknown_command", f"There is no command {command!r}: {', '.join(sorted(COMMANDS))}.")
        free = command in COMMANDS_WITHOUT_VERSION and sent(req, b"if-match") is None
        version = None if free else expected_version(req)
        wanted: Command = await self._decoders.body(req, kind)
        await self.do(req, resp, ticket_id, wanted, version)

    async def do(
        self, req: Request, resp: Response, ticket_id: UUID, wanted: Command | Opening, version: int | None = None
    ) -> Place:
        """Executes a command for the caller and answers it."""
        return await self.settle(req, resp, await self.done(req, resp, ticket_id, wanted, version, answered))

    async def done(
        self,
        req: Request,
        resp: Response,
        ticket_id: UUID,
        wanted: Command | Opening,
        version: int | None,
        answer: Callable[[Outcome], bytes],
    ) -> bytes:
        """Executes a command for the caller; the body of its answer, the first one where the request comes again."""
        wish = Wish(ticket_id, wanted, req.context.who, utc_now(), version, trace(req), self._policy)
        only_once = once(req, answer)
        if only_once:  # what is kept for the next time is the answer of this time: it is made once
            answer = only_once.answer
        try:
            return answer(await self._desk.execute(wish, only_once))
        except Repeated as before:
            return replayed(resp, before)

    async def before(self, req: Request, resp: Response, answer: Callable[[Outcome], bytes]) -> bytes:
        """The body of the first answer to a request that comes again; nothing when it is new."""
        try:
            await self._desk.recognise(once(req, answer))
        except Repeated as before:
            return replayed(resp, before)
        return b""

    async def settle(self, req: Request, resp: Response, body: bytes) -> Place:
        """Waits for the projections where the caller prefers it, and answers with `body` and its version."""
        place = _place(body)
        req.context.ticket_id = place.ticket_id
        seconds = prefer_wait(req)
        if seconds is not None and await self._freshness.holds_version(place.ticket_id, place.version, seconds):
            resp.set_header("Preference-Applied", f"wait={seconds}")
        resp.set_header("ETag", f'"{place.version}"')
        resp.content_type, resp.data = JSON, body
        return place


def once(req: Request, answer: Callable[[Outcome], bytes]) -> Once | None:
    """That the caller wants this request done once; None without an Idempotency-Key. The body has been read."""
    key = idempotency_key(req)
    if key is None:
        return None
    request = f"{req.method} {req.path}\n".encode() + req.context.body
    return Once(req.context.who.id, key, sha256(request).digest(), remembering(answer))


def remembering(answer: Callable[[Outcome], bytes]) -> Callable[[Outcome], bytes]:
    """The same, and the last outcome is not written out again."""
    last: Outcome | None = None
    written = b""

    def answered_once(outcome: Outcome) -> bytes:
        nonlocal last, written
        if outcome is not last:
            last, written = outcome, answer(outcome)
        return written

    return answered_once


def replayed(resp: Response, before: Repeated) -> bytes:
    """The answer of before, with the header that says so."""
    resp.set_header("Idempotency-Replayed", "true")
    return before.answer


def answered(outcome: Outcome) -> bytes:
    """The body that answers a command."""
    return encode(answer(outcome))


class Requests:
    """Step 1: support requests come in."""

    def __init__(self, commands: Commands) -> None:
        self._commands = commands

    async def on_post(self, req: Request, resp: Response) -> None:
        """ReceiveRequest."""
        await self._commands.begin(req, resp, ReceiveRequest)


class TicketList(Listing[TicketRow], frozen=True):
    """Tickets, newest first."""


class Tickets:
    """The list of tickets, and new ones whose client is known."""

    def __init__(self, commands: Commands, readers: Readers, freshness: Freshness) -> None:
        self._commands, self._readers, self._freshness = commands, readers, freshness

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
        await wait_for_position(req, resp, self._freshness, asked.min_position, LISTS)
        page = await ticket_page(self._readers.fetch, filters, asked.cursor, asked.limit)
        finish(req, resp, page, TicketList, without=WITHOUT_TEXT if roles.sees_no_text(who) else ())


class TicketResource:
    """One ticket, now or as it was."""

    def __init__(self, desk: CombiningDesk, readers: Readers, freshness: Freshness, policy: Policy) -> None:
        self._desk, self._readers, self._freshness, self._policy = desk, readers, freshness, policy

    async def on_get(self, req: Request, resp: Response, ticket_id: UUID) -> None:
        """The ticket; with `version`, `as_of` or `position` as it stood then, when no command can be given.

        With `min_version`, as soon as lists and queues hold that version.
        """
        who: Principal = req.context.who
        roles.reading(who, "ticket")
        asked = only_one(parameters(req, TicketParameters)) if req.query_string else TicketParameters()
        possible: tuple[str, ...] = ()
        if asked.min_version is None and asked != TicketParameters():
            ticket = await self._as_it_was(resp, ticket_id, asked, who)
        else:
            ticket = visible(fold((await self._desk.load((ticket_id,))).get(ticket_id, ())), who)
            await wait_for_version(req, resp, self._freshness, ticket, asked.min_version)
            possible = allowed(ticket, who, self._given(who))
        resp.set_header("ETag", f'"{ticket.version}"')
        if roles.sees_only_own(who):  # other tickets may be other clients'
            ticket = msgspec.structs.replace(ticket, links=())
        send(resp, ticket_view(ticket, possible))

    def _given(self, who: Principal) -> Given:
        by = Actor(who.id, who.name, Role.AGENT)
        return Given(by, utc_now(), self._policy.four_eyes, self._policy.reopen_window)

    async def _as_it_was(self, resp: Response, ticket_id: UUID, asked: TicketParameters, who: Principal) -> Ticket:
        """The ticket of the past; who may see it is decided by whose it is now."""
        resp.set_header("Deskledger-Position", str(await log_end(self._readers.fetch)))
        known = await history(self._readers.fetch, ticket_id)
        now = visible(fold(recorded for _, recorded in known), who)
        if asked.version is not None:
            known_version(now, asked.version)
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
        roles.reading(who, "ticket")
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
        send(resp, History(in_words(known), None))


def visible(ticket: Ticket | None, who: Principal) -> Ticket:
    """The ticket. Raises UnknownTicket when it is not there, or not the own one of a client."""
    if ticket is None or (roles.sees_only_own(who) and not roles.own(who, ticket)):
        raise UnknownTicket
    return ticket
