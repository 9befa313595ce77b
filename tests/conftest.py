"""What the tests stand on: one real PostgreSQL a run, a fresh database a test cloned from a template, a real desk."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
from psycopg.sql import SQL, Identifier
from served import Served

from application.database import connect, migrate, pool
from application.helpdesk import HelpDesk
from application.postgres import EmbeddedPostgres
from projections.runner import ensure_projections

TEMPLATE = "deskledger_template"
_numbers = count(1)


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory that whoever PostgreSQL runs as may enter; pytest's own are closed to others."""
    made = open_directory()
    yield made
    shutil.rmtree(made)


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """A PostgreSQL: the embedded one, or the server that DESKLEDGER_TEST_DATABASE_URL names."""
    if given := os.environ.get("DESKLEDGER_TEST_DATABASE_URL"):
        yield given
        return
    directory = open_directory()
    embedded = EmbeddedPostgres(directory)
    embedded.start()
    yield embedded.url
    embedded.stop()
    shutil.rmtree(directory)


@pytest.fixture(scope="session")
def template(postgres: str) -> Iterator[str]:
    """A database with the whole schema, made once."""
    with Fresh(postgres, TEMPLATE):
        with connect(of(postgres, TEMPLATE), "template") as connection:
            migrate(connection)
            ensure_projections(connection)
        yield TEMPLATE


@pytest.fixture
def database(postgres: str, template: str) -> Iterator[str]:
    """The URL of a fresh database of the whole schema."""
    name = f"deskledger_test_{os.getpid()}_{next(_numbers)}"
    with Fresh(postgres, name, template):
        yield of(postgres, name)


@pytest.fixture(scope="module")
def module_database(postgres: str, template: str) -> Iterator[str]:
    """The URL of a database that the tests of one module share."""
    name = f"deskledger_module_{os.getpid()}_{next(_numbers)}"
    with Fresh(postgres, name, template):
        yield of(postgres, name)


@pytest.fixture
def empty_database(postgres: str) -> Iterator[str]:
    """The URL of a database with nothing in it."""
    name = f"deskledger_empty_{os.getpid()}_{next(_numbers)}"
    with Fresh(postgres, name):
        yield of(postgres, name)


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
def served(database: str, tmp_path: Path) -> Iterator[Served]:
    """A real API, a real worker and a real mail server on the test's database."""
    with Served(database, tmp_path) as running:
        yield running


@pytest.fixture(scope="module")
def served_module(module_database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The same, shared by the tests of one module."""
    with Served(module_database, tmp_path_factory.mktemp("served")) as running:
        yield running


class Fresh:
    """A database that exists for as long as it is needed."""

    def __init__(self, server: str, name: str, template: str = "template0") -> None:
        self._server, self._name, self._template = server, name, template

    def __enter__(self) -> None:
        self._run(SQL("drop database if exists {} with (force)").format(Identifier(self._name)))
        self._run(SQL("create database {} template {}").format(Identifier(self._name), Identifier(self._template)))

    def __exit__(self, *_: object) -> None:
        self._run(SQL("drop database if exists {} with (force)").format(Identifier(self._name)))

    def _run(self, statement: object) -> None:
        with psycopg.connect(self._server, autocommit=True) as server:
            server.execute(statement)


def open_directory() -> Path:
    """A new directory that everybody may enter."""
    made = Path(tempfile.mkdtemp(prefix="deskledger-test-"))
    made.chmod(0o755)
    return made


def of(server: str, name: str) -> str:
    """The URL of another database of the same server."""
    return urlunsplit(urlsplit(server)._replace(path=f"/{name}"))
