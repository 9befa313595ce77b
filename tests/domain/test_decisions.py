"""The decisions: given a ticket, when somebody wants something of it, then these events, nothing, or this refusal."""

from datetime import timedelta
from functools import partial
from itertools import product
from typing import Any
from uuid import UUID

import msgspec
import pytest

from application.commands import procedure_commands as c
from application.commands import supporting_commands as s
from domain import client, errors, rules, values
from domain import decisions as d
from domain import events as e
from domain import ticket as ticket_module
from domain.client import Client
from domain.rules import Given
from domain.ticket import Details, Dossier, Issue, Link, QualityControl, Resolution, Ticket, begin_ticket, fold
from domain.values import (
    Actor,
    Channel,
    DossierEntry,
    Grade,
    Level,
    Qualification,
    Queue,
    Relation,
    Role,
    Sender,
    State,
    Visibility,
)
from tests.support.given import (
    BEGUN,
    EARLIER,
    HASH,
    LATER,
    QUALITY,
    RESOLVER,
    START,
    TICKET_ID,
    after,
    decided,
    given_by,
    ticket_in,
)

S, L = State, Level
CLIENT_A, CLIENT_B = (
    Client(1, "client-a", "client-a", "a@example.org"),
    Client(1, "client-b", "client-b", "b@example.org"),
)
ISSUE = Issue("No print", "It does not print.", "printing", Grade.MEDIUM, Grade.HIGH)
OTHER = UUID("0190f3a0-0000-7000-8000-000000000002")
ALWAYS = ("assign", "release", "add_note", "cancel", "link")
CORRECTIONS = ("correct_client", "amend_issue")
BLANK = ["", " ", "\t\n", "\u00a0\u2003", "\u200b", "\u3164\u2800\ufe0f", "\U000e0041"]


def refused(decision: Any, ticket: Ticket, *wanted: Any, error: type[errors.Refused], **given: Any) -> errors.Refused:
    """The refusal, of exactly that class."""
    with pytest.raises(error) as caught:
        decided(decision, ticket, *wanted, **given)
    assert type(caught.value) is error
    return caught.value


# ── Steps 1 to 4 ────────────────────────────────────────────────────────────────────────────────────────────


def test_step_1_a_request_is_received():
    """Step 1: a request by any channel, with what the channel tells of the sender, is received."""
    request = c.ReceiveRequest(Channel.WALK_IN, "help", c.RequestSender("walk-in", None, "+000"))
    assert request.begin() == e.RequestReceived(Channel.WALK_IN, "help", Sender("walk-in", None, "+000"))
    assert Sender() == Sender(None, None, None)
    assert c.OpenTicket("client-a", Channel.EMAIL, "help").begin() == e.RequestReceived(Channel.EMAIL, "help")


def test_step_2_the_client_is_identified_by_the_user_id():
    """Step 2: the client is identified by the unique user ID; until the ticket is created another one may be named."""
    received, identified = ticket_in(S.RECEIVED), ticket_in(S.IDENTIFIED)
    assert decided(d.identify_client, received, CLIENT_A) == [e.ClientIdentified("client-a", "client-a")]
    assert decided(d.identify_client, identified, CLIENT_A) == []
    assert decided(d.identify_client, identified, CLIENT_B) == [e.ClientIdentified("client-b", "client-b")]
    refused(d.identify_client, ticket_in(S.CREATED), CLIENT_B, error=errors.StepAlreadyDone)


def test_rule_1_no_ticket_is_created_before_the_client_is_identified():
    """Rule 1: no Created before ClientIdentified; the refusal names step 2 and what is possible."""
    refusal = refused(d.create, ticket_in(S.RECEIVED), "T-000001", error=errors.ClientNotIdentified)
    assert refusal.step == "2"
    assert refusal.detail == errors.ClientNotIdentified.__doc__
    assert set(refusal.possible) == {"identify_client", *ALWAYS}


def test_step_3_the_ticket_gets_its_number_once():
    """Step 3: an identified request becomes a ticket with a number, once."""
    assert decided(d.create, ticket_in(S.IDENTIFIED), "T-000009") == [e.Created("T-000009")]
    assert decided(d.create, ticket_in(S.CREATED), "T-000010") == []


@pytest.mark.parametrize(
    ("impact", "low", "medium", "high"),
    [(Grade.LOW, 5, 4, 3), (Grade.MEDIUM, 4, 3, 2), (Grade.HIGH, 3, 2, 1)],
)
def test_step_4_the_priority_comes_from_impact_and_urgency(impact: Grade, low: int, medium: int, high: int):
    """Step 4: the issue is documented, with the priority of the 3 × 3 matrix of impact and urgency."""
    for urgency, priority in ((Grade.LOW, low), (Grade.MEDIUM, medium), (Grade.HIGH, high)):
        issue = Issue("No print", "It does not print.", "printing", impact, urgency)
        wanted = [e.IssueDocumented("No print", "It does not print.", "printing", impact, urgency, priority)]
        assert decided(d.document_issue, ticket_in(S.CREATED), issue) == wanted
        changed = e.PriorityChanged(impact, urgency, priority, "judged anew")
        known = ticket_in(S.DOCUMENTED, L.TIER1, e.PriorityChanged(Grade.MEDIUM, Grade.HIGH, 2, "as it was"))
        asked = decided(d.change_priority, known, impact, urgency, "judged anew")
        assert asked == ([] if (impact, urgency) == (Grade.MEDIUM, Grade.HIGH) else [changed])


def test_an_issue_may_be_written_anew_until_it_is_routed():
    """Step 4: the same issue again records nothing, another one is documented, after the routing it is too late."""
    documented = ticket_in(S.DOCUMENTED)
    assert decided(d.document_issue, documented, ISSUE) == []
    anew = msgspec.structs.replace(ISSUE, category="network")
    assert decided(d.document_issue, documented, anew)[0] == msgspec.structs.replace(BEGUN[3], category="network")
    assert refused(d.document_issue, ticket_in(S.IN_SUPPORT), ISSUE, error=errors.StepAlreadyDone).step is None


