"""Who may do what: every operation of the API by every kind of caller, on a ticket of the own and of somebody else.

The table is written from the procedure ("Who may do what") and from the contract; the program is not asked. Each cell
is a request on a ticket of its own, which stands where the operation is possible.
"""

import json
from collections.abc import Iterator
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest

from api.openapi.operations import ENDPOINTS
from application.clock import utc_now
from application.commands.command import Command, Opening
from application.commands.deciding import CommandRequest, Outcome, new_stream_id
from application.commands.procedure_commands import COMMANDS, ReceiveRequest, RequestSender
from application.commands.supporting_commands import RegisterClient
from application.helpdesk import HelpDesk
from application.store.postgres.database import pool
from domain.values import Channel, Level, Principal, Role
from tests.support.api_requests import BODIES, ISSUE, path_to, problem
from tests.support.oidc_issuer import KEYS, Issuer
from tests.support.running_desk import Reply, RunningDesk

CALLERS = ("intake", "agent", "other", "quality", "manager", "owner", "stranger", "auditor", "reporter", "admin")
CALLERS += ("nobody", "anonymous")
# agent: of the level that holds the ticket, of tier 1 where none does; other: of another level; owner: the ticket's
# client; stranger: another client; nobody: a token without a role of ours; anonymous: neither key nor token.
TABLE = """
                                                              in ag ot qu ma ow st au re ad no an
POST   /v1/requests                          -                201 403 403 403 403 403 403 403 403 403 403 401
POST   /v1/tickets                           -                201 403 403 403 403 403 403 403 403 403 403 401
POST   /v1/tickets/{ticket_id}:identify_client     received   200 403 403 403 403 404 404 403 403 403 403 401
POST   /v1/tickets/{ticket_id}:create              identified 200 403 403 403 403 403 404 403 403 403 403 401
POST   /v1/tickets/{ticket_id}:document_issue      created    200 403 403 403 403 403 404 403 403 403 403 401
POST   /v1/tickets/{ticket_id}:route               documented 200 403 403 403 409 403 404 403 403 403 403 401
POST   /v1/tickets/{ticket_id}:route               approved   409 403 403 403 200 403 404 403 403 403 403 401
POST   /v1/tickets/{ticket_id}:assign              tier1      403 200 403 403 200 403 404 403 403 403 403 401
POST   /v1/tickets/{ticket_id}:release             assigned   403 200 403 409 200 403 404 403 403 403 403 401
POST   /v1/tickets/{ticket_id}:qualify             tier2      403 200 403 403 403 403 404 403 403 403 403 401
POST   /v1/tickets/{ticket_id}:escalate            tier1      403 200 403 403 403 403 404 403 403 403 403 401
POST   /v1/tickets/{ticket_id}:escalate            onsite_can 403 200 403 403 403 403 404 403 403 403 403 401
POST   /v1/tickets/{ticket_id}:resolve             tier1      403 200 403 403 403 403 404 403 403 403 403 401
POST   /v1/tickets/{ticket_id}:resolve             tier3_can  403 200 403 403 403 403 404 403 403 403 403 401
POST   /v1/tickets/{ticket_id}:resolve             noc        403 200 403 403 403 403 404 403 403 403 403 401
POST   /v1/tickets/{ticket_id}:verify              resolved   403 403 403 200 403 403 404 403 403 403 403 401
POST   /v1/tickets/{ticket_id}:document_resolution resolved   403 200 403 403 403 403 404 403 403 403 403 401
POST   /v1/tickets/{ticket_id}:document_resolution verified   403 200 403 403 403 403 404 403 403 403 403 401
POST   /v1/tickets/{ticket_id}:close               detailed   403 200 403 200 403 403 404 403 403 403 403 401
POST   /v1/tickets/{ticket_id}:compile_dossier     deciding   403 403 403 403 200 403 404 403 403 403 403 401
POST   /v1/tickets/{ticket_id}:approve    awaiting_approval   403 403 403 403 200 200 404 403 403 403 403 401
POST   /v1/tickets/{ticket_id}:decline    awaiting_approval   403 403 403 403 200 200 404 403 403 403 403 401
POST   /v1/tickets/{ticket_id}:return_to_level     deciding   403 409 409 403 200 403 404 403 403 403 403 401
POST   /v1/tickets/{ticket_id}:return_to_level     noc        403 200 403 403 200 403 404 403 403 403 403 401
POST   /v1/tickets/{ticket_id}:add_note            tier1      200 200 403 200 200 200 404 403 403 403 403 401
POST   /v1/tickets/{ticket_id}:add_note            resolved   200 200 403 200 200 200 404 403 403 403 403 401
POST   /v1/tickets/{ticket_id}:add_note            received   200 409 409 200 200 404 404 403 403 403 403 401
POST   /v1/tickets/{ticket_id}:change_priority     tier1      200 200 403 403 200 403 404 403 403 403 403 401
POST   /v1/tickets/{ticket_id}:await_client        tier1      403 200 403 403 403 403 404 403 403 403 403 401
POST   /v1/tickets/{ticket_id}:client_responded    waiting    403 200 403 403 403 200 404 403 403 403 403 401
POST   /v1/tickets/{ticket_id}:cancel              tier1      200 403 403 403 200 200 404 403 403 403 403 401
POST   /v1/tickets/{ticket_id}:reopen              closed     200 403 403 200 403 200 404 403 403 403 403 401
POST   /v1/tickets/{ticket_id}:link                tier1      200 403 403 403 403 403 404 403 403 403 403 401
POST   /v1/tickets/{ticket_id}:correct_client      tier1      200 403 403 403 403 403 404 403 403 403 403 401
POST   /v1/tickets/{ticket_id}:amend_issue         tier1      200 200 403 403 403 403 404 403 403 403 403 401
GET    /v1/tickets/{ticket_id}                     tier1      200 200 200 200 200 200 404 200 403 200 403 401
GET    /v1/tickets/{ticket_id}                     received   200 200 200 200 200 404 404 200 403 200 403 401
GET    /v1/tickets/{ticket_id}/history             closed     200 200 200 200 200 200 404 200 403 200 403 401
GET    /v1/tickets                           -                200 200 200 200 200 200 200 200 200 200 403 401
GET    /v1/tickets?q=network                 -                200 200 200 200 200 200 200 200 403 200 403 401
GET    /v1/tickets?client_user_id=owner      -                200 200 200 200 200 200 404 200 200 200 403 401
GET    /v1/queues                            -                200 200 200 200 200 403 403 200 200 200 403 401
GET    /v1/queues/{queue}                    tier1            200 200 200 200 200 403 403 200 200 200 403 401
POST   /v1/queues/{queue}:claim_next         intake           204 403 403 403 403 403 403 403 403 403 403 401
POST   /v1/queues/{queue}:claim_next         tier1            403 204 403 403 403 403 403 403 403 403 403 401
POST   /v1/queues/{queue}:claim_next         quality_control  403 403 403 204 403 403 403 403 403 403 403 401
POST   /v1/queues/{queue}:claim_next         closing          403 403 403 204 403 403 403 403 403 403 403 401
POST   /v1/queues/{queue}:claim_next         it_manager       403 403 403 403 204 403 403 403 403 403 403 401
PUT    /v1/clients/{user_id}                 new              201 403 403 403 403 403 403 403 403 201 403 401
GET    /v1/clients/{user_id}                 owner            200 200 200 200 200 200 404 200 403 200 403 401
GET    /v1/events                            -                403 403 403 403 403 403 403 200 403 200 403 401
GET    /v1/reports                           -                403 403 403 403 200 403 403 200 200 200 403 401
GET    /v1/reports/{metric}                  backlog          403 403 403 403 200 403 403 200 200 200 403 401
GET    /v1/closure_mails                     -                403 403 403 200 200 403 403 200 403 200 403 401
POST   /v1/mails/{message_id}:retry          -                403 403 403 404 404 403 403 403 403 404 403 401
GET    /v1/webhooks                          -                403 403 403 403 403 403 403 200 403 200 403 401
POST   /v1/webhooks                          -                403 403 403 403 403 403 403 403 403 201 403 401
GET    /v1/webhooks/{webhook_id}             -                403 403 403 403 403 403 403 200 403 200 403 401
PATCH  /v1/webhooks/{webhook_id}             -                403 403 403 403 403 403 403 403 403 200 403 401
DELETE /v1/webhooks/{webhook_id}             -                403 403 403 403 403 403 403 403 403 204 403 401
GET    /v1/webhooks/{webhook_id}/deliveries  -                403 403 403 403 403 403 403 200 403 200 403 401
POST   /v1/webhooks/{webhook_id}:enable      -                403 403 403 403 403 403 403 403 403 200 403 401
POST   /v1/webhooks/{webhook_id}:disable     -                403 403 403 403 403 403 403 403 403 200 403 401
POST   /v1/webhooks/{webhook_id}:rotate_secret -              403 403 403 403 403 403 403 403 403 200 403 401
POST   /v1/webhooks/{webhook_id}:replay      -                403 403 403 403 403 403 403 403 403 200 403 401
POST   /v1/webhooks/{webhook_id}:ping        -                403 403 403 403 403 403 403 403 403 200 403 401
GET    /livez                                -                200 200 200 200 200 200 200 200 200 200 200 200
GET    /readyz                               -                200 200 200 200 200 200 200 200 200 200 200 200
GET    /metrics                              -                200 200 200 200 200 200 200 200 200 200 200 200
GET    /openapi.json                         -                200 200 200 200 200 200 200 200 200 200 200 200
GET    /docs                                 -                200 200 200 200 200 200 200 200 200 200 200 200
GET    /docs/redoc-2.5.4.js                  -                200 200 200 200 200 200 200 200 200 200 200 200
"""
ROWS = [line.split() for line in TABLE.splitlines()[2:]]
HOOK = {"url": "http://127.0.0.1:65535/hook"}
OTHER_BODIES: dict[tuple[str, str], dict[str, Any]] = {
    ("POST", "/v1/requests"): {"channel": "web", "text": "no network", "sender": {}},
    ("POST", "/v1/tickets"): {"client_user_id": "owner", "channel": "web", "text": "no network", "issue": ISSUE},
    ("PUT", "/v1/clients/{user_id}"): {"name": "New", "email": "new@example.org"},
    ("POST", "/v1/webhooks"): HOOK,
    ("PATCH", "/v1/webhooks/{webhook_id}"): {"description": "changed"},
    ("POST", "/v1/webhooks/{webhook_id}:replay"): {"after": 0},
}
CODES = {
    401: {"key_missing"},
    403: {"role_missing"},
    409: {"ticket_elsewhere"},
    404: {"unknown_ticket", "unknown_user_id", "unknown_mail"},
}
DESK = Principal("desk-1", "Desk", frozenset(Role) - {Role.SYSTEM}, frozenset(Level), "owner")
CHECKER = Principal("checker", "Checker", frozenset({Role.QUALITY}))


