"""Logs: one JSON object a line on standard error, or colours where somebody is looking.

Whoever logs must not wait for whoever reads: after `begin`, lines collect and are written together, by the event loop
where standard error is a file or a pipe (which then gets them without waiting), else by a thread. While it takes
nothing, `MOST_WAITING` lines wait; those that come then are dropped and counted, and a line says how many.
"""

import asyncio
import atexit
import json
import logging
import os
import select
import stat
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import MutableMapping
from contextlib import suppress
from types import TracebackType
from typing import Any

import psycopg
import structlog

from application.metrics import LINES_DROPPED

FLUSH_SECONDS = 0.05  # lines of so long are written together
AGAIN_SECONDS = 0.005  # to a reader who is slow
MOST_WAITING = 10_000  # lines: some four megabytes
END_SECONDS = 1.0  # at its end, a process waits so long for a reader that does not read
FILE_BUF = 65536
PIPE_BUF = 4096  # bytes that a pipe takes whole: lines of several processes do not mix
MOST_TRACED = 3_000  # characters of a traceback, so that its line is one write
MOST_SAID = 300
STDERR = 2


class Sink:
    """Where lines go. Until `begin`, and in a process forked since, writing waits for the reader."""

    def __init__(self, descriptor: int = STDERR) -> None:
        self._descriptor = self._at_once = descriptor
        self._most = PIPE_BUF
        self._waiting: deque[bytes] = deque()
        self._due = self._ending = False
        self._dropped = 0
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def begin(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        """From now on, in this process, lines collect. The loop writes them where that never waits, else a thread."""
        if self._thread or self._loop:
            return
        if loop and (at_once := _opened_anew(self._descriptor)) is not None:
            self._loop, self._at_once = loop, at_once
            self._most = PIPE_BUF if at_once != self._descriptor else FILE_BUF
        else:
            self._thread = threading.Thread(target=self._run, name="log", daemon=True)
            self._thread.start()
        atexit.register(self.end)

    def end(self) -> None:
        """Writes what waits, for at most a second; from then on each line at once."""
        self._ending = True
        if self._thread:
            self._wake.set()
            self._thread.join(END_SECONDS)
            while not self._thread.is_alive() and (chunk := self._next()):  # what came at the last moment
                _put(self._descriptor, chunk)
        elif self._loop:
            until = time.monotonic() + END_SECONDS
            while not self._flushed() and time.monotonic() < until:
                time.sleep(AGAIN_SECONDS)
        if self._at_once != self._descriptor:
            os.close(self._at_once)
            self._at_once = self._descriptor
        self._thread = self._loop = None
        self._ending = self._due = False

    def write(self, line: bytes) -> None:
        """Takes a line, with its end."""
        if self._thread is None and self._loop is None:
            _put(self._descriptor, line)
        elif len(self._waiting) >= MOST_WAITING:
            self._dropped += 1
            LINES_DROPPED.add()
        else:
            self._waiting.append(line)
            if not self._due:
                self._due = True
                if self._loop:
                    self._loop.call_soon_threadsafe(self._loop.call_later, FLUSH_SECONDS, self._tick)
                else:
                    self._wake.set()

    def flush(self) -> None:
        """As a file's; there is nothing to do."""

    def _tick(self) -> None:
        """Runs in the loop, while lines wait."""
        self._due = False
        if not self._flushed() and self._loop:
            self._due = True
            self._loop.call_later(AGAIN_SECONDS, self._tick)

    def _flushed(self) -> bool:
        """Writes what can be written without waiting. Returns whether that was all."""
        while chunk := self._next():
            try:
                rest = chunk[os.write(self._at_once, chunk) :]  # a pipe takes all of it or nothing, unless it is long
            except BlockingIOError:
                rest = chunk
            except OSError:
                LINES_DROPPED.add(by=chunk.count(b"\n"))
                continue
            if rest:
                self._waiting.appendleft(rest)
                return False
        return not self._say_what_is_missing()

    def _run(self) -> None:
        while not self._ending:
            self._wake.wait()
            if not self._ending:
                time.sleep(FLUSH_SECONDS)
            self._wake.clear()
            self._due = False
            while chunk := self._next():
                _put(self._descriptor, chunk)
            self._say_what_is_missing()

    def _say_what_is_missing(self) -> bool:
        missing, self._dropped = self._dropped, 0
        if missing:
            structlog.get_logger().warning("log lines are missing here: nobody read them", lines=missing)
        return missing > 0

    def _next(self) -> bytes:
        """Whole lines that a pipe takes at once, or many for a file; a longer one goes alone."""
        lines: list[bytes] = []
        size = 0
        while self._waiting and (not lines or size + len(self._waiting[0]) <= self._most):
            lines.append(self._waiting.popleft())
            size += len(lines[-1])
        return b"".join(lines)


def _opened_anew(descriptor: int) -> int | None:
    """A descriptor that never waits, for the same: of a file itself, of a pipe one of our own, so that nobody else's
    becomes non-blocking. None for what is neither, and where the system does not let us."""
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return descriptor
    if stat.S_ISFIFO(mode):
        with suppress(OSError):
            return os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_NONBLOCK)
    return None


