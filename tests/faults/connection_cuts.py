"""A proxy that cuts connections, and clients that send again under the same key: `make chaos`, and its short form.

    python -m tests.faults.connection_cuts --commands 2000 --seed 1

Between the clients and the API stands a proxy that drops a connection before the request is forwarded, in the middle of
the request, after it and before the answer, in the middle of the answer, or after it: by an orderly end, by a reset, or
after a while of silence. In the middle of the run, one process of the API is killed.
"""

import argparse
import asyncio
import json
import os
import random
import shutil
import signal
import socket
import struct
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

from application.store.postgres.database import connect, migrate
from application.store.postgres.embedded_postgres import EmbeddedPostgres
from projections.runner import ensure_projections
from tests.support.raw_http import Answer, Caller, Cut, connected, read_answer, written
from tests.support.running_desk import RunningDesk

CLIENTS, COMMANDS, SHARED = 16, 2_000, 4
MOST_TRIES = 60
MOST_EACH = 4  # times as many commands as are to be recorded: were keys not known again, there would be no end
PATIENCE_SECONDS = 1.0  # how long a client waits for an answer, before it sends again
SILENCE_SECONDS = 1.5  # how long a connection may stay open in silence
CUTS = ("before", "in the request", "before the answer", "in the answer", "after the answer", "never")
WEIGHTS = (1, 2, 3, 2, 1, 3)
ENDS = ("end", "reset", "silence")
OPENING = {"channel": "api", "text": "it does not work", "sender": {}}
GRADES = ("low", "medium", "high")
RESET = struct.pack("ii", 1, 0)  # linger, for no time: what was not sent is thrown away, and the peer gets RST

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Proxy:
    """Takes one request a connection, and cuts where the dice say."""

    def __init__(self, port: int, chance: random.Random) -> None:
        self._port, self._chance = port, chance
        self.cuts: Counter[tuple[str, str]] = Counter()
        self._open: set[asyncio.Task[None] | None] = set()

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[int]:
        """The port that it listens on."""
        async with await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=2**22) as server:
            yield server.sockets[0].getsockname()[1]
            await asyncio.gather(*filter(None, self._open))  # what is silent now, too

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(asyncio.current_task())
        where, how = self._chance.choices(CUTS, WEIGHTS)[0], self._chance.choices(ENDS, (3, 3, 1))[0]
        self.cuts[where, how if where != "never" else ""] += 1
        upstream: Streams | None = None
        with suppress(OSError, asyncio.IncompleteReadError, Cut):
            request = await read_request(reader)
            if where != "before":
                upstream = await asyncio.open_connection("127.0.0.1", self._port, limit=2**22)
                await self._forward(where, request, upstream, writer)
        if how == "silence" and where not in ("after the answer", "never"):
            await asyncio.sleep(self._chance.random() * SILENCE_SECONDS)
        for end in (writer, upstream[1] if upstream else None):
            if end:
                hang_up(end, reset=how == "reset")
                with suppress(OSError):
                    await end.wait_closed()
        self._open.discard(asyncio.current_task())

    async def _forward(self, where: str, request: bytes, upstream: Streams, client: asyncio.StreamWriter) -> None:
        if where == "in the request":
            most = len(request) - 1  # all but the line's end: what has come by then looks whole
            upstream[1].write(request[: self._chance.choice((most, self._chance.randint(1, most)))])
            await asyncio.sleep(self._chance.random() * 0.02)
            return
        upstream[1].write(request)
        if where == "before the answer":
            await asyncio.sleep(self._chance.random() * 0.02)  # before, while or after it is done
            return
        answer = await whole_answer(upstream[0])
        sent = self._chance.randrange(1, len(answer)) if where == "in the answer" else len(answer)
        client.write(answer[:sent])
        await client.drain()


async def read_request(reader: asyncio.StreamReader) -> bytes:
    """The bytes of one request with a Content-Length."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0]
    return head + await reader.readexactly(int(length or 0))


async def whole_answer(reader: asyncio.StreamReader) -> bytes:
    """The bytes of one answer."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0]
    return head + await reader.readexactly(int(length or 0))


def hang_up(writer: asyncio.StreamWriter, reset: bool) -> None:
    """Ends a connection: in order, or by RST."""
    if reset:
        connection: socket.socket = writer.get_extra_info("socket")
        with suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        writer.transport.abort()
    else:
        writer.close()


class Command(NamedTuple):
    """A command that was answered in the end: what was asked under which key, and the answer."""

    key: str
    path: str
    body: bytes
    headers: dict[str, str]
    answer: Answer
    tries: int


