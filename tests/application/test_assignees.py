"""Who may be given a ticket: the caller, a valid key, or a person who has signed in, who could claim it."""

import asyncio
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from application.clock import utc_now
from application.commands.command import Wish
from application.commands.procedure_commands import COMMANDS
from application.commands.supporting_commands import AssignTicket, CancelTicket
from application.helpdesk import HelpDesk
from application.identity import people as module
from application.identity.api_keys import NewKey, create_key, revoke_key
from application.identity.people import People
from application.mail.closure_mail import DESK_ACTOR
from domain.errors import AssigneeLacksRole, StaleVersion, TicketCancelled, UnknownAssignee
from domain.events import Released
from domain.values import Level, Principal, Role
from tests.support.running_desk import INSERT_PERSON, wait_until
from tests.support.write_side import STAFF, BatchingShell, Shell, history, opened, request

ISSUER = "https://issuer.example"
ALWAYS_TOO_LATE = """
    create function too_late() returns trigger language plpgsql as $$
    begin raise unique_violation; end $$;
    create trigger too_late before insert on events execute function too_late()"""


@pytest.fixture(params=["helpdesk", "combining"])
def shell(request: pytest.FixtureRequest) -> Iterator[Shell]:
    """Either shell, on the test's database."""
    if request.param == "helpdesk":
        yield request.getfixturevalue("desk")
        return
    combining = BatchingShell(request.getfixturevalue("database"))
    yield combining
    combining.close()


def key(connection: psycopg.Connection, level: Level = Level.TIER1, days: int | None = None) -> str:
    """The id of an agent's key."""
    expires = timedelta(days=days) if days else None
    return create_key(connection, NewKey("agent", [Role.AGENT], [level], expires_in=expires), utc_now())[0]


def test_a_ticket_is_given_to_who_could_claim_it(shell: Shell, connection: psycopg.Connection) -> None:
    """A valid key and a person of the level are taken; what the store says of a person is the last token's."""
    ticket_id = opened(shell)
    connection.execute(INSERT_PERSON, ("bert", "oidc:bert", "Bert", ["agent", "astronaut"], ["tier1", "orbit"]))
    for assignee in (key(connection), key(connection, days=1), "oidc:bert", STAFF.id):
        assert shell.execute(request(ticket_id, AssignTicket(assignee))).ticket.assignee == assignee


def test_nobody_is_given_a_ticket(shell: Shell, connection: psycopg.Connection) -> None:
    """An id that nobody has, a key that was revoked, one that has expired: refused, and nothing is recorded."""
    ticket_id, revoked = opened(shell), key(connection)
    revoke_key(connection, revoked, utc_now())
    long_ago = utc_now() - timedelta(days=2)
    expired, _ = create_key(
        connection, NewKey("x", [Role.AGENT], [Level.TIER1], expires_in=timedelta(days=1)), long_ago
    )
    for nobody in ("nobody-like-this", revoked, expired):
        with pytest.raises(UnknownAssignee) as caught:
            shell.execute(request(ticket_id, AssignTicket(nobody)))
        assert (caught.value.code, caught.value.pointer) == ("unknown_assignee", "/assignee")
        assert "signs in once first" in caught.value.detail
    assert history(connection, ticket_id) == [1, 2, 3, 4, 5]


def test_who_could_not_claim_a_ticket_is_not_given_it(shell: Shell, connection: psycopg.Connection) -> None:
    """The level of the queue, and the role: the refusal names what is missing."""
    ticket_id = opened(shell)
    connection.execute(INSERT_PERSON, ("carl", "oidc:carl", "Carl", ["intake"], []))
    for assignee in (key(connection, Level.TIER2), "oidc:carl"):
        with pytest.raises(AssigneeLacksRole, match="the role agent of tier1"):
            shell.execute(request(ticket_id, AssignTicket(assignee)))
    assert history(connection, ticket_id) == [1, 2, 3, 4, 5]


def test_the_holder_again_and_a_ticket_that_has_ended(shell: Shell, connection: psycopg.Connection) -> None:
    """Who has it already is not asked for a role, whatever became of the key; of an ended ticket the end is said."""
    ticket_id, holder = opened(shell), key(connection)
    shell.execute(request(ticket_id, AssignTicket(holder)))
    revoke_key(connection, holder, utc_now())
    assert shell.execute(request(ticket_id, AssignTicket(holder))).events == ()
    shell.execute(request(ticket_id, CancelTicket("not needed")))
    with pytest.raises(TicketCancelled):
        shell.execute(request(ticket_id, AssignTicket("nobody-like-this")))


def test_only_who_names_somebody_else_causes_a_look_up() -> None:
    """No other command takes a round trip for it, and neither does who takes the ticket."""
    assert [kind for kind in COMMANDS.values() if kind.names is not Wish.names] == [AssignTicket]
    assert [AssignTicket(who).names(STAFF) for who in (None, STAFF.id, "anna")] == [None, None, "anna"]
    assert CancelTicket("not needed").names(STAFF) is None


# ── People who sign in with tokens ──────────────────────────────────────────────────────────────────────────

NOW = datetime.fromisoformat("2026-11-02T09:00:00Z")
ANNA = Principal("oidc:anna", "Anna", frozenset({Role.AGENT}), frozenset({Level.TIER2, Level.TIER1}))
BERT = Principal("oidc:bert", "Bert", frozenset({Role.QUALITY, Role.INTAKE}))


