"""Events and errors in words, for people: exact sentences, and none that is missing."""

import json
from datetime import UTC, datetime
from hashlib import sha256
from uuid import UUID

import msgspec
import pytest

from domain import errors
from domain import events as e
from domain.client import EVENTS, ContactChanged, Registered
from domain.values import Actor, Channel, DossierEntry, Grade, Level, Relation, Role, Sender, Visibility
from domain.visibility import Audience, sees_event
from domain.words import LEVEL_NAMES, dossier_entries, words
from tests.support.given import HASH, QUALITY, START, TICKET_ID

SENTENCES: list[tuple[e.Event, str]] = [
    (
        e.RequestReceived(Channel.WALK_IN, "The printer is silent.", Sender("walk-in")),
        "Support request received by walk in: The printer is silent.",
    ),
    (e.ClientIdentified("client-a", "Client A"), "Client identified as Client A (user ID client-a)."),
    (e.Created("T-000001"), "Help desk ticket T-000001 created."),
    (
        e.IssueDocumented("No print", "It does not print.", "printing", Grade.MEDIUM, Grade.HIGH, 2),
        "Issue documented: No print (printing; impact medium, urgency high, priority 2). It does not print.",
    ),
    (e.Routed(Level.TIER1), "Routed to Tier 1 Support."),
    (e.Assigned("agent-tier1"), "Assigned to agent-tier1."),
    (e.Released("agent-tier1"), "Released by agent-tier1."),
    (e.Qualified(Level.TIER2, True, "It is known."), "Qualified: Tier 2 Support can resolve it. It is known."),
    (e.Qualified(Level.TIER3, False, "It is not."), "Qualified: Tier 3 Support cannot resolve it. It is not."),
    (
        e.Escalated(Level.ONSITE, Level.IT_MANAGER, "needs another line"),
        "Escalated from Onsite Support to the IT Manager: needs another line",
    ),
    (e.Resolved(Level.NOC, "line replaced"), "Resolved by the Network Operations Center: line replaced"),
    (
        e.QCVerified(Level.TIER1, Channel.PHONE, "It prints."),
        "Quality control passed; the client confirmed by phone: It prints.",
    ),
    (
        e.QCFailed(Level.ONSITE, Channel.WALK_IN, "it jams"),
        "Quality control failed; the client said by walk in: it jams. Back to Onsite Support.",
    ),
    (
        e.ResolutionDocumented(Level.TIER1, "Worn cable.", "Replaced.", "Test page."),
        "Resolution documented. Cause: Worn cable. Actions: Replaced. Checked by: Test page.",
    ),
    (e.Closed(Level.TIER2), "Closed after resolution by Tier 2 Support."),
    (e.ClosureEmailSent(9, "<9@desk>", 1), "Closing e-mail <9@desk> accepted by the mail server."),
    (
        e.ClosureEmailFailed(9, "<9@desk>", 3, "550 no such user"),
        "Closing e-mail <9@desk> could not be delivered (attempts: 3): 550 no such user",
    ),
    (
        e.DossierCompiled("Three levels tried.", HASH, 12, ("1. first",)),
        f"Dossier of all activity up to version 12 compiled (SHA-256 {HASH}): Three levels tried.",
    ),
    (e.ClientApproved(HASH, Channel.EMAIL), f"Client approved dossier {HASH} by email."),
    (e.ClientDeclined(HASH, Channel.WALK_IN, "too dear"), f"Client declined dossier {HASH} by walk in: too dear"),
    (
        e.ReturnedToLevel(Level.NOC, Level.IT_MANAGER, "no network matter"),
        "Returned from the Network Operations Center to the IT Manager: no network matter",
    ),
    (e.NoteAdded("seen", Visibility.INTERNAL), "Note (internal): seen"),
    (
        e.PriorityChanged(Grade.LOW, Grade.HIGH, 3, "one user only"),
        "Priority changed to 3 (impact low, urgency high): one user only",
    ),
    (e.ClientAwaited("the model"), "Waiting for the client: the model"),
    (e.ClientResponded("It is the old one."), "Client responded: It is the old one."),
    (e.Cancelled("not needed"), "Cancelled: not needed"),
    (e.Reopened(Level.TIER3, "it came back"), "Reopened, back to Tier 3 Support: it came back"),
    (
        e.Reopened(Level.TIER3, "it came back", Channel.PHONE),
        "Reopened, back to Tier 3 Support, on the client's word by phone: it came back",
    ),
    (e.Released("key-1", "its API key has ended"), "Taken from key-1: its API key has ended"),
    (
        e.ClientCorrected("client-b", "Client B", "a colleague called"),
        "Client corrected to Client B (user ID client-b): a colleague called",
    ),
    (e.IssueAmended("it is on floor 4", "No print"), "Issue amended: it is on floor 4 The summary now reads: No print"),
    (
        e.IssueAmended("jams", "Jam", "wet.", "paper"),
        "Issue amended: jams The summary now reads: Jam The category now reads: paper The description now reads: wet.",
    ),
    (e.Linked(UUID(int=7), Relation.FOLLOW_UP_OF), f"Linked: follow up of {UUID(int=7)}."),
    (
        Registered("client-a", "Client A", "a@example.org"),
        "Client Client A registered with user ID client-a and e-mail address a@example.org.",
    ),
    (
        ContactChanged("client-a", "Client A", "b@example.org"),
        "Directory entry of client-a now reads Client A, b@example.org.",
    ),
]


