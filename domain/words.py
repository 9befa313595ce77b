"""Events in words, for the history, the dossier and the auditor."""

from collections.abc import Callable, Sequence
from enum import StrEnum
from hashlib import sha256
from typing import Any, NamedTuple

import msgspec

from domain import events as e
from domain.client import ContactChanged, Registered
from domain.events import Event, Recorded
from domain.text import in_one_line
from domain.values import DossierEntry, Level, Role
from domain.visibility import Audience, seen_by, sees_actor, sees_event

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


# What clients are told in other words, since they do not see all of it.
CLIENT_SENTENCES: dict[type[Event], str] = {
    e.IssueDocumented: "Issue documented: {summary} ({category}). {description}",
}
# What a dossier, which the client reads, says of an event that the client does not see; of others that it was there.
WITHHELD: dict[type[Event], str] = {
    e.ClientIdentified: "Client identified by mistake.",
    e.Assigned: "Assigned.",
    e.Released: "Released.",
    e.Qualified: "Qualified.",
    e.ClosureEmailFailed: "Closing e-mail could not be delivered.",
    e.ReturnedToLevel: "Returned.",
    e.NoteAdded: "Internal note added.",
    e.PriorityChanged: "Priority changed.",
    e.Linked: "Linked to another ticket.",
    e.ClientCorrected: "Client corrected.",
}
WITHHELD_OTHERS = "Handled by the desk."


def words(event: Event, audience: Audience = Audience.STAFF) -> str:
    """What happened, in a sentence without the time and the actor, and without what the reader does not see.

    It is one line, whatever stands in a text.
    """
    seen, others = seen_by(audience, event), CLIENT_SENTENCES if audience is Audience.CLIENT else SENTENCES
    sentence = others.get(type(event)) or SENTENCES.get(type(event))
    if sentence is None:
        return in_one_line(f"{event.stored_as}: {msgspec.json.encode(seen).decode()}")
    sentence = sentence if isinstance(sentence, str) else sentence(seen)
    fields = {field: _in_words(value) for field, value in msgspec.structs.asdict(seen).items()}
    return in_one_line(sentence.format_map(fields))


def _in_words(value: object) -> object:
    match value:
        case Level():
            return LEVEL_NAMES[value]
        case StrEnum():
            return value.replace("_", " ")
        case bool():
            return "can" if value else "cannot"
    return value


def dossier_entries(history: Sequence[Recorded], client: str | None) -> tuple[DossierEntry, ...]:
    """The entries of a dossier: version, time, actor and role, words, and the hash of all that the event says.

    The client of the ticket reads them: of what the client does not see, of whoever else was taken for the client and
    of what that one wrote, they say that there was something. Such an entry has no hash: who can guess a short text
    could prove it by that. The people of the desk stand there by their roles.
    """
    known = client_known(history)
    return tuple(_dossier_entry(recorded, client, by_mistake(recorded, known)) for recorded in history)


def _dossier_entry(recorded: Recorded, client: str | None, mistaken: bool) -> DossierEntry:
    actor = recorded.actor
    seen = not mistaken and sees_event(Audience.CLIENT, recorded.event, client)
    withheld = "Said by mistake." if mistaken else WITHHELD.get(type(recorded.event), WITHHELD_OTHERS)
    name = in_one_line(actor.name) if sees_actor(Audience.CLIENT, actor) else str(actor.role)
    return DossierEntry(
        recorded.originator_version,
        f"{recorded.at:%Y-%m-%dT%H:%M:%S.%fZ}",
        "somebody else" if mistaken else name,
        actor.role,
        words(recorded.event, Audience.CLIENT) if seen else withheld,
        event_digest(recorded) if seen else None,
    )


def event_digest(recorded: Recorded) -> str:
    """The SHA-256 of what an event says, as the history shows it: canonical JSON of these members (RFC 8785)."""
    members = {
        "actor": recorded.actor,
        "at": recorded.at,
        "causation_id": recorded.causation_id,
        "correlation_id": recorded.correlation_id,
        "data": recorded.event,
        "ticket_id": recorded.originator_id,
        "type": recorded.type,
        "version": recorded.originator_version,
    }
    return canonical_digest(members)


def canonical_digest(value: object) -> str:
    """The SHA-256 of a value as canonical JSON (RFC 8785): keys sorted, no white space, UTF-8."""
    return sha256(msgspec.json.encode(value, order="sorted")).hexdigest()


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
