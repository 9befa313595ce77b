"""One connection of a client, and the worker that has them: gunicorn's, with the limits that it lacks.

gunicorn waits for ever for the end of the headers, and for a minute for each piece of a body. So a client that sends a
byte now and then would keep its connection open for ever, and a shutdown waiting. Here each has a deadline.
"""

import asyncio
import re
from typing import Any
from weakref import WeakSet

from gunicorn.asgi import parser, protocol
from gunicorn.asgi.protocol import ASGIProtocol
from gunicorn.workers import gasgi

from api.accepting import COUNTS, Accepting
from api.access import unreadable
from api.decoding import WHOLE
from api.manners import STRICT
from api.problems import MEDIA_TYPE, code_of, document, phrase
from api.streams import TRANSPORT

HEADER_SECONDS = 10.0  # from the beginning of a connection, or of a later request, to the end of the headers
BODY_SECONDS = 30.0  # from there to the end of the body, 1 MiB at most
UNREAD_SECONDS = 60.0  # how long a client may leave an answer unread
IDLE_SECONDS = 75  # longer than proxies keep theirs, most often 60 s: a request must not meet the end of its connection
CROWDED_IDLE_SECONDS = 2  # where every second connection is taken, a new one ends one that is idle so long
IDLE_ENDING_SECONDS = 0.5  # how long a shutdown waits for a request on an idle connection
ENDING_SECONDS = 4.0  # how long a shutdown waits for a request that is not whole
ANSWERING_SECONDS = 15  # how long a shutdown waits for answers; gunicorn kills a worker after `graceful_timeout`
MOST_CONNECTIONS = 2_000  # of one process
TOO_SLOW = "The request did not come in time: headers within 10 s, the body within 30 s. Send it again."
TOO_MANY = "The server has as many connections as it takes. Try again in a moment."
DETAILS = {  # what gunicorn finds is not always a sentence
    408: TOO_SLOW,
    414: "The first line of the request is too long: put less into the address, at most 8,190 bytes.",
    431: "The headers are too large: send at most 100, each of at most 8,190 bytes.",
    501: "Transfer-Encoding takes chunked alone, and nothing else.",
    503: TOO_MANY,
}
_ABSOLUTE = re.compile(rb"https?://[^/?#]+(?P<path>[/?].*)?$", re.IGNORECASE)
_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, section 5.6.2
_CONTROLS = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")  # what a field value has none of: section 5.5
_FIELDS = re.compile(rb"(?:[!#$%&'*+.^_`|~0-9A-Za-z-]++:[^\x00-\x08\x0a-\x1f\x7f]*+\r\n)*+\r\n")
_FIELD = re.compile(rb"([^:]++):([^\r]*+)\r\n")
MOST_AT_ONCE = 4_096  # bytes, and fields that are more than a client sends: one by one they are found too large or many
MOST_FIELDS_AT_ONCE = 50


class Parser(parser.PythonProtocol):  # type: ignore[misc]
    """gunicorn's parser, which looks at each line and byte of the headers in a loop: here regular expressions do."""

    __slots__ = ()

    def _parse_headers(self) -> bool:
        """All fields at once, if they have come at once and nothing is wrong with them."""
        own: Any = self  # gunicorn's slots
        fields = None if own._headers_list else _FIELDS.match(own._buffer)
        if fields is None or fields.end() > MOST_AT_ONCE:
            return bool(super()._parse_headers())
        found = _FIELD.findall(own._buffer, 0, fields.end())
        if len(found) > MOST_FIELDS_AT_ONCE:
            return bool(super()._parse_headers())
        own._headers_list = [(name.lower(), value.strip(b" \t")) for name, value in found]
        own._header_count = len(found)
        del own._buffer[: fields.end()]
        own._scan_from = 0
        own._finalize_headers()
        return True

    def _is_valid_token(self, data: bytes) -> bool:
        return _TOKEN.fullmatch(data) is not None

    def _has_invalid_header_chars(self, value: bytes) -> bool:
        return _CONTROLS.search(value) is not None