class Stage:
    """A served desk, its callers, and a way to bring tickets to where they are wanted."""

    def __init__(self, served: RunningDesk, desk: HelpDesk, issuer: Issuer) -> None:
        self.served, self.desk, self.issuer = served, desk, issuer
        served.person("anna")
        for user_id in ("owner", "stranger"):
            contact = RegisterClient(user_id, f"{user_id}@example.org").contact()
            desk.register_client(user_id, contact, DESK, utc_now())

    def ticket(self, standing: str) -> Outcome:
        """A ticket of the owner in a standing."""
        ticket = new_stream_id(utc_now())
        outcome = self._do(ticket, ReceiveRequest(Channel.PHONE, "no network here", RequestSender()))
        for command in path_to(standing):
            outcome = self._do(ticket, self.command(command, outcome), CHECKER if command == "verify" else DESK)
        return outcome

    def body(self, command: str, outcome: Outcome) -> dict[str, Any]:
        """A body that fits a ticket as it stands."""
        dossier, level = outcome.ticket.dossier, outcome.ticket.level
        meant = {
            "CLIENT": "owner",
            "ANNA": "anna",
            "ANOTHER": "stranger",
            "DOSSIER": dossier.sha256 if dossier else "0" * 64,
        }
        meant |= {"OTHER": str(uuid4()), "BACK": "it_manager" if level is Level.NOC else "tier2"}
        if command == "link":
            meant["OTHER"] = str(self.ticket("received").ticket.ticket_id)
        if command == "route":
            return {"to": "noc"} if outcome.ticket.state == "approved" else {}
        return {
            name: meant.get(value, value) if isinstance(value, str) else value
            for name, value in BODIES[command].items()
        }

    def command(self, name: str, outcome: Outcome) -> Command:
        """A command with such a body."""
        return msgspec.convert(self.body(name, outcome), COMMANDS[name])

    def key(self, caller: str, level: Level | None) -> str | None:
        """The key of a caller, or the token; None for whoever has neither."""
        holding = level if level not in (None, Level.IT_MANAGER) else Level.TIER1
        match caller:
            case "agent":
                return self.served.key(Role.AGENT, levels=[holding])
            case "other":
                return self.served.key(
                    Role.AGENT, levels=[one for one in Level if one not in (holding, Level.IT_MANAGER)]
                )
            case "manager":
                return self.served.key(Role.IT_MANAGER)
            case "owner" | "stranger":
                return self.served.key(Role.CLIENT, client=caller)
            case "nobody":
                return self.issuer.token(roles=["boss"])
            case "anonymous":
                return None
        return self.served.key(Role(caller))

    def webhook(self) -> str:
        """The id of a webhook that is switched on."""
        admin = self.served.key(Role.ADMIN)
        found = [hook for hook in self.served.get("/v1/webhooks", admin).json["items"] if hook["enabled"]]
        reply = self.served.request("POST", "/v1/webhooks", HOOK, admin) if not found else None
        assert reply is None or reply.status == 201, reply.data
        return str(reply.json["id"] if reply else found[0]["id"])

    def _do(self, ticket: UUID, command: Command | Opening, who: Principal = DESK) -> Outcome:
        return self.desk.execute(CommandRequest(ticket, command, who, utc_now()))


