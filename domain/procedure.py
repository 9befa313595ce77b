"""The procedure in tables, read from top to bottom: the ladder, the queues, the steps, what is possible when."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

import msgspec

from domain import errors
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

# ── The states, and the queues: every open state is in exactly one ──────────────────────────────────────────

INTAKE_STATES = (State.RECEIVED, State.IDENTIFIED, State.CREATED, State.DOCUMENTED)
MANAGER_STATES = (State.DECIDING, State.AWAITING_APPROVAL, State.APPROVED)
OPEN_STATES = (*INTAKE_STATES, State.IN_SUPPORT, State.RESOLVED, State.VERIFIED, *MANAGER_STATES)

AT_LEVELS = (State.IN_SUPPORT, State.RESOLVED, State.VERIFIED)
PAST_INTAKE = (*AT_LEVELS, *MANAGER_STATES)

QUEUES: dict[State, Queue | None] = {
    **dict.fromkeys(INTAKE_STATES, Queue.INTAKE),
    State.RESOLVED: Queue.QUALITY_CONTROL,
    State.VERIFIED: Queue.CLOSING,
    **dict.fromkeys(MANAGER_STATES, Queue.IT_MANAGER),
    State.CLOSED: None,
    State.CANCELLED: None,
}
LEVEL_QUEUES = {level: Queue(level) for level in Level}


def queue_of(state: State, level: Level | None) -> Queue | None:
    """The one queue of a ticket that stands so; None when it is closed or cancelled."""
    return LEVEL_QUEUES[level] if state is State.IN_SUPPORT and level else QUEUES[state]


# ── Where an event leads ────────────────────────────────────────────────────────────────────────────────────


Standing = tuple[State, Level | None, Qualification | None]

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
NEW_LEVEL_FIELDS = {e.Routed: "to", e.Escalated: "to_level", e.ReturnedToLevel: "to_level"}  # the new level's field


def standing_after(before: Standing, event: e.Event) -> Standing:
    """State, level and qualification after an event. Any activity after a dossier makes the IT manager decide anew."""
    state, level, qualification = before
    kind = type(event)
    if field := NEW_LEVEL_FIELDS.get(kind):
        return arrival(getattr(event, field))
    if leads_to := LEADS_TO.get(kind):
        return leads_to, level, qualification
    if isinstance(event, e.Qualified):
        return state, level, Qualification.CAN_RESOLVE if event.can_resolve else Qualification.CANNOT_RESOLVE
    if isinstance(event, BACK_TO_WORK):
        return State.IN_SUPPORT, event.level, qualification
    if kind is e.ClientCorrected and state is State.VERIFIED:
        return State.RESOLVED, level, qualification  # whoever was satisfied was not the client
    return State.DECIDING if state in DOSSIER_STANDS else state, level, qualification


def arrival(level: Level) -> tuple[State, Level, Qualification | None]:
    """How a ticket stands when it arrives at a level."""
    if level is Level.IT_MANAGER:
        return State.DECIDING, level, None
    return State.IN_SUPPORT, level, Qualification.TO_QUALIFY if level in QUALIFYING else None


# ── The steps of the source, by level ───────────────────────────────────────────────────────────────────────

RESOLUTION_STEP = {Level.TIER1: "T1-1", Level.TIER2: "5", Level.TIER3: "9", Level.ONSITE: "13", Level.NOC: "17"}
QC_STEP = {Level.TIER1: "T1-2", Level.TIER2: "6", Level.TIER3: "10", Level.ONSITE: "14", Level.NOC: "18"}
CLOSING_STEP = {Level.TIER1: "T1-3", Level.TIER2: "7", Level.TIER3: "11", Level.ONSITE: "15", Level.NOC: "19"}
ESCALATION_STEP = {Level.TIER2: "T1-4", Level.TIER3: "8", Level.ONSITE: "12", Level.IT_MANAGER: "16"}
StepByLevel = str | Mapping[Level, str]  # the same at every level, or each level's own

# The step that an event records, by the level that it names; a supporting event records none.
STEPS: dict[type[e.Event], StepByLevel] = {
    e.RequestReceived: "1",
    e.ClientIdentified: "2",
    e.Created: "3",
    e.IssueDocumented: "4",
    e.Routed: {Level.TIER1: "4", Level.NOC: "16"},
    e.Qualified: ESCALATION_STEP,
    e.Escalated: ESCALATION_STEP,
    e.Resolved: RESOLUTION_STEP,
    e.QCVerified: QC_STEP,
    e.QCFailed: QC_STEP,
    e.ResolutionDocumented: CLOSING_STEP,
    e.Closed: CLOSING_STEP,
    e.ClosureEmailSent: CLOSING_STEP,
    e.ClosureEmailFailed: CLOSING_STEP,
    e.DossierCompiled: "16",
    e.ClientApproved: "16",
    e.ClientDeclined: "16",
}


def step_of(event: e.Event, level: Level | None) -> str | None:
    """The step of the source that an event records (`"T1-2"`, `"16"`); None for a supporting event.

    `level` is the ticket's level after the event; what became of a closing's e-mail has that of the closing.
    """
    kind = type(event)
    return step_at(STEPS.get(kind), getattr(event, NEW_LEVEL_FIELDS.get(kind, "level"), level))


def _steps_of(step: StepByLevel) -> tuple[str, ...]:
    """The steps of all levels."""
    return tuple(step.values()) if isinstance(step, Mapping) else (step,)


def step_at(step: StepByLevel | None, level: Level | None) -> str | None:
    """A step at a level."""
    if isinstance(step, Mapping):
        return step.get(level) if level else None
    return step


# The step that an error asks for, at the level that the ticket is at.
MISSING_STEP: dict[type[errors.Refused], StepByLevel] = {
    errors.ClientNotIdentified: "2",
    errors.NotCreated: "3",
    errors.IssueNotDocumented: "4",
    errors.NotRouted: "4",
    errors.NotQualified: ESCALATION_STEP,
    errors.CannotResolveHere: {level: ESCALATION_STEP[above] for level, above in NEXT_RUNG.items()},
    errors.NotResolved: RESOLUTION_STEP,
    errors.NotVerified: QC_STEP,
    errors.FourEyes: QC_STEP,
    errors.DetailsMissing: CLOSING_STEP,
    errors.NotAtDecisionPoint: "16",
    errors.AtDecisionPoint: "16",
    errors.NoCurrentDossier: "16",
    errors.DossierMismatch: "16",
    errors.NotApproved: "16",
    errors.AlreadyApproved: "16",
}

# ── Which command is possible in which state ────────────────────────────────────────────────────────────────

Refusals = Mapping[State, type[errors.Refused]]


class Timing(msgspec.Struct, frozen=True):
    """The states in which a command is possible, and what a ticket answers that is not there yet, or is past it."""

    when: tuple[State, ...]
    too_early: Refusals = {}
    too_late: Refusals = {}

    def refusal(self, state: State) -> type[errors.Refused] | None:
        """What a ticket in that state answers; None where the command is possible."""
        if state in self.when:
            return None
        return self.too_early.get(state) or self.too_late.get(state) or COMES_FIRST.get(state) or ENDED[state]


# What a ticket answers to a command whose own row says nothing of its state.
COMES_FIRST: Refusals = {
    State.RECEIVED: errors.ClientNotIdentified,
    State.IDENTIFIED: errors.NotCreated,
    State.CREATED: errors.IssueNotDocumented,
    State.DOCUMENTED: errors.NotRouted,
}
ENDED: Refusals = {State.CLOSED: errors.TicketClosed, State.CANCELLED: errors.TicketCancelled}

STEP_DONE: Refusals = dict.fromkeys(PAST_INTAKE, errors.StepAlreadyDone)
ROUTED: Refusals = dict.fromkeys(AT_LEVELS, errors.StepAlreadyDone)
NOT_APPROVED: Refusals = dict.fromkeys((State.DECIDING, State.AWAITING_APPROVAL), errors.NotApproved)
NOT_RESOLVED: Refusals = {State.IN_SUPPORT: errors.NotResolved}
NOT_CHECKED: Refusals = {**NOT_RESOLVED, State.RESOLVED: errors.NotVerified}
NOT_WITH_MANAGER: Refusals = dict.fromkeys(AT_LEVELS, errors.NotAtDecisionPoint)
WITH_MANAGER: Refusals = dict.fromkeys(MANAGER_STATES, errors.AtDecisionPoint)
CHECKED: Refusals = {State.VERIFIED: errors.StepAlreadyDone, **WITH_MANAGER}
AFTER_RESOLUTION: Refusals = dict.fromkeys((State.RESOLVED, State.VERIFIED), errors.AlreadyResolved)

# What two commands have in common.
CLIENT_DECIDES = Timing(
    (State.AWAITING_APPROVAL,),
    too_early={**NOT_WITH_MANAGER, State.DECIDING: errors.NoCurrentDossier},
    too_late={State.APPROVED: errors.AlreadyApproved},
)

PROCEDURE: dict[str, Timing] = {
    # command: when it is possible; too early; too late
    "identify_client": Timing(
        (State.RECEIVED, State.IDENTIFIED),
        too_late={State.CREATED: errors.StepAlreadyDone, State.DOCUMENTED: errors.StepAlreadyDone, **STEP_DONE},
    ),
    "create": Timing((State.IDENTIFIED,), too_late={State.DOCUMENTED: errors.StepAlreadyDone, **STEP_DONE}),
    "document_issue": Timing((State.CREATED, State.DOCUMENTED), too_late=STEP_DONE),
    "route": Timing((State.DOCUMENTED, State.APPROVED), too_early=NOT_APPROVED, too_late=ROUTED),
    "assign": Timing(OPEN_STATES),
    "release": Timing(OPEN_STATES),
    "qualify": Timing((State.IN_SUPPORT,), too_late={**AFTER_RESOLUTION, **WITH_MANAGER}),
    "escalate": Timing((State.IN_SUPPORT,), too_late={**AFTER_RESOLUTION, **WITH_MANAGER}),
    "resolve": Timing((State.IN_SUPPORT,), too_late={**AFTER_RESOLUTION, **WITH_MANAGER}),
    "verify": Timing((State.RESOLVED,), too_early=NOT_RESOLVED, too_late=CHECKED),
    "document_resolution": Timing((State.RESOLVED, State.VERIFIED), too_early=NOT_RESOLVED, too_late=WITH_MANAGER),
    "close": Timing((State.VERIFIED,), too_early=NOT_CHECKED, too_late=WITH_MANAGER),
    "compile_dossier": Timing(MANAGER_STATES, too_early=NOT_WITH_MANAGER),
    "approve": CLIENT_DECIDES,
    "decline": CLIENT_DECIDES,
    "return_to_level": Timing((*MANAGER_STATES, State.IN_SUPPORT), too_late=AFTER_RESOLUTION),
    "add_note": Timing(OPEN_STATES),
    "change_priority": Timing((State.DOCUMENTED, *AT_LEVELS, *MANAGER_STATES)),
    "await_client": Timing((State.IN_SUPPORT,), too_late={**AFTER_RESOLUTION, **WITH_MANAGER}),
    "client_responded": Timing((State.IN_SUPPORT,), too_late={**AFTER_RESOLUTION, **WITH_MANAGER}),
    "cancel": Timing(OPEN_STATES),
    "reopen": Timing((State.CLOSED,), too_early=dict.fromkeys(OPEN_STATES, errors.NotClosed)),
    "link": Timing(tuple(State)),
    "correct_client": Timing((State.CREATED, State.DOCUMENTED, *PAST_INTAKE)),
    "amend_issue": Timing((State.DOCUMENTED, *PAST_INTAKE)),
}
if TYPE_CHECKING:
    CommandName = str
    Step = str
else:
    CommandName = Literal[tuple(PROCEDURE)]
    Step = Literal[tuple(dict.fromkeys(step for row in STEPS.values() for step in _steps_of(row)))]
POSSIBLE_BY = {state: tuple(name for name, row in PROCEDURE.items() if state in row.when) for state in State}
