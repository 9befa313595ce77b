"""Streams as commands load them, on whichever connection: from a snapshot on, whole, or in part."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, LiteralString
from uuid import UUID

from application.store.event_store import (
    HIGHEST_VERSION,
    LOAD,
    LOAD_AND_NUMBERS,
    LOAD_EVENTS,
    LOAD_SHOWN,
    NotReadable,
    by_stream,
)
from application.store.snapshots import FOLD
from domain.events import Recorded

Read = Callable[[LiteralString, Sequence[Any]], Awaitable[list[Any]]]  # the rows of a statement that changes nothing
Streams = Mapping[UUID, Sequence[Recorded]]


class StreamLoader:
    """Loads streams; those with a snapshot that cannot be read, by their events alone. Raises NotReadable."""

    def __init__(self, read: Read) -> None:
        self.read = read

    async def load(self, stream_ids: Sequence[UUID], through: int = HIGHEST_VERSION) -> Streams:
        """Several streams in one round trip, as they were at a version, each from its last snapshot on."""
        return (await self.load_and_draw(stream_ids, 0, through))[0]

    async def load_and_draw(
        self, stream_ids: Sequence[UUID], count: int, through: int = HIGHEST_VERSION
    ) -> tuple[Streams, list[str]]:
        """As `load`, and so many ticket numbers that nobody else gets."""
        wanted = [list(stream_ids), FOLD, str(through), str(through)]
        numbers = list[str]()
        if count:
            rows = await self.read(LOAD_AND_NUMBERS, [*wanted, str(count)])
            rows, numbers = [row[:6] for row in rows[:-count]], [row[6] for row in rows[-count:]]
        else:
            rows = await self.read(LOAD, wanted) if stream_ids else []
        try:
            return by_stream(rows), numbers
        except NotReadable as error:
            if not error.is_snapshot:
                raise
        return await self.load_events(stream_ids, through=through), numbers

    async def load_events(self, stream_ids: Sequence[UUID], after: int = 0, through: int = HIGHEST_VERSION) -> Streams:
        """The events of several streams after a version and up to another, without a snapshot."""
        return by_stream(await self.read(LOAD_EVENTS, (list(stream_ids), str(after), str(through))))

    async def load_shown(self, stream_id: UUID, after: int, through: int) -> Sequence[Recorded]:
        """The events of a stream after a version and up to another, as they are shown."""
        rows = await self.read(LOAD_SHOWN, ([stream_id], str(after), str(through)))
        return by_stream(rows).get(stream_id, ())
