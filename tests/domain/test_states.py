"""Every command in every standing of a ticket, every queue and every step, against tables written by hand."""

from datetime import timedelta
from itertools import product

import pytest

from domain import errors
from domain import events as e
from domain.procedure import COMES_FIRST, ENDED, PROCEDURE, queue_of, step_of
from domain.rules import Given, possible
from domain.ticket import Ticket
from domain.values import Channel, Level, State
from tests.support.given import DOSSIER, HASH, LATER, QUALITY, after, given_by, ticket_in
from tests.support.procedure_tables import COMMANDS, STEPS

# Standing: state, level, verdict. Beside it, what happened to the ticket since it came there.
STANDINGS = {
    "received": "received - -",
    "identified": "identified - -",
    "created": "created - -",
    "documented": "documented - -",
    "tier1": "in_support tier1 -",
    "tier1 waiting": "in_support tier1 -",
    "tier2": "in_support tier2 to_qualify",
    "tier2 can": "in_support tier2 can_resolve",
    "tier2 cannot": "in_support tier2 cannot_resolve",
    "tier3": "in_support tier3 to_qualify",
    "tier3 can": "in_support tier3 can_resolve",
    "tier3 cannot": "in_support tier3 cannot_resolve",
    "onsite": "in_support onsite to_qualify",
    "onsite can": "in_support onsite can_resolve",
    "onsite cannot": "in_support onsite cannot_resolve",
    "noc": "in_support noc -",
    "resolved": "resolved tier3 can_resolve",
    "verified": "verified tier1 -",
    "verified documented": "verified noc -",
    "deciding": "deciding it_manager -",
    "declined": "deciding it_manager -",
    "awaiting": "awaiting_approval it_manager -",
    "approved": "approved it_manager -",
    "closed": "closed onsite can_resolve",
    "closed long ago": "closed tier1 -",
    "cancelled": "cancelled tier2 to_qualify",
}
SINCE: dict[str, tuple[e.Event, ...]] = {
    "tier1 waiting": (e.ClientAwaited("a serial number"),),
    "verified documented": (e.ResolutionDocumented(Level.NOC, "cause", "actions", "method"),),
    "declined": (DOSSIER[0], e.ClientDeclined(HASH, Channel.PHONE, "too vague")),
}

