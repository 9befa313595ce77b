"""Who may do what, and see what. These tables decide; everything else asks them."""

from collections.abc import Callable

from domain.errors import AssigneeLacksRole, Forbidden, UnknownAssignee, UnknownTicket
from domain.procedure import INTAKE_STATES, MANAGER_STATES
from domain.ticket import Ticket
from domain.values import Actor, Level, Principal, Queue, Role, State

Condition = Callable[[Principal, Ticket | None], bool]


def anywhere(_: Principal, __: Ticket | None) -> bool:
    """The role is enough."""
    return True


def holds(who: Principal, ticket: Ticket | None) -> bool:
    """The ticket is in support at a level of this agent."""
    return ticket is not None and ticket.state is State.IN_SUPPORT and ticket.level in who.levels


def at_level(who: Principal, ticket: Ticket | None) -> bool:
    """The ticket is held, or was resolved, by a level of this agent."""
    return ticket is not None and ticket.level in who.levels


def own(who: Principal, ticket: Ticket | None) -> bool:
    """The ticket is of the client for whom the key stands."""
    return ticket is not None and ticket.client_user_id is not None and ticket.client_user_id == who.client_user_id


def not_with_manager(_: Principal, ticket: Ticket | None) -> bool:
    """The IT manager does not have the ticket."""
    return ticket is None or ticket.state not in MANAGER_STATES


def with_manager(_: Principal, ticket: Ticket | None) -> bool:
    """The IT manager has the ticket."""
    return ticket is not None and ticket.state in MANAGER_STATES


def in_quality_control(_: Principal, ticket: Ticket | None) -> bool:
    """The ticket waits for quality control or closing."""
    return ticket is not None and ticket.state in (State.RESOLVED, State.VERIFIED)


def in_intake(_: Principal, ticket: Ticket | None) -> bool:
    """The ticket is not with Support yet."""
    return ticket is not None and ticket.state in INTAKE_STATES


def past_intake(_: Principal, ticket: Ticket | None) -> bool:
    """The ticket has left intake."""
    return ticket is not None and ticket.state not in INTAKE_STATES


INTAKE = (Role.INTAKE, anywhere)
QUALITY = (Role.QUALITY, anywhere)
MANAGER = (Role.IT_MANAGER, anywhere)
HOLDER = (Role.AGENT, holds)
AT_LEVEL = (Role.AGENT, at_level)
CLIENT = (Role.CLIENT, own)
IN_QUALITY_CONTROL = (Role.QUALITY, in_quality_control)

Rows = tuple[tuple[Role, Condition], ...]
MAY: dict[str, Rows] = {
    # command: who may give it; the first that fits is the role that the event names
    "receive_request": (INTAKE,),
    "open_ticket": (INTAKE,),
    "register_client": (INTAKE, (Role.ADMIN, anywhere)),
    "identify_client": (INTAKE,),
    "create": (INTAKE,),
    "document_issue": (INTAKE,),
    "route": ((Role.INTAKE, not_with_manager), (Role.IT_MANAGER, past_intake)),
    "assign": (HOLDER, MANAGER),
    "claim_next": (HOLDER, (Role.INTAKE, in_intake), IN_QUALITY_CONTROL, (Role.IT_MANAGER, with_manager)),
    "release": (HOLDER, IN_QUALITY_CONTROL, MANAGER),
    "qualify": (AT_LEVEL,),
    "escalate": (AT_LEVEL,),
    "resolve": (AT_LEVEL,),
    "verify": (QUALITY,),
    "document_resolution": (AT_LEVEL,),
    "close": (AT_LEVEL, QUALITY),
    "compile_dossier": (MANAGER,),
    "approve": (CLIENT, MANAGER),
    "decline": (CLIENT, MANAGER),
    "return_to_level": (HOLDER, MANAGER),
    "add_note": (INTAKE, AT_LEVEL, QUALITY, MANAGER, CLIENT),
    "change_priority": (INTAKE, HOLDER, MANAGER),
    "await_client": (AT_LEVEL,),
    "client_responded": (AT_LEVEL, CLIENT),
    "cancel": (INTAKE, MANAGER, CLIENT),
    "reopen": (CLIENT, INTAKE, QUALITY),
    "link": (INTAKE,),
    "correct_client": (INTAKE,),
    "amend_issue": (INTAKE, AT_LEVEL),
}

RESOLVING_LEVELS = tuple(level for level in Level if level is not Level.IT_MANAGER)
STAFF = (Role.INTAKE, Role.AGENT, Role.QUALITY, Role.IT_MANAGER, Role.AUDITOR, Role.ADMIN)
MAY_READ: dict[str, tuple[Role, ...]] = {
    "ticket": (*STAFF, Role.CLIENT),
    "tickets": (*STAFF, Role.REPORTER, Role.CLIENT),
    "client": (*STAFF, Role.CLIENT),
    "queues": (*STAFF, Role.REPORTER),
    "reports": (Role.IT_MANAGER, Role.REPORTER, Role.AUDITOR, Role.ADMIN),
    "events": (Role.AUDITOR, Role.ADMIN),
    "closure_mails": (Role.QUALITY, Role.IT_MANAGER, Role.AUDITOR, Role.ADMIN),
    "webhooks": (Role.AUDITOR, Role.ADMIN),
}
MAY_MANAGE: dict[str, tuple[Role, ...]] = {
    "webhooks": (Role.ADMIN,),
    "closure_mails": (Role.QUALITY, Role.IT_MANAGER, Role.ADMIN),
}