def test_an_issue_of_another_priority_is_documented_anew():
    """A changed priority belongs to the issue: to document the issue as it was before the change changes it back."""
    changed = ticket_in(S.DOCUMENTED, L.TIER1, e.PriorityChanged(Grade.LOW, Grade.LOW, 5, "one user only"))
    assert decided(d.document_issue, changed, ISSUE) == [BEGUN[3]]


def test_rule_1_the_first_routing_goes_to_tier_1():
    """Rule 1: a documented ticket is routed to tier 1, named or not, and to no other level."""
    documented = ticket_in(S.DOCUMENTED)
    assert decided(d.route, documented, None) == [e.Routed(L.TIER1)]
    assert decided(d.route, documented, L.TIER1) == [e.Routed(L.TIER1)]
    for level in (L.TIER2, L.TIER3, L.ONSITE, L.IT_MANAGER, L.NOC):
        assert "route" in refused(d.route, documented, level, error=errors.WrongRoute).possible


def test_rule_1_nothing_is_routed_before_the_issue_is_documented():
    """Rule 1: no Routed before IssueDocumented; the refusal names step 4 and what is possible."""
    refusal = refused(d.route, ticket_in(S.CREATED), None, error=errors.IssueNotDocumented)
    assert refusal.step == "4"
    assert set(refusal.possible) == {"document_issue", "correct_client", *ALWAYS}


def test_routing_to_where_the_ticket_is_records_nothing():
    """Rule 10: a ticket that is with tier 1 or the NOC is routed there already; another target is refused."""
    for level in (L.TIER1, L.NOC):
        held = ticket_in(S.IN_SUPPORT, level)
        assert decided(d.route, held, None) == decided(d.route, held, level) == []
        refused(d.route, held, L.TIER2, error=errors.StepAlreadyDone)
    refused(d.route, ticket_in(S.IN_SUPPORT, L.TIER2), L.TIER2, error=errors.StepAlreadyDone)
    refused(d.route, ticket_in(S.RESOLVED), L.TIER1, error=errors.StepAlreadyDone)


# ── Who works on it ─────────────────────────────────────────────────────────────────────────────────────────


def test_a_ticket_is_assigned_to_one_holder():
    """Rule 10: assigning gives the ticket to a holder; assigning the holder again records nothing."""
    held = ticket_in(S.IN_SUPPORT, L.TIER1, e.Assigned("agent-tier1"))
    assert decided(d.assign, ticket_in(S.IN_SUPPORT), "agent-tier1") == [e.Assigned("agent-tier1")]
    assert decided(d.assign, held, "agent-tier1") == []
    assert decided(d.assign, held, "agent-tier1-b") == [e.Assigned("agent-tier1-b")]


def test_a_free_ticket_is_claimed_out_of_its_queue():
    """Claiming takes a free ticket for whoever asks; one that somebody has, or that is elsewhere, stays so."""
    free = ticket_in(S.IN_SUPPORT, L.TIER2)
    assert decided(d.claim_next, free, Queue.TIER2, by=RESOLVER) == [e.Assigned("agent-tier2")]
    assert decided(d.claim_next, after(free, [e.Assigned("agent-tier2")]), Queue.TIER2, by=RESOLVER) == []
    assert decided(d.claim_next, free, Queue.TIER3) == decided(d.claim_next, ticket_in(S.CLOSED), Queue.CLOSING) == []


def test_release_frees_the_ticket_of_its_holder():
    """A held ticket is released, with the holder's name; one that nobody holds is free already."""
    assert decided(d.release, ticket_in(S.IN_SUPPORT, L.TIER1, e.Assigned("agent-tier1"))) == [
        e.Released("agent-tier1")
    ]
    assert decided(d.release, ticket_in(S.IN_SUPPORT)) == []


@pytest.mark.parametrize(
    ("ticket", "event"),
    [
        (ticket_in(S.DOCUMENTED), e.Routed(L.TIER1)),
        (ticket_in(S.IN_SUPPORT), e.Escalated(L.TIER1, L.TIER2, "up")),
        (ticket_in(S.IN_SUPPORT), e.Resolved(L.TIER1, "fixed")),
        (ticket_in(S.RESOLVED), e.QCFailed(L.TIER1, Channel.WEB, "no")),
        (ticket_in(S.RESOLVED), e.QCVerified(L.TIER1, Channel.WEB, "yes")),
        (ticket_in(S.IN_SUPPORT, L.NOC), e.ReturnedToLevel(L.NOC, L.IT_MANAGER, "no network matter")),
        (ticket_in(S.APPROVED), e.Routed(L.NOC)),
        (ticket_in(S.IN_SUPPORT), e.Cancelled("withdrawn")),
    ],
)
def test_an_assignment_and_a_wait_last_for_one_stay_in_a_queue(ticket: Ticket, event: e.Event):
    """A ticket that comes to another queue is free, and waits for nobody there."""
    held = after(ticket, [e.Assigned("agent-tier1"), e.ClientAwaited("the model")])
    assert (held.assignee, held.waiting_on_client) == ("agent-tier1", True)
    moved = after(held, [event])
    assert (moved.assignee, moved.awaiting, moved.waiting_on_client) == (None, None, False)


def test_an_assignment_lasts_while_the_queue_is_the_same():
    """Activity that leaves the ticket in its queue leaves it with its holder; only a release frees it."""
    held = ticket_in(S.IN_SUPPORT, L.TIER2, e.Assigned("agent-tier2"), can=True)
    assert after(held, [e.NoteAdded("seen", Visibility.INTERNAL)]).assignee == "agent-tier2"
    assert after(held, [e.Released("agent-tier2")]).assignee is None


def test_waiting_for_the_client_ends_with_the_answer():
    """The level waits with a reason, once for each reason, and the client's answer ends the wait."""
    ticket = ticket_in(S.IN_SUPPORT, L.TIER2)
    waiting = after(ticket, [e.ClientAwaited("the model")])
    assert decided(d.await_client, ticket, "the model") == [e.ClientAwaited("the model")]
    assert decided(d.await_client, waiting, "the model") == []
    assert decided(d.await_client, waiting, "the serial number") == [e.ClientAwaited("the serial number")]
    assert decided(d.client_responded, waiting, "here it is") == [e.ClientResponded("here it is")]
    refusal = refused(d.client_responded, after(waiting, [e.ClientResponded("x")]), "x", error=errors.ClientNotAwaited)
    assert refusal.step is None
    assert "client_responded" not in refusal.possible


