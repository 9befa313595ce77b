"""The contract as an OpenAPI 3.1 document: the table of endpoints, and the schemas of the structs that it names."""

from collections.abc import Iterable
from functools import cache
from importlib.metadata import version
from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType, inspect

from api.http.paging import encode
from api.http.problems import MEDIA_TYPE
from api.openapi import error_codes
from api.openapi.descriptions import API_DESCRIPTION, PARAMETERS
from api.openapi.header_table import GIVEN, TAKEN, Header
from api.openapi.operation import Endpoint, ResponseSpec
from api.openapi.operation_examples import answer_example, body_example, openapi_link, other_examples
from api.openapi.operations import ENDPOINTS, TAGS
from application.commands.text_types import USER_ID_PATTERN
from projections.queries.ticket_view import EventView
from projections.reports.report_metrics import REPORT_METRICS

JsonObject = dict[str, Any]
REFERENCE = "#/components/schemas/{name}"
IN_PATH: dict[str, JsonObject] = {
    "ticket_id": {"type": "string", "format": "uuid"},
    "queue": {"$ref": "#/components/schemas/Queue"},
    "webhook_id": {"type": "string", "format": "uuid"},
    "metric": {"type": "string", "enum": [metric.name for metric in REPORT_METRICS]},
    "user_id": {"type": "string", "minLength": 1, "maxLength": 200, "pattern": USER_ID_PATTERN},
}
VERSIONED_OPERATIONS = {endpoint.name for endpoint in ENDPOINTS if "If-Match" in endpoint.needs}
REFUSAL_HEADERS = {401: ("WWW-Authenticate",), 405: ("Allow",), 429: ("Retry-After",), 503: ("Retry-After",)}


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


POINTERS = ("errors", list[ProblemPointer] | UnsetType, UNSET)
MEMBERS: dict[int, list[tuple[str, Any, Any]]] = {
    400: [POINTERS],
    409: [("step", str | UnsetType | None, UNSET), ("allowed_commands", list[str] | UnsetType, UNSET)],
    412: [("current_version", int | UnsetType, UNSET), ("missed_events", list[EventView] | UnsetType, UNSET)],
    422: [POINTERS],
}


@cache
def openapi_document() -> JsonObject:
    """The whole contract. It is the same in every process, so it is made once in each."""
    codes = error_codes.together(error_codes.ELSEWHERE, *(endpoint.problems for endpoint in ENDPOINTS))
    refusals = {status: _problem_struct(status, codes[status]) for status in codes}
    schemas = _schemas([*refusals.values(), *_structs()])
    paths: dict[str, JsonObject] = {}
    for endpoint in ENDPOINTS:
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = _operation(endpoint, schemas)
    for endpoint in ENDPOINTS:
        schemas.pop(endpoint.query.__name__, None)  # what a query asks stands in its parameters
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Deskledger",
            "version": version("deskledger"),
            "description": API_DESCRIPTION,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [{"bearer": []}],
        "tags": [{"name": name, "description": description} for name, description in TAGS.items()],
        "paths": paths,
        "components": {
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
            "schemas": schemas,
            "responses": {error_codes.named(status): _refusal(status, codes[status]) for status in codes},
            "headers": {name: _header(GIVEN[name]) for name in GIVEN},
        },
    }


@cache
def encoded() -> bytes:
    """The document as it goes over the wire."""
    return encode(openapi_document())


def _structs() -> Iterable[Any]:
    for endpoint in ENDPOINTS:
        yield endpoint.query
        if endpoint.body:
            yield endpoint.body
        for reply in endpoint.replies:
            yield from (reply.shape, *reply.others.values())


def _problem_struct(status: int, codes: tuple[str, ...]) -> Any:
    """The problems of one status: `code` is one of those that there are, and the members are those that help there."""
    members = [("status", Literal[status]), ("code", Literal[codes]), *MEMBERS.get(status, ())]
    doc = f"A problem with status {status}."
    return msgspec.defstruct(
        f"{error_codes.named(status)}Problem",
        members,
        bases=(ProblemDocument,),
        namespace={"__doc__": doc},
        kw_only=True,
    )


def _schemas(shapes: Iterable[Any]) -> dict[str, JsonObject]:
    """The schemas by name. What an answer always has is required, also where its struct has a default for it."""
    wanted = list(dict.fromkeys(shape for shape in shapes if shape is not None))
    _, schemas = msgspec.json.schema_components(wanted, ref_template=REFERENCE)
    for shape in _told(inspect.multi_type_info(wanted)):
        _date(shape, schemas[shape.__name__]["properties"])
        if not shape.__struct_config__.forbid_unknown_fields and not shape.__struct_config__.omit_defaults:
            fields = msgspec.structs.fields(shape)
            schemas[shape.__name__]["required"] = [one.encode_name for one in fields if one.default is not UNSET]
    return {name: schemas[name] for name in sorted(schemas)}


def _date(shape: Any, properties: JsonObject) -> None:
    """Says of times that they are times: msgspec does so only where it demands a time zone."""
    for field in inspect.type_info(shape).fields:  # type: ignore[attr-defined]
        kinds = field.type.types if isinstance(field.type, inspect.UnionType) else (field.type,)
        if any(isinstance(kind, inspect.DateTimeType) for kind in kinds):
            schema = properties[field.encode_name]
            next(one for one in schema.get("anyOf", [schema]) if one.get("type") == "string")["format"] = "date-time"


