"""Every command over HTTP: its answer, its second time, and every rule that refuses it."""

import re
from collections.abc import Iterator
from typing import Any

import pytest

from domain.values import Role
from tests.support.api_requests import (
    ANSWER,
    BODIES,
    ISSUE,
    JSON,
    brought,
    client_key,
    filled,
    problem,
    request,
    version,
)
from tests.support.running_desk import RunningDesk

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{6})?Z")
NUMBER = re.compile(r"T-\d{6}")
NOTHING, AGAIN = "nothing", "again"  # what the same command records the second time, unless it is refused with a code
HAPPY: list[tuple[str, str, dict[str, Any], str, str, str | None, str | None, str]] = [
    # standing, command, other body, event, state, level, queue, the second time
    ("received", "identify_client", {}, "ClientIdentified", "identified", None, "intake", NOTHING),
    ("identified", "create", {}, "Created", "created", None, "intake", NOTHING),
    ("created", "document_issue", {}, "IssueDocumented", "documented", None, "intake", NOTHING),
    ("documented", "route", {}, "Routed", "in_support", "tier1", "tier1", NOTHING),
    ("documented", "route", {"to": "tier1"}, "Routed", "in_support", "tier1", "tier1", NOTHING),
    ("tier1", "assign", {}, "Assigned", "in_support", "tier1", "tier1", NOTHING),
    ("assigned", "release", {}, "Released", "in_support", "tier1", "tier1", NOTHING),
    ("tier2", "qualify", {}, "Qualified", "in_support", "tier2", "tier2", NOTHING),
    ("tier2", "qualify", {"can_resolve": False}, "Qualified", "in_support", "tier2", "tier2", NOTHING),
    ("tier1", "escalate", {}, "Escalated", "in_support", "tier2", "tier2", "not_qualified"),
    ("onsite_can", "escalate", {}, "Escalated", "deciding", "it_manager", "it_manager", "at_decision_point"),
    ("tier1", "resolve", {}, "Resolved", "resolved", "tier1", "quality_control", NOTHING),
    ("onsite_can", "resolve", {}, "Resolved", "resolved", "onsite", "quality_control", NOTHING),
    ("noc", "resolve", {}, "Resolved", "resolved", "noc", "quality_control", NOTHING),
    ("resolved", "verify", {}, "QCVerified", "verified", "tier1", "closing", NOTHING),
    ("resolved", "verify", {"satisfied": False}, "QCFailed", "in_support", "tier1", "tier1", "not_resolved"),
    ("resolved", "document_resolution", {}, "ResolutionDocumented", "resolved", "tier1", "quality_control", NOTHING),
    ("verified", "document_resolution", {}, "ResolutionDocumented", "verified", "tier1", "closing", NOTHING),
    ("detailed", "close", {}, "Closed", "closed", "tier1", None, NOTHING),
    ("deciding", "compile_dossier", {}, "DossierCompiled", "awaiting_approval", "it_manager", "it_manager", NOTHING),
    ("awaiting_approval", "approve", {}, "ClientApproved", "approved", "it_manager", "it_manager", NOTHING),
    ("awaiting_approval", "decline", {}, "ClientDeclined", "deciding", "it_manager", "it_manager", NOTHING),
    ("approved", "route", {"to": "noc"}, "Routed", "in_support", "noc", "noc", NOTHING),
    ("deciding", "return_to_level", {}, "ReturnedToLevel", "in_support", "tier2", "tier2", "not_at_decision_point"),
    ("noc", "return_to_level", {}, "ReturnedToLevel", "deciding", "it_manager", "it_manager", "wrong_level"),
    ("tier1", "add_note", {}, "NoteAdded", "in_support", "tier1", "tier1", AGAIN),
    ("approved", "add_note", {}, "NoteAdded", "deciding", "it_manager", "it_manager", AGAIN),
    ("tier1", "change_priority", {}, "PriorityChanged", "in_support", "tier1", "tier1", NOTHING),
    ("tier1", "await_client", {}, "ClientAwaited", "in_support", "tier1", "tier1", NOTHING),
    ("waiting", "client_responded", {}, "ClientResponded", "in_support", "tier1", "tier1", "client_not_awaited"),
    ("tier1", "cancel", {}, "Cancelled", "cancelled", "tier1", None, NOTHING),
    ("received", "cancel", {}, "Cancelled", "cancelled", None, None, NOTHING),
    ("closed", "reopen", {}, "Reopened", "in_support", "tier1", "tier1", "not_closed"),
    ("tier1", "link", {}, "Linked", "in_support", "tier1", "tier1", NOTHING),
    ("cancelled", "link", {}, "Linked", "cancelled", "tier1", None, NOTHING),
    (
        "tier1",
        "correct_client",
        {"client_user_id": "other"},
        "ClientCorrected",
        "in_support",
        "tier1",
        "tier1",
        NOTHING,
    ),
    (
        "verified",
        "correct_client",
        {"client_user_id": "other"},
        "ClientCorrected",
        "resolved",
        "tier1",
        "quality_control",
        NOTHING,
    ),
    ("tier1", "amend_issue", {}, "IssueAmended", "in_support", "tier1", "tier1", NOTHING),
]
REFUSED: list[tuple[str, str, dict[str, Any], str, str | None]] = [
    # standing, command, other body, code of the rule, step that is missing
    ("received", "create", {}, "client_not_identified", "2"),
    ("identified", "document_issue", {}, "not_created", "3"),
    ("created", "route", {}, "issue_not_documented", "4"),
    ("documented", "resolve", {}, "not_routed", "4"),
    ("documented", "route", {"to": "noc"}, "wrong_route", None),
    ("documented", "identify_client", {"client_user_id": "other"}, "step_already_done", None),
    ("tier1", "qualify", {}, "no_qualification_here", None),
    ("tier1", "verify", {}, "not_resolved", "T1-1"),
    ("tier1", "close", {}, "not_resolved", "T1-1"),
    ("tier1", "compile_dossier", {}, "not_at_decision_point", "16"),
    ("tier1", "return_to_level", {}, "not_at_decision_point", "16"),
    ("tier1", "client_responded", {}, "client_not_awaited", None),
    ("tier2", "resolve", {}, "not_qualified", "T1-4"),
    ("tier2", "escalate", {}, "not_qualified", "T1-4"),
    ("tier2_can", "qualify", {"can_resolve": False}, "already_qualified", None),
    ("noc", "escalate", {}, "no_level_above", None),
    ("resolved", "resolve", {"resolution": "in another way"}, "already_resolved", None),
    ("resolved", "close", {}, "not_verified", "T1-2"),
    ("verified", "close", {}, "details_missing", "T1-3"),
    ("deciding", "resolve", {}, "at_decision_point", "16"),
    ("deciding", "verify", {}, "at_decision_point", "16"),
    ("deciding", "route", {"to": "noc"}, "not_approved", "16"),
    ("deciding", "approve", {}, "no_current_dossier", "16"),
    ("deciding", "return_to_level", {"level": "noc"}, "wrong_level", None),
    ("awaiting_approval", "approve", {"dossier_sha256": "a" * 64}, "dossier_mismatch", "16"),
    ("awaiting_approval", "route", {"to": "noc"}, "not_approved", "16"),
    ("approved", "decline", {}, "already_approved", "16"),
    ("closed", "resolve", {}, "ticket_closed", None),
    ("cancelled", "resolve", {}, "ticket_cancelled", None),
]