# ── The ladder ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("level", "above", "step", "step_above"),
    [(L.TIER2, L.TIER3, "T1-4", "8"), (L.TIER3, L.ONSITE, "8", "12"), (L.ONSITE, L.IT_MANAGER, "12", "16")],
)
def test_rule_3_a_level_qualifies_before_it_resolves(level: Level, above: Level, step: str, step_above: str):
    """Rules 3 and 4: without a verdict no way leads on, after "cannot" only the way up, after "can" both."""
    fresh, can, cannot = (ticket_in(S.IN_SUPPORT, level, can=verdict) for verdict in (None, True, False))
    assert refused(d.resolve, fresh, "fixed", error=errors.NotQualified).step == step
    assert refused(d.escalate, fresh, "up", error=errors.NotQualified).step == step
    assert refused(d.resolve, cannot, "fixed", error=errors.CannotResolveHere).step == step_above
    assert decided(d.escalate, cannot, "up") == decided(d.escalate, can, "up") == [e.Escalated(level, above, "up")]
    assert decided(d.resolve, can, "fixed") == [e.Resolved(level, "fixed")]


@pytest.mark.parametrize("can", [True, False])
def test_rule_3_a_level_gives_one_verdict_for_each_stay(can: bool):
    """Rule 3: the same verdict again records nothing, the other verdict comes too late."""
    assert decided(d.qualify, ticket_in(S.IN_SUPPORT, L.TIER2), can, "seen") == [e.Qualified(L.TIER2, can, "seen")]
    qualified = ticket_in(S.IN_SUPPORT, L.TIER2, can=can)
    assert decided(d.qualify, qualified, can, "in other words") == []
    assert "qualify" not in refused(d.qualify, qualified, not can, "seen", error=errors.AlreadyQualified).possible


def test_rule_3_a_level_that_gets_the_ticket_again_qualifies_it_again():
    """Rule 3: the verdict is of one stay; a ticket that is returned to a level is to be qualified there anew."""
    back = ticket_in(S.DECIDING, L.TIER1, e.ReturnedToLevel(L.IT_MANAGER, L.TIER3, "look again"))
    assert (back.level, back.qualification) == (L.TIER3, Qualification.TO_QUALIFY)
    refused(d.resolve, back, "fixed", error=errors.NotQualified)


def test_rule_3_tier_1_and_the_noc_have_no_qualification():
    """Rule 3: tier 1 and the NOC resolve without a verdict, and give none."""
    for level in (L.TIER1, L.NOC):
        ticket = ticket_in(S.IN_SUPPORT, level)
        assert decided(d.resolve, ticket, "fixed") == [e.Resolved(level, "fixed")]
        assert refused(d.qualify, ticket, True, "known", error=errors.NoQualificationHere).step is None


def test_rule_4_escalation_goes_one_rung_up():
    """Rule 4: tier 1 escalates to tier 2 without a verdict; above the NOC there is nothing."""
    assert decided(d.escalate, ticket_in(S.IN_SUPPORT), "up") == [e.Escalated(L.TIER1, L.TIER2, "up")]
    refusal = refused(d.escalate, ticket_in(S.IN_SUPPORT, L.NOC), "up", error=errors.NoLevelAbove)
    assert {"resolve", "return_to_level"} <= set(refusal.possible)


# ── Quality control ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("level", [L.TIER1, L.TIER2, L.TIER3, L.ONSITE, L.NOC])
def test_rule_5_quality_control_asks_the_client(level: Level):
    """Rule 5: quality control records how the client confirmed it, or why not, for the level that resolved."""
    resolved = ticket_in(S.RESOLVED, level)
    assert decided(d.verify, resolved, True, Channel.PHONE, "fine") == [e.QCVerified(level, Channel.PHONE, "fine")]
    assert decided(d.verify, resolved, False, Channel.WEB, "no") == [e.QCFailed(level, Channel.WEB, "no")]


@pytest.mark.parametrize("satisfied", [True, False])
def test_rule_5_four_eyes(satisfied: bool):
    """Rule 5: the resolver does not check the own work, whatever the result, unless the desk is set to allow it."""
    resolved = ticket_in(S.RESOLVED, L.TIER2)
    verify = partial(decided, d.verify, resolved, satisfied, Channel.PHONE, "said so")
    refusal = refused(d.verify, resolved, satisfied, Channel.PHONE, "said so", error=errors.FourEyes, by=RESOLVER)
    assert refusal.step == "6"
    assert "verify" not in refusal.possible
    assert len(verify(by=RESOLVER, four_eyes=False)) == 1
    assert len(verify(by=Actor("agent-tier2-b", RESOLVER.name, Role.QUALITY))) == 1


def test_rule_5_the_eyes_are_those_of_the_current_resolver():
    """Rule 5: after a new resolution by somebody else, the first resolver may check it."""
    again = after(ticket_in(S.RESOLVED), [e.QCFailed(L.TIER1, Channel.WEB, "no")])
    again = after(again, [e.Resolved(L.TIER1, "fixed better")], by=QUALITY)
    refused(d.verify, again, True, Channel.WEB, "yes", error=errors.FourEyes, by=QUALITY)
    assert decided(d.verify, again, True, Channel.WEB, "yes", by=RESOLVER) == [
        e.QCVerified(L.TIER1, Channel.WEB, "yes")
    ]


@pytest.mark.parametrize("level", [L.TIER1, L.TIER2, L.TIER3, L.ONSITE, L.NOC])
def test_rule_5_a_failed_check_returns_the_ticket_to_the_level_that_resolved(level: Level):
    """Rule 5: QCFailed leads back to the level that resolved, which keeps its verdict and may resolve at once."""
    resolved = ticket_in(S.RESOLVED, level)
    back = after(resolved, [e.QCFailed(level, Channel.WEB, "no")])
    assert (back.state, back.level, back.qualification) == (S.IN_SUPPORT, level, resolved.qualification)
    assert decided(d.resolve, back, "fixed better") == [e.Resolved(level, "fixed better")]
    assert refused(d.verify, back, True, Channel.WEB, "yes", error=errors.NotResolved).step in (
        "T1-1",
        "5",
        "9",
        "13",
        "17",
    )