class Client:
    """Gives commands through the proxy, and each of them again until it is answered."""

    def __init__(self, name: str, proxy: int, desk: RunningDesk, shared: list[str], seed: str) -> None:
        self._name, self._proxy, self._desk, self._shared = name, proxy, desk, shared
        self._chance = random.Random(f"{seed} {name}")
        self._read = Caller(desk.port, desk.staff)
        self._own: list[str] = []
        self.done: list[Command] = []
        self.lost: list[str] = []
        self.statuses: Counter[int | str] = Counter()

    async def run(self, count: int) -> None:
        """So many commands that are recorded; one that came too late is given anew, as another command."""
        recorded = 0
        while recorded < count and not self.lost and len(self.done) < MOST_EACH * count:
            path, body, headers = await self._next()
            command = await self._give(path, json.dumps(body).encode() + b"\n", headers)
            recorded += bool(command and command.answer.status in (200, 201))
        self._read.close()

    async def _next(self) -> tuple[str, dict[str, Any], dict[str, str]]:
        kind = self._chance.choices(("open", "own", "shared"), (2, 3, 3))[0] if self._own else "open"
        if kind == "open":
            return "/v1/requests", OPENING, {}
        ticket = self._chance.choice(self._own if kind == "own" else self._shared)
        if kind == "own" and self._chance.random() < 0.3:
            return f"/v1/tickets/{ticket}:add_note", {"text": f"{self._name}, {self._chance.random()}"}, {}
        version = await self._version(ticket)
        if kind == "own":
            body = {"client_user_id": f"client-{self._chance.randrange(3)}"}
            return f"/v1/tickets/{ticket}:identify_client", body, {"If_Match": version}
        grades = {"impact": self._chance.choice(GRADES), "urgency": self._chance.choice(GRADES)}
        return f"/v1/tickets/{ticket}:change_priority", grades | {"reason": self._name}, {"If_Match": version}

    async def _version(self, ticket: str) -> str:
        """Asked for again when the process that is killed had the question."""
        for _ in range(MOST_TRIES):
            try:
                answer = await self._read("GET", f"/v1/tickets/{ticket}")
            except (OSError, Cut):
                self._read.close()
                continue
            if answer.status == 200:
                return answer.headers["etag"]
            await asyncio.sleep(0.05)
        raise AssertionError(f"{ticket} cannot be read")

    async def _give(self, path: str, body: bytes, headers: dict[str, str]) -> Command | None:
        key = f"{self._name}-{len(self.done)}"
        headers |= {"Idempotency_Key": key, "X_Correlation_Id": key}
        for tries in range(1, MOST_TRIES + 1):
            try:
                answer = await self._try(self._proxy, path, body, headers)
            except (OSError, Cut, TimeoutError) as error:
                self.statuses[type(error).__name__] += 1
                continue
            self.statuses[answer.status] += 1
            if answer.status == 503 or (answer.status == 409 and "idempotency" in answer.json["code"]):
                await asyncio.sleep(0.05)
                continue
            self.done.append(Command(key, path, body, headers, answer, tries))
            if path == "/v1/requests":
                self._own.append(answer.json["ticket_id"])
            return self.done[-1]
        self.lost.append(key)
        return None

    async def _try(self, port: int, path: str, body: bytes, headers: dict[str, str]) -> Answer:
        async with asyncio.timeout(PATIENCE_SECONDS), connected(port) as (reader, writer):
            writer.write(written("POST", path, self._desk.staff, body, **headers))
            return await read_answer(reader)

    async def again(self) -> list[str]:
        """Everything once more, past the proxy: what is answered otherwise than the first time."""
        other = []
        for command in self.done:
            if command.answer.status in (200, 201):
                answer = await self._read("POST", command.path, command.body, **command.headers)
                same = (answer.status, answer.body) == (command.answer.status, command.answer.body)
                if not same or answer.headers.get("idempotency-replayed") != "true":
                    other.append(f"{command.key}: {answer} for {command.answer}")
        self._read.close()
        return other


class Report(NamedTuple):
    """What was done, and what is wrong with it."""

    wrong: list[str]
    cuts: Counter[tuple[str, str]]
    statuses: Counter[int | str]
    recorded: int
    refused: int
    replayed: int
    tries: int
    seconds: float


