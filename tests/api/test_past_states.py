"""What was: a ticket at a version, a time or a position, and a queue at a time."""

import random
from collections.abc import Iterator
from typing import Any

import pytest

from application.clock import utc_now
from application.store.postgres.database import connect
from application.store.snapshots import take_all_snapshots
from domain.values import Queue
from tests.support.api_requests import brought, client_key, filled, give, path_to, problem, request, walk
from tests.support.running_desk import RunningDesk

Row = dict[str, Any]
STEPS = 60  # of the random walk
PASSING = {"cancel", "reopen"}  # they would end the walk early


def looked_at(served: RunningDesk, ticket: str) -> Row:
    """The ticket as it stands, without what the caller may do now."""
    return {
        name: value for name, value in served.get(f"/v1/tickets/{ticket}").json.items() if name != "allowed_commands"
    }


def moment() -> str:
    """Now, as a parameter."""
    return utc_now().isoformat().replace("+00:00", "Z")


@pytest.fixture(scope="module")
def told(module_desk: RunningDesk) -> Iterator[tuple[str, list[Row], list[Row]]]:
    """A ticket with how it looked after each of its events while they happened, and its history."""
    module_desk.client("client-1")
    ticket = request(module_desk)
    looks = [looked_at(module_desk, ticket)]
    for command in [*path_to("noc"), "add_note", "change_priority", "await_client", "client_responded", "resolve"]:
        assert give(module_desk, ticket, command).status == 200
        looks.append(looked_at(module_desk, ticket))
    for command, more in [("verify", {"satisfied": False}), ("return_to_level", {}), ("cancel", {})]:
        assert give(module_desk, ticket, command, module_desk.checker if more else None, **more).status == 200
        looks.append(looked_at(module_desk, ticket))
    module_desk.caught_up()
    return ticket, looks, module_desk.get(f"/v1/tickets/{ticket}/history").json["items"]


@pytest.mark.parametrize("by", ["version", "as_of", "position"])
def test_a_ticket_of_the_past_is_what_people_saw_then(
    module_desk: RunningDesk, told: tuple[str, list[Row], list[Row]], by: str
) -> None:
    """By version, by time and by position: the same ticket as it was answered at that time, with that ETag."""
    ticket, looks, events = told
    assert len(looks) == len(events)
    for look, event in zip(looks, events, strict=True):
        value = {"version": event["version"], "as_of": event["at"], "position": event["position"]}[by]
        reply = module_desk.get(f"/v1/tickets/{ticket}?{by}={value}")
        assert reply.json == look | {"allowed_commands": []}
        assert reply.version == event["version"]
        assert int(reply.headers["Deskledger-Position"]) >= event["position"]


def test_a_long_ticket_of_the_past_is_the_same_with_snapshots(module_desk: RunningDesk) -> None:
    """By version, time and position, just before, at and behind a snapshot; and what a stale command has missed."""
    ticket = brought(module_desk, "tier2")
    for number in range(60):
        assert module_desk.do(ticket, "add_note", version=6 + number, text=f"note {number}").status == 200
    assert give(module_desk, ticket, "qualify").status == 200
    module_desk.caught_up()
    events = module_desk.get(f"/v1/tickets/{ticket}/history").json["items"]
    queries = ["", *(f"?version={n}" for n in (1, 24, 25, 26, 50, len(events)))]
    queries += [f"?position={event['position']}" for event in events[22:27]]
    queries += [f"?as_of={event['at']}" for event in events[-2:]]

    def looks() -> list[Row]:
        stale = [module_desk.do(ticket, "add_note", version=n, text="late").json["missed_events"] for n in (1, 40, 61)]
        assert [len(missed) for missed in stale] == [len(events) - n for n in (1, 40, 61)]
        return [*(module_desk.get(f"/v1/tickets/{ticket}{query}").json for query in queries), *stale]

    with connect(module_desk.database, "test") as connection:
        take_all_snapshots(connection)
        assert connection.execute("select count(*) from snapshots where stream_id = %s", (ticket,)).fetchone() == (2,)
        before = looks()
        connection.execute("update snapshots set fold = 'of another program' where stream_id = %s", (ticket,))
        assert looks() == before


