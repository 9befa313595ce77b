"""Two thousand generated tickets, held against the procedure as allowed successions with their steps."""

from collections import Counter
from itertools import pairwise
from typing import Any

import psycopg
import pytest

from application.helpdesk import HelpDesk
from tests.support.successions import ALLOWED, activity_of, outside, shown, walked

TICKETS, AT_ONCE = 2_000, 25


@pytest.mark.parametrize("as_before", [False, True])
def test_two_thousand_tickets_walk_within_the_procedure(
    desk: HelpDesk, connection: psycopg.Connection[Any], as_before: bool
) -> None:
    """None is outside; every activity of the page is reached, closings again and mails that come late among them."""
    tickets, seed, found, reached = 0, 100 + as_before, list[str](), Counter[Any]()
    while tickets < TICKETS // 2:
        for history in shown(connection, walked(desk, seed, AT_ONCE, as_before=as_before)):
            tickets, found = tickets + 1, found + outside(history)
            reached.update(activity_of(event) for event in history)
            closings = sum(event.type == "Ticket.Closed" for event in history)
            reached["closed again"] += closings > 1
            reached["outcome elsewhere"] += any(
                kind.endswith(("Sent", "Failed")) and level != before for kind, level, before in levels(history)
            )
        seed += 2
    assert found == []
    assert set(ALLOWED) - {None} - set(reached) == set()
    assert min(reached["closed again"], reached["outcome elsewhere"]) > 20


def levels(history: list[Any]) -> list[tuple[str, str | None, str | None]]:
    """The type and level of each event, and the level of the event before it."""
    return [(event.type, event.level, before.level) for before, event in pairwise(history)]
