"""The schemas of the contract, made of the structs that decode and encode, and of the events.

What people and generated clients call a thing is here where the code has another name for it. `tidied` says what
msgspec leaves open, in words that every reader of OpenAPI 3.1 takes: the type of an enum, patterns as ECMA-262 has
them.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, get_args

import msgspec
from msgspec import inspect

from domain.client import EVENTS, EventType
from domain.events import Event
from domain.procedure import CommandName, Step
from projections.queries.ticket_view import EventView
from projections.reports.report_metrics import GroupName

JsonObject = dict[str, Any]
REFERENCE = "#/components/schemas/{name}"
NULL = {"type": "null"}
# A word that a client generator has for its own, or that says nothing beside a hundred others.
SCHEMA_NAMES = {
    "Answer": "CommandAnswer",
    "CreateTicket": "CreateTicketFromRequest",
    "Client": "DirectoryEntry",
    "ClientEntry": "DirectoryEntryWithTickets",
    "EventView": "DeskEvent",
    "Link": "TicketLink",
    "OpenTicket": "NewTicket",
    "TicketView": "Ticket",
}
NAMED_WORDS: dict[str, Sequence[str]] = {
    "CommandName": get_args(CommandName),
    "EventType": get_args(EventType),
    "Step": get_args(Step),
    "GroupName": get_args(GroupName),
}
NAME_OF_WORDS = {frozenset(words): name for name, words in NAMED_WORDS.items()}
# What says what was stored, and is not read again: its words are those of the contract all the same.
STORED_WORDS = (("WebhookView", "types"), ("WebhookWithSecret", "types"))
NULL_FOR_CLIENTS = ("impact", "urgency", "priority")  # in the data of events
JSON_TYPES = {str: "string", int: "integer", bool: "boolean"}


def component_schemas(wanted: Sequence[Any]) -> dict[str, JsonObject]:
    """The schemas by name. What an answer always has is required, also where its struct has a default for it."""
    _, schemas = msgspec.json.schema_components([*wanted, EventView, *EVENTS.values()], ref_template=REFERENCE)
    for struct in _structs_in(inspect.multi_type_info(wanted)):
        schema = schemas[struct.cls.__name__]
        properties = schema["properties"]
        if not struct.forbid_unknown_fields and not struct.cls.__struct_config__.omit_defaults:
            schema["required"] += [name for name in properties if "default" in properties[name]]
        for field in struct.fields:
            _format_times(field.type, properties[field.encode_name])
    for name, words in STORED_WORDS:
        if name in schemas:
            schemas[name]["properties"][words]["items"] = _named("EventType")
    schemas |= _event_schemas(schemas)
    schemas |= {name: {"type": "string", "enum": list(words)} for name, words in NAMED_WORDS.items()}
    return schemas


def called(name: str) -> str:
    """What the contract calls a struct."""
    return SCHEMA_NAMES.get(name, name)


def _named(name: str) -> JsonObject:
    return {"$ref": REFERENCE.format(name=name)}


def _structs_in(types: Iterable[inspect.Type]) -> list[inspect.StructType]:
    """The structs that types are made of, down to the last."""
    found: dict[type, inspect.StructType] = {}
    waiting = list(types)
    while waiting:
        match waiting.pop():
            case inspect.StructType() as struct if struct.cls not in found:
                found[struct.cls] = struct
                waiting += [field.type for field in struct.fields]
            case inspect.UnionType(types=types):
                waiting += types
            case inspect.ListType(item_type=item) | inspect.VarTupleType(item_type=item):
                waiting.append(item)
            case inspect.DictType(value_type=value):
                waiting.append(value)
    return list(found.values())


def _format_times(kind: inspect.Type, schema: JsonObject) -> None:
    """Says of times that they are times: msgspec does so only where it demands a time zone."""
    match kind:
        case inspect.DateTimeType():
            schema["format"] = "date-time"
        case inspect.UnionType(types=(inspect.DateTimeType(), inspect.NoneType())):
            schema["anyOf"][0]["format"] = "date-time"


def _event_schemas(schemas: dict[str, JsonObject]) -> dict[str, JsonObject]:
    """An event as one of many, told apart by `type`: of each type a schema, and one of its data."""
    shape = schemas[EventView.__name__]
    found: dict[str, JsonObject] = {}
    for type_, event in EVENTS.items():
        name = type_.replace(".", "")
        found[f"{name}Data"] = _data_schema(event, schemas.pop(event.__name__))
        found[name] = _of_type(shape, name, type_, event)
    mapping = {type_: REFERENCE.format(name=type_.replace(".", "")) for type_ in EVENTS}
    found[EventView.__name__] = {
        "description": shape["description"],
        "oneOf": [{"$ref": reference} for reference in mapping.values()],
        "discriminator": {"propertyName": "type", "mapping": mapping},
    }
    return found


def _of_type(shape: JsonObject, name: str, type_: str, event: type[Event]) -> JsonObject:
    """An event of one type."""
    own = {"type": {"type": "string", "enum": [type_]}, "data": {"anyOf": [_named(f"{name}Data"), NULL]}}
    trace = {"anyOf": [{"type": "string"}, NULL], "description": "The W3C trace; in what goes out to webhooks."}
    properties = {**shape["properties"], **own, "traceparent": trace}
    return {**shape, "title": name, "description": event.__doc__ or "", "properties": properties}


def _data_schema(event: type[Event], schema: JsonObject) -> JsonObject:
    """What an event says: all but what such an event leaves out is there, and null where its reader does not see it."""
    properties = {
        name: {"anyOf": [one, NULL]} if name in NULL_FOR_CLIENTS else one for name, one in schema["properties"].items()
    }
    omits = event.__struct_config__.omit_defaults
    required = schema.get("required", []) if omits else list(properties)
    return {**schema, "title": f"{schema['title']}Data", "properties": properties, "required": required}


def tidied(part: Any) -> Any:
    """A part of the document in plain words: see the head of this file."""
    match part:
        case {"$ref": str() as reference}:
            if reference.startswith(REFERENCE.format(name="")):
                return _named(called(reference.rpartition("/")[2]))
            return {"$ref": reference}
        case {"enum": [*words]} if "type" not in part and (name := NAME_OF_WORDS.get(frozenset(words))):
            return _named(name)
        case Mapping():
            return _typed({name: tidied(each) for name, each in part.items()})
        case list():
            return [tidied(each) for each in part]
    return part


def _typed(schema: JsonObject) -> JsonObject:
    """A schema with its type, with a pattern that fits in any language, and without a default that is not one."""
    match schema:
        case {"anyOf": [*kinds]} if all(one.keys() == {"type"} for one in kinds):
            schema = {**schema, "type": [one["type"] for one in schema.pop("anyOf")]}
        case {"enum": [first, *_]} if "type" not in schema:
            schema = {"type": JSON_TYPES[type(first)], **schema}
        case {"pattern": str() as pattern}:
            schema["pattern"] = as_ecma(pattern)
        case {"type": "object", "properties": dict() as properties}:
            schema["properties"] = {name: _without_default(one) for name, one in properties.items()}
    return schema


def as_ecma(pattern: str) -> str:
    """A pattern without what is Python's alone."""
    return pattern.replace(r"\Z", "$")


def _without_default(schema: Any) -> Any:
    """A property without a default: generators take it for one that is always there. In words it stays."""
    if not isinstance(schema, dict) or "default" not in schema:
        return schema
    default = schema.pop("default")
    return schema if default in (None, [], {}) else {**schema, "description": f"Left out, it is {default!r}."}