def test_between_two_events_the_earlier_one_counts(
    module_desk: RunningDesk, told: tuple[str, list[Row], list[Row]]
) -> None:
    """A microsecond before an event, or at the position before it, the ticket is at the version before."""
    ticket, _, events = told
    for event in events[1:]:
        earlier = event["at"].replace("Z", "")
        micros = int(earlier[-6:])
        if micros:
            before = f"{earlier[:-6]}{micros - 1:06}Z"
            assert module_desk.get(f"/v1/tickets/{ticket}?as_of={before}").version == event["version"] - 1
        position = event["position"] - 1
        assert module_desk.get(f"/v1/tickets/{ticket}?position={position}").version == event["version"] - 1


def test_before_its_first_event_there_is_no_ticket(
    module_desk: RunningDesk, told: tuple[str, list[Row], list[Row]]
) -> None:
    """404 before the creation, by time and by position."""
    ticket, _, events = told
    for query in (f"position={events[0]['position'] - 1}", "position=0", "as_of=2020-01-01T00:00:00Z"):
        told_ = problem(module_desk.get(f"/v1/tickets/{ticket}?{query}"), 404, "unknown_ticket")
        assert told_["detail"] == "The ticket did not exist yet."


def test_a_version_that_is_not_there_is_not_found(
    module_desk: RunningDesk, told: tuple[str, list[Row], list[Row]]
) -> None:
    """404 says how many versions there are; a future time is 400, a position beyond the log 409."""
    ticket, _, events = told
    for number in (len(events) + 1, 10**9, 10**30):
        detail = problem(module_desk.get(f"/v1/tickets/{ticket}?version={number}"), 404, "unknown_version")["detail"]
        assert str(len(events)) in detail
    problem(module_desk.get(f"/v1/tickets/{ticket}?as_of=9999-12-31T23:59:59Z"), 400, "future_time")
    problem(module_desk.get(f"/v1/tickets/{ticket}?position={10**30}"), 409, "unknown_position")


@pytest.mark.parametrize(
    "query",
    [
        "version=1&as_of=2026-01-01T00:00:00Z",
        "version=1&position=1",
        "position=1&as_of=2026-01-01T00:00:00Z",
        "version=1&version=2",
        "version=0",
        "version=-1",
        "version=one",
        "version=1.5",
        "version=",
        "position=-1",
        "position=x",
        "as_of=now",
        "as_of=1700000000",
        "as_of=2026-11-23T10:00:00",
        "as_of=2026-11-23",
        "as_of=",
        "at=5",
    ],
)
def test_one_well_formed_moment_may_be_named(
    module_desk: RunningDesk, told: tuple[str, list[Row], list[Row]], query: str
) -> None:
    """400 for two at once, for what is none, and for a time without its zone."""
    problem(module_desk.get(f"/v1/tickets/{told[0]}?{query}"), 400, "invalid_parameter")


def test_a_time_of_another_zone_is_the_same_moment(
    module_desk: RunningDesk, told: tuple[str, list[Row], list[Row]]
) -> None:
    """RFC 3339 offsets are understood, with the plus sign percent-encoded."""
    ticket, looks, events = told
    other = events[4]["at"].replace("Z", "%2B00:00")
    assert module_desk.get(f"/v1/tickets/{ticket}?as_of={other}").json == looks[4] | {"allowed_commands": []}


def test_an_empty_query_is_the_present(module_desk: RunningDesk) -> None:
    """`?` and `?&` ask for nothing: the ticket as it stands, with the commands."""
    ticket = brought(module_desk, "tier1")
    for path in (f"/v1/tickets/{ticket}?", f"/v1/tickets/{ticket}?&"):
        assert module_desk.get(path).json["allowed_commands"]


def test_a_client_sees_the_past_of_an_own_ticket(module_desk: RunningDesk) -> None:
    """Also from before the client was identified: it was the client's request all along."""
    ticket, key = brought(module_desk, "tier1", "looking"), client_key(module_desk, "looking")
    states = [module_desk.get(f"/v1/tickets/{ticket}?version={n}", key).json["state"] for n in range(1, 6)]
    assert states == ["received", "identified", "created", "documented", "in_support"]


