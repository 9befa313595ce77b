"""A client that nobody wrote: generated from the served document, it goes through the procedure."""

import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from domain.values import Level, Role
from tests.support.running_desk import STAFF, RunningDesk

USER_ID = "client-7"
Module = Any


@pytest.fixture(scope="module")
def library(module_desk: RunningDesk, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """The package that openapi-python-client generates from what the running server serves."""
    place = tmp_path_factory.mktemp("generated")
    (place / "openapi.json").write_bytes(module_desk.get("/openapi.json").data)
    program = Path(sys.executable).with_name("openapi-python-client")
    command = [program, "generate", "--path", "openapi.json", "--meta", "none", "--output-path", "deskledger_client"]
    (place / "config.json").write_text(json.dumps({"post_hooks": []}))
    done = subprocess.run([*command, "--config", "config.json"], cwd=place, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Warning" not in done.stdout, done.stdout
    types = [Path(sys.executable).with_name("mypy"), "--config-file=", "deskledger_client"]
    checked = subprocess.run(types, cwd=place, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout
    sys.path.insert(0, str(place))
    yield importlib.import_module("deskledger_client")
    sys.path.remove(str(place))


class Desk:
    """The generated functions by their names, called with one key."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self.models: Module = importlib.import_module("deskledger_client.models")

    def __call__(self, area: str, name: str, *given: Any, **named: Any) -> Any:
        """Calls an operation; the whole answer."""
        operation = importlib.import_module(f"deskledger_client.api.{area}.{name}")
        return operation.sync_detailed(*given, client=self._client, **named)

    def do(self, name: str, before: Any, **fields: Any) -> Any:
        """A command on the version that was answered before; its answer."""
        kind = "".join(word.capitalize() for word in name.split("_"))
        wanted = getattr(self.models, kind).from_dict(fields)
        answer = self("commands", name, before.ticket_id, body=wanted, if_match=f'"{before.version}"')
        assert answer.status_code == 200, answer.content
        return answer.parsed


@contextmanager
def signed_in(library: ModuleType, served: RunningDesk, key: str) -> Iterator[Desk]:
    """The desk for a key."""
    with library.AuthenticatedClient(base_url=served.base, token=key, raise_on_unexpected_status=True) as client:
        yield Desk(client)


@pytest.fixture(scope="module")
def staff(library: ModuleType, module_desk: RunningDesk) -> Iterator[Desk]:
    """The desk for a key of its own people."""
    key = module_desk.key(*STAFF, Role.AUDITOR, levels=[level for level in Level if level is not Level.IT_MANAGER])
    with signed_in(library, module_desk, key) as desk:
        entry = desk.models.RegisterClient(name="Client seven", email="client-7@example.org")
        assert desk("clients", "register_client", USER_ID, body=entry).status_code == 201
        yield desk


@pytest.fixture(scope="module")
def checker(library: ModuleType, module_desk: RunningDesk) -> Iterator[Desk]:
    """The desk for a second key of quality control."""
    with signed_in(library, module_desk, module_desk.checker) as desk:
        yield desk


def received(staff: Desk) -> Any:
    """Steps 1 to 4: a ticket at tier 1."""
    models = staff.models
    request = models.ReceiveRequest(models.Channel.PHONE, "It does not print.", models.RequestSender(name="Client"))
    place = staff("requests", "receive_request", body=request).parsed
    place = staff.do("identify_client", place, client_user_id=USER_ID)
    place = staff.do("create_ticket_from_request", place)
    issue = {"summary": "No print", "description": "It does not print.", "category": "printing"}
    place = staff.do("document_issue", place, **issue, impact="medium", urgency="high")
    return staff.do("route_ticket", place)


def closed(staff: Desk, checker: Desk, place: Any) -> Any:
    """From whatever level holds the ticket to its closing."""
    place = staff.do("resolve_ticket", place, resolution="New drum unit.")
    place = checker.do("verify_ticket", place, satisfied=True, confirmed_via="phone", comment="It prints.")
    place = staff.do("document_resolution", place, cause="drum", actions="changed", checked_by_method="test page")
    return staff.do("close_ticket", place)


def test_it_goes_from_a_request_to_its_closing(staff: Desk, checker: Desk) -> None:
    """Received, identified, created, documented, routed, resolved, verified, documented, closed."""
    place = closed(staff, checker, received(staff))
    assert (place.state, place.queue) == (staff.models.State.CLOSED, None)
    ticket = staff("tickets", "get_ticket", place.ticket_id).parsed
    assert (ticket.client.user_id, ticket.priority) == (USER_ID, 2)
    assert ticket.version in (place.version, place.version + 1)  # the outcome of the closing e-mail comes by itself
    assert ticket.closed_at >= ticket.created_at
    history = staff("tickets", "get_ticket_history", place.ticket_id, min_version=place.version).parsed
    assert [item.type_.rpartition(".")[2] for item in history.items][: place.version][-3:] == [
        "QCVerified",
        "ResolutionDocumented",
        "Closed",
    ]


def test_it_goes_up_the_whole_ladder(staff: Desk, checker: Desk) -> None:
    """Through every level to the IT manager, with the client's approval to the NOC, and to the end."""
    place = staff.do("escalate_ticket", received(staff), reason="not here")
    for _ in range(3):
        place = staff.do("qualify_ticket", place, can_resolve=False, rationale="too hard")
        place = staff.do("escalate_ticket", place, reason="not here")
    assert place.state == staff.models.State.DECIDING
    place = staff.do("compile_dossier", place, summary="All have tried.")
    dossier = staff("tickets", "get_ticket", place.ticket_id).parsed.dossier
    place = staff.do("approve_dossier", place, dossier_sha256=dossier.sha256, confirmed_via="email")
    place = staff.do("route_ticket", place, to="noc")
    assert closed(staff, checker, place).state == staff.models.State.CLOSED


def test_it_claims_and_reads_queues(staff: Desk, module_desk: RunningDesk) -> None:
    """Queues are read and claimed from by their names; an empty one has nothing to claim."""
    received(staff)
    module_desk.caught_up()
    tier1, nothing = staff.models.Queue.TIER1, staff.models.NoFields()
    waiting = staff("queues", "list_queue_tickets", tier1, unassigned=True).parsed
    claimed = staff("queues", "claim_next_ticket", tier1, body=nothing).parsed
    assert claimed.ticket_id == waiting.items[0].ticket_id
    assert claimed.assignee != waiting.items[0].assignee
    assert staff("queues", "claim_next_ticket", staff.models.Queue.CLOSING, body=nothing).status_code == 204


def test_its_errors_are_typed(staff: Desk) -> None:
    """A refusal is a problem with its code, its step and what is possible; a stale version says what was missed."""
    place = received(staff)
    kinds = staff.models
    refused = staff("commands", "close_ticket", place.ticket_id, if_match=f'"{place.version}"')
    assert isinstance(refused.parsed, kinds.ConflictProblem)
    assert (refused.parsed.code, "resolve" in refused.parsed.allowed_commands) == ("not_resolved", True)
    stale = staff("commands", "close_ticket", place.ticket_id, if_match='"1"').parsed
    assert isinstance(stale, kinds.PreconditionFailedProblem)
    assert (stale.current_version, len(stale.missed_events)) == (place.version, place.version - 1)
    missing = staff("tickets", "get_ticket", "019ab000-7c00-7000-8000-00000000002a").parsed
    assert isinstance(missing, kinds.NotFoundProblem)


def test_it_sends_a_request_again(staff: Desk) -> None:
    """With an Idempotency-Key the first answer comes again, byte for byte."""
    note = staff.models.AddNote(text="called back")
    place = received(staff)
    first, again = (
        staff("commands", "add_note", place.ticket_id, body=note, idempotency_key="note-1") for _ in range(2)
    )
    assert (again.content, again.headers["Idempotency-Replayed"]) == (first.content, "true")
