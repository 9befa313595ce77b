"""Which queue was a ticket in, from when to when, and why did it come and go? One row for each stay.

The live queues are the stays that have not ended; the queues as of any moment, dwell times, backlog and ageing are the
same table. `queue_counts` is kept with it, so that nobody has to count.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from copy import copy
from datetime import datetime
from typing import Any, ClassVar, LiteralString
from uuid import UUID

import msgspec
import psycopg
from psycopg.sql import SQL

from domain import events as e
from domain.procedure import queue_of, standing_after
from domain.values import Level, Qualification, Queue, State
from projections.engine.projection import Projection
from projections.engine.sealed_log import Sealed, of_tickets
from projections.engine.table_writer import Table
from projections.models.history_only_events import DOSSIERS, only_remarks, without

UNRANKED = 6  # behind every priority: not documented yet


class QueueStay(msgspec.Struct):
    """One stay. `rank` is the priority (6 while there is none), `entered_rank` what it was at the beginning."""

    ticket_id: UUID
    entered_position: int
    queue: Queue
    entered_at: datetime
    entered_by: str
    entered_rank: int
    rank: int
    state: State
    level: Level | None
    qualification: Qualification | None
    assignee: str | None = None
    left_at: datetime | None = None
    left_position: int | None = None
    left_by: str | None = None


class RankChange(msgspec.Struct):
    """A ticket's priority changed in the middle of a stay; the order of a queue as of a moment needs it."""

    ticket_id: UUID
    position: int
    at: datetime
    rank: int


STAYS = Table(
    "queue_stays",
    QueueStay,
    "uuid int8 text timestamptz text int2 int2 text text text text timestamptz int8 text",
    key=("ticket_id", "entered_position"),
)
RANK_CHANGES = Table("rank_changes", RankChange, "uuid int8 timestamptz int2", key=("ticket_id", "position"))
# The last stay of each ticket; of those with remarks alone only where they change it, or there is none.
_LAST = (
    SQL("""
    select touched.id, last.* from unnest(%b::uuid[], %b::int[]) touched(id, remarks)
    left join lateral ({} where ticket_id = touched.id order by entered_position desc limit 1) last on true
    where case touched.remarks when 1 then last.state in {} is not false else last.state is not null end""")
    .format(STAYS.select, DOSSIERS)
    .as_bytes()
)
_COUNT: LiteralString = """
    insert into queue_counts
    select queue, rank, sum(moved), coalesce(sum(moved) filter (where free), 0)
    from unnest(%s::text[], %s::smallint[], %s::boolean[], %s::int[]) given(queue, rank, free, moved)
    group by queue, rank on conflict (queue, rank) do update
    set size = queue_counts.size + excluded.size, unassigned = queue_counts.unassigned + excluded.unassigned"""
_FORGET: LiteralString = """
    with gone as (delete from queue_stays where ticket_id = %s returning queue, rank, assignee, left_at)
    update queue_counts c set size = c.size - 1, unassigned = c.unassigned - (gone.assignee is null)::int
    from gone where gone.left_at is null and c.queue = gone.queue and c.rank = gone.rank"""


class QueueStays(Projection):
    """Keeps `queue_stays`, `rank_changes` and `queue_counts`."""

    name = "queue_stays"
    version = 2
    tables = ("queue_stays", "rank_changes", "queue_counts")
    ddl = """
        create table queue_stays (
            ticket_id uuid not null, entered_position bigint not null, queue text not null,
            entered_at timestamptz not null, entered_by text not null, entered_rank smallint not null,
            rank smallint not null, state text not null, level text, qualification text, assignee text,
            left_at timestamptz, left_position bigint, left_by text);
        create table rank_changes (
            ticket_id uuid not null, position bigint not null, at timestamptz not null, rank smallint not null);
        create table queue_counts (
            queue text not null, rank smallint not null, size int not null, unassigned int not null,
            primary key (queue, rank))"""
    indexes = """
        alter table queue_stays add primary key (ticket_id, entered_position);
        alter table rank_changes add primary key (ticket_id, position);
        create index queue_stays_live on queue_stays (queue, rank, entered_at, ticket_id) where left_at is null;
        create index queue_stays_free on queue_stays (queue, rank, entered_at, ticket_id)
            where left_at is null and assignee is null;
        create index queue_stays_oldest on queue_stays (queue, entered_at) where left_at is null;
        create index queue_stays_entered on queue_stays (entered_at);
        create index queue_stays_left on queue_stays (left_at, queue) where left_at is not null"""

    counts: ClassVar[Mapping[str, LiteralString]] = {"queue_counts": "size <> 0"}
    finish = """
        insert into queue_counts
        select queue, rank, count(*), count(*) filter (where assignee is null) from queue_stays
        where left_at is null group by queue, rank"""

    def apply(self, connection: psycopg.Connection[Any], batch: Sequence[Sealed]) -> None:
        """Loads the last stay of each ticket that the batch may change, folds, and writes what changed at once."""
        sealed = list(of_tickets(batch))
        stays, unchanged = _last_stays(connection, sealed)
        before = {ticket: copy(stay) for ticket, stay in stays.items()}
        folded, ranks = _fold(stays, without(sealed, unchanged))
        old = {stay.entered_position: stay for stay in before.values()}
        STAYS.upsert(connection, [stay for stay in folded if stay != old.get(stay.entered_position, stay)])
        STAYS.insert(connection, [stay for stay in folded if stay.entered_position not in old])
        RANK_CHANGES.insert(connection, ranks)
        counts = Counter(_live(stays.values()))
        counts.subtract(_live(before.values()))
        if moved := [(*place, number) for place, number in counts.items() if number]:
            connection.execute(_COUNT, [list(column) for column in zip(*moved, strict=True)])

    def build(self, connection: psycopg.Connection[Any], streams: Sequence[Sealed]) -> None:
        """Adds the stays of whole tickets; `finish` counts."""
        stays, ranks = _fold({}, of_tickets(streams))
        STAYS.copy(connection, stays)
        RANK_CHANGES.copy(connection, ranks)

    def forget(self, connection: psycopg.Connection[Any], stream: UUID) -> None:
        """Removes the stays of a ticket, and takes it out of the counts."""
        connection.execute(_FORGET, (stream,))
        connection.execute("delete from rank_changes where ticket_id = %s", (stream,))