def test_rule_6_resolving_twice_is_resolving_once():
    """Rule 10: the same resolution again records nothing, another one is refused until quality control has spoken."""
    resolved = ticket_in(S.RESOLVED)
    assert decided(d.resolve, resolved, "fixed") == []
    refusal = refused(d.resolve, resolved, "fixed otherwise", error=errors.AlreadyResolved)
    assert set(refusal.possible) == {"verify", "document_resolution", "change_priority", *CORRECTIONS, *ALWAYS}


def test_a_resolution_that_was_checked_is_not_given_again():
    """Rule 10: the words of a verified resolution are no longer "already so": what comes next is closing."""
    refused(d.resolve, ticket_in(S.VERIFIED), "fixed", error=errors.AlreadyResolved)


def test_a_resolution_that_failed_may_be_given_in_the_same_words():
    """After QCFailed the same words are a new resolution, which is checked anew."""
    back = ticket_in(S.RESOLVED, L.TIER1, e.QCFailed(L.TIER1, Channel.WEB, "no"))
    assert decided(d.resolve, back, "fixed") == [e.Resolved(L.TIER1, "fixed")]


# ── Closing ─────────────────────────────────────────────────────────────────────────────────────────────────

DETAILS = ("worn cable", "cable replaced", "test page printed")


@pytest.mark.parametrize("state", [S.RESOLVED, S.VERIFIED])
def test_rule_6_the_details_may_be_recorded_before_and_after_the_check(state: State):
    """Rule 6: cause, actions and check are recorded while the ticket waits for QC or closing, once for each wording."""
    ticket = ticket_in(state, L.TIER2)
    assert decided(d.document_resolution, ticket, *DETAILS) == [e.ResolutionDocumented(L.TIER2, *DETAILS)]
    documented = after(ticket, [e.ResolutionDocumented(L.TIER2, *DETAILS)])
    assert decided(d.document_resolution, documented, *DETAILS) == []
    for at in range(3):
        changed = (*DETAILS[:at], "said otherwise", *DETAILS[at + 1 :])
        assert decided(d.document_resolution, documented, *changed) == [e.ResolutionDocumented(L.TIER2, *changed)]


@pytest.mark.parametrize(
    ("level", "qc", "closing"),
    [
        (L.TIER1, "T1-2", "T1-3"),
        (L.TIER2, "6", "7"),
        (L.TIER3, "10", "11"),
        (L.ONSITE, "14", "15"),
        (L.NOC, "18", "19"),
    ],
)
def test_rule_6_closed_only_verified_and_documented(level: Level, qc: str, closing: str):
    """Rule 6: a ticket is closed when it has passed QC *and* has its details; the refusal names the step that lacks."""
    details = e.ResolutionDocumented(level, *DETAILS)
    assert refused(d.close, ticket_in(S.RESOLVED, level, details), error=errors.NotVerified).step == qc
    refusal = refused(d.close, ticket_in(S.VERIFIED, level), error=errors.DetailsMissing)
    assert refusal.step == closing
    assert set(refusal.possible) == {"document_resolution", "change_priority", *CORRECTIONS, *ALWAYS}
    assert decided(d.close, ticket_in(S.VERIFIED, level, details)) == [e.Closed(level)]
    before_qc = ticket_in(S.RESOLVED, level, details, e.QCVerified(level, Channel.WEB, "yes"))
    assert decided(d.close, before_qc) == [e.Closed(level)]


@pytest.mark.parametrize(
    "detour",
    [
        [e.QCFailed(L.TIER1, Channel.WEB, "no")],
        [e.QCVerified(L.TIER1, Channel.WEB, "yes"), e.Closed(L.TIER1), e.Reopened(L.TIER1, "came back")],
    ],
)
def test_rule_6_a_new_resolution_voids_the_check_and_the_details(detour: list[e.Event]):
    """Rule 6: after QCFailed or Reopened the new resolution is checked and documented anew before it is closed."""
    again = ticket_in(S.RESOLVED, L.TIER1, e.ResolutionDocumented(L.TIER1, *DETAILS), *detour)
    again = after(again, [e.Resolved(L.TIER1, "fixed better")])
    assert (again.qc, again.details, again.state) == (None, None, S.RESOLVED)
    refused(d.close, again, error=errors.NotVerified)
    refused(d.close, after(again, [e.QCVerified(L.TIER1, Channel.WEB, "yes")]), error=errors.DetailsMissing)


def test_rule_7_the_outcome_of_the_closing_mail_is_an_event():
    """Rule 7: what became of the closing e-mail is recorded, whatever the ticket's state is by now."""
    for state, outcome in product(
        State, [e.ClosureEmailSent(9, "<9@desk>", 2), e.ClosureEmailFailed(9, "<9>", 3, "no")]
    ):
        told = after(ticket_in(state), [outcome])
        assert told.state == (S.DECIDING if state in (S.AWAITING_APPROVAL, S.APPROVED) else state)


# ── Step 16: the dossier ────────────────────────────────────────────────────────────────────────────────────

ENTRIES = (
    DossierEntry(1, "2026-11-02T09:00:00.000000Z", "Intake", Role.INTAKE, "first", "a" * 64),
    DossierEntry(2, "2026-11-02T09:01:00.000000Z", "Client – ä", Role.CLIENT, "zweitens", None),
)
ENTRIES_SHA256 = "598f09aa7d932597204fcff989cd02f5a2d3a8a817b223802c48aa3d756dbcb3"  # of [{"actor":"Intake",…
EMPTY_SHA256 = "4f53cda18c2baa0c0354bb5f9a3ecbe5ed12ab4d8e11ba873c2f11161202b945"  # of []
ACTIVITY = [
    e.Assigned("it-manager"),
    e.Released("it-manager"),
    e.NoteAdded("one more thing", Visibility.INTERNAL),
    e.PriorityChanged(Grade.HIGH, Grade.HIGH, 1, "everybody waits"),
    e.Linked(OTHER, Relation.RELATED_TO),
    e.ClosureEmailSent(9, "<9@desk>", 1),
    e.ClosureEmailFailed(9, "<9@desk>", 1, "gone"),
]


