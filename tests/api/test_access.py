"""Who gets in, who may do what, and what a client sees."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest

from application.clock import utc_now
from application.identity.api_keys import NewKey, create_key, revoke_key
from application.store.postgres.database import connect
from domain.values import Queue, Role
from tests.support.api_requests import (
    BODIES,
    ISSUE,
    RESOLVING,
    STANDINGS,
    brought,
    client_key,
    filled,
    give,
    people,
    problem,
    version,
    walk,
)
from tests.support.running_desk import RunningDesk, wait_until

AGENTS = {str(level) for level in RESOLVING}
NAMED = dict.fromkeys(AGENTS, "agent of ") | {"own": "client"}  # how a 403 speaks of them
# Who carries a role of the command, which gives it elsewhere in the procedure: 409, and not a missing role.
ELSEWHERE = {
    ("documented", "route"): {"it_manager"},
    ("approved", "route"): {"intake"},
    ("assigned", "release"): {"quality"},
    ("deciding", "return_to_level"): AGENTS,
}
# The procedure's table "Who may do what", read for one ticket: standing, command, and who may give it. Each key carries
# one role, "tier1" stands for an agent of that level, "own" for the ticket's client.
MAY: list[tuple[str, str, set[str]]] = [
    ("received", "identify_client", {"intake"}),
    ("identified", "create", {"intake"}),
    ("created", "document_issue", {"intake"}),
    ("documented", "route", {"intake"}),
    ("approved", "route", {"it_manager"}),
    ("tier1", "assign", {"tier1", "it_manager"}),
    ("assigned", "release", {"tier1", "it_manager"}),
    ("tier2", "qualify", {"tier2"}),
    ("tier1", "escalate", {"tier1"}),
    ("tier3_can", "escalate", {"tier3"}),
    ("tier1", "resolve", {"tier1"}),
    ("onsite_can", "resolve", {"onsite"}),
    ("noc", "resolve", {"noc"}),
    ("resolved", "verify", {"quality"}),
    ("resolved", "document_resolution", {"tier1"}),
    ("detailed", "close", {"tier1", "quality"}),
    ("deciding", "compile_dossier", {"it_manager"}),
    ("awaiting_approval", "approve", {"it_manager", "own"}),
    ("awaiting_approval", "decline", {"it_manager", "own"}),
    ("deciding", "return_to_level", {"it_manager"}),
    ("noc", "return_to_level", {"noc", "it_manager"}),
    ("tier1", "add_note", {"intake", "tier1", "quality", "it_manager", "own"}),
    ("tier1", "change_priority", {"intake", "tier1", "it_manager"}),
    ("tier1", "await_client", {"tier1"}),
    ("waiting", "client_responded", {"tier1", "own"}),
    ("tier1", "cancel", {"intake", "it_manager", "own"}),
    ("closed", "reopen", {"intake", "quality", "own"}),
    ("tier1", "link", {"intake"}),
    ("tier1", "correct_client", {"intake"}),
    ("tier1", "amend_issue", {"intake", "tier1"}),
    ("resolved", "amend_issue", {"intake", "tier1"}),
]
READERS: list[tuple[str, set[str]]] = [
    ("/v1/tickets/{ticket}", {"intake", "quality", "it_manager", "auditor", "admin", "own"} | AGENTS),
    ("/v1/tickets/{ticket}?version=1", {"intake", "quality", "it_manager", "auditor", "admin", "own"} | AGENTS),
    ("/v1/tickets/{ticket}/history", {"intake", "quality", "it_manager", "auditor", "admin", "own"} | AGENTS),
    ("/v1/tickets", {"intake", "quality", "it_manager", "auditor", "admin", "reporter", "own", "stranger"} | AGENTS),
    ("/v1/tickets?q=network", {"intake", "quality", "it_manager", "auditor", "admin", "own", "stranger"} | AGENTS),
    ("/v1/clients/readable", {"intake", "quality", "it_manager", "auditor", "admin", "own"} | AGENTS),
    ("/v1/queues", {"intake", "quality", "it_manager", "auditor", "admin", "reporter"} | AGENTS),
    ("/v1/queues/tier1", {"intake", "quality", "it_manager", "auditor", "admin", "reporter"} | AGENTS),
    ("/v1/events", {"auditor", "admin"}),
    ("/v1/closure_mails", {"quality", "it_manager", "auditor", "admin"}),
]
CLAIMERS = {
    Queue.INTAKE: "intake",
    Queue.QUALITY_CONTROL: "quality",
    Queue.CLOSING: "quality",
    Queue.IT_MANAGER: "it_manager",
} | {Queue(level): str(level) for level in RESOLVING}


@pytest.fixture(scope="module")
def keys(shared_desk: RunningDesk) -> Iterator[dict[str, str]]:
    """Every kind of caller; "own" is the client whose tickets these are, "stranger" another one."""
    return people(shared_desk) | {
        "own": client_key(shared_desk, "client-1"),
        "stranger": client_key(shared_desk, "stranger"),
    }


def with_key(served: RunningDesk, header: str | None) -> Any:
    """A query with this Authorization header, or none."""
    headers = {} if header is None else {"Authorization": header}
    return served.http.request("GET", f"{served.base}/v1/queues", headers=headers)


@pytest.mark.parametrize(
    ("header", "code"),
    [
        (None, "key_missing"),
        ("", "key_missing"),
        ("Bearer", "key_missing"),
        ("Bearer    ", "key_missing"),
        ("Basic YTpi", "key_missing"),
        ("Bearer dl_unknown", "key_unknown"),
        ("Bearer dl_" + "x" * 5000, "key_unknown"),
        ("Bearer dl_a b", "key_unknown"),
        ("Bearer dl_é", "key_unknown"),
        ("Bearer ' or 1=1 --", "key_unknown"),
    ],
)
def test_without_a_valid_key_nobody_gets_in(shared_desk: RunningDesk, header: str | None, code: str) -> None:
    """401 with a challenge (RFC 6750), whatever stands in the header."""
    sent = {} if header is None else {"Authorization": header.encode().decode("latin-1")}
    for method, path in [("GET", "/v1/queues"), ("POST", "/v1/tickets"), ("GET", "/v1/nothing"), ("PATCH", "/")]:
        response = shared_desk.http.request(method, shared_desk.base + path, headers=sent)
        assert (response.status, response.json()["code"]) == (401, code)
        assert response.headers["Content-Type"] == "application/problem+json"
        assert response.headers["WWW-Authenticate"].startswith('Bearer realm="deskledger"')


def test_the_scheme_is_not_case_sensitive(shared_desk: RunningDesk) -> None:
    """RFC 9110, section 11.1."""
    assert with_key(shared_desk, f"bEARER  {shared_desk.staff}").status == 200


def test_a_revoked_key_ends_within_three_seconds(shared_desk: RunningDesk) -> None:
    """In both processes of the API, also for a key that was just used."""
    with connect(shared_desk.database, "test keys") as connection:
        id_, key = create_key(connection, NewKey("short-lived", [Role.AUDITOR]), utc_now())
        for _ in range(20):
            assert with_key(shared_desk, f"Bearer {key}").status == 200
        revoke_key(connection, id_, utc_now())
    tries: list[int] = []

    def ended() -> bool:
        tries.append(0)
        return {with_key(shared_desk, f"Bearer {key}").status for _ in range(20)} == {401}

    wait_until(ended, "the revoked key ends")
    assert len(tries) > 1  # it was remembered for a moment, and asked for again


def test_a_key_ends_when_it_expires(shared_desk: RunningDesk) -> None:
    """A key that has expired is unknown; one that expires while it is used ends within three seconds."""
    with connect(shared_desk.database, "test keys") as connection:
        _, old = create_key(connection, NewKey("old", [Role.ADMIN], expires_in=timedelta(days=-1)), utc_now())
        _, short = create_key(connection, NewKey("short", [Role.ADMIN], expires_in=timedelta(seconds=1)), utc_now())
    assert with_key(shared_desk, f"Bearer {old}").status == 401
    assert with_key(shared_desk, f"Bearer {short}").status == 200
    wait_until(lambda: with_key(shared_desk, f"Bearer {short}").status == 401, "the key expires")


def test_the_process_is_alive_for_everybody(shared_desk: RunningDesk) -> None:
    """/livez and /readyz need no key."""
    for path in ("/livez", "/readyz"):
        assert shared_desk.http.request("GET", shared_desk.base + path).status == 200


@pytest.mark.parametrize(("standing", "command", "may"), MAY, ids=[f"{row[0]}-{row[1]}" for row in MAY])
def test_a_command_is_for_the_roles_of_the_procedure(
    shared_desk: RunningDesk, keys: dict[str, str], standing: str, command: str, may: set[str]
) -> None:
    """Who lacks the role gets 403 naming it (a strange client 404; 409 where the role gives it elsewhere), and nothing
    is recorded; who has it is obeyed."""
    ticket = brought(shared_desk, standing)
    before = version(shared_desk, ticket)
    for name in keys.keys() - may:
        reply = give(shared_desk, ticket, command, keys[name])
        if name == "stranger" or (name, standing) == ("own", "received"):  # whose a request is, is not known yet
            problem(reply, 404, "unknown_ticket")
        else:
            elsewhere = name in ELSEWHERE.get((standing, command), set())
            told = problem(reply, 409, "ticket_elsewhere") if elsewhere else problem(reply, 403, "role_missing")
            assert all(NAMED.get(role, role) in told["detail"] for role in may), told
    assert version(shared_desk, ticket) == before
    for name in sorted(may):
        ticket = brought(shared_desk, standing)
        assert command in shared_desk.get(f"/v1/tickets/{ticket}", keys[name]).json["allowed_commands"]
        headers = {"If-Match": "*"}
        body = filled(shared_desk, ticket, command)
        reply = shared_desk.request("POST", f"/v1/tickets/{ticket}:{command}", body, keys[name], headers)
        assert (reply.status, len(reply.json["events"])) == (200, 1), (name, reply.data)


@pytest.mark.parametrize("standing", STANDINGS)
def test_allowed_commands_are_what_this_caller_can_do(
    shared_desk: RunningDesk, keys: dict[str, str], standing: str
) -> None:
    """Every command that is not among them is refused, or is true already and records nothing."""
    ticket = brought(shared_desk, standing)
    shared_desk.caught_up()
    for name, key in keys.items():
        if name in ("stranger", "reporter") or (name, standing) == ("own", "received"):
            continue
        allowed = shared_desk.get(f"/v1/tickets/{ticket}", key).json["allowed_commands"]
        for command in BODIES.keys() - set(allowed):
            body = filled(shared_desk, ticket, command)
            reply = shared_desk.request("POST", f"/v1/tickets/{ticket}:{command}", body, key, {"If-Match": "*"})
            if reply.status == 200:
                assert reply.json["events"] == [], (name, command)
            else:
                problem(reply, reply.status)
                assert reply.status in (403, 409), (name, command, reply.data)


def test_opening_and_the_directory_are_for_intake(shared_desk: RunningDesk, keys: dict[str, str]) -> None:
    """Requests and tickets come from intake; the directory is kept by intake and admin."""
    opening = {"client_user_id": "client-1", "channel": "web", "text": "x", "issue": ISSUE}
    asked: list[tuple[str, str, dict[str, Any], set[str]]] = [
        ("POST", "/v1/requests", {"channel": "web", "text": "x", "sender": {}}, {"intake"}),
        ("POST", "/v1/tickets", opening, {"intake"}),
        ("PUT", "/v1/clients/by-role", {"name": "R", "email": "r@example.org"}, {"intake", "admin"}),
    ]
    for method, path, body, may in asked:
        for name, key in keys.items():
            reply = shared_desk.request(method, path, body, key)
            if name in may:
                assert reply.status in (200, 201), (path, name)
            else:
                assert "intake" in problem(reply, 403, "role_missing")["detail"]


@pytest.mark.parametrize(("path", "may"), READERS, ids=[row[0] for row in READERS])
def test_a_query_is_for_the_roles_of_the_procedure(
    shared_desk: RunningDesk, keys: dict[str, str], path: str, may: set[str]
) -> None:
    """Who may not read gets 403 naming a role that may; a client gets 404 for what is somebody else's."""
    ticket = brought(shared_desk, "tier1")
    shared_desk.client("readable")
    callers = dict(keys)
    if "clients" in path:
        callers["own"] = client_key(shared_desk, "readable")
    for name, key in callers.items():
        reply = shared_desk.get(path.format(ticket=ticket), key)
        if name in may:
            assert reply.status == 200, (name, reply.data)
        elif name == "stranger" and not path.startswith(("/v1/queues", "/v1/events", "/v1/closure")):
            problem(reply, 404)
        else:
            assert "auditor" in problem(reply, 403, "role_missing")["detail"]


