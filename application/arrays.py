"""Columns of values as PostgreSQL's binary arrays, packed at once.

psycopg asks for the type of each element; for an append of a few events that costs more than deciding them. The format
is that of PostgreSQL's `array_send` (src/backend/utils/adt/arrayfuncs.c): dimensions, whether there are NULLs, the type
of the elements, length and lower bound, and then each element after its size in bytes, -1 for NULL.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from struct import Struct
from uuid import UUID

from psycopg.adapt import AdaptersMap, Dumper
from psycopg.pq import Format

_empty = Struct("!iiI").pack
_head = Struct("!iiIii").pack
_size = Struct("!i").pack
_int4 = Struct("!ii").pack
_int8 = Struct("!iq").pack
_NULL = _size(-1)
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)


class Packed(bytes):
    """An array that is packed already."""


class Uuids(Packed):
    """A `uuid[]`."""


class Ints(Packed):
    """An `int4[]`."""


class Times(Packed):
    """A `timestamptz[]`."""


class Texts(Packed):
    """A `text[]`."""


class Blobs(Packed):
    """A `bytea[]`."""


OIDS: dict[type[Packed], tuple[int, int]] = {  # of the array and of its elements, as in pg_type.dat
    Uuids: (2951, 2950),
    Ints: (1007, 23),
    Times: (1185, 1184),
    Texts: (1009, 25),
    Blobs: (1001, 17),
}


def uuids(values: Sequence[UUID]) -> Uuids:
    """A column of UUIDs."""
    return Uuids(_pack(Uuids, [b"\0\0\0\x10" + value.bytes for value in values]))


def ints(values: Sequence[int]) -> Ints:
    """A column of numbers of 32 bits."""
    return Ints(_pack(Ints, [_int4(4, value) for value in values]))


def times(values: Sequence[datetime]) -> Times:
    """A column of times, which know their zone, to the microsecond."""
    return Times(_pack(Times, [_int8(8, _microseconds(value)) for value in values]))


def texts(values: Iterable[str]) -> Texts:
    """A column of texts."""
    return utf8(value.encode() for value in values)


def utf8(values: Iterable[bytes]) -> Texts:
    """A column of texts that are encoded already."""
    return Texts(_pack(Texts, [_size(len(value)) + value for value in values]))


def blobs(values: Iterable[bytes | None]) -> Blobs:
    """A column of bytes; None is NULL."""
    return Blobs(_pack(Blobs, [_NULL if value is None else _size(len(value)) + value for value in values]))


def _microseconds(at: datetime) -> int:
    since = at - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def _pack(kind: type[Packed], elements: list[bytes]) -> bytes:
    oid = OIDS[kind][1]
    if not elements:
        return _empty(0, 0, oid)
    return _head(1, int(_NULL in elements), oid, len(elements), 1) + b"".join(elements)


class _PackedDumper(Dumper):
    format = Format.BINARY

    def dump(self, obj: Packed) -> bytes:
        """The bytes as they are."""
        return obj


def register(adapters: AdaptersMap) -> None:
    """Makes connections take packed arrays as parameters."""
    for kind, (oid, _) in OIDS.items():
        adapters.register_dumper(kind, type(f"{kind.__name__}Dumper", (_PackedDumper,), {"oid": oid}))
