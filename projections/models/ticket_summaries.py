"""Which tickets are there, and how do they stand? One row a ticket: what lists, searches and queue pages show."""

from collections.abc import Iterable, Sequence, Set
from datetime import datetime
from typing import Any, LiteralString
from uuid import UUID

import msgspec
import psycopg
from psycopg.sql import SQL

from domain import events as e
from domain.procedure import queue_of, standing_after
from domain.text import folded, normalised
from domain.values import Channel, Grade, Level, Priority, Qualification, Queue, State
from projections.engine.projection import Projection
from projections.engine.sealed_log import Sealed, of_tickets
from projections.engine.table_writer import Table
from projections.models.history_only_events import DOSSIERS, only_remarks, without


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
_KNOWN = SQL("{} where ticket_id = any(%b)").format(SUMMARIES.select).as_bytes()
# What remarks change, where they change no more. Returns the tickets that it leaves to the fold.
_REMARK = (
    SQL("""
    with remarked as materialized (
        select * from unnest(%b::uuid[], %b::int[], %b::bigint[], %b::timestamptz[]) as r(id, version, position, at)),
    done as (
        update ticket_summaries set version = remarked.version, position = remarked.position, updated_at = remarked.at
        from remarked where ticket_id = remarked.id and state not in {} returning ticket_id)
    select id from remarked where id not in (select ticket_id from done)""")
    .format(DOSSIERS)
    .as_bytes()
)
MOST_WORDS = 10_000  # characters of one text; a longer one is found by its beginning
_WORDS: LiteralString = """
    insert into ticket_words (ticket_id, request, client, number, issue, description)
    select ticket_id, to_tsvector('simple', coalesce(request, '')), to_tsvector('simple', coalesce(client, '')),
        to_tsvector('simple', coalesce(number, '')), to_tsvector('simple', coalesce(issue, '')),
        to_tsvector('simple', coalesce(description, ''))
    from json_to_recordset(%b::json) said(
        ticket_id uuid, request text, client text, number text, issue text, description text)"""
_LATER: LiteralString = """
    on conflict (ticket_id) do update set
        request = case when excluded.request = '' then ticket_words.request else excluded.request end,
        client = case when excluded.client = '' then ticket_words.client else excluded.client end,
        number = case when excluded.number = '' then ticket_words.number else excluded.number end,
        issue = case when excluded.issue = '' then ticket_words.issue else excluded.issue end,
        description = case when excluded.description = '' then ticket_words.description else excluded.description end"""
Words = dict[int, dict[str, Any]]  # of each ticket, by the number of its ID: a row of `_WORDS`


