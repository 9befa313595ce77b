"""One class for each way in which the procedure says no. Its docstring is its message, `code` its name for ever: in
the contract it stands in snake case, so a class is renamed only with a `code` that keeps the old one.

DeskError
├── Refused                 the procedure forbids it: `step` is what is missing, `possible` what can be done now
│   ├── ClientNotIdentified, NotCreated, IssueNotDocumented, NotRouted          steps 2, 3, 4 come first
│   ├── StepAlreadyDone, AlreadyResolved, AlreadyQualified, AlreadyApproved     too late
│   ├── TicketClosed, TicketCancelled, NotClosed, ReopenWindowOver              the end, and after it
│   ├── NotQualified, CannotResolveHere, NoQualificationHere, NoLevelAbove      the ladder
│   ├── NotResolved, NotVerified, DetailsMissing, FourEyes                      quality control and closing
│   ├── AtDecisionPoint, NotAtDecisionPoint, NoCurrentDossier, DossierMismatch, NotApproved   the IT manager
│   ├── AlreadyDuplicate, OtherIsDuplicate, CircularLink, FollowsLater, TooManyLinks          links
│   └── ClientNotAwaited, WrongRoute, WrongLevel, TicketElsewhere
├── Unacceptable            well-formed, but it cannot be meant: UnknownClient, LinkToSelf, UnknownOther,
│   │                       ConfirmationMissing, UnknownAssignee, AssigneeLacksRole
│   └── TextFault           BlankText, UnfitText
├── Forbidden, NotFound     a role, a level or a client is lacking; UnknownTicket, UnknownUserId
└── StaleVersion            somebody else came first
"""

import re
from typing import ClassVar
from uuid import UUID

from domain.events import Recorded


class DeskError(Exception):
    """The desk cannot do that."""

    code: ClassVar[str] = "error"

    def __init_subclass__(cls) -> None:
        if "code" not in vars(cls):
            cls.code = re.sub(r"\B[A-Z]", r"_\g<0>", cls.__name__).lower()

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (type(self).__doc__ or "").strip())

    @property
    def detail(self) -> str:
        """What is wrong and what to do about it, for people."""
        return str(self)


