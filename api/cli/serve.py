"""`deskledger serve`: everything on one machine. Starts the parts, and starts a part again that died."""

import ctypes
import fcntl
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

import msgspec
import psycopg
import structlog
import urllib3

from api.cli.command_errors import CommandError
from application.clock import utc_now
from application.identity.api_keys import NewKey, create_key, list_keys
from application.settings import Settings, environment_for
from application.store.postgres.database import connect, migrate
from application.store.postgres.embedded_postgres import EmbeddedPostgres, PostgresError
from domain.values import Role
from projections.runner import ensure_projections

SERVE_POLL_SECONDS = 0.1
FIRST_RESTART_PAUSE, LONGEST_RESTART_PAUSE = 0.5, 30.0
STEADY_SECONDS = 30.0  # a part that lived so long begins anew with the shortest pause
SERVE_STOP_SECONDS = 40.0
DATABASE_PAUSE = 1.0
PR_SET_PDEATHSIG = 1
log = structlog.get_logger()


class Part:
    """A process of its own that is started again, with growing pauses, when it dies."""

    def __init__(self, name: str, settings: Settings) -> None:
        self.name, self._settings = name, settings
        self._process: subprocess.Popen[bytes] | None = None
        self._started = self._due = 0.0
        self._pause = FIRST_RESTART_PAUSE

    def tend(self) -> None:
        """Starts the part when it is due, and notes when it has died."""
        now = time.monotonic()
        if self._process and (code := self._process.poll()) is not None:
            self._pause = FIRST_RESTART_PAUSE if now - self._started > STEADY_SECONDS else self._pause
            log.error("part died, starting it again", part=self.name, exit=code, pause=self._pause)
            self._process, self._due = None, now + self._pause
            self._pause = min(self._pause * 2, LONGEST_RESTART_PAUSE)
        if self._process is None and now >= self._due:
            self._process, self._started = _spawn(self.name, self._settings), now
            log.info("part started", part=self.name, pid=self._process.pid)

    def stop(self) -> None:
        """Ends the part, so that it finishes what it accepted."""
        if self._process:
            end_process(self._process, SERVE_STOP_SECONDS)


