"""What the queries answer: the ticket, its history, lists, queues, clients, the log and the outbox."""

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import pytest

from domain.client import client_stream
from domain.procedure import QUEUES
from domain.values import Level, Queue, Role
from tests.support.api_requests import (
    ISSUE,
    brought,
    give,
    pages,
    problem,
    request,
    sealed,
    standing_still,
    version,
    walk,
)
from tests.support.running_desk import RunningDesk

Row = dict[str, Any]
TICKET = {
    "ticket_id",
    "number",
    "version",
    "state",
    "level",
    "qualification",
    "queue",
    "client",
    "channel",
    "text",
    "sender",
    "issue",
    "priority",
    "assignee",
    "waiting_on_client",
    "escalations",
    "resolution",
    "qc",
    "details",
    "dossier",
    "links",
    "created_at",
    "updated_at",
    "closed_at",
    "allowed_commands",
}
EVENT = {
    "position",
    "ticket_id",
    "client_user_id",
    "version",
    "type",
    "at",
    "actor",
    "level",
    "step",
    "data",
    "words",
    "correlation_id",
    "causation_id",
}
QUEUE_ROW = {
    "ticket_id",
    "number",
    "version",
    "state",
    "qualification",
    "priority",
    "summary",
    "client_user_id",
    "assignee",
    "waiting_on_client",
    "entered_at",
    "escalations",
    "incomplete_since",
}
STANDINGS = (
    "received",
    "documented",
    "tier1",
    "assigned",
    "waiting",
    "tier2_can",
    "onsite",
    "awaiting_approval",
    "noc",
    "resolved",
    "detailed",
    "closed",
    "cancelled",
)
OWNERS = ("anna", "bert", "carl")


@pytest.fixture(scope="module")
def world(shared_desk: RunningDesk) -> Iterator[dict[str, Row]]:
    """Tickets in many standings, of three clients, with four priorities; each as its own address shows it."""
    served = shared_desk
    tickets = [brought(served, standing, OWNERS[n % 3]) for n, standing in enumerate(STANDINGS)]
    for n, (impact, urgency) in enumerate([("high", "high"), ("low", "low"), ("low", "medium"), ("high", "low")]):
        tickets += [served.ticket(OWNERS[n % 3], impact, urgency) for _ in range(2)]
    for ticket in tickets[-8::2]:
        give(served, ticket, "escalate")
    give(served, tickets[-1], "change_priority", impact="high", urgency="high")
    served.caught_up()
    return {ticket: served.get(f"/v1/tickets/{ticket}").json for ticket in tickets}


def history(served: RunningDesk, ticket: str) -> list[Row]:
    """Every event of a ticket."""
    return served.get(f"/v1/tickets/{ticket}/history").json["items"]


def at(text: str) -> datetime:
    """A time of an answer."""
    return datetime.fromisoformat(text)


def test_a_ticket_has_the_fields_of_the_contract(world: dict[str, Row]) -> None:
    """All of them in every standing, null where there is nothing to say; the queue is null at the end only."""
    for ticket in world.values():
        assert ticket.keys() == TICKET
        assert (ticket["queue"] is None) == (ticket["state"] in ("closed", "cancelled"))
        assert (ticket["closed_at"] is None) == (ticket["state"] != "closed")
        assert (ticket["number"] is None) == (ticket["state"] == "received")
        assert (ticket["dossier"] is None) == (ticket["state"] != "awaiting_approval" and ticket["level"] != "noc")
        assert at(ticket["created_at"]) <= at(ticket["updated_at"])


def test_what_was_done_stands_in_the_ticket(shared_desk: RunningDesk, world: dict[str, Row]) -> None:
    """Resolution, quality control, details and issue with who and when, as they were given."""
    closed = next(ticket for ticket in world.values() if ticket["state"] == "closed")
    by_type = {event["type"].removeprefix("Ticket."): event for event in history(shared_desk, closed["ticket_id"])}
    who = {name: {"by": event["actor"]["id"], "at": event["at"]} for name, event in by_type.items()}
    assert closed["issue"] == ISSUE
    assert closed["resolution"] == {"level": "tier1", "text": "switch restarted"} | who["Resolved"]
    assert (
        closed["qc"]
        == {
            "satisfied": True,
            "level": "tier1",
            "confirmed_via": "phone",
            "comment": "the network is back",
        }
        | (who["QCVerified"])
    )
    assert (
        closed["details"]
        == {"cause": "loop", "actions": "port closed", "checked_by_method": "ping"} | (who["ResolutionDocumented"])
    )
    assert closed["closed_at"] == by_type["Closed"]["at"]
    assert closed["priority"] == 2