def test_rule_8_the_dossier_has_the_hash_of_its_entries_and_the_version_it_covers():
    """Rule 8: the hash is the SHA-256 of the entries as canonical JSON; it covers the ticket's version."""
    ticket = ticket_in(S.DECIDING)
    assert ticket.version == 12
    compiled = e.DossierCompiled("all", ENTRIES_SHA256, 12, (), ENTRIES)
    assert decided(d.compile_dossier, ticket, "all", ENTRIES) == [compiled]
    assert decided(d.compile_dossier, ticket, "all", ()) == [e.DossierCompiled("all", EMPTY_SHA256, 12, ())]
    assert after(ticket, [compiled]).dossier == Dossier(ENTRIES_SHA256, 12, START + timedelta(minutes=13), "all", None)


@pytest.mark.parametrize("state", [S.AWAITING_APPROVAL, S.APPROVED])
def test_a_dossier_that_stands_is_not_compiled_again(state: State):
    """Rule 10: the dossier that stands, under the same summary, is there already; another summary makes another one."""
    assert decided(d.compile_dossier, ticket_in(state), "all of it", ENTRIES) == []
    (anew,) = decided(d.compile_dossier, ticket_in(state), "more", ENTRIES)
    assert anew == e.DossierCompiled("more", ENTRIES_SHA256, ticket_in(state).version, (), ENTRIES)
    assert after(ticket_in(state), [anew]).state is S.AWAITING_APPROVAL


def test_rule_8_the_client_approves_the_dossier_by_its_hash():
    """Rule 8: ClientApproved names the hash of the dossier as it stands; any other hash is refused."""
    awaiting, approved = ticket_in(S.AWAITING_APPROVAL), ticket_in(S.APPROVED)
    assert decided(d.approve, awaiting, HASH, Channel.PHONE) == [e.ClientApproved(HASH, Channel.PHONE)]
    assert decided(d.approve, approved, HASH, Channel.PHONE) == []
    refusal = refused(d.approve, awaiting, "b" * 64, Channel.PHONE, error=errors.DossierMismatch)
    assert refusal.step == "16"
    assert {"approve", "decline"} <= set(refusal.possible)
    assert refused(d.approve, approved, "b" * 64, Channel.PHONE, error=errors.AlreadyApproved).step == "16"
    assert approved.dossier.approved is True


def test_rule_8_the_client_declines_with_a_reason():
    """Rule 8: ClientDeclined names the hash and a reason, and gives the ticket back to the IT manager."""
    awaiting = ticket_in(S.AWAITING_APPROVAL)
    told = e.ClientDeclined(HASH, Channel.WEB, "too dear")
    assert decided(d.decline, awaiting, HASH, Channel.WEB, "too dear") == [told]
    refused(d.decline, awaiting, "b" * 64, Channel.WEB, "too dear", error=errors.DossierMismatch)
    declined = after(awaiting, [told])
    assert (declined.state, declined.level, declined.dossier.approved) == (S.DECIDING, L.IT_MANAGER, False)
    assert decided(d.decline, declined, HASH, Channel.WEB, "too dear") == []
    refused(d.decline, declined, "b" * 64, Channel.WEB, "too dear", error=errors.NoCurrentDossier)
    refusal = refused(d.approve, declined, HASH, Channel.WEB, error=errors.NoCurrentDossier)
    assert {"compile_dossier", "return_to_level", "cancel"} <= set(refusal.possible)


def test_a_dossier_that_does_not_stand_is_compiled_again_in_the_same_words():
    """Rule 8: after a decline the same summary makes a new dossier; what the NOC has is no dossier to be compiled."""
    declined = ticket_in(S.AWAITING_APPROVAL, L.TIER1, e.ClientDeclined(HASH, Channel.WEB, "no"))
    assert decided(d.compile_dossier, declined, "all of it", ENTRIES) == [
        e.DossierCompiled("all of it", ENTRIES_SHA256, 14, (), ENTRIES)
    ]
    refused(d.compile_dossier, ticket_in(S.IN_SUPPORT, L.NOC), "all of it", ENTRIES, error=errors.NotAtDecisionPoint)


@pytest.mark.parametrize("event", ACTIVITY, ids=lambda event: type(event).__name__)
@pytest.mark.parametrize("state", [S.AWAITING_APPROVAL, S.APPROVED])
def test_rule_8_any_later_activity_voids_the_dossier(state: State, event: e.Event):
    """Rule 8: activity after the dossier voids it and its approval: the IT manager compiles it again."""
    voided = ticket_in(state, L.TIER1, event)
    assert (voided.state, voided.level, voided.dossier) == (S.DECIDING, L.IT_MANAGER, None)
    assert refused(d.route, voided, L.NOC, error=errors.NotApproved).step == "16"
    assert refused(d.approve, voided, HASH, Channel.WEB, error=errors.NoCurrentDossier).step == "16"
    refused(d.decline, voided, HASH, Channel.WEB, "no", error=errors.NoCurrentDossier)


def test_rule_8_activity_after_a_decline_leaves_the_decline():
    """Rule 8: what the client declined stays declined, whatever is noted down after it."""
    declined = ticket_in(S.AWAITING_APPROVAL, L.TIER1, e.ClientDeclined(HASH, Channel.WEB, "no"), ACTIVITY[2])
    assert decided(d.decline, declined, HASH, Channel.WEB, "no") == []
    assert declined.dossier.approved is False


BACK_UP = [
    e.Escalated(L.TIER1, L.TIER2, "up"),
    e.Qualified(L.TIER2, False, "no"),
    e.Escalated(L.TIER2, L.TIER3, "up"),
    e.Qualified(L.TIER3, True, "yes"),
    e.Escalated(L.TIER3, L.ONSITE, "up after all"),
    e.Qualified(L.ONSITE, False, "no"),
    e.Escalated(L.ONSITE, L.IT_MANAGER, "up"),
]


