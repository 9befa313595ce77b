"""What the procedure refuses beyond the plain state: ordered tables of small named rules, the first refusal wins."""

from collections.abc import Callable
from datetime import datetime, timedelta

import msgspec

from domain import errors
from domain.procedure import MISSING_STEP, POSSIBLE_BY, PROCEDURE, QUALIFYING, step_at
from domain.roles import lacking, may_give, where_given
from domain.ticket import Link, Ticket
from domain.values import Level, Principal, Qualification, Relation, State

REOPEN_WINDOW = timedelta(days=14)


class Given(msgspec.Struct, frozen=True):
    """What a decision is given beside the ticket and the command: who asks, when, and the desk's settings."""

    who: Principal
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
    return given.four_eyes and ticket.resolution is not None and ticket.resolution.by == given.who.id


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


RULES: dict[str, tuple[tuple[Rule, type[errors.Refused]], ...]] = {
    "qualify": ((nobody_qualifies_here, errors.NoQualificationHere), (verdict_is_given, errors.AlreadyQualified)),
    "resolve": ((verdict_is_missing, errors.NotQualified), (verdict_is_negative, errors.CannotResolveHere)),
    "escalate": ((nothing_is_above, errors.NoLevelAbove), (verdict_is_missing, errors.NotQualified)),
    "verify": ((same_eyes, errors.FourEyes),),
    "close": ((details_are_missing, errors.DetailsMissing),),
    "return_to_level": ((in_support_below_noc, errors.NotAtDecisionPoint),),
    "client_responded": ((nobody_waits, errors.ClientNotAwaited),),
    "reopen": ((window_is_over, errors.ReopenWindowOver),),
}

MOST_LINKS = 100  # of one ticket

LinkRule = Callable[[Ticket, Ticket], bool]


def has_most_links(ticket: Ticket, _: Ticket) -> bool:
    """A ticket is loaded with all its links, so their number has a bound."""
    return len(ticket.links) >= MOST_LINKS


def is_duplicate(ticket: Ticket, _: Ticket) -> bool:
    """A ticket is a duplicate of one other at most."""
    return any(link.relation is Relation.DUPLICATE_OF for link in ticket.links)


def is_original(ticket: Ticket, other: Ticket) -> bool:
    """The other ticket is a duplicate of this one."""
    return Link(ticket.ticket_id, Relation.DUPLICATE_OF) in other.links


def other_is_duplicate(ticket: Ticket, other: Ticket) -> bool:
    """The last link of any circle of duplicates would lead to a duplicate: so no circle can be closed."""
    return is_duplicate(other, ticket)


def other_came_later(ticket: Ticket, other: Ticket) -> bool:
    """Follow-ups lead back in time, so that they cannot lead in circles, whoever links at once."""
    return (other.created_at, other.ticket_id) > (ticket.created_at, ticket.ticket_id)


# By the relation: what the two tickets forbid; the first refusal wins.
LINK_RULES: dict[Relation, tuple[tuple[LinkRule, type[errors.Refused]], ...]] = {
    Relation.DUPLICATE_OF: (
        (is_duplicate, errors.AlreadyDuplicate),
        (is_original, errors.CircularLink),
        (other_is_duplicate, errors.OtherIsDuplicate),
        (has_most_links, errors.TooManyLinks),
    ),
    Relation.FOLLOW_UP_OF: ((other_came_later, errors.FollowsLater), (has_most_links, errors.TooManyLinks)),
    Relation.RELATED_TO: ((has_most_links, errors.TooManyLinks),),
}


def require_linkable(ticket: Ticket, given: Given, other: Ticket, relation: Relation) -> None:
    """Raises the `Refused` error of the first rule that the link would break."""
    for broken, error in LINK_RULES[relation]:
        if broken(ticket, other):
            raise refusal_for(error, ticket, given)


def _broken(command: str, ticket: Ticket, given: Given) -> type[errors.Refused] | None:
    for broken, error in RULES.get(command, ()):
        if broken(ticket, given):
            return error
    return None


def possible(ticket: Ticket, given: Given) -> tuple[str, ...]:
    """The commands that the procedure allows now, whoever asks."""
    return tuple(command for command in POSSIBLE_BY[ticket.state] if _broken(command, ticket, given) is None)


def allowed_commands(ticket: Ticket, given: Given) -> tuple[str, ...]:
    """Of what the procedure allows now, the commands that this caller may give."""
    return tuple(command for command in possible(ticket, given) if may_give(given.who, command, ticket))


def refusal_for(error: type[errors.Refused], ticket: Ticket, given: Given) -> errors.Refused:
    """The error with the step that is missing and the commands that this caller may give now."""
    step = step_at(MISSING_STEP.get(error), ticket.level)
    return error(step=step, possible=allowed_commands(ticket, given))


def require_giver(command: str, ticket: Ticket, given: Given) -> None:
    """Raises for a caller who carries a role of the command and may not give it here.

    What the procedure refuses to everybody is said first; then what this caller lacks.
    """
    if may_give(given.who, command, ticket):
        return
    require_allowed(command, ticket, given)
    if missing := lacking(given.who, command, ticket):
        raise missing
    detail = where_given(given.who, command, ticket)
    raise errors.TicketElsewhere(detail, possible=allowed_commands(ticket, given))


def require_allowed(command: str, ticket: Ticket, given: Given) -> None:
    """Raises the `Refused` error of what forbids the command: the state, or the first rule that it would break."""
    row = PROCEDURE.get(command)  # `claim_next` has none: it takes what it finds
    if error := (row and row.refusal(ticket.state)) or _broken(command, ticket, given):
        raise refusal_for(error, ticket, given)