def test_the_etag_of_a_ticket_is_its_version(shared_desk: RunningDesk, world: dict[str, Row]) -> None:
    """ETag on the ticket and on its history."""
    for ticket, seen in world.items():
        for path in ("", "/history"):
            assert shared_desk.get(f"/v1/tickets/{ticket}{path}").version == seen["version"]


def test_history_tells_everything_in_order(shared_desk: RunningDesk, world: dict[str, Row]) -> None:
    """Versions without a gap, rising positions and times, every event in words, with its step of the source."""
    for ticket, seen in world.items():
        events = history(shared_desk, ticket)
        assert [event["version"] for event in events] == list(range(1, seen["version"] + 1))
        positions = [event["position"] for event in events]
        assert positions == sorted(set(positions))
        assert [event["at"] for event in events] == sorted(event["at"] for event in events)
        assert events[-1]["level"] == seen["level"]
        for event in events:
            assert event.keys() == EVENT
            assert (event["ticket_id"], event["client_user_id"]) == (ticket, None)
            assert event["words"].strip()
            assert event["actor"].keys() == {"id", "name", "role"}


def test_history_names_the_steps_of_the_source(shared_desk: RunningDesk) -> None:
    """Each event of the way up to the NOC names its step; supporting events name none."""
    ticket = brought(shared_desk, "noc")
    give(shared_desk, ticket, "add_note")
    events = history(shared_desk, ticket)
    assert [(event["type"].removeprefix("Ticket."), event["step"], event["level"]) for event in events] == [
        ("RequestReceived", "1", None),
        ("ClientIdentified", "2", None),
        ("Created", "3", None),
        ("IssueDocumented", "4", None),
        ("Routed", "4", "tier1"),
        ("Escalated", "T1-4", "tier2"),
        ("Qualified", "T1-4", "tier2"),
        ("Escalated", "8", "tier3"),
        ("Qualified", "8", "tier3"),
        ("Escalated", "12", "onsite"),
        ("Qualified", "12", "onsite"),
        ("Escalated", "16", "it_manager"),
        ("DossierCompiled", "16", "it_manager"),
        ("ClientApproved", "16", "it_manager"),
        ("Routed", "16", "noc"),
        ("NoteAdded", None, "noc"),
    ]
    assert events[5]["words"] == "Escalated from Tier 1 Support to Tier 2 Support: beyond our means"


def test_what_does_not_exist_is_not_found(shared_desk: RunningDesk) -> None:
    """404 for unknown tickets, queues, clients, commands and addresses; the stream of a client is no ticket."""
    nobody = str(uuid4())
    for path, code in [
        (f"/v1/tickets/{nobody}", "unknown_ticket"),
        (f"/v1/tickets/{nobody}/history", "unknown_ticket"),
        ("/v1/tickets/T-000001", "not_found"),
        ("/v1/queues/tier9", "unknown_queue"),
        ("/v1/queues/TIER1", "unknown_queue"),
        ("/v1/clients/nobody", "unknown_user_id"),
        ("/v1/clients/no%20body", "unknown_user_id"),
        ("/v1/clients/" + "x" * 300, "unknown_user_id"),
        ("/v1/clients/a/b", "not_found"),
        ("/v2/tickets", "not_found"),
        ("/", "not_found"),
    ]:
        assert problem(shared_desk.get(path), 404, code)["instance"] == path.partition("?")[0]
    problem(shared_desk.do(nobody, "close", version=1), 404, "unknown_ticket")
    ticket = request(shared_desk)
    problem(shared_desk.do(ticket, "explode", version=1), 404, "unknown_command")
    problem(shared_desk.do(ticket, "claim_next", version=1), 404, "unknown_command")
    stream = client_stream(shared_desk.client("streamed"))
    for path in (f"/v1/tickets/{stream}", f"/v1/tickets/{stream}/history", f"/v1/tickets/{stream}?version=1"):
        problem(shared_desk.get(path), 404, "unknown_ticket")


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("DELETE", "/v1/tickets", {"GET", "HEAD", "POST", "OPTIONS"}),
        ("PUT", "/v1/tickets/{ticket}", {"GET", "HEAD", "OPTIONS"}),
        ("PATCH", "/v1/tickets/{ticket}", {"GET", "HEAD", "OPTIONS"}),
        ("GET", "/v1/tickets/{ticket}:close", {"POST", "OPTIONS"}),
        ("POST", "/v1/tickets/{ticket}/history", {"GET", "HEAD", "OPTIONS"}),
        ("GET", "/v1/requests", {"POST", "OPTIONS"}),
        ("POST", "/v1/queues/tier1", {"GET", "HEAD", "OPTIONS"}),
        ("GET", "/v1/queues/tier1:claim_next", {"POST", "OPTIONS"}),
        ("DELETE", "/v1/clients/anna", {"GET", "HEAD", "PUT", "OPTIONS"}),
        ("POST", "/v1/events", {"GET", "HEAD", "OPTIONS"}),
        ("POST", "/livez", {"GET", "HEAD", "OPTIONS"}),
    ],
)
def test_a_method_that_an_address_does_not_take_is_named(
    shared_desk: RunningDesk, method: str, path: str, allow: set[str]
) -> None:
    """405 with Allow."""
    reply = shared_desk.request(method, path.format(ticket=request(shared_desk)), key=shared_desk.staff)
    problem(reply, 405, "method_not_allowed")
    assert set(reply.headers["Allow"].split(", ")) == allow


