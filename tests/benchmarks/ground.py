"""What the benchmarks stand on: a PostgreSQL of their own with fsync on, databases, processes and their CPU time."""

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import urllib3

from application.store.postgres import embedded_postgres as postgres
from application.store.postgres.database import connect, migrate
from projections.runner import ensure_projections
from tests.support.postgres_servers import Fresh
from tests.support.running_desk import RunningDesk, free_port, wait_until

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
TICKS = os.sysconf("SC_CLK_TCK")
PLACE = Path("/var/tmp")  # on a disk, where /tmp is often memory and fsync costs nothing


class Server:
    """One PostgreSQL; `url` is where it answers."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.embedded = postgres.EmbeddedPostgres(directory / "server")
        self.url = self.embedded.url
        self.databases: dict[str, str] = {}

    @property
    def pid(self) -> int:
        """Its first process; all others are children of it."""
        return self.embedded.running_pid() or 0

    def database(self, name: str, schema: bool = True) -> str:
        """The URL of a new database, with the desk's schema or with nothing in it."""
        if schema and "template" not in self.databases:
            with connect(self.database("template", schema=False), "benchmark") as connection:
                migrate(connection)
                ensure_projections(connection)
        fresh = Fresh(self.url, name, "template" if schema else "template0")
        fresh.__exit__()  # what an earlier measurement left
        self.databases[name] = fresh.__enter__()
        return self.databases[name]

    def tidy(self) -> None:
        """VACUUM ANALYZE everywhere: between measurements, where autovacuum would fall upon one of them."""
        for name, url in self.databases.items():
            if name != "template":
                with connect(url, "benchmark", statement_seconds=300) as connection:
                    connection.execute("vacuum analyze")

    def program(self, name: str) -> Path:
        """A program that comes with the server, such as pgbench."""
        return postgres.programs_in(postgres.package_dir(), self.embedded.servant) / name


@contextmanager
def server(**settings: str) -> Iterator[Server]:
    """A PostgreSQL as the desk ships it, with what a benchmark needs.

    That is more connections, since 128 clients of pgbench want one each, and no autovacuum: `Server.tidy` does its work
    between the measurements.
    """
    with own_directory() as directory:
        shipped = dict(postgres.POSTGRES_SETTINGS)
        postgres.POSTGRES_SETTINGS.update({"max_connections": "400", "autovacuum": "off", **settings})
        try:
            (directory / "server").mkdir(mode=0o755)
            (directory / "server").chmod(0o755)
            run = Server(directory)
            run.embedded.start()
            try:
                yield run
            finally:
                os.kill(run.pid, signal.SIGQUIT)  # at once, without a last checkpoint: nothing of it is kept
                run.embedded.stop()
        finally:
            postgres.POSTGRES_SETTINGS.clear()
            postgres.POSTGRES_SETTINGS.update(shipped)


@contextmanager
def own_directory() -> Iterator[Path]:
    """A directory on the disk that everybody may enter; gone at the end."""
    directory = Path(tempfile.mkdtemp(prefix="deskledger-bench-", dir=PLACE))
    directory.chmod(0o755)  # as root, PostgreSQL runs as somebody else
    try:
        yield directory
    finally:
        shutil.rmtree(directory)


@contextmanager
def desk(database: str, directory: Path, parts: Sequence[str] = ("api", "work")) -> Iterator[RunningDesk]:
    """The product as it ships: `deskledger api` with two processes, and `deskledger work`."""
    directory.mkdir(exist_ok=True)
    with RunningDesk(database, directory, parts=parts) as served:
        yield served


def caught_up(database: str, seconds: float = 180) -> None:
    """Waits until everything is sealed and projected: the next measurement gets the machine for itself."""
    query = """select not exists (select from events, seal_state where ord > hi)
        and (select min(position) from projections) = (select coalesce(max(position), 0) from log)"""
    with connect(database, "benchmark wait") as connection:
        wait_until(lambda: connection.execute(query).fetchone()[0], "the projections have caught up", seconds=seconds)


@contextmanager
def program(
    command: Sequence[str | Path], log: Path, cwd: Path = ROOT, **environment: str
) -> Iterator[subprocess.Popen[bytes]]:
    """A program that runs beside, with its output in a file; SIGTERM at the end."""
    with log.open("ab") as out:
        process = subprocess.Popen(
            [str(word) for word in command], stdout=out, stderr=out, env={**os.environ, **environment}, cwd=cwd
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def answers(url: str) -> bool:
    """Whether a GET of this address gives 200."""
    try:
        close = {"Connection": "close"}
        return urllib3.request("GET", url, headers=close, retries=False, timeout=2).status == 200
    except urllib3.exceptions.HTTPError:
        return False


def cpu_seconds(pid: int) -> float:
    """The CPU time that a process and all its children have taken so far, those that have ended included."""
    total, waiting = 0.0, [pid]
    while waiting:
        pid = waiting.pop()
        with suppress(OSError):  # it has just ended: its parent's sum has it
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
            total += sum(map(int, fields[11:15])) / TICKS
            for task in Path(f"/proc/{pid}/task").iterdir():
                waiting += map(int, (task / "children").read_text().split())
    return total


def precise_cpu_seconds(pid: int) -> float:
    """The same for what lives now, to the nanosecond: of seconds of idleness, 10 ms are a third of a percent."""
    total = 0.0
    with suppress(OSError):  # it has just ended
        for task in Path(f"/proc/{pid}/task").iterdir():
            total += int((task / "schedstat").read_text().split()[0]) / 1e9
            total += sum(precise_cpu_seconds(int(child)) for child in (task / "children").read_text().split())
    return total


class Spent:
    """The CPU seconds that groups of processes take from here on."""

    def __init__(self, **pids: int) -> None:
        self._pids = pids
        self._before = {name: cpu_seconds(pid) for name, pid in pids.items()}

    def so_far(self) -> dict[str, float]:
        """CPU seconds by group."""
        return {name: cpu_seconds(pid) - self._before[name] for name, pid in self._pids.items()}


__all__ = [
    "RunningDesk",
    "connect",
    "free_port",
    "wait_until",
]  # what the benchmarks take from the tests and the product
