"""One struct for each step of the procedure: it is the body of the HTTP request, its validation, and its schema."""

from uuid import UUID

import msgspec

from application.commands.command import Command, Loaded, Opening
from application.commands.supporting_commands import SUPPORTING
from application.commands.text_types import Email, Sha256, SingleLine, Text, UserId
from domain import decisions
from domain.client import client_stream
from domain.events import Event
from domain.rules import Given
from domain.ticket import Issue, Ticket
from domain.values import Channel, Grade, Level, Sender
from domain.words import dossier_lines


class RequestSender(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who sent a request, as far as the channel tells."""

    name: SingleLine | None = None
    email: Email | None = None
    phone: SingleLine | None = None


class ReceiveRequest(Opening, frozen=True):
    """Step 1: a support request came in, from whomever."""

    name = "receive_request"
    channel: Channel
    text: Text
    sender: RequestSender

    def begin(self) -> Event:
        """RequestReceived."""
        sender = Sender(self.sender.name, self.sender.email, self.sender.phone)
        return decisions.receive_request(self.channel, self.text, sender)


class DocumentIssue(Command, frozen=True):
    """Step 4: what is wrong, how wide it reaches and how urgent it is."""

    name = "document_issue"
    summary: SingleLine
    description: Text
    category: SingleLine
    impact: Grade
    urgency: Grade

    def issue(self) -> Issue:
        """The issue in the domain's words."""
        return Issue(self.summary, self.description, self.category, self.impact, self.urgency)

    def decide(self, ticket: Ticket, given: Given, loaded: Loaded) -> list[Event]:
        """IssueDocumented."""
        return decisions.document_issue(ticket, given, self.issue())


class IdentifyClient(Command, frozen=True):
    """Step 2: the client, by the unique user ID."""

    name = "identify_client"
    client_user_id: UserId

    def reads(self) -> tuple[UUID, ...]:
        """The client's directory entry."""
        return (client_stream(self.client_user_id),)

    def decide(self, ticket: Ticket, given: Given, loaded: Loaded) -> list[Event]:
        """ClientIdentified."""
        return decisions.identify_client(ticket, given, loaded.client(self.client_user_id))


class CreateTicket(Command, frozen=True):
    """Step 3: the request becomes a ticket with a number."""

    name = "create"
    takes_number = True

    def decide(self, ticket: Ticket, given: Given, loaded: Loaded) -> list[Event]:
        """Created."""
        return decisions.create(ticket, given, loaded.number)


class RouteTicket(Command, frozen=True):
    """Step 4: to tier 1; step 16: to the NOC, upon client approval."""

    name = "route"
    to: Level | None = None

    def decide(self, ticket: Ticket, given: Given, loaded: Loaded) -> list[Event]:
        """Routed."""
        return decisions.route(ticket, given, self.to)


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

    def begin(self) -> Event:
        """RequestReceived."""
        return decisions.receive_request(self.channel, self.text, None)

    def then(self) -> tuple[Command, ...]:
        """ClientIdentified and Created, and with an issue IssueDocumented and Routed."""
        issue = (self.issue, RouteTicket()) if self.issue else ()
        return (IdentifyClient(self.client_user_id), CreateTicket(), *issue)


class QualifyTicket(Command, frozen=True):
    """Steps T1-4, 8, 12: can the issue be resolved here?"""

    name = "qualify"
    can_resolve: bool
    rationale: Text

    def decide(self, ticket: Ticket, given: Given, loaded: Loaded) -> list[Event]:
        """Qualified."""
        return decisions.qualify(ticket, given, self.can_resolve, self.rationale)


class EscalateTicket(Command, frozen=True):
    """Steps T1-4, 8, 12, 16: one rung up."""

    name = "escalate"
    reason: Text

    def decide(self, ticket: Ticket, given: Given, loaded: Loaded) -> list[Event]:
        """Escalated."""
        return decisions.escalate(ticket, given, self.reason)


class ResolveTicket(Command, frozen=True):
    """Steps T1-1, 5, 9, 13, 17: the issue is fixed."""

    name = "resolve"
    resolution: Text

    def decide(self, ticket: Ticket, given: Given, loaded: Loaded) -> list[Event]:
        """Resolved."""
        return decisions.resolve(ticket, given, self.resolution)


class VerifyTicket(Command, frozen=True):
    """Steps T1-2, 6, 10, 14, 18: is the client satisfied, how did the client say so, and in what words?"""

    name = "verify"
    satisfied: bool
    confirmed_via: Channel
    comment: Text

    def decide(self, ticket: Ticket, given: Given, loaded: Loaded) -> list[Event]:
        """QCVerified or QCFailed."""
        return decisions.verify(ticket, given, self.satisfied, self.confirmed_via, self.comment)


class DocumentResolution(Command, frozen=True):
    """Steps T1-3, 7, 11, 15, 19: the complete resolution details."""

    name = "document_resolution"
    cause: Text
    actions: Text
    checked_by_method: Text

    def decide(self, ticket: Ticket, given: Given, loaded: Loaded) -> list[Event]:
        """ResolutionDocumented."""
        return decisions.document_resolution(ticket, given, self.cause, self.actions, self.checked_by_method)


class CloseTicket(Command, frozen=True):
    """Steps T1-3, 7, 11, 15, 19: verified and documented, so it can be closed; the client gets an e-mail."""

    name = "close"

    def decide(self, ticket: Ticket, given: Given, loaded: Loaded) -> list[Event]:
        """Closed."""
        return decisions.close(ticket, given)


class CompileDossier(Command, frozen=True):
    """Step 16: the complete details of all activity so far, frozen for the client's approval."""

    name = "compile_dossier"
    needs_history = True
    summary: Text

    def decide(self, ticket: Ticket, given: Given, loaded: Loaded) -> list[Event]:
        """DossierCompiled."""
        lines = dossier_lines(loaded.history, ticket.client_user_id)
        return decisions.compile_dossier(ticket, given, self.summary, lines)


class ApproveDossier(Command, frozen=True):
    """Step 16: the client says yes to the dossier with this hash."""

    name = "approve"
    dossier_sha256: Sha256
    confirmed_via: Channel

    def decide(self, ticket: Ticket, given: Given, loaded: Loaded) -> list[Event]:
        """ClientApproved."""
        return decisions.approve(ticket, given, self.dossier_sha256, self.confirmed_via)


class DeclineDossier(Command, frozen=True):
    """Step 16: the client says no to the dossier with this hash, and why."""

    name = "decline"
    dossier_sha256: Sha256
    confirmed_via: Channel
    reason: Text

    def decide(self, ticket: Ticket, given: Given, loaded: Loaded) -> list[Event]:
        """ClientDeclined."""
        return decisions.decline(ticket, given, self.dossier_sha256, self.confirmed_via, self.reason)


STEP_COMMANDS: tuple[type[Command], ...] = (
    IdentifyClient,
    CreateTicket,
    DocumentIssue,
    RouteTicket,
    QualifyTicket,
    EscalateTicket,
    ResolveTicket,
    VerifyTicket,
    DocumentResolution,
    CloseTicket,
    CompileDossier,
    ApproveDossier,
    DeclineDossier,
)
COMMANDS: dict[str, type[Command]] = {command.name: command for command in (*STEP_COMMANDS, *SUPPORTING)}
OPENINGS: tuple[type[Opening], ...] = (ReceiveRequest, OpenTicket)
