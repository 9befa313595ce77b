"""What the tests stand on: one real PostgreSQL a run, a fresh database a test cloned from a template, a real desk."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from secrets import token_hex

import psycopg
import pytest
from psycopg.sql import SQL, Identifier, Literal

from application.helpdesk import HelpDesk
from application.store.postgres.database import connect, migrate, pool
from application.store.postgres.embedded_postgres import EmbeddedPostgres
from projections.reports.reporting_schema import ROLE
from projections.runner import ensure_projections
from tests.support import postgres_servers as servers
from tests.support.postgres_servers import Fresh, QuickPostgres, open_directory
from tests.support.running_desk import RunningDesk
from tests.support.write_side import make_schema

_run = f"deskledger_test_{token_hex(4)}"  # two runs on one server do not meet
_numbers = count(1)


def pytest_configure(config: pytest.Config) -> None:
    """Whatever a test starts, it never finds the desk of whoever runs it; a server that cannot be used ends the run."""
    os.environ.pop("DATABASE_URL", None)
    servers.given()


def pytest_report_header(config: pytest.Config) -> str:
    """What the tests run on."""
    server = servers.given()
    return f"database: PostgreSQL {server.version}, by {servers.VARIABLE}" if server else "database: the embedded one"


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory that whoever PostgreSQL runs as may enter; pytest's own are closed to others."""
    made = open_directory()
    yield made
    shutil.rmtree(made)


@pytest.fixture(scope="session")
def embedded() -> None:
    """For tests about the embedded PostgreSQL: they are left out where the run is about another server."""
    if servers.GIVEN:
        pytest.skip("about the embedded PostgreSQL, and the run is about another server")


@pytest.fixture(scope="session")
def superuser() -> None:
    """For tests that make roles and act as one: they are left out where the role of the run may not."""
    server = servers.given()
    if server and not server.superuser:
        pytest.skip("makes roles and acts as one, and the role of the run is no superuser")


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """A PostgreSQL for each process of the run: an embedded one, or the server that DESKLEDGER_TEST_DATABASE_URL names.

    One of its own, as the sealer's proof looks at the transactions of the whole server, and roles are the server's too.
    """
    if servers.GIVEN:
        with role_as_before(servers.GIVEN):
            yield servers.GIVEN
        return
    directory = open_directory()
    quick = QuickPostgres(directory)
    quick.start()
    yield quick.url
    quick.stop()
    shutil.rmtree(directory)


@contextmanager
def role_as_before(server: str) -> Iterator[None]:
    """The reporting role, which a migration makes for the whole server, is gone at the end when it was not there."""
    known = SQL("select from pg_roles where rolname = {}").format(Literal(ROLE))
    with psycopg.connect(server, autocommit=True) as connection:
        was_there = connection.execute(known).fetchone()
    yield
    others = psycopg.errors.DependentObjectsStillExist, psycopg.errors.InsufficientPrivilege  # another run has made it
    with psycopg.connect(server, autocommit=True) as connection, suppress(*others):
        if not was_there:
            connection.execute(SQL("drop role if exists {}").format(Identifier(ROLE)))


@pytest.fixture(scope="session")
def template(postgres: str) -> Iterator[str]:
    """A database with the whole schema, made once."""
    with Fresh(postgres, f"{_run}_template") as url:
        with connect(url, "template") as connection:
            make_schema(connection)
            ensure_projections(connection)
        yield f"{_run}_template"


@pytest.fixture
def database(postgres: str, template: str) -> Iterator[str]:
    """The URL of a fresh database of the whole schema."""
    with Fresh(postgres, f"{_run}_{next(_numbers)}", template) as url:
        yield url


@pytest.fixture
def strict_database(postgres: str) -> Iterator[str]:
    """The URL of a fresh database that takes events of the present alone, as that of any desk does."""
    with Fresh(postgres, f"{_run}_{next(_numbers)}") as url:
        with connect(url, "template") as connection:
            migrate(connection)
            ensure_projections(connection)
        yield url


@pytest.fixture(scope="module")
def module_database(postgres: str, template: str) -> Iterator[str]:
    """The URL of a database that the tests of one module share."""
    with Fresh(postgres, f"{_run}_{next(_numbers)}", template) as url:
        yield url


@pytest.fixture
def empty_database(postgres: str) -> Iterator[str]:
    """The URL of a database with nothing in it."""
    with Fresh(postgres, f"{_run}_{next(_numbers)}") as url:
        yield url


@pytest.fixture
def own_postgres(directory: Path) -> Iterator[EmbeddedPostgres]:
    """A server with nothing in it, of the version that the run is about, which one test may stop and kill."""
    postgres = servers.own_server(directory)
    postgres.start()
    yield postgres
    postgres.stop()


@pytest.fixture
def connection(database: str) -> Iterator[psycopg.Connection]:
    """A connection to the test's database."""
    with connect(database, "test") as opened:
        yield opened


@pytest.fixture
def desk(database: str) -> Iterator[HelpDesk]:
    """The synchronous shell on the test's database."""
    with pool(database, "test desk", size=4) as connections, HelpDesk(connections) as helpdesk:
        yield helpdesk


@pytest.fixture
def served(database: str, tmp_path: Path) -> Iterator[RunningDesk]:
    """A real API, a real worker and a real mail server on the test's database."""
    with RunningDesk(database, tmp_path) as running:
        yield running


@pytest.fixture(scope="session")
def shared_desk(postgres: str, template: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDesk]:
    """The same, for all tests of this process that only talk to a desk: each makes the tickets that it looks at."""
    with (
        Fresh(postgres, f"{_run}_shared", template) as url,
        RunningDesk(url, tmp_path_factory.mktemp("shared")) as running,
    ):
        yield running


@pytest.fixture(autouse=True)
def settled_before(request: pytest.FixtureRequest) -> None:
    """A test on the shared desk begins when what the tests before it wrote has come to its end in every list."""
    if "shared_desk" in request.fixturenames:
        request.getfixturevalue("shared_desk").settled()


@pytest.fixture(scope="module")
def module_desk(module_database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDesk]:
    """The same, for the tests of one module: for those that count everything, or leave the desk other than it was."""
    with RunningDesk(module_database, tmp_path_factory.mktemp("served")) as running:
        yield running


def pytest_make_parametrize_id(config: pytest.Config, val: object, argname: str) -> str | None:
    """A long text is called by the name of its parameter: every process of a run has to call each test the same."""
    return argname if isinstance(val, str) and len(val) > 60 else None
