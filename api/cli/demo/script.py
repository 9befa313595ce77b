"""The demo's story: the steps of the source, whose keys take part, and every way through them, move by move."""

from typing import Any

import msgspec

from application.identity.api_keys import NewKey
from domain.procedure import CLOSING_STEP, ESCALATION_STEP, NEXT_RUNG, QC_STEP, RESOLUTION_STEP
from domain.values import Level, Role


class Step(msgspec.Struct, frozen=True):
    """A step of the source in its own words, shortened, and the events that must record it."""

    number: str
    says: str
    events: tuple[str, ...]


CLOSED = "Ticket is closed with complete resolution details, email sent to user"
CLOSING = ("ResolutionDocumented", "Closed", "ClosureEmailSent")
DECISION = ("Escalated", "DossierCompiled", "ClientDeclined", "ClientApproved", "Routed")
PROCEDURE_STEPS = (
    # seed/service-request-escalation-procedure.txt, from top to bottom; it numbers 1 to 4 twice, for intake and tier 1
    Step("1", "Support request is received", ("RequestReceived",)),
    Step("2", "Client is identified, including unique user ID", ("ClientIdentified",)),
    Step("3", "Help Desk ticket is created", ("Created",)),
    Step("4", "Issue is identified and documented, then routed to Support", ("IssueDocumented", "Routed")),
    Step("T1-1", "Level 1 resolution", ("Resolved",)),
    Step("T1-2", "Quality control of level 1", ("QCVerified",)),
    Step("T1-3", CLOSED, CLOSING),
    Step("T1-4", "Issue is escalated to Tier 2 Support and qualified there", ("Escalated", "Qualified")),
    Step("5", "Level 2 resolution", ("Resolved",)),
    Step("6", "Quality control of level 2", ("QCVerified", "QCFailed")),
    Step("7", CLOSED, CLOSING),
    Step("8", "Issue is escalated to Tier 3 Support and qualified there", ("Escalated", "Qualified")),
    Step("9", "Level 3 resolution", ("Resolved",)),
    Step("10", "Quality control of level 3", ("QCVerified",)),
    Step("11", CLOSED, CLOSING),
    Step("12", "Issue is escalated to Onsite Support and qualified there", ("Escalated", "Qualified")),
    Step("13", "Onsite resolution", ("Resolved",)),
    Step("14", "Quality control of onsite", ("QCVerified",)),
    Step("15", CLOSED, CLOSING),
    Step("16", "IT Manager decision point: complete details, routed to the NOC upon client approval", DECISION),
    Step("17", "Network Operations Center resolution", ("Resolved",)),
    Step("18", "Quality control of the NOC", ("QCVerified",)),
    Step("19", CLOSED, CLOSING),
)

KEYS = (
    # one key a role, and one that carries two of them, to see four eyes look
    NewKey("intake", [Role.INTAKE]),
    *(NewKey(f"agent-{level}", [Role.AGENT], [level]) for level in RESOLUTION_STEP),
    NewKey("quality", [Role.QUALITY]),
    NewKey("it-manager", [Role.IT_MANAGER]),
    NewKey("client", [Role.CLIENT], client_user_id="client"),
    NewKey("auditor", [Role.AUDITOR]),
    NewKey("desk-of-one", [Role.AGENT, Role.QUALITY], [Level.TIER1]),
)
CLIENT_CONTACT = {"name": "Client", "email": "client@example.org"}


class Move(msgspec.Struct, frozen=True):
    """Who gives which command with what, and what must come of it."""

    who: str
    command: str
    body: dict[str, Any] = {}
    records: str = ""  # the events and their steps, "4 IssueDocumented, 4 Routed"; step "-" for a supporting event
    refusal: str = ""  # in its place: status, code and the missing step, "409 not_verified T1-2"
    behind: int = 0  # how many versions too old the caller's knowledge is


Moves = tuple[Move, ...]
DOSSIER = "{dossier}"  # in a body, for the hash of the ticket's dossier


def issue(summary: str, text: str, category: str, impact: str, urgency: str) -> dict[str, str]:
    """What step 4 documents."""
    return {"summary": summary, "description": text, "category": category, "impact": impact, "urgency": urgency}


def opened(summary: str, text: str, category: str, impact: str, urgency: str) -> Move:
    """Steps 1 to 4 in one request, for a client who is known."""
    found = issue(summary, text, category, impact, urgency)
    body = {"client_user_id": "client", "channel": "email", "text": text, "issue": found}
    records = "1 RequestReceived, 2 ClientIdentified, 3 Created, 4 IssueDocumented, 4 Routed"
    return Move("intake", "open_ticket", body, records)


def refused_move(who: str, command: str, by: str, **body: Any) -> Move:
    """A command that the desk must refuse, and how."""
    return Move(who, command, body, refusal=by)


def claimed(who: str, queue: str) -> Move:
    """The next ticket of a queue, which must be this one."""
    return Move(who, "claim_next", {"queue": queue}, "- Assigned")