def test_head_answers_as_get_without_the_body(shared_desk: RunningDesk, world: dict[str, Row]) -> None:
    """RFC 9110, section 9.3.2: the same status and headers, and nothing more."""
    for path in (
        "/v1/queues",
        f"/v1/tickets/{next(iter(world))}",
        "/v1/tickets",
        "/v1/clients/anna",
        "/livez",
        "/readyz",
    ):
        get, head = shared_desk.get(path), shared_desk.request("HEAD", path)
        assert (head.status, head.data) == (200, b"")
        for name in ("Content-Type", "Content-Length", "ETag"):
            assert head.headers.get(name) == get.headers.get(name)
    assert shared_desk.request("HEAD", "/v1/tickets/nothing").status == 404


FILTERS: list[tuple[str, Callable[[Row], bool]]] = [
    ("client_user_id=bert", lambda t: t["client"] is not None and t["client"]["user_id"] == "bert"),
    ("client_user_id=nobody", lambda _: False),
    *((f"state={state}", lambda t, state=state: t["state"] == state) for state in QUEUES),
    ("state=in_support", lambda t: t["state"] == "in_support"),
    *((f"level={level}", lambda t, level=level: t["level"] == level) for level in Level),
    *((f"queue={queue}", lambda t, queue=queue: t["queue"] == queue) for queue in Queue),
    *((f"priority={n}", lambda t, n=n: t["priority"] == n) for n in range(1, 6)),
    ("assignee=anna", lambda t: t["assignee"] == "anna"),
    ("assignee=", lambda _: False),
    ("q=offline", lambda t: t["issue"] == ISSUE),
    ("q=OFFLINE floor", lambda t: t["issue"] == ISSUE),
    ('q="third floor"', lambda t: t["issue"] == ISSUE),
    ('q="floor third"', lambda _: False),
    ("q=printer", lambda t: t["text"] == "my printer does not print"),
    ("q=printer -anna", lambda t: "printer" in t["text"] and t["client"]["user_id"] != "anna"),
    ("q=Client carl", lambda t: t["client"] is not None and t["client"]["user_id"] == "carl"),
    ("q=zebra", lambda _: False),
    ("q=", lambda _: True),
    ("level=tier2&priority=1", lambda t: (t["level"], t["priority"]) == ("tier2", 1)),
    ("client_user_id=anna&state=in_support&queue=tier1", lambda t: owned(t) == ("anna", "in_support", "tier1")),
]


def owned(ticket: Row) -> tuple[str, str, str]:
    """Whose, in which state, in which queue."""
    return (ticket["client"] or {}).get("user_id", ""), ticket["state"], ticket["queue"]