class Ready(asyncio.Event):
    """An event that knows its loop; another one asks each time, and with it the system."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._own = loop

    def _get_loop(self) -> asyncio.AbstractEventLoop:
        return self._own


class Connection(ASGIProtocol):  # type: ignore[misc]
    """One connection. What cannot be handed to the application is answered as a problem, too."""

    _keepalive_handle: asyncio.TimerHandle | None
    _deadline: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None
    _answers = 0  # how many requests an answer has begun for; gunicorn counts the requests

    def connection_made(self, transport: Any) -> None:
        """Waits for a request, for so long; one connection too many is told to come again."""
        super().connection_made(transport)
        self._request_ready = Ready(self.worker.loop)
        COUNTS.add(self.worker.place, 1)
        self.worker.connections.add(self)
        if self.worker.nr_conns > MOST_CONNECTIONS // 2:
            self.worker.make_room()
        if self.worker.nr_conns > MOST_CONNECTIONS:
            self._end(503, TOO_MANY, (("Retry-After", "1"),))
        else:
            self._within(HEADER_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is to be waited for."""
        self._in_time()
        self._has_read()
        COUNTS.add(self.worker.place, -1)
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """The client does not read: it has so long to begin again."""
        super().pause_writing()
        self._unread = self.worker.loop.call_later(UNREAD_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """It has read."""
        self._has_read()
        super().resume_writing()

    def _has_read(self) -> None:
        if self._unread:
            self._unread.cancel()
            self._unread = None

    def finish(self) -> None:
        """The server ends: what is not whole has to be soon."""
        if self._deadline:
            self._within(ENDING_SECONDS)
        elif self._keepalive_handle:  # else its answer is under way, and says that it is the last one
            self._cancel_keepalive_timer()
            self._keepalive_handle = self.worker.loop.call_later(IDLE_ENDING_SECONDS, self._keepalive_timeout)

    def data_received(self, data: bytes) -> None:
        """A connection on which a request begins is not idle any more."""
        super().data_received(data)
        if self._keepalive_handle and not self._request_ready.is_set():
            self._cancel_keepalive_timer()
            self._within(HEADER_SECONDS)

    def _arm_keepalive_timer(self) -> None:
        self.worker.idle[self] = self.worker.loop.time()
        super()._arm_keepalive_timer()

    def _cancel_keepalive_timer(self) -> None:
        self.worker.idle.pop(self, None)
        super()._cancel_keepalive_timer()

    def end_idle(self) -> None:
        """Ends, as nobody has used it for long."""
        self._cancel_keepalive_timer()
        self._keepalive_timeout()

    def _on_headers_complete(self) -> Any:
        parsed = self._callback_parser
        demand(parsed)
        skips = super()._on_headers_complete()
        self._in_time()
        if parsed.is_chunked or (parsed.content_length or 0) > len(parsed._buffer):
            self._within(BODY_SECONDS)
        return skips

    def _on_message_complete(self) -> None:
        super()._on_message_complete()
        self._in_time()

    def _within(self, seconds: float) -> None:
        self._in_time()
        self._deadline = self.worker.loop.call_later(seconds, self._end, 408, TOO_SLOW)

    def _in_time(self) -> None:
        if self._deadline:
            self._deadline.cancel()
            self._deadline = None

    def _end(self, status: int, message: str, headers: Any = ()) -> None:
        """Answers what will never be a request, unless the application has begun to answer, and hangs up."""
        self._in_time()
        if self._answers < max(self.req_count, 1):  # gunicorn begins to count a moment after the connection does
            self._send_error_response(status, message, headers)
        self._close_transport()
        if self._body_receiver:
            self._body_receiver.signal_disconnect()
        self._request_ready.set()  # as gunicorn does: whoever waits for a request sees that there will be none

    def _send_response_start(self, *given: Any, **named: Any) -> None:
        self._answers = self.req_count
        super()._send_response_start(*given, **named)

    async def _serve_http_request(self, request: Any, sockname: Any, peername: Any) -> bool:
        """Answers one request in the connection's own task: the application does nothing after its answer that the
        next request would have to wait for, and a task for each request takes ten microseconds."""
        keep: bool = await self._handle_http_request(request, sockname, peername)
        return keep

    def _build_http_scope(self, request: Any, sockname: Any, peername: Any) -> dict[str, Any]:
        scope: dict[str, Any] = super()._build_http_scope(request, sockname, peername)
        receiver = self._body_receiver
        scope[WHOLE] = lambda: receiver._complete
        scope[TRANSPORT] = self.transport
        return scope

    def _send_error_response(self, status: int, message: str, extra_headers: Any = ()) -> None:
        """Answers what gunicorn cannot read as HTTP, and therefore never hands to the application: a problem, too."""
        if self._closed:
            return
        named = unreadable(status)
        detail = DETAILS.get(status) or f"The server cannot read this request: {message[:200]}."
        body = document(status, code_of(status), detail.encode(errors="replace").decode(), "/", **named)
        lines = (
            f"HTTP/1.1 {status} {phrase(status)}",
            f"Content-Type: {MEDIA_TYPE}",
            f"Content-Length: {len(body)}",
            *(f"{name}: {value}" for name, value in STRICT.items()),
            f"x-request-id: {named['request_id']}",
            *(f"{name}: {value}" for name, value in extra_headers),
            "Connection: close",
        )
        self._safe_write("\r\n".join((*lines, "\r\n")).encode("latin-1") + body)

    def _is_websocket_upgrade(self, request: Any) -> bool:
        """Ignores the wish for a WebSocket, as RFC 9110, section 7.8, allows: it is answered like any request."""
        return False


def demand(parsed: Any) -> None:
    """What gunicorn does not demand of the headers of a request, or does not understand.

    Raises gunicorn's own errors for what RFC 9112 does not allow: 3.2 (a Host), 6.1 (codings that nobody undoes here).
    """
    if parsed.path[:1] != b"/" and (absolute := _ABSOLUTE.match(parsed.path)):  # 3.2.2: as a proxy asks
        path = absolute["path"] or b"/"
        parsed.path = path if path[:1] == b"/" else b"/" + path
    if parsed.is_chunked and any(
        name == b"transfer-encoding" and value.strip().lower() != b"chunked" for name, value in parsed.headers
    ):
        raise parser.UnsupportedTransferCoding
    for name, _ in parsed.headers:  # most often the first one
        if name == b"host":
            return
    if parsed.http_version >= (1, 1):
        raise parser.InvalidHeader("HTTP/1.1 demands the header Host")


class Worker(gasgi.ASGIWorker):  # type: ignore[misc]
    """gunicorn's worker with connections of ours."""

    place = 0  # among the processes; `Counts.begin` sets it

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.connections: WeakSet[Connection] = WeakSet()
        self.idle: dict[Connection, float] = {}  # since when; the longest first

    def make_room(self) -> None:
        """Ends the connection that was idle longest, if that was long."""
        if self.idle:
            connection, since = next(iter(self.idle.items()))
            if self.loop.time() - since >= CROWDED_IDLE_SECONDS:
                connection.end_idle()

    def _setup_event_loop(self) -> None:
        super()._setup_event_loop()
        self.loop.create_server = self._create_server

    async def _create_server(self, factory: Any, *, sock: Any, **_: Any) -> Accepting:
        return Accepting(self.loop, factory, sock, lambda: COUNTS.has_more(self.place, self.cfg.workers))

    async def _shutdown(self) -> None:
        self.asgi.end_streams()
        for connection in list(self.connections):
            connection.finish()
        await super()._shutdown()


protocol.PythonProtocol = Parser
gasgi.ASGIProtocol = Connection  # the worker's own name for what it makes of a connection; there is no setting for it
parser.RFC9110_5_3_SINGLETON_FIELDS |= {b"idempotency-key"}  # of two keys nobody can tell which one is meant
