"""What is this ticket, now or earlier, and what happened to it? Folded from its own events, never stale."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
from psycopg.sql import SQL

from application.store.event_store import to_recorded
from domain import events as e
from domain.client import ContactChanged, Registered
from domain.events import Recorded
from domain.procedure import step_of
from domain.ticket import Details, Dossier, Issue, Link, QualityControl, Resolution, Ticket
from domain.values import Channel, Level, Priority, Qualification, Queue, Sender, State, Visibility
from domain.words import by_mistake, client_known, words
from projections.queries.pages import Fetch

HISTORY = SQL("""
    select position, stream_id, version, at, type, body, meta from events left join log using (ord)
    where stream_id = %s order by version""")
AT_TIME = SQL("select version from events where stream_id = %s and at <= %s order by version desc limit 1")
AT_POSITION = SQL("""
    select version from events join log using (ord) where stream_id = %s and position <= %s
    order by version desc limit 1""")


Placed = tuple[int | None, Recorded]  # an event with its position, which it has once it is sealed


class TicketClient(msgspec.Struct, frozen=True):
    """Whose ticket it is."""

    user_id: str
    name: str | None


class TicketView(msgspec.Struct, frozen=True):
    """A ticket as people see it."""

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
    issue: Issue | None
    priority: Priority | None
    assignee: str | None
    waiting_on_client: bool
    escalations: int
    resolution: Resolution | None
    qc: QualityControl | None
    details: Details | None
    dossier: Dossier | None
    links: tuple[Link, ...]
    created_at: datetime
    updated_at: datetime
    closed_at: datetime | None
    allowed_commands: list[str]


class EventActor(msgspec.Struct, frozen=True):
    """Who did it."""

    id: str
    name: str
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
    step: str | None
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


def event_views(history: list[Placed]) -> list[EventView]:
    """The history for people: with the step of the procedure, and in words."""
    return [event_view(position, recorded) for position, recorded in history]


def event_view(position: int | None, recorded: Recorded) -> EventView:
    """One event of a ticket or of the directory."""
    actor, event = recorded.actor, recorded.event
    user_id = event.user_id if isinstance(event, Registered | ContactChanged) else None
    return EventView(
        position,
        None if user_id else recorded.originator_id,
        user_id,
        recorded.originator_version,
        recorded.type,
        recorded.at,
        EventActor(actor.id, actor.name, actor.role),
        recorded.level,
        step_of(event, recorded.level),
        msgspec.to_builtins(event),
        words(recorded.event),
        recorded.correlation_id,
        recorded.causation_id,
    )


CLIENT_SEES = (
    e.RequestReceived,
    e.Created,
    e.IssueDocumented,
    e.IssueAmended,
    e.Routed,
    e.Escalated,
    e.Resolved,
    e.QCVerified,
    e.QCFailed,
    e.ResolutionDocumented,
    e.Closed,
    e.ClosureEmailSent,
    e.DossierCompiled,
    e.ClientApproved,
    e.ClientDeclined,
    e.ClientAwaited,
    e.ClientResponded,
    e.Cancelled,
    e.Reopened,
)


def client_history(known: Sequence[Placed], user_id: str | None) -> list[Placed]:
    """What this client sees of the history of an own ticket: nothing that somebody taken for the client has said."""
    settled = client_known([recorded for _, recorded in known])
    return [
        (position, recorded)
        for position, recorded in known
        if client_sees(recorded.event, user_id) and not by_mistake(recorded, settled)
    ]


def client_sees(event: e.Event, user_id: str | None) -> bool:
    """Whether an event is part of this client's history of an own ticket.

    No internal notes, no hand-overs inside the desk, and not for whom the request was taken by mistake at first.
    """
    match event:
        case e.NoteAdded(visibility=visibility):
            return visibility is Visibility.CLIENT
        case e.ClientIdentified(client_user_id=identified):
            return identified == user_id
    return isinstance(event, CLIENT_SEES)
