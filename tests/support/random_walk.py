"""Random but legal work: a seeded walk of commands through the desk, as somebody might do it in a busy week."""

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from application.commands.command import Command
from application.commands.deciding import CommandRequest, Outcome, new_stream_id
from application.commands.procedure_commands import COMMANDS, DocumentIssue, OpenTicket, ReceiveRequest, RequestSender
from application.commands.supporting_commands import RegisterClient
from application.helpdesk import HelpDesk
from domain.rules import Given, allowed_commands
from domain.ticket import fold
from domain.values import Channel, Grade, Level, Principal, Relation, Role, Visibility

START = datetime(2026, 3, 2, 8, 0, tzinfo=UTC)
LEVELS = frozenset(Level) - {Level.IT_MANAGER}
STAFF = Principal("staff", "staff", frozenset(Role) - {Role.SYSTEM, Role.CLIENT}, LEVELS)
CHECKER = Principal("checker", "checker", frozenset({Role.QUALITY}))
CLIENT = Principal("client-1", "client-1", frozenset({Role.CLIENT}), client_user_id="client-1")
COMMONLY = {  # what is given more often, so that tickets get somewhere
    "route": 8, "qualify": 6, "escalate": 3, "resolve": 4, "verify": 6, "document_resolution": 6, "close": 10,
    "compile_dossier": 6, "approve": 6, "create": 8, "identify_client": 4, "document_issue": 6, "cancel": 0.15,
    "link": 0.3, "correct_client": 0.3,
}  # fmt: skip


class Walk:
    """Gives random commands that are possible; `desk` records them. `opening` is how many of them begin a ticket."""

    def __init__(self, desk: HelpDesk, seed: int, opening: float = 0.12) -> None:
        self.desk, self.chance, self.now, self.opening = desk, random.Random(seed), START, opening
        self.tickets: list[UUID] = []
        for name in ("client-1", "client-2"):
            contact = RegisterClient(name.replace("-", " "), f"{name}@example.org").contact()
            desk.register_client(name, contact, STAFF, START)

    def steps(self, count: int) -> Iterator[Outcome]:
        """So many commands, and what they led to."""
        for _ in range(count):
            self.now += timedelta(minutes=self.chance.randint(0, 600))
            if not self.tickets or self.chance.random() < self.opening:
                yield self._open()
            elif outcome := self._go_on(self.chance.choice(self.tickets)):
                yield outcome

    def _open(self) -> Outcome:
        issue = DocumentIssue("it is broken", "it does not work", "hardware", self._grade(), self._grade())
        opening = OpenTicket("client-1", Channel.PHONE, "help", issue)
        request = ReceiveRequest(Channel.WALK_IN, "help", RequestSender("somebody"))
        outcome = self._execute(new_stream_id(self.now), self.chance.choice([opening, opening, request]), STAFF)
        self.tickets.append(outcome.ticket.ticket_id)
        return outcome

    def _go_on(self, ticket_id: UUID) -> Outcome | None:
        who = self.chance.choice([STAFF, STAFF, STAFF, CHECKER, CLIENT])
        found = look(self.desk.history(ticket_id), who, self.now)
        names = [name for name in found.possible if name != "link" or len(self.tickets) > 1]
        if not names:
            return None
        name = self.chance.choices(names, [COMMONLY.get(name, 1) for name in names])[0]
        return self._execute(ticket_id, self._command(name, found), who)

    def _execute(self, ticket_id: UUID, command: Any, who: Principal) -> Outcome:
        return self.desk.execute(CommandRequest(ticket_id, command, who, self.now))

    def _command(self, name: str, outcome: Outcome) -> Command:
        ticket, words = outcome.ticket, f"because {self.chance.randint(1, 10**9)}"
        dossier = {"dossier_sha256": ticket.dossier.sha256 if ticket.dossier else "", "confirmed_via": Channel.PHONE}
        others = [other for other in self.tickets if other != ticket.ticket_id]
        back = Level.IT_MANAGER if ticket.level is Level.NOC else self.chance.choice(list(Level)[:4])
        fields: dict[str, dict[str, Any]] = {
            "identify_client": {"client_user_id": "client-1"},
            "document_issue": {"summary": words, "description": words, "category": "network", **self._grades()},
            "qualify": {"can_resolve": self.chance.random() < 0.5, "rationale": words},
            "resolve": {"resolution": words},
            "verify": {"satisfied": self.chance.random() < 0.7, "confirmed_via": Channel.EMAIL, "comment": words},
            "document_resolution": {"cause": words, "actions": words, "checked_by_method": words},
            "compile_dossier": {"summary": words},
            "approve": dossier,
            "decline": {**dossier, "reason": words},
            "return_to_level": {"level": back, "reason": words},
            "add_note": {"text": words, "visibility": self.chance.choice(list(Visibility))},
            "change_priority": {**self._grades(), "reason": words},
            "client_responded": {"text": words},
            "link": {
                "other_ticket_id": self.chance.choice(others or [ticket.ticket_id]),
                "relation": Relation.RELATED_TO,
            },
        }
        fields |= {
            "reopen": {"reason": words, "confirmed_via": Channel.PHONE},
            "correct_client": {"client_user_id": self.chance.choice(["client-1", "client-2"]), "reason": words},
            "amend_issue": {"reason": words, self.chance.choice(["summary", "description", "category"]): words},
        }
        fieldless = {"create", "route", "assign", "release", "close"}
        return COMMANDS[name](**fields.get(name, {} if name in fieldless else {"reason": words}))

    def _grade(self) -> Grade:
        return self.chance.choice(list(Grade))

    def _grades(self) -> dict[str, Grade]:
        return {"impact": self._grade(), "urgency": self._grade()}


def look(history: list[Any], who: Principal, now: datetime) -> Outcome:
    """The ticket, and what this principal may do with it now."""
    ticket = fold(history)
    assert ticket is not None
    return Outcome(ticket, (), allowed_commands(ticket, Given(who, max(now, ticket.updated_at))))
