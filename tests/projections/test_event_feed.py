"""The event feed: one log in four forms, the same filters in each, and nothing that keeps a reader from going on."""

import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from application.store.event_store import StoredRow
from application.store.postgres.database import connect
from domain.values import Role
from tests.support.api_requests import JSON, brought, people, problem, request, walk
from tests.support.running_desk import RunningDesk, wait_until
from tests.support.stream_readers import CLOUD_EVENTS, NDJSON, SSE, all_of, stream, told
from tests.support.write_side import append, beside, rows

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.fixture(scope="module")
def desk(module_database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDesk]:
    """A desk with some past, of one process, so that what is logged once is once in its log."""
    with RunningDesk(module_database, tmp_path_factory.mktemp("feed"), workers=1) as served:
        for standing in ("closed", "tier2", "noc", "waiting"):
            brought(served, standing, f"client-{standing}")
        mailed = "/v1/events?type=Ticket.ClosureEmailSent"  # the last event that the desk records by itself
        wait_until(lambda: walk(served, mailed), "the closing mail is sent")
        served.caught_up()
        yield served


def cloud_events(served: RunningDesk, query: str) -> list[dict[str, Any]]:
    """The events of all pages of a feed of CloudEvents."""
    found, path = [], f"/v1/events?limit=7&{query}"
    while path:
        reply = served.request("GET", path, headers={"Accept": CLOUD_EVENTS})
        assert (reply.status, reply.headers["Content-Type"]) == (200, CLOUD_EVENTS)
        found += reply.json
        path = reply.headers.get("Link", "").removeprefix("<").removesuffix('>; rel="next"')
    return found


def test_all_forms_tell_the_same(desk: RunningDesk) -> None:
    """Each filter finds the same events, in the same order, as a page, as lines, as SSE and as CloudEvents."""
    events = walk(desk, "/v1/events")
    some = next(event for event in events if event["type"] == "Ticket.Closed")
    queries = [
        "after=0",
        "after=9",
        "type=Ticket.Escalated",
        "type=Ticket.Cancelled",
        f"ticket_id={some['ticket_id']}",
        "client_user_id=client-tier2",
        f"actor={some['actor']['id']}&after=3",
        "level=tier1",
        f"from={events[5]['at']}&to={some['at']}",
    ]
    for query in queries:
        expected = walk(desk, f"/v1/events?{query}")
        assert (len(expected) > 2) == (query != "type=Ticket.Cancelled"), query
        for accept in (NDJSON, SSE):
            assert all_of(desk, accept, query).events == expected, (query, accept)
        assert [event["data"] for event in cloud_events(desk, query)] == expected, query


def test_a_stream_says_how_far_it_has_come(desk: RunningDesk) -> None:
    """Where nothing fits, whoever goes on from what was told last does not read the same again."""
    end = int(desk.get("/v1/events?limit=1").headers["Deskledger-Position"])
    for accept in (NDJSON, SSE):
        assert all_of(desk, accept, "type=Ticket.Cancelled").position >= end


def test_a_page_of_cloud_events_says_where_to_go_on(desk: RunningDesk) -> None:
    """It is a bare list, so `after` stands in a header, as with every page."""
    for accept in (JSON, CLOUD_EVENTS):
        reply = desk.request("GET", "/v1/events?type=Ticket.Cancelled", headers={"Accept": accept})
        assert reply.headers["Deskledger-After"] == reply.headers["Deskledger-Position"], accept


def test_a_cloud_event_has_what_the_specification_asks_for(desk: RunningDesk) -> None:
    """Required and optional attributes, the extensions sequence and traceparent, the event as data."""
    ticket = request(desk, headers={"traceparent": TRACE})
    wait_until(lambda: walk(desk, f"/v1/events?ticket_id={ticket}"), "the event is sealed")
    (event,), (found,) = walk(desk, f"/v1/events?ticket_id={ticket}"), cloud_events(desk, f"ticket_id={ticket}")
    assert found.pop("traceparent")[:36] == TRACE[:36]  # the trace is the caller's, the span in it the desk's
    assert found == {
        "id": str(event["position"]),
        "source": f"urn:uuid:{desk.get('/v1/events').json['log_id']}",
        "specversion": "1.0",
        "type": "org.deskledger.Ticket.RequestReceived",
        "subject": ticket,
        "time": event["at"],
        "datacontenttype": "application/json",
        "sequence": f"{event['position']:020d}",
        "data": event,
    }
    (registered,) = cloud_events(desk, "type=Client.Registered&client_user_id=client-noc")
    assert (registered["subject"], "traceparent" in registered) == ("client-noc", False)


@pytest.mark.parametrize(
    ("accept", "answered"),
    [
        ("", JSON),
        ("*/*", JSON),
        ("application/*", JSON),
        ("application/json;q=0.5, application/x-ndjson", NDJSON),
        ("text/*;q=0.9, application/json;q=0.2", SSE),
        ("application/cloudevents-batch+json, */*;q=0.1", CLOUD_EVENTS),
    ],
)
def test_the_reader_chooses_the_form(desk: RunningDesk, accept: str, answered: str) -> None:
    """By Accept, with its weights; CloudEvents are for those only who name them."""
    with stream(desk, accept, "wait=0") as response:
        assert (response.status, response.headers["Content-Type"]) == (200, answered)


