"""What the tests of the API have in common: who asks, a ticket in every standing, a body for every command, and what a
problem document is."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from application.store.postgres.database import connect
from domain.values import Level, Role
from tests.support.running_desk import Reply, RunningDesk, wait_until

JSON, PROBLEM = "application/json", "application/problem+json"
MEMBERS = {"type", "title", "status", "detail", "instance", "code"}
ANSWER = {"ticket_id", "number", "version", "state", "level", "queue", "events", "allowed_commands"}
RESOLVING = [Level.TIER1, Level.TIER2, Level.TIER3, Level.ONSITE, Level.NOC]
ISSUE = {
    "summary": "no network",
    "description": "the third floor is offline",
    "category": "network",
    "impact": "high",
    "urgency": "medium",
}
BODIES: dict[str, dict[str, Any]] = {
    # a body that each command takes; words in capitals stand for what depends on the ticket or the desk
    "identify_client": {"client_user_id": "CLIENT"},
    "create": {},
    "document_issue": ISSUE,
    "route": {},
    "assign": {"assignee": "ANNA"},
    "release": {},
    "qualify": {"can_resolve": True, "rationale": "the switch is ours"},
    "escalate": {"reason": "beyond our means"},
    "resolve": {"resolution": "switch restarted"},
    "verify": {"satisfied": True, "confirmed_via": "phone", "comment": "the network is back"},
    "document_resolution": {"cause": "loop", "actions": "port closed", "checked_by_method": "ping"},
    "close": {},
    "compile_dossier": {"summary": "all that was tried"},
    "approve": {"dossier_sha256": "DOSSIER", "confirmed_via": "email"},
    "decline": {"dossier_sha256": "DOSSIER", "confirmed_via": "email", "reason": "too expensive"},
    "return_to_level": {"level": "BACK", "reason": "look again"},
    "add_note": {"text": "the client called"},
    "change_priority": {"impact": "low", "urgency": "low", "reason": "one person only"},
    "await_client": {"reason": "which floor is it?"},
    "client_responded": {"text": "the third"},
    "cancel": {"reason": "not needed any more"},
    "reopen": {"reason": "it is offline again", "confirmed_via": "phone"},
    "link": {"other_ticket_id": "OTHER", "relation": "related_to"},
    "correct_client": {"client_user_id": "ANOTHER", "reason": "a colleague called"},
    "amend_issue": {"reason": "it is the floor above", "summary": "no network on floor 4"},
}
LED_TO_BY: dict[str, tuple[str, str]] = {
    # standing: the standing before it, and the command that leads there
    "identified": ("received", "identify_client"),
    "created": ("identified", "create"),
    "documented": ("created", "document_issue"),
    "tier1": ("documented", "route"),
    "tier2": ("tier1", "escalate"),
    "tier2_can": ("tier2", "qualify"),
    "tier3": ("tier2_can", "escalate"),
    "tier3_can": ("tier3", "qualify"),
    "onsite": ("tier3_can", "escalate"),
    "onsite_can": ("onsite", "qualify"),
    "deciding": ("onsite_can", "escalate"),
    "awaiting_approval": ("deciding", "compile_dossier"),
    "approved": ("awaiting_approval", "approve"),
    "noc": ("approved", "route"),
    "waiting": ("tier1", "await_client"),
    "assigned": ("tier1", "assign"),
    "resolved": ("tier1", "resolve"),
    "verified": ("resolved", "verify"),
    "detailed": ("verified", "document_resolution"),
    "closed": ("detailed", "close"),
    "cancelled": ("tier1", "cancel"),
}
STANDINGS = ("received", *LED_TO_BY)


def people(served: RunningDesk) -> dict[str, str]:
    """A key for each role alone, and for an agent of each level."""
    keys = {str(role): served.key(role) for role in Role if role not in (Role.AGENT, Role.CLIENT, Role.SYSTEM)}
    return keys | {str(level): served.key(Role.AGENT, levels=[level]) for level in RESOLVING}


def client_key(served: RunningDesk, user_id: str) -> str:
    """The key of a client who is in the directory."""
    return served.key(Role.CLIENT, client=served.client(user_id))


def request(served: RunningDesk, **more: Any) -> str:
    """A request of step 1; its ticket id."""
    reply = served.request(
        "POST", "/v1/requests", {"channel": "phone", "text": "no network here", "sender": {}}, **more
    )
    assert reply.status == 201, reply.data
    return str(reply.json["ticket_id"])


def path_to(standing: str) -> list[str]:
    """The commands from a received request to a standing."""
    commands: list[str] = []
    while standing != "received":
        standing, command = LED_TO_BY[standing]
        commands.insert(0, command)
    return commands


def brought(served: RunningDesk, standing: str, user_id: str = "client-1") -> str:
    """A ticket of a client in a standing; its id."""
    served.client(user_id)
    ticket = request(served)
    for command in path_to(standing):
        reply = give(served, ticket, command, served.checker if command == "verify" else None, user_id)
        assert reply.status == 200, (standing, command, reply.data)
    if standing == "closed":
        mailed(served, ticket)
    return ticket


def mailed(served: RunningDesk, ticket: str) -> None:
    """Waits for the outcome of a closed ticket's e-mail: an event of its own, so that the version moves once more."""

    def told() -> bool:
        events = served.get(f"/v1/tickets/{ticket}/history").json["items"]
        return events[-1]["type"].startswith("Ticket.ClosureEmail")

    wait_until(told, "the closing e-mail has its outcome")


