"""A desk as its users have it: API and worker as processes of their own, a real mail server, requests over HTTP."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from itertools import cycle
from pathlib import Path
from typing import Any, LiteralString

import pytest
import urllib3
from aiosmtpd.controller import Controller

from application.clock import utc_now
from application.identity.api_keys import NewKey, create_key
from application.store.postgres.database import connect
from domain.values import Level, Role

ROOT = Path(__file__).parents[2]
HANG_SECONDS = 60.0
needs_curl = pytest.mark.skipif(
    not (shutil.which("curl") and shutil.which("bash")), reason="what is shown is typed with curl, in bash"
)
CAUGHT_UP: LiteralString = """
    not exists (select from events, seal_state where ord > hi)
    and (select min(position) from projections) = (select coalesce(max(position), 0) from log)"""
MAILED: LiteralString = """
    not exists (select from closure_mails where state = 'due')
    and (select position from followers where name = 'closure_mail') = (select coalesce(max(position), 0) from log)"""
STAFF = [Role.INTAKE, Role.AGENT, Role.QUALITY, Role.IT_MANAGER]


INSERT_PERSON: LiteralString = """
    insert into people (issuer, subject, id, name, roles, levels, last_seen)
    values ('https://issuer.example', %s, %s, %s, %s, %s, now()) on conflict (issuer, subject) do nothing"""


class Mailbox:
    """A mail server that keeps what it accepts. `verdicts` are its next answers, "250 OK" once they are used up."""

    def __init__(self) -> None:
        self.messages: list[EmailMessage] = []
        self.verdicts: list[str] = []

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802 - aiosmtpd's name
        """Accepts a message, or answers the next verdict."""
        verdict = self.verdicts.pop(0) if self.verdicts else "250 OK"
        if verdict.startswith("2"):
            self.messages.append(message_from_bytes(envelope.content, policy=default))  # type: ignore[arg-type]
        return verdict


class Reply:
    """What the API answered."""

    def __init__(self, response: urllib3.BaseHTTPResponse) -> None:
        self.status = response.status
        self.headers = response.headers
        self.data = response.data

    @property
    def json(self) -> Any:
        """The body."""
        return json.loads(self.data)

    @property
    def version(self) -> int:
        """The version in the ETag."""
        return int(self.headers["ETag"].strip('"'))


class RunningDesk:
    """API and worker on one database; `with` starts them and ends them."""

    def __init__(
        self, database: str, directory: Path, workers: int = 2, parts: Sequence[str] = ("api", "work")
    ) -> None:
        self.database, self.directory = database, directory
        self.mailbox = Mailbox()
        self._controller = Controller(self.mailbox, hostname="127.0.0.1", port=free_port())
        self.port = free_port()
        self.base = f"http://127.0.0.1:{self.port}"
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._parts = parts
        self.environment = {
            **os.environ,
            "DATABASE_URL": database,
            "DESKLEDGER_DATA_DIR": str(directory),
            "DESKLEDGER_PORT": str(self.port),
            "DESKLEDGER_WORKERS": str(workers),
            "DESKLEDGER_SMTP_URL": f"smtp://127.0.0.1:{self._controller.port}",
            # webhooks go to this machine and nowhere else, whatever a test subscribes
            "DESKLEDGER_WEBHOOK_HOSTS": "127.0.0.1",
            "DESKLEDGER_WEBHOOK_ALLOW_NETWORKS": "127.0.0.1",
            "DESKLEDGER_WEBHOOK_ALLOW_HTTP": "on",
        }
        self.http = urllib3.PoolManager(maxsize=16, retries=False, timeout=30)
        self._keys: dict[tuple[Any, ...], str] = {}

    def __enter__(self) -> "RunningDesk":
        self._controller.start()
        for part in self._parts:
            self.start(part)
        try:
            if "api" in self._parts:
                wait_until(self._answers, "the API answers")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.hang_up()
        for part in list(self.processes):
            self.end(part)
        self._controller.stop()

    def start(self, part: str) -> None:
        """Starts a part as a process of its own; its output goes to a file beside the others."""
        with (self.directory / f"{part}.log").open("ab") as log:
            command = [sys.executable, "-m", "api.cli", part]
            self.processes[part] = subprocess.Popen(command, cwd=ROOT, env=self.environment, stdout=log, stderr=log)

    def end(self, part: str) -> None:
        """SIGTERM, and waits."""
        process = self.processes.pop(part)
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def key(self, *roles: Role, levels: Sequence[Level] = (), client: str | None = None, name: str = "") -> str:
        """An API key that carries these roles; the same one when asked for the same."""
        wanted = (roles, tuple(levels), client, name)
        if wanted not in self._keys:
            named = name or "-".join([*roles, *levels, *([client] if client else [])])
            with connect(self.database, "test keys") as connection:
                self._keys[wanted] = create_key(connection, NewKey(named, roles, levels, client), utc_now())[1]
        return self._keys[wanted]

    def person(self, id_: str, *roles: Role, levels: Sequence[Level] = ()) -> str:
        """A person of whom the desk knows from a token, by default of every role and level; the id."""
        row = (id_, id_, id_, list(roles or STAFF), list(levels or Level))
        with connect(self.database, "test people") as connection:
            connection.execute(INSERT_PERSON, row)
        return id_

    @property
    def staff(self) -> str:
        """A key that may give every command of the desk's own people, at every level."""
        return self.key(*STAFF, Role.AUDITOR, levels=[level for level in Level if level is not Level.IT_MANAGER])

    @property
    def checker(self) -> str:
        """A second key of quality control, so that four eyes look."""
        return self.key(Role.QUALITY, name="checker")

    def request(
        self, method: str, path: str, body: Any = None, key: str | None = None, headers: dict[str, str] | None = None
    ) -> Reply:
        """One request; a body that is not bytes is sent as JSON."""
        sent = {"Authorization": f"Bearer {key or self.staff}", **(headers or {})}
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
        if body is not None:
            sent.setdefault("Content-Type", "application/json")
        return Reply(self.http.request(method, self.base + path, body=body, headers=sent))

    def get(self, path: str, key: str | None = None) -> Reply:
        """A query."""
        return self.request("GET", path, key=key)

    def client(self, user_id: str = "client-1", email: str = "client-1@example.org") -> str:
        """A client in the directory; its user ID."""
        self.request("PUT", f"/v1/clients/{user_id}", {"name": f"Client {user_id}", "email": email})
        return user_id

    def ticket(self, user_id: str = "client-1", impact: str = "medium", urgency: str = "medium", **more: Any) -> str:
        """A ticket at tier 1; its id."""
        issue = {"summary": "printer", "description": "it does not print", "category": "hardware"}
        body = {"client_user_id": self.client(user_id), "channel": "email", "text": "my printer does not print"}
        reply = self.request(
            "POST", "/v1/tickets", {**body, "issue": {**issue, "impact": impact, "urgency": urgency}}, **more
        )
        return str(reply.json["ticket_id"])

    def do(
        self, ticket_id: str, command: str, key: str | None = None, version: int | None = None, **body: Any
    ) -> Reply:
        """A command on a ticket, on its present version unless one is named."""
        if version is None:
            version = self.get(f"/v1/tickets/{ticket_id}").version
        path, headers = f"/v1/tickets/{ticket_id}:{command}", {"If-Match": f'"{version}"'}
        return self.request("POST", path, body, key, headers)

    def close(self, ticket_id: str) -> None:
        """From in support to closed."""
        assert self.do(ticket_id, "resolve", resolution="new toner").status == 200
        verdict = {"satisfied": True, "confirmed_via": "phone", "comment": "it prints again"}
        assert self.do(ticket_id, "verify", key=self.checker, **verdict).status == 200
        details = {"cause": "no toner", "actions": "toner replaced", "checked_by_method": "test page"}
        assert self.do(ticket_id, "document_resolution", **details).status == 200
        assert self.do(ticket_id, "close").status == 200

    def caught_up(self) -> None:
        """Waits until the projections stand at the end of the log and nothing is unsealed."""
        self._wait_for(CAUGHT_UP, "the projections have caught up")

    def settled(self) -> None:
        """Waits until nothing comes any more by itself: every closing e-mail has its outcome, the projections too."""
        self._wait_for(f"{CAUGHT_UP} and {MAILED}", "the desk has settled")

    def _wait_for(self, condition: LiteralString, what: str) -> None:
        with connect(self.database, "test wait") as connection:
            wait_until(lambda: connection.execute(f"select {condition}").fetchone()[0], what)

    def hang_up(self) -> None:
        """Closes every idle connection; clearing alone leaves them open until the garbage is collected."""
        for each in self.http.pools.keys():  # noqa: SIM118 - it is no dict, and cannot be iterated
            self.http.pools[each].close()
        self.http.clear()

    def _answers(self) -> bool:
        try:
            return self.http.request("GET", self.base + "/readyz").status == 200
        except urllib3.exceptions.HTTPError:
            return False


def wait_until(holds: Callable[[], Any], what: str, *, seconds: float = HANG_SECONDS) -> None:
    """Waits until something holds; fails by its name when it does not before the bound that only a hang meets."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(0.02)


def free_port() -> int:
    """A port that nobody listens on, and that no other process of the run is given.

    Below those that the system gives to outgoing connections, which could take it before it is used.
    """
    for port in _ports:
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")


def _own_ports() -> Iterator[int]:
    """The ports of this process, round and round: no other process, of this run or of another one, is given them.

    Whoever has bound the first port of a block has the block, as long as it lives.
    """
    for block in range(12_000, 32_000, 500):
        claim = socket.socket()
        try:
            claim.bind(("127.0.0.1", block))
        except OSError:
            claim.close()
            continue
        _claims.append(claim)
        return cycle(range(block + 1, block + 500))
    raise AssertionError("no block of ports is free")


_claims: list[socket.socket] = []
_ports = _own_ports()
