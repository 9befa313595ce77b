"""What the demo is written in: the steps of the source, a move with what must come of it, and moves that recur."""

from typing import Any

import msgspec


class Step(msgspec.Struct, frozen=True):
    """A step of the source in its own words, shortened; the events that must record it, and those that may as well."""

    number: str
    says: str
    must: tuple[str, ...]
    may: tuple[str, ...] = ()


CLOSING = ("ResolutionDocumented", "Closed", "ClosureEmailSent")
DECISION = ("Escalated", "DossierCompiled", "ClientDeclined", "ClientApproved", "Routed")
CLOSED = "Ticket is closed with complete resolution details, email sent to user"
PROCEDURE_STEPS = (
    # seed/service-request-escalation-procedure.txt, from top to bottom; it numbers 1 to 4 twice, for intake and tier 1
    Step("1", "Support request is received", ("RequestReceived",)),
    Step("2", "Client is identified, including unique user ID", ("ClientIdentified",)),
    Step("3", "Help Desk ticket is created", ("Created",)),
    Step("4", "Issue is identified and documented, then routed to Support", ("IssueDocumented", "Routed")),
    Step("T1-1", "Level 1 resolution", ("Resolved",)),
    Step("T1-2", "Quality control of level 1", ("QCVerified",), ("QCFailed",)),
    Step("T1-3", CLOSED, CLOSING),
    Step("T1-4", "Issue is escalated to Tier 2 Support and qualified there", ("Escalated", "Qualified")),
    Step("5", "Level 2 resolution", ("Resolved",)),
    Step("6", "Quality control of level 2", ("QCVerified",), ("QCFailed",)),
    Step("7", CLOSED, CLOSING),
    Step("8", "Issue is escalated to Tier 3 Support and qualified there", ("Escalated", "Qualified")),
    Step("9", "Level 3 resolution", ("Resolved",)),
    Step("10", "Quality control of level 3", ("QCVerified",), ("QCFailed",)),
    Step("11", CLOSED, CLOSING),
    Step("12", "Issue is escalated to Onsite Support and qualified there", ("Escalated", "Qualified")),
    Step("13", "Onsite resolution", ("Resolved",)),
    Step("14", "Quality control of onsite", ("QCVerified",), ("QCFailed",)),
    Step("15", CLOSED, CLOSING),
    Step("16", "IT Manager decision point: complete details, routed to the NOC upon client approval", DECISION),
    Step("17", "Network Operations Center resolution", ("Resolved",)),
    Step("18", "Quality control of the NOC", ("QCVerified",), ("QCFailed",)),
    Step("19", CLOSED, CLOSING),
)
STEPS_TO_CLOSE = {
    # level: its steps of resolution, quality control and closing
    "tier1": ("T1-1", "T1-2", "T1-3"),
    "tier2": ("5", "6", "7"),
    "tier3": ("9", "10", "11"),
    "onsite": ("13", "14", "15"),
    "noc": ("17", "18", "19"),
}
RUNGS = {"tier1": ("T1-4", "tier2"), "tier2": ("8", "tier3"), "tier3": ("12", "onsite"), "onsite": ("16", "it_manager")}
DESK_NAME = "deskledger"


class Move(msgspec.Struct, frozen=True):
    """Who gives which command with what, and what must come of it. In a body, "{dossier}" stands for the dossier's
    hash and "{first}" for the ticket of the first path.
    """

    who: str
    command: str
    body: dict[str, Any]
    records: str = ""  # the events and their steps, "4 IssueDocumented, 4 Routed"; step "-" for a supporting event
    stands: str = ""  # state, level and queue thereafter, "in_support tier2 tier2", "-" for none; "" as before
    refusal: str = ""  # in place of both: status, code and the missing step, "409 not_verified T1-2"
    behind: int = 0  # how many versions too old the caller's knowledge is

    def events(self) -> list[tuple[str | None, str]]:
        """Step and type of each event that must be recorded."""
        pairs = [event.split() for event in self.records.split(", ") if event]
        return [(None if step == "-" else step, type_) for step, type_ in pairs]

    def steps(self) -> str:
        """The steps of the procedure that the move takes: "T1-4", "1-4", or "-"."""
        steps = list(dict.fromkeys(step or "-" for step, _ in self.events())) or ["-"]
        return steps[0] if len(steps) == 1 else f"{steps[0]}-{steps[-1]}"

    def standing(self) -> tuple[str | None, ...]:
        """State, level and queue thereafter."""
        return tuple(None if word == "-" else word for word in self.stands.split())


