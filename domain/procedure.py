"""The procedure in tables, read from top to bottom: the ladder, the queues, the steps, what is possible when."""

from typing import Protocol

from domain import errors as no
from domain import events as e
from domain.values import Level, Qualification, Queue, State

# ── The ladder ──────────────────────────────────────────────────────────────────────────────────────────────

NEXT_RUNG = {
    Level.TIER1: Level.TIER2,
    Level.TIER2: Level.TIER3,
    Level.TIER3: Level.ONSITE,
    Level.ONSITE: Level.IT_MANAGER,
}
QUALIFYING = frozenset({Level.TIER2, Level.TIER3, Level.ONSITE})
RETURN_TARGETS = frozenset({Level.TIER1, Level.TIER2, Level.TIER3, Level.ONSITE})

# ── The queues: every open state is in exactly one ──────────────────────────────────────────────────────────

QUEUES = {
    State.RECEIVED: Queue.INTAKE,
    State.IDENTIFIED: Queue.INTAKE,
    State.CREATED: Queue.INTAKE,
    State.DOCUMENTED: Queue.INTAKE,
    State.RESOLVED: Queue.QUALITY_CONTROL,
    State.VERIFIED: Queue.CLOSING,
    State.DECIDING: Queue.IT_MANAGER,
    State.AWAITING_APPROVAL: Queue.IT_MANAGER,
    State.APPROVED: Queue.IT_MANAGER,
    State.CLOSED: None,
    State.CANCELLED: None,
}


LEVEL_QUEUES = {level: Queue(level) for level in Level}


def queue_of(state: State, level: Level | None) -> Queue | None:
    """The one queue of a ticket that stands so; None when it is closed or cancelled."""
    return LEVEL_QUEUES[level] if state is State.IN_SUPPORT and level else QUEUES[state]


# ── Where an event leads ────────────────────────────────────────────────────────────────────────────────────


class Standing(Protocol):
    """What the next standing depends on; a Ticket has it, and so has a row of the ticket summaries."""

    @property
    def state(self) -> State: ...
    @property
    def level(self) -> Level | None: ...
    @property
    def qualification(self) -> Qualification | None: ...


LEADS_TO = {
    e.ClientIdentified: State.IDENTIFIED,
    e.Created: State.CREATED,
    e.IssueDocumented: State.DOCUMENTED,
    e.Resolved: State.RESOLVED,
    e.QCVerified: State.VERIFIED,
    e.Closed: State.CLOSED,
    e.DossierCompiled: State.AWAITING_APPROVAL,
    e.ClientApproved: State.APPROVED,
    e.ClientDeclined: State.DECIDING,
    e.Cancelled: State.CANCELLED,
}
DOSSIER_STANDS = frozenset({State.AWAITING_APPROVAL, State.APPROVED})


BACK_TO_WORK = (e.QCFailed, e.Reopened)
LEVELS = {e.Routed: "to", e.Escalated: "to_level", e.ReturnedToLevel: "to_level"}  # the field that names the new level


def standing_after(before: Standing, event: e.Event) -> tuple[State, Level | None, Qualification | None]:
    """State, level and qualification after an event. Any activity after a dossier makes the IT manager decide anew."""
    kind = type(event)
    if field := LEVELS.get(kind):
        return arrival(getattr(event, field))
    if isinstance(event, e.Qualified):
        verdict = Qualification.CAN_RESOLVE if event.can_resolve else Qualification.CANNOT_RESOLVE
        return before.state, before.level, verdict
    if isinstance(event, BACK_TO_WORK):
        return State.IN_SUPPORT, event.level, before.qualification
    state = LEADS_TO.get(kind)
    if state is None:
        state = State.DECIDING if before.state in DOSSIER_STANDS else before.state
    return state, before.level, before.qualification


def arrival(level: Level) -> tuple[State, Level, Qualification | None]:
    """How a ticket stands when it arrives at a level."""
    if level is Level.IT_MANAGER:
        return State.DECIDING, level, None
    return State.IN_SUPPORT, level, Qualification.TO_QUALIFY if level in QUALIFYING else None


# ── The steps of the source, by level ───────────────────────────────────────────────────────────────────────

RESOLUTION_STEP = {
    Level.TIER1: "T1-1",
    Level.TIER2: "5",
    Level.TIER3: "9",
    Level.ONSITE: "13",
    Level.NOC: "17",
}
QC_STEP = {Level.TIER1: "T1-2", Level.TIER2: "6", Level.TIER3: "10", Level.ONSITE: "14", Level.NOC: "18"}
CLOSING_STEP = {Level.TIER1: "T1-3", Level.TIER2: "7", Level.TIER3: "11", Level.ONSITE: "15", Level.NOC: "19"}
ESCALATION_STEP = {Level.TIER2: "T1-4", Level.TIER3: "8", Level.ONSITE: "12", Level.IT_MANAGER: "16"}
FIXED_STEPS: dict[type[e.Event], str] = {
    e.RequestReceived: "1",
    e.ClientIdentified: "2",
    e.Created: "3",
    e.IssueDocumented: "4",
    e.DossierCompiled: "16",
    e.ClientApproved: "16",
    e.ClientDeclined: "16",
}


def step_of(event: e.Event, level: Level | None) -> str | None:
    """The step of the source that an event records (`"T1-2"`, `"16"`); None for a supporting event.

    `level` is the ticket's level after the event.
    """
    match event:
        case e.Routed(to):
            return "16" if to is Level.NOC else "4"
        case e.Escalated(to_level=to):
            return ESCALATION_STEP.get(to)
        case e.Qualified(level=at):
            return ESCALATION_STEP.get(at)
        case e.Resolved(level=at):
            return RESOLUTION_STEP.get(at)
        case e.QCVerified(level=at) | e.QCFailed(level=at):
            return QC_STEP.get(at)
        case e.ResolutionDocumented(level=at) | e.Closed(level=at):
            return CLOSING_STEP.get(at)
        case e.ClosureEmailSent() | e.ClosureEmailFailed():
            return CLOSING_STEP.get(level) if level else None
    return FIXED_STEPS.get(type(event))