@pytest.mark.parametrize(("event", "sentence"), SENTENCES, ids=lambda value: type(value).__name__)
def test_every_event_is_said_in_a_sentence(event: e.Event, sentence: str):
    """An event in words says what happened, without the time and the actor."""
    assert words(event) == sentence


def test_no_event_is_without_words():
    """Every event of a ticket and of the directory has a sentence of its own."""
    assert {type(event) for event, _ in SENTENCES} == set(EVENTS.values())


class Overheard(e.Event, frozen=True):
    """An event that nobody has found words for."""

    stored_as = "Ticket.Overheard"
    text: str


def test_an_event_without_words_is_still_shown():
    """A history is shown whole: an event that has no words yet is shown by its stored name and its fields."""
    assert words(Overheard("steps")) == 'Ticket.Overheard: {"text":"steps"}'
    assert words(Overheard("steps"), Audience.REPORTER) == 'Ticket.Overheard: {"text":null}'


def test_every_level_has_the_name_of_the_source():
    """The levels are called as in the source, step by step."""
    assert LEVEL_NAMES == {
        "tier1": "Tier 1 Support",
        "tier2": "Tier 2 Support",
        "tier3": "Tier 3 Support",
        "onsite": "Onsite Support",
        "it_manager": "the IT Manager",
        "noc": "the Network Operations Center",
    }


def entry_of(**changes: object) -> DossierEntry:
    """The dossier entry of a note, with changes."""
    note = e.NoteAdded("seen – ä", Visibility.CLIENT)
    recorded = e.Recorded(TICKET_ID, 7, START, Actor("key-1", "agent-tier2", Role.AGENT), note)
    return dossier_entries([msgspec.structs.replace(recorded, **changes)], "client-a")[0]


def test_rule_8_an_entry_of_the_dossier_says_who_did_what_when():
    """Rule 8: an entry has the version, the time in UTC, the role, the words, and a hash of all that."""
    entry = entry_of()
    assert (entry.version, entry.at, entry.actor, entry.role, entry.words) == (
        7,
        "2026-11-02T09:00:00.000000Z",
        "agent",
        "agent",
        "Note (client): seen – ä",
    )
    assert len(entry.sha256 or "") == 64
    assert entry_of(at=datetime(2026, 11, 2, 9, 0, 0, 42, tzinfo=UTC)).at == "2026-11-02T09:00:00.000042Z"


