"""Events in words, for the history, the dossier and the auditor."""

from hashlib import sha256

import msgspec

from domain import events as e
from domain.client import ContactChanged, Registered
from domain.events import Event, Recorded
from domain.values import Level, Visibility

LEVEL_NAMES = {
    Level.TIER1: "Tier 1 Support",
    Level.TIER2: "Tier 2 Support",
    Level.TIER3: "Tier 3 Support",
    Level.ONSITE: "Onsite Support",
    Level.IT_MANAGER: "the IT Manager",
    Level.NOC: "the Network Operations Center",
}


def words(event: Event) -> str:
    """What happened, in a sentence without the time and the actor."""
    return _ticket_words(event) or _client_words(event) or _ending_words(event)


def _ticket_words(event: Event) -> str:
    match event:
        case e.RequestReceived(channel, text):
            return f"Support request received by {_plain(channel)}: {text}"
        case e.ClientIdentified(user_id, name):
            return f"Client identified as {name} (user ID {user_id})."
        case e.Created(number):
            return f"Help desk ticket {number} created."
        case e.IssueDocumented(summary, description, category, impact, urgency, priority):
            grades = f"impact {impact}, urgency {urgency}, priority {priority}"
            return f"Issue documented: {summary} ({category}; {grades}). {description}"
        case e.Routed(to):
            return f"Routed to {LEVEL_NAMES[to]}."
        case e.Assigned(assignee):
            return f"Assigned to {assignee}."
        case e.Released(assignee):
            return f"Released by {assignee}."
        case e.Qualified(level, can_resolve, rationale):
            verdict = "can" if can_resolve else "cannot"
            return f"Qualified: {LEVEL_NAMES[level]} {verdict} resolve it. {rationale}"
        case e.Escalated(from_level, to_level, reason):
            return f"Escalated from {LEVEL_NAMES[from_level]} to {LEVEL_NAMES[to_level]}: {reason}"
        case e.Resolved(level, resolution):
            return f"Resolved by {LEVEL_NAMES[level]}: {resolution}"
        case e.QCVerified(_, via, comment):
            return f"Quality control passed; the client confirmed by {_plain(via)}: {comment}"
        case e.QCFailed(level, via, reason):
            return f"Quality control failed; the client said by {_plain(via)}: {reason}. Back to {LEVEL_NAMES[level]}."
        case e.ResolutionDocumented(_, cause, actions, method):
            return f"Resolution documented. Cause: {cause} Actions: {actions} Checked by: {method}"
    return ""


def _ending_words(event: Event) -> str:
    match event:
        case e.Closed(level):
            return f"Closed after resolution by {LEVEL_NAMES[level]}."
        case e.ClosureEmailSent(_, message_id):
            return f"Closing e-mail {message_id} accepted by the mail server."
        case e.ClosureEmailFailed(_, message_id, attempts, reason):
            return f"Closing e-mail {message_id} could not be delivered (attempts: {attempts}): {reason}"
        case e.DossierCompiled(summary, digest, through):
            return f"Dossier of all activity up to version {through} compiled (SHA-256 {digest}): {summary}"
        case e.ClientApproved(digest, via):
            return f"Client approved dossier {digest} by {_plain(via)}."
        case e.ClientDeclined(digest, via, reason):
            return f"Client declined dossier {digest} by {_plain(via)}: {reason}"
        case e.ReturnedToLevel(from_level, to_level, reason):
            return f"Returned from {LEVEL_NAMES[from_level]} to {LEVEL_NAMES[to_level]}: {reason}"
        case e.NoteAdded(text, visibility):
            return f"Note ({visibility}): {text}"
        case e.PriorityChanged(impact, urgency, priority, reason):
            return f"Priority changed to {priority} (impact {impact}, urgency {urgency}): {reason}"
        case e.ClientAwaited(reason):
            return f"Waiting for the client: {reason}"
        case e.ClientResponded(text):
            return f"Client responded: {text}"
        case e.Cancelled(reason):
            return f"Cancelled: {reason}"
        case e.Reopened(level, reason):
            return f"Reopened, back to {LEVEL_NAMES[level]}: {reason}"
        case e.Linked(other, relation):
            return f"Linked: {_plain(relation)} {other}."
    return f"{event.stored_as}: {msgspec.json.encode(event).decode()}"


def _client_words(event: Event) -> str:
    match event:
        case Registered(user_id, name, email):
            return f"Client {name} registered with user ID {user_id} and e-mail address {email}."
        case ContactChanged(user_id, name, email):
            return f"Directory entry of {user_id} now reads {name}, {email}."
    return ""


def dossier_line(recorded: Recorded, client: str | None) -> str:
    """One line of a dossier: version, time, actor and role, words, and the hash of all that the event holds.

    The client of the ticket reads it: it has neither the desk's own notes nor whoever else was taken for the client.
    """
    digest = sha256(msgspec.json.encode(recorded, order="sorted")).hexdigest()
    by = f"{recorded.actor.name} ({recorded.actor.role})"
    when = f"{recorded.at:%Y-%m-%dT%H:%M:%S.%fZ}"
    event = recorded.event
    internal = isinstance(event, e.NoteAdded) and event.visibility is Visibility.INTERNAL
    other = isinstance(event, e.ClientIdentified) and event.client_user_id != client
    said = "Internal note added." if internal else "Client identified by mistake." if other else words(event)
    return f"{recorded.originator_version}. {when} {by}: {said} [sha256 {digest}]"


def _plain(word: str) -> str:
    return word.replace("_", " ")
