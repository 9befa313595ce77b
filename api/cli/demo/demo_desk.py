"""The demo's own desk: a directory, a `deskledger serve` and a mail server, which are gone when it ends."""

import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
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
from api.cli.serve import end_with_parent
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
    headers: Mapping[str, str]
    body: dict[str, Any]

    @property
    def version(self) -> int:
        """The version in the ETag; 0 without one."""
        return int(self.headers.get("ETag", '"0"').strip('"'))


class Api:
    """The desk as its API's consumers have it: one key a role, JSON over HTTP."""

    def __init__(self, base: str, keys: Mapping[str, str]) -> None:
        self._base, self._keys = base, keys
        self._http = urllib3.PoolManager(maxsize=2, retries=False, timeout=30)

    def send(self, who: str, method: str, path: str, body: Any = None, **headers: str) -> Reply:
        """One request with the key of `who`. Raises CommandError when nobody answers."""
        sent = {"Authorization": f"Bearer {self._keys[who]}", **headers}
        try:
            response = self._http.request(method, self._base + path, headers=sent, json=body)
        except urllib3.exceptions.HTTPError as error:
            raise CommandError(f"the demo's desk does not answer any more ({error}): run the demo again") from error
        found = msgspec.json.decode(response.data) if response.data else {}
        return Reply(response.status, response.headers, found)

    def read(self, path: str) -> Reply:
        """A query of the auditor's. Raises CommandError when it is not answered with 200."""
        reply = self.send("auditor", "GET", path)
        if reply.status != 200:
            raise CommandError(f"the demo's desk answers GET {path} with {reply.status}: {reply.body.get('detail')}")
        return reply

    def close(self) -> None:
        """Lets go of the idle connections, which would hold up the desk's end."""
        self._http.clear()


class Desk(msgspec.Struct, frozen=True):
    """A desk that runs: how to speak to it, and the mails that it has sent."""

    api: Api
    mails: list[EmailMessage]


@contextmanager
def own_desk() -> Iterator[Desk]:
    """A desk of the demo's own. Raises CommandError when it does not start."""
    mailbox, smtp_port, port = Mailbox(), _free_port(), _free_port()
    with _directory() as postgres, _served(postgres, port, smtp_port) as server, _mail_server(mailbox, smtp_port):
        base = f"http://{HOST}:{port}"
        _wait_until_ready(base, server, postgres.data_dir)
        api = Api(base, _keys(postgres))
        try:
            yield Desk(api, mailbox.messages)
        finally:
            api.close()


@contextmanager
def _directory() -> Iterator[EmbeddedPostgres]:
    """A temporary directory that PostgreSQL's user may enter, and the cluster in it; nothing of it is left."""
    place = Path(tempfile.mkdtemp(prefix="deskledger-demo-"))
    place.chmod(0o755)
    postgres = EmbeddedPostgres(place)
    try:
        yield postgres
    finally:
        postgres.stop()  # `serve` has done so, unless it was killed
        for directory in (place, postgres.home, postgres.sockets):
            if directory.exists():
                shutil.rmtree(directory)


@contextmanager
def _served(postgres: EmbeddedPostgres, port: int, smtp_port: int) -> Iterator["subprocess.Popen[bytes]"]:
    """`deskledger serve`, with nothing of the user's own settings."""
    environment = {
        **environment_without_settings(),
        "DESKLEDGER_SMTP_URL": f"smtp://{HOST}:{smtp_port}",
        "DESKLEDGER_WORKERS": "1",
    }
    place = ["--data-dir", str(postgres.data_dir), "--host", HOST, "--port", str(port)]
    with (postgres.data_dir / "serve.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "api.cli", "serve", *place],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C is for the demo, which ends the rest in order
            preexec_fn=end_with_parent,
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(DEMO_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def _mail_server(mailbox: Mailbox, port: int) -> Iterator[None]:
    controller = Controller(mailbox, hostname=HOST, port=port)
    controller.start()
    try:
        yield
    finally:
        controller.stop()


def _wait_until_ready(base: str, server: "subprocess.Popen[bytes]", place: Path) -> None:
    deadline = time.monotonic() + DEMO_START_SECONDS
    while not _is_ready(base):
        if server.poll() is not None or time.monotonic() > deadline:
            complaint = _last_words((place / "serve.log").read_text(errors="replace"))
            raise CommandError(f"the demo's desk does not start ({complaint}): see what deskledger doctor says")
        time.sleep(0.05)


def _last_words(log: str) -> str:
    """What `serve` complained of at its end, or else its last line, as one line."""
    complaint = log.rpartition("deskledger: ")[2] if "deskledger: " in log else log.strip().rpartition("\n")[2]
    return " ".join(complaint.split()) or "it said nothing"


def _is_ready(base: str) -> bool:
    try:
        return urllib3.request("GET", base + "/readyz", headers={"Connection": "close"}, retries=False).status == 200
    except urllib3.exceptions.HTTPError:
        return False


def _keys(postgres: EmbeddedPostgres) -> dict[str, str]:
    with connect(postgres.url, "demo") as connection:
        return {wanted.name: create_key(connection, wanted, utc_now())[1] for wanted in KEYS}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port
