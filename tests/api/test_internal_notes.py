"""Internal notes are internal: no address, form, error or search shows a client what the desk told itself."""

from typing import Any
from uuid import uuid4

import pytest

from application.clock import utc_now
from domain.values import Role
from tests.support.api_requests import brought, client_key, give
from tests.support.running_desk import RunningDesk

SECRET, OPEN = "unspeakable", "pronounceable"
WAYS: dict[str, tuple[str, str, dict[str, str], Any, int]] = {
    # how a client might come by an internal note: method, path, headers, body, and the status of the answer
    "the ticket": ("GET", "/v1/tickets/{ticket}", {}, None, 200),
    "the ticket at a version": ("GET", "/v1/tickets/{ticket}?version=7", {}, None, 200),
    "the ticket at a time": ("GET", "/v1/tickets/{ticket}?as_of={now}", {}, None, 200),
    "the ticket at a position": ("GET", "/v1/tickets/{ticket}?position={end}", {}, None, 200),
    "the history": ("GET", "/v1/tickets/{ticket}/history", {}, None, 200),
    "the list": ("GET", "/v1/tickets?limit=200", {}, None, 200),
    "a search": ("GET", f"/v1/tickets?q={SECRET}", {}, None, 200),
    "the directory": ("GET", "/v1/clients/owner", {}, None, 200),
    "a stale version": ("POST", "/v1/tickets/{ticket}:add_note", {"If-Match": '"1"'}, {"text": "x"}, 412),
    "a refusal": ("POST", "/v1/tickets/{ticket}:reopen", {"If-Match": "*"}, {"reason": "x"}, 409),
    "a missing role": ("POST", "/v1/tickets/{ticket}:resolve", {"If-Match": "*"}, {"resolution": "x"}, 403),
    "a queue": ("GET", "/v1/queues/tier1", {}, None, 403),
    "the next ticket": ("POST", "/v1/queues/tier1:claim_next", {}, {}, 403),
    "a report": ("GET", "/v1/reports/backlog", {}, None, 403),
    "the feed": ("GET", "/v1/events?client_user_id=owner", {}, None, 403),
    "the feed as lines": ("GET", "/v1/events", {"Accept": "application/x-ndjson"}, None, 403),
    "the feed as CloudEvents": ("GET", "/v1/events", {"Accept": "application/cloudevents-batch+json"}, None, 403),
    "the feed as a stream": ("GET", "/v1/events", {"Accept": "text/event-stream"}, None, 403),
    "a webhook of one's own": ("POST", "/v1/webhooks", {}, {"url": "https://example.org/hook"}, 403),
    "what the desk counts": ("GET", "/metrics", {"Accept": "*/*"}, None, 200),
    "how the desk is": ("GET", "/readyz", {}, None, 200),
}


@pytest.fixture(scope="module")
def noted(shared_desk: RunningDesk) -> str:
    """A ticket of the owner with an internal note and an open one, sealed and in every list."""
    ticket = brought(shared_desk, "tier1", "owner")
    for text, visibility in ((SECRET, "internal"), (OPEN, "client")):
        assert give(shared_desk, ticket, "add_note", text=f"it is {text}", visibility=visibility).status == 200
    shared_desk.caught_up()
    return ticket


@pytest.mark.parametrize("way", WAYS)
def test_an_internal_note_never_reaches_a_client(shared_desk: RunningDesk, noted: str, way: str) -> None:
    """Not its text, nor that a word is in it; not in a header either. What is meant for the client is there."""
    method, path, headers, body, status = WAYS[way]
    key = client_key(shared_desk, "owner")
    now = utc_now().isoformat().replace("+00:00", "Z")
    end = shared_desk.get("/v1/events?limit=1").headers["Deskledger-Position"]
    reply = shared_desk.request(method, path.format(ticket=noted, now=now, end=end), body, key, headers)
    assert reply.status == status, reply.data
    assert SECRET.encode() not in reply.data
    assert SECRET not in str(reply.headers)
    assert (OPEN.encode() in reply.data) == (way in ("the history", "a stale version"))


def test_a_search_finds_no_note(shared_desk: RunningDesk, noted: str) -> None:
    """Or somebody could guess a note word by word; the words of the request are found."""
    for key in (client_key(shared_desk, "owner"), shared_desk.key(Role.INTAKE), shared_desk.key(Role.AUDITOR)):
        assert shared_desk.get(f"/v1/tickets?q={SECRET}", key).json["items"] == []
        found = shared_desk.get("/v1/tickets?q=network&limit=200", key).json["items"]
        assert noted in {row["ticket_id"] for row in found}


def test_a_client_replays_nobody_elses_answer(shared_desk: RunningDesk, noted: str) -> None:
    """Under the key of a note of the desk, a client does what the client asks: such keys are the caller's own."""
    headers = {"Idempotency-Key": str(uuid4()), "If-Match": "*"}
    path = f"/v1/tickets/{noted}:add_note"
    first = shared_desk.request("POST", path, {"text": f"it is {SECRET}"}, None, headers)
    mine = shared_desk.request("POST", path, {"text": "mine"}, client_key(shared_desk, "owner"), headers)
    assert (first.status, mine.status) == (200, 200)
    assert "Idempotency-Replayed" not in mine.headers
    assert mine.json["version"] == first.json["version"] + 1
