"""The procedure as a story: what the contract shows of every command, told by the decisions themselves.

Nothing here is written down twice: bodies are given, and what the desk answers to them is what it decides.
"""

from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any
from uuid import UUID

import msgspec

from application.commands.command import Command, Opening
from application.commands.deciding import Answer, CommandRequest, Outcome, answer, decide, decide_client
from application.commands.procedure_commands import COMMANDS, OPENINGS
from application.commands.supporting_commands import RegisterClient
from domain.client import Client
from domain.events import Recorded
from domain.ticket import Ticket
from domain.values import Level, Principal, Role

BEGIN = datetime(2026, 11, 23, 9, 30, tzinfo=UTC)
TICKET_ID = UUID("019ab000-7c00-7000-8000-00000000002a")
OTHER_ID = UUID("019ab000-7c00-7000-8000-000000000017")
SAMPLE_USER_ID, SAMPLE_NUMBER = "client-17", "T-000042"
STAFF_LEVELS = frozenset(Level) - {Level.IT_MANAGER}
STAFF_PRINCIPAL = Principal(
    "key_desk", "Service desk", frozenset({Role.INTAKE, Role.AGENT, Role.IT_MANAGER}), STAFF_LEVELS
)
CHECKER = Principal("key_quality", "Quality control", frozenset({Role.QUALITY}))
CLIENT_PRINCIPAL = Principal("key_client", "Client", frozenset({Role.CLIENT}), client_user_id=SAMPLE_USER_ID)
DOSSIER_HASH_FIELD = "dossier_sha256"  # in a body of the story it is the hash of the dossier as it stands

REQUEST = "The printer on floor 3 prints blank pages since this morning."
ISSUE = {
    "summary": "Printer on floor 3 prints blank pages",
    "description": "Every job comes out blank, from every computer. The toner was changed yesterday.",
    "category": "printing",
    "impact": "medium",
    "urgency": "high",
}
REGISTRATION = {
    "name": "Client 17",
    "email": "client-17@example.org",
    "phone": "+1 555 0100",
    "organisation": "Accounts",
}
BODIES: dict[str, dict[str, Any]] = {
    "receive_request": {"channel": "email", "text": REQUEST, "sender": {"email": "client-17@example.org"}},
    "open_ticket": {"client_user_id": SAMPLE_USER_ID, "channel": "phone", "text": REQUEST, "issue": ISSUE},
    "identify_client": {"client_user_id": SAMPLE_USER_ID},
    "create": {},
    "document_issue": ISSUE,
    "route": {"to": "tier1"},
    "assign": {"assignee": "key_desk"},
    "release": {},
    "qualify": {"can_resolve": True, "rationale": "The drum unit can be changed here."},
    "escalate": {"reason": "New toner and a cleaning did not help."},
    "resolve": {"resolution": "Changed the drum unit."},
    "verify": {"satisfied": True, "confirmed_via": "phone", "comment": "It prints again, on both sides."},
    "document_resolution": {
        "cause": "The drum unit was worn out.",
        "actions": "Drum unit changed, fuser cleaned.",
        "checked_by_method": "Test page from two computers.",
    },
    "close": {},
    "compile_dossier": {"summary": "Three levels have tried. What is left is the print server's network segment."},
    "approve": {DOSSIER_HASH_FIELD: "", "confirmed_via": "email"},
    "decline": {DOSSIER_HASH_FIELD: "", "confirmed_via": "email", "reason": "Please try another printer first."},
    "return_to_level": {"level": "onsite", "reason": "Try another printer first, as the client asks."},
    "add_note": {"text": "The client is in the office until five.", "visibility": "internal"},
    "change_priority": {"impact": "high", "urgency": "high", "reason": "The whole floor has to print today."},
    "await_client": {"reason": "Does it print a test page from its own panel?"},
    "client_responded": {"text": "Yes, and that page is fine."},
    "cancel": {"reason": "The printer is replaced next week anyway."},
    "reopen": {"reason": "Blank pages again since noon."},
    "link": {"other_ticket_id": str(OTHER_ID), "relation": "follow_up_of"},
}
UP = ("escalate", "qualify")
STORY = (
    *("receive_request", "identify_client", "create", "document_issue", "route", "assign", "release", "add_note"),
    *("change_priority", "await_client", "client_responded", *UP, "resolve", "verify"),
    *("document_resolution", "close", "reopen", "link", *UP, *UP, "escalate", "compile_dossier", "decline"),
    *("return_to_level", "qualify", "escalate", "compile_dossier", "approve", "cancel"),
)
BY = {"verify": CHECKER, "approve": CLIENT_PRINCIPAL, "decline": CLIENT_PRINCIPAL, "reopen": CLIENT_PRINCIPAL}


class StoryStep(msgspec.Struct, frozen=True):
    """One command of the story: its body, what it led to, and what the desk answered."""

    body: dict[str, Any]
    outcome: Outcome

    @property
    def answer(self) -> Answer:
        """The answer to the command."""
        return answer(self.outcome)


@cache
def story() -> dict[str, StoryStep]:
    """Each command as it comes first in the story, in that order; and the ticket that is opened in one go."""
    _, registered = registration()
    other = _decided("open_ticket", OTHER_ID, None, [], 0, registered)
    steps, history, ticket = {"open_ticket": other}, list[Recorded](), None
    others = [*registered, *other.outcome.events]
    for minutes, name in enumerate(STORY):
        step = _decided(name, TICKET_ID, ticket, history, 5 * minutes, others)
        history, ticket = [*history, *step.outcome.events], step.outcome.ticket
        steps.setdefault(name, step)
    return steps


@cache
def registration() -> tuple[Client, tuple[Recorded, ...]]:
    """The directory entry of the client, and its events."""
    contact = msgspec.convert(REGISTRATION, RegisterClient).contact()
    return decide_client(SAMPLE_USER_ID, contact, STAFF_PRINCIPAL, BEGIN - timedelta(days=90), ())


def body_of(name: str, ticket: Ticket | None) -> dict[str, Any]:
    """The body of a command in the story, with the hash of the dossier as it stands."""
    body = BODIES[name]
    return (
        body | {DOSSIER_HASH_FIELD: ticket.dossier.sha256}
        if DOSSIER_HASH_FIELD in body and ticket and ticket.dossier
        else body
    )


def _decided(
    name: str, stream: UUID, ticket: Ticket | None, history: list[Recorded], minutes: int, others: Any
) -> StoryStep:
    kinds: dict[str, type[Command | Opening]] = {**COMMANDS, **{opening.name: opening for opening in OPENINGS}}
    body, now = body_of(name, ticket), BEGIN + timedelta(minutes=minutes)
    streams: dict[UUID, list[Recorded]] = {stream: history}
    for recorded in others:
        streams.setdefault(recorded.originator_id, []).append(recorded)
    number = "T-000023" if stream == OTHER_ID else SAMPLE_NUMBER
    request = CommandRequest(stream, msgspec.convert(body, kinds[name]), BY.get(name, STAFF_PRINCIPAL), now)
    return StoryStep(body, decide(request, streams, number))
