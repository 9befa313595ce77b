"""New connections go to the process that has the fewest.

The processes of the API share one listening socket, and whoever is awake first gets what waits there: of eight
connections that a proxy keeps, all may come to one process, while another core has nothing to do. Here a process that
has more connections than another leaves a new one to it for a moment, and takes it only if nobody else did.
"""

import asyncio
import mmap
import socket
from collections.abc import Callable
from typing import Any

import structlog

LEAVE_SECONDS = 0.005  # to the others; so long a new connection waits where all others are busy or stuck
REST_SECONDS = 1.0  # after an error, such as too many open files
MOST_PROCESSES = 1_024
log = structlog.get_logger()


class Counts:
    """How many connections each process has: in memory that they share, made before they are forked."""

    def __init__(self) -> None:
        self._shared = memoryview(mmap.mmap(-1, MOST_PROCESSES * 4)).cast("I")

    def begin(self, server: Any, worker: Any) -> None:
        """Runs before each fork, as gunicorn's `pre_fork`: the new process gets a place that no living one has."""
        taken = {each.place for each in server.WORKERS.values()}
        worker.place = next(place for place in range(MOST_PROCESSES) if place not in taken)
        self._shared[worker.place] = 0

    def add(self, place: int, count: int) -> None:
        """One more or less; nobody else writes at this place."""
        self._shared[place] += count

    def has_more(self, place: int, processes: int) -> bool:
        """Whether the process at this place has more connections than another one."""
        return self._shared[place] > min(self._shared[:processes])


COUNTS = Counts()


class Accepting:
    """Accepts connections on a listening socket, one at a time: what `loop.create_server` would give gunicorn."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        factory: Callable[[], asyncio.Protocol],
        listening: socket.socket,
        leave: Callable[[], bool],
    ) -> None:
        self._loop, self._factory, self._socket, self._leave = loop, factory, listening, leave
        self._later: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        listening.setblocking(False)
        loop.add_reader(listening, self._wanted)

    def close(self) -> None:
        """Accepts nothing more. The socket stays open: it belongs to all processes."""
        if self._later:
            self._later.cancel()
        self._loop.remove_reader(self._socket)

    async def wait_closed(self) -> None:
        """There is nothing to wait for."""

    def _wanted(self) -> None:
        if self._leave():
            self._pause(LEAVE_SECONDS)
        else:
            self._accept()

    def _pause(self, seconds: float) -> None:
        self._loop.remove_reader(self._socket)
        self._later = self._loop.call_later(seconds, self._go_on)

    def _go_on(self) -> None:
        self._later = None
        self._loop.add_reader(self._socket, self._wanted)
        self._accept()

    def _accept(self) -> None:
        try:
            accepted, _ = self._socket.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return  # somebody else was faster, or the client went away
        except OSError as error:
            log.warning("connections cannot be accepted", reason=str(error))
            self._pause(REST_SECONDS)
            return
        accepted.setblocking(False)
        task = self._loop.create_task(self._loop.connect_accepted_socket(self._factory, accepted))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
