"""Who may do what and see what: the table of the procedure as a matrix, written by hand."""

import pytest

from domain import events as e
from domain import roles
from domain.errors import Forbidden, TicketClosed, TicketElsewhere, UnknownTicket
from domain.rules import Given, allowed_commands, require_giver
from domain.ticket import Ticket
from domain.values import Actor, Level, Principal, Queue, Role, State
from tests.support.given import LATER, ticket_in


def principal(name: str, *held: Role, levels: str = "", client: str | None = None) -> Principal:
    """A key that carries these roles."""
    return Principal(f"key-{name}", name, frozenset(held), frozenset(map(Level, levels.split())), client)


WHO = {
    "intake": principal("intake", Role.INTAKE),
    "agent": principal("agent", Role.AGENT, levels="tier2 noc"),
    "agent of another level": principal("agent of another level", Role.AGENT, levels="tier1 tier3 onsite"),
    "quality": principal("quality", Role.QUALITY),
    "it_manager": principal("it_manager", Role.IT_MANAGER),
    "client": principal("client", Role.CLIENT, client="client-a"),
    "another client": principal("another client", Role.CLIENT, client="client-b"),
    "auditor": principal("auditor", Role.AUDITOR),
    "reporter": principal("reporter", Role.REPORTER),
    "admin": principal("admin", Role.ADMIN),
    "nobody": principal("nobody"),
}
TIER2 = Level.TIER2
TICKETS: dict[str, Ticket | None] = {
    "no ticket": None,
    "received": ticket_in(State.RECEIVED),
    "identified": ticket_in(State.IDENTIFIED),
    "created": ticket_in(State.CREATED),
    "documented": ticket_in(State.DOCUMENTED),
    "tier2": ticket_in(State.IN_SUPPORT, TIER2),
    "tier2 can": ticket_in(State.IN_SUPPORT, TIER2, can=True),
    "tier2 waiting": ticket_in(State.IN_SUPPORT, TIER2, e.ClientAwaited("the model")),
    "noc": ticket_in(State.IN_SUPPORT, Level.NOC),
    "resolved": ticket_in(State.RESOLVED, TIER2),
    "verified": ticket_in(State.VERIFIED, TIER2),
    "detailed": ticket_in(State.VERIFIED, TIER2, e.ResolutionDocumented(TIER2, "cause", "actions", "method")),
    "deciding": ticket_in(State.DECIDING),
    "awaiting": ticket_in(State.AWAITING_APPROVAL),
    "approved": ticket_in(State.APPROVED),
    "closed": ticket_in(State.CLOSED, TIER2),
}

# (command, ticket): who may give it, where the procedure makes it possible. The agent is of tier 2 and the NOC.
MATRIX: dict[tuple[str, str], str] = {
    ("receive_request", "no ticket"): "intake",
    ("open_ticket", "no ticket"): "intake",
    ("register_client", "no ticket"): "intake, admin",
    ("identify_client", "received"): "intake",
    ("create", "identified"): "intake",
    ("document_issue", "created"): "intake",
    ("route", "documented"): "intake",
    ("route", "approved"): "it_manager",
    ("assign", "received"): "it_manager",
    ("assign", "documented"): "it_manager",
    ("assign", "tier2"): "agent, it_manager",
    ("assign", "resolved"): "it_manager",
    ("assign", "verified"): "it_manager",
    ("assign", "deciding"): "it_manager",
    ("claim_next", "tier2"): "agent",
    ("claim_next", "noc"): "agent",
    ("claim_next", "resolved"): "quality",
    ("claim_next", "verified"): "quality",
    ("claim_next", "documented"): "intake",
    ("claim_next", "deciding"): "it_manager",
    ("release", "tier2"): "agent, it_manager",
    ("release", "resolved"): "quality, it_manager",
    ("qualify", "tier2"): "agent",
    ("escalate", "tier2 can"): "agent",
    ("resolve", "tier2 can"): "agent",
    ("resolve", "noc"): "agent",
    ("verify", "resolved"): "quality",
    ("document_resolution", "resolved"): "agent",
    ("document_resolution", "verified"): "agent",
    ("close", "verified"): "agent, quality",
    ("compile_dossier", "deciding"): "it_manager",
    ("approve", "awaiting"): "client, it_manager",
    ("decline", "awaiting"): "client, it_manager",
    ("return_to_level", "noc"): "agent, it_manager",
    ("return_to_level", "deciding"): "it_manager",
    ("return_to_level", "approved"): "it_manager",
    ("add_note", "documented"): "intake, quality, it_manager, client",
    ("add_note", "tier2"): "intake, agent, quality, it_manager, client",
    ("add_note", "resolved"): "intake, agent, quality, it_manager, client",
    ("add_note", "deciding"): "intake, quality, it_manager, client",
    ("change_priority", "documented"): "intake, it_manager",
    ("change_priority", "tier2"): "intake, agent, it_manager",
    ("change_priority", "resolved"): "intake, it_manager",
    ("change_priority", "deciding"): "intake, it_manager",
    ("await_client", "tier2"): "agent",
    ("client_responded", "tier2 waiting"): "agent, client",
    ("cancel", "documented"): "intake, it_manager, client",
    ("cancel", "tier2"): "intake, it_manager, client",
    ("cancel", "deciding"): "intake, it_manager, client",
    ("reopen", "closed"): "intake, quality, client",
    ("link", "received"): "intake",
    ("link", "tier2"): "intake",
    ("link", "closed"): "intake",
    ("correct_client", "tier2"): "intake",
    ("correct_client", "deciding"): "intake",
    ("amend_issue", "documented"): "intake",
    ("amend_issue", "tier2"): "intake, agent",
    ("amend_issue", "resolved"): "intake, agent",
    ("amend_issue", "deciding"): "intake",
}


