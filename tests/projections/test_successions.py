"""What is shown of a ticket follows the procedure: type, step and level of each event, held against the page."""

import asyncio
from typing import Any

import msgspec
import psycopg
import pytest
from msgspec.structs import replace

from application.commands.command_handler import run_at_once
from application.helpdesk import HelpDesk
from application.store.sealing import seal_all
from domain.values import Level
from projections.queries.event_feed import EventFilters, FeedRow, feed_item, feed_page
from projections.queries.log_tail import LogTail
from projections.queries.ticket_view import EventView, event_views
from projections.queries.webhook_bodies import bodies
from projections.runner import project_all
from tests.support.random_walk import Walk
from tests.support.read_models import fetcher
from tests.support.successions import outside, shown, walked
from tests.support.write_side import STAFF


@pytest.mark.parametrize("as_before", [False, True])
def test_tickets_walk_within_the_procedure(
    desk: HelpDesk, connection: psycopg.Connection[Any], as_before: bool
) -> None:
    """No generated ticket shows a succession, a step or a level that the page does not have, whatever was stored."""
    histories = shown(connection, walked(desk, 13, 25, as_before=as_before))
    assert [outside(history) for history in histories] == [[] for _ in histories]


@pytest.fixture
def stored_before(desk: HelpDesk, connection: psycopg.Connection[Any]) -> Walk:
    """A desk whose outcomes of closing e-mails were stored under the levels that their tickets had by then."""
    walk = walked(desk, 13, 25, as_before=True)
    seal_all(connection)
    project_all(connection)
    return walk


def test_every_way_out_shows_the_level_of_the_closing(stored_before: Walk, connection: psycopg.Connection[Any]) -> None:
    """The feed, whoever waits at its end, webhooks and a stale command's answer show what the history shows."""
    history = [replace(one, position=None) for ticket in shown(connection, stored_before) for one in ticket]
    page = asyncio.run(feed_page(fetcher(connection), 0, EventFilters(), 5_000)).items
    events = [item.event for item in page if item.event.ticket_id]
    assert sorted((replace(event, position=None) for event in events), key=place) == sorted(history, key=place)
    for level in Level:
        of_level = asyncio.run(feed_page(fetcher(connection), 0, EventFilters(level=level), 5_000)).items
        assert [item.event for item in of_level] == [event for event in events if event.level == level]
    assert asyncio.run(of_tail(connection, events)) == [event for event in events if event.level]
    sent = bodies(connection, [event.position for event in events])
    told = [msgspec.json.decode(sent[event.position].body) for event in events]
    assert [(one["level"], one["step"]) for one in told] == [(event.level, event.step) for event in events]
    for ticket_id in stored_before.tickets:
        missed = run_at_once(stored_before.desk._store.loader.load_shown(ticket_id, 0, 10_000))
        assert event_views([(None, one) for one in missed], STAFF) == [
            one for one in history if one.ticket_id == ticket_id
        ]


def place(event: EventView) -> tuple[str, int]:
    """Where an event stands."""
    return str(event.ticket_id), event.version


async def of_tail(connection: psycopg.Connection[Any], events: list[EventView]) -> list[EventView]:
    """What those who wait at the end of the log for the events of one level are handed, of all levels together."""
    tail, found = LogTail(fetcher(connection)), list[FeedRow]()
    for level in Level:
        position, last = 0, max(event.position or 0 for event in events if event.level == level)
        while position < last:
            rows = await tail.wait(tail.follow(EventFilters(level=level), position), 60)
            found, position = found + rows, rows[-1].position
    return [feed_item(row).event for row in sorted(found)]
