"""Remarks only add to a ticket's history: they are projected by themselves, and it must not show."""

import random
from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from api.worker.worker_loop import Worker
from application.settings import Settings
from application.store.event_store import to_row
from application.store.sealing import seal_all
from domain.events import (
    Cancelled,
    Closed,
    ClosureEmailFailed,
    ClosureEmailSent,
    Created,
    Escalated,
    Event,
    Linked,
    NoteAdded,
    PriorityChanged,
    QCVerified,
    Recorded,
    ResolutionDocumented,
    Resolved,
    Routed,
)
from domain.procedure import DOSSIER_STANDS, standing_after
from domain.ticket import HISTORY_ONLY_EVENTS, fold
from domain.values import Actor, Channel, Grade, Level, Relation, Role, State, Visibility
from projections.rebuild.rebuild_projections import rebuild
from projections.runner import PROJECTIONS, prepare_runner, project, project_all
from tests.support.given import BEGUN, DOSSIER
from tests.support.write_side import NOW, append

BY = Actor("desk-1", "Desk One", Role.AGENT)
NOTE = NoteAdded("looked at", Visibility.INTERNAL)
SOLVED = [
    *(*BEGUN, Routed(Level.TIER1), Linked(uuid4(), Relation.RELATED_TO), Resolved(Level.TIER1, "fixed")),
    QCVerified(Level.TIER1, Channel.PHONE, "It prints."),
    *(ResolutionDocumented(Level.TIER1, "cause", "actions", "method"), Closed(Level.TIER1)),
]
DECIDED = [*BEGUN, Routed(Level.TIER1), Escalated(Level.TIER1, Level.IT_MANAGER, "up"), *DOSSIER]
REGRADED = [*BEGUN, PriorityChanged(Grade.HIGH, Grade.HIGH, 1, "everybody"), Cancelled("withdrawn")]
REMARKED = [NOTE, ClosureEmailSent(9, "<1@desk>", 1), ClosureEmailFailed(9, "<1@desk>", 2, "550")]


def record(connection: psycopg.Connection[Any], ticket: UUID, *events: Event, first: int = 1) -> None:
    """Records events of a ticket and seals them; a ticket that is created gets a number of its own."""
    for version, event in enumerate(events, first):
        if isinstance(event, Created):
            event = Created(f"T-{ticket}")
        append(connection, [to_row(Recorded(ticket, version, NOW + timedelta(minutes=version), BY, event))])
    seal_all(connection)


def stories(chance: random.Random) -> dict[UUID, list[Event]]:
    """Tickets that came to every state, with remarks of each kind anywhere behind the first event."""
    found: dict[UUID, list[Event]] = {}
    for path in (SOLVED, DECIDED, REGRADED):
        for length in range(1, len(path) + 1):
            story = list(path[:1])
            for event in path[1:length]:
                story += [*chance.sample(REMARKED, chance.choice([0, 0, 0, 1, 2])), event]
            found[uuid4()] = [*story, *chance.choices(REMARKED, k=chance.choice([0, 1, 3]))]
    return found


def told(chance: random.Random, stories: dict[UUID, list[Event]]) -> Iterator[tuple[UUID, int, Event]]:
    """The events of all stories, beside one another; often several of one ticket in a row."""
    versions = dict.fromkeys(stories, 0)
    while left := [ticket for ticket in stories if versions[ticket] < len(stories[ticket])]:
        ticket = chance.choice(left)
        for event in stories[ticket][versions[ticket] :][: chance.choice([1, 1, 2, 5])]:
            versions[ticket] += 1
            yield ticket, versions[ticket], event


def differences(connection: psycopg.Connection[Any]) -> list[tuple[str, int, int]]:
    """The tables that are not what a rebuild makes of the log."""
    found = rebuild(connection, *PROJECTIONS)
    assert {each.table for each in found} == {table for projection in PROJECTIONS for table in projection.tables}
    return [(each.table, each.only_old, each.only_new) for each in found if each.only_old or each.only_new]


def rows(connection: psycopg.Connection[Any], table: str) -> list[tuple[Any, ...]]:
    """The rows of a table, and which transaction wrote each of them."""
    return sorted(connection.execute(f"select xmin::text, {table}.* from {table}").fetchall(), key=repr)