@pytest.mark.parametrize(("command", "where"), MATRIX)
def test_only_whom_the_table_names_may_give_a_command(command: str, where: str):
    """A command is given by the roles that the table names, in that role, and by nobody else."""
    ticket, allowed = TICKETS[where], [name for name in MATRIX[command, where].split(", ") if name]
    may = {name: Actor(who.id, who.name, acted) for name, who in WHO.items() if (acted := acts(who, command, ticket))}
    assert may == {name: Actor(f"key-{name}", name, Role(name)) for name in allowed}
    if ticket is not None:
        assert {name for name, who in WHO.items() if roles.may_give(who, command, ticket)} == may.keys()


def acts(who: Principal, command: str, ticket: Ticket | None) -> Role | None:
    """The role in which the caller acts; None when the caller may not."""
    try:
        return roles.actor_for(who, command, ticket).role
    except Forbidden:
        return None


def test_every_command_has_its_cell():
    """No command is without an entry in the table."""
    assert {command for command, _ in MATRIX} == set(roles.MAY)


@pytest.mark.parametrize("command", roles.MAY)
def test_without_a_ticket_nobody_acts_on_one(command: str):
    """Where a role depends on the ticket, there has to be one."""
    for name in ("agent", "client"):
        with pytest.raises(Forbidden):
            roles.actor_for(WHO[name], command)
    for name in ("intake", "quality", "it_manager"):
        allowed = acts(WHO[name], command, None) is not None
        assert not (allowed and (command == "claim_next" or (command, name) == ("route", "it_manager")))
    assert roles.actor_for(WHO["intake"], "route").role is Role.INTAKE


@pytest.mark.parametrize(
    ("command", "where", "needs"),
    [
        ("verify", "resolved", "the role quality"),
        ("resolve", "tier2 can", "the role agent of tier2"),
        ("close", "verified", "the role agent of tier2 or quality"),
        ("approve", "awaiting", "the role client or it_manager"),
        ("register_client", "no ticket", "the role intake or admin"),
        ("route", "documented", "the role intake or it_manager"),
        ("resolve", "documented", "the role agent"),
        ("add_note", "deciding", "the role intake or agent or quality or it_manager or client"),
        ("return_to_level", "noc", "the role agent of noc or it_manager"),
        ("client_responded", "tier2 waiting", "the role agent of tier2 or client"),
    ],
)
def test_a_refusal_names_the_role_that_is_missing(command: str, where: str, needs: str):
    """Every 403 names the roles that may, and for an agent the level that holds the ticket."""
    ticket = TICKETS[where]
    with pytest.raises(Forbidden) as caught:
        roles.actor_for(WHO["auditor"], command, ticket)
    assert caught.value.needs == needs
    assert caught.value.detail == f"This takes {needs}; your key or token does not carry it."
    if ticket is not None:
        with pytest.raises(Forbidden) as caught:
            roles.require_role(WHO["auditor"], command, ticket)
        assert caught.value.needs == needs


