"""The limits of a connection that gunicorn lacks, by public names alone.

A `Connection` stands between a socket and gunicorn's protocol: the protocol of the one, the transport of the other.
When a request reaches the application, the middleware tells it (`http_exchange.py`), in whose context it lies.
"""

import asyncio
import re
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

HEADER_SECONDS = 10.0  # from the beginning of a connection, or of a later request, to the end of the headers
UNREAD_SECONDS = 60.0  # how long a client may leave an answer unread
KEEPALIVE_SECONDS = 75.0  # longer than proxies keep theirs, most often 60 s: no request must meet its connection's end
CROWDED_IDLE_SECONDS = 2.0  # where every second connection is taken, a new one ends one that is idle so long
EMPTY_SECONDS = 0.5  # for what may be on its way, on an idle connection at a shutdown
HALF_CLOSED_SECONDS = 5.0  # for gunicorn to begin what came whole, also on a busy machine; nothing more comes
SHUTDOWN_SECONDS = 4.0  # how long a shutdown waits for a request that is not whole
CONNECTION_CHECK_SECONDS = 0.2  # between two looks at all connections
CONNECTION: ContextVar["Connection | None"] = ContextVar("CONNECTION", default=None)
_REFUSAL = re.compile(rb"HTTP/1\.1 (\d{3}) [^\r]*\r\nContent-Type: text/plain\r\n")  # gunicorn's own; its body follows


class Connection(asyncio.Protocol):
    """One connection of a client."""

    transport: Any = None
    half_closed = False  # the client sends nothing more, and may still read
    due = 0.0  # when what is awaited has to be there, by the loop's clock; 0 for never
    body: Any = None  # while the application waits for the body: what is to be cancelled then
    _unread_since = 0.0
    _running = _unread = _refusal = 0  # requests that are not answered; bytes; the status of gunicorn's refusal
    _answering = _served = _new_data = False

    def __init__(self, guard: "Guard", gunicorn: asyncio.Protocol) -> None:
        self.guard, self._gunicorn = guard, gunicorn
        self.pause_writing, self.resume_writing = gunicorn.pause_writing, gunicorn.resume_writing  # type: ignore[method-assign]

    def __getattr__(self, name: str) -> Any:
        """Whatever else a transport has."""
        return getattr(self.transport, name)

    def connection_made(self, transport: Any) -> None:
        """Waits for a request, for so long; one connection too many is told to come again."""
        self.transport = transport
        if self.guard.admit(self):
            self.due = self.guard.clock() + HEADER_SECONDS
            CONNECTION.set(self)  # for the tasks that begin here: a loop calls each protocol in a context of its own
            self._gunicorn.connection_made(self)  # type: ignore[arg-type]
        else:
            self._gunicorn = asyncio.Protocol()  # gunicorn never hears of it
            self.end(503)

    def data_received(self, data: bytes) -> None:
        """A connection on which a request begins is not idle any more."""
        self._new_data = True
        if self.guard.idle.pop(self, None) and self._served:
            self.due = self.guard.clock() + HEADER_SECONDS
        self._gunicorn.data_received(data)

    def eof_received(self) -> bool:
        """Nothing more comes. What has come whole is answered; an idle connection ends."""
        self.half_closed = True
        self.hurry(HALF_CLOSED_SECONDS)
        return self not in self.guard.idle

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is to be waited for."""
        self.guard.connections.discard(self)
        self.guard.idle.pop(self, None)
        self._gunicorn.connection_lost(exc)

    def write(self, data: bytes) -> None:
        """What gunicorn sends. What it says of a request that it cannot read becomes a problem."""
        if found := _REFUSAL.match(data):
            self._refusal = int(found[1])
        elif not self._refusal:
            self._answering = self._running > 0 and not data.startswith(b"HTTP/1.1 100 ")
            self.transport.write(data)
        elif not self._answering:  # else it would stand in the middle of an answer
            self.transport.write(self.guard.problem(self._refusal, data.decode(errors="replace")))

    def end(self, status: int) -> None:
        """Answers what will never be a request, and hangs up."""
        self.transport.write(self.guard.problem(status))
        self.transport.close()

    def begin_request(self) -> bool:
        """The application has a request. Whether it was sent together with the one before."""
        together, self._new_data = not self._new_data, False
        self.guard.idle.pop(self, None)
        self._running, self._served, self._answering, self.due = self._running + 1, True, False, 0.0
        return together

    def end_request(self) -> None:
        """The application has answered it. Again, while what is left of its body is thrown away: that is idle, too."""
        self._running = max(self._running - 1, 0)
        if not self._running and self in self.guard.connections:
            self._answering, self.guard.idle[self] = False, self.guard.clock()
            self.due = self.guard.clock() + (HALF_CLOSED_SECONDS if self.half_closed else KEEPALIVE_SECONDS)

    def hurry(self, seconds: float) -> None:
        """What is awaited has to come sooner."""
        self.due = min(self.due, self.guard.clock() + seconds)  # 0 stays 0

    def look(self, now: float, crowded: bool = False) -> None:
        """Ends it, when something has taken too long, or when it is to make room."""
        unread = self.transport.get_write_buffer_size()
        if not unread or unread != self._unread:
            self._unread, self._unread_since = unread, now
        if now - self._unread_since > UNREAD_SECONDS:
            self.transport.abort()
        elif not self.transport.is_closing() and (crowded or (self.due and now >= self.due)):
            if self.body and not crowded:
                self.body.cancel()
            elif (self.guard.idle.pop(self, None) and self._served) or self.half_closed:
                self.transport.close()
            else:
                self.end(503 if crowded else 408)


class Guard:
    """All connections of a process, and the server that gunicorn accepts them with."""

    def __init__(self, worker: Any, most: int, problem: Callable[..., bytes], end_streams: Callable[[], None]) -> None:
        self.problem, self._most, self._end_streams = problem, most, end_streams
        self._loop, self._listen, self.clock = worker.loop, worker.loop.create_server, worker.loop.time
        self.connections: set[Connection] = set()
        self.idle: dict[Connection, float] = {}  # since when; the longest first
        worker.loop.create_server = self.create_server

    async def create_server(self, factory: Callable[[], asyncio.Protocol], **options: Any) -> "Guard":
        """As the loop's."""
        self._server = await self._listen(lambda: Connection(self, factory()), backlog=self._most // 2, **options)
        self._look()
        return self

    def close(self) -> None:
        """Runs when the server ends: what is idle ends, and what is not whole has to be soon."""
        self._server.close()
        self._end_streams()
        for connection in self.connections:
            connection.hurry(EMPTY_SECONDS if connection in self.idle else SHUTDOWN_SECONDS)

    async def wait_closed(self) -> None:
        """There is nothing to wait for: gunicorn waits for the connections itself."""

    def admit(self, connection: Connection) -> bool:
        """Whether there is room for one more. Where many are connected, whoever was idle longest makes it."""
        now, count = self.clock(), len(self.connections)
        if self.idle and count >= self._most // 2:
            longest, since = next(iter(self.idle.items()))
            if count >= self._most or now - since >= CROWDED_IDLE_SECONDS:
                longest.look(now, crowded=True)
                count -= 1
        if count < self._most:
            self.connections.add(connection)
            self.idle[connection] = now
        return count < self._most

    def _look(self) -> None:
        for connection in list(self.connections):
            connection.look(self.clock())
        self._loop.call_later(CONNECTION_CHECK_SECONDS, self._look)
