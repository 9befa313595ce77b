"""Load → decide → append, in both shells: one suite against `HelpDesk` and against the API's combining shell."""

import asyncio
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any
from uuid import UUID

import msgspec
import psycopg
import pytest
from eventsourcing.persistence import OperationalError

from application.clock import utc_now
from application.commands import procedure_commands as c
from application.commands import supporting_commands as s
from application.commands.command import Command, Opening
from application.commands.command_handler import MOST_TRIES, run_at_once
from application.commands.deciding import Policy, Trace, answer, new_stream_id
from application.helpdesk import HelpDesk
from application.store.event_store import to_row
from application.store.postgres.database import connect, pool
from domain import errors
from domain.client import ContactChanged, Registered, client_stream
from domain.events import ClosureEmailSent, NoteAdded, Recorded
from domain.procedure import PROCEDURE
from domain.roles import actor_for
from domain.ticket import Ticket
from domain.values import Actor, Channel, Grade, Level, Principal, Queue, Relation, Role, State, Visibility
from tests.support.write_side import (
    CHECKER,
    CONTACT,
    ISSUE,
    NOW,
    OPEN,
    STAFF,
    BatchingShell,
    Shell,
    append,
    beside,
    history,
    make_schema,
    notes,
    opened,
    request,
    rows,
    wait_for_locks,
)

CLIENT = Principal("key-of-client-1", "Client One", frozenset({Role.CLIENT}), client_user_id="client-1")
AUDITOR = Principal("auditor", "Auditor", frozenset({Role.AUDITOR}))
MAIN, OTHER, HASTY = (UUID(f"0190f3a0-0000-7000-8000-00000000000{n}") for n in (1, 2, 3))
NOTE = s.AddNote("looked at it")
TOO_HARD, UP = c.QualifyTicket(False, "too hard"), c.EscalateTicket("needs more skill")
VERIFY = c.VerifyTicket(True, Channel.PHONE, "It prints.")
DETAILS = c.DocumentResolution("no toner", "toner replaced", "test page")

Step = tuple[UUID, Command | Opening | Callable[[Ticket], Command], Principal]


def manager_asks(summary: str) -> Step:
    """Step 16: the whole of the ticket's activity goes to the client."""
    return MAIN, c.CompileDossier(summary), STAFF


def approved(ticket: Ticket) -> Command:
    """The client's yes to the dossier as it stands."""
    return c.ApproveDossier(ticket.dossier.sha256, Channel.EMAIL)


