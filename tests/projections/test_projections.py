"""The read models: what they hold follows from the log alone, whoever applies it, in whatever batches."""

import asyncio
import threading
from collections import Counter
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from application.helpdesk import HelpDesk
from application.store.event_store import to_row
from application.store.postgres.database import connect
from application.store.sealing import seal_all
from domain.events import IssueDocumented, Recorded, RequestReceived
from domain.ticket import fold
from domain.values import Actor, Channel, Grade, Queue, Role
from projections.engine.projection import positions
from projections.queries.queue_pages import QueueFilters, overview, queue_as_of, queue_page
from projections.runner import lag, project, project_all
from tests.support.random_walk import Walk
from tests.support.read_models import contents, fetcher, start_again
from tests.support.write_side import NOW, append


@pytest.fixture
def worked(desk: HelpDesk, connection: psycopg.Connection) -> Walk:
    """A desk with 600 random steps behind it, all of them sealed and projected."""
    walk = Walk(desk, seed=7)
    for number, _ in enumerate(walk.steps(600)):
        if number % 50 == 0:
            seal_all(connection)
            project_all(connection)
    seal_all(connection)
    project_all(connection)
    return walk


@pytest.mark.parametrize("batch", [1, 7, 100_000])
def test_the_size_of_a_batch_makes_no_difference(worked: Walk, connection: psycopg.Connection, batch: int) -> None:
    """Applied anew in other batches, the log gives equal rows."""
    before = contents(connection)
    start_again(connection)
    assert project_all(connection, batch) == connection.execute("select count(*) from log").fetchone()[0]
    assert contents(connection) == before


def test_a_ticket_is_in_the_queue_that_its_events_say(worked: Walk, connection: psycopg.Connection) -> None:
    """Every open ticket has exactly one stay that has not ended, every other ticket none."""
    for ticket_id in worked.tickets:
        ticket = fold(worked.desk.history(ticket_id))
        query = """select queue, assignee, state, level, qualification from queue_stays
            where ticket_id = %s and left_at is null"""
        live = connection.execute(query, (ticket_id,)).fetchall()
        standing = (ticket.queue, ticket.assignee, ticket.state, ticket.level, ticket.qualification)
        assert live == ([standing] if ticket.queue else [])


def test_a_summary_says_what_the_events_say(worked: Walk, connection: psycopg.Connection) -> None:
    """A row of the summaries is the fold of the ticket's events."""
    query = """select version, state, level, qualification, queue, priority, assignee, waiting_on_client, escalations,
        created_at, updated_at, closed_at, number, client_user_id, summary from ticket_summaries where ticket_id = %s"""
    for ticket_id in worked.tickets:
        t = fold(worked.desk.history(ticket_id))
        expected = (t.version, t.state, t.level, t.qualification, t.queue, t.priority, t.assignee, t.waiting_on_client)
        expected += (t.escalations, t.created_at, t.updated_at, t.closed_at, t.number, t.client_user_id)
        expected += (t.issue.summary if t.issue else None,)
        assert connection.execute(query, (ticket_id,)).fetchall() == [expected]


def test_counts_are_what_one_would_count(worked: Walk, connection: psycopg.Connection) -> None:
    """The kept counts equal the counted ones, and the sizes add up to the number of open tickets."""
    found = asyncio.run(overview(fetcher(connection)))
    tickets = [fold(worked.desk.history(ticket_id)) for ticket_id in worked.tickets]
    sizes = Counter(ticket.queue for ticket in tickets if ticket.queue)
    free = Counter(ticket.queue for ticket in tickets if ticket.queue and not ticket.assignee)
    assert {item.queue: item.size for item in found.items} == {queue: sizes[queue] for queue in Queue}
    assert {item.queue: item.unassigned for item in found.items} == {queue: free[queue] for queue in Queue}
    assert found.open_tickets == sum(sizes.values())
    for item in found.items:
        assert sum(item.by_priority.values()) == item.size


def test_a_queue_as_of_a_moment_is_what_it_was(desk: HelpDesk, connection: psycopg.Connection) -> None:
    """The page of a queue as of a moment, asked much later, is the live page of that moment."""
    walk, fetch = Walk(desk, seed=11), fetcher(connection)
    moments: list[tuple[datetime, dict[Queue, list[Any]]]] = []
    for number, _ in enumerate(walk.steps(400)):
        if number % 25 == 0:
            seal_all(connection)
            project_all(connection)
            live = {q: asyncio.run(queue_page(fetch, q, QueueFilters(), None, 200)).items for q in Queue}
            moments.append((walk.now, live))
            walk.now += timedelta(seconds=1)
    seal_all(connection)
    project_all(connection)
    assert sum(len(page) for _, live in moments for page in live.values()) > 100
    for moment, live in moments:
        past = {q: asyncio.run(queue_as_of(fetch, q, moment, None, 200)).items for q in Queue}
        assert past == live


def test_two_runners_are_harmless(desk: HelpDesk, database: str, connection: psycopg.Connection) -> None:
    """Two runners at the same log give the rows that one gives."""
    list(Walk(desk, seed=3).steps(300))
    seal_all(connection)

    def run() -> None:
        with connect(database, "runner") as own:
            while lag(own)["queue_stays"]:
                project(own, 5)

    runners = [threading.Thread(target=run) for _ in range(2)]
    for runner in runners:
        runner.start()
    for runner in runners:
        runner.join()
    both = contents(connection)
    start_again(connection)
    project_all(connection)
    assert contents(connection) == both


def test_a_batch_that_fails_leaves_nothing(desk: HelpDesk, connection: psycopg.Connection) -> None:
    """Rows and position are one transaction: a failure in the middle of a batch leaves both as they were."""
    list(Walk(desk, seed=5).steps(50))
    seal_all(connection)
    before = contents(connection), positions(connection)
    connection.execute("alter table queue_counts rename to gone")
    with pytest.raises(psycopg.errors.UndefinedTable):
        project_all(connection)
    connection.execute("alter table gone rename to queue_counts")
    assert (contents(connection), positions(connection)) == before


def test_a_projection_that_lags_catches_up_beside_the_others(desk: HelpDesk, connection: psycopg.Connection) -> None:
    """One projection that was set back is brought to where the others are, and they are not applied twice."""
    list(Walk(desk, seed=9).steps(200))
    seal_all(connection)
    project_all(connection)
    before = contents(connection)
    for table in ("queue_stays", "rank_changes", "queue_counts"):
        connection.execute(f"truncate {table}")
    connection.execute("update projections set position = 0 where name = 'queue_stays'")
    project_all(connection, 10)
    assert contents(connection) == before
    assert len(set(positions(connection).values())) == 1


def test_a_category_is_one_however_it_was_written(connection: psycopg.Connection) -> None:
    """Earlier versions stored texts as they came: reports count composed and decomposed ones as one category."""
    by, composed, decomposed = Actor("old", "Old", Role.INTAKE), "Caf\u00e9", "Cafe\u0301"
    for category in (composed, decomposed):
        ticket = uuid4()
        issue = IssueDocumented("s", "d", category, Grade.LOW, Grade.LOW, 5)
        events = [RequestReceived(Channel.WEB, "x"), issue]
        append(connection, [to_row(Recorded(ticket, n, NOW, by, event)) for n, event in enumerate(events, 1)])
    seal_all(connection)
    project_all(connection)
    assert connection.execute("select category, count(*) from ticket_summaries group by 1").fetchall() == [
        (composed, 2)
    ]
