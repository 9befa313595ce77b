"""Who sees what: every role, every shape, every field. The tables are written by hand from the procedure ("Who may do
what"); the program is not asked.

The tickets have everything: notes for the desk and for the client, a verdict with its rationale, an assignee whose key
has an embarrassing name, impact and urgency, a link, a dossier, a resolution with its proof. What the desk alone may
know holds SECRET, the names of its people hold PERSON, and every other text holds WORD.
"""

import json
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import msgspec
import pytest

from application.store.postgres.database import connect
from domain.client import EVENTS, Client
from domain.values import Level, Role
from projections.queries.closure_mail_list import MailRow
from projections.queries.queue_pages import QueueFilters, QueueRow
from projections.queries.ticket_list import TicketFilters, TicketRow
from projections.queries.ticket_view import EventView, TicketView
from projections.queries.webhook_bodies import bodies
from tests.support.api_requests import RESOLVING, mailed, pages, problem, walk
from tests.support.running_desk import Reply, RunningDesk, wait_until

SECRET, PERSON, WORD = "unspeakable", "zebulon", "pronounceable"
STAFF = ("intake", "agent", "other agent", "quality", "it_manager", "auditor", "admin")
READS = {
    # shape: who may read it at all
    "ticket": (*STAFF, "client"),
    "list": (*STAFF, "client", "reporter"),
    "queue": (*STAFF, "reporter"),
    "history": (*STAFF, "client"),
    "feed": ("auditor", "admin"),
    "mails": ("quality", "it_manager", "auditor", "admin"),
    "directory": (*STAFF, "client"),
}

