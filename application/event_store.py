"""The event store: rows, the mapper, and the SQL of load and append, which stands here once.

An append takes no table lock and sends no NOTIFY: the primary key (stream, version) is the optimistic lock, commits run
side by side, and the sealer gives the committed events their position (`application/sealing.py`).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from hashlib import sha256
from typing import Any, LiteralString
from uuid import UUID

import msgspec
from eventsourcing.persistence import Mapper, StoredEvent

from application.arrays import Packed, blobs, ints, texts, times, utf8, uuids
from domain.client import EVENTS
from domain.events import Event, Recorded
from domain.values import Actor, Level

LOAD: LiteralString = """
    select stream_id, version, at, type, body::text, meta::text
    from events where stream_id = any(%s) order by stream_id, version"""

# The events of streams, and behind them so many new ticket numbers.
LOAD_AND_NUMBERS: LiteralString = """
    select stream_id, version, at, type, body::text, meta::text, null as number from events where stream_id = any(%s)
    union all
    select null, null, null, null, null, null, 'T-' || lpad(number, greatest(6, length(number)), '0')
    from (select nextval('ticket_numbers')::text as number from generate_series(1, %s::int)) drawn
    order by stream_id, version, number"""

APPEND: LiteralString = """
    with xid as materialized (select pg_current_xact_id()),  -- before nextval: the sealer proves holes dead by it
    given as materialized (
        select * from unnest(%b::uuid[], %b::int[], %b::int[], %b::timestamptz[], %b::text[], %b::text[]::jsonb[],
                             %b::bytea[], %b::text[]::jsonb[], %b::bytea[])
        as given(stream_id, version, first, at, type, body, private, meta, leaf)),
    kept as materialized (
        select * from unnest(%b::uuid[], %b::text[], %b::text[], %b::bytea[], %b::bytea[])
        as kept(stream_id, principal, key, request_hash, answer)),
    done as materialized (  -- before, under the same key: "offset 0" keeps it a look-up by the primary key for each
        select stream_id from kept join lateral (
            select from idempotency where principal = kept.principal and key = kept.key offset 0) known on true),
    heads as (  -- the first event of a command decides whether all of it is recorded
        insert into events (ord, stream_id, version, at, type, body, private, meta, leaf)
        select nextval('events_ord'), sorted.* from xid, (
            select stream_id, version, at, type, body, private, meta, leaf from given
            where version = first and stream_id not in (select stream_id from done)
            order by stream_id) sorted  -- one order for all, so that two batches cannot deadlock
        on conflict (stream_id, version) do nothing
        returning stream_id),
    rest as (
        insert into events (ord, stream_id, version, at, type, body, private, meta, leaf)
        select nextval('events_ord'), sorted.* from (
            select stream_id, version, at, type, body, private, meta, leaf from given join heads using (stream_id)
            where version > first order by stream_id, version) sorted),
    keys as (
        insert into idempotency (principal, key, request_hash, answer, at)
        select principal, key, request_hash, answer, now() from kept join heads using (stream_id)
        -- in the order of `insert_parameters`; a clash is a command that is under way elsewhere: it fails the batch
        order by principal collate "C", key collate "C")
    select stream_id from heads"""

# The events of commands, all of them or none: any conflict fails it. Cheaper than `APPEND`, which lets the others win.
_OWN: LiteralString = """
    with own as materialized (select pg_current_xact_id())"""  # before nextval, here too
_KEEP: LiteralString = """,
    keys as (
        insert into idempotency (principal, key, request_hash, answer, at)
        select unnest(%b::text[]), unnest(%b::text[]), unnest(%b::bytea[]), unnest(%b::bytea[]), now())"""
_INSERT: LiteralString = """
    insert into events (ord, stream_id, version, at, type, body, private, meta, leaf)
    select nextval('events_ord'), stream_id, version, at, type, body::jsonb, private, meta::jsonb, leaf
    from own, (  -- side by side, row by row: "from unnest(...)" would first write every column down
        select unnest(%b::uuid[]) as stream_id, unnest(%b::int[]) as version, unnest(%b::timestamptz[]) as at,
               unnest(%b::text[]) as type, unnest(%b::text[]) as body, unnest(%b::bytea[]) as private,
               unnest(%b::text[]) as meta, unnest(%b::bytea[]) as leaf) as given"""
INSERT: LiteralString = _OWN + _INSERT
INSERT_AND_KEEP: LiteralString = _OWN + _KEEP + _INSERT


Json = str | bytes


class Meta(msgspec.Struct, frozen=True, omit_defaults=True):
    """What an event carries beside its own fields."""

    actor: Actor
    correlation_id: str | None = None
    causation_id: str | None = None
    traceparent: str | None = None
    level: Level | None = None


class Kept(msgspec.Struct, frozen=True):
    """An idempotency record: who asked what under which key, and the first answer, byte for byte."""

    principal: str
    key: str
    request_hash: bytes
    answer: bytes


@dataclass(frozen=True)
class StoredRow(StoredEvent):
    """An event as the table holds it; `state` is the JSON of its own fields."""

    at: datetime = field(default_factory=lambda: datetime.now(UTC))
    meta: bytes = b"{}"
    private: bytes | None = None
    leaf: bytes = b""


_DECODERS = {name: msgspec.json.Decoder(event) for name, event in EVENTS.items()}
_META = msgspec.json.Decoder(Meta)
_sorted = msgspec.json.Encoder(order="sorted").encode


def leaf_hash(stream_id: UUID, version: int, at: datetime, type_: str, body: bytes, meta: bytes) -> bytes:
    """SHA-256(0x00 ‖ envelope), the leaf of RFC 9162; the envelope is canonical JSON: keys sorted, no blanks, UTF-8."""
    head = b'\0{"at":"%b","body":' % _moment(at)
    tail = b',"meta":%b,"stream":"%b","type":"%b","version":%d}' % (meta, _name(stream_id), type_.encode(), version)
    return sha256(head + body + tail).digest()


@lru_cache(64)  # the events of a command share both
def _moment(at: datetime) -> bytes:
    return f"{at.astimezone(UTC).isoformat(timespec='microseconds').removesuffix('+00:00')}Z".encode()


@lru_cache(64)
def _name(stream_id: UUID) -> bytes:
    return str(stream_id).encode()


def to_row(recorded: Recorded) -> StoredRow:
    """The table's row of an event."""
    body = _sorted(recorded.event)
    meta = _sorted(
        Meta(recorded.actor, recorded.correlation_id, recorded.causation_id, recorded.traceparent, recorded.level)
    )
    stream, version, at, type_ = recorded.originator_id, recorded.originator_version, recorded.at, recorded.type
    return StoredRow(stream, version, type_, body, at, meta, None, leaf_hash(stream, version, at, type_, body, meta))


