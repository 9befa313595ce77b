"""The population that figures are measured on: is it what the desk itself would have made?"""

import subprocess
import sys
from collections.abc import Iterator
from hashlib import sha256
from itertools import pairwise
from typing import Any
from uuid import UUID

import msgspec
import psycopg
import pytest

from application.commands.deciding import new_stream_id
from application.commands.procedure_commands import OpenTicket
from application.helpdesk import HelpDesk
from application.mail.mail_outbox import queue_due_mails
from application.store.event_store import HIGHEST_VERSION, LOAD_EVENTS, by_stream, to_row
from application.store.postgres.database import connect
from application.store.sealing import seal_all
from domain import events as e
from domain.procedure import QUEUES
from domain.rules import possible
from domain.ticket import begin_ticket, evolve
from domain.values import Channel, Level, Queue
from projections.rebuild.rebuild_projections import Sizes, rebuild
from projections.runner import PROJECTIONS, project_all
from tests.benchmarks import population
from tests.benchmarks.population import MAIL_DOMAIN, populate
from tests.support.given import given_by
from tests.support.write_side import NOW, opened, request

TICKETS = 800
PROGRAM = ("-m", "tests.benchmarks.population")
COMMAND_OF: dict[type[e.Event], str] = {
    e.ClientIdentified: "identify_client",
    e.Created: "create",
    e.IssueDocumented: "document_issue",
    e.Routed: "route",
    e.Assigned: "assign",
    e.Released: "release",
    e.Qualified: "qualify",
    e.Escalated: "escalate",
    e.Resolved: "resolve",
    e.QCVerified: "verify",
    e.QCFailed: "verify",
    e.ResolutionDocumented: "document_resolution",
    e.Closed: "close",
    e.DossierCompiled: "compile_dossier",
    e.ClientApproved: "approve",
    e.ClientDeclined: "decline",
    e.ReturnedToLevel: "return_to_level",
    e.NoteAdded: "add_note",
    e.PriorityChanged: "change_priority",
    e.ClientAwaited: "await_client",
    e.ClientResponded: "client_responded",
    e.Cancelled: "cancel",
    e.Reopened: "reopen",
}
ROWS = {
    "events": "select * from events order by ord",
    "log": "select * from log order by position",
    "closure_mails": "select * from closure_mails order by ticket_id, closed_version",
    "idempotency": "select * from idempotency order by principal, key",
}


@pytest.fixture(scope="module")
def populated(module_database: str) -> Iterator[psycopg.Connection[Any]]:
    """A connection to a populated database; tests only read it."""
    populate(module_database, TICKETS)
    with connect(module_database, "test population") as connection:
        yield connection


def rows(url: str) -> dict[str, list[Any]]:
    """Everything that was loaded."""
    with connect(url, "test population") as connection:
        return {name: connection.execute(query).fetchall() for name, query in ROWS.items()}


def histories(connection: psycopg.Connection[Any]) -> dict[UUID, list[e.Recorded]]:
    """The events of each stream."""
    streams = [row[0] for row in connection.execute("select distinct stream_id from events")]
    return by_stream(connection.execute(LOAD_EVENTS, (streams, 0, HIGHEST_VERSION)).fetchall())


def tickets(connection: psycopg.Connection[Any]) -> list[list[e.Recorded]]:
    """The histories of the tickets."""
    return [told for told in histories(connection).values() if isinstance(told[0].event, e.RequestReceived)]


def schema(connection: psycopg.Connection[Any]) -> list[Any]:
    """Every index and constraint, as PostgreSQL writes it down."""
    query = """select tablename, indexname, indexdef from pg_indexes where schemaname = 'public'
        union all select conrelid::regclass::text, conname, pg_get_constraintdef(oid) from pg_constraint
        where connamespace = 'public'::regnamespace order by 1, 2, 3"""
    return connection.execute(query).fetchall()