@pytest.mark.parametrize("queue", list(Queue))
def test_a_queue_is_claimed_from_by_those_who_work_it(
    shared_desk: RunningDesk, keys: dict[str, str], queue: Queue
) -> None:
    """Agents claim from their level's queue, intake, quality and the IT manager from theirs; the others get 403."""
    for name, key in keys.items():
        reply = shared_desk.request("POST", f"/v1/queues/{queue}:claim_next", None, key)
        if name == CLAIMERS[queue]:
            assert reply.status in (200, 204)
        else:
            detail = problem(reply, 403, "role_missing")["detail"]
            assert ("agent of " if CLAIMERS[queue] in AGENTS else "") + CLAIMERS[queue] in detail


def test_a_key_with_two_roles_may_do_what_either_may(shared_desk: RunningDesk) -> None:
    """The event names the role in which it was done: the first that fits."""
    key = shared_desk.key(Role.INTAKE, Role.AGENT, levels=["tier1"])
    ticket = brought(shared_desk, "documented")
    for command in ("route", "resolve"):
        assert give(shared_desk, ticket, command, key).status == 200
    events = shared_desk.get(f"/v1/tickets/{ticket}/history").json["items"][-2:]
    assert [event["actor"]["role"] for event in events] == ["intake", "agent"]


