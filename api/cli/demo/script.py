"""The demo's script: whose keys take part, and every way through the procedure, move by move."""

from api.cli.demo.moves import (
    Move,
    Moves,
    Path,
    closed,
    documented,
    escalated,
    failed,
    issue,
    mailed,
    opened,
    qualified,
    refused_move,
    resolved,
    taken,
    verified,
)
from application.identity.api_keys import NewKey
from domain.values import Level, Role

RESOLVING = [Level.TIER1, Level.TIER2, Level.TIER3, Level.ONSITE, Level.NOC]
KEYS = (
    # one key a role, and one that carries two of them, to see four eyes look
    NewKey("intake", [Role.INTAKE]),
    *(NewKey(f"agent-{level}", [Role.AGENT], [level]) for level in RESOLVING),
    NewKey("quality", [Role.QUALITY]),
    NewKey("it-manager", [Role.IT_MANAGER]),
    NewKey("client", [Role.CLIENT], client_user_id="client"),
    NewKey("auditor", [Role.AUDITOR]),
    NewKey("desk-of-one", [Role.AGENT, Role.QUALITY], [Level.TIER1]),
)
CLIENT_CONTACT = {"name": "Client", "email": "client@example.org"}

PRINTER = issue("Printer in room 2 prints nothing", "Jobs vanish from its queue.", "hardware", "high", "high")
STEP_BY_STEP: Moves = (
    Move(
        "intake",
        "receive_request",
        {"channel": "phone", "text": "The printer in room 2 prints nothing.", "sender": {"phone": "extension 12"}},
        "1 RequestReceived",
        "received - intake",
    ),
    refused_move("intake", "create", "409 client_not_identified 2"),
    Move("intake", "identify_client", {"client_user_id": "client"}, "2 ClientIdentified", "identified - intake"),
    Move("intake", "create", {}, "3 Created", "created - intake"),
    refused_move("intake", "route", "409 issue_not_documented 4"),
    Move("intake", "document_issue", PRINTER, "4 IssueDocumented", "documented - intake"),
    Move("intake", "route", {}, "4 Routed", "in_support tier1 tier1"),
)


def climbed_to_manager(why: str) -> Moves:
    """Every rung says that it cannot resolve it."""
    return (
        escalated("tier1", f"{why} Nothing in the known errors fits."),
        qualified("tier2", False, "Not a matter of configuration."),
        escalated("tier2", "Needs the vendor's diagnosis."),
        qualified("tier3", False, "The vendor sees a fault outside of the device."),
        escalated("tier3", "Somebody has to look at the place itself."),
        qualified("onsite", False, "The fault lies in the backbone, which onsite may not touch."),
        escalated("onsite", "Beyond what onsite may change."),
    )


def compiled(summary: str) -> Move:
    """Step 16: the dossier."""
    stands = "awaiting_approval it_manager it_manager"
    return Move("it-manager", "compile_dossier", {"summary": summary}, "16 DossierCompiled", stands)


YES = {"dossier_sha256": "{dossier}", "confirmed_via": "web"}
APPROVED = Move("client", "approve", YES, "16 ClientApproved", "approved it_manager it_manager")
DECLINED = Move(
    "client",
    "decline",
    {**YES, "reason": "The dossier does not say when the line will be back."},
    "16 ClientDeclined",
    "deciding it_manager it_manager",
)
TO_NOC = Move("it-manager", "route", {"to": "noc"}, "16 Routed", "in_support noc noc")

