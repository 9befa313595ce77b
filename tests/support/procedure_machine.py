"""The whole procedure at random, against a small model of it that was written from the page and not from the code.

A life of a desk is a hundred commands: `tests/domain` runs a few, the same ones each time, and `tests/system` many.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from graphlib import TopologicalSorter
from hashlib import sha256
from typing import Any
from uuid import UUID

import msgspec
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
)

from application.commands import procedure_commands as c
from application.commands import supporting_commands as s
from application.commands.command import Command, Opening
from application.commands.deciding import CommandRequest, Outcome, decide, decide_client
from application.store.event_store import to_recorded, to_row
from domain import errors
from domain import events as e
from domain.client import Contact, client_stream
from domain.ticket import Ticket, evolve, fold
from domain.values import Actor, Channel, Grade, Level, Principal, Queue, Relation, Role
from tests.support.given import HASH, START

QUIET = settings(deadline=None, stateful_step_count=100, suppress_health_check=list(HealthCheck), database=None)

# ── The model: what the page says ───────────────────────────────────────────────────────────────────────────

ABOVE = {"tier1": "tier2", "tier2": "tier3", "tier3": "onsite", "onsite": "it_manager"}
QUALIFIES = ("tier2", "tier3", "onsite")
INTAKE, MANAGED = ("received", "identified", "created", "documented"), ("deciding", "awaiting_approval", "approved")
ENDED = ("closed", "cancelled")
WINDOW = timedelta(days=14)
GRADES = ("low", "medium", "high")


@dataclass
class Sheet:
    """A ticket as somebody would keep it on paper."""

    state: str = "received"
    level: str | None = None
    verdict: str | None = None
    client: str | None = None
    holder: str | None = None
    waits_for: str | None = None
    issue: tuple[str, str] | None = None
    summary: str | None = None
    resolver: str | None = None
    details: str | None = None
    dossier: tuple[str, str] | None = None
    declined: str | None = None
    last_dossier: str = HASH
    closed_at: datetime | None = None
    links: set[tuple[UUID, str]] = field(default_factory=set)

    @property
    def queue(self) -> str | None:
        """Rule 11: exactly one queue while it is open, none afterwards."""
        if self.state == "in_support":
            return self.level
        if self.state in INTAKE:
            return "intake"
        if self.state in MANAGED:
            return "it_manager"
        return {"resolved": "quality_control", "verified": "closing"}.get(self.state)

    def possible(self, name: str, by: str, now: datetime) -> bool:
        """Rules 1 to 9: whether the page allows a command now, whoever may give it."""
        supported = self.state == "in_support"
        match name:
            case "identify_client":
                return self.state in ("received", "identified")
            case "create":
                return self.state == "identified"
            case "document_issue":
                return self.state in ("created", "documented")
            case "route":
                return self.state in ("documented", "approved")
            case "qualify":
                return supported and self.level in QUALIFIES and self.verdict == "to_qualify"
            case "escalate":
                return supported and self.level != "noc" and self.verdict != "to_qualify"
            case "resolve":
                return supported and self.verdict in (None, "can_resolve")
            case "verify":
                return self.state == "resolved" and by != self.resolver
            case "document_resolution":
                return self.state in ("resolved", "verified")
            case "close":
                return self.state == "verified" and self.details is not None
            case "compile_dossier":
                return self.state in MANAGED
            case "approve" | "decline":
                return self.state == "awaiting_approval"
            case "return_to_level":
                return self.state in MANAGED or (supported and self.level == "noc")
            case "change_priority":
                return self.state not in ("received", "identified", "created", *ENDED)
            case "await_client":
                return supported
            case "client_responded":
                return supported and self.waits_for is not None
            case "reopen":
                return self.state == "closed" and self.closed_at is not None and now <= self.closed_at + WINDOW
            case "link":
                return True
            case "correct_client":
                return self.state not in ("received", "identified", *ENDED)
            case "amend_issue":
                return self.state not in ("received", "identified", "created", *ENDED)
        return self.state not in ENDED  # assign, release, add_note, cancel

    def fits(self, command: Any) -> bool:
        """Whether a possible command asks for what the page allows: the right level, the right hash."""
        match command:
            case c.RouteTicket(to):
                return to in (None, "noc" if self.state == "approved" else "tier1")
            case s.ReturnToLevel(level):
                return level in (("it_manager",) if self.state == "in_support" else ABOVE)
            case c.ApproveDossier(digest) | c.DeclineDossier(digest):
                return self.dossier is not None and self.dossier[0] == digest
            case s.AssignTicket("agent-1"):
                return self.queue == "tier1"
            case s.AssignTicket("agent-2"):
                return False
        return True

    def already(self, command: Any) -> bool:
        """Rule 10: whether what is wanted is so already."""
        match command:
            case c.IdentifyClient(client):
                return self.client == client
            case c.CreateTicket():
                return self.state == "created"
            case c.DocumentIssue(impact=impact, urgency=urgency, summary=summary):
                return self.state == "documented" and (*(self.issue or ()), self.summary) == (impact, urgency, summary)
            case c.RouteTicket(to):
                return self.state == "in_support" and self.level in ("tier1", "noc") and to in (None, self.level)
            case c.QualifyTicket(can):
                return self.state == "in_support" and self.verdict == ("can_resolve" if can else "cannot_resolve")
            case c.ResolveTicket():
                return self.state == "resolved"
            case c.VerifyTicket(satisfied):
                return satisfied and self.state == "verified"
            case c.DocumentResolution(cause):
                return self.state in ("resolved", "verified") and self.details == cause
            case c.CloseTicket():
                return self.state == "closed"
            case c.CompileDossier(summary):
                return self.state in MANAGED[1:] and self.dossier is not None and self.dossier[1] == summary
            case c.ApproveDossier(digest):
                return self.state == "approved" and self.dossier is not None and self.dossier[0] == digest
            case c.DeclineDossier(digest):
                return self.state == "deciding" and self.declined == digest
            case s.AssignTicket(assignee):
                return self.holder == assignee
            case s.ReleaseTicket():
                return self.state not in ENDED and self.holder is None
            case s.ClaimNext(queue):
                return self.holder is not None or self.queue != queue
            case s.ChangePriority(impact, urgency):
                return self.possible("change_priority", "", START) and self.issue == (impact, urgency)
            case s.AwaitClient(reason):
                return self.waits_for == reason
            case s.CancelTicket():
                return self.state == "cancelled"
            case s.LinkTicket(other, relation):
                return (other, relation) in self.links
            case s.CorrectClient(client):
                return self.client == client
            case s.AmendIssue(_, summary):
                return self.possible("amend_issue", "", START) and self.summary == summary
        return False

    def arrive(self, level: str) -> None:
        """A ticket comes to a level, which has not said anything of it yet."""
        self.state, self.level = "deciding" if level == "it_manager" else "in_support", level
        self.verdict = "to_qualify" if level in QUALIFIES else None
        self.dossier = self.declined = None

    def take(self, recorded: e.Recorded) -> None:
        """Writes one event down."""
        queue, stood, event = self.queue, self.state in MANAGED[1:], recorded.event
        match event:
            case e.ClientIdentified(client):
                self.state, self.client = "identified", client
            case e.Created():
                self.state = "created"
            case e.IssueDocumented(impact=impact, urgency=urgency):
                self.state, self.issue = "documented", (impact, urgency)
            case e.Routed(level) | e.Escalated(to_level=level) | e.ReturnedToLevel(to_level=level):
                self.arrive(level)
            case e.Qualified(_, can):
                self.verdict = "can_resolve" if can else "cannot_resolve"
            case e.Resolved():
                self.state, self.resolver, self.details = "resolved", recorded.actor.id, None
            case e.QCVerified():
                self.state = "verified"
            case e.QCFailed():
                self.state = "in_support"
            case e.ResolutionDocumented(_, cause):
                self.details = cause
            case e.Closed():
                self.state, self.closed_at = "closed", recorded.at
            case e.Reopened():
                self.state, self.closed_at = "in_support", None
            case e.Cancelled():
                self.state = "cancelled"
            case e.DossierCompiled(summary, digest):
                self.state, self.dossier, self.declined = "awaiting_approval", (digest, summary), None
                self.last_dossier = digest
            case e.ClientApproved():
                self.state = "approved"
            case e.ClientDeclined(digest):
                self.state, self.dossier, self.declined = "deciding", None, digest
            case e.ClientCorrected() if self.state == "verified":  # not the client's word
                self.state = "resolved"
            case _ if stood:  # rule 8: activity after the dossier voids it
                self.state, self.dossier = "deciding", None
        match event:
            case e.Assigned(holder):
                self.holder = holder
            case e.Released():
                self.holder = None
            case e.PriorityChanged(impact, urgency):
                self.issue = (impact, urgency)
            case e.IssueDocumented(summary) | e.IssueAmended(_, summary):
                self.summary = summary
            case e.ClientCorrected(client):
                self.client, self.dossier, self.declined = client, None, None
            case e.ClientAwaited(reason):
                self.waits_for = reason
            case e.ClientResponded():
                self.waits_for = None
            case e.Linked(other, relation):
                self.links.add((other, relation))
        if self.queue != queue:
            self.holder = self.waits_for = None


def lawful(history: list[e.Recorded], new: e.Recorded) -> None:
    """Asserts what the rules say of an event, by nothing but the events before it."""
    names = [type(recorded.event).__name__ for recorded in history]
    resolved = max((n for n, name in enumerate(names) if name == "Resolved"), default=None)
    since = names[resolved:] if resolved is not None else []
    of_client = names[max((n for n, name in enumerate(names) if name == "ClientCorrected"), default=0) :]
    match new.event:
        case e.Created():  # rule 1
            assert "ClientIdentified" in names
        case e.Routed("tier1"):
            assert "IssueDocumented" in names
            assert "Routed" not in names
        case e.Routed(to):  # rule 8: approved as it stands
            assert (to, names[-2:]) == ("noc", ["DossierCompiled", "ClientApproved"])
            assert history[-1].event.dossier_sha256 == history[-2].event.sha256
        case e.Qualified(level):  # rule 3: one verdict for each arrival
            arrivals = [n for n, recorded in enumerate(history) if getattr(recorded.event, "to_level", None) == level]
            assert level in QUALIFIES
            assert "Qualified" not in names[arrivals[-1] :]
        case e.Escalated(below, above):  # rule 4: one rung
            assert ABOVE[below] == above
        case e.Resolved(level) if level in QUALIFIES:
            (*_, verdict) = (recorded.event for recorded in history if isinstance(recorded.event, e.Qualified))
            assert (verdict.level, verdict.can_resolve) == (level, True)
        case e.QCVerified() | e.QCFailed():  # rule 5: four eyes, once for each resolution
            assert history[resolved].actor.id != new.actor.id
            assert not {"QCVerified", "QCFailed"} & set(since) & set(of_client[-len(since) :])
        case e.Closed():  # rule 6
            assert {"QCVerified", "ResolutionDocumented"} <= set(since)
            assert "QCVerified" in of_client  # by the word of whose ticket it is
            assert not {"QCFailed", "Reopened", "Closed"} & set(since)
        case e.DossierCompiled(_, digest, through, _, entries):  # rule 8
            assert digest == sha256(msgspec.json.encode(entries, order="sorted")).hexdigest()
            assert through == len(entries) == len(history) == new.originator_version - 1
        case e.ClientApproved(digest) | e.ClientDeclined(digest):
            assert (names[-1], history[-1].event.sha256) == ("DossierCompiled", digest)
        case e.Reopened(level):  # rule 9
            closed = history[max(n for n, name in enumerate(names) if name == "Closed")]
            assert new.at <= closed.at + WINDOW
            assert level == closed.event.level == history[resolved].event.level


# ── Who may, by the page ────────────────────────────────────────────────────────────────────────────────────

BY_ROLE = {
    Role.INTAKE: "identify_client create document_issue add_note cancel change_priority link reopen correct_client"
    " amend_issue",
    Role.QUALITY: "verify close add_note reopen",
    Role.IT_MANAGER: "compile_dossier return_to_level cancel change_priority add_note assign release approve decline",
    Role.CLIENT: "add_note client_responded approve decline cancel reopen",
}
AT_LEVEL = "qualify escalate resolve await_client client_responded document_resolution close add_note amend_issue"
HOLDING = "assign release change_priority return_to_level"
CLAIMED_BY = {Role.INTAKE: INTAKE, Role.QUALITY: ("resolved", "verified"), Role.IT_MANAGER: MANAGED}


def may(who: Principal, name: str, sheet: Sheet) -> bool:
    """Whether the page lets somebody give a command on a ticket that stands so."""
    at_level = Role.AGENT in who.roles and sheet.level in who.levels
    if name == "route":  # intake to tier 1, the IT manager to the NOC; where the ticket is routed already, either again
        by_intake, by_manager = sheet.state not in MANAGED, sheet.state not in INTAKE
        return (by_intake and Role.INTAKE in who.roles) or (by_manager and Role.IT_MANAGER in who.roles)
    if name == "claim_next":
        held = at_level and sheet.state == "in_support"
        return held or any(role in who.roles and sheet.state in states for role, states in CLAIMED_BY.items())
    own = sheet.client is not None and sheet.client == who.client_user_id
    named = (role for role, names in BY_ROLE.items() if role in who.roles and name in names.split())
    return (
        any(role is not Role.CLIENT or own for role in named)
        or (name == "release" and Role.QUALITY in who.roles and sheet.state in CLAIMED_BY[Role.QUALITY])
        or (at_level and name in AT_LEVEL.split())
        or (at_level and sheet.state == "in_support" and name in HOLDING.split())
    )


def key(name: str, *roles: Role, levels: tuple[Level, ...] = (), client: str | None = None) -> Principal:
    """A key with its roles."""
    return Principal(name, name, frozenset(roles), frozenset(levels), client)


RESOLVING = (Level.TIER1, Level.TIER2, Level.TIER3, Level.ONSITE, Level.NOC)
KEYS = [
    key("intake-desk", Role.INTAKE),
    *(key(f"agent-{level}", Role.AGENT, levels=(level,)) for level in RESOLVING),
    key("agent-everywhere", Role.AGENT, Role.QUALITY, levels=RESOLVING),
    key("quality-desk", Role.QUALITY),
    key("it-manager", Role.IT_MANAGER),
    key("client-a", Role.CLIENT, client="client-a"),
    key("client-b", Role.CLIENT, client="client-b"),
    key("auditor", Role.AUDITOR),
]

# Who can be given a ticket: everything, only what is at tier 1; of anybody else the desk knows nothing.
ASSIGNEES = {
    "agent-0": key("agent-0", *Role, levels=RESOLVING),
    "agent-1": key("agent-1", Role.AGENT, levels=(Level.TIER1,)),
}

# ── The desk ────────────────────────────────────────────────────────────────────────────────────────────────


def digest_of(sheet: Sheet, n: int) -> str:
    """The hash of the last dossier, whether it stands or not; sometimes of none."""
    return HASH if n == 3 else sheet.last_dossier


RETURNS = [
    [Level.TIER1, Level.TIER2, Level.ONSITE, Level.IT_MANAGER],
    [Level.IT_MANAGER, Level.IT_MANAGER, Level.IT_MANAGER, Level.TIER3],
]
WISHES: dict[str, Callable[[Sheet, int], Command]] = {
    "identify_client": lambda _, n: c.IdentifyClient(("client-a", "client-a", "client-a", "client-b")[n]),
    "create": lambda *_: c.CreateTicket(),
    "document_issue": lambda _, n: c.DocumentIssue("s", "d", "c", Grade(GRADES[n % 3]), Grade.HIGH),
    "route": lambda _, n: c.RouteTicket((None, Level.TIER1, Level.NOC, Level.TIER2)[n]),
    "qualify": lambda _, n: c.QualifyTicket(n % 2 == 0, "looked at"),
    "escalate": lambda *_: c.EscalateTicket("needs more skill"),
    "resolve": lambda *_: c.ResolveTicket("fixed"),
    "verify": lambda _, n: c.VerifyTicket(n > 0, Channel.PHONE, "said so"),
    "document_resolution": lambda _, n: c.DocumentResolution(f"cause {n % 2}", "actions", "method"),
    "close": lambda *_: c.CloseTicket(),
    "compile_dossier": lambda _, n: c.CompileDossier(f"summary {n % 2}"),
    "approve": lambda sheet, n: c.ApproveDossier(digest_of(sheet, n), Channel.EMAIL),
    "decline": lambda sheet, n: c.DeclineDossier(digest_of(sheet, n), Channel.EMAIL, "too dear"),
    "return_to_level": lambda sheet, n: s.ReturnToLevel(RETURNS[sheet.level == "noc"][n], "why"),
    "assign": lambda _, n: s.AssignTicket(f"agent-{(0, 1, 0, 2)[n]}"),
    "claim_next": lambda _, n: s.ClaimNext((Queue.TIER1, Queue.QUALITY_CONTROL, Queue.CLOSING, Queue.NOC)[n]),
    "release": lambda *_: s.ReleaseTicket(),
    "add_note": lambda *_: s.AddNote("seen"),
    "change_priority": lambda _, n: s.ChangePriority(Grade(GRADES[n % 3]), Grade.HIGH, "judged anew"),
    "await_client": lambda _, n: s.AwaitClient(f"reason {n % 2}"),
    "client_responded": lambda *_: s.RecordClientResponse("here it is"),
    "cancel": lambda *_: s.CancelTicket("not needed"),
    "reopen": lambda _, n: s.ReopenTicket("it came back", (None, Channel.PHONE, Channel.WEB, Channel.PHONE)[n]),
    "link": lambda _, n: s.LinkTicket(UUID(int=n + 1), (*Relation, Relation.DUPLICATE_OF)[n]),
    "correct_client": lambda _, n: s.CorrectClient(("client-a", "client-b")[n % 2], "a colleague"),
    "amend_issue": lambda _, n: s.AmendIssue("another one", ("s", "t")[n % 2]),
}
NAMES = [name for name in WISHES if name != "claim_next"]
BESIDE = ["assign", "release", "add_note", "change_priority", "await_client", "client_responded", "link"]
BESIDE += ["correct_client", "amend_issue"]
STEPS = [name for name in NAMES if name not in BESIDE and name != "cancel"]
UPWARDS = {  # the next step of a ticket that nobody can resolve, up to the NOC, and then through to its closure
    "received": ("identify_client", 0),
    "identified": ("create", 0),
    "created": ("document_issue", 0),
    "documented": ("route", 0),
    "deciding": ("compile_dossier", 0),
    "awaiting_approval": ("approve", 0),
    "approved": ("route", 0),
    "resolved": ("verify", 1),
}
MOST_TICKETS = 6
WEIGHTS = [
    *["take_step"] * 6,
    *["go_upwards"] * 3,
    *["do_beside"] * 2,
    *["want_impossible"] * 3,
    *["want_forbidden"] * 2,
    *["want_anything"] * 2,
    *["receive", "let_time_pass", "hear_of_mail"],
]
reached: Counter[str] = Counter()
FURTHER = timedelta(seconds=4)  # than two clocks may differ, each of them by 2 s


def said_no(
    error: errors.DeskError,
    who: Principal,
    sheet: Sheet,
    name: str,
    can: set[str],
    stale: bool,
    permitted: bool,
    open_: bool,
) -> None:
    """Asserts that a no is the right one: of the caller, of the version, of the procedure, or of the other ticket."""
    match error:
        case errors.UnknownTicket():
            assert who.roles == {Role.CLIENT}
            assert who.client_user_id != sheet.client
        case errors.Forbidden():
            assert not permitted
        case errors.StaleVersion():
            assert stale
        case errors.Refused():
            assert not stale
            assert not (permitted and open_)
            assert set(error.possible) == can
        case _:
            assert not stale
            assert (name, type(error)) in {
                ("link", errors.LinkToSelf),
                ("link", errors.UnknownOther),
                ("reopen", errors.ConfirmationMissing),
                ("assign", errors.AssigneeLacksRole),
                ("assign", errors.UnknownAssignee),
            }


class Desk(RuleBasedStateMachine):
    """Several tickets, a dozen keys, and a clock that is sometimes set back."""

    def __init__(self) -> None:
        super().__init__()
        self.now = START
        self.streams: dict[UUID, list[e.Recorded]] = {}
        self.tickets: dict[UUID, Ticket] = {}
        self.sheets: dict[UUID, Sheet] = {}
        self.flow: Counter[str] = Counter()
        for user_id in ("client-a", "client-b"):
            _, new = decide_client(user_id, Contact(user_id, f"{user_id}@example.org"), KEYS[0], START, ())
            self.streams[client_stream(user_id)] = [*new]

    @initialize()
    def begin(self) -> None:
        """A desk begins with one ticket that is documented and one that is just received."""
        self.receive(2)
        self.receive(0)

    @rule(
        what=st.sampled_from(WEIGHTS),
        ticket=st.integers(0, MOST_TICKETS - 1),
        pick=st.integers(0, 255),
        n=st.integers(0, 3),
    )
    def something_happens(self, what: str, ticket: int, pick: int, n: int) -> None:
        """One rule for all, for the weights are ours: hypothesis would switch off some rules for a whole life."""
        getattr(self, what)(*{"receive": (n,), "let_time_pass": (pick,)}.get(what, (ticket, pick, n)))

    def receive(self, n: int) -> None:
        """Steps 1 to 4, as far as the channel goes."""
        issue = c.DocumentIssue("s", "d", "c", Grade.LOW, Grade.HIGH)
        opening: Opening = c.ReceiveRequest(Channel.WEB, "help", c.RequestSender())
        if n:
            opening = c.OpenTicket("client-a", Channel.WEB, "help", issue if n > 1 else None)
        ticket_id = UUID(int=len(self.tickets))
        if len(self.tickets) < MOST_TICKETS:
            outcome = decide(CommandRequest(ticket_id, opening, KEYS[0], self.now), self.streams, "T-000001")
            self.record(ticket_id, outcome.events)

    def want_anything(self, ticket: int, pick: int, n: int) -> None:
        """Anything from anybody: most of this is refused."""
        self.want(ticket, [*WISHES][pick % len(WISHES)], n, KEYS[(pick + n + ticket) % len(KEYS)])

    def want_impossible(self, ticket: int, pick: int, n: int) -> None:
        """Anything from somebody who may, where it is not possible; sometimes on an older version."""
        name, sheet = NAMES[pick % len(NAMES)], self.sheet(ticket)
        who = [who for who in KEYS if may(who, name, sheet)] or KEYS
        self.want(ticket, name, n, who[(pick + n) % len(who)], back=int(pick > 240))

    def want_forbidden(self, ticket: int, pick: int, n: int) -> None:
        """Something that is possible, from somebody who may not."""
        sheet = self.sheet(ticket)
        names = [name for name in NAMES if sheet.possible(name, "", self.now)]
        name = names[pick % len(names)]
        who = [who for who in KEYS if not may(who, name, sheet)]
        self.want(ticket, name, n, who[(pick + n) % len(who)])

    def take_step(self, ticket: int, pick: int, n: int) -> None:
        """A step of the procedure that is possible, by somebody who may."""
        self.want_possible(ticket, STEPS, pick, n)

    def do_beside(self, ticket: int, pick: int, n: int) -> None:
        """Notes, waits, assignments: what does not move a ticket, unless a dossier stands; seldom a withdrawal."""
        for again in range(n + 1):
            self.want_possible(ticket, BESIDE if pick < 250 else ["cancel"], pick + 5 * again, n)

    def go_upwards(self, ticket: int, pick: int, n: int) -> None:
        """The next steps of a ticket that only the NOC can resolve."""
        for _ in range(n + 1):
            sheet = self.sheet(ticket)
            if sheet.state in ENDED:
                return
            name, way = UPWARDS.get(sheet.state, ("close" if sheet.details else "document_resolution", 0))
            if sheet.state == "in_support":
                at_noc, fresh = sheet.level == "noc", sheet.verdict == "to_qualify"
                name, way = ("resolve", 0) if at_noc else ("qualify", 1) if fresh else ("escalate", 0)
            able = [who for who in KEYS if self.can(sheet, name, who)]
            self.want(ticket, name, way, able[pick % len(able)] if able else KEYS[0])

    def let_time_pass(self, pick: int) -> None:
        """Mostly forwards; a clock may have been a day ahead before."""
        self.now += timedelta(seconds=(-86_400, -1, 0, 60, 3_600, 86_400, 14 * 86_400, 14.5 * 86_400)[pick % 8])

    def time_on(self, last: datetime) -> datetime:
        """The time of a ticket's next event: not before its last one, but where that lies further ahead."""
        return self.now if last - self.now > FURTHER else max(self.now, last)

    def hear_of_mail(self, ticket: int, pick: int, n: int) -> None:
        """Rule 7: the outcome comes in whenever it comes in, whatever the ticket's state is by then."""
        ticket_id = self.id_of(ticket)
        known = self.tickets[ticket_id]
        if closings := [recorded for recorded in self.streams[ticket_id] if isinstance(recorded.event, e.Closed)]:
            closed = closings[n % len(closings)]
            which = (closed.originator_version, "<9@desk>", 1)
            sent = e.ClosureEmailSent(*which) if n else e.ClosureEmailFailed(*which, "gone")
            desk, at = Actor("desk", "desk", Role.SYSTEM), self.time_on(known.updated_at)
            self.record(ticket_id, (e.Recorded(ticket_id, known.version + 1, at, desk, sent, level=closed.level),))

    def want_possible(self, ticket: int, names: list[str], pick: int, n: int) -> None:
        """One of these commands, if one is possible, by one of those who may give it."""
        sheet = self.sheet(ticket)
        new = [name for name in names if not sheet.already(WISHES[name](sheet, n))]
        can = [(name, able) for name in new if (able := [who for who in KEYS if self.can(sheet, name, who)])]
        if can:
            name, able = can[pick % len(can)]
            self.want(ticket, name, n, able[(pick // len(can)) % len(able)])

    # What holds after every step

    def want(self, ticket: int, name: str, n: int, who: Principal, back: int = 0) -> None:
        """Gives a command and compares what comes of it with what the page says."""
        ticket_id, sheet = self.id_of(ticket), self.sheet(ticket)
        command, known = WISHES[name](sheet, n), self.tickets[ticket_id]
        now = self.time_on(known.updated_at)
        already, permitted = sheet.already(command), may(who, name, sheet)
        if isinstance(command, s.LinkTicket) and command.relation is Relation.RELATED_TO:  # said on either of them
            there = self.sheets.get(command.other_ticket_id)
            already |= there is not None and (ticket_id, command.relation) in there.links
        possible = name == "claim_next" or (sheet.possible(name, who.id, now) and sheet.fits(command))
        possible &= self.linkable(ticket_id, command)
        expected = known.version - back if back else None
        try:
            wish = CommandRequest(ticket_id, command, who, self.now, expected)
            outcome = decide(wish, self.streams, "T-000002", ASSIGNEES.get(command.names(who) or ""))
        except errors.DeskError as error:
            can = {name for name in NAMES if self.can(sheet, name, who, now)}
            said_no(error, who, sheet, name, can, back > 0, permitted, possible or already)
            return
        assert not back
        assert permitted
        assert already or possible
        assert len(outcome.events) == (0 if already else 1)
        self.record(ticket_id, outcome.events)
        self.compare(outcome, who, now)

    def linkable(self, ticket_id: UUID, command: Any) -> bool:
        """Whether two tickets can stand so to each other: no circle, one original, a follow-up is the later one."""
        if not isinstance(command, s.LinkTicket) or command.other_ticket_id not in self.sheets:
            return True
        others, known = self.sheets[command.other_ticket_id].links, self.sheets[ticket_id].links
        if command.relation is Relation.FOLLOW_UP_OF:
            came = {one: (self.streams[one][0].at, one) for one in (ticket_id, command.other_ticket_id)}
            return came[ticket_id] >= came[command.other_ticket_id]
        duplicates = {relation for _, relation in others | known}
        return command.relation is Relation.RELATED_TO or Relation.DUPLICATE_OF not in duplicates

    def no_circles(self) -> None:
        """Asserts that nobody comes back to a ticket over its links of one kind."""
        for kind in (Relation.DUPLICATE_OF, Relation.FOLLOW_UP_OF):
            graph = {
                one: {other for other, relation in sheet.links if relation is kind}
                for one, sheet in self.sheets.items()
            }
            TopologicalSorter(graph).prepare()

    def record(self, ticket_id: UUID, events: tuple[e.Recorded, ...]) -> None:
        """Appends events as the store would, after they were checked one by one."""
        for new in events:
            history, ticket = self.streams.setdefault(ticket_id, []), self.tickets.get(ticket_id)
            assert new.originator_version == len(history) + 1
            assert not history or new.at >= history[-1].at or history[-1].at - new.at > FURTHER
            lawful(history, new)
            row = to_row(new)
            assert to_recorded(new.originator_id, new.originator_version, row.at, row.topic, row.state, row.meta) == new
            history.append(new)
            self.tickets[ticket_id] = evolve(ticket, new) if ticket else fold([new])
            self.sheets.setdefault(ticket_id, Sheet()).take(new)
            self.flow[type(new.event).__name__] += 1
            assert fold(history) == self.tickets[ticket_id]
            reached[self.tickets[ticket_id].state] += 1
            reached[type(new.event).__name__] += 1
            reached[f"in support at {new.level}"] += self.tickets[ticket_id].state == "in_support"

    def compare(self, outcome: Outcome, who: Principal, now: datetime) -> None:
        """The ticket stands as the sheet says, and its answer names exactly what the caller may do next."""
        ticket, sheet = outcome.ticket, self.sheets[outcome.ticket.ticket_id]
        assert ticket == self.tickets[ticket.ticket_id]
        assert (ticket.state, ticket.level, ticket.queue) == (sheet.state, sheet.level, sheet.queue)
        assert (ticket.assignee, ticket.awaiting) == (sheet.holder, sheet.waits_for)
        assert sheet.state != "in_support" or ticket.qualification == sheet.verdict
        assert outcome.events == () or outcome.events[-1].level == ticket.level
        can = {name for name in NAMES if self.can(sheet, name, who, now)}
        assert set(outcome.possible) == can

    @invariant()
    def every_open_ticket_is_in_one_queue(self) -> None:
        """Rule 11: the queues' sizes add up to the open tickets: received + reopened − closed − cancelled."""
        queues = Counter(ticket.queue for ticket in self.tickets.values() if ticket.queue is not None)
        flow = self.flow
        self.no_circles()
        assert queues == Counter(sheet.queue for sheet in self.sheets.values() if sheet.state not in ENDED)
        assert queues.total() == flow["RequestReceived"] + flow["Reopened"] - flow["Closed"] - flow["Cancelled"]

    def can(self, sheet: Sheet, name: str, who: Principal, now: datetime | None = None) -> bool:
        """Whether somebody may give a command, and it is possible."""
        return may(who, name, sheet) and sheet.possible(name, who.id, now or self.now)

    def id_of(self, ticket: int) -> UUID:
        """The ticket that a number stands for."""
        return UUID(int=ticket % len(self.tickets))

    def sheet(self, ticket: int) -> Sheet:
        """The sheet of a ticket."""
        return self.sheets[self.id_of(ticket)]