def test_a_client_knows_only_the_own_tickets(shared_desk: RunningDesk, keys: dict[str, str]) -> None:
    """Somebody else's ticket is 404 in every way, the same as one that does not exist; lists hold the own ones."""
    mine = [brought(shared_desk, "tier1", "stranger"), brought(shared_desk, "closed", "stranger")]
    others, unidentified = brought(shared_desk, "tier1"), brought(shared_desk, "received")
    shared_desk.caught_up()
    nobody = str(uuid4())
    for ticket in (others, unidentified, nobody):
        paths = (f"/v1/tickets/{ticket}", f"/v1/tickets/{ticket}/history", f"/v1/tickets/{ticket}?version=1")
        answers = [shared_desk.get(path, keys["stranger"]) for path in paths]
        answers.append(
            shared_desk.request(
                "POST", f"/v1/tickets/{ticket}:add_note", {"text": "mine?"}, keys["stranger"], {"If-Match": "*"}
            )
        )
        for reply in answers:
            assert problem(reply, 404, "unknown_ticket")["detail"] == "There is no such ticket."
    for path in ("/v1/tickets", "/v1/tickets?client_user_id=stranger", "/v1/tickets?q=network"):
        assert {row["ticket_id"] for row in walk(shared_desk, path, key=keys["stranger"])} == set(mine)
    problem(shared_desk.get("/v1/tickets?client_user_id=client-1", keys["stranger"]), 404, "unknown_user_id")
    problem(shared_desk.get("/v1/clients/client-1", keys["stranger"]), 404, "unknown_user_id")
    entry = shared_desk.get("/v1/clients/stranger", keys["stranger"]).json
    assert {row["ticket_id"] for row in entry["tickets"]["items"]} == set(mine)