def _fold(stays: dict[int, QueueStay], batch: Iterable[Sealed]) -> tuple[list[QueueStay], list[RankChange]]:
    """What a batch changes; `stays` holds the last stay of each ticket, by the ID's number, before and after."""
    changed: dict[int, QueueStay] = {}  # a position belongs to one stay; and a number is found faster than a UUID
    ranks: list[RankChange] = []
    for sealed in batch:
        ticket = sealed.stream_id.int
        for stay in step(stays.get(ticket), sealed, ranks):
            changed[stay.entered_position] = stays[ticket] = stay
    return list(changed.values()), ranks


def step(stay: QueueStay | None, sealed: Sealed, ranks: list[RankChange]) -> tuple[QueueStay, ...]:
    """The stays that one more event changes: the present one, and the next one where it leads into another queue."""
    event = sealed.event
    if stay is None:
        if not isinstance(event, e.RequestReceived):
            raise LookupError(f"{sealed.type} of {sealed.stream_id} has no ticket before it")
        return (_enter(sealed, Queue.INTAKE, UNRANKED, (State.RECEIVED, None, None)),)
    standing = standing_after((stay.state, stay.level, stay.qualification), event)
    queue = queue_of(standing[0], standing[1])
    if queue is not (None if stay.left_at else stay.queue):
        if stay.left_at is None:
            stay.left_at, stay.left_position, stay.left_by = sealed.at, sealed.position, sealed.type
        if queue:
            return stay, _enter(sealed, queue, stay.rank, standing)
    stay.state, stay.level, stay.qualification = standing  # also of a stay that was the last one: closed, cancelled
    _take(stay, sealed, ranks)
    return (stay,)


def _enter(
    sealed: Sealed, queue: Queue, rank: int, standing: tuple[State, Level | None, Qualification | None]
) -> QueueStay:
    return QueueStay(sealed.stream_id, sealed.position, queue, sealed.at, sealed.type, rank, rank, *standing)


def _take(stay: QueueStay, sealed: Sealed, ranks: list[RankChange]) -> None:
    match sealed.event:
        case e.Assigned(assignee):
            stay.assignee = assignee
        case e.Released():
            stay.assignee = None
        case e.IssueDocumented(priority=priority) | e.PriorityChanged(priority=priority):
            stay.rank = priority
            ranks.append(RankChange(stay.ticket_id, sealed.position, sealed.at, priority))


def _last_stays(connection: psycopg.Connection[Any], batch: Sequence[Sealed]) -> tuple[dict[int, QueueStay], Set[int]]:
    """The last stay of each ticket of a batch, by the ID's number, and the tickets on which the batch changes none."""
    tickets, remarked = {sealed.stream_id.int: sealed.stream_id for sealed in batch}, only_remarks(batch)
    if not tickets:
        return {}, frozenset()
    given = list(tickets.values()), [int(ticket in remarked) for ticket in tickets]
    found = {row[0].int: row[1:] for row in connection.execute(_LAST, given).fetchall()}
    stays = STAYS.read(stay for stay in found.values() if stay[0])
    return {stay.ticket_id.int: stay for stay in stays}, remarked.keys() - found.keys()


def _live(stays: Iterable[QueueStay]) -> Iterator[tuple[Queue, int, bool]]:
    """Of the stays that last: in which queue, at which rank, and whether nobody has the ticket."""
    return ((stay.queue, stay.rank, stay.assignee is None) for stay in stays if stay.left_at is None)
