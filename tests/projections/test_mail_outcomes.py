"""A closing e-mail that failed, and was sent again: what became of it, in lists and in figures, now and of before."""

from datetime import datetime, timedelta
from typing import Any

import psycopg
import pytest

from application.helpdesk import HelpDesk
from application.store.sealing import seal_all
from domain.events import ClosureEmailFailed, ClosureEmailSent, Event
from domain.values import Actor, Role
from projections.runner import project_all
from tests.application.test_closure_mail import closed
from tests.support.write_side import NOW

DESK = Actor("desk", "desk", Role.SYSTEM)
FAILED, SENT = ClosureEmailFailed(9, "<9@desk>", 2, "550 no such user"), ClosureEmailSent(9, "<9@desk>", 1)
ROW = "select mail, mail_at, mail_attempts, mail_failed_at from closings"
FIGURE = """
    select count(*) filter (where counted), count(*) from reporting.closure_mail_success
    where at >= %(lo)s and at < %(hi)s and since < %(hi)s and (until is null or until >= %(hi)s)"""


def hour(hours: int) -> datetime:
    """So many hours after the closing."""
    return NOW + timedelta(hours=hours)


@pytest.mark.parametrize("batches", [1, 2, 3], ids="projected {} times".format)
@pytest.mark.parametrize(
    ("outcomes", "row"),
    [
        ([FAILED], ("failed", 1, 2, 1)),
        ([SENT], ("sent", 1, 1, None)),
        ([FAILED, SENT], ("sent", 2, 1, 1)),
        ([FAILED, FAILED], ("failed", 2, 2, 1)),
        ([FAILED, FAILED, SENT], ("sent", 3, 1, 1)),
        ([SENT, FAILED], ("sent", 1, 1, None)),
    ],
    ids=str,
)
def test_the_last_outcome_counts_and_sent_stays_sent(
    desk: HelpDesk, connection: psycopg.Connection[Any], outcomes: list[Event], row: tuple[Any, ...], batches: int
) -> None:
    """Whatever comes together in one batch of the projection."""
    ticket_id = closed(desk)
    if batches > 1:
        project(connection)
    for hours, outcome in enumerate(outcomes, 1):
        desk.record(ticket_id, outcome, DESK, hour(hours))
        if batches > 2:
            project(connection)
    project(connection)
    word, at, attempts, failed_at = row
    expected = (word, hour(at), attempts, failed_at and hour(failed_at))
    assert connection.execute(ROW).fetchone() == expected


def test_a_figure_of_before_stays_as_it_was(desk: HelpDesk, connection: psycopg.Connection[Any]) -> None:
    """Failed at 1 o'clock, sent at 3: up to 2 o'clock it is a failure, and stays one; in all, a success."""
    ticket_id = closed(desk)

    def figures(*windows: tuple[int, int]) -> list[tuple[int, int]]:
        project(connection)
        return [connection.execute(FIGURE, {"lo": hour(lo), "hi": hour(hi)}).fetchone() for lo, hi in windows]

    desk.record(ticket_id, FAILED, DESK, hour(1))
    assert figures((0, 2), (2, 9)) == [(0, 1), (0, 0)]
    desk.record(ticket_id, SENT, DESK, hour(3))
    assert figures((0, 2), (2, 9), (0, 9)) == [(0, 1), (1, 1), (1, 1)]


def project(connection: psycopg.Connection[Any]) -> None:
    """Seals and projects what there is."""
    seal_all(connection)
    while project_all(connection):
        continue