Moves = tuple[Move, ...]


class Path(msgspec.Struct, frozen=True):
    """One way through the procedure: how the request arrives, and what becomes of it."""

    title: str
    arrives: Moves
    moves: Moves


def agent(level: str) -> str:
    """Whose key works at a level."""
    return f"agent-{level}"


def issue(summary: str, description: str, category: str, impact: str, urgency: str) -> dict[str, str]:
    """The body of `document_issue`."""
    return {
        "summary": summary,
        "description": description,
        "category": category,
        "impact": impact,
        "urgency": urgency,
    }


def opened(documented: dict[str, str]) -> Moves:
    """Steps 1 to 4 in one request, for a client who is known."""
    body = {"client_user_id": "client", "channel": "email", "text": documented["description"], "issue": documented}
    records = "1 RequestReceived, 2 ClientIdentified, 3 Created, 4 IssueDocumented, 4 Routed"
    return (Move("intake", "open_ticket", body, records, "in_support tier1 tier1"),)


def refused_move(who: str, command: str, by: str, **body: Any) -> Move:
    """A command that the desk must refuse, and how."""
    return Move(who, command, body, refusal=by)


def escalated(level: str, reason: str) -> Move:
    """One rung up."""
    step, above = RUNGS[level]
    state = "deciding" if above == "it_manager" else "in_support"
    return Move(agent(level), "escalate", {"reason": reason}, f"{step} Escalated", f"{state} {above} {above}")


def qualified(level: str, can_resolve: bool, rationale: str) -> Move:
    """The verdict of the level that received the ticket."""
    step = next(step for step, above in RUNGS.values() if above == level)
    body = {"can_resolve": can_resolve, "rationale": rationale}
    return Move(agent(level), "qualify", body, f"{step} Qualified", f"in_support {level} {level}")


def taken(who: str, queue: str) -> Move:
    """The next ticket of a queue, which must be this one."""
    return Move(who, "claim_next", {"queue": queue}, "- Assigned")


def resolved(level: str, resolution: str, who: str = "") -> Move:
    """The level says that it is fixed."""
    step = STEPS_TO_CLOSE[level][0]
    stands = f"resolved {level} quality_control"
    return Move(who or agent(level), "resolve", {"resolution": resolution}, f"{step} Resolved", stands)


def verified(level: str, comment: str) -> Move:
    """Quality control passed."""
    body = {"satisfied": True, "confirmed_via": "phone", "comment": comment}
    return Move("quality", "verify", body, f"{STEPS_TO_CLOSE[level][1]} QCVerified", f"verified {level} closing")


def failed(level: str, comment: str) -> Move:
    """Quality control failed: back to the level that resolved."""
    body = {"satisfied": False, "confirmed_via": "email", "comment": comment}
    return Move("quality", "verify", body, f"{STEPS_TO_CLOSE[level][1]} QCFailed", f"in_support {level} {level}")


def documented(level: str, cause: str, actions: str, checked: str, state: str = "verified") -> Move:
    """The complete details of the resolution."""
    body = {"cause": cause, "actions": actions, "checked_by_method": checked}
    queue = "closing" if state == "verified" else "quality_control"
    stands = f"{state} {level} {queue}"
    return Move(agent(level), "document_resolution", body, f"{STEPS_TO_CLOSE[level][2]} ResolutionDocumented", stands)


def closed(level: str, who: str = "quality") -> Move:
    """The end; the desk sends the mail."""
    return Move(who, "close", {}, f"{STEPS_TO_CLOSE[level][2]} Closed", f"closed {level} -")


def mailed(level: str) -> Move:
    """The desk's own move: the closing e-mail has been accepted by the mail server."""
    return Move(DESK_NAME, "mail", {}, f"{STEPS_TO_CLOSE[level][2]} ClosureEmailSent", f"closed {level} -")