# Under each standing, what every command leads to: an event (and after ">" the new standing, when it is another one),
# "nothing" (possible, but there is nothing to do), "already" (already true), or the code of the refusal.
TABLE = """
received
    client_not_identified: correct_client amend_issue
    ClientIdentified > identified - -: identify_client; Cancelled > cancelled - -: cancel
    Assigned: assign; nothing: release; NoteAdded: add_note; Linked: link; not_closed: reopen
    client_not_identified: create document_issue route qualify.can qualify.cannot escalate resolve verify.yes verify.no
    client_not_identified: document_resolution close compile_dossier approve decline return_to_level.tier2
    client_not_identified: return_to_level.manager change_priority await_client client_responded
identified
    not_created: correct_client amend_issue
    ClientIdentified: identify_client; Created > created - -: create; Cancelled > cancelled - -: cancel
    Assigned: assign; nothing: release; NoteAdded: add_note; Linked: link; not_closed: reopen
    not_created: document_issue route qualify.can qualify.cannot escalate resolve verify.yes verify.no
    not_created: document_resolution close compile_dossier approve decline return_to_level.tier2
    not_created: return_to_level.manager change_priority await_client client_responded
created
    ClientCorrected: correct_client; issue_not_documented: amend_issue
    already: create; IssueDocumented > documented - -: document_issue; Cancelled > cancelled - -: cancel
    Assigned: assign; nothing: release; NoteAdded: add_note; Linked: link; not_closed: reopen
    step_already_done: identify_client
    issue_not_documented: route qualify.can qualify.cannot escalate resolve verify.yes verify.no
    issue_not_documented: document_resolution close compile_dossier approve decline return_to_level.tier2
    issue_not_documented: return_to_level.manager change_priority await_client client_responded
documented
    ClientCorrected: correct_client; IssueAmended: amend_issue
    IssueDocumented: document_issue; Routed > in_support tier1 -: route; Cancelled > cancelled - -: cancel
    PriorityChanged: change_priority; Assigned: assign; nothing: release; NoteAdded: add_note; Linked: link
    not_closed: reopen
    step_already_done: identify_client create
    not_routed: qualify.can qualify.cannot escalate resolve verify.yes verify.no
    not_routed: document_resolution close compile_dossier approve decline return_to_level.tier2
    not_routed: return_to_level.manager await_client client_responded
tier1
    ClientCorrected: correct_client; IssueAmended: amend_issue
    already: route; Escalated > in_support tier2 to_qualify: escalate; Resolved > resolved tier1 -: resolve
    Cancelled > cancelled tier1 -: cancel
    ClientAwaited: await_client; client_not_awaited: client_responded
    no_qualification_here: qualify.can qualify.cannot; PriorityChanged: change_priority; Assigned: assign
    nothing: release; NoteAdded: add_note; Linked: link; not_closed: reopen
    step_already_done: identify_client create document_issue
    not_resolved: verify.yes verify.no document_resolution close
    not_at_decision_point: compile_dossier approve decline return_to_level.tier2 return_to_level.manager
tier1 waiting
    ClientCorrected: correct_client; IssueAmended: amend_issue
    already: route; Escalated > in_support tier2 to_qualify: escalate; Resolved > resolved tier1 -: resolve
    Cancelled > cancelled tier1 -: cancel
    ClientAwaited: await_client; ClientResponded: client_responded
    no_qualification_here: qualify.can qualify.cannot; PriorityChanged: change_priority; Assigned: assign
    nothing: release; NoteAdded: add_note; Linked: link; not_closed: reopen
    step_already_done: identify_client create document_issue
    not_resolved: verify.yes verify.no document_resolution close
    not_at_decision_point: compile_dossier approve decline return_to_level.tier2 return_to_level.manager
tier2, tier3, onsite
    ClientCorrected: correct_client; IssueAmended: amend_issue
    Qualified > in_support LEVEL can_resolve: qualify.can
    Qualified > in_support LEVEL cannot_resolve: qualify.cannot; Cancelled > cancelled LEVEL to_qualify: cancel
    ClientAwaited: await_client; client_not_awaited: client_responded; PriorityChanged: change_priority
    Assigned: assign; nothing: release; NoteAdded: add_note; Linked: link; not_closed: reopen
    not_qualified: escalate resolve; step_already_done: identify_client create document_issue route
    not_resolved: verify.yes verify.no document_resolution close
    not_at_decision_point: compile_dossier approve decline return_to_level.tier2 return_to_level.manager
tier2 can, tier3 can, onsite can
    ClientCorrected: correct_client; IssueAmended: amend_issue
    already: qualify.can; Escalated > ABOVE: escalate; Resolved > resolved LEVEL can_resolve: resolve
    Cancelled > cancelled LEVEL can_resolve: cancel
    ClientAwaited: await_client; client_not_awaited: client_responded; PriorityChanged: change_priority
    Assigned: assign; nothing: release; NoteAdded: add_note; Linked: link; not_closed: reopen
    already_qualified: qualify.cannot; step_already_done: identify_client create document_issue route
    not_resolved: verify.yes verify.no document_resolution close
    not_at_decision_point: compile_dossier approve decline return_to_level.tier2 return_to_level.manager
tier2 cannot, tier3 cannot, onsite cannot
    ClientCorrected: correct_client; IssueAmended: amend_issue
    already: qualify.cannot; Escalated > ABOVE: escalate; Cancelled > cancelled LEVEL cannot_resolve: cancel
    ClientAwaited: await_client; client_not_awaited: client_responded; PriorityChanged: change_priority
    Assigned: assign; nothing: release; NoteAdded: add_note; Linked: link; not_closed: reopen
    already_qualified: qualify.can; cannot_resolve_here: resolve
    step_already_done: identify_client create document_issue route
    not_resolved: verify.yes verify.no document_resolution close
    not_at_decision_point: compile_dossier approve decline return_to_level.tier2 return_to_level.manager
noc
    ClientCorrected: correct_client; IssueAmended: amend_issue
    already: route; Resolved > resolved noc -: resolve
    ReturnedToLevel > deciding it_manager -: return_to_level.manager; Cancelled > cancelled noc -: cancel
    ClientAwaited: await_client; client_not_awaited: client_responded
    no_qualification_here: qualify.can qualify.cannot; PriorityChanged: change_priority; Assigned: assign
    nothing: release; NoteAdded: add_note; Linked: link; not_closed: reopen
    no_level_above: escalate; wrong_level: return_to_level.tier2
    step_already_done: identify_client create document_issue
    not_resolved: verify.yes verify.no document_resolution close
    not_at_decision_point: compile_dossier approve decline
resolved
    ClientCorrected: correct_client; IssueAmended: amend_issue
    QCVerified > verified tier3 can_resolve: verify.yes; QCFailed > in_support tier3 can_resolve: verify.no
    ResolutionDocumented: document_resolution; Cancelled > cancelled tier3 can_resolve: cancel
    PriorityChanged: change_priority; Assigned: assign; nothing: release; NoteAdded: add_note; Linked: link
    not_closed: reopen
    not_verified: close; step_already_done: identify_client create document_issue route
    already_resolved: qualify.can qualify.cannot escalate resolve return_to_level.tier2 return_to_level.manager
    already_resolved: await_client client_responded; not_at_decision_point: compile_dossier approve decline
verified
    ClientCorrected > resolved tier1 -: correct_client; IssueAmended: amend_issue
    already: verify.yes; ResolutionDocumented: document_resolution; Cancelled > cancelled tier1 -: cancel
    PriorityChanged: change_priority; Assigned: assign; nothing: release; NoteAdded: add_note; Linked: link
    not_closed: reopen
    step_already_done: verify.no; details_missing: close
    step_already_done: identify_client create document_issue route
    already_resolved: qualify.can qualify.cannot escalate resolve return_to_level.tier2 return_to_level.manager
    already_resolved: await_client client_responded; not_at_decision_point: compile_dossier approve decline
verified documented
    ClientCorrected > resolved noc -: correct_client; IssueAmended: amend_issue
    already: verify.yes; ResolutionDocumented: document_resolution; Closed > closed noc -: close
    Cancelled > cancelled noc -: cancel
    PriorityChanged: change_priority; Assigned: assign; nothing: release; NoteAdded: add_note; Linked: link
    not_closed: reopen
    step_already_done: verify.no; step_already_done: identify_client create document_issue route
    already_resolved: qualify.can qualify.cannot escalate resolve return_to_level.tier2 return_to_level.manager
    already_resolved: await_client client_responded; not_at_decision_point: compile_dossier approve decline
deciding
    ClientCorrected: correct_client; IssueAmended: amend_issue
    DossierCompiled > awaiting_approval it_manager -: compile_dossier
    ReturnedToLevel > in_support tier2 to_qualify: return_to_level.tier2; Cancelled > cancelled it_manager -: cancel
    PriorityChanged: change_priority; Assigned: assign; nothing: release; NoteAdded: add_note; Linked: link
    not_closed: reopen
    no_current_dossier: approve decline; not_approved: route; wrong_level: return_to_level.manager
    step_already_done: identify_client create document_issue
    at_decision_point: qualify.can qualify.cannot escalate resolve verify.yes verify.no document_resolution close
    at_decision_point: await_client client_responded
declined
    ClientCorrected: correct_client; IssueAmended: amend_issue
    DossierCompiled > awaiting_approval it_manager -: compile_dossier; already: decline
    ReturnedToLevel > in_support tier2 to_qualify: return_to_level.tier2; Cancelled > cancelled it_manager -: cancel
    PriorityChanged: change_priority; Assigned: assign; nothing: release; NoteAdded: add_note; Linked: link
    not_closed: reopen
    no_current_dossier: approve; not_approved: route; wrong_level: return_to_level.manager
    step_already_done: identify_client create document_issue
    at_decision_point: qualify.can qualify.cannot escalate resolve verify.yes verify.no document_resolution close
    at_decision_point: await_client client_responded
awaiting
    ClientCorrected > deciding it_manager -: correct_client; IssueAmended > deciding it_manager -: amend_issue
    DossierCompiled: compile_dossier; ClientApproved > approved it_manager -: approve
    ClientDeclined > deciding it_manager -: decline
    ReturnedToLevel > in_support tier2 to_qualify: return_to_level.tier2; Cancelled > cancelled it_manager -: cancel
    PriorityChanged > deciding it_manager -: change_priority; Assigned > deciding it_manager -: assign
    nothing: release; NoteAdded > deciding it_manager -: add_note; Linked > deciding it_manager -: link
    not_closed: reopen
    not_approved: route; wrong_level: return_to_level.manager
    step_already_done: identify_client create document_issue
    at_decision_point: qualify.can qualify.cannot escalate resolve verify.yes verify.no document_resolution close
    at_decision_point: await_client client_responded
approved
    ClientCorrected > deciding it_manager -: correct_client; IssueAmended > deciding it_manager -: amend_issue
    DossierCompiled > awaiting_approval it_manager -: compile_dossier; already: approve
    Routed > in_support noc -: route; ReturnedToLevel > in_support tier2 to_qualify: return_to_level.tier2
    Cancelled > cancelled it_manager -: cancel
    PriorityChanged > deciding it_manager -: change_priority; Assigned > deciding it_manager -: assign
    nothing: release; NoteAdded > deciding it_manager -: add_note; Linked > deciding it_manager -: link
    not_closed: reopen
    already_approved: decline; wrong_level: return_to_level.manager
    step_already_done: identify_client create document_issue
    at_decision_point: qualify.can qualify.cannot escalate resolve verify.yes verify.no document_resolution close
    at_decision_point: await_client client_responded
closed
    ticket_closed: correct_client amend_issue
    already: close; Reopened > in_support onsite can_resolve: reopen
    Linked: link
    ticket_closed: identify_client create document_issue route assign release qualify.can qualify.cannot escalate
    ticket_closed: resolve verify.yes verify.no document_resolution compile_dossier approve decline
    ticket_closed: return_to_level.tier2 return_to_level.manager add_note change_priority await_client
    ticket_closed: client_responded cancel
closed long ago
    ticket_closed: correct_client amend_issue
    already: close
    Linked: link
    reopen_window_over: reopen
    ticket_closed: identify_client create document_issue route assign release qualify.can qualify.cannot escalate
    ticket_closed: resolve verify.yes verify.no document_resolution compile_dossier approve decline
    ticket_closed: return_to_level.tier2 return_to_level.manager add_note change_priority await_client
    ticket_closed: client_responded cancel
cancelled
    ticket_cancelled: correct_client amend_issue
    already: cancel
    Linked: link
    ticket_cancelled: identify_client create document_issue route assign release qualify.can qualify.cannot escalate
    ticket_cancelled: resolve verify.yes verify.no document_resolution close compile_dossier approve decline
    ticket_cancelled: return_to_level.tier2 return_to_level.manager add_note change_priority await_client
    ticket_cancelled: client_responded reopen
"""
# The step of the source that a refusal says is missing: at tier1, tier2, tier3, onsite, it_manager, noc.
MISSING = {
    "client_not_identified": "2 . . . . .",
    "not_created": "3 . . . . .",
    "issue_not_documented": "4 . . . . .",
    "not_routed": "4 . . . . .",
    "not_qualified": ". T1-4 8 12 . .",
    "cannot_resolve_here": ". 8 12 16 . .",
    "not_resolved": "T1-1 5 9 13 . 17",
    "not_verified": "T1-2 6 10 14 . 18",
    "details_missing": "T1-3 7 11 15 . 19",
    "at_decision_point": ". . . . 16 .",
    "not_at_decision_point": "16 16 16 16 16 16",
    "no_current_dossier": ". . . . 16 .",
    "not_approved": ". . . . 16 .",
    "already_approved": ". . . . 16 .",
}
ABOVE = {
    "tier2": "in_support tier3 to_qualify",
    "tier3": "in_support onsite to_qualify",
    "onsite": "deciding it_manager -",
}


