"""The event store: rows, the mapper, and the SQL of load and append, which stands here once.

An append takes no table lock and sends no NOTIFY: the primary key (stream, version) is the optimistic lock, commits run
side by side, and the sealer gives the committed events their position (`application/store/sealing.py`).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from itertools import groupby, starmap
from typing import Any, LiteralString
from uuid import UUID

import msgspec
from eventsourcing.persistence import Mapper, StoredEvent

from application.store.idempotency_records import IdempotencyRecord
from domain.client import EVENTS
from domain.events import Event, Recorded
from domain.ticket import Snapshot
from domain.values import Actor, Level

HIGHEST_VERSION = 2**31 - 1
_COLUMNS: LiteralString = """
    select stream_id, version, at, type, body::text, """
_AFTER: LiteralString = """::text from events
    where stream_id = any(%b) and version > %s::int and version <= %s::int order by stream_id, version"""
LOAD_EVENTS: LiteralString = _COLUMNS + "meta" + _AFTER

# The meta of a row of `events` as it is shown. What became of a closing's e-mail belongs to the level of that closing,
# which the event names; earlier versions stored the level that the ticket had come to by then.
SHOWN_META: LiteralString = """(
    case when events.type in ('Ticket.ClosureEmailSent', 'Ticket.ClosureEmailFailed') then
        events.meta || coalesce((
            select jsonb_build_object('level', closing.body -> 'level') from events closing
            where closing.stream_id = events.stream_id and closing.type = 'Ticket.Closed'
                and closing.version = substring(events.body ->> 'closed_version' from '^[0-9]{1,9}$')::int), '{}')
    else events.meta end)"""
LOAD_SHOWN: LiteralString = _COLUMNS + SHOWN_META + _AFTER
# The events of streams up to a version, each from its last snapshot on, which stands in place of the event of its
# version: no stream is longer to load than another. "offset 0" keeps it a look-up by the primary key for each stream.
_LOAD: LiteralString = """
    select stream_id, version, at, case version when last then 'Snapshot' else type end as type,
        case version when last then ticket else body::text end as body, meta::text as meta
    from unnest(%b::uuid[]) wanted(id)
    left join lateral (
        select version as last, ticket from snapshots where stream_id = id and fold = %s and version <= %s::int
        order by version desc limit 1) snapshot on true
    join lateral (
        select * from events where stream_id = id and version >= coalesce(last, 0) and version <= %s::int
        offset 0) event on true"""
_ORDER: LiteralString = """
    order by stream_id, version"""
LOAD: LiteralString = _LOAD + _ORDER

# The events of streams as by `LOAD`, and behind them so many new ticket numbers.
_NUMBERS: LiteralString = """)
    select *, null as number from loaded
    union all
    select null, null, null, null, null, null, 'T-' || lpad(number, greatest(6, length(number)), '0')
    from (select nextval('ticket_numbers')::text as number from generate_series(1, %s::int)) drawn
    order by stream_id, version, number"""
LOAD_AND_NUMBERS: LiteralString = "with loaded as (" + _LOAD + _NUMBERS

# What an append is given, as `append_parameters` and `batch_parameters` make it: rows by place, which costs PostgreSQL
# less than by name (docs/decisions/0036). An append has its xid before nextval: the sealer proves holes dead by it.
_XID: LiteralString = """
    with xid as materialized (select pg_current_xact_id())"""
_GIVEN: LiteralString = """,
    given as (
        select (event->>0)::uuid as stream_id, (event->>1)::int as version, (event->>2)::int as first,
            (event->>3)::timestamptz as at, event->>4 as type, event->5 as body,
            decode(event->>6, 'base64') as private, event->7 as meta, decode(event->>8, 'base64') as leaf
        from jsonb_array_elements(%s::jsonb) event)"""
_KEPT: LiteralString = """,
    kept as (
        select (record->>0)::uuid as stream_id, record->>1 as principal, record->>2 as key,
            decode(record->>3, 'base64') as request_hash, decode(record->>4, 'base64') as answer
        from jsonb_array_elements(%s::jsonb) record)"""

# The events of commands, each of them whole or not at all. Returns the streams of those that won.
_WINNERS: LiteralString = """,
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
        -- in the order of the parameters; a clash is a command that is under way elsewhere: it fails the batch
        order by principal collate "C", key collate "C")
    select stream_id from heads"""
APPEND: LiteralString = _XID + _GIVEN + _KEPT + _WINNERS

# The events of commands, all of them or none: any conflict fails it. Cheaper than `APPEND`, which lets the others win.
_KEEP: LiteralString = """,
    keys as (
        insert into idempotency (principal, key, request_hash, answer, at)
        select principal, key, request_hash, answer, now() from kept)"""
_INSERT: LiteralString = """
    insert into events (ord, stream_id, version, at, type, body, private, meta, leaf)
    select nextval('events_ord'), stream_id, version, at, type, body, private, meta, leaf from xid, given"""
INSERT_EVENTS: LiteralString = _XID + _GIVEN + _INSERT
INSERT_AND_KEEP: LiteralString = _XID + _GIVEN + _KEPT + _KEEP + _INSERT


JsonText = str | bytes


class Meta(msgspec.Struct, frozen=True, omit_defaults=True):
    """What an event carries beside its own fields."""

    actor: Actor
    correlation_id: str | None = None
    causation_id: str | None = None
    traceparent: str | None = None
    level: Level | None = None


class Envelope(msgspec.Struct):
    """What the leaf of an event is the hash of, its keys in order."""

    at: datetime | str
    body: msgspec.Raw
    meta: msgspec.Raw
    stream: UUID
    type: str
    version: int


@dataclass(frozen=True)
class StoredRow(StoredEvent):
    """An event as the table holds it; `state` is the JSON of its own fields."""

    at: datetime
    meta: bytes = b"{}"
    private: bytes | None = None
    leaf: bytes = b""


_DECODERS = {name: msgspec.json.Decoder(event) for name, event in [*EVENTS.items(), (Snapshot.stored_as, Snapshot)]}
_META = msgspec.json.Decoder(Meta)
_sorted = msgspec.json.Encoder(order="sorted").encode
_json = msgspec.json.Encoder().encode


def leaf_hash(stream_id: UUID, version: int, at: datetime, type_: str, body: bytes, meta: bytes) -> bytes:
    """SHA-256(0x00 ‖ envelope), the leaf of RFC 9162; the envelope is canonical JSON: keys sorted, no blanks, UTF-8."""
    utc = at.astimezone(UTC)
    moment = utc if utc.microsecond else f"{utc.isoformat()[:19]}.000000Z"  # six digits, also where all are noughts
    envelope = Envelope(moment, msgspec.Raw(body), msgspec.Raw(meta), stream_id, type_, version)
    return sha256(b"\0" + _json(envelope)).digest()


def to_row(recorded: Recorded) -> StoredRow:
    """The table's row of an event."""
    body, meta, leaf = _encoded(recorded)
    return StoredRow(
        recorded.originator_id, recorded.originator_version, recorded.type, body, recorded.at, meta, None, leaf
    )


