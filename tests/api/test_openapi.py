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
from api.openapi.descriptions import PARAMETERS
from api.openapi.document import encoded, openapi_document
from api.openapi.operation import Endpoint
from api.openapi.operations import ENDPOINTS
from api.openapi.sample_ticket import (
    BY,
    CHECKER,
    CLIENT_PRINCIPAL,
    OTHER_ID,
    REGISTRATION,
    SAMPLE_USER_ID,
    STORY,
    TICKET_ID,
)
from application.commands.procedure_commands import COMMANDS
from application.settings import Settings
from domain.values import Level, Principal, Role
from tests.support.reference_pages import lines, spans
from tests.support.running_desk import STAFF, RunningDesk

NOWHERE = Settings(database_url="postgresql://nobody@127.0.0.1/nothing")
EVERYBODY = Principal("all", "all", frozenset(Role), frozenset(Level), SAMPLE_USER_ID)
ON_WEBHOOKS = ("enable", "disable", "rotate_secret", "replay", "ping")
BY_NAME = {endpoint.name: endpoint for endpoint in ENDPOINTS}


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
    path = endpoint.path.format(ticket_id=TICKET_ID, webhook_id=TICKET_ID, queue="tier1", user_id="c", metric="backlog")
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


def test_every_parameter_and_link_is_known() -> None:
    """Each parameter is explained, and nothing else is; each link leads to an operation of the document."""
    found = {asked["name"] for _, _, one in operations() for asked in one["parameters"] if asked["in"] != "header"}
    assert found == set(PARAMETERS)
    links = [
        link for _, _, one in operations() for answer in one["responses"].values() for link in answer.get("links", {})
    ]
    assert set(links) <= set(BY_NAME)
    assert links


def test_only_what_is_open_is_described_as_open() -> None:
    """Every operation takes a key, but for those of operations and of the contract itself."""
    open_ones = {path for path, _, operation in operations() if operation.get("security") == []}
    assert open_ones == {"/livez", "/readyz", "/metrics", "/openapi.json", "/docs", "/docs/redoc-2.5.4.js"}
    assert openapi_document()["security"] == [{"bearer": []}]


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda endpoint: endpoint.name)
def test_every_example_is_of_its_shape(endpoint: Endpoint) -> None:
    """Each body and each answer in each of its forms has an example; its own struct decodes that of JSON of ours."""
    operation = openapi_document()["paths"][endpoint.path][endpoint.method.lower()]
    if endpoint.body:
        shown = operation["requestBody"]["content"]["application/json"]["examples"]["story"]["value"]
        msgspec.json.decode(msgspec.json.encode(shown), type=endpoint.body)
    for reply in endpoint.replies:
        answer = operation["responses"][str(reply.status)]
        assert all(form.get("example") for form in answer.get("content", {}).values())
        if isinstance(reply.shape, type) and issubclass(reply.shape, msgspec.Struct):
            shown = operation["responses"][str(reply.status)]["content"][reply.media]["example"]
            msgspec.json.decode(msgspec.json.encode(shown), type=reply.shape)


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
    assert {reply.data for reply in got} == {encoded()}
    assert got[0].headers["Content-Type"] == "application/json"
    assert got[0].headers["Cache-Control"] == "no-cache"
    same = shared_desk.http.request(
        "GET", f"{shared_desk.base}/openapi.json", headers={"If-None-Match": got[0].headers["ETag"]}
    )
    assert (same.status, same.data, same.headers["ETag"]) == (304, b"", got[0].headers["ETag"])


def test_every_example_command_works(shared_desk: RunningDesk) -> None:
    """The examples of the commands, one after the other, take a ticket along the story; each answers as is shown."""
    served, shown = shared_desk, json.loads(shared_desk.get("/openapi.json").data)
    levels = [level for level in Level if level is not Level.IT_MANAGER]
    keys = {None: served.key(*STAFF, levels=levels), CHECKER: served.checker}
    keys[CLIENT_PRINCIPAL] = served.key(Role.CLIENT, client=SAMPLE_USER_ID)
    assert served.request("PUT", f"/v1/clients/{SAMPLE_USER_ID}", REGISTRATION).status == 201
    ids: dict[str, str] = {}
    version, given = 0, set()
    for name in ("open_ticket", *STORY):
        endpoint = next(one for one in ENDPOINTS if getattr(one.body, "name", "") == name)
        operation = shown["paths"][endpoint.path]["post"]
        body = operation["requestBody"]["content"]["application/json"]["examples"]["story"]["value"]
        path = endpoint.path.replace("{ticket_id}", ids.get(str(TICKET_ID), ""))
        if "dossier_sha256" in body:
            body = body | {"dossier_sha256": served.get(path.partition(":")[0]).json["dossier"]["sha256"]}
        body = {field: ids.get(value, value) if isinstance(value, str) else value for field, value in body.items()}
        status = str(endpoint.replies[0].status)
        reply = served.request("POST", path, body, keys[BY.get(name)], {"If-Match": f'"{version}"'})
        assert reply.status == int(status), (name, reply.data)
        version, example = reply.version, operation["responses"][status]["content"]["application/json"]["example"]
        if name not in given:
            assert reply.json["state"] == example["state"], name
            assert [event["type"] for event in reply.json["events"]] == [one["type"] for one in example["events"]], name
        ids[str(OTHER_ID if name == "open_ticket" else TICKET_ID)] = reply.json["ticket_id"]
        given.add(name)
    assert given == {*COMMANDS, "receive_request", "open_ticket"}
