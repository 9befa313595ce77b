"""Logs: one JSON object a line on standard error, or colours where somebody is looking.

Whoever logs must not wait for whoever reads: after `start_writer`, lines go through a queue to a thread, which writes
those of a moment together. While standard error takes nothing, `MOST_WAITING` lines wait; those that come then are
dropped and counted, and a line says how many.
"""

import atexit
import logging
import os
import stat
import sys
import threading
import time
import traceback
from logging.handlers import QueueHandler
from queue import SimpleQueue
from select import PIPE_BUF
from typing import Any

import psycopg
import structlog
from structlog.stdlib import ProcessorFormatter
from structlog.typing import EventDict, ExcInfo, Processor

from application.observability.metrics import LINES_DROPPED

FILE_BUF = 65_536
FLUSH_SECONDS = 0.05  # lines of so long are written together
LOG_AGAIN_SECONDS = 0.005
MOST_WAITING = 10_000  # lines: some four megabytes
END_SECONDS = 1.0  # at its end, a process waits so long for a reader that does not read
MOST_TRACED = 3_000  # characters of a traceback, so that its line is one write
MOST_SUMMARY = 300
STDERR = 2
log = structlog.get_logger()


class LineHandler(QueueHandler):
    """Renders records to lines. They are written at once; after `start`, in this process, a thread writes them."""

    queue: SimpleQueue[bytes]

    def __init__(self, descriptor: int = STDERR) -> None:
        super().__init__(SimpleQueue())
        self._descriptor, self._started, self._most = descriptor, False, PIPE_BUF
        self._dropped = self._reported = 0  # lines: each is counted by one thread only
        self._written = threading.Event()

    def start(self) -> None:
        """Starts the thread; at its end, the process waits for it."""
        if not self._started:
            self._started = True
            if stat.S_ISREG(os.fstat(self._descriptor).st_mode):
                self._most = FILE_BUF
            threading.Thread(target=self._write_all, name="log", daemon=True).start()
            atexit.register(self.flush)

    def prepare(self, record: logging.LogRecord) -> bytes:
        """Renders a record where it is logged: what it tells of may change."""
        return self.format(record).encode(errors="backslashreplace") + b"\n"

    def enqueue(self, record: Any) -> None:
        """Takes a line, as bytes with its end."""
        if not self._started:
            self._write(record)
        elif self.queue.qsize() < MOST_WAITING:
            self.queue.put(record)
        else:
            self._dropped += 1
            LINES_DROPPED.add()

    def flush(self) -> None:
        """Waits until everything is written, for at most `END_SECONDS`."""
        if self._started:
            self._written.clear()
            self.queue.put(b"")
            self._written.wait(END_SECONDS)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - its name in the standard library
        """Says whose record cannot be rendered, and nothing of what it was made of."""
        log.error("a log record cannot be rendered", logger=record.name)

    def _write_all(self) -> None:
        """Writes lines together with those that come within a moment, in pieces that are taken whole: lines of several
        processes do not mix."""
        while True:
            lines = [self.queue.get()]
            if lines[0]:  # or this thread would want the interpreter lock for each line anew
                time.sleep(FLUSH_SECONDS)
            lines += [self.queue.get() for _ in range(self.queue.qsize())]
            text = b"".join(lines)
            while text:
                end = text.rfind(b"\n", 0, self._most) + 1 or text.find(b"\n") + 1
                self._write(text[:end])
                text = text[end:]
            if b"" in lines:  # somebody waits until everything before it is written
                self._written.set()
            if missing := self._dropped - self._reported:
                self._reported += missing
                log.warning("log lines are missing here: nobody read them", lines=missing)

    def _write(self, lines: bytes) -> None:
        """Writes all of it, or drops it where nobody can read it any more."""
        while lines:
            try:
                lines = lines[os.write(self._descriptor, lines) :]
            except BlockingIOError:  # another program that shares it has made it so
                time.sleep(LOG_AGAIN_SECONDS)
            except OSError:
                LINES_DROPPED.add(by=lines.count(b"\n"))
                return


HANDLER = LineHandler()


def configure(level: str) -> None:
    """Sends every log line of this process to standard error, those of the libraries, too."""
    numeric = logging.getLevelNamesMapping()[level.upper()]
    first: list[Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.ExceptionRenderer(_traceback),
    ]
    structlog.configure(
        processors=[*first, ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(numeric),
        logger_factory=structlog.stdlib.LoggerFactory(),
    )
    render: list[Processor] = [ProcessorFormatter.remove_processors_meta]
    if is_console():
        render += [_printable, structlog.dev.ConsoleRenderer()]
    else:  # JSON in ASCII: nothing in a value ends a line or steers a terminal
        render += [structlog.processors.JSONRenderer(default=str)]
    foreign = [structlog.stdlib.add_logger_name, *first]
    HANDLER.setFormatter(ProcessorFormatter(processors=render, foreign_pre_chain=foreign))
    logging.basicConfig(handlers=[HANDLER], level=numeric, force=True)
    logging.getLogger("mail.log").setLevel(max(numeric, logging.WARNING))  # aiosmtpd tells of each command at info


def start_writer() -> None:
    """For a process that serves: it waits for no reader, and an error that ends it is a line as well."""
    HANDLER.start()
    sys.excepthook = lambda *error: log.critical("ended by an error", exc_info=error)


def is_console() -> bool:
    """Whether somebody is looking."""
    return sys.stderr is not None and sys.stderr.isatty()


def error_summary(error: BaseException) -> str:
    """What an error says, in one line; of PostgreSQL's only the message: its DETAIL quotes rows."""
    message = error.diag.message_primary if isinstance(error, psycopg.Error) and error.sqlstate else None
    return " ".join((message or str(error)).split())[:MOST_SUMMARY]


def _traceback(exc_info: ExcInfo) -> str:
    """The frames, the kinds of the errors and what each says, without PostgreSQL's DETAIL."""
    error: BaseException | None = exc_info[1]
    parts: list[str] = []
    while error is not None:
        frames = "".join(traceback.format_tb(error.__traceback__))
        parts.insert(0, f"{frames}{type(error).__module__}.{type(error).__qualname__}: {error_summary(error)}\n")
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return "then\n".join(parts)[-MOST_TRACED:]


def _printable(logger: object, method: str, event: EventDict) -> EventDict:
    """For a terminal: what is not printable is shown as its escape, but for the line ends of a traceback."""
    return {name: _shown(value, "\n" if name == "exception" else "") for name, value in event.items()}


def _shown(value: Any, kept: str) -> Any:
    if not isinstance(value, str):
        return value
    return "".join(letter if letter.isprintable() or letter in kept else ascii(letter)[1:-1] for letter in value)
