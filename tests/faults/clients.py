"""The load: clients that send commands and keep a journal. Each kind is a process of its own, which may be killed.

    python -m faults.clients api NAME DIRECTORY SEED BASE KEY     over HTTP
    python -m faults.clients desk NAME DIRECTORY SEED URL         writers through `HelpDesk`, in threads
    python -m faults.clients combining NAME DIRECTORY SEED URL    writers through `BatchingDesk`, on one event loop

All of them work on shared tickets as well as on their own, so that they are in each other's way. SIGTERM ends them
after the command that is under way.
"""

import asyncio
import json
import os
import random
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import urllib3
from eventsourcing.persistence import PersistenceError
from psycopg_pool import ConnectionPool

from api.cli.serve import end_with_parent
from application.batching_desk import BatchingDesk
from application.clock import utc_now
from application.commands.deciding import CommandRequest, Outcome, Trace, new_stream_id
from application.commands.procedure_commands import DocumentIssue, OpenTicket
from application.commands.supporting_commands import AddNote, ChangePriority
from application.helpdesk import HelpDesk
from application.store.postgres.database import connection_settings
from application.store.postgres.pg_connection import Unavailable
from domain.errors import DeskError
from domain.values import Channel, Grade, Level, Principal, Role
from tests.faults.journal import Journal

CLIENT = "client-1"
ISSUE = {"summary": "s", "description": "it fails", "category": "c", "impact": "low", "urgency": "low"}
OPENING = {"client_user_id": CLIENT, "channel": "api", "text": "under load", "issue": ISSUE}
OPEN = OpenTicket(CLIENT, Channel.API, "under load", DocumentIssue("s", "it fails", "c", Grade.LOW, Grade.LOW))
OPENED, SINGLE = 5, 1  # events
SIDE_BY_SIDE = {"api": 6, "desk": 3, "combining": 6}
PAUSE = {"api": 0.04, "desk": 0.06, "combining": 0.12}  # seconds: leaves the machine room for what is done to it
MOST_SENT = 4  # how often a command whose outcome is unknown is sent under the same key
RECENT = 24  # shared tickets; streams stay short
ROLES = frozenset({Role.INTAKE, Role.AGENT, Role.QUALITY})
WHO = Principal("direct", "direct", ROLES, frozenset(Level) - {Level.IT_MANAGER})


