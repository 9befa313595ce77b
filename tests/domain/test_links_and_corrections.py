"""Links have rules; a wrong client or issue is corrected, with a reason; who reopens names the client's word."""

from typing import Any
from uuid import UUID

import pytest

from application.commands import supporting_commands as s
from application.commands.command import Loaded
from domain import decisions as d
from domain import errors, rules
from domain import events as e
from domain.client import Client
from domain.ticket import Issue, Ticket
from domain.values import Actor, Channel, Grade, Level, Relation, Role, State
from tests.support.given import (
    DOSSIER,
    EARLIER,
    HASH,
    QUALITY,
    TICKET_ID,
    after,
    decided,
    given_by,
    other_ticket,
    ticket_in,
)

S, L = State, Level
DUPLICATE, FOLLOW_UP, RELATED = Relation.DUPLICATE_OF, Relation.FOLLOW_UP_OF, Relation.RELATED_TO
DECLINED = e.ClientDeclined(HASH, Channel.PHONE, "too dear")
CLIENT_B = Client(1, "client-b", "client-b", "b@example.org")


def linked(*links: e.Linked) -> Ticket:
    """A closed ticket with these links."""
    return ticket_in(S.CLOSED, L.TIER1, *links)


def refusal(ticket: Ticket, other: Ticket, relation: Relation) -> str | None:
    """The code with which a link is refused; None where it is recorded."""
    try:
        assert decided(d.link, ticket, other, relation) == [e.Linked(other.ticket_id, relation)]
    except errors.Refused as error:
        return error.code
    return None


def test_a_ticket_in_any_state_is_linked_and_never_to_itself():
    """Rule 9: once for each relation; a link that is there already records nothing."""
    twice = linked(e.Linked(EARLIER.ticket_id, DUPLICATE))
    assert [refusal(ticket_in(state), EARLIER, FOLLOW_UP) for state in State] == [None] * len(State)
    assert decided(d.link, twice, EARLIER, DUPLICATE) == []
    assert refusal(twice, EARLIER, RELATED) is None
    with pytest.raises(errors.LinkToSelf):
        decided(d.link, twice, twice, RELATED)


def test_a_ticket_is_a_duplicate_of_one_other():
    """A second original is refused; another relation is not."""
    duplicate = linked(e.Linked(UUID(int=8), DUPLICATE))
    assert refusal(duplicate, EARLIER, DUPLICATE) == "already_duplicate"
    assert refusal(duplicate, EARLIER, FOLLOW_UP) is None


def test_duplicates_do_not_lead_in_a_circle():
    """Neither straight back, nor over others: whoever links last would link to a duplicate."""
    back = other_ticket(7, 0, e.Linked(TICKET_ID, DUPLICATE))
    over_others = other_ticket(7, 0, e.Linked(UUID(int=8), DUPLICATE))
    assert refusal(ticket_in(S.CREATED), back, DUPLICATE) == "circular_link"
    assert refusal(ticket_in(S.CREATED), over_others, DUPLICATE) == "other_is_duplicate"
    assert refusal(ticket_in(S.CREATED), other_ticket(7, 0, e.Linked(TICKET_ID, FOLLOW_UP)), DUPLICATE) is None


def test_a_follow_up_leads_back_in_time():
    """It came in after what it follows; of two of the same moment the one with the higher ID: no circle, ever."""
    ticket = ticket_in(S.CREATED)  # received a minute after the others' beginning
    assert refusal(ticket, other_ticket(7, 2), FOLLOW_UP) == "follows_later"
    assert refusal(ticket, other_ticket(7, 1), FOLLOW_UP) is None
    assert refusal(ticket, other_ticket(TICKET_ID.int + 1, 1), FOLLOW_UP) == "follows_later"


def test_that_two_tickets_are_related_is_said_once():
    """Said on the other ticket, it is so already; that one is a duplicate says nothing of this."""
    ticket = ticket_in(S.CREATED)
    assert decided(d.link, ticket, other_ticket(7, 0, e.Linked(TICKET_ID, RELATED)), RELATED) == []
    assert refusal(ticket, other_ticket(7, 0, e.Linked(TICKET_ID, DUPLICATE)), RELATED) is None


@pytest.mark.parametrize("relation", list(Relation))
def test_a_ticket_has_a_bounded_number_of_links(relation: Relation):
    """With a hundred links there is no other one; one less, and there is."""
    links = [e.Linked(UUID(int=number), RELATED) for number in range(100, 100 + rules.MOST_LINKS)]
    assert rules.MOST_LINKS == 100
    assert refusal(linked(*links), EARLIER, relation) == "too_many_links"
    assert refusal(linked(*links[1:]), EARLIER, relation) is None