def test_the_same_seed_makes_the_same_rows(database: str, empty_database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ids, numbers, times, texts, hashes, mails and keys come from the seed alone, however many processes work, and
    whether the projections are brought up as events come or by a rebuild, as those of many tickets are."""
    populate(database, 90, seed=7, processes=1, block=30)
    monkeypatch.setattr(population, "REBUILD_SIZES", Sizes(far=10))
    populate(empty_database, 90, seed=7, processes=2, block=30)
    assert rows(database) == rows(empty_database)


def test_another_seed_makes_other_tickets(database: str, empty_database: str) -> None:
    """No ticket of one seed is one of another seed."""
    populate(database, 20, seed=1)
    populate(empty_database, 20, seed=2)
    one, other = ({row[0] for row in rows(url)["closure_mails"]} for url in (database, empty_database))
    assert one
    assert not one & other


def test_every_event_is_one_that_the_procedure_allowed(populated: psycopg.Connection[Any]) -> None:
    """Played event by event, each ticket stands so that the command behind its next event is possible."""
    seen = 0
    for told in tickets(populated):
        ticket = begin_ticket(told[0])
        for recorded in told[1:]:
            if name := COMMAND_OF.get(type(recorded.event)):
                assert name in possible(ticket, given_by(recorded.actor, recorded.at)), (ticket.ticket_id, recorded)
                seen += 1
            ticket = evolve(ticket, recorded)
    assert seen > 5 * TICKETS


def test_versions_times_and_levels_run_as_in_a_live_desk(populated: psycopg.Connection[Any]) -> None:
    """Versions count from 1 without a gap, times never run backwards, and each event knows the level after it."""
    for told in tickets(populated):
        ticket = begin_ticket(told[0])
        assert [recorded.originator_version for recorded in told] == list(range(1, len(told) + 1))
        assert all(before.at <= after.at for before, after in pairwise(told))
        for recorded in told[1:]:
            ticket = evolve(ticket, recorded)
            assert recorded.level == ticket.level


def test_every_leaf_is_the_hash_of_its_event(populated: psycopg.Connection[Any]) -> None:
    """The leaf is computed from the event as it is stored, not copied from a template."""
    leaves = {(row[0], row[1]): row[2] for row in populated.execute("select stream_id, version, leaf from events")}
    made = {
        (recorded.originator_id, recorded.originator_version): to_row(recorded).leaf
        for told in histories(populated).values()
        for recorded in told
    }
    assert leaves == made


def test_a_dossier_tells_of_its_own_ticket(populated: psycopg.Connection[Any]) -> None:
    """It names the ticket's number, covers what came before it, and is what the client approved or declined."""
    seen = 0
    for told in tickets(populated):
        compiled = None
        for recorded in told:
            match recorded.event:
                case e.DossierCompiled(_, digest, through, _, entries) as compiled:
                    assert (through, len(entries)) == (recorded.originator_version - 1,) * 2
                    assert sha256(msgspec.json.encode(entries, order="sorted")).hexdigest() == digest
                    assert told[2].event.number in entries[2].words  # type: ignore[attr-defined]
                case e.ClientApproved(digest) | e.ClientDeclined(digest):
                    assert compiled
                    assert compiled.sha256 == digest
                    seen += 1
    assert seen


def test_a_ticket_is_its_own_clients(populated: psycopg.Connection[Any]) -> None:
    """Nothing of the template is left: the client is in the directory, the number and the ids are the ticket's own."""
    known = {row[0] for row in populated.execute("select body ->> 'user_id' from events where type like 'Client.%'")}
    numbers = []
    for told in tickets(populated):
        for recorded in told:
            match recorded.event:
                case e.ClientIdentified(user_id):
                    assert user_id in known
                case e.Created(number):
                    numbers.append(number)
                case e.ClosureEmailSent(version, message_id):
                    assert message_id == f"<ticket.{recorded.originator_id}.closed.{version}@{MAIL_DOMAIN}>"
    assert len(numbers) == len(set(numbers)) > TICKETS / 2
    left = "select count(*) from events where body::text || meta::text ~ 'T-000000|client-000000|00000000-0000'"
    assert populated.execute(left).fetchone() == (0,)


def test_there_are_tickets_on_every_path(populated: psycopg.Connection[Any]) -> None:
    """Every event but links and corrections occurs, every queue holds somebody; a ticket has about eight events."""
    types = {row[0] for row in populated.execute("select distinct type from events")}
    assert types == {*e.TICKET_EVENTS, "Client.Registered"} - {
        "Ticket.Linked",
        "Ticket.ClientCorrected",
        "Ticket.IssueAmended",
    }
    queues = {
        row[0] for row in populated.execute("select distinct queue from ticket_summaries where queue is not null")
    }
    assert queues == set(Queue) == {queue for queue in QUEUES.values() if queue} | {Queue(level) for level in Level}
    events = sum(map(len, tickets(populated)))
    assert 7.5 < events / TICKETS < 9.5


def test_the_months_are_filled_evenly(populated: psycopg.Connection[Any]) -> None:
    """Tickets are created over ten months, about as many in each of them."""
    query = "select extract(month from created_at)::int as month, count(*) from ticket_summaries group by month"
    months = dict(populated.execute(query).fetchall())
    assert set(range(1, 11)) <= set(months)
    assert all(months[month] > TICKETS / 20 for month in range(2, 11))


def test_the_log_is_sealed_from_one_to_the_end(populated: psycopg.Connection[Any]) -> None:
    """Positions are 1, 2, 3 … in the order of the numbers, without a gap, and nothing is left to seal."""
    assert populated.execute("select min(position), max(position) = count(*) from log").fetchone() == (1, True)
    assert populated.execute("select count(*) from events where ord not in (select ord from log)").fetchone() == (0,)
    assert seal_all(populated) == 0


def test_a_client_is_known_before_the_tickets(populated: psycopg.Connection[Any]) -> None:
    """Whoever reads the log in order meets a client's registration before any ticket of the client."""
    query = (
        "select max(position) filter (where type like 'Client.%') < min(position) filter (where type like 'Ticket.%')"
    )
    assert populated.execute(f"{query} from log join events using (ord)").fetchone() == (True,)


def test_the_log_runs_by_time(populated: psycopg.Connection[Any]) -> None:
    """Within a block of tickets, nothing lies in the log before what happened earlier, as on a live desk."""
    query = """select count(*) from (
        select at < lag(at) over (order by position) as back from log join events using (ord)) steps where back"""
    assert populated.execute(query).fetchone() == (0,)


def test_what_is_projected_is_what_a_rebuild_makes(populated: psycopg.Connection[Any]) -> None:
    """Every projection stands at the end of the log and equals one that is built anew."""
    for projection in PROJECTIONS:
        for difference in rebuild(populated, projection):
            assert (difference.only_old, difference.only_new) == (0, 0), difference
            assert difference.rows or difference.table == "rank_changes"
    assert project_all(populated) == 0


def test_the_schema_is_as_the_migrations_make_it(
    populated: psycopg.Connection[Any], connection: psycopg.Connection[Any]
) -> None:
    """Indexes that were taken away for loading are there again, under the same names."""
    assert schema(populated) == schema(connection)


def test_a_live_desk_goes_on_behind_the_population(database: str, desk: HelpDesk) -> None:
    """The next ticket gets the next number, its events the next positions, and the projections take them up."""
    total, ticket_id = populate(database, 30), new_stream_id(NOW)
    opening = OpenTicket("client-000001", Channel.PHONE, "The printer is silent again.")
    assert desk.execute(request(ticket_id, opening)).ticket.number == "T-000031"
    with connect(database, "test population") as connection:
        assert seal_all(connection) == project_all(connection) == 3
        query = "select max(position), (select min(position) from projections) from log"
        assert connection.execute(query).fetchone() == (total + 3, total + 3)


def test_the_outbox_holds_a_mail_for_each_closing(connection: psycopg.Connection[Any], database: str) -> None:
    """The mails are those that the follower of the log would have queued, each with what became of it."""
    populate(database, 60)
    states = "select state, count(*) from closure_mails group by state"
    outcomes = """select case type when 'Ticket.ClosureEmailSent' then 'sent' else 'failed' end, count(*)
        from events where type like 'Ticket.ClosureEmail%' group by type"""
    settled = {state: count for state, count in connection.execute(states) if state != "due"}
    assert settled == dict(connection.execute(outcomes).fetchall())
    query = "delete from closure_mails returning ticket_id, closed_version, message_id"
    loaded = set(connection.execute(query).fetchall())
    connection.execute("update followers set position = 0")
    queue_due_mails(connection, MAIL_DOMAIN, NOW)
    assert loaded == set(connection.execute(query).fetchall())
    assert len(loaded) > 20


def test_a_desk_with_a_past_of_its_own_is_left_alone(database: str, desk: HelpDesk) -> None:
    """Where there are events already, nothing is loaded."""
    opened(desk)
    with pytest.raises(ValueError, match="needs an empty one"):
        populate(database, 10)
    with connect(database, "test population") as connection:
        assert connection.execute("select count(*) from events").fetchone() == (6,)


def test_the_command_line_fills_a_database_and_says_how_much(empty_database: str) -> None:
    """It makes the schema, shows how far it is, and ends with the numbers."""
    command = [sys.executable, *PROGRAM, empty_database, "--tickets", "20", "--processes", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    with connect(empty_database, "test population") as connection:
        count = connection.execute("select count(*) from log").fetchone()
    assert count
    assert done.stdout.splitlines()[-1] == f"20 tickets, {count[0]} events"
    assert "projecting" in done.stdout


def test_the_command_line_explains_itself() -> None:
    """--help names what can be chosen."""
    done = subprocess.run([sys.executable, *PROGRAM, "--help"], capture_output=True, text=True, check=True)
    assert {"--tickets", "--seed", "--processes"} <= set(done.stdout.split())
