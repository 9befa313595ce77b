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

_UUID, _INT4, _INT8, _TIMESTAMPTZ, _TEXT, _BYTEA = 2950, 23, 20, 1184, 25, 17  # as in pg_type.dat
_empty = Struct("!iiI").pack
_head = Struct("!iiIii").pack
_size = Struct("!i").pack
_int4 = Struct("!ii").pack
_int8 = Struct("!iq").pack
_SIZES = [_size(size) for size in range(4096)]  # looked up in half the time that packing one takes
_NULL = _size(-1)
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)


class Packed(bytes):
    """An array that is packed already."""


class Uuids(Packed):
    """A `uuid[]`."""


class Ints(Packed):
    """An `int4[]`."""


class Longs(Packed):
    """An `int8[]`."""


class Times(Packed):
    """A `timestamptz[]`."""


class Texts(Packed):
    """A `text[]`."""


class Blobs(Packed):
    """A `bytea[]`."""


OIDS: dict[type[Packed], tuple[int, int]] = {  # of the array and of its elements
    Uuids: (2951, _UUID),
    Ints: (1007, _INT4),
    Longs: (1016, _INT8),
    Times: (1185, _TIMESTAMPTZ),
    Texts: (1009, _TEXT),
    Blobs: (1001, _BYTEA),
}


def uuids(values: Sequence[UUID]) -> Uuids:
    """A column of UUIDs."""
    return Uuids(_begin(_UUID, values) + b"".join([b"\0\0\0\x10" + value.bytes for value in values]))


def ints(values: Sequence[int]) -> Ints:
    """A column of numbers of 32 bits."""
    return Ints(_begin(_INT4, values) + b"".join([_int4(4, value) for value in values]))


def longs(values: Sequence[int]) -> Longs:
    """A column of numbers of 64 bits."""
    return Longs(_begin(_INT8, values) + b"".join([_int8(8, value) for value in values]))


def times(values: Sequence[datetime]) -> Times:
    """A column of times, which know their zone, to the microsecond."""
    return Times(_begin(_TIMESTAMPTZ, values) + b"".join([_int8(8, _microseconds(value)) for value in values]))


def texts(values: Iterable[str]) -> Texts:
    """A column of texts."""
    return utf8([value.encode() for value in values])


def utf8(values: Sequence[bytes]) -> Texts:
    """A column of texts that are encoded already."""
    return Texts(_begin(_TEXT, values) + b"".join([_sized(value) for value in values]))


def blobs(values: Sequence[bytes | None]) -> Blobs:
    """A column of bytes; None is NULL."""
    elements = b"".join([_NULL if value is None else _sized(value) for value in values])
    return Blobs(_begin(_BYTEA, values, int(None in values)) + elements)


def _begin(oid: int, values: Sequence[object], nulls: int = 0) -> bytes:
    """What stands before the elements of this type."""
    return _head(1, nulls, oid, len(values), 1) if values else _empty(0, 0, oid)


def _sized(value: bytes) -> bytes:
    return (_SIZES[len(value)] if len(value) < 4096 else _size(len(value))) + value


def _microseconds(at: datetime) -> int:
    since = at - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


class _PackedDumper(Dumper):
    format = Format.BINARY

    def dump(self, obj: Packed) -> bytes:
        """The bytes as they are."""
        return obj


def register(adapters: AdaptersMap) -> None:
    """Makes connections take packed arrays as parameters."""
    for kind, (oid, _) in OIDS.items():
        adapters.register_dumper(kind, type(f"{kind.__name__}Dumper", (_PackedDumper,), {"oid": oid}))
