"""The desk of an earlier version, ready to be upgraded: its dump, its data directory, its program."""

import gzip
import json
import os
import subprocess
import sys
import tarfile
from functools import cache
from pathlib import Path
from typing import Any

import psycopg
import pytest

from application.store.postgres.embedded_postgres import PROGRAMS, EmbeddedPostgres, own_directory, package_dir
from tests.support.running_desk import ROOT, RunningDesk

MATERIAL = Path(__file__).with_name("material")
VERSION = "0.1.0"
COMMIT = "d294f5d"  # made the material
NOT_KNOWN_BEFORE_17 = b"SET transaction_timeout = 0;\n"


@cache
def expected() -> dict[str, Any]:
    """What was written down when the material was made."""
    found: dict[str, Any] = json.loads(gzip.decompress((MATERIAL / f"{VERSION}.json.gz").read_bytes()))
    return found


def settings() -> dict[str, str]:
    """The settings that the desk was made with. No mail server: mails stay where they are."""
    return {
        "DESKLEDGER_REOPEN_DAYS": "3650",
        "DESKLEDGER_WEBHOOK_KEYS": expected()["webhook_key"],
        "DESKLEDGER_SMTP_URL": "",
    }


def restore(database: str) -> None:
    """Restores the dump into an empty database, as if its idempotency keys had been sent a moment ago."""
    dump = gzip.decompress((MATERIAL / f"{VERSION}.sql.gz").read_bytes()).replace(NOT_KNOWN_BEFORE_17, b"")
    options = ["--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", "--single-transaction"]
    psql = [str(package_dir() / PROGRAMS / "psql"), *options, f"--dbname={database}"]
    subprocess.run(psql, input=dump, check=True, stdout=subprocess.DEVNULL)
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("update idempotency set at = now()")
        connection.execute("analyze")


def unpack(directory: Path) -> None:
    """The data directory as it was, the server's log files excepted: the cluster is its own, closed to others."""
    with tarfile.open(MATERIAL / f"{VERSION}-data.tar.xz") as archive:
        archive.extractall(directory, filter="tar")
    servant, cluster = EmbeddedPostgres(directory).servant, directory / "postgres"
    own_directory(directory / "postgres-log", servant)
    own_directory(cluster, servant)
    for path in cluster.rglob("*") if servant else ():
        os.chown(path, servant.pw_uid, servant.pw_gid)


def migrate_command(database: str) -> tuple[list[str], dict[str, str]]:
    """`deskledger migrate` of this tree: the command and its environment."""
    return [sys.executable, "-m", "api.cli", "migrate"], {**os.environ, "DATABASE_URL": database}


def migrate_all(database: str) -> str:
    """Runs `deskledger migrate` to its end. Returns what it said."""
    command, environment = migrate_command(database)
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def program(directory: Path) -> Path:
    """The program of the earlier version. Skips the test where the history of this tree does not reach back so far."""
    found = subprocess.run(["git", "archive", COMMIT], cwd=ROOT, capture_output=True)
    if found.returncode:
        pytest.skip(f"needs the commit {COMMIT} of this tree's history: {found.stderr.decode(errors='replace')}")
    tree = directory / "program"
    tree.mkdir()
    subprocess.run(["tar", "-x", "-C", tree], input=found.stdout, check=True)
    return tree


class EarlierDesk(RunningDesk):
    """A desk whose processes run the program of the earlier version."""

    def __init__(self, database: str, directory: Path, tree: Path) -> None:
        super().__init__(database, directory)
        self._tree = tree

    def start(self, part: str) -> None:
        """Starts a part of it."""
        with (self.directory / f"earlier-{part}.log").open("ab") as log:
            command = [sys.executable, "-m", "api.cli", part]
            self.processes[part] = subprocess.Popen(
                command, cwd=self._tree, env=self.environment, stdout=log, stderr=log
            )