async def storm(desk: RunningDesk, seed: str, commands: int) -> Report:
    """The clients through the proxy; in the middle, one process of the API is killed."""
    for number in range(3):
        desk.client(f"client-{number}")
    shared = [desk.ticket("client-0") for _ in range(SHARED)]
    proxy = Proxy(desk.port, random.Random(seed))
    begun = time.monotonic()
    async with proxy.listening() as port:
        clients = [Client(f"c{number}", port, desk, shared, seed) for number in range(CLIENTS)]
        work = [asyncio.create_task(client.run(commands // CLIENTS)) for client in clients]
        while sum(len(client.done) for client in clients) < commands // 2:
            await asyncio.sleep(0.01)
        kill_one(desk)
        await asyncio.gather(*work)
    seconds = time.monotonic() - begun
    wrong = [f"{key}: lost" for client in clients for key in client.lost]
    for others in await asyncio.gather(*(client.again() for client in clients)):
        wrong += others
    done = [command for client in clients for command in client.done]
    return Report(
        wrong + checked(desk.database, done),
        proxy.cuts,
        sum((client.statuses for client in clients), Counter()),
        sum(command.answer.status in (200, 201) for command in done),
        sum(command.answer.status == 412 for command in done),
        sum("idempotency-replayed" in command.answer.headers for command in done),
        sum(command.tries for command in done),
        seconds,
    )


def kill_one(desk: RunningDesk) -> None:
    """SIGKILL for one of the processes that serve; gunicorn starts another."""
    parent = desk.processes["api"].pid
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    os.kill(int(children[0]), signal.SIGKILL)


def checked(database: str, done: list[Command]) -> list[str]:
    """What the log and the remembered answers say otherwise than the clients were told."""
    with connect(database, "chaos check") as connection:
        rows = connection.execute(
            "select stream_id, version, meta ->> 'correlation_id' from events order by stream_id, version"
        ).fetchall()
        kept = dict(connection.execute("select key, answer from idempotency").fetchall())
    found: dict[str, list[tuple[UUID, int]]] = defaultdict(list)
    streams: dict[UUID, list[int]] = defaultdict(list)
    for stream, version, key in rows:
        streams[stream].append(version)
        found[key or ""].append((stream, version))
    wrong = [f"{stream}: versions {own}" for stream, own in streams.items() if own != list(range(1, len(own) + 1))]
    wrong += [f"{key}: recorded, and nobody asked" for key in found.keys() - {command.key for command in done} - {""}]
    for command in done:
        told = command.answer.json
        match command.answer.status:
            case 200 | 201:
                expected = [(UUID(told["ticket_id"]), event["version"]) for event in told["events"]]
                remembered: bytes | None = command.answer.body
            case 412:
                expected, remembered = [], None
            case status:
                wrong.append(f"{command.key}: {status} {told}")
                continue
        if found.get(command.key, []) != expected:
            wrong.append(f"{command.key}: told {expected}, recorded {found.get(command.key)}")
        if kept.get(command.key) != remembered:
            wrong.append(f"{command.key}: told {command.answer.body!r}, remembered {kept.get(command.key)!r}")
    return wrong


def table(report: Report) -> str:
    """What was done, for people."""
    lines = [
        ("commands recorded", report.recorded),
        ("refused, because another came first (412)", report.refused),
        ("tries", report.tries),
        ("first answers that were answers of before", report.replayed),
        *((f"cut {where}{', ' * bool(how)}{how}", count) for (where, how), count in sorted(report.cuts.items())),
        *((f"told {status}", count) for status, count in sorted(report.statuses.items(), key=str)),
    ]
    return "\n".join(f"{name:<44}{count:>8,}" for name, count in lines)


def main() -> int:
    """The long form, on a PostgreSQL of its own. Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--commands", type=int, default=COMMANDS)
    parser.add_argument("--seed", default=str(random.SystemRandom().randrange(10**9)))
    asked = parser.parse_args()
    print(f"seed {asked.seed}", flush=True)
    directory = Path(tempfile.mkdtemp(prefix="deskledger-chaos-"))
    directory.chmod(0o755)
    postgres = EmbeddedPostgres(directory)
    postgres.start()
    try:
        with connect(postgres.url, "chaos") as connection:
            migrate(connection)
            ensure_projections(connection)
        with RunningDesk(postgres.url, directory) as desk:
            report = asyncio.run(storm(desk, asked.seed, asked.commands))
    finally:
        postgres.stop()
        shutil.rmtree(directory)
    print(table(report))
    if report.recorded != asked.commands:
        report.wrong.append(f"{asked.commands} commands were to be recorded, and {report.recorded} are")
    print("\n".join(report.wrong) or f"each command was recorded exactly once, in {report.seconds:.1f} s")
    return 1 if report.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
