"""The decisions: a ticket, what is wanted, and what is given, in; events out.

A decision that finds its wish already true returns no event. One that the procedure forbids raises the rule's error.
Nothing here reads a clock or changes anything. That a text says something is required before (`domain/text.py`).
"""

from msgspec.structs import asdict

from domain import errors
from domain import events as e
from domain.client import Client
from domain.procedure import DOSSIER_STANDS, NEXT_RUNG, RETURN_TARGETS
from domain.rules import Given, refusal_for, require_allowed, require_linkable
from domain.ticket import Issue, Link, Ticket
from domain.values import (
    PRIORITIES,
    Channel,
    DossierEntry,
    Grade,
    Level,
    Qualification,
    Queue,
    Relation,
    State,
    Visibility,
)
from domain.words import canonical_digest

Events = list[e.Event]


def identify_client(ticket: Ticket, given: Given, client: Client) -> Events:
    """Step 2: by the unique user ID. Another client may be named until the ticket is created."""
    if ticket.client_user_id == client.user_id:
        return []
    require_allowed("identify_client", ticket, given)
    return [e.ClientIdentified(client.user_id, client.name)]


def create(ticket: Ticket, given: Given, number: str) -> Events:
    """Step 3: the ticket gets its number."""
    if ticket.state is State.CREATED:
        return []
    require_allowed("create", ticket, given)
    return [e.Created(number)]


def document_issue(ticket: Ticket, given: Given, issue: Issue) -> Events:
    """Step 4: documented, and prioritised by impact and urgency. May be written anew until the ticket is routed."""
    if ticket.state is State.DOCUMENTED and ticket.issue == issue:
        return []
    require_allowed("document_issue", ticket, given)
    return [e.IssueDocumented(**asdict(issue), priority=PRIORITIES[issue.impact][issue.urgency])]


def route(ticket: Ticket, given: Given, to: Level | None) -> Events:
    """Step 4: to tier 1; step 16: to the NOC, once the client has approved the dossier."""
    if ticket.state is State.IN_SUPPORT and ticket.level in (Level.TIER1, Level.NOC) and to in (None, ticket.level):
        return []
    require_allowed("route", ticket, given)
    target = Level.NOC if ticket.state is State.APPROVED else Level.TIER1
    if to not in (None, target):
        raise refusal_for(errors.WrongRoute, ticket, given)
    return [e.Routed(target)]


def assign(ticket: Ticket, given: Given, assignee: str) -> Events:
    """Gives the ticket to somebody for its present stay in a queue."""
    if ticket.assignee == assignee:
        return []
    require_allowed("assign", ticket, given)
    return [e.Assigned(assignee)]


def claim_next(ticket: Ticket, given: Given, queue: Queue) -> Events:
    """Takes a ticket that nobody has out of a queue; nothing when somebody has it, or it has left the queue.

    A ticket whose dossier is with the client is left alone: to take it would void the dossier.
    """
    if ticket.assignee or ticket.queue is not queue or ticket.state in DOSSIER_STANDS:
        return []
    return [e.Assigned(given.who.id)]


def release(ticket: Ticket, given: Given) -> Events:
    """Frees the ticket for others of its queue."""
    require_allowed("release", ticket, given)
    return [e.Released(ticket.assignee)] if ticket.assignee else []


def take_back(ticket: Ticket, assignee: str, reason: str) -> Events:
    """The desk frees a ticket of who can work on it no more; not while a dossier stands, which it would void."""
    free = ticket.assignee == assignee and ticket.state not in DOSSIER_STANDS
    return [e.Released(assignee, reason)] if free else []


def qualify(ticket: Ticket, given: Given, can_resolve: bool, rationale: str) -> Events:
    """Steps T1-4, 8, 12: the verdict of the level that received the ticket."""
    verdict = Qualification.CAN_RESOLVE if can_resolve else Qualification.CANNOT_RESOLVE
    if ticket.state is State.IN_SUPPORT and ticket.qualification is verdict:
        return []
    require_allowed("qualify", ticket, given)
    return [e.Qualified(_level(ticket), can_resolve, rationale)]


def escalate(ticket: Ticket, given: Given, reason: str) -> Events:
    """Steps T1-4, 8, 12, 16: exactly one rung up."""
    require_allowed("escalate", ticket, given)
    level = _level(ticket)
    return [e.Escalated(level, NEXT_RUNG[level], reason)]


def resolve(ticket: Ticket, given: Given, resolution: str) -> Events:
    """Steps T1-1, 5, 9, 13, 17."""
    if ticket.state is State.RESOLVED and ticket.resolution and ticket.resolution.text == resolution:
        return []
    require_allowed("resolve", ticket, given)
    return [e.Resolved(_level(ticket), resolution)]


def verify(ticket: Ticket, given: Given, satisfied: bool, confirmed_via: Channel, comment: str) -> Events:
    """Steps T1-2, 6, 10, 14, 18: quality control, to the client's satisfaction."""
    if satisfied and ticket.state is State.VERIFIED:
        return []
    require_allowed("verify", ticket, given)
    verdict = e.QCVerified if satisfied else e.QCFailed
    return [verdict(_level(ticket), confirmed_via, comment)]


def document_resolution(ticket: Ticket, given: Given, cause: str, actions: str, checked_by_method: str) -> Events:
    """Steps T1-3, 7, 11, 15, 19: what closing demands."""
    require_allowed("document_resolution", ticket, given)
    known = ticket.details
    if known and (known.cause, known.actions, known.checked_by_method) == (cause, actions, checked_by_method):
        return []
    return [e.ResolutionDocumented(_level(ticket), cause, actions, checked_by_method)]


