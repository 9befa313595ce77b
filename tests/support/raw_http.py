"""HTTP as it goes over the wire: bytes to a socket, and the answer as it came, by as many clients as a test likes."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, NamedTuple

PATIENCE = 20.0


class Answer(NamedTuple):
    """One answer; the names of its headers are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body."""
        return json.loads(self.body)


class Cut(Exception):
    """The connection ended before the answer did. `partial` is what had come of it."""

    def __init__(self, partial: bytes = b"") -> None:
        super().__init__(partial[:200])
        self.partial = partial


def written(method: str, path: str, key: str = "", body: Any = None, **headers: str) -> bytes:
    """A request as bytes; `_` in the name of a header stands for `-`."""
    sent = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    lines = [f"{method} {path} HTTP/1.1", "Host: desk"]
    lines += [f"Authorization: Bearer {key}"] * bool(key)
    lines += ["Content-Type: application/json"] * bool(sent) + [f"Content-Length: {len(sent)}"] * (method != "GET")
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + sent


async def read_answer(reader: asyncio.StreamReader) -> Answer:
    """The next answer on a connection. Raises Cut when it is not whole, or nothing comes."""
    head = b""
    try:
        async with asyncio.timeout(PATIENCE):
            head = await reader.readuntil(b"\r\n\r\n")
            first, *lines = head[:-4].decode("latin-1").split("\r\n")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
            status = int(first.split()[1])
            if status == 100:
                return await read_answer(reader)
            body = await reader.readexactly(int(headers.get("content-length", 0)))
            return Answer(status, headers, body)
    except asyncio.IncompleteReadError as error:
        raise Cut(head + error.partial) from error
    except ConnectionError as error:
        raise Cut(head) from error


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection, closed at the end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**22)
    try:
        yield reader, writer
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


class Caller:
    """One client with one connection, opened anew when the server has closed it."""

    def __init__(self, port: int, key: str) -> None:
        self._port, self._key = port, key
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def __call__(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """One request and its answer. Raises Cut and ConnectionError."""
        if self._streams is None or self._streams[0].at_eof():
            self.close()
            self._streams = await asyncio.open_connection("127.0.0.1", self._port, limit=2**22)
        reader, writer = self._streams
        writer.write(written(method, path, self._key, body, **headers))
        answer = await read_answer(reader)
        if answer.headers.get("connection") == "close":
            self.close()
        return answer

    def close(self) -> None:
        """Hangs up."""
        if self._streams:
            self._streams[1].close()
            self._streams = None