@pytest.mark.parametrize(("query", "fits"), FILTERS, ids=[row[0] for row in FILTERS])
def test_a_filter_of_the_list_finds_exactly_what_fits(
    shared_desk: RunningDesk, world: dict[str, Row], query: str, fits: Callable[[Row], bool]
) -> None:
    """Every filter alone and together with others, newest first."""
    rows = [row for row in walk(shared_desk, f"/v1/tickets?{quote(query, safe='=&')}") if row["ticket_id"] in world]
    assert [row["ticket_id"] for row in rows] == [ticket for ticket in reversed(world) if fits(world[ticket])]


def test_a_row_of_the_list_says_what_the_ticket_says(shared_desk: RunningDesk, world: dict[str, Row]) -> None:
    """Field by field; summary, category and client stand flat in the row."""
    for row in walk(shared_desk, "/v1/tickets"):
        if ticket := world.get(row["ticket_id"]):
            same = row.keys() & TICKET
            assert {name: row[name] for name in same} == {name: ticket[name] for name in same}
            issue, client = ticket["issue"] or {}, ticket["client"] or {}
            assert (row["summary"], row["category"]) == (issue.get("summary"), issue.get("category"))
            assert row["client_user_id"] == client.get("user_id")


def test_the_list_is_cut_by_time_of_creation(shared_desk: RunningDesk, world: dict[str, Row]) -> None:
    """`created_from` takes that moment in, `created_to` leaves it out."""
    times = [ticket["created_at"] for ticket in world.values()]
    for start, end in [(times[2], times[7]), (times[2], times[2]), (times[0], None), (None, times[-1])]:
        query = "&".join(f"{name}={value}" for name, value in (("created_from", start), ("created_to", end)) if value)
        found = {row["ticket_id"] for row in walk(shared_desk, f"/v1/tickets?{query}")} & world.keys()
        assert found == {
            ticket
            for ticket, seen in world.items()
            if (start is None or seen["created_at"] >= start) and (end is None or seen["created_at"] < end)
        }


def test_a_ticket_is_found_by_its_number(shared_desk: RunningDesk, world: dict[str, Row]) -> None:
    """q takes the number as it is printed."""
    for ticket, seen in world.items():
        if seen["number"]:
            found = shared_desk.get(f"/v1/tickets?q={seen['number']}").json["items"]
            assert [row["ticket_id"] for row in found] == [ticket]


def test_the_overview_counts_every_open_ticket_once(shared_desk: RunningDesk, world: dict[str, Row]) -> None:
    """Nine queues; size, unassigned, priorities and the oldest entry agree with the queue's own pages."""
    overview = shared_desk.get("/v1/queues").json
    assert [queue["queue"] for queue in overview["items"]] == list(Queue)
    assert overview["open_tickets"] == sum(queue["size"] for queue in overview["items"])
    everything = walk(shared_desk, "/v1/tickets")
    assert overview["open_tickets"] == sum(row["queue"] is not None for row in everything)
    for queue in overview["items"]:
        assert queue.keys() == {"queue", "size", "unassigned", "oldest_entered_at", "by_priority"}
        rows = walk(shared_desk, f"/v1/queues/{queue['queue']}")
        assert len(rows) == queue["size"] == sum(queue["by_priority"].values())
        assert sum(row["assignee"] is None for row in rows) == queue["unassigned"]
        assert min((row["entered_at"] for row in rows), default=None) == queue["oldest_entered_at"]
        for rank, count in queue["by_priority"].items():
            assert count == sum(str(row["priority"]).lower() == rank for row in rows)


def test_a_queue_is_in_the_order_in_which_it_is_worked(shared_desk: RunningDesk, world: dict[str, Row]) -> None:
    """Priority first, what has none last; then the time of entry. The rows say what the tickets say."""
    for queue in Queue:
        rows = walk(shared_desk, f"/v1/queues/{queue}")
        assert rows == sorted(rows, key=lambda row: (row["priority"] or 6, row["entered_at"], row["ticket_id"]))
        for row in rows:
            assert row.keys() == QUEUE_ROW
            if ticket := world.get(row["ticket_id"]):
                assert ticket["queue"] == queue
                same = row.keys() & TICKET
                assert {name: row[name] for name in same} == {name: ticket[name] for name in same}
        assert {row["ticket_id"] for row in rows} >= {t for t, seen in world.items() if seen["queue"] == queue}