def _put(descriptor: int, data: bytes) -> None:
    """Writes all of it, or drops it where nobody can read it any more."""
    while data:
        try:
            data = data[os.write(descriptor, data) :]
        except BlockingIOError:  # whoever shares it has made it so
            poll = select.poll()
            poll.register(descriptor, select.POLLOUT)
            poll.poll()
        except OSError:
            LINES_DROPPED.add(by=data.count(b"\n"))
            return


SINK = Sink()


def configure(level: str) -> None:
    """Sends every log line of this process to standard error, those of the libraries, too."""
    numeric = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _with_traceback,
            *((_printable, _coloured()) if is_console() else (_as_json,)),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(numeric),
        logger_factory=lambda *_: structlog.BytesLogger(file=SINK),  # type: ignore[arg-type]
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(handlers=[_FromLibraries()], level=numeric, force=True)
    logging.getLogger("mail.log").setLevel(max(numeric, logging.WARNING))  # aiosmtpd tells of each command at info


def begin(loop: asyncio.AbstractEventLoop | None = None) -> None:
    """For a process that serves: it waits for no reader, and an error that ends it is a line as well."""
    SINK.begin(loop)
    sys.excepthook = _ended_by


def is_console() -> bool:
    """Whether somebody is looking."""
    return sys.stderr is not None and sys.stderr.isatty()


def told(error: BaseException) -> str:
    """What an error says, in one line; of PostgreSQL's only the message: its DETAIL quotes rows."""
    said = error.diag.message_primary if isinstance(error, psycopg.Error) and error.sqlstate else None
    return " ".join((said or str(error)).split())[:MOST_SAID]


class _FromLibraries(logging.Handler):
    """What gunicorn, asyncio and the others log becomes a line like any other."""

    def emit(self, record: logging.LogRecord) -> None:
        """One line, at the nearest level."""
        level = max(logging.DEBUG, min(record.levelno // 10 * 10, logging.CRITICAL))
        more = {"exc_info": record.exc_info} if record.exc_info else {}
        structlog.get_logger().log(level, record.getMessage(), logger=record.name, **more)


def _ended_by(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    structlog.get_logger().critical("ended by an error", exc_info=(kind, error, trace))


Event = MutableMapping[str, Any]


def _with_traceback(logger: object, method: str, event: Event) -> Event:
    """The frames, the kinds of the errors and what each says, without PostgreSQL's DETAIL."""
    found = event.pop("exc_info", None)
    error = sys.exc_info()[1] if found is True else found[1] if isinstance(found, tuple) else found
    parts: list[str] = []
    while isinstance(error, BaseException):
        frames = "".join(traceback.format_tb(error.__traceback__))
        parts.insert(0, f"{frames}{type(error).__module__}.{type(error).__qualname__}: {told(error)}\n")
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if parts:
        event["exception"] = "then\n".join(parts)[-MOST_TRACED:]
    return event


def _as_json(logger: object, method: str, event: Event) -> bytes:
    """ASCII only, control characters escaped: nothing in a value ends a line or steers a terminal."""
    return json.dumps(event, default=str).encode()


def _printable(logger: object, method: str, event: Event) -> Event:
    """For a terminal: what is not printable is shown as its escape, but for the lines of a traceback."""
    lines = {"exception": "\n".join(map(_shown, event["exception"].split("\n")))} if "exception" in event else {}
    return {name: _shown(value) for name, value in event.items()} | lines


def _shown(value: Any) -> Any:
    return ascii(value)[1:-1] if isinstance(value, str) and not value.isprintable() else value


def _coloured() -> Any:
    render = structlog.dev.ConsoleRenderer()

    def coloured(logger: Any, method: str, event: Event) -> bytes:
        return str(render(logger, method, event)).encode(errors="backslashreplace")

    return coloured
