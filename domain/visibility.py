"""What each kind of reader sees of a ticket, an event, a list: one table, by the name of a field, for every shape.

So what is hidden in one shape is hidden in all. The staff, auditors and admins see everything. What has no row here is
seen by nobody else: a new field is hidden until somebody gives it a row.
"""

from enum import StrEnum
from functools import cache
from typing import Any, TypeVar

import msgspec
from msgspec.structs import replace

from domain import events as e
from domain.errors import Forbidden
from domain.events import Event
from domain.roles import STAFF, sees_only_own
from domain.values import Actor, Principal, Role, Visibility

Shape = TypeVar("Shape", bound=msgspec.Struct)


class Audience(StrEnum):
    """For whose eyes something is written."""

    STAFF = "staff"
    CLIENT = "client"  # of the ticket
    REPORTER = "reporter"  # figures, and no word that somebody wrote


NEITHER: frozenset[Audience] = frozenset()
CLIENTS = frozenset({Audience.CLIENT})
REPORTERS = frozenset({Audience.REPORTER})
BOTH = CLIENTS | REPORTERS

# field: who sees it beside the staff, wherever a field has this name
FIELDS_SEEN: dict[str, frozenset[Audience]] = {
    # the ticket and where it stands
    "ticket_id": BOTH,
    "number": BOTH,
    "version": BOTH,
    "state": BOTH,
    "level": BOTH,
    "queue": BOTH,
    "qualification": REPORTERS,  # a verdict of the desk
    "assignee": NEITHER,  # somebody of the desk, and a text that somebody typed
    "waiting_on_client": BOTH,
    "escalations": BOTH,
    "allowed_commands": BOTH,
    "links": NEITHER,  # other tickets may be other clients'
    "created_at": BOTH,
    "updated_at": BOTH,
    "closed_at": BOTH,
    "entered_at": BOTH,
    "incomplete_since": BOTH,
    # the client
    "client": CLIENTS,
    "client_user_id": BOTH,
    "client_name": CLIENTS,
    "user_id": CLIENTS,
    "name": CLIENTS,
    "email": CLIENTS,
    "phone": CLIENTS,
    "organisation": CLIENTS,
    "tickets": CLIENTS,
    # the request and the issue
    "channel": BOTH,
    "text": CLIENTS,
    "sender": CLIENTS,
    "issue": CLIENTS,
    "summary": CLIENTS,
    "description": CLIENTS,
    "category": BOTH,
    "impact": REPORTERS,
    "urgency": REPORTERS,
    "priority": REPORTERS,  # it follows from impact and urgency, and would tell them
    # the resolution and its proof
    "resolution": CLIENTS,
    "qc": CLIENTS,
    "details": CLIENTS,
    "satisfied": CLIENTS,
    "confirmed_via": CLIENTS,
    "comment": CLIENTS,
    "cause": CLIENTS,
    "actions": CLIENTS,
    "checked_by_method": CLIENTS,
    "by": NEITHER,  # somebody of the desk
    "at": CLIENTS,
    # the dossier
    "dossier": CLIENTS,
    "dossier_sha256": CLIENTS,
    "sha256": CLIENTS,
    "through_version": CLIENTS,
    "entries": CLIENTS,
    "lines": CLIENTS,  # of dossiers that were compiled before there were entries
    "approved": CLIENTS,
    # events and what they hold beside
    "position": CLIENTS,
    "type": CLIENTS,
    "actor": CLIENTS,  # of the desk's people the role alone: see `sees_actor`
    "step": CLIENTS,
    "data": CLIENTS,
    "words": CLIENTS,
    "to": CLIENTS,
    "from_level": CLIENTS,
    "to_level": CLIENTS,
    "reason": CLIENTS,
    "visibility": CLIENTS,
    "closed_version": CLIENTS,
    "message_id": CLIENTS,
    "attempts": CLIENTS,
    "correlation_id": CLIENTS,  # of the client's own deeds, as the actor's name: see `sees_actor`
    "causation_id": CLIENTS,
    # filters: whoever could search by what is hidden would find it out
    "q": CLIENTS,
    "unassigned": REPORTERS,
    "created_from": BOTH,
    "created_to": BOTH,
}