@pytest.mark.parametrize("batch", [1, 2, 7, 40, 100_000])
@pytest.mark.parametrize("seed", range(3))
def test_remarks_in_any_batch_are_what_a_rebuild_makes_of_them(
    connection: psycopg.Connection, seed: int, batch: int
) -> None:
    """In every state, alone or beside other events, in batches of any size: rows and counts are a rebuild's."""
    chance = random.Random(seed)
    known = stories(chance)
    for ticket, version, event in told(chance, known):
        record(connection, ticket, event, first=version)
        if chance.random() < 0.1:
            project_all(connection, batch)
    project_all(connection, batch)
    for ticket, story in known.items():
        recorded = [Recorded(ticket, version, NOW, BY, event) for version, event in enumerate(story, 1)]
        query = "select version, state from ticket_summaries where ticket_id = %s"
        assert connection.execute(query, (ticket,)).fetchone() == (len(story), fold(recorded).state)
    assert differences(connection) == []


def test_there_are_remarks_in_every_state() -> None:
    """What the test above projects: each kind of remark in each state, and dossiers that lapse by one."""
    seen = set()
    for seed in range(3):
        for story in stories(random.Random(seed)).values():
            for number, event in enumerate(story):
                if type(event) in HISTORY_ONLY_EVENTS:
                    before = fold(Recorded(UUID(int=1), 1 + at, NOW, BY, one) for at, one in enumerate(story[:number]))
                    seen.add(
                        (
                            before.state,
                            standing_after((before.state, before.level, before.qualification), event)[0]
                            is before.state,
                        )
                    )
    assert seen == {(state, state not in DOSSIER_STANDS) for state in State}


@pytest.mark.parametrize("remark", REMARKED, ids=lambda remark: type(remark).__name__)
@pytest.mark.parametrize("length", [1, 2])
def test_a_dossier_lapses_by_a_remark(connection: psycopg.Connection, length: int, remark: Event) -> None:
    """A note alone in its batch, or beside notes on other tickets, makes the IT manager decide anew."""
    ticket, other = uuid4(), uuid4()
    record(connection, ticket, *DECIDED[:-2], *DOSSIER[:length])
    record(connection, other, *BEGUN)
    project_all(connection)
    record(connection, other, NOTE, first=5)
    record(connection, ticket, remark, first=7 + length)
    assert project(connection) == 2
    for query in (
        "select state from ticket_summaries where ticket_id = %s",
        "select state from queue_stays where ticket_id = %s and left_at is null",
    ):
        assert connection.execute(query, (ticket,)).fetchall() == [("deciding",)]
    assert differences(connection) == []


@pytest.mark.parametrize("events", [[NOTE], REMARKED, [Linked(uuid4(), Relation.RELATED_TO), NOTE]])
def test_what_changes_no_stay_writes_none(connection: psycopg.Connection, events: list[Event]) -> None:
    """Neither a stay nor a count is written again as it was; the summary has the new version, position and time."""
    ticket, tables = uuid4(), ("queue_stays", "rank_changes", "queue_counts", "ticket_words")
    record(connection, ticket, *BEGUN)
    record(connection, uuid4(), *DECIDED)
    project_all(connection)
    before = [rows(connection, table) for table in tables]
    record(connection, ticket, *events, first=5)
    assert project(connection) == len(events)
    assert [rows(connection, table) for table in tables] == before
    said = connection.execute("select version, updated_at from ticket_summaries where ticket_id = %s", (ticket,))
    last = 4 + len(events)
    assert said.fetchall() == [(last, NOW + timedelta(minutes=last))]


def test_a_round_reads_no_growing_table_from_end_to_end(connection: psycopg.Connection) -> None:
    """The worker looks up what it needs also where a table is still so small that reading all of it were cheaper."""
    query = """select relname, seq_scan from pg_stat_user_tables where relname in ('events', 'log', 'ticket_summaries',
        'ticket_words', 'queue_stays', 'rank_changes', 'closings', 'closure_mails') order by relname"""
    worker, chance = Worker(Settings()), random.Random(5)
    prepare_runner(connection)
    connection.execute("select pg_stat_force_next_flush()")
    before = connection.execute(query).fetchall()
    assert len(before) == 8
    for number, (ticket, version, event) in enumerate(told(chance, stories(chance))):
        record(connection, ticket, event, first=version)
        if number % 5 == 0:
            assert worker.step(connection)
    connection.execute("select pg_stat_force_next_flush()")
    assert connection.execute(query).fetchall() == before