@pytest.mark.parametrize("accept", ["text/html", "application/json;q=0", "application/xml", "nonsense", "a/b;q=x"])
def test_another_form_is_refused(desk: RunningDesk, accept: str) -> None:
    """406, and the four that there are."""
    refused = problem(desk.request("GET", "/v1/events", headers={"Accept": accept}), 406, "not_acceptable")
    for form in (JSON, NDJSON, SSE, CLOUD_EVENTS):
        assert form in refused["detail"]


def test_last_event_id_wins(desk: RunningDesk) -> None:
    """An EventSource comes back to the address that it was given, with the id that it has got."""
    for last, after in (("7", 7), ("", 2)):
        with stream(desk, SSE, "after=2&wait=0", **{"Last-Event-ID": last}) as response:
            events = told(SSE, response.read(), 0).events
        assert events == walk(desk, f"/v1/events?after={after}")[: len(events)]
        assert len(events) > 20


@pytest.mark.parametrize("last", ["x", "-1", "1.5", "1 2", "0x7", "9" * 19, "9" * 400, "\xb2"])
def test_a_last_event_id_that_is_none_is_refused(desk: RunningDesk, last: str) -> None:
    """400 that says what it takes."""
    headers = {"Accept": SSE, "Last-Event-ID": last}
    problem(desk.request("GET", "/v1/events", headers=headers), 400, "bad_last_event_id")


@pytest.mark.parametrize("query", ["wait=-1", "wait=61", "wait=x", "wait=1&wait=2", "after=x", "unknown=1"])
def test_parameters_are_checked_in_every_form(desk: RunningDesk, query: str) -> None:
    """400 before anything is sent."""
    for accept in (JSON, NDJSON, SSE, CLOUD_EVENTS):
        problem(desk.request("GET", f"/v1/events?{query}", headers={"Accept": accept}), 400, "invalid_parameter")


def test_only_auditors_and_admins_read_it(desk: RunningDesk) -> None:
    """Every other role is refused in every form; so is a client, whose own tickets stand elsewhere."""
    others = {name: key for name, key in people(desk).items() if name not in ("auditor", "admin")}
    for key in (*others.values(), desk.key(Role.CLIENT, client=desk.client())):
        for accept in (JSON, NDJSON, SSE, CLOUD_EVENTS):
            problem(desk.request("GET", "/v1/events", key=key, headers={"Accept": accept}), 403, "role_missing")


def test_head_opens_no_stream(desk: RunningDesk) -> None:
    """The headers of each form, and the connection is free for the next request."""
    for accept in (JSON, NDJSON, SSE, CLOUD_EVENTS):
        reply = desk.request("HEAD", "/v1/events", headers={"Accept": accept})
        assert (reply.status, reply.headers["Content-Type"], reply.data) == (200, accept, b"")


# ── Waiting ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_page_waits_for_what_fits(desk: RunningDesk) -> None:
    """`wait` holds the answer back until something fits: what happens otherwise does not end it."""
    desk.caught_up()
    end = desk.get("/v1/events?limit=1").headers["Deskledger-Position"]
    path = f"/v1/events?after={end}&wait=20&type=Ticket.Linked"
    with beside(lambda: desk.get(path), lambda: linked(desk)) as (waited, ticket):
        pass
    found = waited.result()
    assert [event["ticket_id"] for event in found.json["items"]] == [ticket.result()]
    assert found.json["after"] >= found.json["items"][0]["position"] > int(end)


def linked(desk: RunningDesk) -> str:
    """A ticket that is linked to another one, after some other events."""
    first, second = request(desk), request(desk)
    assert desk.do(first, "link", other_ticket_id=second, relation="related_to").status == 200
    return first


def test_a_page_does_not_wait_where_there_is_something(desk: RunningDesk) -> None:
    """What is there already is answered at once; the test would take minutes otherwise."""
    for _ in range(10):
        assert desk.get("/v1/events?limit=1&wait=30").json["after"] == 1


def test_a_wait_in_vain_is_an_empty_page(desk: RunningDesk) -> None:
    """Nothing happened: an empty page that says where to go on."""
    found = desk.get("/v1/events?type=Ticket.Cancelled&wait=1").json
    assert (found["items"], found["next"]) == ([], None)
    assert found["after"] > 0


def test_events_go_out_without_names_on_request(desk: RunningDesk) -> None:
    """The same events under the same ids; no line `event:`, so that `onmessage` of an EventSource sees each of them."""
    with stream(desk, SSE, "event_names=false&wait=0") as response:
        sent = response.read()
    with stream(desk, SSE, "event_names=true&wait=0") as response:
        named = response.read()
    assert named == all_bytes(desk)
    assert b"\nevent: " in named
    assert sent == re.sub(rb"event: .*\n", b"", named)
    assert desk.get("/v1/events?event_names=perhaps").status == 400