# ── Which command is possible in which state ────────────────────────────────────────────────────────────────

INTAKE_STATES = (State.RECEIVED, State.IDENTIFIED, State.CREATED, State.DOCUMENTED)
MANAGER_STATES = (State.DECIDING, State.AWAITING_APPROVAL, State.APPROVED)
OPEN_STATES = (*INTAKE_STATES, State.IN_SUPPORT, State.RESOLVED, State.VERIFIED, *MANAGER_STATES)

POSSIBLE_IN: dict[str, tuple[State, ...]] = {
    "identify_client": (State.RECEIVED, State.IDENTIFIED),
    "create": (State.IDENTIFIED,),
    "document_issue": (State.CREATED, State.DOCUMENTED),
    "route": (State.DOCUMENTED, State.APPROVED),
    "assign": OPEN_STATES,
    "release": OPEN_STATES,
    "qualify": (State.IN_SUPPORT,),
    "escalate": (State.IN_SUPPORT,),
    "resolve": (State.IN_SUPPORT,),
    "verify": (State.RESOLVED,),
    "document_resolution": (State.RESOLVED, State.VERIFIED),
    "close": (State.VERIFIED,),
    "compile_dossier": MANAGER_STATES,
    "approve": (State.AWAITING_APPROVAL,),
    "decline": (State.AWAITING_APPROVAL,),
    "return_to_level": (*MANAGER_STATES, State.IN_SUPPORT),
    "add_note": OPEN_STATES,
    "change_priority": (State.DOCUMENTED, State.IN_SUPPORT, State.RESOLVED, State.VERIFIED, *MANAGER_STATES),
    "await_client": (State.IN_SUPPORT,),
    "client_responded": (State.IN_SUPPORT,),
    "cancel": OPEN_STATES,
    "reopen": (State.CLOSED,),
    "link": tuple(State),
}
POSSIBLE_BY = {state: tuple(command for command, states in POSSIBLE_IN.items() if state in states) for state in State}

# What a state answers to a command that it forbids: the error for that command, else the error under "".
FORBIDS: dict[State, dict[str, type[no.Refused]]] = {
    State.RECEIVED: {"": no.ClientNotIdentified, "reopen": no.NotClosed},
    State.IDENTIFIED: {"": no.NotCreated, "reopen": no.NotClosed},
    State.CREATED: {
        "": no.IssueNotDocumented,
        "identify_client": no.StepAlreadyDone,
        "reopen": no.NotClosed,
    },
    State.DOCUMENTED: {
        "": no.NotRouted,
        "identify_client": no.StepAlreadyDone,
        "create": no.StepAlreadyDone,
        "reopen": no.NotClosed,
    },
    State.IN_SUPPORT: {
        "": no.StepAlreadyDone,
        "verify": no.NotResolved,
        "document_resolution": no.NotResolved,
        "close": no.NotResolved,
        "compile_dossier": no.NotAtDecisionPoint,
        "approve": no.NotAtDecisionPoint,
        "decline": no.NotAtDecisionPoint,
        "reopen": no.NotClosed,
    },
    State.RESOLVED: {
        "": no.StepAlreadyDone,
        "qualify": no.AlreadyResolved,
        "escalate": no.AlreadyResolved,
        "resolve": no.AlreadyResolved,
        "return_to_level": no.AlreadyResolved,
        "await_client": no.AlreadyResolved,
        "client_responded": no.AlreadyResolved,
        "close": no.NotVerified,
        "compile_dossier": no.NotAtDecisionPoint,
        "approve": no.NotAtDecisionPoint,
        "decline": no.NotAtDecisionPoint,
        "reopen": no.NotClosed,
    },
    State.VERIFIED: {
        "": no.AlreadyResolved,
        "identify_client": no.StepAlreadyDone,
        "create": no.StepAlreadyDone,
        "document_issue": no.StepAlreadyDone,
        "route": no.StepAlreadyDone,
        "verify": no.StepAlreadyDone,
        "compile_dossier": no.NotAtDecisionPoint,
        "approve": no.NotAtDecisionPoint,
        "decline": no.NotAtDecisionPoint,
        "reopen": no.NotClosed,
    },
    State.DECIDING: {
        "": no.AtDecisionPoint,
        "identify_client": no.StepAlreadyDone,
        "create": no.StepAlreadyDone,
        "document_issue": no.StepAlreadyDone,
        "route": no.NotApproved,
        "approve": no.NoCurrentDossier,
        "decline": no.NoCurrentDossier,
        "reopen": no.NotClosed,
    },
    State.AWAITING_APPROVAL: {
        "": no.AtDecisionPoint,
        "identify_client": no.StepAlreadyDone,
        "create": no.StepAlreadyDone,
        "document_issue": no.StepAlreadyDone,
        "route": no.NotApproved,
        "reopen": no.NotClosed,
    },
    State.APPROVED: {
        "": no.AtDecisionPoint,
        "identify_client": no.StepAlreadyDone,
        "create": no.StepAlreadyDone,
        "document_issue": no.StepAlreadyDone,
        "approve": no.AlreadyApproved,
        "decline": no.AlreadyApproved,
        "reopen": no.NotClosed,
    },
    State.CLOSED: {"": no.TicketClosed},
    State.CANCELLED: {"": no.TicketCancelled},
}
