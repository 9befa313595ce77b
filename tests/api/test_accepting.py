"""Who accepts a connection: the process with the fewest, another one where that does not, and nobody loses any."""

import asyncio
import errno
import socket
from types import SimpleNamespace
from typing import Any

import pytest
import structlog

from api import accepting
from api.accepting import Accepting, Counts


class Greeting(asyncio.Protocol):
    """Says a word to whoever comes."""

    def __init__(self, word: bytes) -> None:
        self._word = word

    def connection_made(self, transport: Any) -> None:
        """Says it, and hangs up."""
        transport.write(self._word)
        transport.close()


def listening() -> socket.socket:
    """A socket to come to."""
    return socket.create_server(("127.0.0.1", 0), backlog=100)


def by(word: bytes, where: Any, leave: bool = False) -> Accepting:
    """A process that accepts, and leaves what it can to others or not."""
    return Accepting(asyncio.get_running_loop(), lambda: Greeting(word), where, lambda: leave)


async def greeted(where: socket.socket) -> bytes:
    """What the one says who accepts a connection."""
    reader, writer = await asyncio.open_connection(*where.getsockname())
    async with asyncio.timeout(5):
        word = await reader.read()
    writer.close()
    return word


@pytest.mark.parametrize("first", [b"laden", b"free"])
def test_who_has_more_leaves_a_connection_to_others(first: bytes) -> None:
    """All come to the one with fewer, whoever hears of them first; once it accepts no more, to the other one."""

    async def run() -> list[bytes]:
        with listening() as where, where.dup() as same:
            words = sorted((b"laden", b"free"), key=lambda word: word != first)
            who = {
                word: by(word, each, leave=word == b"laden") for word, each in zip(words, (where, same), strict=True)
            }
            laden, free = who[b"laden"], who[b"free"]
            words = [await greeted(where) for _ in range(20)]
            free.close()
            await free.wait_closed()
            words += [await greeted(where) for _ in range(3)]
            laden.close()
            return words

    assert asyncio.run(run()) == [b"free"] * 20 + [b"laden"] * 3


def test_closing_while_it_leaves_one_to_others() -> None:
    """Nothing comes after: neither a connection nor an error."""

    async def run() -> bool:
        with listening() as where, socket.create_connection(where.getsockname()) as client:
            laden = by(b"laden", where, leave=True)
            await asyncio.sleep(accepting.LEAVE_SECONDS / 2)
            laden.close()
            await asyncio.sleep(accepting.LEAVE_SECONDS * 4)
            client.setblocking(False)
            with pytest.raises(BlockingIOError):
                client.recv(1)
            return True

    assert asyncio.run(run())


def test_too_many_open_files_are_said_and_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """An accept that fails is tried again, and not at once, which would take all of a core."""
    monkeypatch.setattr(accepting, "REST_SECONDS", 0.1)

    class Full(socket.socket):
        failed = 0

        def accept(self) -> Any:
            """Fails twice."""
            self.failed += 1
            if self.failed <= 2:
                raise OSError(errno.EMFILE, "Too many open files")
            return super().accept()

    async def run() -> tuple[bytes, float]:
        with listening() as where, Full(fileno=where.dup().detach()) as full:
            accepts = by(b"at last", full)
            begun = asyncio.get_running_loop().time()
            word = await greeted(where)
            accepts.close()
            return word, asyncio.get_running_loop().time() - begun

    with structlog.testing.capture_logs() as logs:
        word, took = asyncio.run(run())
    assert word == b"at last"
    assert 0.2 <= took < 2
    assert [line["reason"] for line in logs] == ["[Errno 24] Too many open files"] * 2


def test_a_new_process_takes_the_place_of_a_dead_one() -> None:
    """Places are few and never shared, and a new process begins with no connections, whatever the last one had."""
    counts, workers = Counts(), [SimpleNamespace() for _ in range(3)]
    server = SimpleNamespace(WORKERS={})
    for pid in (0, 1):
        counts.begin(server, workers[pid])
        server.WORKERS[pid] = workers[pid]
    assert [worker.place for worker in workers[:2]] == [0, 1]
    counts.add(0, 2)
    counts.add(1, 1)
    assert (counts.has_more(0, 2), counts.has_more(1, 2)) == (True, False)
    del server.WORKERS[0]
    counts.begin(server, workers[2])
    assert workers[2].place == 0
    assert (counts.has_more(0, 2), counts.has_more(1, 2)) == (False, True)