# x: seen; -: null, also in what a null stands for; n: may not read this shape at all
TICKET = """
                            staff client
ticket_id                   x     x
number                      x     x
version                     x     x
state                       x     x
level                       x     x
qualification               x     -
queue                       x     x
client.user_id              x     x
client.name                 x     x
channel                     x     x
text                        x     x
sender.name                 x     x
sender.email                x     x
sender.phone                x     x
issue.summary               x     x
issue.description           x     x
issue.category              x     x
issue.impact                x     -
issue.urgency               x     -
priority                    x     -
assignee                    x     -
waiting_on_client           x     x
escalations                 x     x
resolution.level            x     x
resolution.text             x     x
resolution.by               x     -
resolution.at               x     x
qc.satisfied                x     x
qc.by                       x     -
qc.at                       x     x
qc.level                    x     x
qc.confirmed_via            x     x
qc.comment                  x     x
details.cause               x     x
details.actions             x     x
details.checked_by_method   x     x
details.by                  x     -
details.at                  x     x
dossier.sha256              x     x
dossier.through_version     x     x
dossier.at                  x     x
dossier.summary             x     x
dossier.approved            x     x
links                       x     -
links.other_ticket_id       x     -
links.relation              x     -
created_at                  x     x
updated_at                  x     x
closed_at                   x     x
allowed_commands            x     x
"""
LIST = """
                            staff client reporter
ticket_id                   x     x      x
number                      x     x      x
version                     x     x      x
state                       x     x      x
level                       x     x      x
qualification               x     -      x
queue                       x     x      x
client_user_id              x     x      x
channel                     x     x      x
summary                     x     x      -
category                    x     x      x
priority                    x     -      x
assignee                    x     -      -
waiting_on_client           x     x      x
escalations                 x     x      x
created_at                  x     x      x
updated_at                  x     x      x
closed_at                   x     x      x
incomplete_since            -     -      -
"""  # the last one is of rows that lag behind: there is none here
QUEUE = """
                            staff reporter
ticket_id                   x     x
number                      x     x
version                     x     x
state                       x     x
qualification               x     x
priority                    x     x
summary                     x     -
client_user_id              x     x
assignee                    x     -
waiting_on_client           x     x
entered_at                  x     x
escalations                 x     x
incomplete_since            -     -
"""
DIRECTORY = """
                            staff client
version                     x     x
user_id                     x     x
name                        x     x
email                       x     x
phone                       x     x
organisation                x     x
"""
MAILS = """
                            staff
ticket_id                   x
closed_version              x
message_id                  x
state                       x
attempts                    x
due_at                      x
last_error                  x
address                     x
first_refused_at            x
needs_desk                  x
queued_at                   x
settled_at                  x
"""
ANSWER = """
                            staff client
ticket_id                   x     x
number                      x     x
version                     x     x
state                       x     x
level                       x     x
queue                       x     x
events.type                 x     x
events.version              x     x
events.at                   x     x
allowed_commands            x     x
"""
# own: what the client did; desk: what the desk did
EVENT = """
                            staff client:own client:desk
position                    x     x          x
ticket_id                   x     x          x
client_user_id              -     -          -
version                     x     x          x
type                        x     x          x
at                          x     x          x
actor.id                    x     x          -
actor.name                  x     x          -
actor.role                  x     x          x
level                       x     x          x
step                        x     x          x
data                        x     x          x
words                       x     x          x
correlation_id              x     x          -
causation_id                x     -          -
"""  # the cause is known of what the desk does by itself
# A client sees the events that have a line without "-" in front, and of their data what has none.
EVENT_DATA = """
RequestReceived       channel text sender
ClientIdentified      client_user_id client_name
Created               number
IssueDocumented       summary description category -impact -urgency -priority
Routed                to
-Assigned             assignee
-Released             assignee reason
-Qualified            level can_resolve rationale
Escalated             from_level to_level reason
Resolved              level resolution
QCVerified            level confirmed_via comment
QCFailed              level confirmed_via reason
ResolutionDocumented  level cause actions checked_by_method
Closed                level
ClosureEmailSent      closed_version message_id attempts
-ClosureEmailFailed   closed_version message_id attempts reason
DossierCompiled       summary sha256 through_version lines entries
ClientApproved        dossier_sha256 confirmed_via
ClientDeclined        dossier_sha256 confirmed_via reason
-ReturnedToLevel      from_level to_level reason
NoteAdded             text visibility
-PriorityChanged      impact urgency priority reason
ClientAwaited         reason
ClientResponded       text
Cancelled             reason
Reopened              level reason confirmed_via
-Linked               other_ticket_id relation
-ClientCorrected      client_user_id client_name reason
IssueAmended          reason summary description category
"""
OPTIONAL = {"reason", "confirmed_via", "entries"}  # left out where nothing was said
LIST_FILTERS = """
                            client reporter
client_user_id=owner        200    200
state=in_support            200    200
level=tier2                 200    200
queue=tier2                 200    200
assignee=anna               403    403
priority=1                  403    200
created_from=2026-01-01T00:00:00Z  200 200
created_to=2026-01-01T00:00:00Z    200 200
q=pronounceable             200    403
"""
QUEUE_FILTERS = """
                            reporter
priority=1                  200
assignee=anna               403
unassigned=true             200
state=in_support            200
client_user_id=owner        200
waiting_on_client=true      200
"""


def columns(text: str) -> dict[str, dict[str, str]]:
    """A table by its columns: for each the rows with what stands there."""
    head, *rows = [line.split() for line in text.strip().splitlines()]
    return {name: {row[0]: row[place + 1] for row in rows} for place, name in enumerate(head)}


def paths(value: Any, path: str = "") -> Iterator[tuple[str, bool]]:
    """Every field of an answer with whether it is there: those of a list as those of its items."""
    if isinstance(value, dict) and path != "data":
        for name, held in value.items():
            yield from paths(held, f"{path}.{name}".lstrip("."))
    elif isinstance(value, list) and any(isinstance(one, dict) for one in value):
        for one in value:
            yield from paths(one, path)
    else:
        yield path, value is not None


def seen(answers: list[Any]) -> set[str]:
    """The fields that are there in any of the answers."""
    return {path for answer in answers for path, there in paths(answer) if there}