def test_a_client_acts_on_own_tickets(shared_desk: RunningDesk, keys: dict[str, str]) -> None:
    """Note, answer, approve, decline, cancel and reopen are recorded in the role of the client."""
    done = [
        ("tier1", "add_note"),
        ("waiting", "client_responded"),
        ("awaiting_approval", "approve"),
        ("awaiting_approval", "decline"),
        ("tier1", "cancel"),
        ("closed", "reopen"),
    ]
    for standing, command in done:
        ticket = brought(shared_desk, standing)
        body = filled(shared_desk, ticket, command)
        headers = {"If-Match": "*"}
        reply = shared_desk.request("POST", f"/v1/tickets/{ticket}:{command}", body, keys["own"], headers)
        assert (reply.status, len(reply.json["events"])) == (200, 1), (command, reply.data)
        history = shared_desk.get(f"/v1/tickets/{ticket}/history", keys["own"]).json["items"]
        by_client = [event for event in history if event["actor"]["role"] == "client"]
        assert [event["type"] for event in by_client] == [reply.json["events"][0]["type"]]


def test_what_a_client_writes_is_visible_to_the_client(shared_desk: RunningDesk, keys: dict[str, str]) -> None:
    """A client's note cannot be internal, whatever it says."""
    ticket = brought(shared_desk, "tier1")
    give(shared_desk, ticket, "add_note", keys["own"], text="I am still waiting", visibility="internal")
    seen = shared_desk.get(f"/v1/tickets/{ticket}/history", keys["own"]).json["items"][-1]
    assert (seen["data"]["text"], seen["data"]["visibility"]) == ("I am still waiting", "client")