@pytest.fixture(scope="module")
def stage(module_database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """The API alone: what it may be asked is decided without a worker."""
    directory = tmp_path_factory.mktemp("served")
    with Issuer() as issuer:
        (directory / "keys.json").write_text(json.dumps(issuer.document(KEYS)))
        served = RunningDesk(module_database, directory, parts=("api",))
        served.environment |= issuer.environment | {
            "DESKLEDGER_OIDC_JWKS_FILE": str(directory / "keys.json"),
        }
        with served, pool(module_database, "test desk") as connections, HelpDesk(connections) as desk:
            yield Stage(served, desk, issuer)


def asked(stage: Stage, method: str, address: str, on: str, caller: str) -> tuple[Reply, Outcome | None]:
    """One request of a caller, and the ticket as it stood before it."""
    outcome = stage.ticket(on) if "{ticket_id}" in address else None
    command = address.partition("}:")[2]
    webhook = stage.webhook() if "{webhook_id}" in address else ""
    user_id = f"new-{uuid4()}" if on == "new" else on
    path = address.format(
        ticket_id=outcome.ticket.ticket_id if outcome else "",
        queue=on,
        user_id=user_id,
        metric=on,
        webhook_id=webhook,
        message_id="no-mail@example.org",
    )
    key = stage.key(caller, outcome.ticket.level if outcome else None)
    body = stage.body(command, outcome) if outcome and command else OTHER_BODIES.get((method, address))
    headers = ({"If-Match": "*"} if command else {}) | (
        {"Authorization": f"Bearer {key}"} if key else {"Authorization": ""}
    )
    return stage.served.request(
        method, path, body if body is not None or method != "POST" else {}, headers=headers
    ), outcome


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row[0]} {row[1]} {row[2]}")
def test_every_operation_is_for_whom_the_table_says(stage: Stage, row: list[str]) -> None:
    """The status of every caller, and nothing is recorded for those who are refused."""
    method, address, on, *expected = row
    found = {}
    for caller in CALLERS:
        reply, before = asked(stage, method, address, on, caller)
        found[caller] = reply.status
        if before and reply.status != 200:
            assert len(stage.desk.history(before.ticket.ticket_id)) == before.ticket.version, caller
        if reply.status in CODES:
            assert problem(reply, reply.status)["code"] in CODES[reply.status]
    assert found == dict(zip(CALLERS, map(int, expected), strict=True))


def test_every_operation_is_in_the_table() -> None:
    """An operation that is added to the contract has to say here for whom it is."""
    told = {(row[0], row[1].partition("?")[0]) for row in ROWS}
    assert told == {(endpoint.method, endpoint.path) for endpoint in ENDPOINTS}
    assert all(len(row) == 3 + len(CALLERS) for row in ROWS)
