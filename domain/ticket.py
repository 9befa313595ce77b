"""The Ticket as its events make it. Evolution never refuses and never computes a decision."""

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
from msgspec.structs import replace

from domain import events as e
from domain.errors import UnknownTicket
from domain.procedure import DOSSIER_STANDS, queue_of, standing_after
from domain.values import Channel, Grade, Level, Priority, Qualification, Queue, Relation, Sender, State


class Issue(msgspec.Struct, frozen=True):
    """What is wrong, as documented in step 4."""

    summary: str
    description: str
    category: str
    impact: Grade
    urgency: Grade


class Resolution(msgspec.Struct, frozen=True):
    """The current resolution: which level fixed it, how, who said so and when."""

    level: Level
    text: str
    by: str
    at: datetime


class QualityControl(msgspec.Struct, frozen=True):
    """The last word of quality control, and how the client confirmed it."""

    satisfied: bool
    by: str
    at: datetime
    level: Level
    confirmed_via: Channel
    comment: str


class Details(msgspec.Struct, frozen=True):
    """The complete resolution details that closing demands."""

    cause: str
    actions: str
    checked_by_method: str
    by: str
    at: datetime


class Dossier(msgspec.Struct, frozen=True):
    """What the client approves: its hash, the version it covers, and the client's word so far."""

    sha256: str
    through_version: int
    at: datetime
    summary: str
    approved: bool | None = None


class Link(msgspec.Struct, frozen=True):
    """Another ticket that has to do with this one."""

    other_ticket_id: UUID
    relation: Relation


class Ticket(msgspec.Struct, frozen=True):
    """A ticket at one version. `level` is the level that holds it, or the one whose resolution is being checked."""

    ticket_id: UUID
    version: int
    state: State
    created_at: datetime
    updated_at: datetime
    channel: Channel
    text: str
    sender: Sender | None = None
    number: str | None = None
    client_user_id: str | None = None
    client_name: str | None = None
    level: Level | None = None
    qualification: Qualification | None = None
    issue: Issue | None = None
    priority: Priority | None = None
    assignee: str | None = None
    awaiting: str | None = None
    resolution: Resolution | None = None
    qc: QualityControl | None = None
    details: Details | None = None
    dossier: Dossier | None = None
    closed_at: datetime | None = None
    links: tuple[Link, ...] = ()
    escalations: int = 0

    @property
    def queue(self) -> Queue | None:
        """The queue that holds the ticket; None when it is closed or cancelled."""
        return queue_of(self.state, self.level)

    @property
    def waiting_on_client(self) -> bool:
        """Whether the level waits for the client's answer."""
        return self.awaiting is not None


class Snapshot(e.Event, frozen=True):
    """Stands in place of the event of its version, and of all before it: the ticket that they made."""

    stored_as = "Snapshot"
    ticket: Ticket


def fold(events: Iterable[e.Recorded]) -> Ticket | None:
    """The ticket that the events make, of which the first may be a snapshot; None when there are none."""
    ticket: Ticket | None = None
    skipped: e.Recorded | None = None  # the last one that only adds to the history: the next overwrites what it changes
    for recorded in events:
        if ticket is None:
            ticket = begin_ticket(recorded)
        elif type(recorded.event) in HISTORY_ONLY_EVENTS and ticket.state not in DOSSIER_STANDS:
            skipped = recorded
        else:
            ticket, skipped = evolve(ticket, recorded), None
    return evolve(ticket, skipped) if ticket and skipped else ticket


def begin_ticket(recorded: e.Recorded) -> Ticket:
    """The ticket after its first event. Raises UnknownTicket when the stream is not a ticket's."""
    event = recorded.event
    if isinstance(event, Snapshot):
        return event.ticket
    if not isinstance(event, e.RequestReceived):
        raise UnknownTicket
    return Ticket(
        ticket_id=recorded.originator_id,
        version=recorded.originator_version,
        state=State.RECEIVED,
        created_at=recorded.at,
        updated_at=recorded.at,
        channel=event.channel,
        text=event.text,
        sender=event.sender,
    )