@pytest.mark.parametrize(
    ("query", "fits"),
    [
        ("priority=1", lambda row: row["priority"] == 1),
        ("priority=5", lambda row: row["priority"] == 5),
        ("assignee=anna", lambda row: row["assignee"] == "anna"),
        ("unassigned=true", lambda row: row["assignee"] is None),
        ("unassigned=false", lambda row: row["assignee"] is not None),
        ("waiting_on_client=true", lambda row: row["waiting_on_client"]),
        ("waiting_on_client=false", lambda row: not row["waiting_on_client"]),
        ("client_user_id=bert", lambda row: row["client_user_id"] == "bert"),
        ("state=in_support", lambda row: row["state"] == "in_support"),
        ("state=resolved", lambda row: row["state"] == "resolved"),
        ("client_user_id=anna&waiting_on_client=false&priority=1", lambda row: row["client_user_id"] == "anna"),
    ],
)
def test_a_filter_of_a_queue_finds_exactly_what_fits(
    shared_desk: RunningDesk, world: dict[str, Row], query: str, fits: Callable[[Row], bool]
) -> None:
    """Every filter, in every queue, in the queue's order."""
    for queue in Queue:
        expected = [row for row in walk(shared_desk, f"/v1/queues/{queue}") if fits(row)]
        if "&" in query:
            expected = [row for row in expected if row["priority"] == 1 and not row["waiting_on_client"]]
        assert walk(shared_desk, f"/v1/queues/{queue}?{query}") == expected


def test_a_client_entry_lists_the_clients_tickets(shared_desk: RunningDesk, world: dict[str, Row]) -> None:
    """The directory entry, and the tickets newest first, page by page."""
    for user_id in OWNERS:
        expected = [t for t in reversed(world) if world[t]["client"] and world[t]["client"]["user_id"] == user_id]
        reply = shared_desk.get(f"/v1/clients/{user_id}?limit=200")
        entry = reply.json
        assert (entry["user_id"], entry["email"], entry["version"]) == (user_id, "client-1@example.org", reply.version)
        assert [row["ticket_id"] for row in entry["tickets"]["items"]] == expected
        found, path = [], f"/v1/clients/{user_id}?limit=2"
        while path:
            page = shared_desk.get(path)
            found += [row["ticket_id"] for row in page.json["tickets"]["items"]]
            path = page.headers.get("Link", "").removeprefix("<").removesuffix('>; rel="next"')
            assert path.partition("cursor=")[2] == (page.json["tickets"]["next"] or "")
        assert found == expected


def test_the_feed_is_the_one_order_of_all_events(shared_desk: RunningDesk, world: dict[str, Row]) -> None:
    """Positions 1, 2, 3 … without a gap; every ticket's history is in it, event for event."""
    last = shared_desk.get("/v1/events?limit=1").headers["Deskledger-Position"]
    events = walk(shared_desk, "/v1/events")
    assert [event["position"] for event in events] == list(range(1, len(events) + 1))
    assert len(events) >= int(last)
    for ticket in world:
        assert [event for event in events if event["ticket_id"] == ticket] == history(shared_desk, ticket)
    of_clients = [event for event in events if event["ticket_id"] is None]
    assert {event["client_user_id"] for event in of_clients} >= set(OWNERS)
    assert {event["type"] for event in of_clients} <= {"Client.Registered", "Client.ContactChanged"}