def escalated(level: Level, reason: str) -> Move:
    """One rung up."""
    return Move(f"agent-{level}", "escalate", {"reason": reason}, f"{ESCALATION_STEP[NEXT_RUNG[level]]} Escalated")


def qualified(level: Level, can_resolve: bool, rationale: str) -> Move:
    """The verdict of the level that received the ticket."""
    body = {"can_resolve": can_resolve, "rationale": rationale}
    return Move(f"agent-{level}", "qualify", body, f"{ESCALATION_STEP[level]} Qualified")


def handed_up(level: Level) -> Moves:
    """The level that received the ticket cannot resolve it, and says so."""
    return qualified(level, False, "Beyond what this level can do."), escalated(level, "It needs the next level.")


def resolved(level: Level, resolution: str, who: str = "") -> Move:
    """The level says that it is fixed."""
    return Move(who or f"agent-{level}", "resolve", {"resolution": resolution}, f"{RESOLUTION_STEP[level]} Resolved")


def checked(level: Level, satisfied: bool = True, comment: str = "It works again.") -> Move:
    """Quality control, passed or failed."""
    body = {"satisfied": satisfied, "confirmed_via": "phone", "comment": comment}
    return Move("quality", "verify", body, f"{QC_STEP[level]} {'QCVerified' if satisfied else 'QCFailed'}")


def documented(level: Level, cause: str, actions: str) -> Move:
    """The complete details of the resolution."""
    body = {"cause": cause, "actions": actions, "checked_by_method": "Tried beside the client."}
    return Move(f"agent-{level}", "document_resolution", body, f"{CLOSING_STEP[level]} ResolutionDocumented")


def closed(level: Level) -> Move:
    """The end of the ticket; the desk itself sends its e-mail, and records that the mail server has taken it."""
    step = CLOSING_STEP[level]
    return Move("quality", "close", {}, f"{step} Closed, {step} ClosureEmailSent")


def finished(level: Level, cause: str, actions: str) -> Moves:
    """Resolved at a level, verified, documented and closed."""
    return resolved(level, actions), checked(level), documented(level, cause, actions), closed(level)


def compiled(summary: str) -> Move:
    """Step 16: the dossier."""
    return Move("it-manager", "compile_dossier", {"summary": summary}, "16 DossierCompiled")


TO_MANAGER = (
    # every level says that it cannot resolve it
    escalated(Level.TIER1, "Nothing in the known errors fits."),
    *handed_up(Level.TIER2),
    *handed_up(Level.TIER3),
    *handed_up(Level.ONSITE),
)
TO_NOC = (
    Move("client", "approve", {"dossier_sha256": DOSSIER, "confirmed_via": "web"}, "16 ClientApproved"),
    Move("it-manager", "route", {"to": "noc"}, "16 Routed"),
)
DECLINED = {"dossier_sha256": DOSSIER, "confirmed_via": "web", "reason": "It does not say when the line will be back."}
OWN_VERDICT = {"satisfied": True, "confirmed_via": "web", "comment": "It prints."}
OTHER_HASH = {"dossier_sha256": "0" * 64, "confirmed_via": "web"}
CALL = {"channel": "phone", "text": "The printer in room 2 prints nothing.", "sender": {"phone": "extension 12"}}
PRINTER = issue("Printer in room 2 prints nothing", "Jobs vanish from its queue.", "hardware", "high", "high")