# Every command there is: up the whole ladder, back, resolved at the NOC, closed, reopened, cancelled. Refusals between.
JOURNEY: list[Step] = [
    (OTHER, OPEN, STAFF),
    (HASTY, c.OpenTicket("client-1", Channel.WEB, "no issue yet"), STAFF),
    (HASTY, c.OpenTicket("nobody", Channel.WEB, "who?"), STAFF),
    (MAIN, c.ReceiveRequest(Channel.PHONE, "It is silent.", c.RequestSender("Client One", "a@example.org")), CLIENT),
    (MAIN, c.ReceiveRequest(Channel.PHONE, "It is silent.", c.RequestSender("Client One", "a@example.org")), STAFF),
    (MAIN, c.CreateTicket(), STAFF),
    (MAIN, c.IdentifyClient("nobody"), STAFF),
    (MAIN, c.IdentifyClient("client-1"), STAFF),
    (MAIN, c.CreateTicket(), STAFF),
    (MAIN, ISSUE, STAFF),
    (MAIN, c.RouteTicket(Level.NOC), STAFF),
    (MAIN, c.RouteTicket(), STAFF),
    (MAIN, s.ClaimNext(Queue.TIER2), STAFF),
    (MAIN, s.ClaimNext(Queue.TIER1), STAFF),
    (MAIN, s.ReleaseTicket(), STAFF),
    (MAIN, s.AssignTicket(), STAFF),
    (MAIN, s.AssignTicket("agent-7"), STAFF),
    (MAIN, s.AddNote("seen"), STAFF),
    (MAIN, s.AddNote("please hurry", Visibility.INTERNAL), CLIENT),
    (MAIN, s.AddNote("hidden?"), AUDITOR),
    (MAIN, s.ChangePriority(Grade.LOW, Grade.LOW, "one user only"), STAFF),
    (MAIN, s.AwaitClient("which model?"), STAFF),
    (MAIN, s.RecordClientResponse("the old one"), CLIENT),
    (MAIN, s.LinkTicket(OTHER, Relation.RELATED_TO), STAFF),
    (MAIN, s.LinkTicket(MAIN, Relation.RELATED_TO), STAFF),
    (MAIN, s.LinkTicket(new_stream_id(NOW), Relation.RELATED_TO), STAFF),
    (MAIN, s.LinkTicket(client_stream("client-1"), Relation.RELATED_TO), STAFF),
    (MAIN, s.LinkTicket(OTHER, Relation.FOLLOW_UP_OF), STAFF),
    (OTHER, s.LinkTicket(MAIN, Relation.RELATED_TO), STAFF),
    (OTHER, s.LinkTicket(MAIN, Relation.FOLLOW_UP_OF), STAFF),
    (MAIN, s.CorrectClient("nobody", "a colleague"), STAFF),
    (MAIN, s.CorrectClient("client-1", "the same one"), STAFF),
    (MAIN, s.AmendIssue("another one", "Jam"), STAFF),
    (MAIN, UP, STAFF),
    (MAIN, UP, STAFF),
    *[(MAIN, command, STAFF) for command in (TOO_HARD, UP) * 3],
    manager_asks("all levels tried"),
    (MAIN, c.ApproveDossier("ab" * 32, Channel.EMAIL), CLIENT),
    (MAIN, lambda ticket: c.DeclineDossier(ticket.dossier.sha256, Channel.PHONE, "too dear"), CLIENT),
    manager_asks("all levels tried, cheaper"),
    (MAIN, approved, CLIENT),
    (MAIN, c.RouteTicket(), STAFF),
    (MAIN, s.ReturnToLevel(Level.IT_MANAGER, "no network matter"), STAFF),
    manager_asks("once more"),
    (MAIN, approved, STAFF),
    (MAIN, c.RouteTicket(Level.NOC), STAFF),
    (MAIN, c.ResolveTicket("cable replaced"), STAFF),
    (MAIN, VERIFY, STAFF),
    (MAIN, VERIFY, CHECKER),
    (MAIN, c.CloseTicket(), STAFF),
    (MAIN, DETAILS, STAFF),
    (MAIN, c.CloseTicket(), STAFF),
    (MAIN, s.ReopenTicket("it came back"), CHECKER),
    (MAIN, s.ReopenTicket("it came back"), CLIENT),
    (MAIN, s.CancelTicket("not needed any more"), CLIENT),
    (MAIN, NOTE, STAFF),
]


@pytest.fixture(params=["helpdesk", "combining"])
def shell(request: pytest.FixtureRequest) -> Iterator[Shell]:
    """Either shell, on the test's database."""
    if request.param == "helpdesk":
        yield request.getfixturevalue("desk")
        return
    combining = BatchingShell(request.getfixturevalue("database"))
    yield combining
    combining.close()


def walk(desk: Shell, steps: list[Step]) -> Iterator[tuple[Any, ...]]:
    """What each step is answered: the outcome, or the refusal."""
    ticket = None
    for minute, (ticket_id, command, who) in enumerate(steps):
        wanted = command if isinstance(command, Command | Opening) else command(ticket)
        try:
            outcome = desk.execute(request(ticket_id, wanted, who, now=NOW + timedelta(minutes=minute)))
        except errors.DeskError as error:
            yield wanted.name, type(error), str(error), getattr(error, "possible", ())
        else:
            ticket = outcome.ticket
            yield wanted.name, answer(outcome), ticket, outcome.events


def test_both_shells_record_and_answer_the_same(desk: HelpDesk, empty_database: str) -> None:
    """Every command of the desk, and many refusals: both shells answer and record the same, to the letter."""
    with connect(empty_database, "test migrate") as connection:
        make_schema(connection)
    combining = BatchingShell(empty_database)
    journeys = []
    for shell in (desk, combining):
        shell.register_client("client-1", CONTACT, STAFF, NOW)
        journeys.append(list(walk(shell, JOURNEY)))
    assert journeys[0] == journeys[1]
    streams = (MAIN, OTHER, HASTY, client_stream("client-1"))
    assert [desk.history(stream) for stream in streams] == [combining.history(stream) for stream in streams]
    combining.close()


