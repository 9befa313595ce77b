"""ASGI middleware: the connection is told of its requests, and their bodies are awaited when they are wanted.

falcon waits for the beginning of the body before it looks at anything else. Here it is given an empty part at once, so
that a caller without a key is told so, whatever becomes of the body.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from api.http.problems import Problem
from api.http.request_context import SCOPE_CONNECTION
from api.server.connection_guard import CONNECTION, Connection
from api.server.unparsed import TOO_SLOW

BODY_SECONDS = 30.0  # from the end of the headers to the end of the body, 1 MiB at most
MOST_DISCARDED = 16 * 1024 * 1024  # bytes: who is cut off in the middle of sending may never read why
DISCARD_SECONDS = 2.0  # how long the next piece of what is thrown away may take
TOGETHER_SECONDS = 0.005  # that a request waits which was sent before the answer to the last one: others go first
_ABSOLUTE = re.compile(r"https?://[^/?#]+(?P<path>/.*)?$", re.IGNORECASE)
Receive = Callable[[], Awaitable[dict[str, Any]]]


class Exchange:
    """Goes around the application."""

    def __init__(self, application: Any) -> None:
        self._application = application
        self.end_streams: Callable[[], None] = application.end_streams  # for whoever ends the server

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Any) -> None:
        """Tells the connection when a request begins and ends; what is left of the body then is thrown away."""
        connection = CONNECTION.get()
        if connection is None:  # the lifespan
            await self._application(scope, receive, send)
        elif scope["type"] == "websocket":
            connection.end(501)
        else:
            path, headers = scope["path"], dict(scope["headers"])
            if path[:1] != "/" and (found := _ABSOLUTE.match(path)):  # RFC 9112, section 3.2.2: as a proxy asks
                scope["path"] = found["path"] or "/"
            body = None
            if b"content-length" in headers or b"transfer-encoding" in headers:
                body = Body(headers, receive, connection)
                receive = body.receive
            scope[SCOPE_CONNECTION] = connection
            together = connection.begin_request()
            try:
                if together:
                    await asyncio.sleep(TOGETHER_SECONDS)
                await self._application(scope, receive, send)
            finally:
                connection.end_request()
            if body and body.more:
                await body.discard()


class Body:
    """The body of a request, as the application receives it."""

    def __init__(self, headers: dict[bytes, bytes], receive: Receive, connection: Connection) -> None:
        self._headers, self._receive, self._connection = headers, receive, connection
        self._begun, self._late, self.more = False, False, True
        self._task: Any = asyncio.current_task()
        self._by = connection.guard.clock() + BODY_SECONDS

    async def receive(self) -> dict[str, Any]:
        """The next part. Raises Problem: 408 when it does not come in time, 400 when it will never come.

        falcon takes a body whose sender went away in the middle for a whole one; what is done then would be another
        request than the one that was meant, and under its idempotency key.
        """
        if not self._begun:
            self._begun = True
            return {"type": "http.request", "body": b"", "more_body": True}
        if not self.more:
            return await self._receive()
        event = await self._next()
        self.more = event.get("more_body", False)
        if event["type"] == "http.disconnect":
            detail = "The connection ended before the body did: nothing is done. Send it again."
            raise Problem(400, "body_cut_off", detail)
        return event

    async def _next(self) -> dict[str, Any]:
        connection = self._connection
        # it has one deadline at a time; a timeout of asyncio takes as long as all else here
        before, connection.due, connection.body = connection.due, self._by, self
        try:
            return await self._receive()
        except asyncio.CancelledError:
            if not self._late or self._task.uncancel():
                raise
            if not connection.half_closed:
                raise Problem(408, "request_timeout", TOO_SLOW) from None
            return {"type": "http.disconnect"}
        finally:
            connection.due, connection.body = before, None

    def cancel(self) -> None:
        """It has not come in time."""
        self._late = True
        self._task.cancel()

    async def discard(self) -> None:
        """Reads on after the answer, for a while; not at all where more is announced than would be read.

        Whoever had sent most of it would take the connection for one that can be used again.
        """
        latest, left = self._by, MOST_DISCARDED
        announced = int(self._headers.get(b"content-length", b"0"))
        with suppress(Problem):
            while self.more and announced <= MOST_DISCARDED and left > 0:
                self._by = min(latest, self._connection.guard.clock() + DISCARD_SECONDS)
                left -= len((await self.receive())["body"])
                self._connection.end_request()