def _encoded(recorded: Recorded) -> tuple[bytes, bytes, bytes]:
    """Body, meta and leaf of an event."""
    body = _sorted(recorded.event)
    meta = _sorted(
        Meta(recorded.actor, recorded.correlation_id, recorded.causation_id, recorded.traceparent, recorded.level)
    )
    stream, version, at, type_ = recorded.originator_id, recorded.originator_version, recorded.at, recorded.type
    return body, meta, leaf_hash(stream, version, at, type_, body, meta)


class NotReadable(LookupError):
    """An event is stored that this program cannot read: a newer one has recorded it, or it is damaged."""

    def __init__(self, stream_id: UUID, version: int, type_: str) -> None:
        super().__init__(f"{type_}, version {version} of {stream_id}")
        self.stream_id, self.version, self.type = stream_id, version, type_
        self.is_snapshot = type_ == Snapshot.stored_as  # no event: the stream's events tell what it does not


def to_recorded(stream_id: UUID, version: int, at: datetime, type_: str, body: JsonText, meta: JsonText) -> Recorded:
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


def by_stream(rows: Iterable[tuple[UUID, int, datetime, str, JsonText, JsonText]]) -> dict[UUID, list[Recorded]]:
    """The rows of `LOAD`, which come stream by stream, as the events of each stream."""
    streams: dict[UUID, list[Recorded]] = {}
    for _, same in groupby(rows, key=lambda row: row[0].int):  # as a number: a UUID is compared much slower
        events = list(starmap(to_recorded, same))
        streams[events[0].originator_id] = events
    return streams


def append_parameters(
    rows: Iterable[StoredRow], kept: Iterable[tuple[UUID | str, IdempotencyRecord]] = ()
) -> tuple[str, str]:
    """The parameters of `APPEND` and `INSERT_AND_KEEP`; `INSERT_EVENTS` takes the first alone. The rows of one stream
    are one command, which begins with the version that is its `first`."""
    in_order = sorted(rows, key=_place)  # one order for all, so that two batches cannot deadlock
    firsts = {row.originator_id: row.originator_version for row in reversed(in_order)}
    events = [_given(row, firsts[row.originator_id]) for row in in_order]
    return _json(events).decode(), _keys(kept)


def batch_parameters(commands: Sequence[tuple[Sequence[Recorded], IdempotencyRecord | None]]) -> tuple[str, str]:
    """The same of commands, each on a stream of its own: their events, and their records where they have one."""
    in_order = sorted(commands, key=lambda command: command[0][0].originator_id.int)  # that of `append_parameters`
    events = [_given_of(recorded, new[0].originator_version) for new, _ in in_order for recorded in new]
    return _json(events).decode(), _keys((new[0].originator_id, record) for new, record in commands if record)


def _given_of(recorded: Recorded, first: int) -> tuple[Any, ...]:
    """As `_given`, without a row of the library in between (docs/decisions/0041)."""
    body, meta, leaf = _encoded(recorded)
    place = recorded.originator_id, recorded.originator_version, first
    return *place, recorded.at, recorded.type, msgspec.Raw(body), None, msgspec.Raw(meta), leaf


def _keys(kept: Iterable[tuple[UUID | str, IdempotencyRecord]]) -> str:
    in_order = sorted(kept, key=lambda one: (one[1].principal, one[1].key))
    return _json([(stream, *msgspec.structs.astuple(record)) for stream, record in in_order]).decode()


def _place(row: StoredRow) -> tuple[int, int]:
    stream = row.originator_id
    return (stream if isinstance(stream, UUID) else UUID(stream)).int, row.originator_version


def _given(row: StoredRow, first: int) -> tuple[Any, ...]:
    body, meta = msgspec.Raw(row.state), msgspec.Raw(row.meta)
    return row.originator_id, row.originator_version, first, row.at, row.topic, body, row.private, meta, row.leaf


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
