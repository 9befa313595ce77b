"""Lists page by page: nothing missing and nothing twice, also while the desk is at work."""

import json
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from datetime import timedelta
from itertools import count
from threading import Event, Thread
from uuid import uuid4

import pytest

from application.clock import utc_now
from tests.support.api_requests import brought, give, pages, problem, request, walk
from tests.support.running_desk import RunningDesk

BUSY = 3  # rounds of work beside a walk
MANY = 55  # more than a page has when nobody says how many
LISTS = (
    "/v1/tickets",
    "/v1/tickets?state=in_support",
    "/v1/tickets?client_user_id=pager",
    "/v1/tickets?q=printer",
    "/v1/queues/tier1",
    "/v1/queues/tier1?unassigned=true",
    "/v1/queues/intake",
    "/v1/queues/tier1?as_of={now}",
    "/v1/events",
    "/v1/events?type=Ticket.Created",
    "/v1/closure_mails",
)


def iso_now(seconds: float = 0) -> str:
    """The present, or so many seconds from now, as the API writes it."""
    return (utc_now() + timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")


@pytest.fixture(scope="module")
def tickets(shared_desk: RunningDesk) -> Iterator[list[str]]:
    """Tickets enough for several pages, in two queues, some of them closed."""
    found = [shared_desk.ticket("pager", *(("low", "medium", "high")[n % k] for k in (2, 3))) for n in range(MANY)]
    for _ in range(8):
        request(shared_desk)
    for ticket in [shared_desk.ticket("closer") for _ in range(8)]:
        shared_desk.close(ticket)
    return found


class Busy:
    """A desk at work in the background: tickets come, move, get notes and are closed."""

    def __init__(self, served: RunningDesk) -> None:
        self._served, self._stop = served, Event()
        self._thread = Thread(target=self._work)
        self.done = 0

    def __enter__(self) -> "Busy":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _work(self) -> None:
        for n in count():
            ticket = self._served.ticket("busy", "high" if n % 2 else "low", "high")
            for command in ("add_note", "change_priority", "assign"):
                give(self._served, ticket, command)
            if n % 3 == 0:
                self._served.close(ticket)
            elif n % 3 == 1:
                give(self._served, ticket, "escalate")
            self.done += 1
            if self._stop.is_set():
                return


@pytest.mark.parametrize("path", LISTS)
def test_every_size_of_page_gives_the_same_list(shared_desk: RunningDesk, tickets: list[str], path: str) -> None:
    """Walked by 1, 7, 50 and 200, a list is the same list."""
    path = path.replace("{now}", iso_now())
    whole = walk(shared_desk, path, 200)
    assert len(whole) >= 8
    for limit in (1, 7, 50):
        assert walk(shared_desk, path, limit) == whole


@pytest.mark.parametrize("limit", [1, 7, 200])
def test_a_walk_through_a_busy_list_misses_nothing_and_sees_nothing_twice(
    shared_desk: RunningDesk, tickets: list[str], limit: int
) -> None:
    """What was there before the walk and stays there is read once, whatever comes and goes beside it."""
    for path, expected in (
        ("/v1/tickets", set(tickets)),
        ("/v1/tickets?state=in_support", set(tickets)),
        ("/v1/queues/tier1", set(tickets)),
    ):
        with Busy(shared_desk) as busy:
            while busy.done < BUSY:
                rows = [row["ticket_id"] for row in walk(shared_desk, path, limit)]
                assert sorted(ticket for ticket in rows if ticket in expected) == sorted(expected)
                if path == "/v1/tickets":
                    assert len(rows) == len(set(rows))


def test_a_walk_through_the_busy_log_reads_every_position_once(shared_desk: RunningDesk, tickets: list[str]) -> None:
    """The log only grows: a walk by 7 reads 1, 2, 3 … and what came on the way."""
    with Busy(shared_desk) as busy:
        while busy.done < BUSY:
            positions = [event["position"] for event in walk(shared_desk, "/v1/events", 7)]
            assert positions == list(range(1, len(positions) + 1))
            assert len(positions) > 5 * MANY


def test_a_page_has_fifty_items_when_nobody_says_how_many(shared_desk: RunningDesk, tickets: list[str]) -> None:
    """The default limit; the rest is on the next page."""
    sizes = [len(page.json["items"]) for page in pages(shared_desk, "/v1/tickets?client_user_id=pager")]
    assert sizes == [50, MANY - 50]


def test_the_last_page_says_so(shared_desk: RunningDesk, tickets: list[str]) -> None:
    """`next` is null and Link is missing on the last page, also when it is full; an empty list is one page."""
    full = shared_desk.get(f"/v1/tickets?client_user_id=pager&limit={MANY}")
    assert (len(full.json["items"]), full.json["next"]) == (MANY, None)
    assert "Link" not in full.headers
    assert shared_desk.get("/v1/tickets?client_user_id=none").json == {"items": [], "next": None}


def test_the_link_is_the_next_page(shared_desk: RunningDesk, tickets: list[str]) -> None:
    """Link keeps path, filters and limit, and carries the cursor that `next` names."""
    for path in ("/v1/tickets?client_user_id=pager&state=in_support", "/v1/queues/tier1?unassigned=true"):
        reply = shared_desk.get(f"{path}&limit=3")
        assert reply.headers["Link"] == f'<{path}&limit=3&cursor={reply.json["next"]}>; rel="next"'


@pytest.mark.parametrize("limit", ["0", "201", "-1", "abc", "", "1.5", "1e9", "99999999999999999999", "5&limit=6"])
@pytest.mark.parametrize(
    "path", ["/v1/tickets", "/v1/queues/tier1", "/v1/events", "/v1/closure_mails", "/v1/clients/x"]
)
def test_a_limit_is_a_number_from_1_to_200(shared_desk: RunningDesk, path: str, limit: str) -> None:
    """400 for any other, named by its pointer."""
    told = problem(shared_desk.get(f"{path}?limit={limit}"), 400, "invalid_parameter")
    assert [error["pointer"] for error in told["errors"]] == ["/limit"]


SOMEBODYS = "0f0f7c7e-9f43-4c8e-8f5a-2d4f4b9a6c11"  # the same in every process of the run


def encoded(text: str) -> str:
    """A cursor as the desk would write it."""
    return urlsafe_b64encode(text.encode()).decode().rstrip("=")


GARBAGE = [
    "",
    "x",
    "====",
    "%00",
    "%ff%fe",
    "a" * 3000,
    encoded(""),
    encoded("null"),
    encoded("[]"),
    encoded("{}"),
    encoded('["tickets"]'),
    encoded('["tickets","x"]'),
    encoded(json.dumps(["tickets", SOMEBODYS, 1])),
    encoded(json.dumps([SOMEBODYS])),
    encoded(json.dumps(["queue", "tier1", None, "1' or 1=1", "2026-11-23T09:00:00Z", SOMEBODYS])),
    encoded(json.dumps(["queue", "tier9", None, 1, "2026-11-23T09:00:00Z", SOMEBODYS])),
    encoded('["closure_mails","' + SOMEBODYS + '","1"]'),
    encoded("[" * 2000),
]


@pytest.mark.parametrize("path", ["/v1/tickets", "/v1/queues/tier1", "/v1/closure_mails"])
@pytest.mark.parametrize("cursor", GARBAGE)
def test_a_cursor_that_the_desk_did_not_give_is_refused(shared_desk: RunningDesk, path: str, cursor: str) -> None:
    """400 bad_cursor, which says how to begin anew."""
    told = problem(shared_desk.get(f"{path}?cursor={cursor}"), 400)
    assert told["code"] == ("invalid_parameter" if cursor == "%00" else "bad_cursor")


def test_a_number_too_large_for_the_database_is_no_error_of_the_server(shared_desk: RunningDesk) -> None:
    """A forged cursor of the right shape pages from where it says, or is refused."""
    for place in (10**30, -(10**30)):
        queue = encoded(json.dumps(["queue", "tier1", None, place, "2026-11-23T09:00:00", str(uuid4())]))
        mails = encoded(json.dumps(["closure_mails", str(uuid4()), place]))
        for path in (f"/v1/queues/tier1?cursor={queue}", f"/v1/closure_mails?cursor={mails}"):
            assert shared_desk.get(path).status in (200, 400)


def test_a_cursor_of_another_list_is_refused(shared_desk: RunningDesk, tickets: list[str]) -> None:
    """400: a cursor goes on in its own list, its own queue and its own past."""
    brought(shared_desk, "closed")
    shared_desk.caught_up()
    now, before = iso_now(), iso_now(-1)
    lists = ("/v1/tickets?", "/v1/queues/tier1?", "/v1/queues/intake?", "/v1/closure_mails?")
    lists += (f"/v1/queues/tier1?as_of={now}&", f"/v1/queues/tier1?as_of={before}&")
    cursors = {path: shared_desk.get(f"{path}limit=1").json["next"] for path in lists}
    assert None not in cursors.values()
    for given, cursor in cursors.items():
        for path in lists:
            reply = shared_desk.get(f"{path}limit=1&cursor={cursor}")
            if path == given:
                assert len(reply.json["items"]) == 1
            else:
                problem(reply, 400, "bad_cursor")


def test_history_is_one_page(shared_desk: RunningDesk) -> None:
    """A ticket's history comes whole, oldest first, in the shape of a list."""
    ticket = brought(shared_desk, "tier1")
    for _ in range(60):
        shared_desk.request("POST", f"/v1/tickets/{ticket}:add_note", {"text": "one of many"})
    told = shared_desk.get(f"/v1/tickets/{ticket}/history").json
    assert (len(told["items"]), told["next"]) == (65, None)
    problem(shared_desk.get(f"/v1/tickets/{ticket}/history?limit=1"), 400, "invalid_parameter")