@pytest.fixture(scope="module", autouse=True)
def directory(shared_desk: RunningDesk) -> Iterator[None]:
    """The clients of this module."""
    shared_desk.client("client-1")
    shared_desk.client("other")
    return


def whose(served: RunningDesk, command: str) -> str:
    """Who gives a command here: the staff's key, a second pair of eyes for QC, the client to reopen."""
    match command:
        case "verify":
            return served.checker
        case "reopen":
            return client_key(served, "client-1")
    return served.staff


def post(served: RunningDesk, ticket: str, command: str, body: dict[str, Any], key: str, if_match: str = "*") -> Any:
    """A command whatever version the ticket is at."""
    return served.request("POST", f"/v1/tickets/{ticket}:{command}", body, key, {"If-Match": if_match})


@pytest.mark.parametrize(
    ("standing", "command", "other", "event", "state", "level", "queue", "second"),
    HAPPY,
    ids=[f"{row[0]}-{row[1]}-{row[3]}" for row in HAPPY],
)
def test_a_command_answers_what_it_recorded_and_its_second_time_changes_nothing(
    shared_desk: RunningDesk,
    standing: str,
    command: str,
    other: dict[str, Any],
    event: str,
    state: str,
    level: str | None,
    queue: str | None,
    second: str,
) -> None:
    """200 with the new events, the ETag and the standing; what is already true records nothing and succeeds."""
    ticket, key = brought(shared_desk, standing), whose(shared_desk, command)
    body = filled(shared_desk, ticket, command) | other
    before = version(shared_desk, ticket)
    reply = post(shared_desk, ticket, command, body, key)
    assert reply.status == 200, reply.data
    told = reply.json
    assert told.keys() == ANSWER
    assert reply.headers["Content-Type"] == JSON
    assert told["ticket_id"] == ticket
    assert [(recorded["type"], recorded["version"]) for recorded in told["events"]] == [
        (f"Ticket.{event}", told["version"])
    ]
    assert all(
        recorded.keys() == {"type", "version", "at"} and TIME.fullmatch(recorded["at"]) for recorded in told["events"]
    )
    assert (told["state"], told["level"], told["queue"]) == (state, level, queue)
    assert told["version"] == reply.version
    assert told["version"] - before in (1, 2)  # two when the closing e-mail of a closed ticket came between
    assert (told["number"] is None) == (state in ("received", "identified") or standing == "received")
    seen = shared_desk.get(f"/v1/tickets/{ticket}", key).json
    assert {name: seen[name] for name in ("number", "state", "level", "queue", "allowed_commands")} == {
        name: told[name] for name in ("number", "state", "level", "queue", "allowed_commands")
    }
    again = post(shared_desk, ticket, command, body, key)
    if second == AGAIN:
        assert [recorded["type"] for recorded in again.json["events"]] == [f"Ticket.{event}"]
    elif second == NOTHING:
        assert (again.status, again.json["events"], again.json["state"]) == (200, [], state)
        assert again.json["allowed_commands"] == told["allowed_commands"]
    else:
        problem(again, 409, second)
    types = [item["type"] for item in shared_desk.get(f"/v1/tickets/{ticket}/history").json["items"]]
    assert types.count(f"Ticket.{event}") == 2 if second == AGAIN else types.count(f"Ticket.{event}") >= 1