def cells(line: str) -> list[list[str]]:
    """A line of the table as pairs of outcome and commands."""
    return [part.split(": ") for part in line.strip().split("; ")]


def expected() -> dict[tuple[str, str], str]:
    """The table as (standing, command): outcome."""
    rows: dict[tuple[str, str], str] = {}
    standings: list[str] = []
    for line in TABLE.strip().splitlines():
        if not line.startswith(" "):
            standings = line.split(", ")
            continue
        told = [(outcome, name) for outcome, names in cells(line) for name in names.split()]
        for standing, (outcome, command) in product(standings, told):
            level = standing.split()[0]
            assert (standing, command) not in rows
            rows[standing, command] = outcome.replace("LEVEL", level).replace("ABOVE", ABOVE.get(level, ""))
    return rows


EXPECTED = expected()


def ticket_standing(name: str) -> Ticket:
    """A ticket that stands so."""
    state, level, verdict = STANDINGS[name].split()
    can = {"can_resolve": True, "cannot_resolve": False}.get(verdict)
    return ticket_in(State(state), Level(level.replace("-", "tier1")), *SINCE.get(name, ()), can=can)


def given(standing: str) -> Given:
    """Quality control asks, so that nobody checks the own work; for "long ago" after the reopen window."""
    return given_by(QUALITY, LATER + timedelta(days=15) if standing == "closed long ago" else LATER)


