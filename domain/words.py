"""Events in words, for the history, the dossier and the auditor."""

from collections.abc import Iterable, Sequence
from enum import StrEnum
from hashlib import sha256

import msgspec

from domain import events as e
from domain.client import ContactChanged, Registered
from domain.events import DossierEntry, Event, Recorded
from domain.text import in_one_line
from domain.values import Level, Role
from domain.visibility import Audience, seen_by, sees_actor, sees_event

LEVEL_NAMES = {
    Level.TIER1: "Tier 1 Support",
    Level.TIER2: "Tier 2 Support",
    Level.TIER3: "Tier 3 Support",
    Level.ONSITE: "Onsite Support",
    Level.IT_MANAGER: "the IT Manager",
    Level.NOC: "the Network Operations Center",
}


# What happened, by the event's fields: a level by its name, another word of the procedure without its underscores.
SENTENCES: dict[type[Event], str] = {
    e.RequestReceived: "Support request received by {channel}: {text}",
    e.ClientIdentified: "Client identified as {client_name} (user ID {client_user_id}).",
    e.Created: "Help desk ticket {number} created.",
    e.IssueDocumented: "Issue documented: {summary} ({category}; impact {impact}, urgency {urgency},"
    " priority {priority}). {description}",
    e.Routed: "Routed to {to}.",
    e.Assigned: "Assigned to {assignee}.",
    e.Released: "Released by {assignee}.",
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
    e.Reopened: "Reopened, back to {level}: {reason}",
    e.Linked: "Linked: {relation} {other_ticket_id}.",
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
    settled = identified_at(history)
    return tuple(_dossier_entry(recorded, client, by_mistake(recorded, settled)) for recorded in history)


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


def identified_at(history: Iterable[Recorded]) -> int:
    """The version at which the client was last identified; 0 when these events do not say."""
    return max((one.originator_version for one in history if isinstance(one.event, e.ClientIdentified)), default=0)


def by_mistake(recorded: Recorded, settled: int) -> bool:
    """Whether somebody acted as the client who was taken for the client before `settled`, the last identification."""
    return recorded.actor.role is Role.CLIENT and recorded.originator_version < settled