class Scene:
    """A desk, its people, and tickets on which everything has happened."""

    def __init__(self, served: RunningDesk) -> None:
        self.served = served
        served.settled()  # or an earlier test's mail would be refused in place of ours
        person = lambda role, **more: served.key(role, name=f"{role} {PERSON} (knows the troublemaker)", **more)  # noqa: E731
        self.keys = {str(role): person(role) for role in Role if role not in (Role.AGENT, Role.CLIENT, Role.SYSTEM)}
        self.keys["agent"] = person(Role.AGENT, levels=RESOLVING)
        self.keys["other agent"] = served.key(Role.AGENT, name=f"other {PERSON}", levels=[Level.NOC])
        for user_id in ("owner", "stranger"):
            entry = {"name": f"{user_id} {WORD}", "email": f"{user_id}@example.org", "phone": "1", "organisation": WORD}
            assert served.request("PUT", f"/v1/clients/{user_id}", entry, self.keys["intake"]).status in (200, 201)
        self.keys["client"] = served.key(Role.CLIENT, client="owner", name="the owner")
        self.other = self.opened()
        self.told = self.opened()  # where everything happens
        self.standing = self.opened()  # at tier 2, with a verdict and an assignee
        self.closed = self.opened()
        self.tell()
        self.bring_to_tier2(self.standing)
        self.give("agent", "qualify", self.standing, can_resolve=True, rationale=SECRET)
        self.give("agent", "assign", self.standing)
        self.close(self.closed)
        served.settled()

    def opened(self) -> str:
        """A request; its ticket's id."""
        sender = {"name": WORD, "email": "owner@example.org", "phone": "1"}
        body = {"channel": "web", "text": f"{WORD} request", "sender": sender}
        reply = self.request("intake", "POST", "/v1/requests", body)
        assert reply.status == 201, reply.data
        return str(reply.json["ticket_id"])

    def request(self, role: str, method: str, path: str, body: Any = None, **headers: str) -> Reply:
        """A request of somebody, with the journey that it belongs to."""
        journey = "own-journey" if role == "client" else f"{SECRET}-journey"
        given = {"X-Correlation-Id": journey, **{name.replace("_", "-"): value for name, value in headers.items()}}
        return self.served.request(method, path, body, self.keys[role], given)

    def get(self, role: str, path: str) -> Reply:
        """A query of somebody."""
        return self.request(role, "GET", path)

    def give(self, role: str, command: str, ticket: str, **body: Any) -> Reply:
        """A command of somebody, whatever the version."""
        reply = self.request(role, "POST", f"/v1/tickets/{ticket}:{command}", body, If_Match="*")
        assert reply.status == 200, (command, reply.data)
        return reply

    def bring_to_tier2(self, ticket: str) -> None:
        """From the request to tier 2."""
        issue = {"summary": f"{WORD} summary", "description": WORD, "category": "network"}
        self.give("intake", "identify_client", ticket, client_user_id="owner")
        self.give("intake", "create", ticket)
        self.give("intake", "document_issue", ticket, **issue, impact="high", urgency="medium")
        self.give("intake", "route", ticket)
        self.give("agent", "escalate", ticket, reason=WORD)

    def climb(self, ticket: str) -> None:
        """From the level that is to qualify to the level above it."""
        self.give("agent", "qualify", ticket, can_resolve=True, rationale=SECRET)
        self.give("agent", "escalate", ticket, reason=WORD)

    def decide(self, command: str, **more: str) -> None:
        """The manager compiles a dossier, and the client says what to do."""
        self.give("it_manager", "compile_dossier", self.told, summary=f"{WORD} {command}")
        dossier = self.get("it_manager", f"/v1/tickets/{self.told}").json["dossier"]
        self.give("client", command, self.told, dossier_sha256=dossier["sha256"], confirmed_via="web", **more)

    def close(self, ticket: str) -> None:
        """From in support to closed, with the outcome of the mail."""
        if ticket != self.told:
            self.bring_to_tier2(ticket)
            self.give("agent", "qualify", ticket, can_resolve=True, rationale=SECRET)
        self.give("agent", "resolve", ticket, resolution=WORD)
        self.give("quality", "verify", ticket, satisfied=True, confirmed_via="phone", comment=WORD)
        self.give("agent", "document_resolution", ticket, cause=WORD, actions=WORD, checked_by_method=WORD)
        self.give("it_manager", "assign", ticket, assignee=self.served.person(f"the intern {PERSON} ({SECRET})"))
        self.give("quality", "close", ticket)
        mailed(self.served, ticket)

    def tell(self) -> None:
        """Everything that can happen to a ticket."""
        ticket = self.told
        self.give("intake", "identify_client", ticket, client_user_id="stranger")
        self.give("intake", "link", ticket, other_ticket_id=self.other, relation="related_to")
        self.bring_to_tier2(ticket)
        amended = {"summary": f"{WORD} amended", "description": f"{WORD} {WORD}", "category": "cables"}
        self.give("agent", "amend_issue", ticket, reason=WORD, **amended)
        self.give("agent", "assign", ticket)
        self.give("agent", "add_note", ticket, text=f"internal: {SECRET}")
        self.give("agent", "add_note", ticket, text=f"open: {WORD}", visibility="client")
        self.give("client", "add_note", ticket, text=f"mine: {WORD}")
        self.give("agent", "await_client", ticket, reason=WORD)
        self.give("client", "client_responded", ticket, text=WORD)
        self.give("agent", "change_priority", ticket, impact="low", urgency="high", reason=SECRET)
        self.give("agent", "release", ticket)
        for _ in range(3):
            self.climb(ticket)
        self.decide("decline", reason=WORD)
        self.give("it_manager", "return_to_level", ticket, level="onsite", reason=SECRET)
        self.climb(ticket)
        self.decide("approve")
        self.give("it_manager", "route", ticket)
        self.give("agent", "resolve", ticket, resolution=WORD)
        self.give("quality", "verify", ticket, satisfied=False, confirmed_via="phone", comment=WORD)
        self.served.mailbox.verdicts.append(f"550 5.1.1 {SECRET}")
        self.close(ticket)
        self.give("client", "reopen", ticket, reason=WORD)
        self.close(ticket)
        self.give("client", "reopen", ticket, reason=WORD)
        self.give("client", "cancel", ticket, reason=WORD)

    def events(self, role: str) -> list[dict[str, Any]]:
        """The history of the ticket on which everything has happened."""
        address = f"/v1/tickets/{self.told}/history"
        return [event for page in pages(self.served, address, key=self.keys[role]) for event in page.json["items"]]


