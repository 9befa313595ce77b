"""Events in words, for the history, the dossier and the auditor."""

from collections.abc import Callable, Sequence
from enum import StrEnum
from hashlib import sha256
from typing import Any, NamedTuple

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


def _released(event: e.Released) -> str:
    return "Released by {assignee}." if event.reason is None else "Taken from {assignee}: {reason}"


def _reopened(event: e.Reopened) -> str:
    via = "" if event.confirmed_via is None else ", on the client's word by {confirmed_via}"
    return f"Reopened, back to {{level}}{via}: {{reason}}"


def _amended(event: e.IssueAmended) -> str:
    changed = (name for name in ("summary", "category", "description") if getattr(event, name) is not None)
    return "Issue amended: {reason}" + "".join(f" The {name} now reads: {{{name}}}" for name in changed)


# What happened, by the event's fields: a level by its name, another word of the procedure without its underscores.
SENTENCES: dict[type[Event], str | Callable[[Any], str]] = {
    e.RequestReceived: "Support request received by {channel}: {text}",
    e.ClientIdentified: "Client identified as {client_name} (user ID {client_user_id}).",
    e.Created: "Help desk ticket {number} created.",
    e.IssueDocumented: "Issue documented: {summary} ({category}; impact {impact}, urgency {urgency},"
    " priority {priority}). {description}",
    e.Routed: "Routed to {to}.",
    e.Assigned: "Assigned to {assignee}.",
    e.Released: _released,
    e.Qualified: "Qualified: {level} {can_resolve} resolve it. {rationale}",
    e.Escalated: "Escalated from {from_level} to {to_level}: {reason}",
    e.Resolved: "Resolved by {level}: {resolution}",
    e.QCVerified: "Quality control passed; the client confirmed by {confirmed_via}: {comment}",
    e.QCFailed: "Quality control failed; the client said by {confirmed_via}: {reason}. Back to {level}.",
    e.ResolutionDocumented: "Resolution documented. Cause: {cause} Actions: {actions} Checked by: {checked_by_method}",
    e.Closed: "Closed after resolution by {level}.",
    e.ClosureEmailSent: "Closing e-mail {message_id} accepted by the mail server.",
    e.ClosureEmailFailed: "Closing e-mail {message_id} could not be delivered (attempts: {attempts}): {reason}",
    e.DossierCompiled: "Dossier of all activity up to version {through_version} compiled (SHA-256 {sha256}): {summary}",
    e.ClientApproved: "Client approved dossier {dossier_sha256} by {confirmed_via}.",
    e.ClientDeclined: "Client declined dossier {dossier_sha256} by {confirmed_via}: {reason}",
    e.ReturnedToLevel: "Returned from {from_level} to {to_level}: {reason}",
    e.NoteAdded: "Note ({visibility}): {text}",
    e.PriorityChanged: "Priority changed to {priority} (impact {impact}, urgency {urgency}): {reason}",
    e.ClientAwaited: "Waiting for the client: {reason}",
    e.ClientResponded: "Client responded: {text}",
    e.Cancelled: "Cancelled: {reason}",
    e.Reopened: _reopened,
    e.Linked: "Linked: {relation} {other_ticket_id}.",
    e.ClientCorrected: "Client corrected to {client_name} (user ID {client_user_id}): {reason}",
    e.IssueAmended: _amended,
    Registered: "Client {name} registered with user ID {user_id} and e-mail address {email}.",
    ContactChanged: "Directory entry of {user_id} now reads {name}, {email}.",
}


def words(event: Event) -> str:
    """What happened, in a sentence without the time and the actor."""
    sentence = SENTENCES.get(type(event))
    if sentence is None:
        return f"{event.stored_as}: {msgspec.json.encode(event).decode()}"
    sentence = sentence if isinstance(sentence, str) else sentence(event)
    return sentence.format_map({field: _in_words(value) for field, value in msgspec.structs.asdict(event).items()})


def _in_words(value: object) -> object:
    match value:
        case Level():
            return LEVEL_NAMES[value]
        case StrEnum():
            return value.replace("_", " ")
        case bool():
            return "can" if value else "cannot"
    return value


def dossier_lines(history: Sequence[Recorded], client: str | None) -> tuple[str, ...]:
    """The lines of a dossier: version, time, actor and role, words, and the hash of all that the event holds.

    The client of the ticket reads them: they have neither the desk's own notes and links nor whoever else was taken for
    the client, nor what that one wrote. Such a line has no hash: who can guess a short text could prove it by that.
    """
    known = client_known(history)
    return tuple(_dossier_line(recorded, client, by_mistake(recorded, known)) for recorded in history)


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
        case e.ClientCorrected():
            return "Client corrected."
        case e.Linked():
            return "Linked to another ticket."
    return ""


# What the desk and whoever was taken for the client have said to each other: nothing for the client who it is now.
CORRESPONDENCE = (
    *(e.NoteAdded, e.ClientAwaited, e.ClientResponded, e.QCVerified, e.QCFailed, e.Reopened),
    *(e.DossierCompiled, e.ClientApproved, e.ClientDeclined, e.ClosureEmailSent, e.ClosureEmailFailed),
)


class ClientKnown(NamedTuple):
    """At which versions it was last said who the client is, and last corrected; 0 where these events do not say."""

    identified: int
    corrected: int


def client_known(history: Sequence[Recorded]) -> ClientKnown:
    """When it was last said in this history who the client is."""
    first = max((one.originator_version for one in history if isinstance(one.event, e.ClientIdentified)), default=0)
    corrected = max((one.originator_version for one in history if isinstance(one.event, e.ClientCorrected)), default=0)
    return ClientKnown(max(first, corrected), corrected)


def by_mistake(recorded: Recorded, known: ClientKnown) -> bool:
    """Whether it was said by, or to, who was taken for the client before it was known who the client is."""
    version = recorded.originator_version
    if version < known.corrected and isinstance(recorded.event, CORRESPONDENCE):
        return True
    return version < known.identified and recorded.actor.role is Role.CLIENT
