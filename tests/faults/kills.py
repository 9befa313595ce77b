"""What is killed, and how; each function kills one thing and sees to it that the next one of its kind is started."""

import os
import signal
from collections.abc import Callable
from contextlib import suppress

import psycopg

from application.store.postgres.database import connect
from tests.faults.stage import Stage

OURS = """select pid from pg_stat_activity
    where application_name like 'deskledger %' and application_name <> 'deskledger faults'"""
ITS_OWN = """select pid from pg_stat_activity
    where backend_type in ('checkpointer', 'walwriter', 'background writer', 'autovacuum launcher')"""


def api_worker(stage: Stage) -> None:
    """A process of the API; its master starts another one."""
    if workers := stage.api_workers():
        _kill(stage.whom.choice(workers))


def api(stage: Stage) -> None:
    """The API, all of its processes."""
    workers, process = stage.api_workers(), stage.desk.processes["api"]
    process.kill()
    process.wait()
    for pid in workers:
        _kill(pid)
    stage.desk.start("api")


def worker(stage: Stage) -> None:
    """The first worker: it seals and projects."""
    _start_again(stage, "work")


def second_worker(stage: Stage) -> None:
    """The second worker, which does the same."""
    _start_again(stage, "work 2")


def desk_writer(stage: Stage) -> None:
    """The writers through `HelpDesk`."""
    stage.end("desk", signal.SIGKILL)
    stage.start_clients("desk")


def combining_writer(stage: Stage) -> None:
    """The writers through `BatchingDesk`."""
    stage.end("combining", signal.SIGKILL)
    stage.start_clients("combining")


def backend(stage: Stage) -> None:
    """A process of PostgreSQL that serves a connection, or one that it needs itself: all the others restart with it."""
    queries = [OURS, ITS_OWN] if stage.chance.random() < 0.8 else [ITS_OWN]
    stage.answers()
    with connect(stage.url, "faults") as connection:
        found = [[row[0] for row in connection.execute(query).fetchall()] for query in queries]
    _kill(stage.whom.choice(found[0] or found[-1]))
    with suppress(AssertionError, psycopg.OperationalError):
        stage.answers()


def postmaster(stage: Stage) -> None:
    """The first process of PostgreSQL; the others notice, and end."""
    stage.primary.kill()
    stage.primary.start_again()


def immediate(stage: Stage) -> None:
    """PostgreSQL, by its immediate shutdown: nothing is written any more."""
    stage.primary.kill(signal.SIGQUIT)
    stage.primary.start_again()


OF_PROCESSES: dict[str, Callable[[Stage], None]] = {
    "API process": api_worker,
    "whole API": api,
    "worker": worker,
    "second worker": second_worker,
    "writers of HelpDesk": desk_writer,
    "writers of BatchingDesk": combining_writer,
}
OF_POSTGRES: dict[str, Callable[[Stage], None]] = {
    "PostgreSQL backend": backend,
    "PostgreSQL postmaster": postmaster,
    "PostgreSQL immediate": immediate,
}
WEIGHTS = {
    "API process": 5,
    "whole API": 1,
    "worker": 5,
    "second worker": 4,
    "writers of HelpDesk": 2,
    "writers of BatchingDesk": 2,
    "PostgreSQL backend": 5,
    "PostgreSQL postmaster": 2,
    "PostgreSQL immediate": 2,
}


def kill(stage: Stage, name: str) -> None:
    """Kills one thing of this kind."""
    (OF_PROCESSES | OF_POSTGRES)[name](stage)
    stage.kills[name] += 1


def _start_again(stage: Stage, part: str) -> None:
    stage.desk.processes[part].kill()
    stage.desk.processes[part].wait()
    stage.desk.start(part)


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
