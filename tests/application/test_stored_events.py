"""The storage format: what was written once is read for ever, whatever the code is called by then."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import pytest

from application.store.event_store import StoredRow, to_recorded, to_row
from domain import events as e
from domain.client import CLIENT_EVENTS, EVENTS, ContactChanged, Registered, client_stream
from domain.ticket import fold
from domain.values import Actor, Channel, DossierEntry, Grade, Level, Relation, Role, Sender, State, Visibility

GOLDEN = Path(__file__).parents[1] / "golden" / "stream.json"
LINES = [line.rstrip(b",") for line in GOLDEN.read_bytes().splitlines() if line.startswith(b'{"at"')]
STREAMS = {"ticket": UUID("0190f3a0-0000-7000-8000-00000000000a"), "client": client_stream("client-a")}
SHA256 = "9d6b8e786682da5785420cc38a9630ca517b6433131588efbcb511e38019ef23"
ENTRY = DossierEntry(1, "2026-11-02T09:01:00.000000Z", "Client Ä", Role.CLIENT, "one⏎two", None)
INTAKE, ADMIN, DESK, CLIENT, QUALITY = (
    Actor(name, name, role)
    for name, role in [
        ("intake-desk", Role.INTAKE),
        ("admin", Role.ADMIN),
        ("desk", Role.SYSTEM),
        ("client-a", Role.CLIENT),
        ("quality-desk", Role.QUALITY),
    ]
)
TIER1, TIER2, TIER3, ONSITE, NOC = (
    Actor(f"agent-{level}", f"agent-{level}", Role.AGENT) for level in Level if level is not Level.IT_MANAGER
)
MANAGER = Actor("it-manager", "it-manager", Role.IT_MANAGER)
L = Level

# What the golden file says: event, actor, and the ticket's level after it.
WRITTEN: list[tuple[e.Event, Actor, Level | None]] = [
    (
        e.RequestReceived(Channel.WALK_IN, "The printer is silent.", Sender("Client Ä", "a@example.org", "+000")),
        INTAKE,
        None,
    ),
    (e.ClientIdentified("client-a", "Client Ä"), INTAKE, None),
    (e.Created("T-000001"), INTAKE, None),
    (
        e.IssueDocumented("No print", 'It does "not" print.\nNot at all.', "printing", Grade.MEDIUM, Grade.HIGH, 2),
        INTAKE,
        None,
    ),
    (e.Routed(L.TIER1), INTAKE, L.TIER1),
    (e.Assigned("agent-tier1"), TIER1, L.TIER1),
    (e.NoteAdded("seen", Visibility.INTERNAL), TIER1, L.TIER1),
    (e.ClientAwaited("the model"), TIER1, L.TIER1),
    (e.ClientResponded("It is the old one."), CLIENT, L.TIER1),
    (e.PriorityChanged(Grade.LOW, Grade.HIGH, 3, "one user only"), TIER1, L.TIER1),
    (e.Released("agent-tier1"), TIER1, L.TIER1),
    (e.Linked(UUID("0190f3a0-0000-7000-8000-00000000000b"), Relation.RELATED_TO), INTAKE, L.TIER1),
    (e.Escalated(L.TIER1, L.TIER2, "needs more skill"), TIER1, L.TIER2),
    (e.Qualified(L.TIER2, False, "not known"), TIER2, L.TIER2),
    (e.DossierCompiled("all levels tried", SHA256, 14, ("1. first", "2. zweitens – ä")), MANAGER, L.IT_MANAGER),
    (e.ClientDeclined(SHA256, Channel.PHONE, "too dear"), CLIENT, L.IT_MANAGER),
    (e.ClientApproved(SHA256, Channel.EMAIL), CLIENT, L.IT_MANAGER),
    (e.ReturnedToLevel(L.NOC, L.IT_MANAGER, "no network matter"), NOC, L.IT_MANAGER),
    (e.Resolved(L.TIER3, "cable replaced"), TIER3, L.TIER3),
    (e.QCFailed(L.TIER3, Channel.WEB, "it jams"), QUALITY, L.TIER3),
    (e.QCVerified(L.ONSITE, Channel.API, "It prints."), QUALITY, L.ONSITE),
    (e.ResolutionDocumented(L.ONSITE, "worn cable", "replaced", "test page"), ONSITE, L.ONSITE),
    (e.Closed(L.ONSITE), QUALITY, L.ONSITE),
    (e.ClosureEmailFailed(23, "<23@desk>", 3, "550 no such user"), DESK, L.ONSITE),
    (e.ClosureEmailSent(23, "<23@desk>", 1), DESK, L.ONSITE),
    (e.Reopened(L.ONSITE, "it came back"), CLIENT, L.ONSITE),
    (e.Cancelled("not needed"), CLIENT, L.ONSITE),
    (e.RequestReceived(Channel.EMAIL, "help"), INTAKE, None),
    (e.RequestReceived(Channel.WEB, "help", Sender("walk-in", None, None)), INTAKE, None),
    (e.Released("agent-tier1", "the API key has ended"), DESK, L.TIER1),
    (e.Reopened(L.ONSITE, "it came back", Channel.PHONE), QUALITY, L.ONSITE),
    (e.ClientCorrected("client-b", "Client B", "a colleague"), INTAKE, L.TIER1),
    (e.IssueAmended("another floor", "No print", "It does not.", "printing"), TIER1, L.TIER1),
    (e.IssueAmended("another kind", category="paper"), TIER1, L.TIER1),
    (Registered("client-a", "Client Ä", "a@example.org", "+000", "Org A"), ADMIN, None),
    (ContactChanged("client-a", "Client Ä", "b@example.org"), INTAKE, None),
    (e.DossierCompiled("with entries", SHA256, 1, (), (ENTRY,)), MANAGER, L.IT_MANAGER),
]
NAMES = {
    "Ticket.RequestReceived",
    "Ticket.ClientIdentified",
    "Ticket.Created",
    "Ticket.IssueDocumented",
    "Ticket.Routed",
    "Ticket.Assigned",
    "Ticket.Released",
    "Ticket.Qualified",
    "Ticket.Escalated",
    "Ticket.Resolved",
    "Ticket.QCVerified",
    "Ticket.QCFailed",
    "Ticket.ResolutionDocumented",
    "Ticket.Closed",
    "Ticket.ClosureEmailSent",
    "Ticket.ClosureEmailFailed",
    "Ticket.DossierCompiled",
    "Ticket.ClientApproved",
    "Ticket.ClientDeclined",
    "Ticket.ReturnedToLevel",
    "Ticket.NoteAdded",
    "Ticket.PriorityChanged",
    "Ticket.ClientAwaited",
    "Ticket.ClientResponded",
    "Ticket.Cancelled",
    "Ticket.Reopened",
    "Ticket.Linked",
    "Ticket.ClientCorrected",
    "Ticket.IssueAmended",
    "Client.Registered",
    "Client.ContactChanged",
}


WORDS = {
    Level: "tier1 tier2 tier3 onsite it_manager noc",
    Channel: "email phone web walk_in api",
    Grade: "low medium high",
    Visibility: "internal client",
    Relation: "duplicate_of follow_up_of related_to",
    Role: "intake agent quality it_manager client auditor reporter admin system",
}


def part(line: bytes, key: str, next_key: str) -> bytes:
    """The bytes of one value of a golden line, as they stand there."""
    return line.partition(f'"{key}":'.encode())[2].rpartition(f',"{next_key}":'.encode())[0]


def read(line: bytes) -> e.Recorded:
    """A golden line, read as a row of the table."""
    told: dict[str, Any] = json.loads(line)
    at = datetime.fromisoformat(told["at"])
    body, meta = part(line, "body", "meta"), part(line, "meta", "stream")
    return to_recorded(STREAMS[told["stream"]], told["version"], at, told["type"], body, meta)


def written(number: int) -> e.Recorded:
    """What a golden line says, in the words of today's code."""
    event, actor, level = WRITTEN[number]
    stream, version = (
        ("ticket", number + 1) if number < 34 else ("client", number - 33) if number < 36 else ("ticket", 30)
    )
    at = datetime(2026, 11, 2, 9, 0, tzinfo=UTC) + timedelta(minutes=version, microseconds=42 * (number == 25))
    trace = ("journey-1", "command-3", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
    recorded = e.Recorded(STREAMS[stream], version, at, actor, event, level=level)
    return msgspec.structs.replace(recorded, **dict(zip(TRACE, trace, strict=True))) if number == 2 else recorded


TRACE = ("correlation_id", "causation_id", "traceparent")


@pytest.mark.parametrize("number", range(len(LINES)))
def test_what_was_stored_is_still_read(number: int):
    """A stored event is read as exactly the event that was written, with all that was recorded beside it."""
    assert read(LINES[number]) == written(number)
    assert read(LINES[number]).type == json.loads(LINES[number])["type"]


@pytest.mark.parametrize("number", range(len(LINES)))
def test_what_is_stored_has_not_changed_by_a_byte(number: int):
    """The same event is stored in the same bytes as ever: canonical JSON, keys sorted, no blanks, UTF-8."""
    row, line = to_row(written(number)), LINES[number]
    assert isinstance(row, StoredRow)
    assert row.state == part(line, "body", "meta")
    assert row.meta == part(line, "meta", "stream")
    assert (row.topic, row.originator_version) == (json.loads(line)["type"], json.loads(line)["version"])
    assert row.originator_id == STREAMS[json.loads(line)["stream"]]
    assert row.at.isoformat(timespec="microseconds").replace("+00:00", "Z") == json.loads(line)["at"]


def test_the_golden_file_is_canonical():
    """Another JSON library makes the same bytes of the golden lines: the format is not one library's habit."""
    for line in LINES:
        told = json.loads(line)
        assert json.dumps(told, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode() == line


def test_every_stored_name_is_in_the_golden_file():
    """Every name of either table is in the golden file, and the names are these and no others, for ever."""
    assert {json.loads(line)["type"] for line in LINES} == NAMES
    assert e.TICKET_EVENTS.keys() | CLIENT_EVENTS.keys() == EVENTS.keys() == NAMES
    assert len(LINES) == len(WRITTEN) == 37
    assert json.loads(GOLDEN.read_bytes()) == {
        "ticket": str(STREAMS["ticket"]),
        "client": str(STREAMS["client"]),
        "events": [json.loads(line) for line in LINES],
    }


def test_a_name_belongs_to_one_class():
    """Each class is stored under the one name under which the table has it."""
    assert {name: event.stored_as for name, event in EVENTS.items()} == {name: name for name in NAMES}
    assert len(set(EVENTS.values())) == len(NAMES)


@pytest.mark.parametrize("kind", WORDS, ids=lambda kind: kind.__name__)
def test_the_words_inside_the_events_are_the_same_for_ever(kind: type[Level]):
    """Levels, channels, grades and roles are stored as these words: none is renamed, none is taken away."""
    assert [str(word) for word in kind] == WORDS[kind].split()


@pytest.mark.parametrize("number", range(len(LINES)))
def test_renaming_a_class_or_moving_a_module_changes_no_stored_byte(number: int):
    """The stored name is a literal: a class under another name in another module is stored in the same bytes."""
    recorded = written(number)
    event = type(recorded.event)
    fields = [(f.name, f.type) if f.required else (f.name, f.type, f.default) for f in msgspec.structs.fields(event)]
    namespace = {"stored_as": event.stored_as}
    omits = event.__struct_config__.omit_defaults
    config = {"module": "elsewhere", "namespace": namespace, "frozen": True, "omit_defaults": omits}
    moved = msgspec.defstruct("Renamed", fields, bases=(e.Event,), **config)
    again = moved(*msgspec.structs.astuple(recorded.event))
    assert (moved.__name__, moved.__module__) == ("Renamed", "elsewhere")
    assert to_row(msgspec.structs.replace(recorded, event=again)) == to_row(recorded)


def test_a_row_without_the_later_fields_is_read():
    """What was stored before a field was added is read with the field's default."""
    recorded = to_recorded(
        STREAMS["ticket"],
        1,
        datetime(2026, 11, 2, tzinfo=UTC),
        "Ticket.RequestReceived",
        b'{"channel":"web","text":"help","added_by_a_later_release":1}',
        b'{"actor":{"id":"intake-desk","name":"intake-desk","role":"intake"}}',
    )
    assert recorded.event == e.RequestReceived(Channel.WEB, "help", None)
    assert (recorded.correlation_id, recorded.causation_id, recorded.traceparent) == (None, None, None)
    assert recorded.level is None
    assert recorded == e.Recorded(STREAMS["ticket"], 1, recorded.at, INTAKE, recorded.event)


def test_an_event_shows_its_fields_as_plain_json():
    """The body of an event is its own fields as plain JSON types, under its stored name."""
    recorded = written(11)
    assert recorded.type == "Ticket.Linked"
    body = msgspec.to_builtins(recorded.event)
    assert body == {"other_ticket_id": "0190f3a0-0000-7000-8000-00000000000b", "relation": "related_to"}
    assert type(body["relation"]) is str


def test_the_golden_ticket_folds():
    """The golden events still make a ticket: evolution asks for no lawful order."""
    ticket = fold(map(read, LINES[:27]))
    assert (ticket.state, ticket.version, ticket.number) == (State.CANCELLED, 27, "T-000001")