def test_rule_8_the_hash_of_an_entry_is_of_canonical_json():
    """Rule 8: anybody can compute the hash of an entry from the history: SHA-256 of its JSON, keys sorted."""
    told = {
        "ticket_id": str(TICKET_ID),
        "version": 7,
        "type": "Ticket.NoteAdded",
        "at": "2026-11-02T09:00:00Z",
        "actor": {"id": "key-1", "name": "agent-tier2", "role": "agent"},
        "data": {"text": "seen – ä", "visibility": "client"},
        "correlation_id": None,
        "causation_id": None,
    }
    told_bytes = json.dumps(told, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()
    assert entry_of().sha256 == sha256(told_bytes).hexdigest()


def test_events_that_hold_the_same_have_other_hashes():
    """The type is hashed too: the same reason, given for two things, is two things."""
    awaited, cancelled = (entry_of(event=kind("too late")).sha256 for kind in (e.ClientAwaited, e.Cancelled))
    assert awaited != cancelled


def test_a_dossier_does_not_name_who_was_taken_for_the_client():
    """The client reads it: whose ticket it was by mistake is nobody's business but the desk's."""
    other = entry_of(event=e.ClientIdentified("client-b", "Client B"))
    assert (other.words, other.sha256) == ("Client identified by mistake.", None)


def test_a_dossier_does_not_say_what_somebody_taken_for_the_client_has_said():
    """Whoever was taken for the client may have written: neither the name nor a word of it goes to the client."""
    by_other, by_client = Actor("key-b", "Client B", Role.CLIENT), Actor("key-a", "Client A", Role.CLIENT)
    note = e.NoteAdded("Not mine: call me.", Visibility.CLIENT)
    history = [
        e.Recorded(TICKET_ID, version, START, actor, event)
        for version, (actor, event) in enumerate(
            [(by_other, note), (by_client, e.ClientIdentified("client-a", "Client A")), (by_client, note)], 1
        )
    ]
    first, _, last = dossier_entries(history, "client-a")
    at = "2026-11-02T09:00:00.000000Z"
    assert first == DossierEntry(1, at, "somebody else", Role.CLIENT, "Said by mistake.", None)
    assert (last.actor, last.words) == ("Client A", "Note (client): Not mine: call me.")
    assert last.sha256


@pytest.mark.parametrize(
    "word",
    [
        e.ClientResponded("Call me."),
        e.ClientApproved(HASH, Channel.PHONE),
        e.ClientDeclined(HASH, Channel.PHONE, "Call me."),
        e.QCVerified(Level.TIER1, Channel.PHONE, "Call me."),
        e.QCFailed(Level.TIER1, Channel.PHONE, "Call me."),
        e.Reopened(Level.TIER1, "Call me.", Channel.PHONE),
        e.NoteAdded("Call me.", Visibility.CLIENT),
        e.ClientAwaited("May we call?"),
        e.DossierCompiled("Called.", HASH, 1, ("1. called",)),
        e.ClosureEmailFailed(9, "<9@desk>", 3, "550 no such user"),
    ],
    ids=lambda event: type(event).__name__,
)
def test_a_dossier_does_not_say_what_was_said_to_and_by_somebody_else(word: e.Event):
    """Before the client was corrected it was somebody else's word, also where staff wrote it down."""
    corrected = e.ClientCorrected("client-a", "Client A", "Client B is a colleague.")
    history = [e.Recorded(TICKET_ID, n, START, QUALITY, event) for n, event in enumerate([word, corrected, word], 1)]
    first, between, last = dossier_entries(history, "client-a")
    assert (first.words, first.sha256) == ("Said by mistake.", None)
    assert (between.words, between.sha256) == ("Client corrected.", None)
    assert last.words == ("Closing e-mail could not be delivered." if last.sha256 is None else words(word))


@pytest.mark.parametrize("event", [event for event, _ in SENTENCES], ids=lambda event: type(event).__name__)
def test_rule_8_a_dossier_lists_every_event_in_words(event: e.Event):
    """Rule 8: any event has its entry in the dossier, in the words of the client's history, or that it was there."""
    withheld = {
        e.NoteAdded: "Internal note added.",
        e.Linked: "Linked to another ticket.",
        e.Assigned: "Assigned.",
        e.Released: "Released.",
        e.Qualified: "Qualified.",
        e.PriorityChanged: "Priority changed.",
        e.ReturnedToLevel: "Returned.",
        e.ClosureEmailFailed: "Closing e-mail could not be delivered.",
        e.ClientCorrected: "Client corrected.",
        Registered: "Handled by the desk.",
        ContactChanged: "Handled by the desk.",
    }
    entry, hidden = entry_of(event=event), withheld.get(type(event))
    assert (entry.actor, entry.words) == ("agent", hidden or words(event, Audience.CLIENT))
    assert (entry.sha256 is None) == (hidden is not None)


@pytest.mark.parametrize("event", [event for event, _ in SENTENCES], ids=lambda event: type(event).__name__)
def test_a_client_reads_the_same_words_but_for_impact_and_urgency(event: e.Event):
    """The client's words leave out how an issue was judged, and nothing else of what the client sees."""
    if isinstance(event, e.IssueDocumented):
        assert words(event, Audience.CLIENT) == "Issue documented: No print (printing). It does not print."
    elif sees_event(Audience.CLIENT, event, "client-a"):
        assert words(event, Audience.CLIENT) == words(event)


def test_a_note_of_the_desk_is_only_mentioned_in_the_dossier():
    """The client reads the dossier: a line tells of an internal note, and nothing in it depends on the text: with a
    hash, a text that can be guessed could be proved."""
    kept = {entry_of(event=e.NoteAdded(text, Visibility.INTERNAL)) for text in ("seen", "heard")}
    at = "2026-11-02T09:00:00.000000Z"
    assert kept == {DossierEntry(7, at, "agent", Role.AGENT, "Internal note added.", None)}


@pytest.mark.parametrize(
    "changes",
    [
        {"originator_id": UUID(int=7)},
        {"actor": Actor("key-2", "agent-tier2", Role.AGENT)},
        {"correlation_id": "journey-1"},
        {"causation_id": "command-1"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_rule_8_the_hash_of_an_entry_covers_what_its_words_leave_out(changes: dict[str, object]):
    """Rule 8: two events that read alike but differ in anything that the history shows have different hashes."""
    entry = entry_of(**changes)
    assert entry.sha256 != entry_of().sha256
    assert msgspec.structs.replace(entry, sha256=entry_of().sha256) == entry_of()


CODES = {
    "error": errors.DeskError,
    "refused": errors.Refused,
    "client_not_identified": errors.ClientNotIdentified,
    "not_created": errors.NotCreated,
    "issue_not_documented": errors.IssueNotDocumented,
    "not_routed": errors.NotRouted,
    "step_already_done": errors.StepAlreadyDone,
    "already_resolved": errors.AlreadyResolved,
    "already_qualified": errors.AlreadyQualified,
    "already_approved": errors.AlreadyApproved,
    "ticket_closed": errors.TicketClosed,
    "ticket_cancelled": errors.TicketCancelled,
    "not_closed": errors.NotClosed,
    "reopen_window_over": errors.ReopenWindowOver,
    "not_qualified": errors.NotQualified,
    "cannot_resolve_here": errors.CannotResolveHere,
    "no_qualification_here": errors.NoQualificationHere,
    "no_level_above": errors.NoLevelAbove,
    "not_resolved": errors.NotResolved,
    "not_verified": errors.NotVerified,
    "details_missing": errors.DetailsMissing,
    "four_eyes": errors.FourEyes,
    "at_decision_point": errors.AtDecisionPoint,
    "not_at_decision_point": errors.NotAtDecisionPoint,
    "no_current_dossier": errors.NoCurrentDossier,
    "dossier_mismatch": errors.DossierMismatch,
    "not_approved": errors.NotApproved,
    "already_duplicate": errors.AlreadyDuplicate,
    "other_is_duplicate": errors.OtherIsDuplicate,
    "circular_link": errors.CircularLink,
    "follows_later": errors.FollowsLater,
    "too_many_links": errors.TooManyLinks,
    "client_not_awaited": errors.ClientNotAwaited,
    "wrong_route": errors.WrongRoute,
    "wrong_level": errors.WrongLevel,
    "ticket_elsewhere": errors.TicketElsewhere,
    "unacceptable": errors.Unacceptable,
    "text_fault": errors.TextFault,
    "blank_text": errors.BlankText,
    "unfit_text": errors.UnfitText,
    "unknown_client": errors.UnknownClient,
    "unknown_assignee": errors.UnknownAssignee,
    "assignee_lacks_role": errors.AssigneeLacksRole,
    "link_to_self": errors.LinkToSelf,
    "unknown_other_ticket": errors.UnknownOther,
    "confirmation_missing": errors.ConfirmationMissing,
    "role_missing": errors.Forbidden,
    "not_found": errors.NotFound,
    "unknown_ticket": errors.UnknownTicket,
    "unknown_user_id": errors.UnknownUserId,
    "stale_version": errors.StaleVersion,
}


def test_every_error_has_its_code_for_ever():
    """A code is the name of an error for ever, of one error only."""
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.DeskError)]
    assert {error.__name__: error.code for error in kinds} == {error.__name__: code for code, error in CODES.items()}


def test_an_error_says_what_its_docstring_says():
    """An error's message is its docstring, unless it is told another one."""
    assert errors.NotRouted().detail == "The ticket is not with Support yet: route it to tier 1 first."
    assert errors.NotRouted("another one").detail == "another one"
    assert (errors.NotRouted().step, errors.NotRouted().possible) == (None, ())
    assert [
        errors.UnknownClient.pointer,
        errors.LinkToSelf.pointer,
        errors.UnknownOther.pointer,
        errors.Unacceptable.pointer,
    ] == [
        "/client_user_id",
        "/other_ticket_id",
        "/other_ticket_id",
        None,
    ]


def test_a_stale_version_tells_what_was_missed():
    """Whoever decided on an older version learns which version is the current one, and what came in between."""
    stale = errors.StaleVersion(TICKET_ID, 5, 3)
    assert (stale.stream_id, stale.current_version, stale.expected_version, stale.missed) == (TICKET_ID, 5, 3, ())
    unknown = errors.StaleVersion(TICKET_ID)
    assert (unknown.current_version, unknown.expected_version, unknown.missed) == (None, None, ())
    assert stale.detail.startswith("The ticket has moved on")