def stands(ticket: Ticket) -> str:
    """State, level and verdict in words."""
    return f"{ticket.state} {ticket.level or '-'} {ticket.qualification or '-'}"


def told(standing: str, command: str) -> tuple[str, tuple[str, ...], str | None]:
    """What a command leads to, in the words of the table, what is possible, and the step that its refusal names."""
    ticket = ticket_standing(standing)
    can = possible(ticket, given(standing))
    try:
        events = COMMANDS[command](ticket, given(standing))
    except errors.Refused as refusal:
        return refusal.code, refusal.possible, refusal.step
    if not events:
        return "nothing" if command in can else "already", can, None
    assert len(events) == 1
    then = after(ticket, events)
    return type(events[0]).__name__ + (f" > {stands(then)}" if stands(then) != stands(ticket) else ""), can, None


@pytest.mark.parametrize("standing", STANDINGS)
def test_a_ticket_stands_where_its_history_leads(standing: str):
    """A history that follows the procedure leads to the state, the level and the verdict that the table names."""
    assert stands(ticket_standing(standing)) == STANDINGS[standing]


def test_the_table_is_complete():
    """The table says something of every command in every standing, and the standings are of every state."""
    assert EXPECTED.keys() == set(product(STANDINGS, COMMANDS))
    assert {standing.split()[0] for standing in STANDINGS.values()} == set(State)


