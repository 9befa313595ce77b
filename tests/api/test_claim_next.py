"""The next ticket of a queue, for whoever asks: nobody gets one that somebody else has."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from threading import Barrier, Thread
from typing import Any
from uuid import UUID

import pytest

from application.store.event_store import StoredRow
from application.store.postgres.database import connect
from domain.values import Level, Queue, Role
from tests.support.api_requests import brought, give, problem, standing_still, version, walk
from tests.support.running_desk import Reply, RunningDesk
from tests.support.write_side import NOW, append

CROWD, TICKETS = 8, 60
WORKERS: list[tuple[Queue, str]] = [  # a queue, and a standing that is in it
    (Queue.INTAKE, "created"),
    (Queue.TIER1, "tier1"),
    (Queue.TIER2, "tier2"),
    (Queue.TIER3, "tier3_can"),
    (Queue.ONSITE, "onsite"),
    (Queue.NOC, "noc"),
    (Queue.QUALITY_CONTROL, "resolved"),
    (Queue.CLOSING, "verified"),
    (Queue.IT_MANAGER, "deciding"),
]


def claim(served: RunningDesk, queue: str, key: str | None = None, **headers: str) -> Reply:
    """Asks for the next ticket."""
    return served.request("POST", f"/v1/queues/{queue}:claim_next", None, key, headers)


def emptied(served: RunningDesk, queue: str) -> None:
    """Claims whatever is free in a queue."""
    served.caught_up()
    while claim(served, queue).status == 200:
        pass


@pytest.fixture
def crowd(shared_desk: RunningDesk) -> Iterator[list[str]]:
    """Keys of agents of tier 1, each with an id of its own."""
    return [shared_desk.key(Role.AGENT, levels=[Level.TIER1], name=f"agent-{n}") for n in range(CROWD)]


def together(work: list[Callable[[], Any]]) -> list[Any]:
    """Does all of it at the same time."""
    start = Barrier(len(work))

    def begin(one: Callable[[], Any]) -> Any:
        start.wait()
        return one()

    with ThreadPoolExecutor(len(work)) as pool:
        return list(pool.map(begin, work))


def test_a_crowd_never_gets_the_same_ticket(shared_desk: RunningDesk, crowd: list[str]) -> None:
    """Eight claim from sixty at once: each ticket goes to one of them, all are given, then 204; urgent ones first."""
    emptied(shared_desk, "tier1")
    grades = [("low", "low"), ("high", "high"), ("medium", "medium")]
    tickets = {shared_desk.ticket("crowd", *grades[n % 3]) for n in range(TICKETS)}
    shared_desk.caught_up()

    def take_all(key: str) -> list[dict[str, Any]]:
        got = []
        while (reply := claim(shared_desk, "tier1", key)).status == 200:
            got.append(reply.json)
        assert (reply.status, reply.data) == (204, b"")
        return got

    takings = together([lambda key=key: take_all(key) for key in crowd])
    taken = [ticket["ticket_id"] for taking in takings for ticket in taking]
    assert len(taken) == len(set(taken)) == TICKETS
    assert set(taken) == tickets
    for taking in takings:  # what others take at the same moment may be a little out of turn
        ranks = [ticket["priority"] for ticket in taking]
        assert sum(a > b for a, b in pairwise(ranks)) <= 1, ranks
    assert sum(len(taking) > 0 for taking in takings) > 1
    for taking in takings:
        for ticket in taking:
            history = shared_desk.get(f"/v1/tickets/{ticket['ticket_id']}/history").json["items"]
            assigned = [event["data"]["assignee"] for event in history if event["type"] == "Ticket.Assigned"]
            assert assigned == [ticket["assignee"]]
    shared_desk.caught_up()
    assert walk(shared_desk, "/v1/queues/tier1?unassigned=true") == []


def test_two_who_ask_for_the_last_ticket(shared_desk: RunningDesk, crowd: list[str]) -> None:
    """One gets it, all others 204, again and again."""
    emptied(shared_desk, "tier1")
    for _ in range(10):
        ticket = shared_desk.ticket("last")
        shared_desk.caught_up()
        replies = together([lambda key=key: claim(shared_desk, "tier1", key) for key in crowd])
        assert sorted(reply.status for reply in replies) == [200] + [204] * (CROWD - 1)
        assert [reply.json["ticket_id"] for reply in replies if reply.status == 200] == [ticket]


@pytest.mark.parametrize(("queue", "standing"), WORKERS)
def test_every_queue_gives_its_first_free_ticket(shared_desk: RunningDesk, queue: Queue, standing: str) -> None:
    """200 with the ticket, assigned to the caller, ETag and commands; the assigned one in front is left alone."""
    emptied(shared_desk, queue)
    first, second = brought(shared_desk, standing), brought(shared_desk, standing)
    shared_desk.caught_up()
    replies = [claim(shared_desk, queue), claim(shared_desk, queue)]
    assert [reply.json["ticket_id"] for reply in replies] == [first, second]
    assert claim(shared_desk, queue).status == 204
    for reply, ticket in zip(replies, (first, second), strict=True):
        assert (reply.status, reply.version) == (200, reply.json["version"])
        assert reply.json == shared_desk.get(f"/v1/tickets/{ticket}").json
        last = shared_desk.get(f"/v1/tickets/{ticket}/history").json["items"][-1]
        assert (last["type"], last["actor"]["id"]) == ("Ticket.Assigned", reply.json["assignee"])


def test_a_dossier_that_the_client_looks_at_is_left_alone(shared_desk: RunningDesk) -> None:
    """A claim is activity and would void the dossier: such a ticket is passed over, also while the list is late."""
    emptied(shared_desk, "it_manager")
    waiting, approved, late = (brought(shared_desk, name) for name in ("awaiting_approval", "approved", "deciding"))
    shared_desk.caught_up()
    with standing_still(shared_desk):
        give(shared_desk, late, "compile_dossier")
        assert claim(shared_desk, "it_manager").status == 204
    shared_desk.caught_up()
    assert claim(shared_desk, "it_manager").status == 204
    states = [shared_desk.get(f"/v1/tickets/{ticket}").json["state"] for ticket in (waiting, approved, late)]
    assert states == ["awaiting_approval", "approved", "awaiting_approval"]


def test_the_most_urgent_is_next_and_then_the_oldest(shared_desk: RunningDesk) -> None:
    """Priority, then time of entry; a ticket made urgent moves to the front."""
    emptied(shared_desk, "tier2")
    tickets = [shared_desk.ticket("order", grade, grade) for grade in ("low", "high", "low", "medium")]
    for ticket in tickets:
        give(shared_desk, ticket, "escalate")
    give(shared_desk, tickets[2], "change_priority", impact="high", urgency="high")
    shared_desk.caught_up()
    got = [claim(shared_desk, "tier2").json["ticket_id"] for _ in tickets]
    # both have priority 1 now; the one that entered the queue first is first
    assert got == [tickets[1], tickets[2], tickets[3], tickets[0]]


@pytest.mark.parametrize("command", ["assign", "escalate", "cancel", "resolve"])
def test_what_the_list_shows_too_late_is_not_given_away(
    shared_desk: RunningDesk, crowd: list[str], command: str
) -> None:
    """A ticket that was assigned or left the queue is passed over while the list still has it, also for a caller who
    could claim it where it is now."""
    for key in (crowd[0], shared_desk.staff):
        emptied(shared_desk, "tier1")
        gone, free = shared_desk.ticket("late", "high", "high"), shared_desk.ticket("late")
        shared_desk.caught_up()
        with standing_still(shared_desk):
            give(shared_desk, gone, command)
            before = version(shared_desk, gone)
            assert gone in [row["ticket_id"] for row in walk(shared_desk, "/v1/queues/tier1")]
            assert claim(shared_desk, "tier1", key).json["ticket_id"] == free
            assert claim(shared_desk, "tier1", key).status == 204
            assert version(shared_desk, gone) == before


def test_a_free_ticket_is_found_behind_many_that_are_gone(shared_desk: RunningDesk) -> None:
    """However late the list is, and however much of it is gone, the one that is free is given."""
    emptied(shared_desk, "tier1")
    gone = [shared_desk.ticket("many", "high", "high") for _ in range(51)]
    free = shared_desk.ticket("many", "low", "low")
    shared_desk.caught_up()
    with standing_still(shared_desk):
        for ticket in gone:
            shared_desk.do(ticket, "assign", version=5)
        assert claim(shared_desk, "tier1").json["ticket_id"] == free
        assert claim(shared_desk, "tier1").status == 204


def test_a_released_ticket_can_be_claimed_again(shared_desk: RunningDesk, crowd: list[str]) -> None:
    """Claim, release, claim by somebody else."""
    emptied(shared_desk, "tier1")
    ticket = shared_desk.ticket("again")
    shared_desk.caught_up()
    first = claim(shared_desk, "tier1", crowd[0], Prefer="wait=10")
    assert first.headers["Preference-Applied"] == "wait=10"
    assert claim(shared_desk, "tier1", crowd[1]).status == 204
    assert give(shared_desk, ticket, "release", crowd[0]).status == 200
    shared_desk.caught_up()
    second = claim(shared_desk, "tier1", crowd[1])
    assert second.json["ticket_id"] == ticket
    assert second.json["assignee"] != first.json["assignee"]


def test_claiming_while_tickets_move_away(shared_desk: RunningDesk, crowd: list[str]) -> None:
    """Agents of tier 1 claim while others escalate: each claimed ticket was at tier 1 when it was assigned."""
    emptied(shared_desk, "tier1")
    tickets = [shared_desk.ticket("moving") for _ in range(20)]
    shared_desk.caught_up()
    mover = Thread(target=lambda: [give(shared_desk, ticket, "escalate") for ticket in reversed(tickets)])
    mover.start()
    replies = together([lambda key=key: [claim(shared_desk, "tier1", key) for _ in range(4)] for key in crowd])
    mover.join()
    claimed = [reply.json for group in replies for reply in group if reply.status == 200]
    assert {reply.status for group in replies for reply in group} <= {200, 204}
    assert {ticket["queue"] for ticket in claimed} <= {"tier1"}
    assert len({ticket["ticket_id"] for ticket in claimed}) == len(claimed)


def test_an_unknown_queue_and_a_body_are_refused(shared_desk: RunningDesk) -> None:
    """404 names the queues; a claim takes no fields."""
    assert "tier1" in problem(claim(shared_desk, "tier9"), 404, "unknown_queue")["detail"]
    path = "/v1/queues/tier1:claim_next"
    problem(shared_desk.request("POST", path, {"assignee": "anna"}), 422, "invalid_body")
    assert shared_desk.request("POST", path, {}).status in (200, 204)


def test_a_claim_of_several_levels_takes_from_the_queue_that_was_named(shared_desk: RunningDesk) -> None:
    """An agent of two levels gets from one queue what is in that queue."""
    key = shared_desk.key(Role.AGENT, levels=[Level.TIER1, Level.TIER2])
    emptied(shared_desk, "tier1")
    emptied(shared_desk, "tier2")
    low, high = brought(shared_desk, "tier1"), brought(shared_desk, "tier2")
    shared_desk.caught_up()
    assert claim(shared_desk, "tier2", key).json["ticket_id"] == high
    assert claim(shared_desk, "tier2", key).status == 204
    assert claim(shared_desk, "tier1", key).json["ticket_id"] == low
    problem(claim(shared_desk, "tier3", key), 403, "role_missing")


def test_a_ticket_that_cannot_be_read_is_passed_over(database: str, tmp_path: Path) -> None:
    """It is for the operator; whoever claims gets the one behind it."""
    with RunningDesk(database, tmp_path, workers=1) as served:
        served.client()
        broken, sound = served.ticket(impact="high", urgency="high"), served.ticket()
        served.caught_up()
        with connect(database, "test future") as connection:
            append(connection, [StoredRow(UUID(broken), version(served, broken) + 1, "Ticket.OfTomorrow", b"{}", NOW)])
        assert claim(served, "tier1").json["ticket_id"] == sound
        assert claim(served, "tier1").status == 204