def all_bytes(desk: RunningDesk) -> bytes:
    """What a stream of server-sent events is without a word about names."""
    with stream(desk, SSE, "wait=0") as response:
        return response.read()


@pytest.mark.parametrize("accept", [NDJSON, SSE])
def test_streams_follow_what_fits(desk: RunningDesk, accept: str) -> None:
    """What happens while they are open comes as well, to each what its filter lets through."""
    user_id = f"followed-{accept[-4:]}"
    writer, watched = desk.key(Role.INTAKE, name=user_id), request(desk)
    desk.client(user_id)
    mine = request(desk, key=writer)
    desk.caught_up()
    end = desk.get("/v1/events?limit=1").headers["Deskledger-Position"]
    (actor,) = (event["actor"]["id"] for event in walk(desk, f"/v1/events?ticket_id={mine}"))
    counts = {
        f"ticket_id={watched}": 2,
        f"client_user_id={user_id}": 2,
        "type=Ticket.Created": 2,
        "level=tier1": 1,
        f"actor={actor}": 2,
        "": 8,
    }
    with ExitStack() as stack:
        streams = {
            query: stack.enter_context(stream(desk, accept, f"after={end}&wait=2&{query}".rstrip("&")))
            for query in counts
        }
        assert desk.do(watched, "identify_client", writer, client_user_id=user_id).status == 200
        assert desk.do(watched, "create", writer).status == 200
        desk.ticket("somebody-else")
        found = {query: told(accept, response.read(), 0) for query, response in streams.items()}
    for query, count in counts.items():
        expected = walk(desk, f"/v1/events?after={end}&{query}".rstrip("&"))[:count]
        assert found[query].events == expected, query
        assert found[query].position >= expected[-1]["position"]


# ── What cannot be read ─────────────────────────────────────────────────────────────────────────────────────


def test_an_event_that_cannot_be_read_stops_nobody(desk: RunningDesk) -> None:
    """It is an item that says so, in every form, and what follows it is read; the log of the desk has it once."""
    stream_id, other = uuid4(), uuid4()
    bad = [*unreadable(stream_id, "Ticket.FromTheFuture", b'{"a": 1}'), *unreadable(other, "Ticket.Escalated", b"{}")]
    with connect(desk.database, "test") as connection:
        append(connection, bad)
    after = request(desk)
    wait_until(lambda: walk(desk, f"/v1/events?ticket_id={after}"), "it is sealed")
    path = f"/v1/events?after={walk(desk, f'/v1/events?ticket_id={stream_id}')[0]['position'] - 2}"
    items = walk(desk, path)
    unread = {item["type"]: item for item in items if item["data"] is None}
    assert set(unread) == {"Ticket.FromTheFuture", "Ticket.Escalated"}
    assert unread["Ticket.FromTheFuture"]["ticket_id"] == str(stream_id)
    assert unread["Ticket.Escalated"]["words"] == "This event cannot be read by this version of the program."
    assert unread["Ticket.Escalated"]["actor"] is None
    assert items[-1]["ticket_id"] == after
    for accept in (NDJSON, SSE):
        assert all_of(desk, accept, path.partition("?")[2]).events == items
    assert [event["data"] for event in cloud_events(desk, path.partition("?")[2])] == items
    wait_until(lambda: logged(desk.directory, "event cannot be read") == 2, "it is logged")


def unreadable(stream_id: UUID, type_: str, body: bytes) -> list[StoredRow]:
    """A row that the program cannot read."""
    (row,) = rows(stream_id)
    return [StoredRow(row.originator_id, row.originator_version, type_, body, row.at)]


def logged(directory: Path, said: str) -> int:
    """How often the API has logged this."""
    return (directory / "api.log").read_text().count(said)


@pytest.mark.parametrize("accept", [JSON, CLOUD_EVENTS, NDJSON, SSE])
def test_a_position_of_another_log_is_refused(desk: RunningDesk, accept: str) -> None:
    """One beyond the end, and any that comes with another log's identity; the right identity is taken."""
    known = desk.get("/v1/events?limit=1")
    end, log_id = int(known.headers["Deskledger-Position"]), known.json["log_id"]
    assert known.headers["Deskledger-Log"] == log_id
    for query in (f"after={end + 1000}", f"after=1&log_id={uuid4()}"):
        refused = desk.request("GET", f"/v1/events?wait=0&{query}", headers={"Accept": accept})
        problem(refused, 409, "unknown_position")
    with stream(desk, accept, f"wait=0&after=1&log_id={log_id}") as response:
        assert (response.status, response.headers["Deskledger-Log"]) == (200, log_id)


def test_a_last_event_id_of_another_log_is_refused(desk: RunningDesk) -> None:
    """An EventSource that comes back after a restore is told, too."""
    headers = {"Accept": SSE, "Last-Event-ID": str(10**9)}
    problem(desk.request("GET", "/v1/events", headers=headers), 409, "unknown_position")