@pytest.mark.parametrize(("standing", "command"), [*product(STANDINGS, COMMANDS)])
def test_the_procedure_answers_as_the_table_says(standing: str, command: str):
    """Rule 10: a command is possible, already true, or refused with the rule's code and what is possible instead."""
    can = {name.split(".")[0] for (at, name), leads in EXPECTED.items() if at == standing and possible_as(leads)}
    outcome, said, step = told(standing, command)
    assert outcome == EXPECTED[standing, command]
    steps = MISSING.get(outcome, "- - - - - -").split()
    assert (step or "-") == steps[list(Level).index(ticket_standing(standing).level or Level.TIER1)]
    assert set(said) == can
    assert len(said) == len(can)


def possible_as(leads: str) -> bool:
    """Whether an outcome of the table means that the command is possible: an event, or nothing to do."""
    return leads == "nothing" or leads[0].isupper()


QUEUES = {
    "intake": "received identified created documented",
    "quality_control": "resolved",
    "closing": "verified",
    "it_manager": "deciding awaiting_approval approved",
}


@pytest.mark.parametrize("level", [None, *Level])
@pytest.mark.parametrize("state", [state for state in State if state is not State.IN_SUPPORT])
def test_a_state_outside_support_has_one_queue_whatever_the_level(state: State, level: Level | None):
    """Rule 11: an open ticket outside support is in the one queue of its state, a closed or cancelled one in none."""
    queue = next((queue for queue, states in QUEUES.items() if state in states.split()), None)
    assert queue_of(state, level) == queue
    assert (queue is None) == (state in {"closed", "cancelled"})


@pytest.mark.parametrize("level", ["tier1", "tier2", "tier3", "onsite", "noc"])
def test_a_ticket_in_support_is_in_the_queue_of_its_level(level: str):
    """Rule 11: a ticket in support is in the queue of the level that holds it."""
    assert queue_of(State.IN_SUPPORT, Level(level)) == level
    assert ticket_in(State.IN_SUPPORT, Level(level)).queue == level


@pytest.mark.parametrize("name", STEPS)
def test_every_event_records_its_step_of_the_source(name: str):
    """An event records the step of the source that its level gives it; "." marks what the procedure never records."""
    event_at, steps = STEPS[name]
    for level, step in zip(Level, steps.split(), strict=True):
        if step != ".":
            assert (step_of(event_at(level), level) or "-") == step


def test_every_event_has_its_row_in_the_table_of_steps():
    """No event of a ticket is missing in the table of steps; a closing e-mail without a level belongs to no step."""
    assert [event.__name__ for event in e.TICKET_EVENTS.values()] == list(STEPS)
    assert step_of(e.ClosureEmailSent(9, "<9@desk>", 1), None) is None


@pytest.mark.parametrize("command", PROCEDURE)
def test_a_row_of_the_procedure_says_of_each_state_one_thing(command: str):
    """A command is possible, too early or too late in a state; what its row leaves open is the same for every one."""
    row = PROCEDURE[command]
    named = [*row.when, *row.too_early, *row.too_late]
    assert len(named) == len(set(named))
    assert set(State) - set(named) <= set(COMES_FIRST) | set(ENDED)
