"""One struct for each step of the procedure: it is the body of the HTTP request, its validation, and its schema."""

from typing import Any
from uuid import UUID

from msgspec.structs import asdict

from application.commands.command import Command, CommandTable, Loaded, Opening, decided_by
from application.commands.email_addresses import require_address
from application.commands.supporting_commands import SUPPORTING
from application.commands.text_types import Email, Reason, Sha256, SingleLine, Text, UserId, WithTexts
from domain import decisions
from domain import events as e
from domain.client import client_stream
from domain.ticket import Issue, Ticket
from domain.values import Channel, Grade, Level, Sender
from domain.words import dossier_entries


class RequestSender(WithTexts, frozen=True, forbid_unknown_fields=True):
    """Who sent a request, as far as the channel tells."""

    name: SingleLine | None = None
    email: Email | None = None
    phone: SingleLine | None = None

    def __post_init__(self) -> None:
        """Takes each text as its type says, and the address only when it can be one."""
        WithTexts.__post_init__(self)
        require_address("email", self.email)


class ReceiveRequest(Opening, frozen=True):
    """Step 1: a support request came in, from whomever."""

    name = "receive_request"
    channel: Channel
    text: Text
    sender: RequestSender

    def begin(self) -> e.RequestReceived:
        """RequestReceived."""
        return e.RequestReceived(self.channel, self.text, Sender(**asdict(self.sender)))


class DocumentIssue(Command, frozen=True):
    """Step 4: what is wrong, how wide it reaches and how urgent it is."""

    summary: SingleLine
    description: Text
    category: SingleLine
    impact: Grade
    urgency: Grade

    def takes(self, ticket: Ticket, loaded: Loaded) -> dict[str, Any]:
        """The fields as one issue."""
        return {"issue": Issue(**asdict(self))}


class IdentifyClient(Command, frozen=True):
    """Step 2: the client, by the unique user ID."""

    client_user_id: UserId

    def reads(self) -> tuple[UUID, ...]:
        """The client's directory entry."""
        return (client_stream(self.client_user_id),)

    def takes(self, ticket: Ticket, loaded: Loaded) -> dict[str, Any]:
        """The client's directory entry."""
        return {"client": loaded.client(self.client_user_id)}


class CreateTicket(Command, frozen=True):
    """Step 3: the request becomes a ticket with a number."""

    takes_number = True

    def takes(self, ticket: Ticket, loaded: Loaded) -> dict[str, Any]:
        """The number that was drawn."""
        return {"number": loaded.number}


class RouteTicket(Command, frozen=True):
    """Step 4: to tier 1; step 16: to the NOC, upon client approval."""

    to: Level | None = None


class OpenTicket(Opening, frozen=True):
    """Steps 1 to 3, and with `issue` step 4 too, in one go: for a desk that knows the client already."""

    name = "open_ticket"
    takes_number = True
    client_user_id: UserId
    channel: Channel
    text: Text
    issue: DocumentIssue | None = None

    def reads(self) -> tuple[UUID, ...]:
        """The client's directory entry."""
        return (client_stream(self.client_user_id),)

    def begin(self) -> e.RequestReceived:
        """RequestReceived."""
        return e.RequestReceived(self.channel, self.text)

    def then(self) -> tuple[Command, ...]:
        """ClientIdentified and Created, and with an issue IssueDocumented and Routed."""
        issue = (self.issue, RouteTicket()) if self.issue else ()
        return (IdentifyClient(self.client_user_id), CreateTicket(), *issue)


class QualifyTicket(Command, frozen=True):
    """Steps T1-4, 8, 12: can the issue be resolved here?"""

    can_resolve: bool
    rationale: Reason


class EscalateTicket(Command, frozen=True):
    """Steps T1-4, 8, 12, 16: one rung up."""

    reason: Reason


class ResolveTicket(Command, frozen=True):
    """Steps T1-1, 5, 9, 13, 17: the issue is fixed."""

    resolution: Text


class VerifyTicket(Command, frozen=True):
    """Steps T1-2, 6, 10, 14, 18: is the client satisfied, how did the client say so, and in what words?"""

    satisfied: bool
    confirmed_via: Channel
    comment: Reason


class DocumentResolution(Command, frozen=True):
    """Steps T1-3, 7, 11, 15, 19: the complete resolution details."""

    cause: Text
    actions: Text
    checked_by_method: Text


class CloseTicket(Command, frozen=True):
    """Steps T1-3, 7, 11, 15, 19: verified and documented, so it can be closed; the client gets an e-mail."""


class CompileDossier(Command, frozen=True):
    """Step 16: the complete details of all activity so far, frozen for the client's approval."""

    needs_history = True
    summary: Reason

    def takes(self, ticket: Ticket, loaded: Loaded) -> dict[str, Any]:
        """The entries of the dossier too."""
        return {"summary": self.summary, "entries": dossier_entries(loaded.history, ticket.client_user_id)}


class ApproveDossier(Command, frozen=True):
    """Step 16: the client says yes to the dossier with this hash."""

    dossier_sha256: Sha256
    confirmed_via: Channel


class DeclineDossier(Command, frozen=True):
    """Step 16: the client says no to the dossier with this hash, and why."""

    dossier_sha256: Sha256
    confirmed_via: Channel
    reason: Reason


STEP_COMMANDS: CommandTable = decided_by(
    (IdentifyClient, decisions.identify_client),
    (CreateTicket, decisions.create),
    (DocumentIssue, decisions.document_issue),
    (RouteTicket, decisions.route),
    (QualifyTicket, decisions.qualify),
    (EscalateTicket, decisions.escalate),
    (ResolveTicket, decisions.resolve),
    (VerifyTicket, decisions.verify),
    (DocumentResolution, decisions.document_resolution),
    (CloseTicket, decisions.close),
    (CompileDossier, decisions.compile_dossier),
    (ApproveDossier, decisions.approve),
    (DeclineDossier, decisions.decline),
)
COMMANDS: CommandTable = STEP_COMMANDS | SUPPORTING