def test_a_client_sees_the_client_visible_history(shared_desk: RunningDesk, keys: dict[str, str]) -> None:
    """No internal notes, no assignment, no verdicts between levels: not in the history, and not in a 412."""
    ticket = brought(shared_desk, "tier2")
    for command, more in (
        ("assign", {}),
        ("add_note", {"text": "SECRET-1"}),
        ("add_note", {"text": "for you", "visibility": "client"}),
        ("qualify", {"rationale": "SECRET-2"}),
        ("change_priority", {"reason": "SECRET-3"}),
        ("await_client", {}),
    ):
        assert give(shared_desk, ticket, command, **more).status == 200
    history = shared_desk.get(f"/v1/tickets/{ticket}/history", keys["own"])
    assert [event["type"].removeprefix("Ticket.") for event in history.json["items"]] == [
        "RequestReceived",
        "ClientIdentified",
        "Created",
        "IssueDocumented",
        "Routed",
        "Escalated",
        "NoteAdded",
        "ClientAwaited",
    ]
    stale = shared_desk.do(ticket, "client_responded", keys["own"], version=2, text="here")
    assert [event["version"] for event in problem(stale, 412)["missed_events"]] == [3, 4, 5, 6, 9, 12]
    for reply in (history, stale, shared_desk.get(f"/v1/tickets/{ticket}", keys["own"])):
        assert b"SECRET" not in reply.data


