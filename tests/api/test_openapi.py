"""The document of the contract: it is valid, complete, and made of the very structs that decode and encode."""

import asyncio
import json
import re
import sys
from collections.abc import Iterator
from difflib import SequenceMatcher
from itertools import combinations
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
from domain.client import EVENTS
from domain.procedure import PROCEDURE
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
    ids = {"ticket_id": some_id, "webhook_id": some_id, "message_id": "x@y", "user_id": "c"}
    path = endpoint.path.format(**ids, queue="tier1", metric="backlog")
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


# What ECMA-262 reads with the flag u, too: classes, counts, alternatives, and escapes that mean something there.
_ESCAPE = r"\\(?:[dDwWsSbBfnrtv0^$\\.*+?()\[\]{}|/]|x[0-9a-f]{2}|u[0-9a-f]{4})"
_ECMA = re.compile(rf"(?:{_ESCAPE}|\[\^?(?:{_ESCAPE}|[^\\\]])+\]|\((?!\?)|[^\\\[(])*")


def patterns(part: Any) -> Iterator[str]:
    """Every pattern in a part of the document."""
    if isinstance(part, dict) and isinstance(pattern := part.get("pattern"), str):
        yield pattern
    if isinstance(part, dict | list):
        for each in part.values() if isinstance(part, dict) else part:
            yield from patterns(each)


def test_patterns_are_those_of_ecma_262() -> None:
    """T4: no look-arounds, no named groups, no escape that is none there, and an end that is `$`: `\\Z` is Python's."""
    found = set(patterns(openapi_document()))
    assert len(found) > 10
    assert [pattern for pattern in found if not _ECMA.fullmatch(pattern)] == []
    wrong = ("(?=a)", "(?!a)", "(?<!a)", r"[\"]", r"a\"b", r"a\Z", r"\A", "(?P<n>a)", r"[\@-]", r"\u12")
    assert [pattern for pattern in wrong if _ECMA.fullmatch(pattern)] == []


def test_operations_have_names_of_their_own() -> None:
    """A generated client has one function for each operation, with a name that reads like the procedure."""
    names = [operation["operationId"] for _, _, operation in operations()]
    assert len(set(names)) == len(names) == len(ENDPOINTS)
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", name) for name in names)
    assert {"escalate_ticket", "approve_dossier", "claim_next_ticket", "list_tickets", "get_report"} <= set(names)
    for one, other in combinations(names, 2):  # what differs by a letter or two is taken for the other
        assert SequenceMatcher(None, one, other).ratio() < 0.95, (one, other)


def test_every_parameter_is_known() -> None:
    """Each parameter is explained, and nothing else is."""
    found = {asked["name"] for _, _, one in operations() for asked in one["parameters"] if asked["in"] != "header"}
    assert found == set(PARAMETERS)


def test_only_what_is_open_is_described_as_open() -> None:
    """Every operation takes a key, but for those of operations and of the contract itself."""
    open_ones = {path for path, _, operation in operations() if operation.get("security") == []}
    assert open_ones == {"/livez", "/readyz", "/metrics", "/openapi.json", "/docs", "/docs/redoc-2.5.4.js"}
    assert openapi_document()["security"] == [{"bearer": []}]


def parts(document: Any) -> Iterator[dict[str, Any]]:
    """Every object of the document, down to the last."""
    if isinstance(document, dict):
        yield document
        for part in document.values():
            yield from parts(part)
    elif isinstance(document, list):
        for part in document:
            yield from parts(part)


def test_patterns_are_those_of_every_language() -> None:
    """No pattern looks around or escapes what needs no escape: Python's are not ECMA-262's, nor everybody's."""
    patterns = {part["pattern"] for part in parts(openapi_document()) if isinstance(part.get("pattern"), str)}
    assert len(patterns) > 10
    for pattern in patterns:
        assert "(?" not in pattern, pattern
        assert set(re.findall(r"\\[^xu]", pattern)) <= {rf"\{one}" for one in r"\^$.*+?()[]{}|/sdwSDWtnr"}, pattern
        assert pattern.isascii(), pattern


