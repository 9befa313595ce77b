"""What is this ticket, now or earlier, and what happened to it? Folded from its own events, never stale."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
from psycopg.sql import SQL

from application.store.event_store import SHOWN_META, to_recorded
from domain.client import ContactChanged, Registered
from domain.events import Recorded
from domain.procedure import CommandName, Step, step_of
from domain.ticket import Dossier, Link, Ticket
from domain.values import Channel, Grade, Level, Principal, Priority, Qualification, Queue, Sender, State
from domain.visibility import Audience, audience_of, seen_by, sees_actor, sees_event
from domain.words import by_mistake, client_known, words
from projections.queries.pages import Fetch

HISTORY = SQL("""
    select position, stream_id, version, at, type, body, {meta} from events left join log using (ord)
    where stream_id = %s order by version""").format(meta=SQL(SHOWN_META))
AT_TIME = SQL("select version from events where stream_id = %s and at <= %s order by version desc limit 1")
AT_POSITION = SQL("""
    select version from events join log using (ord) where stream_id = %s and position <= %s
    order by version desc limit 1""")


Placed = tuple[int | None, Recorded]  # an event with its position, which it has once it is sealed


class TicketClient(msgspec.Struct, frozen=True):
    """Whose ticket it is."""

    user_id: str
    name: str | None


# What a ticket holds, as the contract shows it: as `domain.ticket` has it, with null for what the reader does not see.


class IssueView(msgspec.Struct, frozen=True):
    """What is wrong, as documented in step 4; clients do not see how it was judged."""

    summary: str
    description: str
    category: str
    impact: Grade | None
    urgency: Grade | None


class ResolutionView(msgspec.Struct, frozen=True):
    """The current resolution: which level fixed it, how, and when; clients do not see who said so."""

    level: Level
    text: str
    by: str | None
    at: datetime


class QualityControlView(msgspec.Struct, frozen=True):
    """The last word of quality control, and how the client confirmed it; clients do not see whose word it is."""

    satisfied: bool
    by: str | None
    at: datetime
    level: Level
    confirmed_via: Channel
    comment: str


class DetailsView(msgspec.Struct, frozen=True):
    """The complete resolution details that closing demands; clients do not see who wrote them."""

    cause: str
    actions: str
    checked_by_method: str
    by: str | None
    at: datetime


class TicketView(msgspec.Struct, frozen=True):
    """A ticket as people see it; what the reader does not see is null."""

    ticket_id: UUID
    number: str | None
    version: int
    state: State
    level: Level | None
    qualification: Qualification | None
    queue: Queue | None
    client: TicketClient | None
    channel: Channel
    text: str
    sender: Sender | None
    issue: IssueView | None
    priority: Priority | None
    assignee: str | None
    waiting_on_client: bool
    escalations: int
    resolution: ResolutionView | None
    qc: QualityControlView | None
    details: DetailsView | None
    dossier: Dossier | None
    links: tuple[Link, ...] | None
    created_at: datetime
    updated_at: datetime
    closed_at: datetime | None
    allowed_commands: list[CommandName]


class EventActor(msgspec.Struct, frozen=True):
    """Who did it; clients see of the desk's people the role alone."""

    id: str | None
    name: str | None
    role: str


class EventView(msgspec.Struct, frozen=True, omit_defaults=False):
    """An event as people and auditors see it; `position` is null until it is sealed.

    `data` is null where the program cannot read the event, `actor` where it cannot even read who did it.
    """

    position: int | None
    ticket_id: UUID | None
    client_user_id: str | None
    version: int
    type: str
    at: datetime
    actor: EventActor | None
    level: Level | None
    step: Step | None
    data: dict[str, Any] | None
    words: str
    correlation_id: str | None
    causation_id: str | None


def ticket_view(ticket: Ticket, allowed: tuple[str, ...]) -> TicketView:
    """The ticket in the shape of the API."""
    client = TicketClient(ticket.client_user_id, ticket.client_name) if ticket.client_user_id else None
    return TicketView(**taken_over(ticket, TicketView), client=client, allowed_commands=list(allowed))


def taken_over(ticket: Ticket, shape: type[msgspec.Struct]) -> dict[str, Any]:
    """What a shape has of a ticket under the same names."""
    return {name: getattr(ticket, name) for name in shape.__struct_fields__ if hasattr(ticket, name)}


async def history(fetch: Fetch, ticket_id: UUID) -> list[Placed]:
    """Every event of a ticket, oldest first, with its position where it is sealed."""
    return [(row[0], to_recorded(*row[1:])) for row in await fetch(HISTORY, (ticket_id,))]


async def version_at_time(fetch: Fetch, ticket_id: UUID, moment: datetime) -> int | None:
    """The version that a ticket was at at a moment; None before its first event."""
    rows = await fetch(AT_TIME, (ticket_id, moment))
    return rows[0][0] if rows else None


async def version_at_position(fetch: Fetch, ticket_id: UUID, position: int) -> int | None:
    """The version that a ticket was at at a position of the log; None before its first event."""
    rows = await fetch(AT_POSITION, (ticket_id, position))
    return rows[0][0] if rows else None


def event_views(known: list[Placed], who: Principal) -> list[EventView]:
    """The history for people: what of it the caller sees, with the step of the procedure, and in words."""
    audience = audience_of(who)
    seen = known if audience is Audience.STAFF else client_history(known, who.client_user_id)
    return [event_view(position, recorded, audience) for position, recorded in seen]


def event_view(position: int | None, recorded: Recorded, audience: Audience = Audience.STAFF) -> EventView:
    """One event of a ticket or of the directory, as this reader sees it."""
    actor, event, named = recorded.actor, recorded.event, sees_actor(audience, recorded.actor)
    user_id = event.user_id if isinstance(event, Registered | ContactChanged) else None
    return EventView(
        position,
        None if user_id else recorded.originator_id,
        user_id,
        recorded.originator_version,
        recorded.type,
        recorded.at,
        EventActor(actor.id if named else None, actor.name if named else None, actor.role),
        recorded.level,
        step_of(event, recorded.level),
        msgspec.to_builtins(seen_by(audience, event)),
        words(event, audience),
        recorded.correlation_id if named else None,
        recorded.causation_id if named else None,
    )


def client_history(known: Sequence[Placed], user_id: str | None) -> list[Placed]:
    """What this client sees of the history of an own ticket: nothing that somebody taken for the client has said."""
    settled = client_known([recorded for _, recorded in known])
    return [
        (position, recorded)
        for position, recorded in known
        if sees_event(Audience.CLIENT, recorded.event, user_id) and not by_mistake(recorded, settled)
    ]