def test_the_dossier_that_a_client_approves_holds_no_internal_note(
    shared_desk: RunningDesk, keys: dict[str, str]
) -> None:
    """Every event is an entry with its hash, and an internal note says only that there is one."""
    ticket = brought(shared_desk, "deciding")
    give(shared_desk, ticket, "add_note", text="SECRET opinion")
    give(shared_desk, ticket, "add_note", text="open word", visibility="client")
    give(shared_desk, ticket, "compile_dossier")
    seen = shared_desk.get(f"/v1/tickets/{ticket}/history", keys["own"])
    entries = seen.json["items"][-1]["data"]["entries"]
    assert len(entries) == version(shared_desk, ticket) - 1
    assert (entries[-2]["words"], entries[-2]["sha256"]) == ("Internal note added.", None)
    assert "open word" in entries[-1]["words"]
    assert b"SECRET" not in seen.data


def test_a_request_that_was_taken_for_another_clients_stays_private(shared_desk: RunningDesk) -> None:
    """Whose a ticket is now decides: the one named by mistake sees nothing of it, nor is named to the other."""
    wrong, right = client_key(shared_desk, "mistaken"), client_key(shared_desk, "rightful")
    ticket = brought(shared_desk, "received")
    assert give(shared_desk, ticket, "identify_client", user_id="mistaken").status == 200
    said = shared_desk.request("POST", f"/v1/tickets/{ticket}:add_note", {"text": "MISTAKEN"}, wrong)
    assert said.status == 200
    assert give(shared_desk, ticket, "identify_client", user_id="rightful").status == 200
    for path in ("", "?version=2", "?version=1", "/history"):
        problem(shared_desk.get(f"/v1/tickets/{ticket}{path}", wrong), 404, "unknown_ticket")
    history = shared_desk.get(f"/v1/tickets/{ticket}/history", right)
    assert [event["version"] for event in history.json["items"]] == [1, 4]
    stale = shared_desk.request("POST", f"/v1/tickets/{ticket}:cancel", {"reason": "x"}, right, {"If-Match": '"1"'})
    assert [event["version"] for event in stale.json["missed_events"]] == [4]
    assert b"MISTAKEN" not in history.data + stale.data
    assert shared_desk.get(f"/v1/tickets/{ticket}?version=1", right).json["state"] == "received"
    problem(shared_desk.get(f"/v1/tickets/{ticket}?version=2", right), 404, "unknown_ticket")
    shared_desk.caught_up()
    assert walk(shared_desk, "/v1/tickets", key=wrong) == []
    assert [row["ticket_id"] for row in walk(shared_desk, "/v1/tickets", key=right)] == [ticket]


def test_a_reporter_reads_no_free_text(shared_desk: RunningDesk, keys: dict[str, str]) -> None:
    """Lists and queues come without summaries and assignees, and filters that would find words are refused."""
    ticket = brought(shared_desk, "tier1")
    assert shared_desk.do(ticket, "assign", assignee=shared_desk.person("call ANNA")).status == 200
    shared_desk.caught_up()
    for path in ("/v1/tickets?limit=200", "/v1/queues/tier1?limit=200"):
        rows = shared_desk.get(path, keys["reporter"]).json["items"]
        assert rows
        assert {row["summary"] for row in rows} == {row["assignee"] for row in rows} == {None}
        assert ISSUE["summary"].encode() not in shared_desk.get(path, keys["reporter"]).data
    for asked in ("/v1/tickets?q=network", "/v1/tickets?assignee=ANNA", "/v1/queues/tier1?assignee=ANNA"):
        problem(shared_desk.get(asked, keys["reporter"]), 403, "role_missing")


def test_a_reporter_who_is_a_client_too_reads_no_summaries(shared_desk: RunningDesk) -> None:
    """Queues show everybody's tickets: the second role opens nothing that neither opens."""
    shared_desk.ticket()
    shared_desk.caught_up()
    both = shared_desk.key(Role.REPORTER, Role.CLIENT, client="client-1", name="both")
    rows = shared_desk.get("/v1/queues/tier1", both).json["items"]
    assert rows
    assert {row["summary"] for row in rows} == {None}