@pytest.fixture(scope="module")
def scene(module_desk: RunningDesk) -> Scene:
    """The tickets, sealed and in every list."""
    return Scene(module_desk)


def expected(table: str, role: str) -> set[str]:
    """What a role sees, by the table."""
    column = columns(table).get("staff" if role in STAFF else role, {})
    return {path for path, sight in column.items() if sight == "x"}


def fields(table: str) -> set[str]:
    """The fields that a table names, without those that they hold."""
    return {path.partition(".")[0] for path in next(iter(columns(table).values()))}


def ticket_answers(scene: Scene, role: str) -> list[Any]:
    """A ticket in every way in which one can be read: now, and at every version, some by time and by position."""
    now = [scene.get(role, f"/v1/tickets/{ticket}") for ticket in (scene.told, scene.standing, scene.closed)]
    told = f"/v1/tickets/{scene.told}"
    then = [scene.get(role, f"{told}?version={version}") for version in range(4, now[0].version + 1)]  # of the owner
    for event in scene.events("auditor")[3::7]:
        then += [
            scene.get(role, f"{told}?as_of={event['at']}"),
            scene.get(role, f"{told}?position={event['position']}"),
        ]
    assert {reply.status for reply in (*now, *then)} == {200}
    return [reply.json for reply in (*now, *then)]


def list_answers(scene: Scene, role: str) -> list[Any]:
    """Rows of the list, and of the client's page."""
    rows = walk(scene.served, "/v1/tickets?client_user_id=owner", key=scene.keys[role])
    if role in READS["directory"]:
        rows += scene.get(role, "/v1/clients/owner").json["tickets"]["items"]
    return rows


def queue_answers(scene: Scene, role: str) -> list[Any]:
    """Rows of a queue, now and as of a moment."""
    moment = scene.get("auditor", f"/v1/tickets/{scene.standing}").json["updated_at"]
    rows = walk(scene.served, "/v1/queues/tier2", key=scene.keys[role])
    return rows + walk(scene.served, f"/v1/queues/tier2?as_of={moment}", key=scene.keys[role])


def directory_answers(scene: Scene, role: str) -> list[Any]:
    """The client's entry; the tickets beside it are rows of the list."""
    entry = scene.get(role, "/v1/clients/owner").json
    entry.pop("tickets")
    return [entry]


