"""Clusters that may be killed, followed by a standby, promoted, dumped and restored; all of them on this machine."""

import os
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
from psycopg.sql import SQL, Literal

from application.store.postgres.database import connect, migrate
from application.store.postgres.embedded_postgres import EmbeddedPostgres, PostgresError, own_directory, socket_dir
from projections.runner import ensure_projections
from tests.support.running_desk import wait_until

CONFIGURATION = """
max_prepared_transactions = 20
wal_keep_size = '512MB'
wal_retrieve_retry_interval = '100ms'
hot_standby_feedback = on
wal_sender_timeout = '5s'
wal_receiver_timeout = '5s'
"""
STILL_SECONDS = 3
PROMOTE_SECONDS = 30


class Cluster(EmbeddedPostgres):
    """A cluster of its own in a directory. `programs` are those of another PostgreSQL than the embedded one."""

    def __init__(self, directory: Path, programs: Path | None = None) -> None:
        super().__init__(directory)
        self._programs = programs
        if programs and programs != super().programs():
            self.locale = ("--locale=C",)  # the only one that all versions have

    def programs(self) -> Path:
        """The directory of the programs."""
        return self._programs or super().programs()

    def hide(self) -> None:
        """Puts the socket where no client looks for it, from the next start on."""
        self._answer_in(self.home / "hidden")

    def show(self) -> None:
        """Puts the socket where clients look for it, from the next start on."""
        self._answer_in(socket_dir(self.home))

    def _answer_in(self, sockets: Path) -> None:
        self.sockets = sockets
        self.url = f"postgresql://deskledger@/deskledger?host={quote(str(sockets), safe='')}"

    def create(self) -> None:
        """An empty cluster, which does not run yet."""
        self.remove()
        self._create(self.programs())
        with (self.cluster / "postgresql.conf").open("a") as configuration:
            configuration.write(CONFIGURATION)

    def create_standby(self, primary: "Cluster") -> None:
        """A copy of a running primary that goes on following it, as it does when it is started."""
        self.remove()
        own_directory(self.cluster, self.servant)
        own_directory(self.home / "postgres-log", self.servant)
        where = f"host={primary.sockets} user=deskledger application_name=standby"
        self.run("pg_basebackup", "-d", where, "-D", self.cluster, "-R", "-X", "stream", "-c", "fast")

    def remove(self) -> None:
        """Takes away the cluster, which must not run."""
        shutil.rmtree(self.cluster, ignore_errors=True)

    def run(self, program: str, *words: str | Path, **options: Any) -> None:
        """Runs a program of PostgreSQL to its end. Raises PostgresError with what it said."""
        options = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE} | options
        process = self._spawn([self.programs() / program, *words], **options)
        _, said = process.communicate()
        if process.returncode:
            raise PostgresError(f"{program}: {(said or b'').decode(errors='replace').strip()}")

    def start_again(self) -> None:
        """Starts after a kill; the children of before may still be ending."""

        def started() -> bool:
            with suppress(PostgresError):
                self.start()
                return True
            return False

        wait_until(started, "PostgreSQL starts again")

    def kill(self, how: int = signal.SIGKILL) -> None:
        """Ends the postmaster: SIGQUIT is its immediate shutdown. Its children end by themselves, a little later."""
        if self.process:
            self.process.send_signal(how)
            self.process.wait()

    def lose(self) -> None:
        """The machine is gone: the postmaster and all of its children, at once; returns when none is left."""
        if self.process:
            children = children_of(self.process.pid)
            self.kill()
            for pid in children:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            wait_until(lambda: not any(alive(pid) for pid in children), "no process of the cluster is left")

    def follows(self, primary: "Cluster") -> bool:
        """Whether this standby has received all that the primary has written until now."""
        with suppress(psycopg.OperationalError), connect(primary.url, "faults") as connection:
            now = connection.execute("select pg_current_wal_flush_lsn()").fetchone()[0]  # type: ignore[index]
            with suppress(AssertionError):
                wait_until(lambda: self._received(now), "the standby follows")
                return True
        return False

    def _received(self, lsn: str) -> bool:
        with connect(self.url, "faults") as connection:
            query = "select coalesce(pg_last_wal_receive_lsn() >= %s::pg_lsn, false)"
            return bool(connection.execute(query, (lsn,)).fetchone()[0])  # type: ignore[index]

    def replayed(self) -> None:
        """Waits until this standby has replayed what it has received.

        A record of which only the beginning came is never replayed: then nothing moves any more.
        """
        query = "select pg_last_wal_replay_lsn()::text, pg_last_wal_replay_lsn() >= pg_last_wal_receive_lsn()"
        at, since = "", time.monotonic()
        with connect(self.url, "faults") as connection:

            def done() -> bool:
                nonlocal at, since
                now, whole = connection.execute(query).fetchone() or ("", None)
                if now != at:
                    at, since = now, time.monotonic()
                return whole is not False or time.monotonic() - since > STILL_SECONDS

            wait_until(done, "the standby has replayed")

    def promote(self) -> None:
        """Makes this standby the primary."""
        with connect(self.url, "faults", statement_seconds=60) as connection:
            connection.execute("select pg_promote(true, %s)", (PROMOTE_SECONDS,))
            query = "select not pg_is_in_recovery()"
            wait_until(lambda: connection.execute(query).fetchone()[0], "the standby is promoted")  # type: ignore[index]

    def wait_for_standby(self, names: str) -> None:
        """From now on a commit is acknowledged only when these standbys have it on disk; '' for none of them."""
        with connect(self.url, "faults") as connection:
            connection.execute(SQL("alter system set synchronous_standby_names = {}").format(Literal(names)))
            connection.execute("select pg_reload_conf()")
            states = "select coalesce(min(sync_state), '') from pg_stat_replication"
            if names:
                wait_until(lambda: connection.execute(states).fetchone()[0] == "sync", "the standby is waited for")  # type: ignore[index]

    def dump(self, file: Path) -> None:
        """`pg_dump` of the desk, as the how-to says."""
        with file.open("wb") as output:
            self.run("pg_dump", "--format=custom", f"--dbname={self.url}", stdout=output)

    def restore(self, file: Path) -> None:
        """`pg_restore` of a dump, as the how-to says, and the migrations."""
        options = ("--clean", "--if-exists", "--no-owner", "--no-privileges", "--exit-on-error", "--single-transaction")
        file.chmod(0o644)
        self.run("pg_restore", *options, f"--dbname={self.url}", file)
        prepare(self.url)

    def burn(self, count: int) -> None:
        """Uses up transaction ids, so that those of a cluster can be below or above those of another one."""
        with connect(self.url, "faults") as connection, connection.pipeline():
            for _ in range(count):
                connection.execute("select pg_current_xact_id()")


def prepare(url: str) -> None:
    """The schema, as `deskledger migrate` makes it."""
    with connect(url, "faults") as connection:
        migrate(connection)
        ensure_projections(connection)


def address_of(clusters: list[Cluster]) -> str:
    """The URL by which clients find whichever of the clusters takes commands now."""
    hosts = quote(",".join(str(cluster.sockets) for cluster in clusters), safe="")
    return f"postgresql://deskledger@/deskledger?host={hosts}&target_session_attrs=read-write"


def children_of(pid: int) -> list[int]:
    """The children of a process, by what the machine's process table says."""
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError, ValueError, IndexError):
            if int((entry / "stat").read_text().rpartition(") ")[2].split()[1]) == pid:
                found.append(int(entry.name))
    return found


def alive(pid: int) -> bool:
    """Whether there is such a process that has not ended."""
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(") ")[2][0] != "Z"
    except OSError:
        return False


def moment() -> int:
    """Now, on the clock of the journals."""
    return time.monotonic_ns()