def _told(types: Iterable[Any]) -> set[Any]:
    """The structs that types are made of, down to the last."""
    found: set[Any] = set()
    waiting = list(types)
    while waiting:
        match waiting.pop():
            case inspect.StructType(cls=cls, fields=fields) if cls not in found:
                found.add(cls)
                waiting += [field.type for field in fields]
            case inspect.UnionType(types=types):
                waiting += types
            case inspect.ListType(item_type=item) | inspect.VarTupleType(item_type=item):
                waiting.append(item)
            case inspect.DictType(value_type=value):
                waiting.append(value)
    return found


def _operation(endpoint: Endpoint, schemas: dict[str, JsonObject]) -> JsonObject:
    who = "\n\nWho may: " + "; ".join(endpoint.who) + "." if endpoint.who else "\n\nNo key is needed."
    names = [part[1:-1] for part in endpoint.path.replace(":", "/").split("/") if part.startswith("{")]
    parameters = [_parameter("path", name, IN_PATH[name]) for name in names]
    parameters += [_parameter("query", *asked) for asked in schemas[endpoint.query.__name__]["properties"].items()]
    parameters += [_taken(name, name in endpoint.needs) for name in endpoint.headers]
    operation: JsonObject = {
        "operationId": endpoint.name,
        "tags": [endpoint.tag],
        "summary": endpoint.summary,
        "description": endpoint.says + who,
        "parameters": parameters,
        "responses": {
            **{str(reply.status): _reply(endpoint, reply) for reply in endpoint.replies},
            **{str(status): _refused(status) for status in endpoint.problems},
        },
    }
    if not endpoint.who:
        operation["security"] = []
    if endpoint.body:
        name = endpoint.body.__name__
        content = {"schema": {"$ref": f"#/components/schemas/{name}"}, "examples": body_example(endpoint)}
        required = bool(schemas[name]["required"])
        operation["requestBody"] = {"required": required, "content": {"application/json": content}}
    return operation


def _parameter(where: str, name: str, schema: JsonObject) -> JsonObject:
    """A parameter; null is for bodies: in an address a parameter is there or not."""
    schema = dict(schema)
    if schema.get("default", ...) is None:
        del schema["default"]
    if "anyOf" in schema:
        kinds = [kind for kind in schema.pop("anyOf") if kind != {"type": "null"}]
        schema |= kinds[0] if len(kinds) == 1 else {"anyOf": kinds}
    more = {"required": True} if where == "path" else {}
    return {"name": name, "in": where, "description": PARAMETERS[name], **more, "schema": schema}


def _taken(name: str, required: bool) -> JsonObject:
    header = TAKEN[name]
    parameter = {"description": header.says, "required": required, "schema": header.schema, "example": header.example}
    return {"name": name, "in": "header", **parameter}


def _reply(endpoint: Endpoint, reply: ResponseSpec) -> JsonObject:
    response: JsonObject = {"description": reply.says, "headers": _all_given(reply.headers, bool(endpoint.who))}
    if reply.shape is not None:
        example = answer_example(endpoint, reply)
        response["content"] = {
            reply.media: {"schema": _shape(reply.shape), **({"example": example} if example else {})}
        }
        for media, shape in reply.others.items():
            response["content"][media] = {"schema": _shape(shape), "example": other_examples()[endpoint.name, media]}
    if endpoint.leads_to and reply.shape is not None:
        response["links"] = {
            name: openapi_link(endpoint, name, name in VERSIONED_OPERATIONS) for name in endpoint.leads_to
        }
    return response


def _shape(shape: Any) -> JsonObject:
    (schema,), _ = msgspec.json.schema_components([shape], ref_template=REFERENCE)
    return schema


def _all_given(names: Iterable[str], limited: bool) -> JsonObject:
    """The headers of an answer; every one has its name in the logs, and what is left where there is a limit."""
    more = ("X-Request-Id", *(("RateLimit", "RateLimit-Policy") if limited else ()))
    return {name.rstrip("?"): _given(name) for name in (*names, *more)}


def _given(name: str) -> JsonObject:
    if name.endswith("?"):
        return {**_header(GIVEN[name[:-1]]), "required": False}
    return {"$ref": f"#/components/headers/{name}"}


def _header(header: Header) -> JsonObject:
    return {
        "description": header.says,
        "required": header.always,
        "schema": header.schema,
        "example": header.example,
    }


def _refused(status: int) -> JsonObject:
    return {"$ref": f"#/components/responses/{error_codes.named(status)}"}


def _refusal(status: int, codes: tuple[str, ...]) -> JsonObject:
    name = error_codes.named(status)
    response: JsonObject = {
        "description": "`" + "`, `".join(codes) + "`",
        "headers": _all_given(REFUSAL_HEADERS.get(status, ()), limited=True),
    }
    return {**response, "content": {MEDIA_TYPE: {"schema": {"$ref": f"#/components/schemas/{name}Problem"}}}}