@pytest.mark.parametrize(("standing", "command", "other", "code", "step"), REFUSED)
def test_a_rule_refuses_with_its_code_the_missing_step_and_what_is_possible(
    shared_desk: RunningDesk, standing: str, command: str, other: dict[str, Any], code: str, step: str | None
) -> None:
    """409 names the rule, the step of the procedure and the commands that are possible; nothing is recorded."""
    ticket, key = brought(shared_desk, standing), whose(shared_desk, command)
    body = filled(shared_desk, ticket, command) | other
    before = shared_desk.get(f"/v1/tickets/{ticket}", key).json
    told = problem(post(shared_desk, ticket, command, body, key), 409, code)
    assert told.get("step") == step
    assert set(before["allowed_commands"]) <= set(told["allowed_commands"])
    assert command not in told["allowed_commands"] or code in ("wrong_route", "wrong_level", "dossier_mismatch")
    assert version(shared_desk, ticket) == before["version"]


def test_quality_control_is_refused_to_the_resolver(shared_desk: RunningDesk) -> None:
    """Rule 5: the key that resolved gets 409 four_eyes, and does not see verify among its commands."""
    ticket = brought(shared_desk, "resolved")
    told = problem(post(shared_desk, ticket, "verify", BODIES["verify"], shared_desk.staff), 409, "four_eyes")
    assert told["step"] == "T1-2"
    assert "verify" not in shared_desk.get(f"/v1/tickets/{ticket}").json["allowed_commands"]
    assert "verify" in shared_desk.get(f"/v1/tickets/{ticket}", shared_desk.checker).json["allowed_commands"]


