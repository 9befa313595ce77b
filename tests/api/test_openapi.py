"""The document of the contract: it is valid, complete, and made of the very structs that decode and encode."""

import asyncio
import json
import re
import sys
from collections.abc import Iterator
from typing import Any

import falcon.inspect
import falcon.testing
import msgspec
import pytest
from openapi_spec_validator import validate

from api.http import request_parsing as decoding
from api.http.app import create_app
from api.http.paging import encode
from api.openapi.body_examples import BODY_EXAMPLES, DOSSIER_SHA256, OTHER_TICKET_ID
from api.openapi.descriptions import PARAMETERS
from api.openapi.document import openapi_document
from api.openapi.operation import Endpoint
from api.openapi.operations import ENDPOINTS
from application.commands.procedure_commands import COMMANDS
from application.settings import Settings
from domain.values import Level, Principal, Role
from tests.support.api_requests import mailed
from tests.support.reference_pages import lines, spans
from tests.support.running_desk import STAFF, RunningDesk

NOWHERE = Settings(database_url="postgresql://nobody@127.0.0.1/nothing")
EVERYBODY = Principal("all", "all", frozenset(Role), frozenset(Level), "client-17")
ON_WEBHOOKS = ("enable", "disable", "rotate_secret", "replay", "ping")
UP = ("escalate", "qualify")
# Every command on one ticket, in an order in which all are possible.
WALK = (
    *("receive_request", "identify_client", "create", "document_issue", "route", "assign", "release", "add_note"),
    *("change_priority", "await_client", "client_responded", *UP, "resolve", "verify"),
    *(
        "document_resolution",
        "close",
        "reopen",
        "link",
        "correct_client",
        "amend_issue",
        *UP,
        *UP,
        "escalate",
        "compile_dossier",
        "decline",
    ),
    *("return_to_level", "qualify", "escalate", "compile_dossier", "approve", "cancel"),
)
BY_CLIENT = ("approve", "decline", "reopen")


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Every operation of the document: its path, its method in capitals, and what is said of it."""
    for path, item in openapi_document()["paths"].items():
        yield from ((path, method.upper(), operation) for method, operation in item.items())


def test_the_document_is_openapi() -> None:
    """The document passes the validator of OpenAPI 3.1."""
    assert openapi_document()["openapi"].startswith("3.1")
    validate(openapi_document())


def test_every_route_is_in_the_document_and_the_reverse() -> None:
    """What the application routes is described, each command as an operation of its own, and nothing else is."""
    routes: set[tuple[str, str]] = set()
    for route in falcon.inspect.inspect_routes(create_app(NOWHERE)):
        path = re.sub(r":uuid(?=\})", "", route.path)
        names = ON_WEBHOOKS if path.startswith("/v1/webhooks") else tuple(COMMANDS)
        paths = [path.replace("{command}", name) for name in names] if "{command}" in path else [path]
        methods = [method.method for method in route.methods if not method.internal and method.method != "HEAD"]
        routes |= {(path, method) for path in paths for method in methods}
    assert routes == {(path, method) for path, method, _ in operations()}


class Seen(Exception):
    """What a resource wants to decode."""


def wanted_by(monkeypatch: pytest.MonkeyPatch, endpoint: Endpoint) -> type[msgspec.Struct] | None:
    """The struct that the resource of an operation decodes first; None when it decodes nothing."""

    def parameters(req: Any, wanted: Any) -> Any:
        raise Seen(wanted)

    async def read_json(req: Any, wanted: Any) -> Any:
        raise Seen(wanted)

    real = {decoding.parameters: parameters, decoding.read_json: read_json}
    for module in [module for name, module in sys.modules.items() if name.startswith("api.")]:
        for decode, seen in real.items():
            if getattr(module, decode.__name__, None) is decode:
                monkeypatch.setattr(module, decode.__name__, seen)
    some_id = OTHER_TICKET_ID
    path = endpoint.path.format(ticket_id=some_id, webhook_id=some_id, queue="tier1", user_id="c", metric="backlog")
    headers = {"If-Match": "*", "Accept": "*/*"}
    req = falcon.testing.create_asgi_req(path=path, method=endpoint.method, query_string="limit=1", headers=headers)
    req.context.who = EVERYBODY
    _, methods, params, _ = create_app(NOWHERE)._router.find(path, req)
    try:
        asyncio.run(methods[endpoint.method](req, falcon.asgi.Response(), **params))
    except Seen as seen:
        return seen.args[0]
    return None


ASKED = [endpoint for endpoint in ENDPOINTS if endpoint.body or endpoint.query.__struct_fields__]


@pytest.mark.parametrize("endpoint", ASKED, ids=lambda endpoint: endpoint.name)
def test_the_struct_of_the_table_is_the_one_that_is_decoded(
    monkeypatch: pytest.MonkeyPatch, endpoint: Endpoint
) -> None:
    """What the contract describes as body or parameters is what the resource decodes: one source of truth."""
    assert wanted_by(monkeypatch, endpoint) is (endpoint.body or endpoint.query)


def test_operations_have_names_of_their_own() -> None:
    """A generated client has one function for each operation, with a name that reads like the procedure."""
    names = [operation["operationId"] for _, _, operation in operations()]
    assert len(set(names)) == len(names) == len(ENDPOINTS)
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", name) for name in names)
    assert {"escalate_ticket", "approve_dossier", "claim_next_ticket", "list_tickets", "get_report"} <= set(names)


def test_every_parameter_is_known() -> None:
    """Each parameter is explained, and nothing else is."""
    found = {asked["name"] for _, _, one in operations() for asked in one["parameters"] if asked["in"] != "header"}
    assert found == set(PARAMETERS)


def test_only_what_is_open_is_described_as_open() -> None:
    """Every operation takes a key, but for those of operations and of the contract itself."""
    open_ones = {path for path, _, operation in operations() if operation.get("security") == []}
    assert open_ones == {"/livez", "/readyz", "/metrics", "/openapi.json", "/docs", "/docs/redoc-2.5.4.js"}
    assert openapi_document()["security"] == [{"bearer": []}]


TAKING = [endpoint for endpoint in ENDPOINTS if endpoint.body]


@pytest.mark.parametrize("endpoint", TAKING, ids=lambda endpoint: endpoint.name)
def test_every_example_is_of_its_shape(endpoint: Endpoint) -> None:
    """Each body has an example, which its own struct decodes."""
    operation = openapi_document()["paths"][endpoint.path][endpoint.method.lower()]
    shown = operation["requestBody"]["content"]["application/json"]["example"]
    msgspec.json.decode(msgspec.json.encode(shown), type=endpoint.body)


def test_every_example_has_its_operation() -> None:
    """The table of examples has no body that nothing takes."""
    assert set(BODY_EXAMPLES) <= {endpoint.body.__name__ for endpoint in TAKING if endpoint.body}


def test_times_are_described_as_times() -> None:
    """A time in an answer is a date-time in its schema, also where it can be null."""
    schemas = openapi_document()["components"]["schemas"]
    time = {"type": "string", "format": "date-time"}
    assert schemas["TicketView"]["properties"]["created_at"] == time
    assert schemas["TicketView"]["properties"]["closed_at"]["anyOf"] == [time, {"type": "null"}]


def coded(status: int, answer: dict[str, Any]) -> set[tuple[str, str]]:
    """The codes of one status of the document."""
    name = answer["content"]["application/problem+json"]["schema"]["$ref"].rpartition("/")[2]
    schema = openapi_document()["components"]["schemas"][name]["properties"]["code"]
    return {(str(status), code) for code in schema.get("enum", [schema.get("const")])}


def test_every_code_is_in_the_document() -> None:
    """The document has each code of http.md with its status, and no other."""
    answers = openapi_document()["components"]["responses"].values()
    found = set()
    for answer in answers:
        name = answer["content"]["application/problem+json"]["schema"]["$ref"].rpartition("/")[2]
        status = openapi_document()["components"]["schemas"][name]["properties"]["status"]["enum"][0]
        found |= coded(status, answer)
    told = {("409", spans(code)[0]) for code, _ in lines("http.md", "Code", "Meaning")}
    told |= {(status, code) for status, said, *_ in lines("http.md", "Status", "Code") for code in spans(said)}
    assert found == {(status, code) for status, code in told if status != "any other"}


def test_the_document_is_served_without_a_key_and_kept(shared_desk: RunningDesk) -> None:
    """/openapi.json needs no key, is the same from every process, and is 304 for who has it already."""
    got = [shared_desk.http.request("GET", f"{shared_desk.base}/openapi.json") for _ in range(8)]
    assert {reply.data for reply in got} == {encode(openapi_document())}
    assert got[0].headers["Content-Type"] == "application/json"
    assert got[0].headers["Cache-Control"] == "no-cache"
    same = shared_desk.http.request(
        "GET", f"{shared_desk.base}/openapi.json", headers={"If-None-Match": got[0].headers["ETag"]}
    )
    assert (same.status, same.data, same.headers["ETag"]) == (304, b"", got[0].headers["ETag"])


def test_every_example_command_works(shared_desk: RunningDesk) -> None:
    """The examples of the commands, one after the other, take a ticket through the whole procedure."""
    served, shown = shared_desk, json.loads(shared_desk.get("/openapi.json").data)
    by_command = {endpoint.body.name: endpoint for endpoint in TAKING if hasattr(endpoint.body, "name")}
    levels = [level for level in Level if level is not Level.IT_MANAGER]
    keys = {"verify": served.checker, **dict.fromkeys(BY_CLIENT, served.key(Role.CLIENT, client="client-17"))}
    staff = served.key(*STAFF, levels=levels)
    served.person("key_desk")
    assert served.request("PUT", "/v1/clients/client-17", BODY_EXAMPLES["RegisterClient"]).status == 201
    meant: dict[str, str] = {}  # what stands in the examples, and what it is here
    ticket_id, version = "", 0
    for name in ("open_ticket", *WALK):
        endpoint = by_command[name]
        body = shown["paths"][endpoint.path]["post"]["requestBody"]["content"]["application/json"]["example"]
        if "dossier_sha256" in body:
            meant[DOSSIER_SHA256] = served.get(f"/v1/tickets/{ticket_id}").json["dossier"]["sha256"]
        body = {field: meant.get(value, value) if isinstance(value, str) else value for field, value in body.items()}
        path = endpoint.path.replace("{ticket_id}", ticket_id)
        headers = {"If-Match": f'"{version}"'} if "If-Match" in endpoint.request_headers else {}
        reply = served.request("POST", path, body, keys.get(name, staff), headers)
        assert reply.status in endpoint.answers, (name, reply.data)
        ticket_id, version = reply.json["ticket_id"], reply.version
        if name == "close":
            mailed(served, ticket_id)
            version = served.get(f"/v1/tickets/{ticket_id}").version
        meant.setdefault(OTHER_TICKET_ID, ticket_id)
    assert set(WALK) == {*COMMANDS, "receive_request"}
