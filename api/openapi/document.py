"""The contract as an OpenAPI 3.1 document: the table of endpoints, and the schemas of the structs that it names."""

from collections.abc import Iterable
from functools import cache
from importlib.metadata import version
from typing import Any, Literal
from uuid import UUID

import msgspec
from msgspec import UNSET, UnsetType

from api.http.paging import JSON
from api.http.problems import MEDIA_TYPE, phrase
from api.http.resources.closure_mail_resources import MessageId
from api.openapi.body_examples import BODY_EXAMPLES
from api.openapi.descriptions import API_DESCRIPTION, PARAMETERS
from api.openapi.error_codes import ELSEWHERE, named, together
from api.openapi.header_table import GIVEN, TAKEN
from api.openapi.operation import Endpoint, content
from api.openapi.operations import ENDPOINTS, TAGS
from api.openapi.schemas import REFERENCE, JsonObject, called, component_schemas, tidied
from application.commands.text_types import UserId
from application.webhooks.delivery import WebhookPing
from domain.procedure import CommandName, Step
from domain.values import Queue
from projections.queries.ticket_view import EventView
from projections.reports.report_metrics import REPORT_METRICS

IN_PATH: dict[str, Any] = {
    "ticket_id": UUID,
    "queue": Queue,
    "message_id": MessageId,
    "webhook_id": UUID,
    "metric": Literal[tuple(metric.name for metric in REPORT_METRICS)],
    "user_id": UserId,
}
REFUSAL_HEADERS = {401: ("WWW-Authenticate",), 429: ("Retry-After",), 503: ("Retry-After",)}
# Which statuses have a member that the others have not.
HELPFUL_MEMBERS = {
    "errors": (400, 422),
    "step": (409,),
    "allowed_commands": (409,),
    "current_version": (412,),
    "missed_events": (412,),
}


class ProblemPointer(msgspec.Struct, frozen=True):
    """What is wrong in a request: a JSON pointer into the body or to a parameter, and what to do about it."""

    pointer: str
    detail: str


