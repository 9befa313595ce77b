"""An event's time is the database's when it is recorded, give or take 2 s; a ticket of the future comes back."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from uuid import uuid4

import psycopg
import pytest

from application.clock import utc_now
from application.commands.command_handler import ClockOff
from application.commands.deciding import new_stream_id, time_after
from application.commands.supporting_commands import AddNote, RegisterClient
from application.helpdesk import HelpDesk
from application.store.event_store import INSERT_EVENTS, append_parameters, to_row
from application.store.log_identity import begin_log
from application.store.postgres.database import connect
from domain.events import ClosureEmailSent, NoteAdded, Recorded
from domain.values import Actor, Role, Visibility
from projections.status.readiness import clock_off
from tests.support.write_side import CONTACT, NOW, OPEN, STAFF, BatchingShell, Shell, opened, request, rows

NOTE = AddNote("looked at it")
SYSTEM = Actor("deskledger", "Deskledger", Role.SYSTEM)
HOUR = timedelta(hours=1)


@pytest.fixture(params=["synchronous", "batching"])
def shell(request: pytest.FixtureRequest, strict_database: str) -> Iterator[Shell]:
    """Either shell, on a database that holds times against its clock."""
    if request.param == "batching":
        batching = BatchingShell(strict_database)
        yield batching
        batching.close()
    else:
        with HelpDesk.connect(strict_database) as desk:
            yield desk


def of_now(event: Recorded, before: datetime) -> bool:
    """Whether an event's time lies between then and now."""
    return before <= event.at <= utc_now()


def test_what_comes_too_late_is_decided_anew(shell: Shell) -> None:
    """A command and a registration that took longer than 2 s get the time at which they are recorded, all of them."""
    before = utc_now()
    ticket = opened(shell)  # as of weeks ago
    shell.execute(request(ticket, NOTE))
    assert all(of_now(event, before) for event in shell.history(ticket))


def test_a_fact_has_the_time_at_which_it_is_recorded(strict_database: str) -> None:
    """Nor is a mail's outcome older than its record."""
    with HelpDesk.connect(strict_database) as desk:
        ticket, before = opened(desk), utc_now()
        assert of_now(desk.record(ticket, ClosureEmailSent(1, "<1@desk>", 1), SYSTEM, NOW), before)


def test_a_clock_that_is_ahead_records_nothing(shell: Shell) -> None:
    """The time of a command is no more than 2 s ahead of the database's; its host is told so, not the history."""
    ticket = opened(shell)
    for ahead in (timedelta(seconds=5), timedelta(days=365)):
        with pytest.raises(ClockOff):
            shell.execute(request(ticket, NOTE, now=utc_now() + ahead))
        with pytest.raises(ClockOff):
            shell.register_client("client-2", CONTACT, STAFF, utc_now() + ahead)
    assert len(shell.history(ticket)) == 5


def test_a_little_ahead_is_taken(shell: Shell) -> None:
    """Hosts differ by some tenths of a second."""
    ticket, now = opened(shell), utc_now() + timedelta(seconds=0.5)
    shell.execute(request(ticket, NOTE, now=now))
    assert shell.history(ticket)[-1].at == now


def test_the_time_is_checked_for_all_of_a_batch_or_none(strict_database: str) -> None:
    """Nothing is recorded of a statement with one event that is too old, or too far ahead."""
    good, stream = to_row(Recorded(uuid4(), 1, utc_now(), SYSTEM, NoteAdded("x", Visibility.INTERNAL))), uuid4()
    with connect(strict_database, "test") as connection:
        for at in (utc_now() - timedelta(seconds=3), utc_now() + timedelta(seconds=3)):
            bad = to_row(Recorded(stream, 1, at, SYSTEM, NoteAdded("x", Visibility.INTERNAL)))
            with pytest.raises(psycopg.errors.CheckViolation):
                connection.execute(INSERT_EVENTS, append_parameters([good, bad])[:1])
        assert connection.execute("select count(*) from events").fetchone() == (0,)


