"""A body of each operation that takes one, by the name of its struct: what people copy, and tests send."""

from typing import Any

ISSUE = {
    "summary": "Printer on floor 3 prints blank pages",
    "description": "Every job comes out blank, from every computer. The toner was changed yesterday.",
    "category": "printing",
    "impact": "medium",
    "urgency": "high",
}
REQUEST = "The printer on floor 3 prints blank pages since this morning."
DOSSIER_SHA256 = "5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8"
OTHER_TICKET_ID = "019ab000-7c00-7000-8000-000000000017"

BODY_EXAMPLES: dict[str, dict[str, Any]] = {
    "ReceiveRequest": {"channel": "email", "text": REQUEST, "sender": {"email": "client-17@example.org"}},
    "OpenTicket": {"client_user_id": "client-17", "channel": "phone", "text": REQUEST, "issue": ISSUE},
    "IdentifyClient": {"client_user_id": "client-17"},
    "DocumentIssue": ISSUE,
    "RouteTicket": {"to": "tier1"},
    "AssignTicket": {"assignee": "key_desk"},
    "QualifyTicket": {"can_resolve": True, "rationale": "The drum unit can be changed here."},
    "EscalateTicket": {"reason": "New toner and a cleaning did not help."},
    "ResolveTicket": {"resolution": "Changed the drum unit."},
    "VerifyTicket": {"satisfied": True, "confirmed_via": "phone", "comment": "It prints again, on both sides."},
    "DocumentResolution": {"cause": "Worn drum unit.", "actions": "Drum changed.", "checked_by_method": "Test page."},
    "CompileDossier": {"summary": "Three levels have tried. What is left is the print server's network segment."},
    "ApproveDossier": {"dossier_sha256": DOSSIER_SHA256, "confirmed_via": "email"},
    "DeclineDossier": {"dossier_sha256": DOSSIER_SHA256, "confirmed_via": "email", "reason": "Try another printer."},
    "ReturnToLevel": {"level": "onsite", "reason": "Try another printer first, as the client asks."},
    "AddNote": {"text": "The client is in the office until five.", "visibility": "internal"},
    "ChangePriority": {"impact": "high", "urgency": "high", "reason": "The whole floor has to print today."},
    "AwaitClient": {"reason": "Does it print a test page from its own panel?"},
    "RecordClientResponse": {"text": "Yes, and that page is fine."},
    "CancelTicket": {"reason": "The printer is replaced next week anyway."},
    "ReopenTicket": {"reason": "Blank pages again since noon."},
    "LinkTicket": {"other_ticket_id": OTHER_TICKET_ID, "relation": "follow_up_of"},
    "CorrectClient": {"client_user_id": "client-17", "reason": "Client 71 had called for a colleague."},
    "AmendIssue": {"summary": "Printer on floor 4 prints blank pages", "reason": "It is the one above."},
    "RegisterClient": {"name": "Client 17", "email": "client-17@example.org", "phone": "+1 555 0100"},
    "CreateWebhook": {"url": "https://example.org/in", "types": ["Ticket.Closed"]},
    "ChangeWebhook": {"types": ["Ticket.Created", "Ticket.Closed"]},
    "DisableWebhook": {"reason": "The receiver moves house."},
    "RotateSecret": {"overlap_hours": 24},
    "Replay": {"after": 0},
}