# Who carries a role of the command, and what they are told: a level or an own ticket is lacking (403), or the ticket is
# not where their role gives the command (409). Each row of the table who may × each of its conditions.
OTHER_LEVEL = "your key or token carries agent of onsite, tier1, tier3."
HELD = "where this is so: the ticket is in support at a level of this agent."
AT_A_LEVEL = "where this is so: the ticket is held, or was resolved, by a level of this agent."
CHECKING = "where this is so: the ticket waits for quality control or closing."
LACKS = """
agent of another level | assign           | tier2         | This takes the role agent of tier2 or it_manager; {other}
agent of another level | claim_next       | tier2         | This takes the role agent of tier2 or intake or quality or it_manager; {other}
agent of another level | release          | tier2         | This takes the role agent of tier2 or quality or it_manager; {other}
agent of another level | qualify          | tier2         | This takes the role agent of tier2; {other}
agent of another level | escalate         | tier2 can     | This takes the role agent of tier2; {other}
agent of another level | resolve          | tier2 can     | This takes the role agent of tier2; {other}
agent of another level | document_resolution | resolved   | This takes the role agent of tier2; {other}
agent of another level | close            | detailed      | This takes the role agent of tier2 or quality; {other}
agent of another level | return_to_level  | noc           | This takes the role agent of noc or it_manager; {other}
agent of another level | add_note         | tier2         | This takes the role intake or agent of tier2 or quality or it_manager or client; {other}
agent of another level | add_note         | resolved      | This takes the role intake or agent of tier2 or quality or it_manager or client; {other}
agent of another level | change_priority  | tier2         | This takes the role intake or agent of tier2 or it_manager; {other}
agent of another level | amend_issue      | tier2         | This takes the role intake or agent of tier2; {other}
agent of another level | await_client     | tier2         | This takes the role agent of tier2; {other}
agent of another level | client_responded | tier2 waiting | This takes the role agent of tier2 or client; {other}
agent of no level      | resolve          | tier2 can     | This takes the role agent of tier2; your key or token carries agent of no level.
client and auditor     | approve          | awaiting      | This takes the role client or it_manager; your key or token stands for another client.
client and auditor     | decline          | awaiting      | This takes the role client or it_manager; your key or token stands for another client.
client and auditor     | add_note         | documented    | This takes the role intake or agent or quality or it_manager or client; your key or token stands for another client.
client and auditor     | client_responded | tier2 waiting | This takes the role agent of tier2 or client; your key or token stands for another client.
client and auditor     | cancel           | tier2         | This takes the role intake or it_manager or client; your key or token stands for another client.
client and auditor     | reopen           | closed        | This takes the role client or intake or quality; your key or token stands for another client.
agent of another level and quality | release | tier2       | This takes the role agent of tier2 or quality or it_manager; {other}
agent                  | add_note         | documented    | The ticket is in intake, where add_note takes the role intake or quality or it_manager or client. The role agent gives it {level}
agent                  | add_note         | deciding      | The ticket is in it_manager, where add_note takes the role intake or quality or it_manager or client. The role agent gives it {level}
agent                  | amend_issue      | documented    | The ticket is in intake, where amend_issue takes the role intake. The role agent gives it {level}
agent                  | assign           | documented    | The ticket is in intake, where assign takes the role it_manager. The role agent gives it {held}
agent                  | assign           | resolved      | The ticket is in quality_control, where assign takes the role it_manager. The role agent gives it {held}
agent of another level | assign           | verified      | The ticket is in closing, where assign takes the role it_manager. The role agent gives it {held}
agent                  | release          | resolved      | The ticket is in quality_control, where release takes the role quality or it_manager. The role agent gives it {held}
quality                | release          | tier2         | The ticket is in tier2, where release takes the role agent of tier2 or it_manager. The role quality gives it {checking}
agent                  | change_priority  | documented    | The ticket is in intake, where change_priority takes the role intake or it_manager. The role agent gives it {held}
agent                  | change_priority  | verified      | The ticket is in closing, where change_priority takes the role intake or it_manager. The role agent gives it {held}
agent                  | change_priority  | deciding      | The ticket is in it_manager, where change_priority takes the role intake or it_manager. The role agent gives it {held}
agent                  | return_to_level  | deciding      | The ticket is in it_manager, where return_to_level takes the role it_manager. The role agent gives it {held}
intake                 | route            | approved      | The ticket is in it_manager, where route takes the role it_manager. The role intake gives it where this is so: the IT manager does not have the ticket.
it_manager             | route            | documented    | The ticket is in intake, where route takes the role intake. The role it_manager gives it where this is so: the ticket has left intake.
intake                 | claim_next       | tier2         | The ticket is in tier2, where claim_next takes the role agent of tier2. The role intake gives it where this is so: the ticket is not with Support yet.
quality                | claim_next       | tier2         | The ticket is in tier2, where claim_next takes the role agent of tier2. The role quality gives it {checking}
it_manager             | claim_next       | tier2         | The ticket is in tier2, where claim_next takes the role agent of tier2. The role it_manager gives it where this is so: the IT manager has the ticket.
agent                  | claim_next       | closed        | The ticket is closed, where claim_next is for nobody. The role agent gives it {held}
"""  # noqa: E501 - a row of the table is a line
LACKING = [[cell.strip() for cell in line.split("|")] for line in LACKS.strip().splitlines()]
MIXED = {
    "agent of no level": principal("agent of no level", Role.AGENT),
    "client and auditor": principal("client and auditor", Role.CLIENT, Role.AUDITOR, client="client-b"),
    "agent of another level and quality": principal("two", Role.AGENT, Role.QUALITY, levels="tier1 tier3 onsite"),
}


