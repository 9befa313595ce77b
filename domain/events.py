"""Every event of a ticket, in the order of the procedure.

The names in `TICKET_EVENTS` are the storage format: never rename or reuse one.
A field may be added with a default; a change of meaning needs a new event.
"""

from datetime import datetime
from typing import ClassVar
from uuid import UUID

import msgspec

from domain.values import Actor, Channel, DossierEntry, Grade, Level, Priority, Relation, Sender, Visibility


class Event(msgspec.Struct, frozen=True):
    """Something that happened, in the past tense; `stored_as` is its name for ever."""

    stored_as: ClassVar[str]


class RequestReceived(Event, frozen=True):
    """Step 1: a support request came in."""

    channel: Channel
    text: str
    sender: Sender | None = None


class ClientIdentified(Event, frozen=True):
    """Step 2: the client is known by the unique user ID."""

    client_user_id: str
    client_name: str


class Created(Event, frozen=True):
    """Step 3: the ticket exists and has its number."""

    number: str


class IssueDocumented(Event, frozen=True):
    """Step 4: what is wrong, how wide it reaches and how urgent it is."""

    summary: str
    description: str
    category: str
    impact: Grade
    urgency: Grade
    priority: Priority


class Routed(Event, frozen=True):
    """Step 4 (to tier 1) or step 16 (to the NOC, upon client approval)."""

    to: Level


class Assigned(Event, frozen=True):
    """Somebody took the ticket, or was given it, for its present stay in a queue."""

    assignee: str


class Released(Event, frozen=True, omit_defaults=True):
    """The ticket is free for others of its queue again; with a reason where the desk did it."""

    assignee: str
    reason: str | None = None


class Qualified(Event, frozen=True):
    """Steps T1-4, 8, 12: the receiving level says whether it can resolve the issue."""

    level: Level
    can_resolve: bool
    rationale: str


class Escalated(Event, frozen=True):
    """Steps T1-4, 8, 12, 16: one rung up."""

    from_level: Level
    to_level: Level
    reason: str


class Resolved(Event, frozen=True):
    """Steps T1-1, 5, 9, 13, 17: the level says that the issue is fixed."""

    level: Level
    resolution: str


class QCVerified(Event, frozen=True):
    """Steps T1-2, 6, 10, 14, 18: resolved to the client's satisfaction."""

    level: Level
    confirmed_via: Channel
    comment: str


class QCFailed(Event, frozen=True):
    """Steps T1-2, 6, 10, 14, 18: the client is not satisfied; back to the level that resolved."""

    level: Level
    confirmed_via: Channel
    reason: str


class ResolutionDocumented(Event, frozen=True):
    """Steps T1-3, 7, 11, 15, 19: the complete details of the resolution."""

    level: Level
    cause: str
    actions: str
    checked_by_method: str


class Closed(Event, frozen=True):
    """Steps T1-3, 7, 11, 15, 19: done; the client gets an e-mail."""

    level: Level


class ClosureEmailSent(Event, frozen=True):
    """The closing e-mail was accepted by the mail server."""

    closed_version: int
    message_id: str
    attempts: int


class ClosureEmailFailed(Event, frozen=True):
    """The mail server refused the closing e-mail for good."""

    closed_version: int
    message_id: str
    attempts: int
    reason: str


class DossierCompiled(Event, frozen=True, omit_defaults=True):
    """Step 16: the complete details of all activity up to `through_version`, frozen for the client's approval.

    `sha256` is the hash of `entries` as canonical JSON; up to version 0.2, of `lines`, joined by newlines, in UTF-8.
    """

    summary: str
    sha256: str
    through_version: int
    lines: tuple[str, ...]
    entries: tuple[DossierEntry, ...] = ()


class ClientApproved(Event, frozen=True):
    """Step 16: the client approves the dossier named by its hash."""

    dossier_sha256: str
    confirmed_via: Channel


