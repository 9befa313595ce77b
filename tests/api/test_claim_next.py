"""The next ticket of a queue, for whoever asks: nobody gets one that somebody else has."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from threading import Barrier, Thread
from typing import Any
from uuid import UUID

import pytest

from application.database import connect
from application.event_store import StoredRow
from domain.values import Level, Queue, Role
from tests.support.api_requests import brought, give, problem, standing_still, version, walk
from tests.support.running_desk import Reply, Served
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


def claim(served: Served, queue: str, key: str | None = None, **headers: str) -> Reply:
    """Asks for the next ticket."""
    return served.request("POST", f"/v1/queues/{queue}:claim_next", None, key, headers)


def emptied(served: Served, queue: str) -> None:
    """Claims whatever is free in a queue."""
    served.caught_up()
    while claim(served, queue).status == 200:
        pass


@pytest.fixture
def crowd(served_module: Served) -> Iterator[list[str]]:
    """Keys of agents of tier 1, each with an id of its own."""
    return [served_module.key(Role.AGENT, levels=[Level.TIER1], name=f"agent-{n}") for n in range(CROWD)]


def together(work: list[Callable[[], Any]]) -> list[Any]:
    """Does all of it at the same time."""
    start = Barrier(len(work))

    def begin(one: Callable[[], Any]) -> Any:
        start.wait()
        return one()

    with ThreadPoolExecutor(len(work)) as pool:
        return list(pool.map(begin, work))


def test_a_crowd_never_gets_the_same_ticket(served_module: Served, crowd: list[str]) -> None:
    """Eight claim from sixty at once: each ticket goes to one of them, all are given, then 204; urgent ones first."""
    emptied(served_module, "tier1")
    grades = [("low", "low"), ("high", "high"), ("medium", "medium")]
    tickets = {served_module.ticket("crowd", *grades[n % 3]) for n in range(TICKETS)}
    served_module.caught_up()

    def take_all(key: str) -> list[dict[str, Any]]:
        got = []
        while (reply := claim(served_module, "tier1", key)).status == 200:
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
            history = served_module.get(f"/v1/tickets/{ticket['ticket_id']}/history").json["items"]
            assigned = [event["data"]["assignee"] for event in history if event["type"] == "Ticket.Assigned"]
            assert assigned == [ticket["assignee"]]
    served_module.caught_up()
    assert walk(served_module, "/v1/queues/tier1?unassigned=true") == []


def test_two_who_ask_for_the_last_ticket(served_module: Served, crowd: list[str]) -> None:
    """One gets it, all others 204, again and again."""
    emptied(served_module, "tier1")
    for _ in range(10):
        ticket = served_module.ticket("last")
        served_module.caught_up()
        replies = together([lambda key=key: claim(served_module, "tier1", key) for key in crowd])
        assert sorted(reply.status for reply in replies) == [200] + [204] * (CROWD - 1)
        assert [reply.json["ticket_id"] for reply in replies if reply.status == 200] == [ticket]


@pytest.mark.parametrize(("queue", "standing"), WORKERS)
def test_every_queue_gives_its_first_free_ticket(served_module: Served, queue: Queue, standing: str) -> None:
    """200 with the ticket, assigned to the caller, ETag and commands; the assigned one in front is left alone."""
    emptied(served_module, queue)
    first, second = brought(served_module, standing), brought(served_module, standing)
    served_module.caught_up()
    replies = [claim(served_module, queue), claim(served_module, queue)]
    assert [reply.json["ticket_id"] for reply in replies] == [first, second]
    assert claim(served_module, queue).status == 204
    for reply, ticket in zip(replies, (first, second), strict=True):
        assert (reply.status, reply.version) == (200, reply.json["version"])
        assert reply.json == served_module.get(f"/v1/tickets/{ticket}").json
        last = served_module.get(f"/v1/tickets/{ticket}/history").json["items"][-1]
        assert (last["type"], last["actor"]["id"]) == ("Ticket.Assigned", reply.json["assignee"])


def test_a_dossier_that_the_client_looks_at_is_left_alone(served_module: Served) -> None:
    """A claim is activity and would void the dossier: such a ticket is passed over, also while the list is late."""
    emptied(served_module, "it_manager")
    waiting, approved, late = (brought(served_module, name) for name in ("awaiting_approval", "approved", "deciding"))
    served_module.caught_up()
    with standing_still(served_module):
        give(served_module, late, "compile_dossier")
        assert claim(served_module, "it_manager").status == 204
    served_module.caught_up()
    assert claim(served_module, "it_manager").status == 204
    states = [served_module.get(f"/v1/tickets/{ticket}").json["state"] for ticket in (waiting, approved, late)]
    assert states == ["awaiting_approval", "approved", "awaiting_approval"]


def test_the_most_urgent_is_next_and_then_the_oldest(served_module: Served) -> None:
    """Priority, then time of entry; a ticket made urgent moves to the front."""
    emptied(served_module, "tier2")
    tickets = [served_module.ticket("order", grade, grade) for grade in ("low", "high", "low", "medium")]
    for ticket in tickets:
        give(served_module, ticket, "escalate")
    give(served_module, tickets[2], "change_priority", impact="high", urgency="high")
    served_module.caught_up()
    got = [claim(served_module, "tier2").json["ticket_id"] for _ in tickets]
    # both have priority 1 now; the one that entered the queue first is first
    assert got == [tickets[1], tickets[2], tickets[3], tickets[0]]


@pytest.mark.parametrize("command", ["assign", "escalate", "cancel", "resolve"])
def test_what_the_list_shows_too_late_is_not_given_away(served_module: Served, crowd: list[str], command: str) -> None:
    """A ticket that was assigned or left the queue is passed over while the list still has it, also for a caller who
    could claim it where it is now."""
    for key in (crowd[0], served_module.staff):
        emptied(served_module, "tier1")
        gone, free = served_module.ticket("late", "high", "high"), served_module.ticket("late")
        served_module.caught_up()
        with standing_still(served_module):
            give(served_module, gone, command)
            before = version(served_module, gone)
            assert gone in [row["ticket_id"] for row in walk(served_module, "/v1/queues/tier1")]
            assert claim(served_module, "tier1", key).json["ticket_id"] == free
            assert claim(served_module, "tier1", key).status == 204
            assert version(served_module, gone) == before


def test_a_free_ticket_is_found_behind_many_that_are_gone(served_module: Served) -> None:
    """However late the list is, and however much of it is gone, the one that is free is given."""
    emptied(served_module, "tier1")
    gone = [served_module.ticket("many", "high", "high") for _ in range(51)]
    free = served_module.ticket("many", "low", "low")
    served_module.caught_up()
    with standing_still(served_module):
        for ticket in gone:
            served_module.do(ticket, "assign", version=5)
        assert claim(served_module, "tier1").json["ticket_id"] == free
        assert claim(served_module, "tier1").status == 204


def test_a_released_ticket_can_be_claimed_again(served_module: Served, crowd: list[str]) -> None:
    """Claim, release, claim by somebody else."""
    emptied(served_module, "tier1")
    ticket = served_module.ticket("again")
    served_module.caught_up()
    first = claim(served_module, "tier1", crowd[0], Prefer="wait=10")
    assert first.headers["Preference-Applied"] == "wait=10"
    assert claim(served_module, "tier1", crowd[1]).status == 204
    assert give(served_module, ticket, "release", crowd[0]).status == 200
    served_module.caught_up()
    second = claim(served_module, "tier1", crowd[1])
    assert second.json["ticket_id"] == ticket
    assert second.json["assignee"] != first.json["assignee"]


def test_claiming_while_tickets_move_away(served_module: Served, crowd: list[str]) -> None:
    """Agents of tier 1 claim while others escalate: each claimed ticket was at tier 1 when it was assigned."""
    emptied(served_module, "tier1")
    tickets = [served_module.ticket("moving") for _ in range(20)]
    served_module.caught_up()
    mover = Thread(target=lambda: [give(served_module, ticket, "escalate") for ticket in reversed(tickets)])
    mover.start()
    replies = together([lambda key=key: [claim(served_module, "tier1", key) for _ in range(4)] for key in crowd])
    mover.join()
    claimed = [reply.json for group in replies for reply in group if reply.status == 200]
    assert {reply.status for group in replies for reply in group} <= {200, 204}
    assert {ticket["queue"] for ticket in claimed} <= {"tier1"}
    assert len({ticket["ticket_id"] for ticket in claimed}) == len(claimed)


def test_an_unknown_queue_and_a_body_are_refused(served_module: Served) -> None:
    """404 names the queues; a claim takes no fields."""
    assert "tier1" in problem(claim(served_module, "tier9"), 404, "unknown_queue")["detail"]
    path = "/v1/queues/tier1:claim_next"
    problem(served_module.request("POST", path, {"assignee": "anna"}), 422, "invalid_body")
    assert served_module.request("POST", path, {}).status in (200, 204)


def test_a_claim_of_several_levels_takes_from_the_queue_that_was_named(served_module: Served) -> None:
    """An agent of two levels gets from one queue what is in that queue."""
    key = served_module.key(Role.AGENT, levels=[Level.TIER1, Level.TIER2])
    emptied(served_module, "tier1")
    emptied(served_module, "tier2")
    low, high = brought(served_module, "tier1"), brought(served_module, "tier2")
    served_module.caught_up()
    assert claim(served_module, "tier2", key).json["ticket_id"] == high
    assert claim(served_module, "tier2", key).status == 204
    assert claim(served_module, "tier1", key).json["ticket_id"] == low
    problem(claim(served_module, "tier3", key), 403, "role_missing")


def test_a_ticket_that_cannot_be_read_is_passed_over(database: str, tmp_path: Path) -> None:
    """It is for the operator; whoever claims gets the one behind it."""
    with Served(database, tmp_path, workers=1) as served:
        served.client()
        broken, sound = served.ticket(impact="high", urgency="high"), served.ticket()
        served.caught_up()
        with connect(database, "test future") as connection:
            append(connection, [StoredRow(UUID(broken), version(served, broken) + 1, "Ticket.OfTomorrow", b"{}", NOW)])
        assert claim(served, "tier1").json["ticket_id"] == sound
        assert claim(served, "tier1").status == 204