class Supervisor:
    """Runs database, migrations, API and worker until SIGTERM or SIGINT."""

    def __init__(self, settings: Settings) -> None:
        self._postgres = None if settings.database_url else EmbeddedPostgres(settings.data_dir)
        url = self._postgres.url if self._postgres else settings.database_url
        self._settings = msgspec.structs.replace(settings, database_url=url)
        self._stopping = False
        self._database_due = 0.0

    def run(self) -> None:
        """Returns when everything has ended cleanly. Raises CommandError and PostgresError."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        with _only_one(self._settings.data_dir):
            _demand_free(self._settings)
            try:
                self._serve()
            finally:
                if self._postgres:
                    self._postgres.stop()

    def _serve(self) -> None:
        if self._postgres:
            self._postgres.start()
        key = self._prepare()
        parts = [Part(name, self._settings) for name in ("api", "work")]
        try:
            self._tend(parts, key)
        finally:
            for part in parts:
                part.stop()

    def _prepare(self) -> str | None:
        """Migrations, and on the very first start an admin key; waits for a database that does not answer yet."""
        pause = FIRST_RESTART_PAUSE
        while not self._stopping:
            try:
                with connect(self._settings.database_url or "", "migrate") as connection:
                    migrate(connection)
                    ensure_projections(connection)
                    if list_keys(connection):
                        return None
                    return create_key(connection, NewKey("first admin", [Role.ADMIN]), utc_now())[1]
            except psycopg.OperationalError as error:
                log.warning("waiting for the database", reason=str(error).strip(), pause=pause)
                time.sleep(pause)
                pause = min(pause * 2, LONGEST_RESTART_PAUSE)
        return None

    def _tend(self, parts: list[Part], key: str | None) -> None:
        announced = False
        while not self._stopping:
            for part in parts:
                part.tend()
            self._tend_database()
            if not announced and is_ready(address(self._settings)):
                announce(self._settings, key)
                announced = True
            time.sleep(SERVE_POLL_SECONDS if announced else 0.02)

    def _tend_database(self) -> None:
        if self._postgres is None or self._postgres.running_pid() or time.monotonic() < self._database_due:
            return
        self._database_due = time.monotonic() + DATABASE_PAUSE
        log.error("PostgreSQL died, starting it again")
        try:
            self._postgres.start()
        except PostgresError as error:  # its children of before may still be ending
            log.warning("PostgreSQL does not start yet", reason=str(error))

    def _stop(self, number: int, frame: object) -> None:
        self._stopping = True


def _spawn(name: str, settings: Settings) -> subprocess.Popen[bytes]:
    """Starts a part; it gets its settings by the environment, and SIGTERM should we die without a word."""
    command = [sys.executable, "-m", "api.cli", name]
    return subprocess.Popen(
        command, env=environment_for(settings), stdin=subprocess.DEVNULL, preexec_fn=end_with_parent
    )


def end_with_parent() -> None:
    """On Linux: SIGTERM for this process when its parent dies, so that a killed `serve` leaves no part behind."""
    # Ctrl-C reaches the whole group; the supervisor ends the parts in order
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _only_one(data_dir: Path) -> IO[str]:
    """A lock that lasts as long as this process. Raises CommandError when another one has it."""
    data_dir.mkdir(parents=True, exist_ok=True)
    lock = (data_dir / "serve.lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise CommandError(f"another deskledger serves {data_dir}: stop it, or choose another --data-dir") from error
    return lock


def _demand_free(settings: Settings) -> None:
    """Raises CommandError when somebody else listens where the API is to listen."""
    with socket.socket(socket.AF_INET6 if ":" in settings.host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except OSError as error:
            where = f"{settings.host}:{settings.port}"
            raise CommandError(
                f"cannot listen on {where} ({error.strerror}): choose another --host or --port"
            ) from error


def end_process(process: subprocess.Popen[bytes], seconds: float) -> None:
    """SIGTERM; SIGKILL for one that has not ended so many seconds later."""
    process.terminate()
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        log.warning("process does not end, killing it", pid=process.pid)
        process.kill()
        process.wait()


def is_ready(base: str) -> bool:
    """Whether the API there says that it is ready."""
    try:
        close = {"Connection": "close"}
        return urllib3.request("GET", f"{base}/readyz", headers=close, timeout=2, retries=False).status == 200
    except urllib3.exceptions.HTTPError:
        return False


def address(settings: Settings) -> str:
    """Where this machine reaches the API; one that listens everywhere is reached at home too."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)  # noqa: S104
    return f"http://[{host}]:{settings.port}" if ":" in host else f"http://{host}:{settings.port}"


def announce(settings: Settings, key: str | None) -> None:
    """Prints where the desk is, the admin key on the first start, and three requests to try."""
    base = address(settings)
    bearer = f'-H "Authorization: Bearer {key or "$KEY"}"'  # in double quotes, so that the shell fills in $KEY
    client = """-H 'Content-Type: application/json' -d '{"name": "First Client", "email": "client@example.org"}'"""
    lines = [f"Deskledger is ready: {base}"]
    if key:
        lines += ["", "Your admin key, shown this once (deskledger keys list, create, revoke manage keys):", f"  {key}"]
    lines += ["", "Try it:" if key else "Try it, with KEY set to a key of yours (deskledger keys create --help):"]
    lines += [f"  curl -s {base}/readyz"]
    lines += [f"  curl -s -X PUT {bearer} {client} {base}/v1/clients/first-client"]
    lines += [f"  curl -s {bearer} {base}/v1/queues"]
    print("\n".join(["", *lines, ""]), flush=True)