def test_the_journey_takes_every_command(desk: HelpDesk) -> None:
    """The walk through both shells leaves no command out, and each is obeyed at least once."""
    desk.register_client("client-1", CONTACT, STAFF, NOW)
    obeyed = {name for name, answered, *_ in walk(desk, JOURNEY) if not isinstance(answered, type)}
    assert obeyed == set(PROCEDURE) | {"claim_next", "receive_request", "open_ticket"}
    assert set(c.COMMANDS) | {"claim_next"} == obeyed - {"receive_request", "open_ticket"}
    assert desk.history(MAIN)[-1].type == "Ticket.Cancelled"


def test_a_command_is_recorded_with_all_that_it_came_with(shell: Shell) -> None:
    """The event names who, when, at which level and why; the answer names what is new and what is possible."""
    ticket_id = opened(shell)
    trace = Trace("request-1", "journey-1", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
    outcome = shell.execute(request(ticket_id, NOTE, now=NOW + timedelta(hours=1), trace=trace))
    event = shell.history(ticket_id)[-1]
    assert outcome.events == (event,)
    assert (event.originator_version, event.at, event.event) == (
        6,
        NOW + timedelta(hours=1),
        NoteAdded("looked at it", Visibility.INTERNAL),
    )
    assert (event.actor.id, event.actor.role, event.level) == ("desk-1", Role.INTAKE, Level.TIER1)
    assert (event.causation_id, event.correlation_id, event.traceparent) == (
        "request-1",
        "journey-1",
        trace.traceparent,
    )
    given = answer(outcome)
    assert (given.ticket_id, given.number, given.version, given.state) == (ticket_id, "T-000001", 6, State.IN_SUPPORT)
    assert (given.level, given.queue) == (Level.TIER1, Queue.TIER1)
    assert [(new.type, new.version, new.at) for new in given.events] == [("Ticket.NoteAdded", 6, event.at)]
    assert "resolve" in given.allowed_commands
    assert "close" not in given.allowed_commands


def test_a_wish_that_is_true_already_records_nothing(shell: Shell, connection: psycopg.Connection) -> None:
    """The same command again succeeds, says so, and leaves the ticket as it is."""
    ticket_id = opened(shell)
    first = shell.execute(request(ticket_id, s.AssignTicket("desk-1")))
    again = shell.execute(request(ticket_id, s.AssignTicket("desk-1"), expected_version=6))
    assert again.events == ()
    assert again.ticket == first.ticket
    assert history(connection, ticket_id) == [1, 2, 3, 4, 5, 6]


def test_an_unknown_ticket_is_not_found(shell: Shell) -> None:
    """A command on a ticket that does not exist records nothing, and a client's stream is no ticket."""
    shell.register_client("client-1", CONTACT, STAFF, NOW)
    for stream in (new_stream_id(NOW), client_stream("client-1")):
        with pytest.raises(errors.UnknownTicket):
            shell.execute(request(stream, NOTE))


NIGHT = Principal("night", "Night Shift", frozenset({Role.AGENT, Role.QUALITY}), frozenset({Level.TIER2}))


def test_what_the_procedure_refuses_is_said_before_who_may(shell: Shell) -> None:
    """A step that nobody can take now is refused so, with what the caller may do; else the level is missing."""
    ticket_id = opened(shell)
    with pytest.raises(errors.Forbidden, match="agent of tier1"):
        shell.execute(request(ticket_id, c.ResolveTicket("done"), NIGHT))
    with pytest.raises(errors.Forbidden):
        shell.execute(request(ticket_id, s.ClaimNext(Queue.TIER1), NIGHT))
    shell.execute(request(ticket_id, c.ResolveTicket("done")))
    with pytest.raises(errors.AlreadyResolved) as refused:
        shell.execute(request(ticket_id, c.EscalateTicket("up"), NIGHT))
    assert set(refused.value.possible) == {"verify", "add_note", "release"}
    with pytest.raises(errors.Forbidden):
        shell.execute(request(ticket_id, c.EscalateTicket("up"), CHECKER))


def test_a_stale_version_names_what_was_missed(shell: Shell) -> None:
    """Who names a version that is not the current one is told the current one and the events since."""
    ticket_id = opened(shell)
    shell.execute(request(ticket_id, NOTE, expected_version=5))
    shell.execute(request(ticket_id, NOTE, expected_version=6))
    with pytest.raises(errors.StaleVersion) as stale:
        shell.execute(request(ticket_id, NOTE, expected_version=5))
    assert (stale.value.stream_id, stale.value.current_version, stale.value.expected_version) == (ticket_id, 7, 5)
    assert stale.value.missed == tuple(shell.history(ticket_id)[5:])
    with pytest.raises(errors.StaleVersion) as ahead:
        shell.execute(request(ticket_id, NOTE, expected_version=9))
    assert ahead.value.missed == ()
    assert len(shell.history(ticket_id)) == 7


@pytest.mark.parametrize("version", [None, 5])
def test_who_comes_second_decides_again(
    shell: Shell, connection: psycopg.Connection, database: str, version: int | None
) -> None:
    """Overtaken between load and save, a command without a version goes behind; one with a version is refused."""
    ticket_id = opened(shell)
    with connect(database, "test rival") as other:
        other.execute("begin")
        append(other, notes(ticket_id))
        with beside(lambda: shell.execute(request(ticket_id, NOTE, expected_version=version))) as executed:
            wait_for_locks(connection, 1)
            other.execute("commit")
    if version is None:
        assert [event.originator_version for event in executed[0].result().events] == [7]
    else:
        assert executed[0].exception().missed == (shell.history(ticket_id)[5],)
    assert shell.history(ticket_id)[5].actor.id == "rival"


ALWAYS_TOO_LATE = """
    create function count_and_skip() returns trigger language plpgsql as
    $$ begin perform nextval('ticket_numbers'); return null; end $$;
    create trigger always_too_late before insert on events for each row execute function count_and_skip()"""


def test_who_is_overtaken_every_time_is_told(shell: Shell, connection: psycopg.Connection) -> None:
    """After a hundred tries somebody else's haste is reported, instead of trying for ever."""
    ticket_id = opened(shell)
    connection.execute(ALWAYS_TOO_LATE)
    with pytest.raises(errors.StaleVersion):
        shell.execute(request(ticket_id, NOTE))
    tries = MOST_TRIES * (1 if isinstance(shell, HelpDesk) else 2)  # the other one inserts, and then asks who won
    assert connection.execute("select last_value from ticket_numbers").fetchone() == (tries + 1,)
    with pytest.raises(errors.StaleVersion):
        shell.register_client("client-2", CONTACT, STAFF, NOW)
    assert connection.execute("select last_value from ticket_numbers").fetchone() == (2 * tries + 1,)


def test_registering_a_client_twice_records_it_once(shell: Shell) -> None:
    """The directory says what it was told last, and the same again is no news."""
    first = shell.register_client("client-1", CONTACT, STAFF, NOW)
    assert shell.register_client("client-1", CONTACT, STAFF, NOW + timedelta(days=1)) == first
    moved = msgspec.structs.replace(CONTACT, email="new@example.org")
    assert shell.register_client("client-1", moved, STAFF, NOW + timedelta(days=2)).version == 2
    events = [event.event for event in shell.history(client_stream("client-1"))]
    assert events == [
        Registered("client-1", "Client One", "client-1@example.org", "+49 30 1", "Org A"),
        ContactChanged("client-1", "Client One", "new@example.org", "+49 30 1", "Org A"),
    ]


def test_two_register_one_client_at_once(shell: Shell, connection: psycopg.Connection, database: str) -> None:
    """Who is overtaken by another registration of the same user ID decides again, on what is there now."""
    with connect(database, "test rival") as other:
        other.execute("begin")
        stream, actor = client_stream("client-1"), actor_for(STAFF, "register_client")
        append(other, [to_row(Recorded(stream, 1, NOW, actor, Registered("client-1", "Rival", "r@example.org")))])
        with beside(lambda: shell.register_client("client-1", CONTACT, STAFF, NOW)) as registered:
            wait_for_locks(connection, 1)
            other.execute("commit")
    assert registered[0].result().version == 2
    assert [event.type for event in shell.history(stream)] == ["Client.Registered", "Client.ContactChanged"]


def test_only_who_may_registers_clients(shell: Shell) -> None:
    """The directory is kept by intake and administrators; nobody else changes it."""
    with pytest.raises(errors.Forbidden):
        shell.register_client("client-1", CONTACT, CHECKER, NOW)
    assert shell.history(client_stream("client-1")) == []


def test_a_clock_set_back_does_not_turn_a_history_round(shell: Shell) -> None:
    """No event is earlier than the one before it, on tickets and in the directory, if a clock is a little behind."""
    ticket_id, before = opened(shell), NOW - timedelta(seconds=1)
    shell.execute(request(ticket_id, NOTE, now=before))
    shell.register_client("client-1", msgspec.structs.replace(CONTACT, phone=None), STAFF, before)
    for stream in (ticket_id, client_stream("client-1")):
        times = [event.at for event in shell.history(stream)]
        assert times == [NOW] * len(times)
        assert len(times) > 1


def test_the_desks_policy_reaches_the_decision(shell: Shell) -> None:
    """Four eyes can be switched off, and the reopen window set, by the desk's settings."""
    ticket_id = opened(shell)
    lax = Policy(four_eyes=False, reopen_window=timedelta(hours=1))
    for command in (c.ResolveTicket("done"), VERIFY, DETAILS, c.CloseTicket()):
        shell.execute(request(ticket_id, command, policy=lax))
    late = request(ticket_id, s.ReopenTicket("again"), CLIENT, policy=lax, now=NOW + timedelta(hours=2))
    with pytest.raises(errors.ReopenWindowOver):
        shell.execute(late)


def test_a_number_that_was_given_before_is_not_given_again(shell: Shell, connection: psycopg.Connection) -> None:
    """A crash or a failover may set the sequence back, behind numbers that tickets have: the next ones are drawn."""
    numbers = [shell.history(opened(shell))[2].event.number for _ in range(3)]
    connection.execute("select setval('ticket_numbers', 1, false)")
    numbers += [shell.history(opened(shell))[2].event.number for _ in range(2)]
    assert numbers == ["T-000001", "T-000002", "T-000003", "T-000004", "T-000005"]


def test_every_ticket_has_a_number_of_its_own(shell: Shell) -> None:
    """Only what makes a ticket draws a number, and each draws its own."""
    first, second = opened(shell), opened(shell)
    shell.execute(request(first, NOTE))
    third = opened(shell)
    numbers = [shell.history(ticket_id)[2].event.number for ticket_id in (first, second, third)]
    assert numbers == ["T-000001", "T-000002", "T-000003"]


def test_many_threads_on_one_ticket_all_succeed(desk: HelpDesk, connection: psycopg.Connection) -> None:
    """Whoever is overtaken loads and decides again: nothing is lost, and versions are contiguous."""
    ticket_id = opened(desk)
    with beside(*[lambda: [desk.execute(request(ticket_id, NOTE)) for _ in range(15)]] * 4) as executed:
        pass
    versions = [event.originator_version for one in executed for outcome in one.result() for event in outcome.events]
    assert sorted(versions) == list(range(6, 66))
    assert history(connection, ticket_id) == list(range(1, 66))


def test_one_of_many_threads_with_one_version_wins(desk: HelpDesk) -> None:
    """The version is a lock: of several commands that name it exactly one is recorded, the others learn of it."""
    ticket_id = opened(desk)
    with beside(*[lambda: desk.execute(request(ticket_id, NOTE, expected_version=5))] * 4) as executed:
        pass
    raised = [error for one in executed if (error := one.exception())]
    assert [type(error) for error in raised] == [errors.StaleVersion] * 3
    assert len(desk.history(ticket_id)) == 6


def test_a_synchronous_store_that_waits_is_a_mistake() -> None:
    """There is nobody to wait with: it is said at once, instead of a command that never ends."""
    with pytest.raises(RuntimeError):
        run_at_once(asyncio.sleep(0))


def test_the_desk_leaves_the_pool_to_whoever_made_it(database: str) -> None:
    """Closing the application does not close the pool that was handed in."""
    with pool(database, "test pool") as connections:
        with HelpDesk(connections) as desk:
            opened(desk)
        with HelpDesk(connections) as again:
            assert again.recorder.max_notification_id() is None


def test_a_program_needs_an_address_only(database: str) -> None:
    """`connect` brings its own connections and closes them; `handle` takes the clock and the new ticket's name."""
    with HelpDesk.connect(database) as desk:
        desk.register_client("client-1", CONTACT, STAFF, NOW)
        before = utc_now()
        begun = desk.handle(OPEN, STAFF).ticket
        again = desk.handle(NOTE, STAFF, begun.ticket_id, begun.version).ticket
        assert (begun.number, again.version) == ("T-000001", 6)
        assert before <= begun.updated_at <= again.updated_at <= utc_now()
        with pytest.raises(errors.StaleVersion):
            desk.handle(NOTE, STAFF, begun.ticket_id, begun.version)
        with pytest.raises(errors.UnknownTicket):
            desk.handle(NOTE, STAFF)
    with pytest.raises(OperationalError):
        desk.history(begun.ticket_id)


def test_a_program_has_the_policy_that_it_names(database: str) -> None:
    """Who resolved may verify where four eyes are not asked for, and nowhere else."""
    with HelpDesk.connect(database) as strict, HelpDesk.connect(database, Policy(four_eyes=False)) as lax:
        ticket_id = opened(strict)
        strict.handle(c.ResolveTicket("done"), STAFF, ticket_id)
        with pytest.raises(errors.FourEyes):
            strict.handle(VERIFY, STAFF, ticket_id)
        assert lax.handle(VERIFY, STAFF, ticket_id).ticket.state is State.VERIFIED


def test_a_fact_goes_behind_what_is_there(desk: HelpDesk, connection: psycopg.Connection, database: str) -> None:
    """What cannot be refused is recorded whatever the ticket's state, at its level; who is overtaken goes behind, at
    the time of then; a ticket that does not exist gets nothing."""
    ticket_id, by, fact = opened(desk), Actor("x", "X", Role.SYSTEM), ClosureEmailSent(5, "<5@desk>", 1)
    with connect(database, "test rival") as other:
        other.execute("begin")
        append(other, notes(ticket_id))
        with beside(lambda: desk.record(ticket_id, fact, by, NOW, Trace("cause"))) as recorded:
            wait_for_locks(connection, 1)
            other.execute("commit")
    last = desk.history(ticket_id)[-1]
    assert last == recorded[0].result() == Recorded(ticket_id, 7, last.at, by, fact, None, "cause", None, Level.TIER1)
    assert last.at > NOW
    for stream in (new_stream_id(NOW), client_stream("client-1")):
        with pytest.raises(errors.UnknownTicket):
            desk.record(stream, fact, by, NOW)
    connection.execute(ALWAYS_TOO_LATE)
    with pytest.raises(errors.StaleVersion):
        desk.record(ticket_id, fact, by, NOW)


def test_new_streams_are_named_by_uuids_of_version_7(connection: psycopg.Connection) -> None:
    """RFC 9562: version, variant and the time in milliseconds first, so that new streams lie together and in order."""
    ids = [new_stream_id(NOW + timedelta(milliseconds=n)) for n in range(200)]
    assert ids == sorted(ids)
    assert {(one.version, one.variant) for one in ids} == {(7, "specified in RFC 4122")}
    assert [one.int >> 80 for one in ids] == [int(NOW.timestamp() * 1000) + n for n in range(200)]
    assert len({new_stream_id(NOW) for _ in range(1000)}) == 1000
    append(connection, rows(ids[0]))
    assert history(connection, ids[0]) == [1]


def test_the_clock_of_the_desk_is_in_utc() -> None:
    """Times are aware and in UTC, wherever the desk stands."""
    assert utc_now().utcoffset() == timedelta(0)