@pytest.fixture(scope="module")
def walked(module_desk: RunningDesk) -> Iterator[list[tuple[str, dict[str, list[Row]]]]]:
    """The pages of all queues as they were read live, with the time, while things happened at random."""
    chance = random.Random(20261123)
    tickets = [module_desk.ticket("walker", *chance.choices(["low", "medium", "high"], k=2)) for _ in range(6)]
    tickets += [request(module_desk) for _ in range(2)]
    pictures = [(moment(), pages_of(module_desk))]
    for _ in range(STEPS):
        ticket = chance.choice(tickets)
        possible = module_desk.get(f"/v1/tickets/{ticket}").json["allowed_commands"]
        checked = module_desk.get(f"/v1/tickets/{ticket}", module_desk.checker).json["allowed_commands"]
        possible += ["verify", "verify"] * ("verify" in checked)
        commands = [name for name in possible if name not in PASSING] or ["link"]
        command = chance.choice(commands)
        body = filled(module_desk, ticket, command, module_desk.client("walker"))
        if command == "change_priority":
            body |= {"impact": chance.choice(["low", "medium", "high"]), "urgency": chance.choice(["low", "high"])}
        if command == "qualify":
            body["can_resolve"] = chance.random() < 0.7
        key = module_desk.checker if command == "verify" else module_desk.staff
        reply = module_desk.request("POST", f"/v1/tickets/{ticket}:{command}", body, key, {"If-Match": "*"})
        assert reply.status == 200, reply.data
        pictures.append((moment_after(module_desk), pages_of(module_desk)))
    return pictures


def moment_after(served: RunningDesk) -> str:
    """Now, when the projections hold everything."""
    served.caught_up()
    return moment()


def pages_of(served: RunningDesk) -> dict[str, list[Row]]:
    """Every queue as it is shown now."""
    served.caught_up()
    return {str(queue): walk(served, f"/v1/queues/{queue}") for queue in Queue}


def test_a_queue_of_the_past_is_what_its_page_showed_then(
    module_desk: RunningDesk, walked: list[tuple[str, dict[str, list[Row]]]]
) -> None:
    """Row for row and in the same order: membership, priority, assignee, version and all, at every recorded time."""
    seen = {queue for _, picture in walked for queue, rows in picture.items() if rows}
    assert len(seen) >= 5, seen  # the walk went far enough to mean something
    assert len({row["version"] for _, picture in walked for rows in picture.values() for row in rows}) > 10
    for time, picture in walked:
        for queue, rows in picture.items():
            assert walk(module_desk, f"/v1/queues/{queue}?as_of={time}") == rows, (time, queue)


def test_at_the_very_moment_of_a_move_a_ticket_is_in_one_queue(
    module_desk: RunningDesk, walked: list[tuple[str, dict[str, list[Row]]]]
) -> None:
    """Rule 11, as of the time of each event: in the queue that the ticket of that moment names, and in no other."""
    tickets = {row["ticket_id"] for _, picture in walked for rows in picture.values() for row in rows}
    for ticket in sorted(tickets)[:3]:
        for event in module_desk.get(f"/v1/tickets/{ticket}/history").json["items"][4:]:
            then = module_desk.get(f"/v1/tickets/{ticket}?as_of={event['at']}").json["queue"]
            found = [
                str(queue)
                for queue in Queue
                for row in walk(module_desk, f"/v1/queues/{queue}?as_of={event['at']}")
                if row["ticket_id"] == ticket
            ]
            assert found == [then] * (then is not None)


def test_a_queue_of_the_past_is_read_page_by_page(
    module_desk: RunningDesk, walked: list[tuple[str, dict[str, list[Row]]]]
) -> None:
    """The cursor of a past page goes on in the same past."""
    for time, picture in walked[:: STEPS // 4]:
        for queue, rows in picture.items():
            assert walk(module_desk, f"/v1/queues/{queue}?as_of={time}", limit=1) == rows


def test_a_queue_before_and_after_everything(module_desk: RunningDesk) -> None:
    """Empty before the desk existed; the present at this moment, once it is over; the future is refused."""
    brought(module_desk, "tier1")
    module_desk.caught_up()
    assert walk(module_desk, "/v1/queues/tier1?as_of=0001-01-01T00:00:00Z") == []
    live = walk(module_desk, "/v1/queues/tier1")
    assert walk(module_desk, f"/v1/queues/tier1?as_of={moment()}") == live != []
    problem(module_desk.get("/v1/queues/tier1?as_of=9999-12-31T23:59:59Z"), 400, "future_time")


def test_the_past_does_not_change_when_more_happens(module_desk: RunningDesk) -> None:
    """A ticket and a queue as of a time stay the same whatever is done after."""
    ticket = brought(module_desk, "tier1")
    module_desk.caught_up()
    then = moment()
    paths = (f"/v1/tickets/{ticket}?as_of={then}", f"/v1/queues/tier1?as_of={then}&limit=200")
    before = [module_desk.get(path).json for path in paths]
    for command in ("assign", "change_priority", "escalate", "qualify", "resolve"):
        assert give(module_desk, ticket, command).status == 200
    module_desk.caught_up()
    assert [module_desk.get(path).json for path in paths] == before