class ClientDeclined(Event, frozen=True):
    """Step 16: the client does not approve; the IT manager decides again."""

    dossier_sha256: str
    confirmed_via: Channel
    reason: str


class ReturnedToLevel(Event, frozen=True):
    """The IT manager gives the ticket back to a level, or the NOC gives it back to the IT manager."""

    from_level: Level
    to_level: Level
    reason: str


class NoteAdded(Event, frozen=True):
    """Somebody wrote something down."""

    text: str
    visibility: Visibility


class PriorityChanged(Event, frozen=True):
    """Impact or urgency was judged anew."""

    impact: Grade
    urgency: Grade
    priority: Priority
    reason: str


class ClientAwaited(Event, frozen=True):
    """The level waits for the client."""

    reason: str


class ClientResponded(Event, frozen=True):
    """The client answered; the level goes on."""

    text: str


class Cancelled(Event, frozen=True):
    """The request is withdrawn."""

    reason: str


class Reopened(Event, frozen=True, omit_defaults=True):
    """The client says, within the window, that it is not fixed: back to the level that resolved."""

    level: Level
    reason: str
    confirmed_via: Channel | None = None


class Linked(Event, frozen=True):
    """This ticket has to do with another one."""

    other_ticket_id: UUID
    relation: Relation


class ClientCorrected(Event, frozen=True):
    """The ticket was taken for somebody else's: from now on it is this client's."""

    client_user_id: str
    client_name: str
    reason: str


class IssueAmended(Event, frozen=True, omit_defaults=True):
    """The issue reads differently from now on; what stays as it was is not given."""

    reason: str
    summary: str | None = None
    description: str | None = None
    category: str | None = None


TICKET_EVENTS: dict[str, type[Event]] = {
    "Ticket.RequestReceived": RequestReceived,
    "Ticket.ClientIdentified": ClientIdentified,
    "Ticket.Created": Created,
    "Ticket.IssueDocumented": IssueDocumented,
    "Ticket.Routed": Routed,
    "Ticket.Assigned": Assigned,
    "Ticket.Released": Released,
    "Ticket.Qualified": Qualified,
    "Ticket.Escalated": Escalated,
    "Ticket.Resolved": Resolved,
    "Ticket.QCVerified": QCVerified,
    "Ticket.QCFailed": QCFailed,
    "Ticket.ResolutionDocumented": ResolutionDocumented,
    "Ticket.Closed": Closed,
    "Ticket.ClosureEmailSent": ClosureEmailSent,
    "Ticket.ClosureEmailFailed": ClosureEmailFailed,
    "Ticket.DossierCompiled": DossierCompiled,
    "Ticket.ClientApproved": ClientApproved,
    "Ticket.ClientDeclined": ClientDeclined,
    "Ticket.ReturnedToLevel": ReturnedToLevel,
    "Ticket.NoteAdded": NoteAdded,
    "Ticket.PriorityChanged": PriorityChanged,
    "Ticket.ClientAwaited": ClientAwaited,
    "Ticket.ClientResponded": ClientResponded,
    "Ticket.Cancelled": Cancelled,
    "Ticket.Reopened": Reopened,
    "Ticket.Linked": Linked,
    "Ticket.ClientCorrected": ClientCorrected,
    "Ticket.IssueAmended": IssueAmended,
}
for _name, _event in TICKET_EVENTS.items():
    _event.stored_as = _name


class Recorded(msgspec.Struct, frozen=True):
    """An event as it stands in its stream: what happened, when, by whom, and what led to it.

    `originator_id` and `originator_version` (1, 2, 3 …) are the eventsourcing library's names of stream and place.
    """

    originator_id: UUID
    originator_version: int
    at: datetime
    actor: Actor
    event: Event
    correlation_id: str | None = None
    causation_id: str | None = None
    traceparent: str | None = None
    level: Level | None = None  # the ticket's after the event, or that of the closing whose mail's outcome it is

    @property
    def type(self) -> str:
        """The stored name, `Ticket.Escalated`."""
        return self.event.stored_as