def give(
    served: RunningDesk, ticket: str, command: str, key: str | None = None, user_id: str = "client-1", **more: Any
) -> Reply:
    """A command with a body that fits the ticket as it stands."""
    return served.do(ticket, command, key, **filled(served, ticket, command, user_id) | more)


def filled(served: RunningDesk, ticket: str, command: str, user_id: str = "client-1") -> dict[str, Any]:
    """The body of a command for this ticket."""
    return {name: _meant(served, ticket, value, user_id) for name, value in BODIES[command].items()}


def _meant(served: RunningDesk, ticket: str, value: Any, user_id: str) -> Any:
    match value:
        case "CLIENT":
            return user_id
        case "ANNA":
            return served.person("anna")
        case "ANOTHER":
            return served.client("another")
        case "OTHER":
            return request(served)
        case "DOSSIER":
            dossier = served.get(f"/v1/tickets/{ticket}").json["dossier"]
            return dossier["sha256"] if dossier else "0" * 64
        case "BACK":
            return "it_manager" if served.get(f"/v1/tickets/{ticket}").json["level"] == "noc" else "tier2"
    return value


def problem(reply: Reply, status: int, code: str | None = None) -> dict[str, Any]:
    """The problem document of a reply, which must be one of that status and code."""
    assert reply.status == status, (reply.status, reply.data)
    assert reply.headers["Content-Type"] == PROBLEM
    document: dict[str, Any] = reply.json
    assert document.keys() >= MEMBERS
    assert document["status"] == status
    assert document["type"] == f"urn:deskledger:problem:{document['code']}"
    assert all(isinstance(document[name], str) and document[name] for name in MEMBERS - {"status"})
    assert code is None or document["code"] == code, document
    return document


@contextmanager
def standing_still(served: RunningDesk) -> Iterator[None]:
    """The projections stand still, as when their worker lags far behind; the log goes on."""
    with connect(served.database, "test freeze") as connection, connection.transaction():
        connection.execute("select from projections for update")
        yield


def sealed(served: RunningDesk, ticket: str) -> None:
    """Waits until all events of a ticket have their position."""

    def all_of_it() -> bool:
        items = served.get(f"/v1/tickets/{ticket}/history").json["items"]
        return all(event["position"] for event in items)

    wait_until(all_of_it, "the ticket's events are sealed")


def version(served: RunningDesk, ticket: str) -> int:
    """The version that a ticket is at."""
    return served.get(f"/v1/tickets/{ticket}").version


def pages(served: RunningDesk, path: str, limit: int | None = None, key: str | None = None) -> Iterator[Reply]:
    """The pages of a list, from one `next` to the next."""
    address = path if limit is None else f"{path}{'&' if '?' in path else '?'}limit={limit}"
    while True:
        reply = served.get(address, key)
        assert reply.status == 200, (address, reply.data)
        yield reply
        if reply.json["next"] is None:
            assert "Link" not in reply.headers
            return
        link = reply.headers["Link"]
        assert link.endswith('>; rel="next"')
        address = link[1:].partition(">")[0]


def walk(served: RunningDesk, path: str, limit: int = 200, key: str | None = None) -> list[dict[str, Any]]:
    """All items of a list."""
    return [item for page in pages(served, path, limit, key) for item in page.json["items"]]