PATHS = (
    Path(
        "Resolved at tier 1, step by step from the first call",
        STEP_BY_STEP,
        (
            taken("agent-tier1", "tier1"),
            refused_move(
                "agent-tier1", "verify", "403 role_missing -", satisfied=True, confirmed_via="web", comment="ok"
            ),
            resolved("tier1", "Print server restarted, held jobs released."),
            refused_move("quality", "close", "409 not_verified T1-2"),
            verified("tier1", "All pages came out."),
            refused_move("quality", "close", "409 details_missing T1-3"),
            documented("tier1", "The print server's disk was full.", "Disk cleared, alarm set.", "Test page."),
            closed("tier1"),
        ),
    ),
    Path(
        "Resolved at tier 2",
        opened(issue("VPN drops every hour", "The tunnel ends after 60 minutes.", "network", "medium", "high")),
        (
            refused_move("agent-tier2", "resolve", "403 role_missing -", resolution="Mended before anybody asked."),
            Move("agent-tier1", "add_note", {"text": "Same since the last client update."}, "- NoteAdded"),
            Move("agent-tier1", "escalate", {"reason": "As before."}, refusal="412 stale_version -", behind=1),
            escalated("tier1", "Needs the VPN gateway's logs."),
            refused_move("agent-tier2", "resolve", "409 not_qualified T1-4", resolution="Lifetime raised."),
            qualified("tier2", True, "The gateway's log shows the rekey failing."),
            taken("agent-tier2", "tier2"),
            Move("agent-tier2", "await_client", {"reason": "Which client version is it?"}, "- ClientAwaited"),
            Move("client", "client_responded", {"text": "Version 5.2."}, "- ClientResponded"),
            resolved("tier2", "Rekey lifetime set to match client 5.2."),
            verified("tier2", "Connected the whole day."),
            documented("tier2", "Lifetimes differed.", "Gateway's lifetime changed.", "Tunnel watched for 8 hours."),
            closed("tier2"),
        ),
    ),
    Path(
        "Tier 2 cannot resolve it, tier 3 does",
        opened(issue("Reports time out", "Monthly reports end with an error.", "software", "medium", "medium")),
        (
            escalated("tier1", "Not in the knowledge base."),
            qualified("tier2", False, "The query plan is beyond this level."),
            refused_move("agent-tier2", "resolve", "409 cannot_resolve_here 8", resolution="Tried again."),
            escalated("tier2", "Needs a database engineer."),
            qualified("tier3", True, "An index is missing."),
            resolved("tier3", "Index added."),
            documented("tier3", "Missing index.", "Index added.", "Report ran in 3 s.", state="resolved"),
            verified("tier3", "The report opens at once."),
            closed("tier3", "agent-tier3"),
        ),
    ),
    Path(
        "Resolved onsite",
        opened(issue("Dock charges nothing", "The notebook's dock gives no power.", "hardware", "low", "high")),
        (
            escalated("tier1", "Cable and outlet are checked."),
            qualified("tier2", True, "Maybe its firmware."),
            escalated("tier2", "New firmware did not help after all."),
            qualified("tier3", False, "A fault in the hardware."),
            escalated("tier3", "The dock has to be replaced at the desk."),
            qualified("onsite", True, "A spare dock is in stock."),
            taken("agent-onsite", "onsite"),
            Move("agent-onsite", "release", {}, "- Released"),
            Move("agent-onsite", "assign", {"assignee": "agent-onsite"}, "- Assigned"),
            resolved("onsite", "Dock replaced."),
            verified("onsite", "It charges."),
            documented("onsite", "Broken power supply.", "Dock replaced.", "Charged from 20 to 80 percent."),
            closed("onsite"),
        ),
    ),
    Path(
        "Onsite cannot resolve it: declined, compiled again, approved, resolved by the NOC",
        opened(issue("Branch is offline", "No line to the branch since the morning.", "network", "high", "medium")),
        (
            *climbed_to_manager("The branch router answers, its uplink does not."),
            refused_move("it-manager", "route", "409 not_approved 16", to="noc"),
            compiled("All levels tried; the backbone has to be changed."),
            refused_move("it-manager", "resolve", "403 role_missing -", resolution="Decided away."),
            DECLINED,
            compiled("The same, with the NOC's window: tonight, 22:00 to 23:00."),
            Move(
                "it-manager",
                "add_note",
                {"text": "The window is moved by an hour."},
                "- NoteAdded",
                "deciding it_manager it_manager",
            ),
            refused_move(
                "client", "approve", "409 no_current_dossier 16", dossier_sha256="0" * 64, confirmed_via="web"
            ),
            compiled("The same, with the window from 23:00 to 24:00."),
            refused_move("client", "approve", "409 dossier_mismatch 16", dossier_sha256="0" * 64, confirmed_via="web"),
            APPROVED,
            TO_NOC,
            refused_move("agent-noc", "escalate", "409 no_level_above -", reason="Higher still."),
            taken("agent-noc", "noc"),
            resolved("noc", "Backbone route moved to the second ring."),
            taken("quality", "quality_control"),
            verified("noc", "The branch is online."),
            documented("noc", "A broken fibre.", "Traffic moved to the second ring.", "Line watched for an hour."),
            closed("noc"),
        ),
    ),
    Path(
        "The NOC hands it back, the IT manager returns it to tier 3",
        opened(issue("Phones echo", "Every call to the branch echoes.", "telephony", "medium", "low")),
        (
            *climbed_to_manager("Echo on every line."),
            compiled("All levels tried; the NOC is to look at the trunk."),
            APPROVED,
            TO_NOC,
            Move(
                "agent-noc",
                "return_to_level",
                {"level": "it_manager", "reason": "The trunk is clean, the fault lies in the exchange."},
                "- ReturnedToLevel",
                "deciding it_manager it_manager",
            ),
            Move(
                "it-manager",
                "return_to_level",
                {"level": "tier3", "reason": "The exchange is tier 3's."},
                "- ReturnedToLevel",
                "in_support tier3 tier3",
            ),
            qualified("tier3", True, "The exchange's echo canceller is off."),
            resolved("tier3", "Echo canceller switched on."),
            verified("tier3", "No echo any more."),
            documented("tier3", "Canceller off since the update.", "Switched on.", "Ten calls."),
            closed("tier3"),
        ),
    ),
    Path(
        "Quality control fails, resolved again with the verdict that stands",
        opened(issue("Screen flickers", "Flickers since the new driver.", "hardware", "low", "medium")),
        (
            escalated("tier1", "Not the cable."),
            qualified("tier2", True, "Drivers are at home here."),
            resolved("tier2", "Driver updated."),
            documented("tier2", "Old driver.", "Driver updated.", "Ten minutes of use.", state="resolved"),
            failed("tier2", "It flickers again."),
            resolved("tier2", "Driver taken back to the version before."),
            verified("tier2", "No flicker for a day."),
            refused_move("quality", "close", "409 details_missing 7"),
            documented("tier2", "The new driver.", "Earlier driver pinned.", "A day of use."),
            closed("tier2"),
        ),
    ),
    Path(
        "Four eyes: the resolver does not verify",
        opened(issue("Password forgotten", "Cannot sign in.", "accounts", "low", "high")),
        (
            Move(
                "agent-tier1",
                "change_priority",
                {"impact": "medium", "urgency": "high", "reason": "A deadline today."},
                "- PriorityChanged",
            ),
            resolved("tier1", "Password set anew.", who="desk-of-one"),
            refused_move(
                "desk-of-one", "verify", "409 four_eyes T1-2", satisfied=True, confirmed_via="web", comment="ok"
            ),
            verified("tier1", "Signed in."),
            documented("tier1", "Forgotten after a holiday.", "Password set anew.", "The client signed in."),
            closed("tier1"),
        ),
    ),
    Path(
        "Reopened by the client",
        opened(issue("Mail rule lost", "A rule of the mailbox vanishes.", "software", "low", "low")),
        (
            resolved("tier1", "Rule written anew."),
            verified("tier1", "The rule is there."),
            documented("tier1", "Unknown.", "Rule written anew.", "Rule seen."),
            closed("tier1"),
            mailed("tier1"),
            refused_move("agent-tier1", "add_note", "409 ticket_closed -", text="Too late."),
            Move("client", "reopen", {"reason": "It is gone again."}, "- Reopened", "in_support tier1 tier1"),
            resolved("tier1", "Rule moved from the device to the server."),
            verified("tier1", "Still there after a restart."),
            documented("tier1", "Kept on the device only.", "Rule moved to the server.", "Restarted twice."),
            closed("tier1"),
            mailed("tier1"),
        ),
    ),
    Path(
        "A duplicate, linked and cancelled by intake",
        opened(issue("Printer in room 2, again", "Prints nothing.", "hardware", "low", "low")),
        (
            Move("intake", "link", {"other_ticket_id": "{first}", "relation": "duplicate_of"}, "- Linked"),
            Move("intake", "cancel", {"reason": "A duplicate."}, "- Cancelled", "cancelled tier1 -"),
        ),
    ),
    Path(
        "Cancelled by the client while tier 2 works",
        opened(issue("New keyboard wanted", "A key sticks.", "hardware", "low", "low")),
        (
            escalated("tier1", "No spare keyboard here."),
            qualified("tier2", True, "One is in stock."),
            Move("client", "cancel", {"reason": "It works again."}, "- Cancelled", "cancelled tier2 -"),
            refused_move("client", "reopen", "409 ticket_cancelled -", reason="It sticks again."),
        ),
    ),
)