@pytest.mark.parametrize(("name", "command", "where", "told"), LACKING)
def test_a_refusal_names_what_is_really_missing(name: str, command: str, where: str, told: str):
    """Who carries the role is not told that it is missing: it is the level, the own ticket, or where the ticket is."""
    who, ticket = (WHO | MIXED)[name], TICKETS[where]
    told = told.format(other=OTHER_LEVEL, held=HELD, level=AT_A_LEVEL, checking=CHECKING)
    given = Given(who, LATER)
    roles.require_role(who, command, ticket)
    with pytest.raises(Forbidden if told.startswith("This takes") else TicketElsewhere) as caught:
        require_giver(command, ticket, given)
    assert caught.value.detail == told
    if isinstance(caught.value, TicketElsewhere):
        assert caught.value.possible == allowed_commands(ticket, given)


def test_every_condition_of_the_table_has_its_refusal():
    """Each role that gives a command on a condition has a row that says what is told when it does not hold."""
    kept = {(command, role) for command, rows in roles.MAY.items() for role, rule in rows if rule is not roles.anywhere}
    told = {(command, role) for name, command, _, _ in LACKING for role in (WHO | MIXED)[name].roles}
    assert kept - told == set()


def test_what_the_procedure_refuses_to_everybody_comes_first():
    """A closed ticket takes no note from anybody: that is said, and not that another level would take one."""
    with pytest.raises(TicketClosed):
        require_giver("add_note", TICKETS["closed"], Given(WHO["agent of another level"], LATER))
    assert require_giver("add_note", TICKETS["tier2"], Given(WHO["agent"], LATER)) is None


def test_an_agent_acts_in_the_first_role_that_fits():
    """Somebody with several roles acts in the first one that fits, in the order of the table."""
    both = principal("both", Role.AGENT, Role.IT_MANAGER, Role.INTAKE, levels="tier1")
    assert roles.actor_for(both, "assign", TICKETS["tier2"]).role is Role.IT_MANAGER
    assert roles.actor_for(both, "add_note", TICKETS["tier2"]).role is Role.INTAKE
    assert roles.actor_for(both, "assign", ticket_in(State.IN_SUPPORT)).role is Role.AGENT


@pytest.mark.parametrize("command", ["qualify", "escalate", "resolve", "await_client", "client_responded"])
def test_the_state_refuses_what_the_level_could_do_before(command: str):
    """Rule 10: an agent of the level that resolved is told of the state, not that a role is missing."""
    for where in ("resolved", "verified", "closed"):
        assert roles.actor_for(WHO["agent"], command, TICKETS[where]).role is Role.AGENT


@pytest.mark.parametrize("command", ["assign", "change_priority", "return_to_level"])
def test_a_level_that_does_not_hold_the_ticket_does_not_move_it(command: str):
    """Rule 2: after the resolution the level has the ticket no longer: others hold it, and its agents may not."""
    for where in ("resolved", "verified", "closed"):
        assert not roles.may_give(WHO["agent"], command, TICKETS[where])


@pytest.mark.parametrize("where", [where for where in TICKETS if where != "no ticket"])
def test_a_client_knows_only_the_own_tickets(where: str):
    """A client is not told that somebody else's ticket exists; of the own one the client is told what is forbidden."""
    ticket = TICKETS[where]
    with pytest.raises(UnknownTicket):
        roles.require_role(WHO["another client"], "cancel", ticket)
    with pytest.raises(UnknownTicket):
        roles.require_role(WHO["nobody"], "cancel", ticket)
    with pytest.raises(UnknownTicket if where == "received" else Forbidden):
        roles.require_role(WHO["client"], "resolve", ticket)