def test_opening_a_ticket_records_all_of_it_at_once(shared_desk: RunningDesk) -> None:
    """201 with Location, ETag and the five events of steps 1 to 4."""
    body = {"client_user_id": "client-1", "channel": "phone", "text": "no network", "issue": ISSUE}
    reply = shared_desk.request("POST", "/v1/tickets", body)
    told = reply.json
    assert (reply.status, reply.version, told.keys()) == (201, 5, ANSWER)
    assert reply.headers["Location"] == f"/v1/tickets/{told['ticket_id']}"
    assert [event["type"] for event in told["events"]] == [
        "Ticket.RequestReceived",
        "Ticket.ClientIdentified",
        "Ticket.Created",
        "Ticket.IssueDocumented",
        "Ticket.Routed",
    ]
    assert [event["version"] for event in told["events"]] == [1, 2, 3, 4, 5]
    assert (told["state"], told["level"], told["queue"]) == ("in_support", "tier1", "tier1")
    assert NUMBER.fullmatch(told["number"])
    assert shared_desk.get(reply.headers["Location"]).json["issue"] == ISSUE


def test_opening_a_ticket_without_an_issue_stops_before_step_4(shared_desk: RunningDesk) -> None:
    """Without `issue` the ticket is created, and waits in intake for its documentation."""
    reply = shared_desk.request("POST", "/v1/tickets", {"client_user_id": "client-1", "channel": "web", "text": "?"})
    told = reply.json
    assert (reply.status, told["version"], told["state"], told["queue"]) == (201, 3, "created", "intake")
    assert "document_issue" in told["allowed_commands"]


def test_a_request_is_received_from_whomever(shared_desk: RunningDesk) -> None:
    """201: one event, no number yet, and the sender as far as the channel tells."""
    body = {"channel": "email", "text": "Hilfe! 🖨️ ñ", "sender": {"name": "Ann", "email": "ann@example.org"}}
    reply = shared_desk.request("POST", "/v1/requests", body)
    assert (reply.status, reply.version) == (201, 1)
    assert [event["type"] for event in reply.json["events"]] == ["Ticket.RequestReceived"]
    seen = shared_desk.get(reply.headers["Location"]).json
    assert (seen["number"], seen["client"], seen["state"], seen["queue"]) == (None, None, "received", "intake")
    assert (seen["text"], seen["sender"]) == (body["text"], body["sender"])


def test_a_client_is_registered_once_and_changed_after(shared_desk: RunningDesk) -> None:
    """PUT answers 201 for a new client, 200 after; the same entry again records nothing."""
    path, entry = "/v1/clients/new.client+1@example", {"name": "New", "email": "new@example.org", "phone": "1"}
    first, same = shared_desk.request("PUT", path, entry), shared_desk.request("PUT", path, entry)
    changed = shared_desk.request("PUT", path, entry | {"organisation": "ACME"})
    assert [(reply.status, reply.version) for reply in (first, same, changed)] == [(201, 1), (200, 1), (200, 2)]
    assert first.headers["Location"] == path
    assert changed.json == {
        **entry,
        "organisation": "ACME",
        "user_id": "new.client+1@example",
        "version": 2,
    }
    assert shared_desk.get(path).json == changed.json | {"tickets": {"items": [], "next": None}}


def test_the_earlier_name_stays_on_a_ticket_when_the_directory_changes(shared_desk: RunningDesk) -> None:
    """What was recorded of a ticket is not changed by what the directory says later."""
    shared_desk.client("renamed")
    ticket = brought(shared_desk, "identified", "renamed")
    shared_desk.request("PUT", "/v1/clients/renamed", {"name": "Other", "email": "x@example.org"})
    assert shared_desk.get(f"/v1/tickets/{ticket}").json["client"] == {"user_id": "renamed", "name": "Client renamed"}


def test_an_approval_counts_only_while_nothing_happens_after_the_dossier(shared_desk: RunningDesk) -> None:
    """Rule 8: a note after the approval voids it, and the NOC does not get the ticket."""
    ticket = brought(shared_desk, "approved")
    assert shared_desk.get(f"/v1/tickets/{ticket}").json["dossier"]["approved"] is True
    post(shared_desk, ticket, "add_note", {"text": "one more thing"}, shared_desk.staff)
    assert shared_desk.get(f"/v1/tickets/{ticket}").json["dossier"] is None
    problem(post(shared_desk, ticket, "route", {"to": "noc"}, shared_desk.staff), 409, "not_approved")