QUEUE_WORKERS: dict[Queue, Role] = {
    Queue.INTAKE: Role.INTAKE,
    Queue.QUALITY_CONTROL: Role.QUALITY,
    Queue.CLOSING: Role.QUALITY,
    Queue.IT_MANAGER: Role.IT_MANAGER,
}


def actor_for(who: Principal, command: str, ticket: Ticket | None = None) -> Actor:
    """The actor, in the first role that allows the command on this ticket.

    Raises Forbidden, naming what is missing.
    """
    for role, condition in MAY[command]:
        if role in who.roles and condition(who, ticket):
            return Actor(who.id, who.name, role)
    raise Forbidden(needs(MAY[command], ticket))


def require_role(who: Principal, command: str, ticket: Ticket) -> None:
    """Raises Forbidden when no role of the caller could ever give the command, whatever the ticket's standing is.

    Raises UnknownTicket for a client who asks about somebody else's ticket.
    """
    if sees_only_own(who) and not own(who, ticket):
        raise UnknownTicket
    if who.roles.isdisjoint(role for role, _ in MAY[command]):
        raise Forbidden(needs(MAY[command], ticket))


def lacking(who: Principal, command: str, ticket: Ticket) -> Forbidden | None:
    """What a caller lacks who carries a role of the command and may not give it here: the level, or the own ticket.

    None where nobody in that role could give it: then the ticket stands elsewhere (`where_given`).
    """
    for role, condition in MAY[command]:
        if role in who.roles and _could(role, condition, ticket):
            return Forbidden(needs(MAY[command], ticket), _carries(who, role))
    return None


def where_given(who: Principal, command: str, ticket: Ticket) -> str:
    """Where the ticket is, who could give the command there, and where the caller's roles give it."""
    place = f"in {ticket.queue}" if ticket.queue else str(ticket.state)
    now = tuple((role, condition) for role, condition in MAY[command] if _could(role, condition, ticket))
    mine = " ".join(
        f"The role {role} gives it where this is so: {_in_words(condition)}"
        for role, condition in MAY[command]
        if role in who.roles
    )
    return f"The ticket is {place}, where {command} {f'takes {needs(now, ticket)}' if now else 'is for nobody'}. {mine}"


def _could(role: Role, condition: Condition, ticket: Ticket) -> bool:
    """Whether anybody in that role could give the command as the ticket stands."""
    return condition(Principal("", "", frozenset({role}), frozenset(RESOLVING_LEVELS), ticket.client_user_id), ticket)


def _carries(who: Principal, role: Role) -> str:
    if role is Role.CLIENT:
        return "stands for another client"
    levels = ", ".join(sorted(who.levels))
    return f"carries agent of {levels}" if levels else "carries agent of no level"


def _in_words(condition: Condition) -> str:
    text = (condition.__doc__ or "").strip()
    return text[:1].lower() + text[1:]


def require_claim(who: Principal, queue: Queue) -> None:
    """Raises Forbidden for whoever claims nothing from a queue: it is for agents of its level, or for one role."""
    role = QUEUE_WORKERS.get(queue, Role.AGENT)
    if role not in who.roles:
        raise Forbidden(f"the role agent of {queue}" if role is Role.AGENT else f"the role {role}")
    if role is Role.AGENT and Level(queue) not in who.levels:
        raise Forbidden(f"the role agent of {queue}", _carries(who, role))


def require_assignee(person: Principal | None, queue: Queue) -> None:
    """Raises UnknownAssignee for nobody, and AssigneeLacksRole for whoever could not claim from that queue."""
    if person is None:
        raise UnknownAssignee
    try:
        require_claim(person, queue)
    except Forbidden as missing:
        raise AssigneeLacksRole(missing.needs) from None


def may_give(who: Principal, command: str, ticket: Ticket) -> bool:
    """Whether this caller may give that command on that ticket."""
    for role, condition in MAY[command]:  # noqa: SIM110 - asked for each command on every answer: twice as fast
        if role in who.roles and condition(who, ticket):
            return True
    return False


def require_read(who: Principal, what: str) -> None:
    """Raises Forbidden when no role of the caller may read that."""
    if who.roles.isdisjoint(MAY_READ[what]):
        raise Forbidden("one of the roles " + ", ".join(sorted(MAY_READ[what])))


def require_manage(who: Principal, what: str) -> None:
    """Raises Forbidden when no role of the caller may change that."""
    if who.roles.isdisjoint(MAY_MANAGE[what]):
        raise Forbidden("the role " + " or ".join(sorted(MAY_MANAGE[what])))


def sees_only_own(who: Principal) -> bool:
    """Whether the caller is a client, and nobody of the desk."""
    return who.roles.isdisjoint(STAFF) and (Role.CLIENT in who.roles or Role.REPORTER not in who.roles)


def needs(allowed: Rows, ticket: Ticket | None) -> str:
    """What a caller would need, in words: "the role intake or agent of tier2"."""
    level = f" of {ticket.level}" if ticket is not None and ticket.level in RESOLVING_LEVELS else ""
    names = [f"{role}{level}" if role is Role.AGENT else str(role) for role, _ in allowed]
    return "the role " + " or ".join(names)
