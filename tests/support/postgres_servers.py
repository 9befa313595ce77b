"""The PostgreSQL servers that tests run on: the embedded one, one given by its URL, and those installed here."""

import os
import pwd
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import msgspec
import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict
from psycopg.sql import SQL, Composed, Identifier

from application.store.postgres.embedded_postgres import (
    POSTGRES_SETTINGS,
    PROGRAMS,
    EmbeddedPostgres,
    may_enter,
    package_dir,
    servant,
)

VARIABLE = "DESKLEDGER_TEST_DATABASE_URL"
GIVEN = os.environ.get(VARIABLE, "")
LEAST = 15


class QuickPostgres(EmbeddedPostgres):
    """A server that loses everything with the machine's power: for all tests that do not test durability."""

    settings = {**POSTGRES_SETTINGS, "fsync": "off", "full_page_writes": "off"}


class InstalledPostgres(EmbeddedPostgres):
    """A server of programs that are installed here, in a directory and on a socket of its own."""

    locale = ("--locale=C",)

    def __init__(self, directory: Path, programs: Path) -> None:
        super().__init__(directory)
        self._programs = programs

    def programs(self) -> Path:
        """The directory of `initdb` and `postgres`."""
        return self._programs


class Server(msgspec.Struct, frozen=True):
    """What a test run has to know of a server that it is given."""

    version: str
    major: int
    superuser: bool


@cache
def given() -> Server | None:
    """The server that the variable names. Raises UsageError, with what to do, when tests cannot use it."""
    return looked_at(GIVEN) if GIVEN else None


def looked_at(url: str) -> Server:
    """A server, by the URL of one of its databases, which is only used to make others. Raises UsageError."""
    try:
        if conninfo_to_dict(of(url, "another")).get("dbname") != "another" or "://" not in url:
            raise pytest.UsageError(f"{VARIABLE}: name the database in the path, as in postgresql://user@host/postgres")
        with psycopg.connect(url, connect_timeout=5) as connection:
            found = connection.execute(
                "select current_setting('server_version'), current_setting('server_version_num')::int / 10000,"
                " rolsuper, rolcreatedb or rolsuper, rolname from pg_roles where rolname = current_user"
            ).fetchone()
    except psycopg.ProgrammingError:  # its text may hold the password
        raise pytest.UsageError(f"{VARIABLE} is no URL: it takes postgresql://user:password@host/postgres") from None
    except psycopg.OperationalError as error:
        raise pytest.UsageError(f"{VARIABLE}: start the server, or mend the URL: {error}") from None
    assert found
    version, major, superuser, makes_databases, role = found
    if major < LEAST:
        raise pytest.UsageError(f"{VARIABLE}: PostgreSQL {version} is too old: name one of version {LEAST} or later")
    if not makes_databases:
        grant = f'alter role "{role}" createdb'
        raise pytest.UsageError(f"{VARIABLE}: {role} may not create databases: let a superuser run {grant}")
    return Server(version, major, superuser)


class Fresh:
    """A database of that name that exists for as long as it is needed; `with` gives its URL.

    Raises DuplicateDatabase when it was there already: nobody's database is taken for ours.
    """

    def __init__(self, server: str, name: str, template: str = "template0") -> None:
        self._server, self._name, self._template = server, name, template

    def __enter__(self) -> str:
        self._execute(SQL("create database {} template {}").format(Identifier(self._name), Identifier(self._template)))
        return of(self._server, self._name)

    def __exit__(self, *_: object) -> None:
        self._execute(SQL("drop database if exists {} with (force)").format(Identifier(self._name)))

    def _execute(self, statement: Composed) -> None:
        with psycopg.connect(self._server, autocommit=True) as server:
            server.execute(statement)


def of(server: str, name: str) -> str:
    """The URL of another database of the same server."""
    return re.sub(r"^(\w+://[^/?]*)(/[^?]*)?", rf"\1/{name}", server)


def major_of(programs: Path) -> int:
    """The major version of the server in a directory; 0 where there is none."""
    try:
        said = subprocess.run([programs / "postgres", "--version"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return 0
    found = re.match(r"postgres \(PostgreSQL\) (\d+)", said)
    return int(found[1]) if found and (programs / "initdb").exists() else 0


def places() -> Iterator[Path]:
    """Where a machine may have PostgreSQL's programs: the PATH, `pg_config --bindir`, and Debian's directories."""
    if found := shutil.which("postgres"):
        yield Path(found).resolve().parent
    if shutil.which("pg_config"):
        yield Path(subprocess.run(["pg_config", "--bindir"], capture_output=True, text=True).stdout.strip())
    yield from Path("/usr/lib/postgresql").glob("*/bin")


def installed(where: Iterable[Path]) -> dict[int, Path]:
    """The directories of programs that whoever PostgreSQL runs as may enter, by major version, from 15 on."""
    found = {major_of(programs): programs for programs in where if programs.is_dir()}
    return {major: programs for major, programs in sorted(found.items()) if major >= LEAST and enterable(programs)}


def enterable(programs: Path) -> bool:
    """Whether the user that a server would run as reaches its programs."""
    return may_enter(programs, servant(os.geteuid(), pwd.getpwall()))


def embedded_major() -> int:
    """The major version of the embedded PostgreSQL."""
    return major_of(package_dir() / PROGRAMS)


def own_programs() -> Path | None:
    """The programs for servers that a test may stop and kill, of the version that the run is about.

    None stands for the embedded ones. Skips the test where they are not on this machine.
    """
    server = given()
    if server is None or server.major == embedded_major():
        return None
    programs = installed(places()).get(server.major)
    if programs is None:
        pytest.skip(f"stops a server of its own, and the programs of PostgreSQL {server.major} are not on this machine")
    return programs


def own_server(directory: Path) -> EmbeddedPostgres:
    """A server that one test may stop and kill, of the version that the run is about. Skips where there is none."""
    programs = own_programs()
    return InstalledPostgres(directory, programs) if programs else EmbeddedPostgres(directory)


def open_directory() -> Path:
    """A new directory that everybody may enter."""
    made = Path(tempfile.mkdtemp(prefix="deskledger-test-"))
    made.chmod(0o755)
    return made