def mail_answers(scene: Scene, role: str) -> list[Any]:
    """The closing e-mails."""
    return walk(scene.served, "/v1/closure_mails", key=scene.keys[role])


SHAPES: dict[str, tuple[str, Any, type[msgspec.Struct], str]] = {
    # shape: its table, its answers, the struct that it is made of, and an address that refuses who may not read it
    "ticket": (TICKET, ticket_answers, TicketView, "/v1/tickets/{ticket}"),
    "list": (LIST, list_answers, TicketRow, "/v1/tickets"),
    "queue": (QUEUE, queue_answers, QueueRow, "/v1/queues/tier2"),
    "directory": (DIRECTORY, directory_answers, Client, "/v1/clients/owner"),
    "mails": (MAILS, mail_answers, MailRow, "/v1/closure_mails"),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("role", [*STAFF, "client", "reporter"])
def test_each_role_sees_what_the_table_says(scene: Scene, role: str, shape: str) -> None:
    """Every field of the shape is there for whom the table names, null for others, and there is no other field."""
    table, answers, _, address = SHAPES[shape]
    if role not in READS[shape]:
        problem(scene.get(role, address.format(ticket=scene.told)), 403, "role_missing")
        return
    found = answers(scene, role)
    assert seen(found) == expected(table, role)
    assert {frozenset(answer) for answer in found} == {frozenset(fields(table))}
    rows = {path for column in columns(table).values() for path in column}
    assert {path for answer in found for path, _ in paths(answer)} <= rows | fields(table)


@pytest.mark.parametrize("shape", SHAPES)
def test_no_field_is_without_its_row(shape: str) -> None:
    """A field that the code has and the table does not name has to be decided about."""
    table, _, struct, _ = SHAPES[shape]
    assert fields(table) == set(struct.__struct_fields__)


@pytest.mark.parametrize("role", ["agent", "intake", "quality", "it_manager", "client"])
def test_each_role_sees_the_answer_to_its_command(scene: Scene, role: str) -> None:
    """A command's answer has what the table says for whoever gives it."""
    ticket = scene.opened()
    scene.bring_to_tier2(ticket)
    answer = scene.give(role, "add_note", ticket, text=WORD).json
    assert seen([answer]) == expected(ANSWER, role)


# ── Events ──────────────────────────────────────────────────────────────────────────────────────────────────


def event_rows() -> dict[str, tuple[bool, dict[str, bool]]]:
    """Of each type of event whether a client sees it, and which of its fields."""
    rows = [line.split() for line in EVENT_DATA.strip().splitlines()]
    return {
        f"Ticket.{row[0].lstrip('-')}": (row[0][0] != "-", {name.lstrip("-"): name[0] != "-" for name in row[1:]})
        for row in rows
    }


def test_no_event_and_no_field_of_one_is_without_its_row() -> None:
    """A type of event, or a field of one, that the table does not name has to be decided about."""
    of_tickets = {name: kind for name, kind in EVENTS.items() if name.startswith("Ticket.")}
    rows = {name: set(data) for name, (_, data) in event_rows().items()}
    assert rows == {name: set(kind.__struct_fields__) for name, kind in of_tickets.items()}
    assert fields(EVENT) == set(EventView.__struct_fields__)


@pytest.mark.parametrize("role", STAFF)
def test_the_staff_sees_every_event_whole(scene: Scene, role: str) -> None:
    """Every type, every field, with the name of whoever did it."""
    events = scene.events(role)
    assert {event["type"] for event in events} == set(event_rows()) - {"Ticket.ClientCorrected"}  # nothing of before
    assert seen(events) == expected(EVENT, role)
    for event in events:
        whole = set(event_rows()[event["type"]][1])
        assert whole - OPTIONAL <= set(event["data"]) <= whole
        assert None not in (event["data"] | {"sender": 1}).values()


def test_a_client_sees_the_events_of_the_table(scene: Scene) -> None:
    """Those that the table names, in order, with the fields that it names; whoever of the desk did it is a role."""
    rows, whole = event_rows(), {event["version"]: event for event in scene.events("auditor")}
    wanted = [
        event["version"]
        for event in whole.values()
        if rows[event["type"]][0]
        and event["data"].get("visibility") != "internal"
        and event["data"].get("client_user_id") != "stranger"
    ]
    events = scene.events("client")
    assert [event["version"] for event in events] == wanted
    for event in events:
        data, told = event["data"], whole[event["version"]]["data"]
        fields_told = [(name, sight) for name, sight in rows[event["type"]][1].items() if name in told]
        assert data == {name: told[name] if sight else None for name, sight in fields_told}
    own = [event for event in events if event["actor"]["role"] == "client"]
    desk = [event for event in events if event["actor"]["role"] != "client"]
    assert seen(own) == {path for path, sight in columns(EVENT)["client:own"].items() if sight == "x"}
    assert seen(desk) == {path for path, sight in columns(EVENT)["client:desk"].items() if sight == "x"}
    assert {frozenset(event) for event in events} == {frozenset(fields(EVENT))}


@pytest.mark.parametrize("role", ["agent", "client"])
def test_missed_events_are_those_of_the_history(scene: Scene, role: str) -> None:
    """A stale version tells what the history tells, to each as there."""
    path = f"/v1/tickets/{scene.told}:add_note"
    missed = problem(scene.request(role, "POST", path, {"text": WORD}, If_Match='"5"'), 412)["missed_events"]
    known = {event["version"]: event | {"position": None} for event in scene.events(role)}
    assert missed
    assert missed == [known[event["version"]] for event in missed]


def test_feed_and_webhooks_are_for_those_who_see_everything(scene: Scene) -> None:
    """Auditors and admins alone read the feed, every event as in the history; a webhook's body is the same."""
    history = scene.events("auditor")
    path = f"/v1/events?ticket_id={scene.told}"
    for role in (*STAFF, "client", "reporter"):
        if role in READS["feed"]:
            assert walk(scene.served, path, key=scene.keys[role]) == history
        else:
            problem(scene.get(role, path), 403, "role_missing")
            problem(scene.get(role, "/v1/webhooks"), 403, "role_missing")
    with connect(scene.served.database, "test webhooks") as connection:
        sent = bodies(connection, [event["position"] for event in history])
    shown = [msgspec.json.decode(sent[event["position"]].body) for event in history]
    assert [{name: one[name] for name in one if name != "traceparent"} for one in shown] == history


# ── What is looked for, and what is said in words ───────────────────────────────────────────────────────────


def filter_rows(table: str, role: str) -> dict[str, int]:
    """Of each filter what a role is answered that uses it."""
    return {given: int(status) for given, status in columns(table)[role].items()}


@pytest.mark.parametrize(
    ("path", "table", "role"),
    [
        ("/v1/tickets", LIST_FILTERS, "client"),
        ("/v1/tickets", LIST_FILTERS, "reporter"),
        ("/v1/queues/tier2", QUEUE_FILTERS, "reporter"),
    ],
)
def test_nobody_searches_by_what_is_hidden(scene: Scene, path: str, table: str, role: str) -> None:
    """A filter by a field that the caller does not see would tell it; a staff member may use every one."""
    rows = filter_rows(table, role)
    assert {given: scene.get(role, f"{path}?{given}").status for given in rows} == rows
    assert {scene.get("quality", f"{path}?{given}").status for given in rows} == {200}


def test_no_filter_is_without_its_row() -> None:
    """A filter that the tables do not name has to be decided about."""
    for table, struct in ((LIST_FILTERS, TicketFilters), (QUEUE_FILTERS, QueueFilters)):
        named = {given.partition("=")[0] for given in next(iter(columns(table).values()))}
        assert named == set(struct.__struct_fields__)


WAYS = {
    # how somebody may come by what is hidden, and by a problem document
    "client": (
        ("GET", "/v1/tickets/{ticket}", {}, None, 200),
        ("GET", "/v1/tickets/{ticket}/history", {}, None, 200),
        ("GET", "/v1/tickets", {}, None, 200),
        ("GET", f"/v1/tickets?q={SECRET}", {}, None, 200),
        ("GET", f"/v1/tickets?q={PERSON}", {}, None, 200),
        ("GET", "/v1/clients/owner", {}, None, 200),
        ("GET", "/v1/events", {}, None, 403),
        ("GET", "/v1/queues/tier2", {}, None, 403),
        ("GET", "/v1/tickets/{other}", {}, None, 404),
        ("POST", "/v1/tickets/{ticket}:resolve", {"If_Match": "*"}, {"resolution": "x"}, 403),
        ("POST", "/v1/tickets/{ticket}:reopen", {"If_Match": "*"}, {"reason": "x"}, 409),
        ("POST", "/v1/tickets/{ticket}:cancel", {"If_Match": '"1"'}, {"reason": "x"}, 412),
        ("POST", "/v1/tickets/{ticket}:cancel", {"If_Match": "*"}, {"reason": 1}, 422),
    ),
    "reporter": (
        ("GET", "/v1/tickets?limit=200", {}, None, 200),
        ("GET", "/v1/queues", {}, None, 200),
        ("GET", "/v1/queues/tier2", {}, None, 200),
        ("GET", "/v1/reports/backlog?group_by=category", {}, None, 200),
        ("GET", "/v1/tickets/{ticket}", {}, None, 403),
        ("GET", "/v1/tickets/{ticket}/history", {}, None, 403),
        ("GET", "/v1/clients/owner", {}, None, 403),
        ("POST", "/v1/tickets/{ticket}:add_note", {"If_Match": '"1"'}, {"text": "x"}, 403),
    ),
}


@pytest.mark.parametrize(
    ("role", "way"), [(role, way) for role, ways in WAYS.items() for way in ways], ids=lambda value: str(value)[:60]
)
def test_no_answer_of_any_kind_holds_a_hidden_word(scene: Scene, role: str, way: Any) -> None:
    """Neither the desk's own words nor the names of its people reach a client; no text at all reaches a reporter."""
    method, path, headers, body, status = way
    reply = scene.request(role, method, path.format(ticket=scene.told, other=scene.other), body, **headers)
    assert reply.status == status, reply.data
    said = (reply.data.decode() + str(reply.headers)).lower()
    hidden = [SECRET, PERSON, "stranger"] + ([WORD] if role == "reporter" else [scene.other] if status != 404 else [])
    assert [word for word in hidden if word in said] == []


def test_a_dossier_says_no_more_than_the_history(scene: Scene) -> None:
    """Its entries are for the client's eyes: of what the client does not see, they say that it was there."""
    dossiers = [event for event in scene.events("auditor") if event["type"] == "Ticket.DossierCompiled"]
    for dossier in dossiers:
        entries = dossier["data"]["entries"]
        said = json.dumps(entries).lower()
        assert [word for word in (SECRET, PERSON, "stranger", "impact", "urgency", scene.other) if word in said] == []
        assert len(entries) == dossier["data"]["through_version"]
        assert f"mine: {WORD}" in said


def test_the_closing_mail_says_no_more_than_the_history(scene: Scene) -> None:
    """The client reads what was done, and nobody's name but the own one."""
    mails = [mail for mail in scene.served.mailbox.messages if mail["To"].addresses[0].addr_spec == "owner@example.org"]
    assert mails
    for mail in mails:
        texts = [part.get_content() for part in mail.walk() if part.get_content_maintype() == "text"]
        said = (str(mail.items()) + "".join(texts)).lower()
        assert WORD in said
        assert [word for word in (SECRET, PERSON, "stranger", "priority", "impact", "urgency") if word in said] == []


def test_the_next_ticket_is_shown_whole(scene: Scene) -> None:
    """Whoever claims is of the staff, and gets the ticket as the staff sees it."""
    ticket = scene.opened()
    scene.bring_to_tier2(ticket)
    scene.served.caught_up()
    claimed: list[dict[str, Any]] = []

    def is_mine() -> bool:
        reply = scene.request("agent", "POST", "/v1/queues/tier2:claim_next", {})
        claimed.extend([reply.json] if reply.status == 200 else [])
        return any(one["ticket_id"] == ticket for one in claimed)

    wait_until(is_mine, "the ticket is claimed")
    for one in claimed:
        assert UUID(one["ticket_id"])
        assert set(one) == fields(TICKET)
        assert PERSON in one["assignee"]
