"""The worker: gives events their position, keeps the projections up, and sends the closing e-mails."""

import signal
import threading
import time
from collections.abc import Callable
from email.utils import parseaddr
from functools import partial
from typing import Any

import psycopg
import structlog

from application.closure_mail import ClosureMailer, follow
from application.database import connect, pool
from application.helpdesk import utc_now
from application.sealing import LISTEN, seal_all
from application.settings import Settings
from application.smtp import smtp_send
from projections.catch_up import catch_up
from projections.runner import take_turns

IDLE_SECONDS = 0.25  # how long a commit without a wake-up call may wait
MAIL_SECONDS = 1.0
PAUSE_TIMES, LONGEST_BREATH = 9, 0.05  # a pause is so many rounds long, at most so many seconds
LONGEST_PAUSE = 10.0
log = structlog.get_logger()


class Worker:
    """Runs until it is stopped; when the database goes away, waits for it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._url = settings.database_url or ""
        self._domain = parseaddr(settings.mail_from)[1].partition("@")[2]
        self._stopping = threading.Event()

    def stop(self) -> None:
        """Ends what is under way, and then the worker."""
        self._stopping.set()

    def run(self) -> None:
        """Seals and projects in this thread; sends mail in another, which a slow mail server may hold up alone."""
        mail = threading.Thread(target=self._keep, args=(self._send_mails,), name="mail", daemon=True)
        if self._settings.smtp_url:
            mail.start()
        self._keep(self._follow_log)
        if mail.is_alive():
            mail.join(timeout=35)

    def _keep(self, work: Callable[[], None]) -> None:
        """Does it again after every failure, with growing pauses."""
        pause = 0.1
        while not self._stopping.is_set():
            try:
                work()
                pause = 0.1
            except Exception as error:  # noqa: BLE001 - said, and tried again: a worker that ends silently helps nobody
                log.warning("worker failed, trying again", work=work.__name__, reason=str(error).strip(), pause=pause)
                self._stopping.wait(pause)
                pause = min(pause * 2, LONGEST_PAUSE)

    def _follow_log(self) -> None:
        with connect(self._url, "worker", statement_seconds=60) as connection:
            connection.execute(LISTEN)
            take_turns(connection)
            while not self._stopping.is_set():
                begun = time.monotonic()
                if self.step(connection):
                    self._stopping.wait(min((time.monotonic() - begun) * PAUSE_TIMES, LONGEST_BREATH))
                else:
                    self._wait(connection)

    def step(self, connection: psycopg.Connection[Any]) -> int:
        """One round: seal, project, queue the mails. Returns how much there was to do."""
        sealed = seal_all(connection)
        try:
            return sealed + catch_up(connection)
        finally:  # a projection that fails must not hold up the mails
            follow(connection, self._domain, utc_now())

    def _wait(self, connection: psycopg.Connection[Any]) -> None:
        for _ in connection.notifies(timeout=IDLE_SECONDS, stop_after=1):
            return

    def _send_mails(self) -> None:
        send = partial(smtp_send, self._settings.smtp_url or "")
        with pool(self._url, "mail", size=1) as connections:
            mailer = ClosureMailer(connections, send, self._settings.mail_from, self._settings.reopen_window)
            while not self._stopping.is_set():
                if not mailer.send_next(utc_now()):
                    self._stopping.wait(MAIL_SECONDS)


def stop_on_signals(worker: Worker) -> None:
    """SIGTERM and SIGINT end the worker: in a thread of their own, since the thread that they interrupt may be just in
    the middle of waiting for the end, with the lock that ending takes."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: threading.Thread(target=worker.stop).start())


def work(settings: Settings) -> None:
    """Runs a worker in this process until SIGTERM or SIGINT."""
    worker = Worker(settings)
    stop_on_signals(worker)
    log.info("worker started")
    worker.run()
    log.info("worker stopped")
