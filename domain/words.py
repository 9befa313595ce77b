"""Events in words, for the history, the dossier and the auditor."""

from collections.abc import Iterable, Sequence
from hashlib import sha256

import msgspec

from domain import events as e
from domain.client import ContactChanged, Registered
from domain.events import Event, Recorded
from domain.values import Level, Role, Visibility

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


def dossier_lines(history: Sequence[Recorded], client: str | None) -> tuple[str, ...]:
    """The lines of a dossier: version, time, actor and role, words, and the hash of all that the event holds.

    The client of the ticket reads them: they have neither the desk's own notes and links nor whoever else was taken for
    the client, nor what that one wrote. Such a line has no hash: who can guess a short text could prove it by that.
    """
    settled = identified_at(history)
    return tuple(_dossier_line(recorded, client, by_mistake(recorded, settled)) for recorded in history)


def _dossier_line(recorded: Recorded, client: str | None, mistaken: bool) -> str:
    actor = recorded.actor
    by = f"somebody else ({actor.role})" if mistaken else f"{actor.name} ({actor.role})"
    head = f"{recorded.originator_version}. {recorded.at:%Y-%m-%dT%H:%M:%S.%fZ} {by}: "
    if withheld := "Said by mistake." if mistaken else _withheld(recorded.event, client):
        return f"{head}{withheld} [withheld]"
    digest = sha256(msgspec.json.encode(recorded, order="sorted")).hexdigest()
    return f"{head}{words(recorded.event)} [sha256 {digest}]"


def _withheld(event: Event, client: str | None) -> str:
    """What is said of an event that the client does not read; nothing where it is read."""
    match event:
        case e.NoteAdded(visibility=Visibility.INTERNAL):
            return "Internal note added."
        case e.ClientIdentified(client_user_id=identified) if identified != client:
            return "Client identified by mistake."
        case e.Linked():
            return "Linked to another ticket."
    return ""


def identified_at(history: Iterable[Recorded]) -> int:
    """The version at which the client was last identified; 0 when these events do not say."""
    return max((one.originator_version for one in history if isinstance(one.event, e.ClientIdentified)), default=0)


def by_mistake(recorded: Recorded, settled: int) -> bool:
    """Whether somebody acted as the client who was taken for the client before `settled`, the last identification."""
    return recorded.actor.role is Role.CLIENT and recorded.originator_version < settled


def _plain(word: str) -> str:
    return word.replace("_", " ")