class ProblemDocument(msgspec.Struct, frozen=True):
    """An error, as RFC 9457 has it; `code` is its stable name, and `detail` says what to do."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    code: str
    request_id: str | UnsetType = UNSET
    trace_id: str | UnsetType = UNSET
    errors: list[ProblemPointer] | UnsetType = UNSET
    step: Step | UnsetType | None = UNSET
    allowed_commands: list[CommandName] | UnsetType = UNSET
    current_version: int | UnsetType = UNSET
    missed_events: list[EventView] | UnsetType = UNSET


@cache
def openapi_document() -> JsonObject:
    """The whole contract. It is the same in every process, so it is made once in each."""
    answered = together(endpoint.problems for endpoint in ENDPOINTS)
    codes = {status: both for status, both in together([ELSEWHERE, answered]).items() if status in answered}
    schemas = _schemas()
    problem = schemas.pop(ProblemDocument.__name__)
    schemas |= {f"{named(status)}Problem": _problem(problem, status, codes[status]) for status in codes}
    paths: dict[str, JsonObject] = {}
    for endpoint in ENDPOINTS:
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = _operation(endpoint, schemas)
    document = {
        "openapi": "3.1.0",
        "info": {
            "title": "Deskledger",
            "version": version("deskledger"),
            "description": API_DESCRIPTION,
            "contact": {"name": "Whoever runs this desk"},
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [{"bearer": []}],
        "tags": [{"name": name, "description": description} for name, description in TAGS.items()],
        "paths": paths,
        "components": {
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
            "schemas": {called(name): {**schema, "title": called(name)} for name, schema in schemas.items()},
            "responses": {named(status): _refusal(status, codes[status]) for status in codes},
            "headers": GIVEN,
        },
    }
    return {name: tidied(part) for name, part in document.items()}


def _schemas() -> dict[str, JsonObject]:
    """The schemas by the names of their structs: of every body, every answer and every problem."""
    wanted: list[Any] = [ProblemDocument, WebhookPing]
    for endpoint in ENDPOINTS:
        wanted += [endpoint.body] if endpoint.body else []
        wanted += [shape for answer in endpoint.answers.values() for shape in content(answer).values()]
    return component_schemas(wanted)


def _problem(document: JsonObject, status: int, codes: tuple[str, ...]) -> JsonObject:
    """The problems of one status: `code` is one of those that there are, and the members are those that help there."""
    members = document["properties"]
    shown = {name: members[name] for name in members if status in HELPFUL_MEMBERS.get(name, (status,))}
    shown |= {"status": {"enum": [status]}, "code": {"enum": list(codes)}}
    title = f"{named(status)}Problem"
    return {**document, "title": title, "description": f"A problem with status {status}.", "properties": shown}


def _operation(endpoint: Endpoint, schemas: dict[str, JsonObject]) -> JsonObject:
    who = "\n\nWho may: " + "; ".join(endpoint.who) + "." if endpoint.who else "\n\nNo key is needed."
    operation: JsonObject = {
        "operationId": endpoint.name,
        "tags": [endpoint.heading],
        "summary": endpoint.name.replace("_", " ").capitalize(),
        "description": endpoint.says + who,
        "parameters": _parameters(endpoint),
        "responses": {
            **{str(status): _reply(endpoint, status) for status in endpoint.answers},
            **{str(status): {"$ref": f"#/components/responses/{named(status)}"} for status in endpoint.problems},
        },
    }
    if not endpoint.who:
        operation["security"] = []
    if endpoint.callbacks:
        operation["callbacks"] = endpoint.callbacks
    if endpoint.body:
        name = endpoint.body.__name__
        body = {"schema": _schema(endpoint.body), "example": BODY_EXAMPLES.get(name, {})}
        required = bool(schemas[name]["required"])
        operation["requestBody"] = {"required": required, "content": {JSON: body}}
    return operation


def _parameters(endpoint: Endpoint) -> list[JsonObject]:
    _, schemas = msgspec.json.schema_components([endpoint.query], ref_template=REFERENCE)
    asked = schemas[endpoint.query.__name__]["properties"]
    parameters = [_parameter("path", name, _schema(IN_PATH[name])) for name in endpoint.path_parameters]
    parameters += [_parameter("query", name, asked[name]) for name in asked]
    for name in endpoint.request_headers:
        parameters.append({"name": name, "in": "header", **TAKEN[name], "required": name in endpoint.needs})
    return parameters


def _parameter(where: str, name: str, schema: JsonObject) -> JsonObject:
    """A parameter; null is for bodies: in an address a parameter is there or not."""
    schema = dict(schema)
    if schema.get("default", ...) is None:
        del schema["default"]
    if "anyOf" in schema:
        kinds = [kind for kind in schema.pop("anyOf") if kind != {"type": "null"}]
        schema |= kinds[0] if len(kinds) == 1 else {"anyOf": kinds}
    parameter = {"name": name, "in": where, "description": PARAMETERS[name], "required": where == "path"}
    if schema.get("type") == "array":
        return parameter | {"style": "form", "explode": False, "schema": schema | {"uniqueItems": True}}
    return parameter | {"schema": schema}


def _reply(endpoint: Endpoint, status: int) -> JsonObject:
    own_headers = endpoint.response_headers if status != 204 else ()
    response = {"description": phrase(status), "headers": _headers(own_headers, bool(endpoint.who))}
    shapes = content(endpoint.answers[status])
    if shapes:
        response["content"] = {media: {"schema": _schema(shapes[media])} for media in shapes}
    return response


def _schema(shape: Any) -> JsonObject:
    (schema,), _ = msgspec.json.schema_components([shape], ref_template=REFERENCE)
    return schema


def _headers(names: Iterable[str], limited: bool) -> JsonObject:
    """The headers of an answer; every one has its name in the logs, and what is left where there is a limit."""
    more = ("X-Request-Id", *(("RateLimit", "RateLimit-Policy") if limited else ()))
    return {name.rstrip("?"): _given(name) for name in (*names, *more)}


def _given(name: str) -> JsonObject:
    if name.endswith("?"):
        return {**GIVEN[name.rstrip("?")], "required": False}
    return {"$ref": f"#/components/headers/{name}"}


def _refusal(status: int, codes: tuple[str, ...]) -> JsonObject:
    return {
        "description": "`" + "`, `".join(codes) + "`",
        "headers": _headers(REFUSAL_HEADERS.get(status, ()), limited=True),
        "content": {MEDIA_TYPE: {"schema": {"$ref": f"#/components/schemas/{named(status)}Problem"}}},
    }
