"""The commands beside the nineteen steps: assignment, notes, waiting, priority, and the ways out and back in."""

from uuid import UUID

import msgspec

from application.commands.command import Command, Loaded
from application.commands.text_types import Email, SingleLine, Text
from domain import decisions
from domain.client import Contact
from domain.errors import UnknownOther
from domain.events import Event
from domain.rules import Given
from domain.ticket import Ticket
from domain.values import Grade, Level, Queue, Relation, Role, Visibility


class AssignTicket(Command, frozen=True):
    """Takes the ticket, or gives it to somebody."""

    name = "assign"
    assignee: SingleLine | None = None

    def decide(self, ticket: Ticket, given: Given, loaded: Loaded) -> list[Event]:
        """Assigned."""
        return decisions.assign(ticket, given, self.assignee or given.who.id)


class ClaimNext(Command, frozen=True):
    """Takes the ticket if it is still in that queue and nobody has it."""

    name = "claim_next"
    queue: Queue

    def decide(self, ticket: Ticket, given: Given, loaded: Loaded) -> list[Event]:
        """Assigned, or nothing."""
        return decisions.claim(ticket, given, self.queue)


class ReleaseTicket(Command, frozen=True):
    """Frees the ticket for others of its queue."""

    name = "release"

    def decide(self, ticket: Ticket, given: Given, loaded: Loaded) -> list[Event]:
        """Released."""
        return decisions.release(ticket, given)


class ReturnToLevel(Command, frozen=True):
    """From the IT manager to a level, or from the NOC to the IT manager."""

    name = "return_to_level"
    level: Level
    reason: Text

    def decide(self, ticket: Ticket, given: Given, loaded: Loaded) -> list[Event]:
        """ReturnedToLevel."""
        return decisions.return_to_level(ticket, given, self.level, self.reason)


class AddNote(Command, frozen=True):
    """Something worth writing down; the client sees it only with visibility "client"."""

    name = "add_note"
    text: Text
    visibility: Visibility | None = None

    def decide(self, ticket: Ticket, given: Given, loaded: Loaded) -> list[Event]:
        """NoteAdded. What a client writes is visible to the client."""
        by_client = loaded.actor.role is Role.CLIENT
        visibility = Visibility.CLIENT if by_client else self.visibility or Visibility.INTERNAL
        return decisions.add_note(ticket, given, self.text, visibility)


class ChangePriority(Command, frozen=True):
    """Impact or urgency judged anew."""

    name = "change_priority"
    impact: Grade
    urgency: Grade
    reason: Text

    def decide(self, ticket: Ticket, given: Given, loaded: Loaded) -> list[Event]:
        """PriorityChanged."""
        return decisions.change_priority(ticket, given, self.impact, self.urgency, self.reason)


class AwaitClient(Command, frozen=True):
    """The level cannot go on without the client."""

    name = "await_client"
    reason: Text

    def decide(self, ticket: Ticket, given: Given, loaded: Loaded) -> list[Event]:
        """ClientAwaited."""
        return decisions.await_client(ticket, given, self.reason)


class ClientResponds(Command, frozen=True):
    """The answer that the level waited for."""

    name = "client_responded"
    text: Text

    def decide(self, ticket: Ticket, given: Given, loaded: Loaded) -> list[Event]:
        """ClientResponded."""
        return decisions.client_responded(ticket, given, self.text)


class CancelTicket(Command, frozen=True):
    """The request is withdrawn."""

    name = "cancel"
    reason: Text

    def decide(self, ticket: Ticket, given: Given, loaded: Loaded) -> list[Event]:
        """Cancelled."""
        return decisions.cancel(ticket, given, self.reason)


class ReopenTicket(Command, frozen=True):
    """The client says, within the window, that it is not fixed."""

    name = "reopen"
    reason: Text

    def decide(self, ticket: Ticket, given: Given, loaded: Loaded) -> list[Event]:
        """Reopened."""
        return decisions.reopen(ticket, given, self.reason)


class LinkTicket(Command, frozen=True):
    """This ticket has to do with another one."""

    name = "link"
    other_ticket_id: UUID
    relation: Relation

    def reads(self) -> tuple[UUID, ...]:
        """The other ticket, which has to exist."""
        return (self.other_ticket_id,)

    def decide(self, ticket: Ticket, given: Given, loaded: Loaded) -> list[Event]:
        """Linked."""
        if not loaded.has_ticket(self.other_ticket_id):
            raise UnknownOther
        return decisions.link(ticket, given, self.other_ticket_id, self.relation)


class RegisterClient(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A client's directory entry as it is to read."""

    name: SingleLine
    email: Email
    phone: SingleLine | None = None
    organisation: SingleLine | None = None

    def contact(self) -> Contact:
        """The entry in the domain's words."""
        return Contact(self.name, self.email, self.phone, self.organisation)


SUPPORTING: tuple[type[Command], ...] = (
    AssignTicket,
    ReleaseTicket,
    ReturnToLevel,
    AddNote,
    ChangePriority,
    AwaitClient,
    ClientResponds,
    CancelTicket,
    ReopenTicket,
    LinkTicket,
)