def close(ticket: Ticket, given: Given) -> Events:
    """Steps T1-3, 7, 11, 15, 19."""
    if ticket.state is State.CLOSED:
        return []
    require_allowed("close", ticket, given)
    return [e.Closed(_level(ticket))]


def compile_dossier(ticket: Ticket, given: Given, summary: str, entries: tuple[DossierEntry, ...]) -> Events:
    """Step 16: all activity so far, in words, under one hash."""
    if ticket.state in DOSSIER_STANDS and ticket.dossier and ticket.dossier.summary == summary:
        return []
    require_allowed("compile_dossier", ticket, given)
    return [e.DossierCompiled(summary, canonical_digest(entries), ticket.version, (), entries)]


def approve(ticket: Ticket, given: Given, dossier_sha256: str, confirmed_via: Channel) -> Events:
    """Step 16: the client's yes to the dossier as it stands."""
    if ticket.state is State.APPROVED and _names_dossier(ticket, dossier_sha256):
        return []
    require_allowed("approve", ticket, given)
    if not _names_dossier(ticket, dossier_sha256):
        raise refusal_for(errors.DossierMismatch, ticket, given)
    return [e.ClientApproved(dossier_sha256, confirmed_via)]


def decline(ticket: Ticket, given: Given, dossier_sha256: str, confirmed_via: Channel, reason: str) -> Events:
    """Step 16: the client's no; the IT manager decides again."""
    if ticket.state is State.DECIDING and _names_dossier(ticket, dossier_sha256):
        return []  # declining is the only way to a dossier that stands while the manager decides
    require_allowed("decline", ticket, given)
    if not _names_dossier(ticket, dossier_sha256):
        raise refusal_for(errors.DossierMismatch, ticket, given)
    return [e.ClientDeclined(dossier_sha256, confirmed_via, reason)]


def return_to_level(ticket: Ticket, given: Given, level: Level, reason: str) -> Events:
    """From the IT manager to a level, or from the NOC to the IT manager."""
    require_allowed("return_to_level", ticket, given)
    at_noc = ticket.state is State.IN_SUPPORT
    if level not in ({Level.IT_MANAGER} if at_noc else RETURN_TARGETS):
        raise refusal_for(errors.WrongLevel, ticket, given)
    return [e.ReturnedToLevel(_level(ticket), level, reason)]


def add_note(ticket: Ticket, given: Given, text: str, visibility: Visibility) -> Events:
    """Something worth writing down."""
    require_allowed("add_note", ticket, given)
    return [e.NoteAdded(text, visibility)]


def change_priority(ticket: Ticket, given: Given, impact: Grade, urgency: Grade, reason: str) -> Events:
    """Impact or urgency judged anew, with a reason."""
    require_allowed("change_priority", ticket, given)
    if ticket.issue and (ticket.issue.impact, ticket.issue.urgency) == (impact, urgency):
        return []
    return [e.PriorityChanged(impact, urgency, PRIORITIES[impact][urgency], reason)]


def await_client(ticket: Ticket, given: Given, reason: str) -> Events:
    """The level cannot go on without the client."""
    if ticket.awaiting == reason:
        return []
    require_allowed("await_client", ticket, given)
    return [e.ClientAwaited(reason)]


def client_responded(ticket: Ticket, given: Given, text: str) -> Events:
    """The answer that the level waited for."""
    require_allowed("client_responded", ticket, given)
    return [e.ClientResponded(text)]


def cancel(ticket: Ticket, given: Given, reason: str) -> Events:
    """The request is withdrawn."""
    if ticket.state is State.CANCELLED:
        return []
    require_allowed("cancel", ticket, given)
    return [e.Cancelled(reason)]


def reopen(ticket: Ticket, given: Given, reason: str, confirmed_via: Channel | None = None) -> Events:
    """Rule 9: to the level that resolved it; by the client, or on the client's word."""
    require_allowed("reopen", ticket, given)
    return [e.Reopened(_level(ticket), reason, confirmed_via)]


def link(ticket: Ticket, given: Given, other: Ticket, relation: Relation) -> Events:
    """This ticket has to do with another one. That two are related is said once, on either of them."""
    if other.ticket_id == ticket.ticket_id:
        raise errors.LinkToSelf
    said_there = relation is Relation.RELATED_TO and Link(ticket.ticket_id, relation) in other.links
    if said_there or Link(other.ticket_id, relation) in ticket.links:
        return []
    require_allowed("link", ticket, given)
    require_linkable(ticket, given, other, relation)
    return [e.Linked(other.ticket_id, relation)]


def correct_client(ticket: Ticket, given: Given, client: Client, reason: str) -> Events:
    """The ticket was taken for somebody else's. Once it is closed, that client has confirmed and been told."""
    if ticket.client_user_id == client.user_id:
        return []
    require_allowed("correct_client", ticket, given)
    return [e.ClientCorrected(client.user_id, client.name, reason)]


def amend_issue(
    ticket: Ticket,
    given: Given,
    reason: str,
    summary: str | None = None,
    description: str | None = None,
    category: str | None = None,
) -> Events:
    """The issue is another one than was written down; only what changes is recorded."""
    require_allowed("amend_issue", ticket, given)
    wanted = {"summary": summary, "description": description, "category": category}
    changes = {name: text for name, text in wanted.items() if text not in (None, getattr(ticket.issue, name))}
    return [e.IssueAmended(reason, **changes)] if changes else []


def _names_dossier(ticket: Ticket, dossier_sha256: str) -> bool:
    return ticket.dossier is not None and ticket.dossier.sha256 == dossier_sha256


def _level(ticket: Ticket) -> Level:
    """The level that holds the ticket. Every ticket that has left intake has one, and the state was checked before."""
    if ticket.level is None:
        raise LookupError(f"ticket {ticket.ticket_id} is {ticket.state} without a level")
    return ticket.level