def evolve(ticket: Ticket, recorded: e.Recorded) -> Ticket:
    """The ticket after one more event."""
    event = recorded.event
    change = CHANGES.get(type(event))
    changes = change(ticket, event, recorded) if change else {}
    state, level, qualification = standing_after((ticket.state, ticket.level, ticket.qualification), event)
    held = ticket.assignee is not None or ticket.awaiting is not None
    if held and queue_of(state, level) != ticket.queue:
        changes |= {"assignee": None, "awaiting": None}  # they last for one stay in a queue
    if state is State.DECIDING and ticket.state is not State.DECIDING:
        changes.setdefault("dossier", None)  # activity after the dossier: what the client saw is no longer all of it
    return replace(
        ticket,
        version=recorded.originator_version,
        updated_at=recorded.at,
        state=state,
        level=level,
        qualification=qualification,
        **changes,
    )


# What only adds to the history.
HISTORY_ONLY_EVENTS = frozenset({e.NoteAdded, e.ClosureEmailSent, e.ClosureEmailFailed})

# What an event changes beside state, level and qualification, which `procedure.standing_after` tells. An event that is
# not here changes nothing else.
Change = Callable[[Ticket, Any, e.Recorded], dict[str, Any]]
CHANGES: dict[type[e.Event], Change] = {
    e.ClientIdentified: lambda _, event, __: {"client_user_id": event.client_user_id, "client_name": event.client_name},
    e.ClientCorrected: lambda _, event, __: {
        "client_user_id": event.client_user_id,
        "client_name": event.client_name,
        "qc": None,  # it was not the client's word
        "dossier": None,
    },
    e.Created: lambda _, event, __: {"number": event.number},
    e.IssueDocumented: lambda _, event, __: {
        "issue": Issue(event.summary, event.description, event.category, event.impact, event.urgency),
        "priority": event.priority,
    },
    e.IssueAmended: lambda ticket, event, _: {"issue": ticket.issue and _amended(ticket.issue, event)},
    e.Assigned: lambda _, event, __: {"assignee": event.assignee},
    e.Released: lambda *_: {"assignee": None},
    e.Resolved: lambda _, event, on: {
        "resolution": Resolution(event.level, event.resolution, on.actor.id, on.at),
        "qc": None,
        "details": None,
    },
    e.QCVerified: lambda _, event, on: {"qc": _checked(on, event, True, event.comment)},
    e.QCFailed: lambda _, event, on: {"qc": _checked(on, event, False, event.reason)},
    e.ResolutionDocumented: lambda _, event, on: {
        "details": Details(event.cause, event.actions, event.checked_by_method, on.actor.id, on.at)
    },
    e.Closed: lambda _, __, on: {"closed_at": on.at},
    e.Reopened: lambda *_: {"closed_at": None},
    e.DossierCompiled: lambda _, event, on: {
        "dossier": Dossier(event.sha256, event.through_version, on.at, event.summary)
    },
    e.Escalated: lambda ticket, *_: {"escalations": ticket.escalations + 1},
    e.ReturnedToLevel: lambda *_: {"dossier": None},
    e.ClientApproved: lambda ticket, *_: {"dossier": ticket.dossier and replace(ticket.dossier, approved=True)},
    e.ClientDeclined: lambda ticket, *_: {"dossier": ticket.dossier and replace(ticket.dossier, approved=False)},
    e.PriorityChanged: lambda ticket, event, _: {
        "issue": ticket.issue and replace(ticket.issue, impact=event.impact, urgency=event.urgency),
        "priority": event.priority,
    },
    e.ClientAwaited: lambda _, event, __: {"awaiting": event.reason},
    e.ClientResponded: lambda *_: {"awaiting": None},
    e.Linked: lambda ticket, event, _: {"links": (*ticket.links, Link(event.other_ticket_id, event.relation))},
}


def _amended(issue: Issue, event: e.IssueAmended) -> Issue:
    changes = {"summary": event.summary, "description": event.description, "category": event.category}
    return replace(issue, **{name: text for name, text in changes.items() if text is not None})


def _checked(on: e.Recorded, event: e.QCVerified | e.QCFailed, satisfied: bool, comment: str) -> QualityControl:
    return QualityControl(satisfied, on.actor.id, on.at, event.level, event.confirmed_via, comment)
