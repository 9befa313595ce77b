"""Which tickets are there, and how do they stand? One row a ticket: what lists, searches and queue pages show."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, ClassVar, LiteralString
from uuid import UUID

import msgspec
import psycopg
from psycopg.sql import SQL

from domain import events as e
from domain.client import CLIENT_EVENTS
from domain.procedure import queue_of, standing_after
from domain.values import Channel, Grade, Level, Priority, Qualification, Queue, State
from projections.rows import Table
from projections.sealed_log import Sealed

_CLIENT_EVENTS = tuple(CLIENT_EVENTS.values())


class TicketSummary(msgspec.Struct):
    """A ticket in one row; `version` and `position` are those of its last event."""

    ticket_id: UUID
    version: int
    position: int
    state: State
    channel: Channel
    created_at: datetime
    updated_at: datetime
    number: str | None = None
    level: Level | None = None
    qualification: Qualification | None = None
    queue: Queue | None = Queue.INTAKE
    client_user_id: str | None = None
    client_name: str | None = None
    summary: str | None = None
    category: str | None = None
    impact: Grade | None = None
    urgency: Grade | None = None
    priority: Priority | None = None
    assignee: str | None = None
    waiting_on_client: bool = False
    escalations: int = 0
    closed_at: datetime | None = None


SUMMARIES = Table(
    "ticket_summaries",
    TicketSummary,
    "uuid int4 int8 text text timestamptz timestamptz text text text text text text text text text text int2"
    " text bool int4 timestamptz",
    key=("ticket_id",),
)


MOST_WORDS = 10_000  # characters of one text; a longer one is found by its beginning
_WORDS: LiteralString = """
    insert into ticket_words (ticket_id, request, client, number, issue)
    select ticket_id, to_tsvector('simple', coalesce(request, '')), to_tsvector('simple', coalesce(client, '')),
        to_tsvector('simple', coalesce(number, '')), to_tsvector('simple', coalesce(issue, ''))
    from unnest(%s::uuid[], %s::text[], %s::text[], %s::text[], %s::text[])
        said(ticket_id, request, client, number, issue)
    on conflict (ticket_id) do update set
        request = case when excluded.request = '' then ticket_words.request else excluded.request end,
        client = case when excluded.client = '' then ticket_words.client else excluded.client end,
        number = case when excluded.number = '' then ticket_words.number else excluded.number end,
        issue = case when excluded.issue = '' then ticket_words.issue else excluded.issue end"""


class TicketSummaries:
    """Keeps `ticket_summaries`, and `ticket_words`, which searches look into."""

    name: ClassVar[str] = "ticket_summaries"
    version: ClassVar[int] = 1
    tables: ClassVar[tuple[str, ...]] = ("ticket_summaries", "ticket_words")
    ddl: ClassVar[LiteralString] = """
        create table ticket_summaries (
            ticket_id uuid not null, version int not null, position bigint not null, state text not null,
            channel text not null, created_at timestamptz not null, updated_at timestamptz not null, number text,
            level text, qualification text, queue text, client_user_id text, client_name text, summary text,
            category text, impact text, urgency text, priority smallint, assignee text,
            waiting_on_client boolean not null, escalations int not null, closed_at timestamptz);
        create table ticket_words (
            ticket_id uuid not null, request tsvector not null, client tsvector not null, number tsvector not null,
            issue tsvector not null,
            words tsvector not null generated always as (request || client || number || issue) stored)"""
    indexes: ClassVar[LiteralString] = """
        alter table ticket_summaries add constraint ticket_summaries_key primary key (ticket_id);
        create index ticket_summaries_client on ticket_summaries (client_user_id, ticket_id);
        create index ticket_summaries_state on ticket_summaries (state, ticket_id);
        create index ticket_summaries_queue on ticket_summaries (queue, ticket_id) where queue is not null;
        create index ticket_summaries_level on ticket_summaries (level, ticket_id);
        create index ticket_summaries_assignee on ticket_summaries (assignee, ticket_id) where assignee is not null;
        create index ticket_summaries_priority on ticket_summaries (priority, ticket_id);
        create index ticket_summaries_created on ticket_summaries (created_at, ticket_id);
        alter table ticket_words add constraint ticket_words_key primary key (ticket_id);
        create index ticket_words_words on ticket_words using gin (words)"""

    def apply(self, connection: psycopg.Connection[Any], batch: Sequence[Sealed]) -> None:
        """Loads the rows that the batch touches, folds, and writes them back at once."""
        batch = [sealed for sealed in batch if not isinstance(sealed.recorded.event, _CLIENT_EVENTS)]
        touched = list({sealed.stream_id for sealed in batch})
        known = connection.execute(SUMMARIES.select + SQL(" where ticket_id = any(%s)"), (touched,))
        rows: dict[UUID, TicketSummary] = {row[0]: SUMMARIES.read(row) for row in known}
        words: dict[UUID, dict[str, str]] = {}
        for sealed in batch:
            rows[sealed.stream_id] = evolve(rows.get(sealed.stream_id), sealed)
            words[sealed.stream_id] = words.get(sealed.stream_id, {}) | searchable(sealed.recorded.event)
        SUMMARIES.upsert(connection, rows.values())
        _write_words(connection, words)


def evolve(row: TicketSummary | None, sealed: Sealed) -> TicketSummary:
    """The row after one more event."""
    recorded, event = sealed.recorded, sealed.recorded.event
    if row is None:
        if not isinstance(event, e.RequestReceived):
            raise LookupError(f"{recorded.type} of {recorded.originator_id} has no ticket before it")
        at = recorded.at
        return TicketSummary(
            sealed.stream_id, recorded.originator_version, sealed.position, State.RECEIVED, event.channel, at, at
        )
    row.state, row.level, row.qualification = standing_after(row, event)
    queue = queue_of(row.state, row.level)
    if queue != row.queue:
        row.queue, row.assignee, row.waiting_on_client = queue, None, False
    row.version, row.position, row.updated_at = recorded.originator_version, sealed.position, recorded.at
    _take(row, recorded)
    return row


def _take(row: TicketSummary, recorded: e.Recorded) -> None:
    match recorded.event:
        case e.ClientIdentified(user_id, name):
            row.client_user_id, row.client_name = user_id, name
        case e.Created(number):
            row.number = number
        case e.IssueDocumented(summary, _, category, impact, urgency, priority):
            row.summary, row.category = summary, category
            row.impact, row.urgency, row.priority = impact, urgency, priority
        case e.PriorityChanged(impact, urgency, priority):
            row.impact, row.urgency, row.priority = impact, urgency, priority
        case e.Assigned(assignee):
            row.assignee = assignee
        case e.Released():
            row.assignee = None
        case e.ClientAwaited():
            row.waiting_on_client = True
        case e.ClientResponded():
            row.waiting_on_client = False
        case e.Escalated():
            row.escalations += 1
        case e.Closed():
            row.closed_at = recorded.at
        case e.Reopened():
            row.closed_at = None


def searchable(event: e.Event) -> dict[str, str]:
    """The words of an event that a search finds the ticket by; later ones of a kind take the place of earlier ones."""
    match event:
        case e.RequestReceived(_, text):
            return {"request": text[:MOST_WORDS]}
        case e.ClientIdentified(user_id, name):
            return {"client": f"{user_id} {name}"}
        case e.Created(number):
            return {"number": number}
        case e.IssueDocumented(summary, description, category):
            return {"issue": f"{summary} {category} {description[:MOST_WORDS]}"}
    return {}


def _write_words(connection: psycopg.Connection[Any], words: dict[UUID, dict[str, str]]) -> None:
    said = {ticket_id: kinds for ticket_id, kinds in words.items() if kinds}
    if said:
        columns = [[kinds.get(kind) for kinds in said.values()] for kind in ("request", "client", "number", "issue")]
        connection.execute(_WORDS, [list(said), *columns])
