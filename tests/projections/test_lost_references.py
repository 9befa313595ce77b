"""What points to nothing any more is found: tickets of keys that have ended are freed, circles of links are listed."""

from datetime import timedelta
from uuid import UUID, uuid4

import psycopg

from application.clock import utc_now
from application.commands import procedure_commands as c
from application.commands.supporting_commands import AssignTicket
from application.helpdesk import HelpDesk
from application.identity.api_keys import NewKey, create_key, revoke_key
from application.store.sealing import seal_all
from domain.events import Linked, Released
from domain.values import Level, Relation, Role
from projections.runner import project_all
from projections.status.lost_references import circles, held_by_nobody, link_circles, take_back_tickets
from tests.support.running_desk import INSERT_PERSON
from tests.support.write_side import STAFF, opened, request

EVERYTHING = NewKey("all", [Role.AGENT, Role.QUALITY, Role.IT_MANAGER], [Level.TIER1, Level.TIER2])


def held(desk: HelpDesk, assignee: str) -> UUID:
    """A ticket at tier 1 that somebody has."""
    ticket = opened(desk)
    desk.execute(request(ticket, AssignTicket(assignee)))
    return ticket


def projected(connection: psycopg.Connection) -> None:
    """The read side is where the log is."""
    seal_all(connection)
    project_all(connection)


def test_a_key_that_ends_leaves_no_ticket_behind(desk: HelpDesk, connection: psycopg.Connection) -> None:
    """Revoked or expired: its tickets are free again, by the desk and with the reason; those of others stay."""
    now = utc_now()
    revoked, expiring, good = (
        create_key(connection, key, now)[0]
        for key in (EVERYTHING, NewKey("x", [Role.AGENT], [Level.TIER1], expires_in=timedelta(days=1)), EVERYTHING)
    )
    first, second, third = (held(desk, key) for key in (revoked, expiring, good))
    projected(connection)
    assert take_back_tickets(connection, now) == []
    revoke_key(connection, revoked, now)
    assert take_back_tickets(connection, now, good) == []
    assert take_back_tickets(connection, now, revoked) == [first]
    assert take_back_tickets(connection, now + timedelta(days=1)) == [second]
    last = desk.history(first)[-1]
    assert last.event == Released(revoked, "the API key has ended")
    assert (last.actor.id, last.actor.role) == ("deskledger", Role.SYSTEM)
    assert not isinstance(desk.history(third)[-1].event, Released)
    projected(connection)
    assert take_back_tickets(connection, now + timedelta(days=1)) == []
    free = connection.execute("select ticket_id from ticket_summaries where assignee is null order by 1").fetchall()
    assert free == [(ticket,) for ticket in sorted((first, second))]


def test_what_the_read_side_says_late_frees_nothing(desk: HelpDesk, connection: psycopg.Connection) -> None:
    """The ticket itself decides: who has it by now keeps it."""
    key, _ = create_key(connection, EVERYTHING, utc_now())
    ticket = held(desk, key)
    projected(connection)
    revoke_key(connection, key, utc_now())
    desk.execute(request(ticket, AssignTicket()))
    assert take_back_tickets(connection, utc_now()) == []
    assert desk.history(ticket)[-1].event.assignee == STAFF.id


def test_a_dossier_is_not_voided_for_it(desk: HelpDesk, connection: psycopg.Connection) -> None:
    """While the client has the dossier the ticket stays as it is, and is freed when the client has said something."""
    now, ticket = utc_now(), opened(desk)
    key, _ = create_key(connection, EVERYTHING, now)
    up = c.EscalateTicket("needs more skill")
    for command in (up, *(c.QualifyTicket(False, "too hard"), up) * 3, AssignTicket(key)):
        desk.execute(request(ticket, command))
    sha256 = desk.execute(request(ticket, c.CompileDossier("all of it"))).ticket.dossier.sha256
    projected(connection)
    revoke_key(connection, key, now)
    assert take_back_tickets(connection, now) == []
    desk.execute(request(ticket, c.DeclineDossier(sha256, "phone", "too dear")))
    projected(connection)
    assert take_back_tickets(connection, now) == [ticket]


def test_a_desk_without_read_models_has_nothing_to_free(connection: psycopg.Connection) -> None:
    """Before the first migration of the read side nothing is known of tickets."""
    connection.execute("drop table ticket_summaries cascade")
    assert take_back_tickets(connection, utc_now()) == []


def test_tickets_of_nobody_are_listed(desk: HelpDesk, connection: psycopg.Connection) -> None:
    """Neither of a valid key nor of a person who has signed in: how many, and the first three."""
    connection.execute(INSERT_PERSON, ("bert", "oidc:bert", "Bert", ["agent"], ["tier1"]))
    key, _ = create_key(connection, EVERYTHING, utc_now())
    held(desk, "oidc:bert")
    held(desk, key)
    projected(connection)
    assert held_by_nobody(connection) == (0, [])
    tickets = [held(desk, STAFF.id) for _ in range(4)]
    projected(connection)
    assert held_by_nobody(connection) == (4, [(ticket, STAFF.id) for ticket in sorted(tickets)[:3]])


def test_circles_of_links_are_listed(desk: HelpDesk, connection: psycopg.Connection) -> None:
    """Those of before the rules, of one kind of link; related tickets make none."""
    one, two, three = (opened(desk) for _ in range(3))
    assert link_circles(connection) == []
    for ticket, other, relation in (
        (one, two, Relation.DUPLICATE_OF),
        (two, three, Relation.DUPLICATE_OF),
        (three, one, Relation.RELATED_TO),
        (one, three, Relation.FOLLOW_UP_OF),
    ):
        desk.record(ticket, Linked(other, relation), desk.history(ticket)[0].actor, utc_now())
    assert link_circles(connection) == []
    desk.record(three, Linked(one, Relation.DUPLICATE_OF), desk.history(three)[0].actor, utc_now())
    (circle,) = link_circles(connection)
    assert (circle[0], set(circle), len(circle)) == (circle[-1], {one, two, three}, 4)


def test_at_most_three_circles_are_listed() -> None:
    """Each once: two tickets that are duplicates of each other, and one of itself."""
    pairs = [(uuid4(), uuid4()) for _ in range(5)]
    links = [link for a, b in pairs for link in ((a, b), (b, a))]
    assert len(circles(links[:4])) == 2
    assert len({frozenset(circle) for circle in circles(links)}) == 3
    assert circles([(pairs[0][0], pairs[0][0])]) == [[pairs[0][0], pairs[0][0]]]
