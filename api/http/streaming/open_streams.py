"""The answers that go on: how many there may be, and when they have to end.

All streams of a process share two connections, and one of them at a time is read and written for: it then stands back
for as long, so that commands get at least half of the process, however many streams catch up.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from weakref import WeakSet

import psycopg
import structlog
from falcon.asgi import Request

from api.http.middleware.authentication import Credential
from api.http.problems import Problem
from api.http.request_context import SCOPE_CONNECTION, ClientConnection
from application.store.postgres.pg_connection import Unavailable
from application.store.read_pool import Readers
from projections.queries.log_tail import EventWaiter, LogTail
from projections.queries.pages import Fetch

CONNECTIONS = 2
STREAM_CHECK_SECONDS = 1.0  # between two looks at keys and at readers that do not read
STREAM_END_SECONDS = 2.0  # that a reader has to take what is under way when the server ends
log = structlog.get_logger()


class OpenStream:
    """One open stream, or one request that waits for events."""

    def __init__(self, credential: Credential, connection: ClientConnection) -> None:
        self.credential, self._connection = credential, connection
        self.over = False
        self.wish: EventWaiter | None = None  # what it waits for now
        self.sending_since: float | None = None  # by the loop's clock: what was given to the socket is still there

    def ended(self) -> bool:
        """Whether it is to end, or nobody is there any more; gunicorn cancels what is under way only seconds later."""
        return self.over or self._connection.is_closing()

    def waits_in_vain(self) -> bool:
        """Whether nobody may be there: who has closed its side is sent what there is, and nobody waits for more."""
        return self._connection.half_closed

    def end(self) -> None:
        """It is to end where it stands."""
        self.over = True
        if self.wish:
            self.wish.resolve([])

    def hang_up(self) -> None:
        """Cuts the connection, so that the reader knows that this was not the end."""
        self.over = True
        self._connection.abort()


class OpenStreams:
    """Every open stream of a process."""

    def __init__(self, url: str, most: int, most_each: int, unread_seconds: float) -> None:
        self.readers = Readers(url, "api stream", least=0, most=CONNECTIONS)
        self.log_tail = LogTail(self.readers.fetch)
        self._turn = asyncio.Lock()
        self._most, self._most_each, self._unread_seconds = most, most_each, unread_seconds
        self._places: WeakSet[OpenStream] = WeakSet()  # one that falcon never began to read takes no place
        self._watching: asyncio.Task[None] | None = None

    async def in_turn(self, write: Callable[[Fetch], Awaitable[Sequence[bytes]]]) -> Sequence[bytes]:
        """One part of a long log, read over the connections of the streams; then it stands back for as long."""
        async with self._turn:
            begun = asyncio.get_running_loop().time()
            parts = await write(self.readers.fetch)
            await asyncio.sleep(asyncio.get_running_loop().time() - begun)
            return parts

    def take(self, req: Request) -> OpenStream:
        """A place for a stream. Raises Problem: 429 when the caller has too many, 503 when the process has."""
        credential: Credential = req.context.credential
        retry = {"Retry-After": "5"}
        if sum(place.credential.who.id == credential.who.id for place in self._places) >= self._most_each:
            detail = f"You have {self._most_each} open streams here: end one of them, or share it."
            raise Problem(429, "too_many_streams", detail, headers=retry)
        if len(self._places) >= self._most:
            raise Problem(503, "streams_full", "No more streams can be open now. Ask again.", headers=retry)
        place = OpenStream(credential, req.scope[SCOPE_CONNECTION])
        self._places.add(place)
        place.over = self.log_tail.ended
        if self._watching is None or self._watching.done():
            self._watching = asyncio.get_running_loop().create_task(self._watch())
        return place

    def leave(self, place: OpenStream) -> None:
        """The stream has ended."""
        self._places.discard(place)

    def end(self) -> None:
        """Ends all of them, at once: the process ends."""
        self.log_tail.end()
        for place in self._places:
            place.end()

    async def _watch(self) -> None:
        """Looks after the open streams, while there are any."""
        while self._places:
            await asyncio.sleep(STREAM_CHECK_SECONDS)
            now = asyncio.get_running_loop().time()
            for place in list(self._places):
                if place.ended() or (place.wish and place.waits_in_vain()):
                    place.end()
                patience = STREAM_END_SECONDS if place.over else self._unread_seconds
                if place.sending_since is not None and place.sending_since < now - patience:
                    log.warning("stream dropped: its reader does not read", actor=place.credential.who.id)
                    place.hang_up()
            await self._look_at_keys()

    async def _look_at_keys(self) -> None:
        for credential in {place.credential for place in self._places}:
            try:
                good = await credential.still_good()
            except (Unavailable, psycopg.OperationalError):  # nobody knows otherwise
                good = True
            except Exception:
                log.exception("a key cannot be looked at: its streams end")
                good = False
            for place in list(self._places):
                if place.credential is credential and not good:
                    place.end()
