"""If-Match and If-None-Match keep what they promise where they are taken, and are refused everywhere else."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import pytest

from api.openapi.operations import ENDPOINTS
from tests.support.api_requests import problem, request
from tests.support.running_desk import Reply, RunningDesk

ENTRY = {"name": "Client", "email": "client@example.org"}


def put(served: RunningDesk, user_id: str, phone: str | None = None, **headers: str) -> Reply:
    """The entry of a client, with a phone number; a header's name has underscores."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return served.request("PUT", f"/v1/clients/{user_id}", ENTRY | {"phone": phone}, None, named)


def test_an_entry_is_changed_at_the_version_that_the_caller_has_seen(shared_desk: RunningDesk) -> None:
    """If-Match: the present version is taken, a stale one is 412 and shows what was missed, and so is one to come."""
    user_id = f"match-{uuid4()}"
    first = put(shared_desk, user_id)
    assert first.headers["ETag"] == '"1"'
    changed = put(shared_desk, user_id, "+1", If_Match=first.headers["ETag"])
    assert (changed.status, changed.headers["ETag"]) == (200, '"2"')
    assert shared_desk.get(f"/v1/clients/{user_id}").headers["ETag"] == '"2"'
    stale = problem(put(shared_desk, user_id, "+2", If_Match='"1"'), 412, "stale_version")
    assert stale["current_version"] == 2
    assert [(event["type"], event["data"]["phone"]) for event in stale["missed_events"]] == [
        ("Client.ContactChanged", "+1")
    ]
    for tag in ('"3"', '"0"', '"two"', f'"{9**99}"'):
        told = problem(put(shared_desk, user_id, "+2", If_Match=tag), 412, "stale_version")
        assert (told["current_version"], told["missed_events"]) == (2, [])
    assert shared_desk.get(f"/v1/clients/{user_id}").json["phone"] == "+1"
    assert put(shared_desk, user_id, "+3", If_Match="*").version == 3
    assert put(shared_desk, user_id, "+4").version == 4


def test_an_entry_that_is_not_there_has_no_version(shared_desk: RunningDesk) -> None:
    """If-Match on nobody's user ID is 412, `*` too, and registers nobody."""
    user_id = f"nobody-{uuid4()}"
    for tag in ('"1"', "*"):
        told = problem(put(shared_desk, user_id, If_Match=tag), 412, "stale_version")
        assert (told["current_version"], told["missed_events"]) == (0, [])
        assert "not registered" in told["detail"] or "no such version" in told["detail"]
    problem(shared_desk.get(f"/v1/clients/{user_id}"), 404, "unknown_user_id")


def test_an_entry_is_made_only_where_there_is_none(shared_desk: RunningDesk) -> None:
    """If-None-Match: * is 201 once; afterwards it is 412, also with the same entry."""
    user_id = f"new-{uuid4()}"
    assert put(shared_desk, user_id, If_None_Match="*").status == 201
    told = problem(put(shared_desk, user_id, If_None_Match="*"), 412, "stale_version")
    assert (told["current_version"], told["detail"]) == (1, "This client is registered already.")


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"If_Match": '"1"', "If_None_Match": "*"}, "bad_if_match"),
        ({"If_Match": 'W/"1"'}, "bad_if_match"),
        ({"If_Match": '"1", "2"'}, "bad_if_match"),
        ({"If_Match": "1"}, "bad_if_match"),
        ({"If_Match": ""}, "bad_if_match"),
        ({"If_None_Match": '"1"'}, "bad_if_none_match"),
        ({"If_None_Match": "*, *"}, "bad_if_none_match"),
        ({"If_None_Match": ""}, "bad_if_none_match"),
    ],
)
def test_a_condition_that_cannot_be_kept_is_refused(
    shared_desk: RunningDesk, headers: dict[str, str], code: str
) -> None:
    """Both together, several tags, a weak one, what is none: 400, and nothing is recorded."""
    user_id = f"refused-{uuid4()}"
    problem(put(shared_desk, user_id, **headers), 400, code)
    problem(shared_desk.get(f"/v1/clients/{user_id}"), 404, "unknown_user_id")


@pytest.mark.parametrize("headers", [{"If_Match": '"{version}"'}, {"If_None_Match": "*"}], ids=str)
def test_of_two_at_once_one_is_taken(shared_desk: RunningDesk, headers: dict[str, str]) -> None:
    """The same condition twice at once, again and again: one is obeyed and the other is 412."""
    user_id = f"race-{uuid4()}"
    known = "If_Match" in headers
    if known:
        put(shared_desk, user_id)
    with ThreadPoolExecutor(2) as pool:
        for turn in range(1, 26):
            name = user_id if known else f"{user_id}-{turn}"
            sent = {header: value.format(version=turn) for header, value in headers.items()}
            both = list(
                pool.map(lambda n, name=name, sent=sent: put(shared_desk, name, f"+{n}", **sent), (turn, -turn))
            )
            assert sorted(reply.status for reply in both) == [200 if known else 201, 412]


KEEPING = {"If-Match", "If-None-Match"}
CHANGING = [
    (endpoint.method, endpoint.path, header)
    for endpoint in ENDPOINTS
    if endpoint.method != "GET"
    for header in KEEPING - set(endpoint.request_headers)
]


@pytest.mark.parametrize(("method", "path", "header"), CHANGING)
def test_what_is_not_kept_is_refused(shared_desk: RunningDesk, method: str, path: str, header: str) -> None:
    """No request that changes something takes a condition and does not look at it; If-Match: * is true of what is."""
    ticket = request(shared_desk) if "{ticket_id}" in path else ""
    address = path.format(ticket_id=ticket, queue="intake", webhook_id=uuid4(), user_id="somebody", message_id="x")
    more: dict[str, Any] = {"If-Match": "*"} if ticket else {}
    for value in ('"1"', "*", 'W/"1"') if header == "If-None-Match" else ('"1"', 'W/"1"'):
        reply = shared_desk.request(method, address, {}, None, more | {header: value})
        problem(reply, 400, "precondition_not_kept")
    if header == "If-Match":
        assert b"precondition_not_kept" not in shared_desk.request(method, address, {}, None, {header: "*"}).data


def test_reading_is_answered_whole(shared_desk: RunningDesk) -> None:
    """What a caller may do changes with time at the same version, so that no copy of a ticket is called good."""
    ticket = request(shared_desk)
    for path in (f"/v1/tickets/{ticket}", f"/v1/clients/{shared_desk.client()}"):
        tag = shared_desk.get(path).headers["ETag"]
        reply = shared_desk.request("GET", path, headers={"If-None-Match": tag, "If-Match": '"77"'})
        assert (reply.status, bool(reply.json)) == (200, True)