def test_a_filter_of_the_feed_finds_exactly_what_fits(shared_desk: RunningDesk, world: dict[str, Row]) -> None:
    """type, ticket_id, client_user_id (directory and tickets), actor, level, from and to, alone and together."""
    events = walk(shared_desk, "/v1/events")
    ticket = next(ticket for ticket, seen in world.items() if seen["state"] == "closed")
    mine = {t for t, seen in world.items() if seen["client"] and seen["client"]["user_id"] == "bert"}
    checker = next(event["actor"]["id"] for event in events if event["actor"]["name"] == "checker")
    start, end = events[20]["at"], events[60]["at"]
    cases: list[tuple[str, Callable[[Row], bool]]] = [
        ("type=Ticket.Escalated", lambda e: e["type"] == "Ticket.Escalated"),
        ("type=Client.Registered", lambda e: e["type"] == "Client.Registered"),
        ("type=Ticket.ReturnedToLevel", lambda e: e["type"] == "Ticket.ReturnedToLevel"),
        (f"ticket_id={ticket}", lambda e: e["ticket_id"] == ticket),
        (f"ticket_id={uuid4()}", lambda _: False),
        ("client_user_id=bert", lambda e: e["ticket_id"] in mine or e["client_user_id"] == "bert"),
        ("client_user_id=", lambda _: False),
        (f"actor={checker}", lambda e: e["actor"]["id"] == checker),
        ("level=tier2", lambda e: e["level"] == "tier2"),
        ("level=it_manager", lambda e: e["level"] == "it_manager"),
        (f"from={start}", lambda e: e["at"] >= start),
        (f"to={end}", lambda e: e["at"] < end),
        (f"from={start}&to={end}", lambda e: start <= e["at"] < end),
        (f"after=30&type=Ticket.Created&to={end}", lambda e: e["position"] > 30 and created_before(e, end)),
    ]
    for query, fits in cases:
        expected = [event for event in events if fits(event)]
        assert walk(shared_desk, f"/v1/events?{query}") == expected, query
        assert walk(shared_desk, f"/v1/events?{query}", limit=3) == expected, query


def created_before(event: Row, end: str) -> bool:
    """Whether this is a Created before a time."""
    return event["type"] == "Ticket.Created" and event["at"] < end


def test_a_follower_of_the_feed_goes_on_where_it_stopped(shared_desk: RunningDesk) -> None:
    """`after` of a page is where the next reading begins, also when nothing of the page fitted the filter."""
    empty = shared_desk.get("/v1/events?type=Ticket.Linked").json
    assert empty["next"] is None
    first, second = brought(shared_desk, "tier1"), request(shared_desk)
    assert shared_desk.do(first, "link", other_ticket_id=second, relation="related_to").status == 200
    shared_desk.caught_up()
    page = shared_desk.get(f"/v1/events?type=Ticket.Linked&after={empty['after']}").json
    assert [event["ticket_id"] for event in page["items"]] == [first]
    again = shared_desk.get(f"/v1/events?type=Ticket.Linked&after={page['after']}").json
    assert (again["items"], again["after"]) == ([], page["after"])


def test_a_follower_of_one_client_misses_nothing(shared_desk: RunningDesk) -> None:
    """Whoever polls the events of a client from `after` to `after` gets all of a ticket opened meanwhile, also when the
    projection that knows whose it is comes late."""
    shared_desk.client("followed")
    shared_desk.caught_up()
    path = "/v1/events?client_user_id=followed&after="
    before = shared_desk.get(f"{path}0").json
    with standing_still(shared_desk):
        ticket = shared_desk.ticket("followed")
        entry = {"name": "Renamed", "email": "followed@example.org"}
        assert shared_desk.request("PUT", "/v1/clients/followed", entry).version == 2
        other = request(shared_desk)  # sealed after all of that
        sealed(shared_desk, other)
        meanwhile = shared_desk.get(f"{path}{before['after']}").json
        assert meanwhile["items"] == []
    shared_desk.caught_up()
    later = shared_desk.get(f"{path}{meanwhile['after']}").json["items"]
    assert [(event["ticket_id"], event["version"]) for event in later] == [
        *((ticket, n) for n in range(1, 6)),
        (None, 2),
    ]


def test_the_outbox_shows_what_became_of_each_closing_mail(shared_desk: RunningDesk) -> None:
    """Newest first; sent, refused for good, or due; the ticket tells the outcome too."""
    shared_desk.mailbox.verdicts[:] = ["550 no such user"]
    refused = brought(shared_desk, "closed", "unreachable")
    failed = "/v1/closure_mails?state=failed"
    sent = brought(shared_desk, "closed", "reachable")
    shared_desk.caught_up()
    rows = {row["ticket_id"]: row for row in walk(shared_desk, "/v1/closure_mails")}
    assert (rows[refused]["state"], rows[sent]["state"]) == ("failed", "sent")
    assert "550" in rows[refused]["last_error"]
    assert [row["ticket_id"] for row in walk(shared_desk, failed)] == [refused]
    assert sent in {row["ticket_id"] for row in walk(shared_desk, "/v1/closure_mails?state=sent", limit=1)}
    assert history(shared_desk, refused)[-1]["type"] == "Ticket.ClosureEmailFailed"
    assert history(shared_desk, sent)[-1]["type"] == "Ticket.ClosureEmailSent"
    assert rows[refused]["closed_version"] == version(shared_desk, refused) - 1
    assert list(rows) == sorted(rows, reverse=True)