@pytest.mark.parametrize(
    "way_back",
    [
        [e.ReturnedToLevel(L.IT_MANAGER, L.TIER1, "try"), *BACK_UP],
        [e.Routed(L.NOC), e.ReturnedToLevel(L.NOC, L.IT_MANAGER, "no network matter")],
    ],
)
def test_rule_8_an_old_approval_does_not_come_back_with_the_ticket(way_back: list[e.Event]):
    """Rule 8: a ticket that comes to the IT manager again needs a new dossier and a new approval."""
    again = ticket_in(S.APPROVED, L.TIER1, *way_back)
    assert (again.state, again.dossier) == (S.DECIDING, None)
    assert refused(d.route, again, None, error=errors.NotApproved).step == "16"


def test_step_16_the_noc_gets_a_ticket_upon_approval_only():
    """Step 16: an approved ticket is routed to the NOC, named or not, and to no other level; no other ticket is."""
    approved = ticket_in(S.APPROVED)
    assert decided(d.route, approved, None) == decided(d.route, approved, L.NOC) == [e.Routed(L.NOC)]
    assert after(approved, [e.Routed(L.NOC), ACTIVITY[2]]).dossier == approved.dossier
    assert "route" in refused(d.route, approved, L.TIER1, error=errors.WrongRoute).possible
    for state in (S.DECIDING, S.AWAITING_APPROVAL):
        assert "route" not in refused(d.route, ticket_in(state), L.NOC, error=errors.NotApproved).possible


@pytest.mark.parametrize("state", [S.DECIDING, S.AWAITING_APPROVAL, S.APPROVED])
def test_the_it_manager_returns_a_ticket_to_a_level_of_the_ladder(state: State):
    """Rule 8: the IT manager returns a ticket to tier 1, tier 2, tier 3 or onsite, never to the NOC or to himself."""
    ticket = ticket_in(state)
    for level in (L.TIER1, L.TIER2, L.TIER3, L.ONSITE):
        (returned,) = decided(d.return_to_level, ticket, level, "try")
        assert returned == e.ReturnedToLevel(L.IT_MANAGER, level, "try")
        assert after(ticket, [returned]).dossier is None
    for level in (L.NOC, L.IT_MANAGER):
        assert "return_to_level" in refused(d.return_to_level, ticket, level, "try", error=errors.WrongLevel).possible


def test_rule_4_the_noc_returns_a_ticket_to_the_it_manager():
    """Rule 4: the NOC returns a ticket to the IT manager only; no other level returns a ticket."""
    noc = ticket_in(S.IN_SUPPORT, L.NOC)
    assert decided(d.return_to_level, noc, L.IT_MANAGER, "why") == [e.ReturnedToLevel(L.NOC, L.IT_MANAGER, "why")]
    for level in (L.TIER1, L.TIER2, L.TIER3, L.ONSITE, L.NOC):
        refused(d.return_to_level, noc, level, "why", error=errors.WrongLevel)
    refused(d.return_to_level, ticket_in(S.IN_SUPPORT, L.ONSITE), L.TIER1, "why", error=errors.NotAtDecisionPoint)


# ── The rest of a ticket's life ─────────────────────────────────────────────────────────────────────────────


def test_a_note_says_something_each_time():
    """A note is for the desk or for the client too; the same words again are another note, for somebody wrote them."""
    for visibility in Visibility:
        assert decided(d.add_note, ticket_in(S.CREATED), "seen", visibility) == [e.NoteAdded("seen", visibility)]
    noted = ticket_in(S.CREATED, L.TIER1, e.NoteAdded("seen", Visibility.CLIENT))
    assert decided(d.add_note, noted, "seen", Visibility.CLIENT) == [e.NoteAdded("seen", Visibility.CLIENT)]


def test_a_changed_priority_belongs_to_the_issue():
    """PriorityChanged changes impact, urgency and priority of the issue, and nothing else of it."""
    changed = ticket_in(S.IN_SUPPORT, L.TIER1, e.PriorityChanged(Grade.LOW, Grade.MEDIUM, 4, "one user only"))
    assert changed.issue == Issue("No print", "It does not print.", "printing", Grade.LOW, Grade.MEDIUM)
    assert changed.priority == 4
    assert decided(d.change_priority, changed, Grade.LOW, Grade.MEDIUM, "again") == []
    assert decided(d.change_priority, changed, Grade.HIGH, Grade.MEDIUM, "again") == [
        e.PriorityChanged(Grade.HIGH, Grade.MEDIUM, 2, "again")
    ]


def test_a_request_is_withdrawn_once():
    """Any open ticket is cancelled with a reason; cancelling it again records nothing."""
    assert decided(d.cancel, ticket_in(S.VERIFIED), "not needed") == [e.Cancelled("not needed")]
    assert decided(d.cancel, ticket_in(S.CANCELLED), "once more") == []
    assert refused(d.cancel, ticket_in(S.CLOSED), "too late", error=errors.TicketClosed).possible == ("reopen", "link")


@pytest.mark.parametrize(
    ("window", "late", "allowed"),
    [
        (timedelta(days=14), timedelta(days=14), True),
        (timedelta(days=14), timedelta(days=14, microseconds=1), False),
        (timedelta(days=14), timedelta(), True),
        (timedelta(), timedelta(), True),
        (timedelta(), timedelta(microseconds=1), False),
        (timedelta(days=3), timedelta(days=3), True),
        (timedelta(days=3), timedelta(days=3, microseconds=1), False),
    ],
)
def test_rule_9_reopened_only_within_the_window(window: timedelta, late: timedelta, allowed: bool):
    """Rule 9: reopening is possible up to the last moment of the window, and not a microsecond later."""
    closed = ticket_in(S.CLOSED)
    given = {"now": closed.closed_at + late, "reopen_window": window}
    if allowed:
        assert decided(d.reopen, closed, "came back", **given) == [e.Reopened(L.TIER1, "came back")]
    else:
        refusal = refused(d.reopen, closed, "came back", error=errors.ReopenWindowOver, **given)
        assert (refusal.step, refusal.possible) == (None, ("link",))


def test_rule_9_the_window_is_fourteen_days_unless_it_is_set():
    """Rule 9: without a setting the window is 14 days, and quality control is done with four eyes."""
    who = given_by(QUALITY).who
    assert Given(who, LATER) == Given(who, LATER, True, timedelta(days=14))


