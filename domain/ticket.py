"""The Ticket as its events make it. Evolution never refuses and never computes a decision."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from domain import events as e
from domain.errors import UnknownTicket
from domain.procedure import queue_of, standing_after
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


def fold(events: Iterable[e.Recorded]) -> Ticket | None:
    """The ticket that the events make; None when there are none."""
    ticket: Ticket | None = None
    for recorded in events:
        ticket = begin(recorded) if ticket is None else evolve(ticket, recorded)
    return ticket


def begin(recorded: e.Recorded) -> Ticket:
    """The ticket after its first event. Raises UnknownTicket when the stream is not a ticket's."""
    event = recorded.event
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
    changes = _changes(ticket, recorded)
    state, level, qualification = standing_after(ticket, recorded.event)
    if queue_of(state, level) != ticket.queue:  # an assignment and a wait last for one stay in a queue
        changes.update(assignee=None, awaiting=None)
    if ticket.dossier and state is State.DECIDING and ticket.state is not State.DECIDING and "dossier" not in changes:
        changes["dossier"] = None  # activity after the dossier: what the client saw is no longer all of it
    return msgspec.structs.replace(
        ticket,
        version=recorded.originator_version,
        updated_at=recorded.at,
        state=state,
        level=level,
        qualification=qualification,
        **changes,
    )


def _changes(ticket: Ticket, recorded: e.Recorded) -> dict[str, Any]:
    """What an event changes beside state, level and qualification, which `procedure.standing_after` tells."""
    by, at = recorded.actor.id, recorded.at
    match recorded.event:
        case e.ClientIdentified(user_id, name):
            return {"client_user_id": user_id, "client_name": name}
        case e.Created(number):
            return {"number": number}
        case e.IssueDocumented(summary, description, category, impact, urgency, priority):
            return {"issue": Issue(summary, description, category, impact, urgency), "priority": priority}
        case e.Assigned(assignee):
            return {"assignee": assignee}
        case e.Released():
            return {"assignee": None}
        case e.Resolved(level, resolution):
            return {"resolution": Resolution(level, resolution, by, at), "qc": None, "details": None}
        case e.QCVerified(level, confirmed_via, comment):
            return {"qc": QualityControl(True, by, at, level, confirmed_via, comment)}
        case e.QCFailed(level, confirmed_via, reason):
            return {"qc": QualityControl(False, by, at, level, confirmed_via, reason)}
        case e.ResolutionDocumented(_, cause, actions, method):
            return {"details": Details(cause, actions, method, by, at)}
        case e.Closed():
            return {"closed_at": at}
        case e.Reopened():
            return {"closed_at": None}
        case e.DossierCompiled(summary, sha256, through_version):
            return {"dossier": Dossier(sha256, through_version, at, summary)}
        case e.Escalated():
            return {"escalations": ticket.escalations + 1}
        case e.ReturnedToLevel():
            return {"dossier": None}
        case e.ClientApproved() if ticket.dossier:
            return {"dossier": msgspec.structs.replace(ticket.dossier, approved=True)}
        case e.ClientDeclined() if ticket.dossier:
            return {"dossier": msgspec.structs.replace(ticket.dossier, approved=False)}
        case e.PriorityChanged(impact, urgency, priority) if ticket.issue:
            return {
                "issue": msgspec.structs.replace(ticket.issue, impact=impact, urgency=urgency),
                "priority": priority,
            }
        case e.ClientAwaited(reason):
            return {"awaiting": reason}
        case e.ClientResponded():
            return {"awaiting": None}
        case e.Linked(other, relation):
            return {"links": (*ticket.links, Link(other, relation))}
    return {}
