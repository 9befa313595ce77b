"""Several processes, each with a connection of its own, that do the long tasks of a rebuild side by side.

A task is a function of a module and its arguments, which all have to be picklable. The first argument that it gets is
the process's connection. The processes are not forked from the one that wants them, which may have threads and has a
connection that no child may touch, but from a server of `multiprocessing` that has the standard library's part of them:
so each stands back before it imports the rest (docs/decisions/0019).
"""

import gc
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from functools import cache, partial
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import Any, LiteralString, TypeAlias

import psycopg
from psycopg.conninfo import make_conninfo

from application.observability.logs import configure
from application.settings import read_settings
from application.store.postgres.database import connect
from projections.engine.background_priority import begin_background_process, stand_back

Task: TypeAlias = tuple[Callable[..., Any], tuple[Any, ...]]
RunTasks: TypeAlias = Callable[[Iterable[Task]], Iterator[Any]]
REST_TIMES, LONGEST_REST = 4, 2.0  # beside commands: so many times as long as the task took, at most so many seconds
RECORDED: LiteralString = "select last_value from events_ord"  # reading it costs the same however many events there are
_rests: list[float] = []  # seconds: how long it is to rest before the next task


class ProcessPoolError(Exception):
    """A process of a rebuild has ended before its task was done."""


@contextmanager
def process_pool(connection: psycopg.Connection[Any], processes: int, settings: Sequence[str]) -> Iterator[RunTasks]:
    """What runs tasks in so many processes, on connections like this one; gives the results in the tasks' order.

    `settings` are statements that prepare each connection. The processes stand back behind commands and readers, and
    so do the server's processes for them where the server runs on this machine; while events are recorded, they rest
    four times as long as they work. They end with the block, and when this process ends in whatever way. With no
    process, for work that is done sooner than one has begun, the tasks run in this one, on a second connection.
    """
    url = make_conninfo("", **connection.info.get_parameters(), password=connection.info.password or None)
    if not processes:
        with _prepared(url, settings) as own:
            yield lambda tasks: (function(own, *arguments) for function, arguments in tasks)
        return
    context = get_context("forkserver")
    context.set_forkserver_preload(["concurrent.futures.process", "ctypes"])  # nothing of ours: see above
    pool = ProcessPoolExecutor(processes, context, begin_background_process)
    try:
        yield lambda tasks: pool.map(partial(_run, url, tuple(settings)), tasks)
    except BaseException as error:
        for process in active_children():
            process.terminate()
        if isinstance(error, BrokenProcessPool):
            raise ProcessPoolError("a process of the rebuild was ended from outside; begin again") from None
        raise
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # the swap need not wait for the ends of the processes


def _prepared(url: str, settings: Iterable[str]) -> psycopg.Connection[Any]:
    connection = connect(url, "rebuild", statement_seconds=0)
    connection.execute("set client_connection_check_interval to '1s'")  # the statement of a killed process ends, too
    for statement in settings:
        connection.execute(statement.encode())
    return connection


@cache
def _own_connection(url: str, settings: tuple[str, ...]) -> psycopg.Connection[Any]:
    """Made by the first task of a process, which it prepares for all of them."""
    gc.disable()  # what a task makes has no cycles; looking for some takes a tenth of the time
    configure(read_settings().log_level)
    connection = _prepared(url, settings)
    if connection.info.host.startswith("/") and _is_postgres(connection.info.backend_pid):
        stand_back(connection.info.backend_pid)
    return connection


def _is_postgres(pid: int) -> bool:
    """Whether a process of this machine is one of PostgreSQL's."""
    with suppress(OSError):  # it has ended, or is not for us to see
        return Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"postgres:")
    return False


def _run(url: str, settings: tuple[str, ...], task: Task) -> Any:
    """Does a task; rests before it when somebody was at work during the last one, who gets more of the machine."""
    time.sleep(_rests.pop() if _rests else 0.0)
    connection = _own_connection(url, settings)
    function, arguments = task
    begun, before = time.monotonic(), _recorded(connection)
    result = function(connection, *arguments)
    if _recorded(connection) != before:
        _rests.append(min((time.monotonic() - begun) * REST_TIMES, LONGEST_REST))
    return result


def _recorded(connection: psycopg.Connection[Any]) -> int:
    """Grows with every event that anybody records."""
    (last,) = connection.execute(RECORDED).fetchone() or (0,)
    return int(last)