def test_lists_say_where_they_stand(shared_desk: RunningDesk) -> None:
    """Deskledger-Position is on every list, and reaches the change that a command waited for."""
    for path in (
        "/v1/tickets",
        "/v1/queues",
        "/v1/queues/tier1",
        f"/v1/queues/tier1?as_of={(datetime.now().astimezone() - timedelta(hours=1)).isoformat().replace('+', '%2B')}",
        "/v1/clients/positioned",
        "/v1/events",
        "/v1/closure_mails",
    ):
        ticket = shared_desk.ticket("positioned")
        shared_desk.caught_up()
        position = int(shared_desk.get(path).headers["Deskledger-Position"])
        last = shared_desk.get(f"/v1/tickets/{ticket}/history")
        if path != "/v1/closure_mails":  # it follows the log by itself
            assert position == last.json["items"][-1]["position"]
        assert int(last.headers["Deskledger-Position"]) >= position > 0


@pytest.mark.parametrize(
    "path",
    [
        "/v1/tickets?colour=red",
        "/v1/tickets?state=open",
        "/v1/tickets?state=",
        "/v1/tickets?level=tier9",
        "/v1/tickets?queue=all",
        "/v1/tickets?priority=0",
        "/v1/tickets?priority=6",
        "/v1/tickets?priority=high",
        "/v1/tickets?created_from=yesterday",
        "/v1/tickets?created_from=2026-11-23",
        "/v1/tickets?created_from=2026-11-23T09:00:00",
        "/v1/tickets?created_to=2026-13-01T00:00:00Z",
        "/v1/tickets?created_from=1700000000",
        "/v1/tickets?state=closed&state=cancelled",
        "/v1/queues?limit=5",
        "/v1/queues/tier1?unassigned=maybe",
        "/v1/queues/tier1?as_of=2026",
        "/v1/queues/tier1?as_of=2026-11-23T09:00:00Z&priority=1",
        "/v1/queues/tier1?level=tier1",
        "/v1/events?after=-1",
        "/v1/events?after=x",
        "/v1/events?after=99999999999999999999",
        "/v1/events?ticket_id=T-000001",
        "/v1/events?level=1",
        "/v1/events?from=0",
        "/v1/closure_mails?state=lost",
        "/v1/clients/anna?page=2",
        "/v1/tickets?q=%00",
    ],
)
def test_a_parameter_that_makes_no_sense_is_refused(shared_desk: RunningDesk, path: str) -> None:
    """400 for an unknown, repeated, mistyped or out-of-range parameter; it is never ignored."""
    shared_desk.client("anna")
    told = problem(shared_desk.get(path), 400, "invalid_parameter")
    assert len(told["detail"]) > 10


def test_a_refused_parameter_is_named(shared_desk: RunningDesk) -> None:
    """`errors` points at the parameter, and says what it takes."""
    for query, pointer in [("colour=red", "/colour"), ("priority=9", "/priority"), ("created_to=2026", "/created_to")]:
        told = problem(shared_desk.get(f"/v1/tickets?{query}"), 400, "invalid_parameter")
        assert [error["pointer"] for error in told["errors"]] == [pointer]
        assert told["errors"][0]["detail"]


def test_a_reader_sees_no_commands(shared_desk: RunningDesk, world: dict[str, Row]) -> None:
    """An auditor reads everything and may do nothing."""
    auditor = shared_desk.key(Role.AUDITOR)
    for ticket in world:
        assert shared_desk.get(f"/v1/tickets/{ticket}", auditor).json["allowed_commands"] == []


def test_the_pages_of_the_feed_are_linked(shared_desk: RunningDesk, world: dict[str, Row]) -> None:
    """Link goes on behind the last event of the page, and keeps the filters."""
    first = next(pages(shared_desk, "/v1/events?type=Ticket.Created", 2))
    assert first.headers["Link"].startswith("</v1/events?type=Ticket.Created&limit=2&after=")
    assert first.json["next"] == str(first.json["items"][-1]["position"])