def seen(url: str, *notes: tuple[Principal, datetime], issuer: str = ISSUER) -> None:
    """A process that sees these people, and ends."""

    async def run() -> None:
        people = People(url, issuer)
        for who, at in notes:
            people.note(who, at)
        await people.close()

    asyncio.run(run())


def rows(connection: psycopg.Connection) -> list[tuple[object, ...]]:
    """Who is known."""
    query = "select subject, id, name, roles, levels, last_seen from people order by issuer, subject"
    return connection.execute(query).fetchall()


def at_work(connection: psycopg.Connection[Any]) -> list[str]:
    """The states of the connections that have written people."""
    query = """select state from pg_stat_activity where application_name = 'deskledger people'
        and datname = current_database() and query like '%insert into people%'"""
    return [state for (state,) in connection.execute(query).fetchall()]


def test_who_signs_in_is_kept(database: str, connection: psycopg.Connection) -> None:
    """Under issuer and subject, with the id of the history, name, roles and levels; nobody, where nobody came."""
    seen(database)
    assert rows(connection) == []
    seen(database, (BERT, NOW), (ANNA, NOW))
    anna = ("anna", "oidc:anna", "Anna", ["agent"], ["tier1", "tier2"], NOW)
    bert = ("bert", "oidc:bert", "Bert", ["intake", "quality"], [], NOW)
    assert rows(connection) == [anna, bert]
    seen(database, (ANNA, NOW), issuer="https://another.example")
    assert rows(connection) == [anna, anna, bert]


def test_a_person_is_written_once_an_hour_and_when_the_token_says_something_else(
    database: str, connection: psycopg.Connection
) -> None:
    """By one process and by several; an older word never takes the place of a newer one."""
    hour, promoted = timedelta(hours=1), Principal("oidc:anna", "Anna", frozenset({Role.IT_MANAGER}))
    seen(database, (ANNA, NOW), (ANNA, NOW + hour / 2))
    seen(database, (ANNA, NOW + hour / 2))
    assert rows(connection)[0][-1] == NOW
    seen(database, (ANNA, NOW), (ANNA, NOW + hour))
    assert rows(connection)[0][-1] == NOW + hour
    seen(database, (promoted, NOW + hour + timedelta(seconds=1)))
    assert rows(connection)[0][3:5] == (["it_manager"], [])
    seen(database, (ANNA, NOW + hour))
    assert rows(connection)[0][3:5] == (["it_manager"], [])


def test_people_are_written_while_the_process_runs(
    database: str, connection: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once, without the end of the process, however many are remembered; and then the connection is let go."""
    monkeypatch.setattr(module, "MOST_PEOPLE_REMEMBERED", 1)

    async def run() -> None:
        people = People(database, ISSUER)
        people.note(ANNA, NOW)
        people.note(BERT, NOW)
        while len(rows(connection)) < 2:
            await asyncio.sleep(0)
        people.note(ANNA, NOW + timedelta(minutes=59, seconds=30))
        while rows(connection)[0][-1] == NOW:
            await asyncio.sleep(0)
        while at_work(connection):
            await asyncio.sleep(0)
        await people.close()

    asyncio.run(asyncio.wait_for(run(), 60))
    assert len(rows(connection)) == 2


def test_people_wait_for_the_database(
    database: str, connection: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot be written is tried again, and a process that ends in vain ends all the same."""
    monkeypatch.setattr(module, "PEOPLE_RETRY_SECONDS", 0)
    connection.execute("alter table people rename to away")

    async def run() -> None:
        people = People(database, ISSUER)
        people.note(ANNA, NOW)
        while not any(state == "idle" for state in at_work(connection)):  # it was refused
            await asyncio.sleep(0)
        connection.execute("alter table away rename to people")
        while not rows(connection):
            await asyncio.sleep(0)
        await people.close()

    asyncio.run(asyncio.wait_for(run(), 60))
    connection.execute("alter table people rename to away")
    seen(database, (BERT, NOW))
    wait_until(lambda: connection.execute("select count(*) from away").fetchone() == (1,), "nobody else is written")


def test_a_desk_takes_back_a_ticket_from_its_holder_alone(desk: HelpDesk) -> None:
    """Not from somebody else, not of a ticket that is not there, and not twice."""
    ticket_id = opened(desk)
    desk.execute(request(ticket_id, AssignTicket()))
    assert not desk.take_back(ticket_id, "somebody else", "gone", DESK_ACTOR, NOW)
    assert not desk.take_back(uuid4(), STAFF.id, "gone", DESK_ACTOR, NOW)
    assert desk.take_back(ticket_id, STAFF.id, "gone", DESK_ACTOR, NOW)
    assert not desk.take_back(ticket_id, STAFF.id, "gone", DESK_ACTOR, NOW)
    last = desk.history(ticket_id)[-1]
    assert (last.event, last.actor, last.level) == (Released(STAFF.id, "gone"), DESK_ACTOR, Level.TIER1)


def test_a_desk_does_not_take_back_what_it_cannot_record(desk: HelpDesk, connection: psycopg.Connection) -> None:
    """Who always comes too late says so in the end."""
    ticket_id = opened(desk)
    desk.execute(request(ticket_id, AssignTicket()))
    connection.execute(ALWAYS_TOO_LATE)
    with pytest.raises(StaleVersion):
        desk.take_back(ticket_id, STAFF.id, "gone", DESK_ACTOR, NOW)