@pytest.mark.parametrize("level", [L.TIER1, L.TIER2, L.TIER3, L.ONSITE, L.NOC])
def test_rule_9_reopened_to_the_level_that_resolved(level: Level):
    """Rule 9: a reopened ticket is with the level that resolved it, which may resolve it; the closure is over."""
    closed = ticket_in(S.CLOSED, level)
    assert decided(d.reopen, closed, "came back") == [e.Reopened(level, "came back")]
    reopened = after(closed, [e.Reopened(level, "came back")])
    assert (reopened.state, reopened.level, reopened.closed_at) == (S.IN_SUPPORT, level, None)
    assert decided(d.resolve, reopened, "fixed") == [e.Resolved(level, "fixed")]
    refused(d.reopen, reopened, "came back", error=errors.NotClosed)


def test_rule_9_the_window_starts_anew_with_the_last_closure():
    """Rule 9: the window counts from the closure that stands, not from an earlier one."""
    closed = ticket_in(S.CLOSED)
    ending = [e.Resolved(L.TIER1, "better"), e.QCVerified(L.TIER1, Channel.WEB, "yes")]
    ending += [e.ResolutionDocumented(L.TIER1, *DETAILS), e.Closed(L.TIER1)]
    again = after(closed, [e.Reopened(L.TIER1, "came back"), *ending])
    assert again.closed_at == closed.closed_at + timedelta(minutes=5)
    assert decided(d.reopen, again, "again", now=closed.closed_at + timedelta(days=14, minutes=5))


# ── What holds for all of them ──────────────────────────────────────────────────────────────────────────────

TWICE = [
    (d.identify_client, ticket_in(S.RECEIVED), CLIENT_A),
    (d.create, ticket_in(S.IDENTIFIED), "T-000001"),
    (d.document_issue, ticket_in(S.CREATED), ISSUE),
    (d.route, ticket_in(S.DOCUMENTED), None),
    (d.route, ticket_in(S.APPROVED), L.NOC),
    (d.assign, ticket_in(S.IN_SUPPORT), "agent-tier1"),
    (d.release, ticket_in(S.IN_SUPPORT, L.TIER1, e.Assigned("agent-tier1"))),
    (d.qualify, ticket_in(S.IN_SUPPORT, L.TIER2), False, "not known"),
    (d.resolve, ticket_in(S.IN_SUPPORT), "fixed"),
    (d.verify, ticket_in(S.RESOLVED), True, Channel.WEB, "yes"),
    (d.document_resolution, ticket_in(S.RESOLVED), *DETAILS),
    (d.close, ticket_in(S.VERIFIED, L.TIER1, e.ResolutionDocumented(L.TIER1, *DETAILS))),
    (d.compile_dossier, ticket_in(S.DECIDING), "all", ENTRIES),
    (d.approve, ticket_in(S.AWAITING_APPROVAL), HASH, Channel.WEB),
    (d.decline, ticket_in(S.AWAITING_APPROVAL), HASH, Channel.WEB, "no"),
    (d.change_priority, ticket_in(S.IN_SUPPORT), Grade.LOW, Grade.LOW, "alone"),
    (d.await_client, ticket_in(S.IN_SUPPORT), "the model"),
    (d.cancel, ticket_in(S.IN_SUPPORT), "not needed"),
    (d.link, ticket_in(S.IN_SUPPORT), EARLIER, Relation.RELATED_TO),
    (d.correct_client, ticket_in(S.IN_SUPPORT), CLIENT_B, "a colleague"),
    (d.amend_issue, ticket_in(S.IN_SUPPORT), "another one", "Jam", "It jams.", "paper"),
]
ONCE = [
    (errors.NotQualified, d.escalate, ticket_in(S.IN_SUPPORT), "up"),
    (errors.AtDecisionPoint, d.escalate, ticket_in(S.IN_SUPPORT, L.ONSITE, can=True), "up"),
    (errors.NotResolved, d.verify, ticket_in(S.RESOLVED), False, Channel.WEB, "no"),
    (errors.NotAtDecisionPoint, d.return_to_level, ticket_in(S.DECIDING), L.TIER1, "try"),
    (errors.WrongLevel, d.return_to_level, ticket_in(S.IN_SUPPORT, L.NOC), L.IT_MANAGER, "why"),
    (errors.ClientNotAwaited, d.client_responded, ticket_in(S.IN_SUPPORT, L.TIER1, e.ClientAwaited("it")), "here"),
    (errors.NotClosed, d.reopen, ticket_in(S.CLOSED), "came back"),
]


@pytest.mark.parametrize("command", TWICE, ids=lambda command: command[0].__name__)
def test_rule_10_a_command_that_is_already_true_records_nothing(command: tuple[Any, ...]):
    """Rule 10: the same command a second time succeeds and records nothing."""
    decision, ticket, *wanted = command
    events = decided(decision, ticket, *wanted)
    assert len(events) == 1
    assert decided(decision, after(ticket, events), *wanted) == []


@pytest.mark.parametrize("command", ONCE, ids=lambda command: command[1].__name__)
def test_rule_10_a_command_that_moved_the_ticket_away_is_refused_the_second_time(command: tuple[Any, ...]):
    """Rule 10: where the first time took the ticket elsewhere, the second is refused: never the same event twice."""
    error, decision, ticket, *wanted = command
    events = decided(decision, ticket, *wanted)
    assert len(events) == 1
    refused(decision, after(ticket, events), *wanted, error=error)