class NotReadable(LookupError):
    """An event is stored that this program cannot read: a newer one has recorded it, or it is damaged."""

    def __init__(self, stream_id: UUID, version: int, type_: str) -> None:
        super().__init__(f"{type_}, version {version} of {stream_id}")
        self.stream_id, self.version, self.type = stream_id, version, type_


def to_recorded(stream_id: UUID, version: int, at: datetime, type_: str, body: Json, meta: Json) -> Recorded:
    """The event that a row of `LOAD` holds. Raises NotReadable."""
    try:
        event: Event = _DECODERS[type_].decode(body)
        known = _META.decode(meta)
    except (KeyError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise NotReadable(stream_id, version, type_) from error
    return Recorded(
        stream_id,
        version,
        at,
        known.actor,
        event,
        known.correlation_id,
        known.causation_id,
        known.traceparent,
        known.level,
    )


def by_stream(rows: Iterable[tuple[UUID, int, datetime, str, Json, Json]]) -> dict[UUID, list[Recorded]]:
    """The rows of `LOAD`, which come stream by stream, as the events of each stream."""
    streams: dict[UUID, list[Recorded]] = {}
    last = None
    for row in rows:
        if row[0].int != last:  # looked at as a number: a UUID is compared, and found in a dictionary, much slower
            last = row[0].int
            events = streams[row[0]] = []
        events.append(to_recorded(*row))
    return streams


def append_parameters(rows: Iterable[StoredRow], kept: Iterable[tuple[UUID | str, Kept]] = ()) -> tuple[Packed, ...]:
    """The parameters of `APPEND`; the rows of one stream are one command, in order of version."""
    rows = list(rows)
    first: dict[UUID | str, int] = {}
    firsts = [first.setdefault(row.originator_id, row.originator_version) for row in rows]
    streams, versions, *rest = _events(rows)
    keys = list(kept)
    heads = uuids([_uuid(stream) for stream, _ in keys])
    return streams, versions, ints(firsts), *rest, heads, *_records([record for _, record in keys])


def insert_parameters(rows: Sequence[StoredRow], kept: Sequence[tuple[UUID | str, Kept]] = ()) -> tuple[Packed, ...]:
    """The parameters of `INSERT`, or of `INSERT_AND_KEEP` where something is kept."""
    in_order = sorted(rows, key=_place)  # one order for all, so that two batches cannot deadlock
    records = sorted((record for _, record in kept), key=_under)
    return *(_records(records) if records else ()), *_events(in_order)


def _place(row: StoredRow) -> tuple[int, int]:
    return _uuid(row.originator_id).int, row.originator_version


def _events(rows: Sequence[StoredRow]) -> tuple[Packed, ...]:
    return (
        uuids([_uuid(row.originator_id) for row in rows]),
        ints([row.originator_version for row in rows]),
        times([row.at for row in rows]),
        texts([row.topic for row in rows]),
        utf8([row.state for row in rows]),
        blobs([row.private for row in rows]),
        utf8([row.meta for row in rows]),
        blobs([row.leaf for row in rows]),
    )


def _under(record: Kept) -> tuple[str, str]:
    return record.principal, record.key


def _records(records: Sequence[Kept]) -> tuple[Packed, ...]:
    return (
        texts([record.principal for record in records]),
        texts([record.key for record in records]),
        blobs([record.request_hash for record in records]),
        blobs([record.answer for record in records]),
    )


def _uuid(stream_id: UUID | str) -> UUID:
    return stream_id if isinstance(stream_id, UUID) else UUID(stream_id)


class EventMapper(Mapper[UUID]):
    """Between domain events and rows, with msgspec instead of the library's transcoder."""

    def to_stored_event(self, domain_event: Any) -> StoredEvent:
        """The row of a `Recorded` event."""
        return to_row(domain_event)

    def to_domain_event(self, stored_event: Any) -> Any:
        """The `Recorded` event of a row."""
        row: StoredRow = stored_event
        stream_id = UUID(str(row.originator_id))
        return to_recorded(stream_id, row.originator_version, row.at, row.topic, row.state, row.meta)
