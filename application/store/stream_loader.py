"""Streams as commands load them, on whichever connection: from a snapshot on, whole, or in part."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, LiteralString
from uuid import UUID

from application.store.event_store import LOAD, LOAD_AND_NUMBERS, LOAD_AT, LOAD_EVENTS, NotReadable, by_stream
from application.store.snapshots import FOLD
from domain.events import Recorded

HIGHEST_VERSION = 2**31 - 1
Read = Callable[[LiteralString, Sequence[Any]], Awaitable[list[Any]]]  # the rows of a statement that changes nothing
Streams = Mapping[UUID, Sequence[Recorded]]


class StreamLoader:
    """Loads streams; one whose snapshot cannot be read is read by its events alone. Raises NotReadable."""

    def __init__(self, read: Read) -> None:
        self._read = read

    async def load(self, stream_ids: Sequence[UUID]) -> Streams:
        """Several streams in one round trip, each from its last snapshot on."""
        rows = await self._read(LOAD, (list(stream_ids), FOLD)) if stream_ids else []
        return await self._streams(stream_ids, rows)

    async def load_and_draw(self, stream_ids: Sequence[UUID], count: int) -> tuple[Streams, list[str]]:
        """As `load`, and so many ticket numbers that nobody else gets."""
        rows = await self._read(LOAD_AND_NUMBERS, (list(stream_ids), FOLD, str(count)))
        events, numbers = rows[:-count], [row[6] for row in rows[-count:]]
        return await self._streams(stream_ids, [row[:6] for row in events]), numbers

    async def load_at(self, stream_id: UUID, version: int) -> Sequence[Recorded]:
        """A stream as it was at a version, from a snapshot on."""
        rows = await self._read(LOAD_AT, ([stream_id], FOLD, str(version), str(version)))
        return (await self._streams([stream_id], rows, version)).get(stream_id, ())

    async def load_events(self, stream_ids: Sequence[UUID], after: int = 0, through: int = HIGHEST_VERSION) -> Streams:
        """The events of several streams after a version and up to another, without a snapshot."""
        return by_stream(await self._read(LOAD_EVENTS, (list(stream_ids), str(after), str(through))))

    async def _streams(self, stream_ids: Sequence[UUID], rows: list[Any], through: int = HIGHEST_VERSION) -> Streams:
        try:
            return by_stream(rows)
        except NotReadable as error:
            if not error.is_snapshot:
                raise
        return await self.load_events(stream_ids, through=through)