def test_a_new_resolution_voids_the_check_and_the_details_of_the_old_one(shared_desk: RunningDesk) -> None:
    """Rule 6: after QCFailed and a new resolution, closing demands QC and details again."""
    ticket = brought(shared_desk, "resolved")
    post(shared_desk, ticket, "document_resolution", BODIES["document_resolution"], shared_desk.staff)
    post(shared_desk, ticket, "verify", BODIES["verify"] | {"satisfied": False}, shared_desk.checker)
    post(shared_desk, ticket, "resolve", {"resolution": "cable replaced"}, shared_desk.staff)
    seen = shared_desk.get(f"/v1/tickets/{ticket}").json
    assert (seen["qc"], seen["details"], seen["resolution"]["text"]) == (None, None, "cable replaced")
    post(shared_desk, ticket, "verify", BODIES["verify"], shared_desk.checker)
    problem(post(shared_desk, ticket, "close", {}, shared_desk.staff), 409, "details_missing")


def test_if_match_is_required_on_every_command_but_add_note(shared_desk: RunningDesk) -> None:
    """428 without If-Match, whatever the command; a note needs none."""
    ticket = brought(shared_desk, "tier1")
    for command in BODIES:
        body = filled(shared_desk, ticket, command)
        reply = shared_desk.request("POST", f"/v1/tickets/{ticket}:{command}", body)
        if command == "add_note":
            assert reply.status == 200
        else:
            problem(reply, 428, "if_match_missing")
    assert version(shared_desk, ticket) == 6  # five events of the way to tier 1, and the note


@pytest.mark.parametrize("tag", ['W/"6"', '"06"', '"5"', '"7"', '"0"', '"x"', '""', '"99999999999999999999"', '"٦"'])
def test_a_tag_that_is_not_the_present_one_is_stale(shared_desk: RunningDesk, tag: str) -> None:
    """412 for an old, future, weak or foreign tag: If-Match compares strongly (RFC 9110, section 13.1.1)."""
    ticket = brought(shared_desk, "tier1")
    assert version(shared_desk, ticket) == 5
    post(shared_desk, ticket, "add_note", {"text": "so that it is at 6"}, shared_desk.staff)
    told = problem(
        post(shared_desk, ticket, "cancel", BODIES["cancel"], shared_desk.staff, tag.encode().decode("latin-1")),
        412,
        "stale_version",
    )
    assert told["current_version"] == 6
    assert version(shared_desk, ticket) == 6


def test_stale_tells_what_was_missed_in_words(shared_desk: RunningDesk) -> None:
    """412 carries the events since the version that the caller knew, in the shape of the history."""
    ticket = brought(shared_desk, "tier1")
    post(shared_desk, ticket, "add_note", {"text": "the cat did it"}, shared_desk.staff)
    post(shared_desk, ticket, "resolve", {"resolution": "cat removed"}, shared_desk.staff)
    told = problem(post(shared_desk, ticket, "cancel", BODIES["cancel"], shared_desk.staff, '"5"'), 412)
    assert (told["current_version"], [event["version"] for event in told["missed_events"]]) == (7, [6, 7])
    assert [event["words"] for event in told["missed_events"]] == [
        "Note (internal): the cat did it",
        "Resolved by Tier 1 Support: cat removed",
    ]
    history = shared_desk.get(f"/v1/tickets/{ticket}/history").json["items"]
    assert [event | {"position": None} for event in history[5:]] == told["missed_events"]


def test_a_note_with_a_stale_tag_is_refused_too(shared_desk: RunningDesk) -> None:
    """Who names a version gets it checked, also where none is required."""
    ticket = brought(shared_desk, "tier1")
    problem(post(shared_desk, ticket, "add_note", BODIES["add_note"], shared_desk.staff, '"2"'), 412)
    assert version(shared_desk, ticket) == 5