def test_links_in_a_circle_are_still_loaded():
    """What was recorded before there were rules is a ticket as before."""
    first = other_ticket(7, 0, e.Linked(UUID(int=8), DUPLICATE))
    second = other_ticket(8, 0, e.Linked(UUID(int=7), DUPLICATE))
    assert (first.links[0].other_ticket_id, second.links[0].other_ticket_id) == (UUID(int=8), UUID(int=7))
    assert decided(d.add_note, first, "seen", "internal")


# ── A wrong client, a wrong issue ───────────────────────────────────────────────────────────────────────────


def test_a_wrong_client_is_corrected_with_a_reason():
    """Another client is the ticket's; what is checked or approved on somebody else's word is open again."""
    corrected = e.ClientCorrected("client-b", "client-b", "a colleague")
    for state in (S.CREATED, S.DOCUMENTED, S.IN_SUPPORT, S.RESOLVED, S.DECIDING):
        assert decided(d.correct_client, ticket_in(state), CLIENT_B, "a colleague") == [corrected]
        after_it = after(ticket_in(state), [corrected])
        assert (after_it.client_user_id, after_it.client_name, after_it.state) == ("client-b", "client-b", state)
    verified = after(ticket_in(S.VERIFIED, L.TIER2), [corrected])
    assert (verified.state, verified.level, verified.queue, verified.qc) == (
        S.RESOLVED,
        L.TIER2,
        "quality_control",
        None,
    )
    assert decided(d.verify, verified, True, Channel.PHONE, "It prints.", by=QUALITY)
    for dossier in (ticket_in(S.APPROVED), after(ticket_in(S.AWAITING_APPROVAL), [DECLINED])):
        again = after(dossier, [corrected])
        assert (again.state, again.dossier) == (S.DECIDING, None)


def test_a_failed_check_is_not_the_new_clients_word():
    """What somebody else said of the resolution is not shown as the word of the client."""
    failed = ticket_in(S.RESOLVED, L.TIER1, e.QCFailed(L.TIER1, Channel.PHONE, "it jams"))
    assert failed.qc
    assert after(failed, [e.ClientCorrected("client-b", "client-b", "a colleague")]).qc is None


def test_only_what_changes_of_an_issue_is_recorded():
    """Summary, description and category, whatever differs; nothing where all of it stands there already."""
    ticket = ticket_in(S.IN_SUPPORT)
    assert decided(d.amend_issue, ticket, "why", "No print", "It jams.") == [e.IssueAmended("why", None, "It jams.")]
    assert decided(d.amend_issue, ticket, "why", None, None, "paper") == [e.IssueAmended("why", category="paper")]
    assert decided(d.amend_issue, ticket, "why", "No print", "It does not print.", "printing") == []
    assert decided(d.amend_issue, ticket, "why") == []
    amended = after(ticket, [e.IssueAmended("why", "Jam", None, "paper")])
    assert amended.issue == Issue("Jam", "It does not print.", "paper", Grade.MEDIUM, Grade.HIGH)
    assert (amended.priority, amended.state, amended.level) == (ticket.priority, ticket.state, ticket.level)


def test_the_desk_takes_a_ticket_back_from_its_holder_and_voids_no_dossier():
    """From nobody else, and not while the client has the dossier or has approved it."""
    held = ticket_in(S.IN_SUPPORT, L.TIER1, e.Assigned("key-1"))
    assert d.take_back(held, "key-1", "gone") == [e.Released("key-1", "gone")]
    assert d.take_back(held, "key-2", "gone") == d.take_back(ticket_in(S.IN_SUPPORT), "key-1", "gone") == []
    for dossier in (DOSSIER[:1], DOSSIER):
        with_client = ticket_in(S.DECIDING, L.TIER1, e.Assigned("key-1"), *dossier)
        assert (with_client.assignee, d.take_back(with_client, "key-1", "gone")) == ("key-1", [])


# ── Reopened on the client's word ───────────────────────────────────────────────────────────────────────────


def taken(role: Role, channel: Channel | None) -> dict[str, Any]:
    """What the decision takes when somebody reopens in a role."""
    command = s.ReopenTicket("it came back", channel)
    return command.takes(ticket_in(S.CLOSED), Loaded(given_by(), Actor("somebody", "Somebody", role)))


@pytest.mark.parametrize("role", [Role.INTAKE, Role.QUALITY])
def test_staff_reopen_on_the_clients_word_and_say_how_it_came(role: Role):
    """Without the channel it is refused; with it the event names it. A client may leave it out."""
    with pytest.raises(errors.ConfirmationMissing) as caught:
        taken(role, None)
    assert (caught.value.pointer, caught.value.code) == ("/confirmed_via", "confirmation_missing")
    reopened = [e.Reopened(L.TIER1, "it came back", Channel.PHONE)]
    assert decided(d.reopen, ticket_in(S.CLOSED), *taken(role, Channel.PHONE).values()) == reopened
    assert decided(d.reopen, ticket_in(S.CLOSED), *taken(Role.CLIENT, None).values()) == [
        e.Reopened(L.TIER1, "it came back")
    ]
