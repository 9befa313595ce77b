"""The demo's own desk: a directory, a `deskledger serve` and a mail server, which are gone when it ends."""

import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from pathlib import Path
from typing import Any

import msgspec
import urllib3
from aiosmtpd.controller import Controller

from api.cli.command_errors import CommandError
from api.cli.demo.script import KEYS
from api.cli.serve import end_process, end_with_parent, is_ready
from application.clock import utc_now
from application.identity.api_keys import create_key
from application.settings import environment_without_settings
from application.store.postgres.database import connect
from application.store.postgres.embedded_postgres import EmbeddedPostgres

DEMO_START_SECONDS, DEMO_STOP_SECONDS = 90.0, 60.0
HOST = "127.0.0.1"


class Mailbox:
    """A mail server's handler that keeps what it accepts."""

    def __init__(self) -> None:
        self.messages: list[EmailMessage] = []

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802 - aiosmtpd's name
        """Accepts every message."""
        self.messages.append(message_from_bytes(envelope.content, policy=default))
        return "250 OK"


class Reply(msgspec.Struct, frozen=True):
    """What the desk answered; `body` is empty when the answer is."""

    status: int
    body: dict[str, Any]


class Desk(msgspec.Struct, frozen=True):
    """A desk that runs, as its API's consumers have it: one key a role, JSON over HTTP, and the mails that it sent."""

    base: str
    keys: Mapping[str, str]
    mails: list[EmailMessage]
    http: urllib3.PoolManager

    def send(self, who: str, method: str, path: str, body: Any = None, **headers: str) -> Reply:
        """One request with the key of `who`. Raises CommandError when nobody answers."""
        sent = {"Authorization": f"Bearer {self.keys[who]}", **headers}
        try:
            response = self.http.request(method, self.base + path, headers=sent, json=body, retries=False, timeout=30)
        except urllib3.exceptions.HTTPError as error:
            raise CommandError(f"the demo's desk does not answer any more ({error}): run the demo again") from error
        return Reply(response.status, response.json() if response.data else {})

    def require(self, who: str, method: str, path: str, body: Any = None) -> dict[str, Any]:
        """What a request brings that the desk must answer. Raises CommandError when it does not."""
        reply = self.send(who, method, path, body)
        if reply.status not in (200, 201):
            raise CommandError(f"the demo's desk answers {method} {path} with {reply.status}: {reply.body}")
        return reply.body

    def read(self, path: str) -> dict[str, Any]:
        """What the auditor reads there. Raises CommandError."""
        return self.require("auditor", "GET", path)


@contextmanager
def own_desk() -> Iterator[Desk]:
    """A desk of the demo's own; what it starts is ended in the opposite order. Raises CommandError when it does not."""
    mailbox, smtp_port, port = Mailbox(), _free_port(), _free_port()
    base, mail_server = f"http://{HOST}:{port}", Controller(mailbox, hostname=HOST, port=smtp_port)
    place = Path(tempfile.mkdtemp(prefix="deskledger-demo-")).resolve()
    place.chmod(0o755)  # PostgreSQL's user may enter it
    with ExitStack() as ending:
        ending.callback(shutil.rmtree, place)
        postgres = EmbeddedPostgres(place)
        for elsewhere in {postgres.home, postgres.sockets} - {place}:
            ending.callback(shutil.rmtree, elsewhere, ignore_errors=True)  # without a start there may be none
        ending.callback(postgres.stop)  # `serve` has done so, unless it was killed
        mail_server.start()
        ending.callback(mail_server.stop)
        server = _serve(place, port, smtp_port)
        ending.callback(end_process, server, DEMO_STOP_SECONDS)
        _wait_until_ready(base, server, place)
        with connect(postgres.url, "demo") as connection:
            keys = {wanted.name: create_key(connection, wanted, utc_now())[1] for wanted in KEYS}
        http = ending.enter_context(urllib3.PoolManager())  # closed first: an idle connection holds up the desk's end
        yield Desk(base, keys, mailbox.messages, http)


def _serve(place: Path, port: int, smtp_port: int) -> "subprocess.Popen[bytes]":
    """`deskledger serve`, with nothing of the user's own settings."""
    environment = {**environment_without_settings(), "DESKLEDGER_SMTP_URL": f"smtp://{HOST}:{smtp_port}"}
    with (place / "serve.log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "api.cli", "serve", "--data-dir", place, "--host", HOST, "--port", str(port)],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C is for the demo, which ends the rest in order
            preexec_fn=end_with_parent,
        )


def _wait_until_ready(base: str, server: "subprocess.Popen[bytes]", place: Path) -> None:
    deadline = time.monotonic() + DEMO_START_SECONDS
    while not is_ready(base):
        if server.poll() is not None or time.monotonic() > deadline:
            complaint = (place / "serve.log").read_text(errors="replace").strip().rpartition("\n")[2]
            raise CommandError(f"the demo's desk does not start ({complaint}): see what deskledger doctor says")
        time.sleep(0.05)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])
