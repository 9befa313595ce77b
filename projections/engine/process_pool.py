"""Several processes, each with a connection of its own, that do the long tasks of a rebuild side by side.

A task is a function of a module and its arguments, which all have to be picklable. The first argument that it gets is
the process's connection.
"""

import gc
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, LiteralString, TypeAlias

import psycopg
from psycopg.conninfo import make_conninfo

from application.observability.logs import configure
from application.settings import read_settings
from application.store.postgres.database import connect
from projections.engine.background_priority import stand_back

Task: TypeAlias = tuple[Callable[..., Any], tuple[Any, ...]]
RunTasks: TypeAlias = Callable[[Iterable[Task]], Iterator[Any]]
POOL_PATIENCE_SECONDS = 10
REST_TIMES, LONGEST_REST = 2, 2.0  # beside commands: so many times as long as the task took, at most so many seconds
RECORDED: LiteralString = "select last_value from events_ord"


class ProcessPoolError(Exception):
    """A process of a rebuild has ended before its task was done."""


@contextmanager
def process_pool(
    connection: psycopg.Connection[Any], processes: int, settings: Sequence[str], name: str = "rebuild"
) -> Iterator[RunTasks]:
    """What runs tasks in so many processes, on connections like this one; gives the results as they come.

    `settings` are statements that prepare each connection, `name` is what pg_stat_activity shows of it. The processes
    stand back behind commands and readers, and so do the server's processes for them where the server runs on this
    machine; while events are recorded, they rest twice as long as they work. They end with the block, and after their
    present task when this process ends in whatever way. With no process, for work that is done sooner than one has
    begun, the tasks run in this one, on a second connection.
    """
    url = make_conninfo("", **connection.info.get_parameters(), password=connection.info.password or None)
    if not processes:
        with _prepared(url, settings, name) as own:
            yield lambda tasks: (function(own, *arguments) for function, arguments in tasks)
        return
    pipes: list[Connection[Any, Any]] = []
    running: list[subprocess.Popen[bytes]] = []
    try:
        for _ in range(processes):
            here, there = Pipe()
            with there:
                command = [sys.executable, "-m", "projections.engine.process_pool", str(there.fileno())]
                running.append(
                    subprocess.Popen(
                        command, pass_fds=[there.fileno()], stdin=subprocess.DEVNULL, start_new_session=True
                    )
                )
            stand_back(running[-1].pid)  # its start is the first thing that others would feel
            pipes.append(here)
            here.send((url, settings, name))
        yield lambda tasks: _distribute(pipes, tasks)
    finally:
        for pipe in pipes:
            pipe.close()
        for process in running:
            _end(process)


def _distribute(pipes: Sequence["Connection[Any, Any]"], tasks: Iterable[Task]) -> Iterator[Any]:
    coming, idle, busy = iter(tasks), list(pipes), set[Any]()
    while True:
        while idle and (task := next(coming, None)):
            with _watched():
                idle[-1].send(task)
            busy.add(idle.pop())
        if not busy:
            return
        ready = wait(busy)
        for pipe in [each for each in pipes if each in ready]:
            busy.discard(pipe)
            idle.append(pipe)
            yield _answer(pipe)


def _answer(pipe: "Connection[Any, Any]") -> Any:
    with _watched():
        result, error = pipe.recv()
    if error:
        raise error
    return result


@contextmanager
def _watched() -> Iterator[None]:
    try:
        yield
    except (EOFError, ConnectionError):
        raise ProcessPoolError("a process of the rebuild was ended from outside; begin again") from None


def _end(process: subprocess.Popen[bytes]) -> None:
    """A process whose pipe is closed ends after its task; one that does not is ended."""
    process.terminate()
    try:
        process.wait(POOL_PATIENCE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _prepared(url: str, settings: Iterable[str], name: str) -> psycopg.Connection[Any]:
    connection = connect(url, name, statement_seconds=0)
    for statement in settings:
        connection.execute(statement.encode())
    return connection


def main(descriptor: int) -> None:
    """One process of a crew: does what comes through the pipe, until the other end is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever started it decides what an interruption means
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends the statement too, and not only who waits for it
    gc.disable()  # what a task makes has no cycles; looking for some takes a tenth of the time
    configure(read_settings().log_level)
    with Connection(descriptor) as pipe:
        url, settings, name = pipe.recv()
        with _prepared(url, settings, name) as connection:
            _stand_back(os.getpid(), *_server_process(connection))
            while True:
                try:
                    function, arguments = pipe.recv()
                except EOFError:
                    return
                begun, before = time.monotonic(), _recorded(connection)
                pipe.send(_do(function, connection, arguments))
                if _recorded(connection) != before:  # somebody is at work, and gets more of the machine than this does
                    time.sleep(min((time.monotonic() - begun) * REST_TIMES, LONGEST_REST))


def _recorded(connection: psycopg.Connection[Any]) -> int:
    """Grows with every event that anybody records; reading it costs the same however many there are.

    0 where it cannot be read: the task on such a connection says why.
    """
    with suppress(psycopg.Error):
        for (last,) in connection.execute(RECORDED):
            return int(last)
    return 0


def _stand_back(*processes: int) -> None:
    """Lowers the priority of processes, again and again for a second where the kernel lets ordinary users wait."""
    left = list(processes)
    for _ in range(10):
        left = [process for process in left if not stand_back(process)]
        if not left:
            return
        time.sleep(0.1)


def _server_process(connection: psycopg.Connection[Any]) -> list[int]:
    """The process ID of the server's process for a connection, where that runs on this machine."""
    beside = connection.info.backend_pid
    with suppress(OSError):
        local = connection.info.host.startswith("/")
        if local and Path(f"/proc/{beside}/cmdline").read_bytes().startswith(b"postgres:"):
            return [beside]
    return []


def _do(function: Callable[..., Any], connection: psycopg.Connection[Any], arguments: tuple[Any, ...]) -> Any:
    try:
        return function(connection, *arguments), None
    except Exception as error:  # noqa: BLE001 - raised again by whoever gave the task
        return None, error


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        main(int(sys.argv[1]))