class TicketSummaries(Projection):
    """Keeps `ticket_summaries`, and `ticket_words`, which searches look into."""

    name = "ticket_summaries"
    version = 3
    tables = ("ticket_summaries", "ticket_words")
    ddl = """
        create table ticket_summaries (
            ticket_id uuid not null, version int not null, position bigint not null, state text not null,
            channel text not null, created_at timestamptz not null, updated_at timestamptz not null, number text,
            level text, qualification text, queue text, client_user_id text, client_name text, summary text,
            category text, impact text, urgency text, priority smallint, assignee text,
            waiting_on_client boolean not null, escalations int not null, closed_at timestamptz)
            with (fillfactor = 50);  -- room for the next version of each row beside it: no index has to know of it
        create table ticket_words (
            ticket_id uuid not null, request tsvector not null, client tsvector not null, number tsvector not null,
            issue tsvector not null, description tsvector not null,
            words tsvector not null generated always as (request || client || number || issue || description) stored)"""
    indexes = """
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
        """Loads the rows that the batch may change, folds, and writes them back at once."""
        sealed = list(of_tickets(batch))
        sealed = without(sealed, _remark(connection, only_remarks(sealed)))
        if not sealed:
            return
        tickets = {each.stream_id.int: each.stream_id for each in sealed}
        known = connection.execute(_KNOWN, (list(tickets.values()),))
        rows: dict[int, TicketSummary] = {row.ticket_id.int: row for row in SUMMARIES.read(known)}
        old = set(rows)
        words = _fold(rows, sealed)
        SUMMARIES.upsert(connection, [row for ticket, row in rows.items() if ticket in old])
        SUMMARIES.insert(connection, [row for ticket, row in rows.items() if ticket not in old])
        _write_words(connection, [row for ticket, row in words.items() if ticket in old], _WORDS + _LATER)
        _write_words(connection, [row for ticket, row in words.items() if ticket not in old], _WORDS)

    def build(self, connection: psycopg.Connection[Any], streams: Sequence[Sealed]) -> None:
        """Adds the rows of whole tickets."""
        rows: dict[int, TicketSummary] = {}
        words = _fold(rows, of_tickets(streams))
        SUMMARIES.copy(connection, rows.values())
        _write_words(connection, list(words.values()), _WORDS)


def _remark(connection: psycopg.Connection[Any], remarked: dict[int, Sealed]) -> Set[int]:
    """Writes remarks, the last of each ticket, where they change nothing else. Returns those tickets."""
    if not remarked:
        return frozenset()
    rows = ((last.stream_id, last.version, last.position, last.at) for last in remarked.values())
    left = connection.execute(_REMARK, [list(column) for column in zip(*rows, strict=True)])
    return remarked.keys() - {ticket.int for (ticket,) in left}


def _fold(rows: dict[int, TicketSummary], batch: Iterable[Sealed]) -> Words:
    """Brings the rows, by the number of the ticket's ID, from before the batch to after it.

    Returns the words of each ticket that the batch has.
    """
    words: Words = {}
    for sealed in batch:
        ticket = sealed.stream_id.int  # found faster than the UUID
        row = rows[ticket] = evolve_summary(rows.get(ticket), sealed)
        if found := searchable(sealed.event, row):
            words.setdefault(ticket, {"ticket_id": sealed.stream_id}).update(found)
    return words


def evolve_summary(row: TicketSummary | None, sealed: Sealed) -> TicketSummary:
    """The row after one more event."""
    event = sealed.event
    if row is None:
        if not isinstance(event, e.RequestReceived):
            raise LookupError(f"{sealed.type} of {sealed.stream_id} has no ticket before it")
        at = sealed.at
        return TicketSummary(sealed.stream_id, sealed.version, sealed.position, State.RECEIVED, event.channel, at, at)
    row.state, row.level, row.qualification = standing_after((row.state, row.level, row.qualification), event)
    queue = queue_of(row.state, row.level)
    if queue is not row.queue:
        row.queue, row.assignee, row.waiting_on_client = queue, None, False
    row.version, row.position, row.updated_at = sealed.version, sealed.position, sealed.at
    _take(row, sealed)
    return row


def _take(row: TicketSummary, sealed: Sealed) -> None:
    match sealed.event:
        case e.ClientIdentified(user_id, name) | e.ClientCorrected(user_id, name):
            row.client_user_id, row.client_name = user_id, name
        case e.Created(number):
            row.number = number
        case e.IssueDocumented(summary, _, category, impact, urgency, priority):
            row.summary, row.category = summary, normalised(category)  # reports group by it
            row.impact, row.urgency, row.priority = impact, urgency, priority
        case e.IssueAmended(_, summary, _, category):
            row.summary, row.category = summary or row.summary, category or row.category
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
            row.closed_at = sealed.at
        case e.Reopened():
            row.closed_at = None


def searchable(event: e.Event, row: TicketSummary) -> dict[str, str]:
    """The words of an event that a search finds the ticket by, folded as those of the search are; later ones of a kind
    take the place of earlier ones.

    `row` is the ticket's after the event.
    """
    match event:
        case e.RequestReceived(_, text):
            return {"request": folded(text[:MOST_WORDS])}
        case e.ClientIdentified(user_id, name) | e.ClientCorrected(user_id, name):
            return {"client": folded(f"{user_id} {name}")}
        case e.Created(number):
            return {"number": number}
        case e.IssueDocumented(description=text):
            return {"issue": folded(f"{row.summary} {row.category}"), "description": folded(text[:MOST_WORDS])}
        case e.IssueAmended(description=changed):
            described = {"description": folded(changed[:MOST_WORDS])} if changed else {}
            return {"issue": folded(f"{row.summary} {row.category}")} | described
    return {}


def _write_words(connection: psycopg.Connection[Any], words: Sequence[dict[str, Any]], insert: LiteralString) -> None:
    if words:
        connection.execute(insert, (msgspec.json.encode(words).decode(),))
