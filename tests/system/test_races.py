"""Two processes want the same: exactly one of them gets it, and the other is told what came in between."""

import multiprocessing
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import urllib3

from tests.support.running_desk import RunningDesk

ROUNDS = 1_000


def race(base: str, key: str, ticket: str, first_version: int, start: Barrier, results: Any) -> None:
    """One racer: in every round, the same command on the same version as the other one."""
    http = urllib3.PoolManager()
    outcomes = []
    for turn in range(ROUNDS):
        body = {"impact": ("high", "low")[turn % 2], "urgency": "high", "reason": "judged anew"}
        start.wait(timeout=60)
        url = f"{base}/v1/tickets/{ticket}:change_priority"
        headers = {"Authorization": f"Bearer {key}", "If-Match": f'"{first_version + turn}"'}
        reply = http.request("POST", url, json=body, headers=headers)
        outcomes.append((reply.status, reply.json()))
    results.put(outcomes)


def test_of_two_processes_exactly_one_wins_each_time(served: RunningDesk, tmp_path: Path) -> None:
    """The same command at the same version, 1,000 times, to two API processes: one 200, and one 412 that shows why."""
    with RunningDesk(served.database, tmp_path, workers=1, parts=["api"]) as other:
        ticket = served.ticket()
        version = served.get(f"/v1/tickets/{ticket}").version
        context = multiprocessing.get_context("spawn")
        start, results = context.Barrier(2), context.Queue()
        racers = [
            context.Process(target=race, args=(desk.base, served.staff, ticket, version, start, results))
            for desk in (served, other)
        ]
        for racer in racers:
            racer.start()
        one, two = results.get(timeout=400), results.get(timeout=400)
        for racer in racers:
            racer.join(timeout=10)
    for turn, (left, right) in enumerate(zip(one, two, strict=True)):
        winner, loser = sorted((left, right), key=lambda reply: reply[0])
        assert (winner[0], loser[0]) == (200, 412), (turn, left, right)
        got_in = [(event["type"], event["version"]) for event in loser[1]["missed_events"]]
        assert got_in == [("Ticket.PriorityChanged", version + turn + 1)]
        assert winner[1]["version"] == loser[1]["current_version"] == version + turn + 1
    assert served.get(f"/v1/tickets/{ticket}").version == version + ROUNDS