# The events that a client sees of an own ticket, beside the notes that are meant for the client: the steps. Not what
# happens inside the desk: assignments, verdicts, priorities, returns, links.
CLIENT_EVENTS_SEEN: frozenset[type[Event]] = frozenset({
    e.RequestReceived,
    e.ClientIdentified,
    e.Created,
    e.IssueDocumented,
    e.IssueAmended,
    e.Routed,
    e.Escalated,
    e.Resolved,
    e.QCVerified,
    e.QCFailed,
    e.ResolutionDocumented,
    e.Closed,
    e.ClosureEmailSent,
    e.DossierCompiled,
    e.ClientApproved,
    e.ClientDeclined,
    e.ClientAwaited,
    e.ClientResponded,
    e.Cancelled,
    e.Reopened,
})  # fmt: skip


def audience_of(who: Principal) -> Audience:
    """With whose eyes a caller reads what `sees_only_own` leaves to it: a client the own tickets."""
    return Audience.CLIENT if sees_only_own(who) else audience_of_all(who)


def audience_of_all(who: Principal) -> Audience:
    """With whose eyes a caller reads what is not of one client: queues."""
    return Audience.REPORTER if who.roles.isdisjoint(STAFF) else Audience.STAFF


def sees(audience: Audience, field: str) -> bool:
    """Whether this reader sees a field of that name."""
    return audience is Audience.STAFF or audience in FIELDS_SEEN.get(field, NEITHER)


def require_filters(audience: Audience, filters: msgspec.Struct, names: tuple[str, ...]) -> None:
    """Raises Forbidden when the reader filters by what it does not see."""
    for name in names:
        if getattr(filters, name) is not None and not sees(audience, name):
            others = sorted(FIELDS_SEEN.get(name, NEITHER))  # audiences are called as their roles
            raise Forbidden(f"for {name} one of the roles {', '.join([*STAFF, *others])}")


@cache
def hidden_fields(audience: Audience, shape: type[msgspec.Struct]) -> frozenset[str]:
    """The fields of a shape that this reader does not see."""
    return frozenset(name for name in shape.__struct_fields__ if not sees(audience, name))


def seen_by(audience: Audience, value: Shape) -> Shape:
    """The same with null for each field that the reader does not see, also in the structs that it holds."""
    if audience is Audience.STAFF:
        return value
    hidden = hidden_fields(audience, type(value))
    changes: dict[str, Any] = dict.fromkeys(hidden)
    for name in value.__struct_fields__:
        held = getattr(value, name)
        if name not in hidden and isinstance(held, msgspec.Struct):
            changes[name] = seen_by(audience, held)
    return replace(value, **changes)


def sees_actor(audience: Audience, actor: Actor) -> bool:
    """Whether this reader sees who did something: a client knows the desk by its roles, and nobody's name or id."""
    return audience is Audience.STAFF or (audience is Audience.CLIENT and actor.role is Role.CLIENT)


def sees_event(audience: Audience, event: Event, client_user_id: str | None) -> bool:
    """Whether an event is part of the history that this reader sees; `client_user_id` is the ticket's client.

    For clients no internal notes, nothing inside the desk, and not for whom the request was taken by mistake at first.
    """
    if audience is Audience.STAFF:
        return True
    match event:
        case e.NoteAdded(visibility=visibility):
            return audience is Audience.CLIENT and visibility is Visibility.CLIENT
        case e.ClientIdentified(client_user_id=identified) if identified != client_user_id:
            return False
    return audience is Audience.CLIENT and type(event) in CLIENT_EVENTS_SEEN