@pytest.mark.parametrize("tag", ["5", "'5'", '"5', '"4", "5"', "", '"a"b"', "W/5"])
def test_an_if_match_that_is_none_is_malformed(shared_desk: RunningDesk, tag: str) -> None:
    """400 says how If-Match is written."""
    ticket = brought(shared_desk, "received")
    told = problem(post(shared_desk, ticket, "cancel", BODIES["cancel"], shared_desk.staff, tag), 400, "bad_if_match")
    assert '"5"' in told["detail"]


def test_prefer_wait_answers_when_the_lists_hold_the_change(shared_desk: RunningDesk) -> None:
    """`Preference-Applied: wait` says that queue and list show the ticket at the answer's version."""
    for prefer in ("respond-async, WAIT=10", 'wait = "10"', "wait=10, respond-async"):
        ticket = brought(shared_desk, "documented")
        headers = {"If-Match": "*", "Prefer": prefer}
        reply = shared_desk.request("POST", f"/v1/tickets/{ticket}:route", {}, headers=headers)
        assert reply.headers["Preference-Applied"] == "wait=10"
        rows = shared_desk.get("/v1/tickets?level=tier1&limit=1").json["items"]
        assert [(row["ticket_id"], row["version"]) for row in rows] == [(ticket, reply.version)]
        queue = shared_desk.get("/v1/queues/tier1?limit=200").json["items"]
        assert (ticket, reply.version) in [(row["ticket_id"], row["version"]) for row in queue]


@pytest.mark.parametrize("prefer", ["wait=0", "wait=-1", "wait=x", "wait", "return=minimal", "wait=99999999", ""])
def test_a_preference_that_cannot_be_met_is_no_error(shared_desk: RunningDesk, prefer: str) -> None:
    """RFC 7240: preferences are ignored where they make no sense; the command is done all the same."""
    ticket = brought(shared_desk, "received")
    headers = {"If-Match": "*", "Prefer": prefer}
    reply = shared_desk.request("POST", f"/v1/tickets/{ticket}:cancel", BODIES["cancel"], headers=headers)
    assert (reply.status, reply.json["state"]) == (200, "cancelled")


def test_the_journey_of_a_request_is_kept_in_its_events(shared_desk: RunningDesk) -> None:
    """X-Correlation-Id of the command stands in each event that it recorded; one that cannot be kept is left out."""
    ticket = request(shared_desk, headers={"X-Correlation-Id": "journey-7"})
    for correlation in ("journey-8", "x" * 201, "tab\there"):
        shared_desk.request(
            "POST", f"/v1/tickets/{ticket}:add_note", {"text": "x"}, headers={"X-Correlation-Id": correlation}
        )
    history = shared_desk.get(f"/v1/tickets/{ticket}/history").json["items"]
    assert [event["correlation_id"] for event in history] == ["journey-7", "journey-8", None, None]


def test_numbers_are_given_once(shared_desk: RunningDesk) -> None:
    """Every created ticket has a number of its own, and keeps it."""
    tickets = [shared_desk.ticket() for _ in range(5)]
    numbers = [shared_desk.get(f"/v1/tickets/{ticket}").json["number"] for ticket in tickets]
    assert len(set(numbers)) == 5
    shared_desk.close(tickets[0])
    assert shared_desk.get(f"/v1/tickets/{tickets[0]}").json["number"] == numbers[0]


def test_four_eyes_and_levels_are_recorded_by_who_acted(shared_desk: RunningDesk) -> None:
    """Each event names who did it, in which role, at which level and in which step of the source."""
    ticket = brought(shared_desk, "tier2_can")
    shared_desk.do(ticket, "resolve", shared_desk.key(Role.AGENT, levels=["tier2"]), resolution="patched")
    shared_desk.do(ticket, "verify", shared_desk.checker, **BODIES["verify"])
    events = shared_desk.get(f"/v1/tickets/{ticket}/history").json["items"][-2:]
    assert [(event["actor"]["name"], event["actor"]["role"], event["level"], event["step"]) for event in events] == [
        ("agent-tier2", "agent", "tier2", "5"),
        ("checker", "quality", "tier2", "6"),
    ]