def test_the_past_is_imported_by_those_who_say_so(strict_database: str) -> None:
    """An import keeps its times; nobody imports the future."""
    with HelpDesk.connect(strict_database, importing=True) as desk:
        ticket = opened(desk)
        assert {event.at for event in desk.history(ticket)} == {NOW}
        with pytest.raises(ClockOff):
            desk.execute(request(ticket, NOTE, now=utc_now() + HOUR))
    with connect(strict_database, "test") as connection, pytest.raises(psycopg.errors.CheckViolation):  # and it is over
        connection.execute(INSERT_EVENTS, append_parameters(rows(uuid4()))[:1])


def test_a_ticket_of_the_future_goes_on_in_the_present(desk: HelpDesk, connection: psycopg.Connection) -> None:
    """What a wrong clock has written binds no later event, and a client's neither; a little ahead, it does."""
    ticket, ahead = opened(desk), utc_now() + timedelta(days=365)
    desk.execute(request(ticket, NOTE, now=ahead))
    desk.register_client("client-1", RegisterClient("New name", "new@example.org").contact(), STAFF, ahead)
    before = utc_now()
    desk.execute(request(ticket, NOTE, now=utc_now()))
    desk.record(ticket, ClosureEmailSent(1, "<1@desk>", 1), SYSTEM, utc_now())
    desk.register_client("client-1", CONTACT, STAFF, utc_now())
    history = desk.history(ticket)
    assert history[-3].at == ahead
    assert [of_now(event, before) for event in history[-2:]] == [True, True]


def test_a_history_never_runs_backwards_for_a_clock_that_is_a_little_behind() -> None:
    """Up to 4 s, which two hosts may differ by, a later event has the time of the one before."""
    for seconds, kept in [(0, True), (3.9, True), (4, True), (4.1, False), (10**8, False)]:
        last = NOW + timedelta(seconds=seconds)
        assert time_after(last, NOW) == (last if kept else NOW)
    assert time_after(NOW - HOUR, NOW) == NOW


def test_clocks_are_compared_as_far_as_the_answer_leaves_no_doubt() -> None:
    """An answer that took long says nothing of the clocks; what lies outside of it does."""
    assert clock_off(NOW, NOW + timedelta(seconds=30), NOW + timedelta(minutes=1)) == 0
    assert clock_off(NOW, NOW - timedelta(seconds=5), NOW) == 5
    assert clock_off(NOW, NOW + timedelta(seconds=7), NOW + timedelta(seconds=1)) == -6


def test_one_who_is_too_late_harms_nobody_in_the_batch(strict_database: str) -> None:
    """In one round trip of the API's shell, a command of weeks ago is decided anew, and the others are as they are."""
    with HelpDesk.connect(strict_database) as desk:
        tickets = [opened(desk) for _ in range(4)]
    batching = BatchingShell(strict_database)
    try:
        now = utc_now()
        ats = [now, now, NOW, now]
        batching.execute_all([request(ticket, NOTE, now=at) for ticket, at in zip(tickets, ats, strict=True)])
        times = [batching.history(ticket)[-1].at for ticket in tickets]
        assert [at == now for at in times] == [True, True, False, True]
        assert now <= times[2] <= utc_now()
    finally:
        batching.close()


def test_a_restore_begins_another_log(connection: psycopg.Connection) -> None:
    """The identity of the log is another one each time."""
    known = connection.execute("select id from log_identity").fetchone()[0]
    assert len({known, begin_log(connection), begin_log(connection)}) == 3


def test_opening_belongs_to_the_same_rule(shell: Shell) -> None:
    """A ticket whose opening is decided anew is the one that was answered."""
    shell.register_client("client-1", CONTACT, STAFF, NOW)
    ticket, before = new_stream_id(NOW), utc_now()
    outcome = shell.execute(request(ticket, OPEN))
    assert all(of_now(event, before) for event in outcome.events)
    assert [event.at for event in shell.history(ticket)] == [event.at for event in outcome.events]
