"""What each kind of reader sees: how the table is used. `tests/api/test_who_sees_what.py` has it all."""

import msgspec
import pytest

from domain import events as e
from domain.client import EVENTS
from domain.errors import Forbidden
from domain.ticket import Ticket
from domain.values import Actor, Channel, Level, Principal, Role, Sender, State, Visibility
from domain.visibility import (
    CLIENT_EVENTS_SEEN,
    FIELDS_SEEN,
    Audience,
    audience_of,
    audience_of_all,
    require_filters,
    seen_by,
    sees,
    sees_actor,
    sees_event,
)
from tests.support.given import ticket_in

CLIENT, REPORTER, STAFF = Audience.CLIENT, Audience.REPORTER, Audience.STAFF


def principal(*held: Role) -> Principal:
    """Somebody with these roles."""
    return Principal("key", "key", frozenset(held), frozenset(), "client-a" if Role.CLIENT in held else None)


@pytest.mark.parametrize("role", [role for role in Role if role is not Role.SYSTEM])
def test_each_role_reads_with_the_eyes_of_its_kind(role: Role):
    """A client and a reporter see a part, everybody else sees all; another role beside does not take it away."""
    parts = {Role.CLIENT: CLIENT, Role.REPORTER: REPORTER}
    assert audience_of(principal(role)) is parts.get(role, STAFF)
    assert audience_of(principal(role, Role.AUDITOR)) is STAFF
    assert audience_of_all(principal(role)) is (REPORTER if role in parts else STAFF)


def test_a_client_who_is_a_reporter_reads_own_tickets_as_a_client_and_queues_as_a_reporter():
    """In a queue are the tickets of all: no text of others is shown to a client there."""
    both = principal(Role.CLIENT, Role.REPORTER)
    assert (audience_of(both), audience_of_all(both)) == (CLIENT, REPORTER)


def test_what_has_no_row_is_for_the_staff():
    """A field that nobody has decided about is hidden from everybody but the staff."""
    assert (sees(STAFF, "fresh"), sees(CLIENT, "fresh"), sees(REPORTER, "fresh")) == (True, False, False)


def test_every_field_of_an_event_has_its_row():
    """What a client sees of an event was decided for each field of those that a client sees."""
    seen = [*CLIENT_EVENTS_SEEN, e.NoteAdded]
    assert {field for kind in seen for field in kind.__struct_fields__} <= FIELDS_SEEN.keys()
    assert set(EVENTS.values()) >= CLIENT_EVENTS_SEEN


def test_the_staff_gets_the_very_same_thing():
    """Nothing is copied for those who see everything."""
    ticket = ticket_in(State.CLOSED, Level.TIER2)
    assert seen_by(STAFF, ticket) is ticket


def test_what_is_hidden_is_null_down_to_the_last_struct():
    """A client sees the resolution and not by whom; a reporter no struct that holds texts at all."""
    ticket = ticket_in(State.CLOSED, Level.TIER2)
    seen: Ticket = seen_by(CLIENT, ticket)
    assert seen.resolution == msgspec.structs.replace(ticket.resolution, by=None)
    assert (seen.issue.impact, seen.issue.urgency, seen.priority, seen.qualification) == (None,) * 4
    assert seen.issue.summary == ticket.issue.summary
    figures = seen_by(REPORTER, ticket)
    assert (figures.issue, figures.resolution, figures.text, figures.client_name) == (None,) * 4
    assert (figures.priority, figures.state, figures.number) == (ticket.priority, ticket.state, ticket.number)


def test_the_client_sees_who_sent_the_request():
    """The sender is the client's own word."""
    request = e.RequestReceived(Channel.EMAIL, "text", Sender("A", "a@example.org"))
    assert seen_by(CLIENT, request) == request
    assert seen_by(REPORTER, request).sender is None


def test_people_of_the_desk_are_roles_to_a_client():
    """The client is named to the client; nobody is named to a reporter."""
    for role in Role:
        actor = Actor("key-1", "key", role)
        assert sees_actor(STAFF, actor)
        assert sees_actor(CLIENT, actor) == (role is Role.CLIENT)
        assert not sees_actor(REPORTER, actor)


@pytest.mark.parametrize(
    ("event", "client_sees"),
    [
        (e.NoteAdded("note", Visibility.CLIENT), True),
        (e.NoteAdded("note", Visibility.INTERNAL), False),
        (e.ClientIdentified("client-a", "A"), True),
        (e.ClientIdentified("client-b", "B"), False),
        (e.Closed(Level.TIER1), True),
        (e.Assigned("anna"), False),
    ],
)
def test_a_client_sees_the_steps_and_what_is_meant_for_clients(event: e.Event, client_sees: bool):
    """Nothing that happens inside the desk; the staff sees every event, a reporter none."""
    assert sees_event(CLIENT, event, "client-a") == client_sees
    assert sees_event(STAFF, event, "client-a")
    assert not sees_event(REPORTER, event, "client-a")


class Filters(msgspec.Struct):
    """What somebody filters by."""

    priority: int | None = None
    q: str | None = None


def test_nobody_filters_by_what_is_hidden():
    """A filter that is not used is none; one by a hidden field is refused, and named."""
    names = Filters.__struct_fields__
    for audience in Audience:
        assert require_filters(audience, Filters(), names) is None
    assert require_filters(STAFF, Filters(1, "text"), names) is None
    assert require_filters(CLIENT, Filters(q="text"), names) is None
    assert require_filters(REPORTER, Filters(priority=1), names) is None
    for audience, asked, name, other in (
        (CLIENT, Filters(priority=1), "priority", "reporter"),
        (REPORTER, Filters(q="text"), "q", "client"),
    ):
        with pytest.raises(Forbidden, match=f"for {name} one of the roles intake, .*, admin, {other};"):
            require_filters(audience, asked, names)