PATHS: dict[str, Moves] = {
    # the first moves of all paths come first, so that there are queues to work on
    "Resolved at tier 1, step by step from the first call; four eyes look": (
        Move("intake", "receive_request", CALL, "1 RequestReceived"),
        refused_move("intake", "create", "409 client_not_identified 2"),
        Move("intake", "identify_client", {"client_user_id": "client"}, "2 ClientIdentified"),
        Move("intake", "create", {}, "3 Created"),
        refused_move("intake", "route", "409 issue_not_documented 4"),
        Move("intake", "document_issue", PRINTER, "4 IssueDocumented"),
        Move("intake", "route", {}, "4 Routed"),
        claimed("desk-of-one", "tier1"),
        resolved(Level.TIER1, "Print server restarted, held jobs released.", "desk-of-one"),
        refused_move("desk-of-one", "verify", "409 four_eyes T1-2", **OWN_VERDICT),
        refused_move("quality", "close", "409 not_verified T1-2"),
        checked(Level.TIER1),
        refused_move("quality", "close", "409 details_missing T1-3"),
        documented(Level.TIER1, "The print server's disk was full.", "Disk cleared, alarm set."),
        closed(Level.TIER1),
    ),
    "Resolved at tier 2, and once more when quality control has failed": (
        opened("VPN drops every hour", "The tunnel ends after 60 minutes.", "network", "medium", "high"),
        refused_move("agent-tier2", "resolve", "403 role_missing -", resolution="Mended before anybody asked."),
        Move("agent-tier1", "add_note", {"text": "Same since the last client update."}, "- NoteAdded"),
        Move("agent-tier1", "escalate", {"reason": "As before."}, refusal="412 stale_version -", behind=1),
        escalated(Level.TIER1, "Needs the VPN gateway's logs."),
        refused_move("agent-tier2", "resolve", "409 not_qualified T1-4", resolution="Lifetime raised."),
        qualified(Level.TIER2, True, "The gateway's log shows the rekey failing."),
        claimed("agent-tier2", "tier2"),
        Move("agent-tier2", "await_client", {"reason": "Which client version is it?"}, "- ClientAwaited"),
        Move("client", "client_responded", {"text": "Version 5.2."}, "- ClientResponded"),
        resolved(Level.TIER2, "Lifetime raised."),
        checked(Level.TIER2, False, "It drops again."),
        *finished(Level.TIER2, "Lifetimes differed.", "Rekey lifetime set to match client 5.2."),
    ),
    "Tier 2 cannot resolve it, tier 3 does; reopened by the client": (
        opened("Reports time out", "Monthly reports end with an error.", "software", "medium", "medium"),
        escalated(Level.TIER1, "Not in the knowledge base."),
        qualified(Level.TIER2, False, "The query plan is beyond this level."),
        refused_move("agent-tier2", "resolve", "409 cannot_resolve_here 8", resolution="Tried again."),
        escalated(Level.TIER2, "Needs a database engineer."),
        qualified(Level.TIER3, True, "An index is missing."),
        *finished(Level.TIER3, "Missing index.", "Index added."),
        refused_move("agent-tier3", "add_note", "409 ticket_closed -", text="Too late."),
        Move("client", "reopen", {"reason": "They time out again."}, "- Reopened"),
        *finished(Level.TIER3, "Its statistics were old.", "Statistics made anew every night."),
    ),
    "Resolved onsite": (
        opened("Dock charges nothing", "The notebook's dock gives no power.", "hardware", "low", "high"),
        escalated(Level.TIER1, "Cable and outlet are checked."),
        *handed_up(Level.TIER2),
        *handed_up(Level.TIER3),
        qualified(Level.ONSITE, True, "A spare dock is in stock."),
        claimed("agent-onsite", "onsite"),
        Move("agent-onsite", "release", {}, "- Released"),
        Move("agent-onsite", "assign", {}, "- Assigned"),
        *finished(Level.ONSITE, "Broken power supply.", "Dock replaced."),
    ),
    "Onsite cannot resolve it: declined, compiled again, approved, resolved by the NOC": (
        opened("Branch is offline", "No line to the branch since the morning.", "network", "high", "medium"),
        *TO_MANAGER,
        refused_move("it-manager", "route", "409 not_approved 16", to="noc"),
        compiled("All levels tried; the backbone has to be changed."),
        refused_move("it-manager", "resolve", "403 role_missing -", resolution="Decided away."),
        Move("client", "decline", DECLINED, "16 ClientDeclined"),
        compiled("The same, with the NOC's window: tonight, 22:00 to 23:00."),
        Move("it-manager", "add_note", {"text": "The window is moved by an hour."}, "- NoteAdded"),
        refused_move("client", "approve", "409 no_current_dossier 16", **OTHER_HASH),
        compiled("The same, with the window from 23:00 to 24:00."),
        refused_move("client", "approve", "409 dossier_mismatch 16", **OTHER_HASH),
        *TO_NOC,
        refused_move("agent-noc", "escalate", "409 no_level_above -", reason="Higher still."),
        claimed("agent-noc", "noc"),
        *finished(Level.NOC, "A broken fibre.", "Traffic moved to the second ring."),
    ),
    "The NOC hands it back, the IT manager returns it to tier 3": (
        opened("Phones echo", "Every call to the branch echoes.", "telephony", "medium", "low"),
        *TO_MANAGER,
        compiled("All levels tried; the NOC is to look at the trunk."),
        *TO_NOC,
        Move("agent-noc", "return_to_level", {"level": "it_manager", "reason": "Clean."}, "- ReturnedToLevel"),
        Move("it-manager", "return_to_level", {"level": "tier3", "reason": "Theirs."}, "- ReturnedToLevel"),
        qualified(Level.TIER3, True, "The exchange's echo canceller is off."),
        *finished(Level.TIER3, "Canceller off since the update.", "Echo canceller switched on."),
    ),
    "Cancelled by the client while tier 2 works": (
        opened("New keyboard wanted", "A key sticks.", "hardware", "low", "low"),
        escalated(Level.TIER1, "No spare keyboard here."),
        qualified(Level.TIER2, True, "One is in stock."),
        Move("client", "cancel", {"reason": "It works again."}, "- Cancelled"),
        refused_move("client", "reopen", "409 ticket_cancelled -", reason="It sticks again."),
    ),
}
