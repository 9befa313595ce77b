"""One stream of events: it catches up with the log batch by batch, then follows it, and says how far it has come."""

import asyncio
from collections.abc import AsyncGenerator, Sequence

import msgspec
import structlog

from api.http.streaming.event_formats import Form
from api.http.streaming.open_streams import OpenStream, OpenStreams
from application.store.postgres.pg_connection import Unavailable
from projections.queries.event_feed import EventFilters, FeedRow, feed_item, feed_rows
from projections.queries.pages import Fetch

PULSE_SECONDS = 10.0  # between two signs of life
STREAM_BATCH_MAX, BATCH_BYTES = 200, 256 * 1024  # rows that are read at once, and about how much comes of them
FIRST_BATCH = 16  # as nobody knows how large they are
CHUNK_BYTES = 32 * 1024  # that are written at once, so that a slow reader takes each in time
NEAR = 500  # positions behind those who wait at the end of the log, who are joined nevertheless
PAUSES = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)  # before each attempt, while the database does not answer
log = structlog.get_logger()


class StreamRequest(msgspec.Struct, frozen=True):
    """What a reader wants: events after a position; all there are up to `end`, and then those of so many seconds."""

    filters: EventFilters
    after: int
    end: int
    seconds: float
    form: Form


class Stream:
    """What falcon reads the answer from. It takes its place when it is made, and leaves it when it is closed."""

    def __init__(self, streams: OpenStreams, place: OpenStream, wanted: StreamRequest) -> None:
        self._streams, self._place, self._wanted, self._form = streams, place, wanted, wanted.form
        self._position, self._end, self._limit = wanted.after, wanted.end, FIRST_BATCH
        self._parts = self._run()

    def __aiter__(self) -> "Stream":
        return self

    async def __anext__(self) -> bytes:
        """The next bytes; whoever asks for them has sent those before."""
        self._place.sending_since = None
        part = await anext(self._parts)
        self._place.sending_since = asyncio.get_running_loop().time()
        return part

    async def close(self) -> None:
        """Gives everything back, however it ended."""
        self._streams.leave(self._place)
        await self._parts.aclose()

    async def _run(self) -> AsyncGenerator[bytes, None]:
        loop, place = asyncio.get_running_loop(), self._place
        deadline = loop.time() + self._wanted.seconds
        first = self._form.first
        if self._position >= self._end:  # the headers go out with the first bytes
            first += self._form.passed(self._position)
        if first:
            yield first
        while not place.ended():
            if self._position < self._end:
                parts = await self._catch_up()
            elif (left := deadline - loop.time()) > 0 and not place.waits_in_vain():
                parts = await self._follow(min(left, PULSE_SECONDS))
            else:
                break
            for part in parts:
                yield part
        yield self._form.passed(self._position)

    async def _catch_up(self) -> Sequence[bytes]:
        """The next batch of what the log held when the stream began, or when it had fallen behind."""
        reason = ""
        for pause in PAUSES:
            await asyncio.sleep(pause)  # others have their turn meanwhile
            try:
                return await self._streams.in_turn(self._next_batch)
            except Unavailable as error:
                reason = str(error).strip()
        log.warning("stream cut: the database does not answer", reason=reason)
        self._place.hang_up()
        return ()

    async def _next_batch(self, fetch: Fetch) -> Sequence[bytes]:
        """The events of the next batch; where none of them fits, how far it went."""
        if self._place.ended():  # while it waited for its turn
            return ()
        found = await feed_rows(fetch, self._position, self._end, self._wanted.filters, self._limit)
        self._position = found.after
        return await self._written(found.rows) or (self._form.passed(self._position),)

    async def _follow(self, seconds: float) -> Sequence[bytes]:
        """What happens within so many seconds; at their end, a sign of life."""
        log_tail, filters = self._streams.log_tail, self._wanted.filters
        if log_tail.seen(filters) > self._position + NEAR:  # it was away: it catches up, in batches
            self._end = log_tail.seen(filters)
            return ()
        self._place.wish = wish = log_tail.follow(filters, self._position)
        rows = await log_tail.wait(wish, seconds)
        self._position = wish.position
        return await self._written(rows) or (self._form.passed(self._position),)

    async def _written(self, rows: Sequence[FeedRow]) -> Sequence[bytes]:
        """The rows in the stream's form, in parts; others have their turn between two of them.

        Rows that would be too much at once are left: the stream catches up with them.
        """
        parts, part, total = [], bytearray(), 0
        for count, row in enumerate(rows, 1):  # noqa: B007 - how many came to so many bytes
            part += self._form.event(feed_item(row).event)
            if len(part) >= CHUNK_BYTES:
                parts.append(bytes(part))
                total += len(part)
                part.clear()
                await asyncio.sleep(0)
            if total >= BATCH_BYTES:
                self._end, self._position = max(self._end, self._position), row.position
                break
        if part:
            parts.append(bytes(part))
        if rows:
            total += len(part)
            self._limit = max(1, min(STREAM_BATCH_MAX, 2 * self._limit, BATCH_BYTES * count // total))
        return parts
