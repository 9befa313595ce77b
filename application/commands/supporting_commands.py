"""The commands beside the nineteen steps: assignment, notes, waiting, priority, and the ways out and back in."""

from typing import Any
from uuid import UUID

from msgspec.structs import asdict

from application.commands.command import Command, CommandTable, Loaded, decided_by
from application.commands.email_addresses import require_address
from application.commands.text_types import Email, Identifier, Reason, SingleLine, Text, UserId, WithTexts
from domain import decisions
from domain.client import Contact, client_stream
from domain.errors import ConfirmationMissing
from domain.roles import require_assignee
from domain.ticket import Ticket
from domain.values import Channel, Grade, Level, Principal, Queue, Relation, Role, Visibility


class AssignTicket(Command, frozen=True):
    """Takes the ticket, or gives it to somebody."""

    assignee: Identifier | None = None

    def names(self, who: Principal) -> str | None:
        """Whoever is not the caller."""
        return None if self.assignee == who.id else self.assignee

    def takes(self, ticket: Ticket, loaded: Loaded) -> dict[str, Any]:
        """Who asks, where nobody else is named.

        Raises UnknownAssignee and AssigneeLacksRole for another one, who must be able to work on the ticket.
        """
        assignee = self.assignee or loaded.given.who.id
        if ticket.queue and assignee not in (loaded.given.who.id, ticket.assignee):
            require_assignee(loaded.assignee, ticket.queue)
        return {"assignee": assignee}


class ClaimNext(Command, frozen=True):
    """Takes the ticket if it is still in that queue and nobody has it."""

    name, decision = "claim_next", decisions.claim_next
    queue: Queue


class ReleaseTicket(Command, frozen=True):
    """Frees the ticket for others of its queue."""


class ReturnToLevel(Command, frozen=True):
    """From the IT manager to a level, or from the NOC to the IT manager."""

    level: Level
    reason: Reason


class AddNote(Command, frozen=True):
    """Something worth writing down; the client sees it only with visibility "client"."""

    text: Text
    visibility: Visibility | None = None

    def takes(self, ticket: Ticket, loaded: Loaded) -> dict[str, Any]:
        """What a client writes is visible to the client."""
        by_client = loaded.actor.role is Role.CLIENT
        visibility = Visibility.CLIENT if by_client else self.visibility or Visibility.INTERNAL
        return {"text": self.text, "visibility": visibility}


class ChangePriority(Command, frozen=True):
    """Impact or urgency judged anew."""

    impact: Grade
    urgency: Grade
    reason: Reason


class AwaitClient(Command, frozen=True):
    """The level cannot go on without the client."""

    reason: Reason


class RecordClientResponse(Command, frozen=True):
    """The answer that the level waited for."""

    text: Text


class CancelTicket(Command, frozen=True):
    """The request is withdrawn."""

    reason: Reason


class ReopenTicket(Command, frozen=True):
    """The client says, within the window, that it is not fixed; others say how the client said so."""

    reason: Reason
    confirmed_via: Channel | None = None

    def takes(self, ticket: Ticket, loaded: Loaded) -> dict[str, Any]:
        """The fields. Raises ConfirmationMissing where somebody else than the client does not name the channel."""
        if self.confirmed_via is None and loaded.actor.role is not Role.CLIENT:
            raise ConfirmationMissing
        return asdict(self)


class LinkTicket(Command, frozen=True):
    """This ticket has to do with another one."""

    other_ticket_id: UUID
    relation: Relation

    def reads(self) -> tuple[UUID, ...]:
        """The other ticket, which has to exist."""
        return (self.other_ticket_id,)

    def takes(self, ticket: Ticket, loaded: Loaded) -> dict[str, Any]:
        """The other ticket. Raises UnknownOther."""
        return {"other": loaded.ticket(self.other_ticket_id), "relation": self.relation}


class CorrectClient(Command, frozen=True):
    """The ticket was taken for somebody else's: another client is the ticket's from now on."""

    client_user_id: UserId
    reason: Reason

    def reads(self) -> tuple[UUID, ...]:
        """The client's directory entry."""
        return (client_stream(self.client_user_id),)

    def takes(self, ticket: Ticket, loaded: Loaded) -> dict[str, Any]:
        """The client's directory entry, and the reason. Raises UnknownClient."""
        return {"client": loaded.client(self.client_user_id), "reason": self.reason}


class AmendIssue(Command, frozen=True):
    """The issue is another one than was written down: summary, description or category, whatever has to change."""

    reason: Reason
    summary: SingleLine | None = None
    description: Text | None = None
    category: SingleLine | None = None


class RegisterClient(WithTexts, frozen=True, forbid_unknown_fields=True):
    """A client's directory entry as it is to read."""

    name: SingleLine
    email: Email
    phone: SingleLine | None = None
    organisation: SingleLine | None = None

    def __post_init__(self) -> None:
        """Takes each text as its type says, and the address only when it can be one."""
        WithTexts.__post_init__(self)
        require_address("email", self.email)

    def contact(self) -> Contact:
        """The entry in the domain's words."""
        return Contact(**asdict(self))


SUPPORTING: CommandTable = decided_by(
    (AssignTicket, decisions.assign),
    (ReleaseTicket, decisions.release),
    (ReturnToLevel, decisions.return_to_level),
    (AddNote, decisions.add_note),
    (ChangePriority, decisions.change_priority),
    (AwaitClient, decisions.await_client),
    (RecordClientResponse, decisions.client_responded),
    (CancelTicket, decisions.cancel),
    (ReopenTicket, decisions.reopen),
    (LinkTicket, decisions.link),
    (CorrectClient, decisions.correct_client),
    (AmendIssue, decisions.amend_issue),
)