def test_optional_fields_are_optional() -> None:
    """No property has a default, which generators take for one that is always there; enums say their type."""
    for part in parts(openapi_document()["components"]["schemas"]):
        for one in part.get("properties", {}).values() if part.get("type") == "object" else ():
            assert "default" not in one, part
        assert "type" in part or not isinstance(part.get("enum"), list), part


def test_every_type_of_event_has_its_schema() -> None:
    """An event is one of many by its type, each with the schema of its data: in the feed, and as a webhook sends it."""
    document = openapi_document()
    schemas = document["components"]["schemas"]
    union = schemas["DeskEvent"]
    assert list(union["discriminator"]["mapping"]) == list(EVENTS)
    assert list(union["discriminator"]["mapping"].values()) == [one["$ref"] for one in union["oneOf"]]
    for type_, reference in union["discriminator"]["mapping"].items():
        schema = schemas[reference.rpartition("/")[2]]["properties"]
        assert schema["type"]["enum"] == [type_]
        data = schemas[schema["data"]["anyOf"][0]["$ref"].rpartition("/")[2]]
        fields = msgspec.structs.fields(EVENTS[type_])
        left_out = EVENTS[type_].__struct_config__.omit_defaults  # then what nothing was said of is not there
        always = {one.name for one in fields if one.required or not left_out}
        assert (set(data["properties"]), set(data["required"])) == ({one.name for one in fields}, always)
    (sent,) = document["paths"]["/v1/webhooks"]["post"]["callbacks"]["event"].values()
    body = sent["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert body == schemas["EventPage"]["properties"]["items"]["items"] == {"$ref": "#/components/schemas/DeskEvent"}


def test_words_of_the_desk_are_enums() -> None:
    """Commands, steps, types of events and groups are lists of words, wherever one of them stands."""
    document = openapi_document()
    schemas = {name: schema.get("properties", {}) for name, schema in document["components"]["schemas"].items()}
    where = {
        "CommandName": [schemas[name]["allowed_commands"]["items"] for name in ("Ticket", "CommandAnswer")],
        "Step": [schemas["TicketEscalated"]["step"]["anyOf"][0]],
        "EventType": [
            schemas["NewEvent"]["type"],
            *(schemas[f"{one}Webhook"]["types"]["items"] for one in ("Create", "Change")),
        ],
    }
    where["EventType"] += [schemas[name]["types"]["items"] for name in ("WebhookView", "WebhookWithSecret")]
    for path, name, words in (("/v1/events", "type", "EventType"), ("/v1/reports/{metric}", "group_by", "GroupName")):
        (asked,) = [one for one in document["paths"][path]["get"]["parameters"] if one["name"] == name]
        where.setdefault(words, []).append(asked["schema"].get("items", asked["schema"]))
    for words, found in where.items():
        assert found == [{"$ref": f"#/components/schemas/{words}"}] * len(found), words
    assert document["components"]["schemas"]["CommandName"]["enum"] == list(PROCEDURE)


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
    ticket = openapi_document()["components"]["schemas"]["Ticket"]["properties"]
    time = {"type": "string", "format": "date-time"}
    assert ticket["created_at"] == time
    assert ticket["closed_at"]["anyOf"] == [time, {"type": "null"}]


def coded(status: int, answer: dict[str, Any]) -> set[tuple[str, str]]:
    """The codes of one status of the document."""
    name = answer["content"]["application/problem+json"]["schema"]["$ref"].rpartition("/")[2]
    schema = openapi_document()["components"]["schemas"][name]["properties"]["code"]
    return {(str(status), code) for code in schema.get("enum", [schema.get("const")])}


def test_every_code_is_in_the_document() -> None:
    """The document has each code of http.md with its status, and no other, but for those that no operation answers."""
    answers = openapi_document()["components"]["responses"].values()
    found = set()
    for answer in answers:
        name = answer["content"]["application/problem+json"]["schema"]["$ref"].rpartition("/")[2]
        status = openapi_document()["components"]["schemas"][name]["properties"]["status"]["enum"][0]
        found |= coded(status, answer)
    told = {("409", spans(code)[0]) for code, _ in lines("http.md", "Code", "Meaning")}
    told |= {(status, code) for status, said, *_ in lines("http.md", "Status", "Code") for code in spans(said)}
    nowhere = ("any other", "405", "408", "500", "501")
    assert found == {(status, code) for status, code in told if status not in nowhere}


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