def test_whoever_could_give_a_command_is_entitled_to_ask():
    """Whoever carries a role of the table is entitled to ask, whatever the ticket's standing; a client with one too."""
    staff = principal("staff", Role.CLIENT, Role.QUALITY, client="client-b")
    for who in (WHO["agent"], WHO["agent of another level"]):
        assert roles.require_role(who, "resolve", TICKETS["received"]) is None
    assert roles.require_role(WHO["client"], "cancel", TICKETS["tier2"]) is None
    assert roles.require_role(staff, "verify", TICKETS["tier2"]) is None


def test_a_key_without_a_client_owns_no_ticket():
    """A ticket whose client is not identified belongs to no client, not even to a key that names none."""
    unnamed = principal("unnamed", Role.CLIENT)
    assert Principal("key", "key", frozenset()) == Principal("key", "key", frozenset(), frozenset(), None)
    assert not roles.may_give(unnamed, "cancel", TICKETS["received"])
    assert not roles.may_give(unnamed, "cancel", TICKETS["identified"])


CLAIMS = {
    "tier1": "agent of another level",
    "tier2": "agent",
    "tier3": "agent of another level",
    "onsite": "agent of another level",
    "noc": "agent",
    "quality_control": "quality",
    "closing": "quality",
    "it_manager": "it_manager",
    "intake": "intake",
}


def lacking(who: Principal, queue: Queue) -> str | None:
    """What somebody lacks who wants to claim from a queue."""
    try:
        roles.require_claim(who, queue)
    except Forbidden as forbidden:
        return forbidden.needs
    return None


@pytest.mark.parametrize("queue", list(Queue))
def test_a_queue_is_worked_by_those_who_belong_to_it(queue: Queue):
    """claim_next: an agent of that level, quality control, or the desk that the queue belongs to; nobody else."""
    for name, who in WHO.items():
        needs = f"the role agent of {queue}" if CLAIMS[queue].startswith("agent") else f"the role {CLAIMS[queue]}"
        if name.startswith("agent") and name != CLAIMS[queue] and CLAIMS[queue].startswith("agent"):
            with pytest.raises(Forbidden, match=f"takes {needs}; your key or token carries agent of "):
                roles.require_claim(who, queue)
        assert lacking(who, queue) == (None if name == CLAIMS[queue] else needs), name


READERS = {
    "ticket": "intake agent quality it_manager auditor admin client",
    "tickets": "intake agent quality it_manager auditor admin client reporter",
    "client": "intake agent quality it_manager auditor admin client",
    "queues": "intake agent quality it_manager auditor admin reporter",
    "reports": "it_manager auditor admin reporter",
    "events": "auditor admin",
    "closure_mails": "quality it_manager auditor admin",
    "webhooks": "auditor admin",
}


@pytest.mark.parametrize("what", READERS)
def test_only_whom_the_table_names_may_read(what: str):
    """Auditor and admin read everything, the reporter queues and projections, the client only what is the client's."""
    for role in Role:
        who = principal(role, role)
        if role in READERS[what].split():
            assert roles.require_read(who, what) is None
        else:
            with pytest.raises(Forbidden) as caught:
                roles.require_read(who, what)
            assert caught.value.needs == "one of the roles " + ", ".join(sorted(READERS[what].split()))
    assert READERS.keys() == roles.MAY_READ.keys()


MANAGERS = {"webhooks": "admin", "closure_mails": "admin it_manager quality"}


@pytest.mark.parametrize("what", MANAGERS)
def test_only_whom_the_table_names_manages(what: str):
    """Whom the desk tells what is for admins to decide; a mail is sent again by those who look after closings."""
    for role in Role:
        if role in MANAGERS[what].split():
            assert roles.require_manage(principal(role, role), what) is None
        else:
            with pytest.raises(Forbidden, match="role"):
                roles.require_manage(principal(role, role), what)
    assert MANAGERS.keys() == roles.MAY_MANAGE.keys()


def test_who_sees_only_a_part():
    """A client alone sees only the own tickets; another role shows more."""
    assert [name for name, who in WHO.items() if roles.sees_only_own(who)] == ["client", "another client", "nobody"]
    assert not roles.sees_only_own(principal("both", Role.CLIENT, Role.AUDITOR))


def test_no_key_can_act_as_the_desk_itself():
    """The role of the desk itself gives no command and reads nothing."""
    desk = principal("desk", Role.SYSTEM)
    assert not any(roles.may_give(desk, command, TICKETS["tier2"]) for command in roles.MAY)
