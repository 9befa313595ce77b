"""Every command with what it is given, and every event with its step, written by hand."""

from collections.abc import Callable
from typing import Any
from uuid import UUID

from domain import decisions as d
from domain import events as e
from domain.client import Client
from domain.rules import Given
from domain.ticket import Issue, Ticket
from domain.values import Channel, Grade, Level, Relation, Visibility
from tests.support.given import DOSSIER, EARLIER, HASH

# One way to give every command; those with two ways (a verdict, a target) have both.
COMMANDS: dict[str, Callable[[Ticket, Given], Any]] = {
    "identify_client": lambda t, g: d.identify_client(t, g, Client(1, "client-b", "client-b", "b@example.org")),
    "create": lambda t, g: d.create(t, g, "T-000002"),
    "document_issue": lambda t, g: d.document_issue(t, g, Issue("Jam", "It jams.", "printing", Grade.LOW, Grade.LOW)),
    "route": lambda t, g: d.route(t, g, None),
    "assign": lambda t, g: d.assign(t, g, "agent-noc"),
    "release": d.release,
    "qualify.can": lambda t, g: d.qualify(t, g, True, "it is known"),
    "qualify.cannot": lambda t, g: d.qualify(t, g, False, "it is not known"),
    "escalate": lambda t, g: d.escalate(t, g, "needs more skill"),
    "resolve": lambda t, g: d.resolve(t, g, "cable replaced"),
    "verify.yes": lambda t, g: d.verify(t, g, True, Channel.PHONE, "It prints."),
    "verify.no": lambda t, g: d.verify(t, g, False, Channel.PHONE, "It does not."),
    "document_resolution": lambda t, g: d.document_resolution(t, g, "worn cable", "replaced", "test page"),
    "close": d.close,
    "compile_dossier": lambda t, g: d.compile_dossier(t, g, "once more", ("1. all",)),
    "approve": lambda t, g: d.approve(t, g, HASH, Channel.EMAIL),
    "decline": lambda t, g: d.decline(t, g, HASH, Channel.EMAIL, "too dear"),
    "return_to_level.tier2": lambda t, g: d.return_to_level(t, g, Level.TIER2, "try this"),
    "return_to_level.manager": lambda t, g: d.return_to_level(t, g, Level.IT_MANAGER, "not a network matter"),
    "add_note": lambda t, g: d.add_note(t, g, "seen", Visibility.INTERNAL),
    "change_priority": lambda t, g: d.change_priority(t, g, Grade.HIGH, Grade.HIGH, "everybody waits"),
    "await_client": lambda t, g: d.await_client(t, g, "the model"),
    "client_responded": lambda t, g: d.client_responded(t, g, "here it is"),
    "cancel": lambda t, g: d.cancel(t, g, "not needed"),
    "reopen": lambda t, g: d.reopen(t, g, "it came back"),
    "link": lambda t, g: d.link(t, g, EARLIER, Relation.FOLLOW_UP_OF),
    "correct_client": lambda t, g: d.correct_client(t, g, Client(1, "client-b", "B", "b@example.org"), "a colleague"),
    "amend_issue": lambda t, g: d.amend_issue(t, g, "it is another one", "Jam"),
}
# "Every step of the source", for the levels in the order of the ladder: tier1, tier2, tier3, onsite, it_manager, noc.
STEPS: dict[str, tuple[Callable[[Level], e.Event], str]] = {
    "RequestReceived": (lambda _: e.RequestReceived(Channel.WEB, "help"), "1 1 1 1 1 1"),
    "ClientIdentified": (lambda _: e.ClientIdentified("client-a", "client-a"), "2 2 2 2 2 2"),
    "Created": (lambda _: e.Created("T-000001"), "3 3 3 3 3 3"),
    "IssueDocumented": (lambda _: e.IssueDocumented("s", "d", "c", Grade.LOW, Grade.LOW, 5), "4 4 4 4 4 4"),
    "Routed": (e.Routed, "4 . . . . 16"),
    "Assigned": (lambda _: e.Assigned("agent-noc"), "- - - - - -"),
    "Released": (lambda _: e.Released("agent-noc"), "- - - - - -"),
    "Qualified": (lambda level: e.Qualified(level, True, "known"), "- T1-4 8 12 . -"),
    "Escalated": (lambda level: e.Escalated(Level.TIER1, level, "more skill"), "- T1-4 8 12 16 -"),
    "Resolved": (lambda level: e.Resolved(level, "fixed"), "T1-1 5 9 13 - 17"),
    "QCVerified": (lambda level: e.QCVerified(level, Channel.WEB, "good"), "T1-2 6 10 14 - 18"),
    "QCFailed": (lambda level: e.QCFailed(level, Channel.WEB, "bad"), "T1-2 6 10 14 - 18"),
    "ResolutionDocumented": (lambda level: e.ResolutionDocumented(level, "c", "a", "m"), "T1-3 7 11 15 - 19"),
    "Closed": (e.Closed, "T1-3 7 11 15 - 19"),
    "ClosureEmailSent": (lambda _: e.ClosureEmailSent(9, "<9@desk>", 1), "T1-3 7 11 15 - 19"),
    "ClosureEmailFailed": (lambda _: e.ClosureEmailFailed(9, "<9@desk>", 1, "no"), "T1-3 7 11 15 - 19"),
    "DossierCompiled": (lambda _: DOSSIER[0], "16 16 16 16 16 16"),
    "ClientApproved": (lambda _: DOSSIER[1], "16 16 16 16 16 16"),
    "ClientDeclined": (lambda _: e.ClientDeclined(HASH, Channel.WEB, "no"), "16 16 16 16 16 16"),
    "ReturnedToLevel": (lambda level: e.ReturnedToLevel(Level.IT_MANAGER, level, "try"), "- - - - - -"),
    "NoteAdded": (lambda _: e.NoteAdded("seen", Visibility.CLIENT), "- - - - - -"),
    "PriorityChanged": (lambda _: e.PriorityChanged(Grade.LOW, Grade.LOW, 5, "alone"), "- - - - - -"),
    "ClientAwaited": (lambda _: e.ClientAwaited("the model"), "- - - - - -"),
    "ClientResponded": (lambda _: e.ClientResponded("here"), "- - - - - -"),
    "Cancelled": (lambda _: e.Cancelled("not needed"), "- - - - - -"),
    "Reopened": (lambda level: e.Reopened(level, "again"), "- - - - - -"),
    "Linked": (lambda _: e.Linked(UUID(int=7), Relation.RELATED_TO), "- - - - - -"),
    "ClientCorrected": (lambda _: e.ClientCorrected("client-b", "client-b", "a colleague"), "- - - - - -"),
    "IssueAmended": (lambda _: e.IssueAmended("another one", "Jam"), "- - - - - -"),
}