class Shared:
    """The tickets that all clients work on: the last ones of a file to which each adds some of those it has opened."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def add(self, ticket: UUID | str) -> None:
        """Offers a ticket to the others."""
        os.write(self._file, f"{ticket}\n".encode())

    def recent(self) -> list[UUID]:
        """The tickets that were offered last."""
        return [UUID(line) for line in self._path.read_text().split("\n")[:-1][-RECENT:]]


class Plan:
    """What one client wants next: seeded, so that a run repeats its choices."""

    def __init__(self, name: str, seed: str, shared: Shared) -> None:
        self._name, self.chance, self._shared = name, random.Random(f"{seed} {name}"), shared
        self._count = 0

    def mark(self) -> str:
        """The mark of the next command."""
        self._count += 1
        return f"{self._name}-{self._count}"

    def next(self) -> tuple[str, UUID | None]:
        """Which command is next, and on which shared ticket."""
        recent = self._shared.recent()
        kind = self.chance.choices(["open", "note", "race"], [4, 4, 2])[0]
        return (kind, self.chance.choice(recent)) if recent and kind != "open" else ("open", None)

    def opened(self, ticket: UUID | str) -> None:
        """A ticket was opened: some are for everybody."""
        if self.chance.random() < 0.2:
            self._shared.add(ticket)

    def grade(self) -> Grade:
        """Any grade."""
        return self.chance.choice(list(Grade))


# ── Over HTTP ───────────────────────────────────────────────────────────────────────────────────────────────


class Caller:
    """A client of the API, with a connection of its own."""

    def __init__(self, base: str, key: str, plan: Plan, journal: Journal) -> None:
        self._base, self._plan, self._journal = base, plan, journal
        self._headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        self._http = urllib3.PoolManager(maxsize=1, retries=False, timeout=30)

    def step(self) -> None:
        """One command; half of the tickets that were opened are escalated on the version that was answered."""
        kind, ticket = self._plan.next()
        if ticket is None:
            opened = self._command("/v1/tickets", OPENING, OPENED)
            if opened:
                self._plan.opened(opened["ticket_id"])
            if opened and self._plan.chance.random() < 0.5:
                path, version = f"/v1/tickets/{opened['ticket_id']}:escalate", opened["version"]
                self._command(path, {"reason": "beyond our means"}, SINGLE, version)
        elif kind == "note":
            self._command(f"/v1/tickets/{ticket}:add_note", {"text": "seen"}, SINGLE)
        else:
            self._race(f"/v1/tickets/{ticket}")

    def _race(self, path: str) -> None:
        """On the version that is read now; others do the same, and one of them wins."""
        try:
            found = self._http.request("GET", self._base + path, headers=self._headers)
        except urllib3.exceptions.HTTPError:
            return
        if found.status == 200:
            body = {"impact": self._plan.grade(), "urgency": self._plan.grade(), "reason": "judged anew"}
            self._command(f"{path}:change_priority", body, SINGLE, int(found.headers["ETag"].strip('"')))

    def _command(self, path: str, body: Any, size: int, version: int | None = None) -> Any:
        """Sends a command, and again under the same key while nobody knows its outcome. Returns the answer, or None."""
        mark = self._plan.mark()
        headers = {**self._headers, "X-Correlation-Id": mark, "Idempotency-Key": mark}
        if version is not None:
            headers["If-Match"] = f'"{version}"'
        self._journal.sending(mark, size)
        for _ in range(self._plan.chance.choice([1, MOST_SENT])):
            known, answer = self._send(mark, path, json.dumps(body).encode(), headers)
            if known:
                return answer
            pause(self._plan.chance.choice([0, 0.1]))
        return None

    def _send(self, mark: str, path: str, body: bytes, headers: dict[str, str]) -> tuple[bool, Any]:
        """Whether the outcome is known, and the answer to a command that was taken."""
        try:
            reply = self._http.request("POST", self._base + path, body=body, headers=headers)
        except urllib3.exceptions.HTTPError as error:
            self._journal.unknown(mark, type(error).__name__)
            return False, None
        code = reply.json()["code"] if reply.status >= 300 else ""
        if reply.status >= 500 or (reply.status == 409 and "idempotency" in code):  # the first one still runs
            self._journal.unknown(mark, f"{reply.status} {code}")
            return False, None
        if code:
            self._journal.refused(mark, f"{reply.status} {code}")
            return True, None
        answer = reply.json()
        self._journal.recorded(mark, UUID(answer["ticket_id"]), [event["version"] for event in answer["events"]])
        return True, answer


# ── Without HTTP ────────────────────────────────────────────────────────────────────────────────────────────


def wish(plan: Plan, journal: Journal) -> tuple[str, CommandRequest]:
    """A command for either shell, and its mark; it is noted as sent."""
    mark, now = plan.mark(), utc_now()
    kind, ticket = plan.next()
    command: Any = AddNote("seen") if kind == "note" else ChangePriority(plan.grade(), plan.grade(), "judged anew")
    wanted = CommandRequest(
        ticket or new_stream_id(now), command if ticket else OPEN, WHO, now, None, Trace(correlation_id=mark)
    )
    journal.sending(mark, SINGLE if ticket else OPENED)
    return mark, wanted


def note(plan: Plan, journal: Journal, mark: str, outcome: Outcome) -> None:
    """The command was acknowledged."""
    ticket = outcome.ticket.ticket_id
    journal.recorded(mark, ticket, [event.originator_version for event in outcome.events])
    if len(outcome.events) == OPENED:
        plan.opened(ticket)


class Writer:
    """A client of the synchronous shell."""

    def __init__(self, desk: HelpDesk, plan: Plan, journal: Journal) -> None:
        self._desk, self._plan, self._journal = desk, plan, journal

    def step(self) -> None:
        """One command."""
        mark, wanted = wish(self._plan, self._journal)
        try:
            note(self._plan, self._journal, mark, self._desk.execute(wanted))
        except DeskError as error:
            self._journal.refused(mark, error.code)
        except (PersistenceError, psycopg.Error) as error:
            self._journal.unknown(mark, str(error))
            pause(0.1)


async def combine(desk: BatchingDesk, plan: Plan, journal: Journal) -> None:
    """A client of the combining shell, until the process is to end."""
    while not STOP.is_set():
        mark, wanted = wish(plan, journal)
        try:
            note(plan, journal, mark, await desk.execute(wanted))
        except DeskError as error:
            journal.refused(mark, error.code)
        except (Unavailable, psycopg.Error) as error:
            journal.unknown(mark, str(error))
            await asyncio.sleep(0.1)
        await asyncio.sleep(PAUSE["combining"] * plan.chance.random() * 2)


# ── The processes ───────────────────────────────────────────────────────────────────────────────────────────

STOP = threading.Event()


def pause(seconds: float) -> None:
    """A client's time to think; it ends when the process is to end."""
    STOP.wait(seconds)


def in_threads(clients: Sequence[Caller | Writer], plans: Sequence[Plan], mean: float) -> None:
    """Each client in a thread of its own, until the process is to end."""

    def run(client: Caller | Writer, plan: Plan) -> None:
        while not STOP.is_set():
            client.step()
            pause(mean * plan.chance.random() * 2)

    threads = [threading.Thread(target=run, args=both) for both in zip(clients, plans, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


async def on_one_loop(url: str, plans: Sequence[Plan], journal: Journal) -> None:
    """All clients of a combining shell."""
    desk = BatchingDesk(url)
    await asyncio.gather(*(combine(desk, plan, journal) for plan in plans))
    await desk.close()


def main(kind: str, name: str, directory: str, seed: str, where: str, key: str = "") -> None:
    """Runs the clients of one process."""
    signal.signal(signal.SIGTERM, lambda *_: STOP.set())
    journal, shared = Journal(Path(directory) / f"{name}.journal"), Shared(Path(directory) / "shared")
    plans = [Plan(f"{name}-{n}", seed, shared) for n in range(SIDE_BY_SIDE[kind])]
    match kind:
        case "api":
            in_threads([Caller(where, key, plan, journal) for plan in plans], plans, PAUSE[kind])
        case "desk":
            settings = connection_settings("writer")
            with (
                ConnectionPool(where, kwargs=settings, min_size=1, max_size=3, timeout=5) as pool,
                HelpDesk(pool) as desk,
            ):
                in_threads([Writer(desk, plan, journal) for plan in plans], plans, PAUSE[kind])
        case _:
            asyncio.run(on_one_loop(where, plans, journal))


if __name__ == "__main__":
    end_with_parent()
    main(*sys.argv[1:])