TEXTS = [
    ("summary", lambda t: c.DocumentIssue(t, "d", "c", Grade.LOW, Grade.LOW)),
    ("description", lambda t: c.DocumentIssue("s", t, "c", Grade.LOW, Grade.LOW)),
    ("category", lambda t: c.DocumentIssue("s", "d", t, Grade.LOW, Grade.LOW)),
    ("text", lambda t: c.ReceiveRequest(Channel.WEB, t, c.RequestSender())),
    ("text", lambda t: c.OpenTicket("client-a", Channel.WEB, t)),
    ("assignee", s.AssignTicket),
    ("rationale", lambda t: c.QualifyTicket(True, t)),
    ("reason", c.EscalateTicket),
    ("resolution", c.ResolveTicket),
    ("comment", lambda t: c.VerifyTicket(True, Channel.WEB, t)),
    ("comment", lambda t: c.VerifyTicket(False, Channel.WEB, t)),
    ("cause", lambda t: c.DocumentResolution(t, "a", "m")),
    ("actions", lambda t: c.DocumentResolution("c", t, "m")),
    ("checked_by_method", lambda t: c.DocumentResolution("c", "a", t)),
    ("summary", c.CompileDossier),
    ("reason", lambda t: c.DeclineDossier(HASH, Channel.WEB, t)),
    ("reason", lambda t: s.ReturnToLevel(L.TIER1, t)),
    ("text", lambda t: s.AddNote(t, Visibility.CLIENT)),
    ("reason", lambda t: s.ChangePriority(Grade.LOW, Grade.LOW, t)),
    ("reason", s.AwaitClient),
    ("text", s.RecordClientResponse),
    ("reason", s.CancelTicket),
    ("reason", s.ReopenTicket),
    ("reason", lambda t: s.CorrectClient("client-a", t)),
    ("reason", s.AmendIssue),
    ("summary", lambda t: s.AmendIssue("another one", t)),
    ("description", lambda t: s.AmendIssue("another one", description=t)),
    ("category", lambda t: s.AmendIssue("another one", category=t)),
]


@pytest.mark.parametrize("blank", BLANK)
@pytest.mark.parametrize(("field", "wish"), TEXTS)
def test_a_text_that_must_say_something_is_not_blank(field: str, wish: Any, blank: str):
    """Rules 4, 5, 6, 8: a reason, a comment, a cause that says nothing is refused before the procedure is asked."""
    with pytest.raises(errors.BlankText) as caught:
        wish(blank)
    assert (caught.value.pointer, caught.value.code) == (f"/{field}", "blank_text")
    assert caught.value.detail == f"{field} must not be blank: say it in words."


def at(minute: int) -> Any:
    """The time of the event with that version."""
    return START + timedelta(minutes=minute)


def test_a_ticket_remembers_what_a_later_decision_reads():
    """Evolution keeps of a whole life exactly what decisions and answers need, with who and when."""
    ticket = ticket_in(S.CLOSED, L.TIER2, e.Linked(OTHER, Relation.RELATED_TO))
    assert ticket == Ticket(
        ticket_id=TICKET_ID,
        version=12,
        state=S.CLOSED,
        created_at=at(1),
        updated_at=at(12),
        channel=Channel.PHONE,
        text="The printer is silent.",
        number="T-000001",
        client_user_id="client-a",
        client_name="client-a",
        level=L.TIER2,
        qualification=Qualification.CAN_RESOLVE,
        issue=ISSUE,
        priority=2,
        resolution=Resolution(L.TIER2, "fixed", "agent-tier2", at(8)),
        qc=QualityControl(True, "agent-tier2", at(9), L.TIER2, Channel.PHONE, "It prints."),
        details=Details("cause", "actions", "method", "agent-tier2", at(10)),
        closed_at=at(11),
        links=(Link(OTHER, Relation.RELATED_TO),),
        escalations=1,
    )
    failed = ticket_in(S.RESOLVED, L.TIER2, e.QCFailed(L.TIER2, Channel.WEB, "no"))
    assert failed.qc == QualityControl(False, "agent-tier2", at(9), L.TIER2, Channel.WEB, "no")


def test_links_add_up():
    """A ticket keeps every link, in the order in which they were made."""
    both = [Link(OTHER, Relation.RELATED_TO), Link(UUID(int=9), Relation.DUPLICATE_OF)]
    ticket = ticket_in(S.CREATED, L.TIER1, *(e.Linked(link.other_ticket_id, link.relation) for link in both))
    assert ticket.links == tuple(both)


@pytest.mark.parametrize("event", [*e.TICKET_EVENTS.values()], ids=lambda event: event.__name__)
@pytest.mark.parametrize("state", list(State))
def test_evolution_refuses_nothing(event: type[e.Event], state: State):
    """A rule that is tightened must never make an old ticket unloadable: any event loads in any state."""
    values = {"level": L.TIER2, "to": L.TIER1, "from_level": L.TIER1, "to_level": L.TIER2}
    fields = [values.get(field, 1) for field in event.__struct_fields__]
    ticket = ticket_in(state)
    assert after(ticket, [event(*fields)]).version == ticket.version + 1


def test_a_stream_that_does_not_begin_with_a_request_is_no_ticket():
    """A ticket begins with its request; without events there is no ticket."""
    assert fold([]) is None
    recorded = e.Recorded(TICKET_ID, 1, START, QUALITY, e.Created("T-000001"))
    with pytest.raises(errors.UnknownTicket):
        begin_ticket(recorded)
    received = e.Recorded(TICKET_ID, 1, START, QUALITY, e.RequestReceived(Channel.WEB, "help", Sender("walk-in")))
    known = Ticket(TICKET_ID, 1, S.RECEIVED, START, START, Channel.WEB, "help", Sender("walk-in"))
    assert fold([received]) == known
    (*unknown, links, escalations) = msgspec.structs.astuple(known)[8:]
    assert (set(unknown), links, escalations) == ({None}, (), 0)
    assert fold([msgspec.structs.replace(received, event=e.RequestReceived(Channel.WEB, "help"))]).sender is None
    assert Ticket(TICKET_ID, 1, S.RECEIVED, START, START, Channel.WEB, "help").sender is None


@pytest.mark.parametrize("module", [client, e, rules, ticket_module, values], ids=lambda module: module.__name__)
def test_what_is_written_down_is_never_changed(module: Any):
    """Events, tickets, clients and what decisions are given are values: none of them can be changed in place."""
    structs = [kind for kind in vars(module).values() if isinstance(kind, type) and issubclass(kind, msgspec.Struct)]
    own = [kind for kind in structs if kind.__module__ == module.__name__]
    assert own
    assert [kind.__name__ for kind in own if not kind.__struct_config__.frozen] == []


def test_a_ticket_in_support_without_a_level_is_a_mistake_and_not_tier_1():
    """No history of the procedure leads there, so no level is guessed at which something would be recorded."""
    broken = msgspec.structs.replace(ticket_in(S.IN_SUPPORT), level=None)
    with pytest.raises(LookupError):
        decided(d.resolve, broken, "fixed")
