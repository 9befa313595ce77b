"""PostgreSQL from 15 on: the database tests on another server than the embedded one, and servers that are not taken."""

import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import psycopg
import pytest

from application.store.postgres.embedded_postgres import EmbeddedPostgres
from tests.support.postgres_servers import (
    VARIABLE,
    Fresh,
    InstalledPostgres,
    embedded_major,
    installed,
    looked_at,
    of,
    places,
)
from tests.support.running_desk import ROOT

SHORTEST = [
    "tests/application/test_sealing.py",
    "tests/application/test_event_store.py",
    "tests/application/test_combining.py",
    "tests/application/test_recorder.py",
    "tests/projections/test_projections.py",
    "tests/projections/test_rebuild.py::test_a_rebuilt_projection_equals_the_live_one",
    "tests/projections/test_rebuild.py::test_readers_see_the_old_tables_until_the_swap",
    "tests/application/test_database.py",
    "tests/api/test_journey.py",
]
OTHERS = {major: programs for major, programs in installed(places()).items() if major != embedded_major()}
NONE = "no other PostgreSQL from 15 on is installed: looked on the PATH, by pg_config, and in /usr/lib/postgresql"


def run(url: str, *words: str) -> subprocess.CompletedProcess[str]:
    """A test run of its own on the server of a URL."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--tb=short", *words]
    environment = {**os.environ, VARIABLE: url}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500)


@pytest.mark.skipif(not OTHERS, reason=NONE)
def test_the_shortest_run_passes_on_another_postgresql(directory: Path) -> None:
    """Sealing, appending, the library's contract, projections, migrations and one journey, on the oldest one here."""
    major, programs = next(iter(OTHERS.items()))
    postgres = InstalledPostgres(directory / "data", programs)
    postgres.start()
    try:
        report = directory / "report.xml"
        ran = run(postgres.url, f"--junitxml={report}", *SHORTEST)
        with psycopg.connect(postgres.url) as connection:
            left = connection.execute("select count(*) from pg_database").fetchone()
    finally:
        postgres.stop()
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert f"database: PostgreSQL {major}." in ran.stdout
    (suite,) = ET.parse(report).getroot()
    assert int(suite.attrib["tests"]) > 100
    assert int(suite.attrib["skipped"]) == 0
    assert left == (4,)  # its own, template0, template1 and postgres


@pytest.fixture
def person(own_postgres: EmbeddedPostgres) -> str:
    """The URL of somebody who may only log in."""
    with psycopg.connect(own_postgres.url, autocommit=True) as connection:
        connection.execute("create role person login")
    return own_postgres.url.replace("deskledger@", "person@")


def test_a_role_that_makes_no_databases_is_told_what_to_do(person: str, own_postgres: EmbeddedPostgres) -> None:
    """The run ends before its first test, with the statement that mends it; with that, the server is taken."""
    refused = run(person, "tests/application/test_database.py")
    says = 'person may not create databases: let a superuser run alter role "person" createdb'
    assert (refused.returncode, refused.stderr.strip()) == (4, f"ERROR: {VARIABLE}: {says}")
    assert "test_database" not in refused.stdout
    with psycopg.connect(own_postgres.url, autocommit=True) as connection:
        connection.execute("alter role person createdb")
    assert looked_at(person).superuser is False


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("host=db.example.org dbname=desk", "name the database in the path, as in postgresql://user@host/postgres"),
        ("postgresql://me:secret@host/desk?no=1", "is no URL: it takes postgresql://user:password@host/postgres"),
        (
            "postgresql://host/desk?dbname=payroll",
            "name the database in the path, as in postgresql://user@host/postgres",
        ),
        ("postgresql://me:secret@127.0.0.1:1/desk", "start the server, or mend the URL: "),
    ],
)
def test_a_url_that_names_no_server_is_refused(url: str, says: str) -> None:
    """What to do is said, and no password. A URL whose database cannot be replaced would lead to somebody's own one."""
    with pytest.raises(pytest.UsageError, match=VARIABLE) as refused:
        looked_at(url)
    assert says in str(refused.value)
    assert "secret" not in str(refused.value)


def test_another_database_of_the_same_server() -> None:
    """The path is replaced, and the rest of the URL stays."""
    for before, after in {
        "postgresql://me:p%2Fw@host:5433/desk?sslmode=require": "postgresql://me:p%2Fw@host:5433/x?sslmode=require",
        "postgresql://me@/desk?host=%2Frun": "postgresql://me@/x?host=%2Frun",
        "postgresql:///desk": "postgresql:///x",
        "postgresql://[::1]": "postgresql://[::1]/x",
    }.items():
        assert of(before, "x") == after


def test_a_database_that_was_there_is_not_taken(postgres: str, database: str) -> None:
    """A test's database is new; where somebody has one of that name, the test ends, and theirs stays as it is."""
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("create table precious ()")
        with pytest.raises(psycopg.errors.DuplicateDatabase), Fresh(postgres, connection.info.dbname):
            pass
        assert connection.execute("select count(*) from precious").fetchone() == (0,)


def test_what_is_installed_is_found_by_its_version(directory: Path) -> None:
    """Directories with a server and initdb count, from version 15 on, each under its version, the oldest first."""
    for name, says in {"a": "17.2 (Debian)", "b": "15.18", "c": "14.9", "d": "19beta1", "e": "16.1"}.items():
        (directory / name).mkdir()
        (directory / name / "postgres").write_text(f"#!/bin/sh\necho 'postgres (PostgreSQL) {says}'\n")
        (directory / name / "postgres").chmod(0o755)
        if name != "e":
            (directory / name / "initdb").touch()
    (directory / "empty").mkdir()
    found = installed(sorted([*directory.iterdir(), directory / "absent"]))
    assert list(found.items()) == [(15, directory / "b"), (17, directory / "a"), (19, directory / "d")]
