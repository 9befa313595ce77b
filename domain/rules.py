"""What the procedure refuses beyond the plain state: ordered tables of small named rules, the first refusal wins."""

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta

import msgspec

from domain import errors as no
from domain.procedure import (
    CLOSING_STEP,
    ESCALATION_STEP,
    FORBIDS,
    NEXT_RUNG,
    POSSIBLE_BY,
    POSSIBLE_IN,
    QC_STEP,
    QUALIFYING,
    RESOLUTION_STEP,
)
from domain.ticket import Ticket
from domain.values import Actor, Level, Qualification, State

REOPEN_WINDOW = timedelta(days=14)


class Given(msgspec.Struct, frozen=True):
    """What a decision is given beside the ticket and the command: who, when, and the desk's settings."""

    by: Actor
    now: datetime
    four_eyes: bool = True
    reopen_window: timedelta = REOPEN_WINDOW


Rule = Callable[[Ticket, Given], bool]


def nobody_qualifies_here(ticket: Ticket, _: Given) -> bool:
    """Rule 3: tier 1 and the NOC have no qualification in the source."""
    return ticket.level not in QUALIFYING


def verdict_is_given(ticket: Ticket, _: Given) -> bool:
    """Rule 3: a level gives one verdict for each stay."""
    return ticket.qualification is not Qualification.TO_QUALIFY


def verdict_is_missing(ticket: Ticket, _: Given) -> bool:
    """Rules 3 and 4: tier 2, tier 3 and onsite qualify before they resolve or escalate."""
    return ticket.qualification is Qualification.TO_QUALIFY


def verdict_is_negative(ticket: Ticket, _: Given) -> bool:
    """Rule 3: after "cannot resolve" the only way is up."""
    return ticket.qualification is Qualification.CANNOT_RESOLVE


def nothing_is_above(ticket: Ticket, _: Given) -> bool:
    """Rule 4: the NOC has no rung above it."""
    return ticket.level is Level.NOC


def same_eyes(ticket: Ticket, given: Given) -> bool:
    """Rule 5: the resolver does not check the own work, unless the desk is set to allow it."""
    return given.four_eyes and ticket.resolution is not None and ticket.resolution.by == given.by.id


def details_are_missing(ticket: Ticket, _: Given) -> bool:
    """Rule 6: closed only with the complete details of the current resolution."""
    return ticket.details is None


def window_is_over(ticket: Ticket, given: Given) -> bool:
    """Rule 9: reopened only within the window."""
    return ticket.closed_at is not None and given.now > ticket.closed_at + given.reopen_window


def nobody_waits(ticket: Ticket, _: Given) -> bool:
    """A client's answer needs somebody who waits for it."""
    return not ticket.waiting_on_client


def in_support_below_noc(ticket: Ticket, _: Given) -> bool:
    """Only the IT manager and the NOC hand a ticket back."""
    return ticket.state is State.IN_SUPPORT and ticket.level is not Level.NOC


RULES: dict[str, tuple[tuple[Rule, type[no.Refused]], ...]] = {
    "qualify": ((nobody_qualifies_here, no.NoQualificationHere), (verdict_is_given, no.AlreadyQualified)),
    "resolve": ((verdict_is_missing, no.NotQualified), (verdict_is_negative, no.CannotResolveHere)),
    "escalate": ((nothing_is_above, no.NoLevelAbove), (verdict_is_missing, no.NotQualified)),
    "verify": ((same_eyes, no.FourEyes),),
    "close": ((details_are_missing, no.DetailsMissing),),
    "return_to_level": ((in_support_below_noc, no.NotAtDecisionPoint),),
    "client_responded": ((nobody_waits, no.ClientNotAwaited),),
    "reopen": ((window_is_over, no.ReopenWindowOver),),
}

# The step that an error asks for: one step, or the step of the level that the ticket is at.
MISSING_STEP: dict[type[no.Refused], str | Mapping[Level, str]] = {
    no.ClientNotIdentified: "2",
    no.NotCreated: "3",
    no.IssueNotDocumented: "4",
    no.NotRouted: "4",
    no.NotQualified: ESCALATION_STEP,
    no.CannotResolveHere: {level: ESCALATION_STEP[above] for level, above in NEXT_RUNG.items()},
    no.NotResolved: RESOLUTION_STEP,
    no.NotVerified: QC_STEP,
    no.FourEyes: QC_STEP,
    no.DetailsMissing: CLOSING_STEP,
    no.NotAtDecisionPoint: "16",
    no.AtDecisionPoint: "16",
    no.NoCurrentDossier: "16",
    no.DossierMismatch: "16",
    no.NotApproved: "16",
    no.AlreadyApproved: "16",
}


def refusal(command: str, ticket: Ticket, given: Given) -> type[no.Refused] | None:
    """The error that the procedure answers to a command on a ticket that stands so; None when it is possible."""
    if ticket.state not in POSSIBLE_IN[command]:
        errors = FORBIDS[ticket.state]
        return errors.get(command) or errors[""]
    return _broken(command, ticket, given)


def _broken(command: str, ticket: Ticket, given: Given) -> type[no.Refused] | None:
    for broken, error in RULES.get(command, ()):
        if broken(ticket, given):
            return error
    return None


def possible(ticket: Ticket, given: Given) -> tuple[str, ...]:
    """The commands that the procedure allows now, whoever asks."""
    return tuple(command for command in POSSIBLE_BY[ticket.state] if _broken(command, ticket, given) is None)


def refused(error: type[no.Refused], ticket: Ticket, given: Given) -> no.Refused:
    """The error with the step that is missing and the commands that are possible now."""
    step = MISSING_STEP.get(error)
    if isinstance(step, Mapping):
        step = step.get(ticket.level) if ticket.level else None
    return error(step=step, possible=possible(ticket, given))


def demand(command: str, ticket: Ticket, given: Given) -> None:
    """Raises the `Refused` error of the rule that the command would break."""
    if error := refusal(command, ticket, given):
        raise refused(error, ticket, given)