class Refused(DeskError):
    """The procedure does not allow that now."""

    def __init__(self, message: str | None = None, step: str | None = None, possible: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.step = step
        self.possible = possible


class ClientNotIdentified(Refused):
    """The client of this request is not identified yet: identify the client by the unique user ID first."""


class NotCreated(Refused):
    """The ticket is not created yet: create it first."""


class IssueNotDocumented(Refused):
    """The issue is not documented yet: document it first."""


class NotRouted(Refused):
    """The ticket is not with Support yet: route it to tier 1 first."""


class StepAlreadyDone(Refused):
    """This step of the procedure lies behind the ticket."""


class AlreadyResolved(Refused):
    """The ticket is resolved: quality control or closing comes next."""


class AlreadyQualified(Refused):
    """This level has given its verdict: after "can resolve" resolve or escalate, after "cannot resolve" escalate."""


class AlreadyApproved(Refused):
    """The client has approved the dossier: route the ticket to the NOC."""


class TicketClosed(Refused):
    """The ticket is closed: reopen it, or create a new ticket and link it as a follow-up."""


class TicketCancelled(Refused):
    """The ticket is cancelled: create a new ticket and link it as a follow-up."""


class NotClosed(Refused):
    """Only a closed ticket can be reopened."""


class ReopenWindowOver(Refused):
    """The reopen window is over: create a new ticket and link it as a follow-up."""


class NotQualified(Refused):
    """This level has not qualified the issue yet: say first whether it can be resolved here."""


class CannotResolveHere(Refused):
    """This level said that it cannot resolve the issue: the only way is up."""


class NoQualificationHere(Refused):
    """Only tier 2, tier 3 and onsite qualify an issue."""


class NoLevelAbove(Refused):
    """There is no level above the NOC: resolve the issue, or return the ticket to the IT manager."""


class NotResolved(Refused):
    """The ticket is not resolved yet."""


class NotVerified(Refused):
    """The resolution has not passed quality control yet."""


class DetailsMissing(Refused):
    """The complete resolution details are missing: document cause, actions and how the result was checked."""


class FourEyes(Refused):
    """Quality control is done by somebody other than the resolver."""


class AtDecisionPoint(Refused):
    """The ticket is with the IT manager, who decides and never resolves."""


class NotAtDecisionPoint(Refused):
    """The ticket is not with the IT manager."""


class NoCurrentDossier(Refused):
    """There is no dossier that covers all activity so far: the IT manager compiles it (again) first."""


class DossierMismatch(Refused):
    """That is not the hash of the dossier as it stands: read the dossier and name its hash."""


class NotApproved(Refused):
    """The client has not approved the dossier: the NOC gets a ticket only upon client approval."""


class ClientNotAwaited(Refused):
    """Nobody waits for the client here: add a note instead."""


class WrongRoute(Refused):
    """A documented ticket is routed to tier1, an approved one to noc."""


class WrongLevel(Refused):
    """The IT manager returns a ticket to tier1, tier2, tier3 or onsite; the NOC returns it to it_manager."""


class TicketElsewhere(Refused):
    """The ticket does not stand where your role gives this command."""


class AlreadyDuplicate(Refused):
    """This ticket is a duplicate of another one already, and of one only."""


class OtherIsDuplicate(Refused):
    """The other ticket is a duplicate itself: link this one to the ticket that it is a duplicate of."""


class CircularLink(Refused):
    """The other ticket is a duplicate of this one: that would be a circle."""


class FollowsLater(Refused):
    """A follow-up came in after the ticket that it follows: link the later one of the two to the earlier one."""


class TooManyLinks(Refused):
    """This ticket has as many links as a ticket can have."""


class Unacceptable(DeskError):
    """The request is well-formed, but it cannot be meant."""

    pointer: str | None = None


class TextFault(Unacceptable, ValueError):
    """A text cannot be taken as it is. A ValueError, so that whoever decodes a body learns where it stands."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field} {reason}.")
        self.field, self.reason, self.pointer = field, reason, f"/{field}"


class BlankText(TextFault):
    """A text that must say something is blank."""

    def __init__(self, field: str) -> None:
        super().__init__(field, "must not be blank: say it in words")


class UnfitText(TextFault):
    """A text holds characters that cannot stand there, or too many."""


class UnknownClient(Unacceptable):
    """No client has that user ID: register the client with PUT /v1/clients/{user_id} first."""

    pointer = "/client_user_id"


class UnknownAssignee(Unacceptable):
    """Nobody has that id: it is no valid API key's, and nobody has signed in under it. A person signs in once first."""

    pointer = "/assignee"


class AssigneeLacksRole(Unacceptable):
    """The assignee does not carry the role that works on this ticket now."""

    pointer = "/assignee"

    def __init__(self, needs: str) -> None:
        super().__init__(f"The ticket stands where it takes {needs}; the assignee does not carry it.")


class LinkToSelf(Unacceptable):
    """A ticket cannot be linked to itself."""

    pointer = "/other_ticket_id"


class UnknownOther(Unacceptable):
    """The other ticket does not exist."""

    code = "unknown_other_ticket"
    pointer = "/other_ticket_id"


class ConfirmationMissing(Unacceptable):
    """Say how the client said so, in confirmed_via: whoever is not the client reopens on the client's word alone."""

    pointer = "/confirmed_via"


class Forbidden(DeskError):
    """Your key or token does not carry the role that this takes.

    `carries` is what it does carry of the role: other levels, or another client.
    """

    code = "role_missing"

    def __init__(self, needs: str, carries: str = "") -> None:
        super().__init__(f"This takes {needs}; your key or token {carries or 'does not carry it'}.")
        self.needs = needs


class NotFound(DeskError):
    """There is nothing there."""


class UnknownTicket(NotFound):
    """There is no such ticket."""


class UnknownUserId(NotFound):
    """No client has that user ID."""


class StaleVersion(DeskError):
    """The ticket has moved on since the version you named: read it again and decide again."""

    def __init__(
        self,
        stream_id: UUID,
        current_version: int | None = None,
        expected_version: int | None = None,
        message: str | None = None,
    ) -> None:
        ahead = current_version is not None and expected_version is not None and expected_version > current_version
        if ahead:
            message = f"There is no such version yet: the present one is {current_version}."
        super().__init__(message)
        self.stream_id = stream_id
        self.current_version = current_version
        self.expected_version = expected_version
        self.missed: tuple[Recorded, ...] = ()  # whoever can load them fills them in
