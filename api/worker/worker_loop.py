"""The worker: gives events their position, keeps the projections up, and sends the closing e-mails."""

import threading
import time
from collections.abc import Callable
from email.utils import parseaddr
from functools import partial
from typing import Any

import psycopg
import structlog

from api.worker.webhook_dispatcher import LAST_SECONDS, Dispatcher
from application.clock import utc_now
from application.commands.idempotency_pruning import prune_idempotency_keys
from application.mail.closure_mail import ClosureMailer, queue_due_mails
from application.mail.smtp import smtp_send
from application.observability.logs import error_summary
from application.observability.metrics import SEALED_EVENTS, SEALING_DELAY, WORK_FAILED
from application.observability.process_stats import ProcessStats, seldom_collect
from application.settings import Settings
from application.store.postgres.database import connect, pool
from application.store.sealing import LISTEN, delay, seal_all
from application.store.snapshots import forget_snapshots, take_snapshots
from application.webhooks.address_rules import read_rules
from application.webhooks.sender import WebhookSender
from application.webhooks.signing import Vault
from projections.runner import prepare_runner, project_all

WORKER_IDLE_SECONDS = 0.25  # how long a commit without a wake-up call may wait
MAIL_SECONDS = 1.0
KEY_PRUNE_SECONDS = 600.0
SNAPSHOT_SECONDS = 1.0
WORKER_AGAIN_SECONDS = 600.0  # between looks at the whole table, for what was committed late
PAUSE_TIMES, LONGEST_BREATH = 9, 0.05  # a pause is so many rounds long, at most so many seconds
LONGEST_WORKER_PAUSE = 10.0
log = structlog.get_logger()


# Is told what was done, since when (nanoseconds since 1970), to how many events, and asks for them there.
TraceWork = Callable[[str, int, int, psycopg.Connection[Any]], None]


def no_trace(name: str, begun: int, count: int, connection: psycopg.Connection[Any]) -> None:
    """Where nobody traces."""


class Worker:
    """Runs until it is stopped; when the database goes away, waits for it.

    `trace` is told of each sealing pass and each step of the projections that had something to do.
    """

    def __init__(self, settings: Settings, trace: TraceWork = no_trace) -> None:
        self._settings, self._trace = settings, trace
        self._url = settings.database_url or ""
        self._domain = parseaddr(settings.mail_from)[1].partition("@")[2]
        self._stopping = threading.Event()
        self._stats = ProcessStats("work")

    def stop(self) -> None:
        """Ends what is under way, and then the worker."""
        self._stopping.set()

    def run(self) -> None:
        """Seals and projects in this thread; sends mail in another, which a slow mail server may hold up alone."""
        seldom_collect()
        mail = threading.Thread(target=self._keep, args=(self._send_mails,), name="mail", daemon=True)
        if self._settings.smtp_url:
            mail.start()
        for beside in (self._prune, self._take_snapshots):
            threading.Thread(target=self._keep, args=(beside,), name=beside.__name__.strip("_"), daemon=True).start()
        webhooks = threading.Thread(target=self._keep, args=(self._send_webhooks,), name="webhooks", daemon=True)
        webhooks.start()
        self._keep(self._follow_log)
        if mail.is_alive():
            mail.join(timeout=35)
        webhooks.join(timeout=LAST_SECONDS * 2)

    def _keep(self, work: Callable[[], None]) -> None:
        """Does it again after every failure, with growing pauses."""
        pause = 0.1
        while not self._stopping.is_set():
            try:
                work()
                pause = 0.1
            except Exception as error:  # noqa: BLE001 - said, and tried again: a worker that ends silently helps nobody
                WORK_FAILED.add((work.__name__.strip("_"),))
                log.warning("worker failed, trying again", work=work.__name__, reason=error_summary(error), pause=pause)
                self._stopping.wait(pause)
                pause = min(pause * 2, LONGEST_WORKER_PAUSE)

    def _follow_log(self) -> None:
        with connect(self._url, "worker", statement_seconds=60) as connection:
            connection.execute(LISTEN)
            prepare_runner(connection)
            while not self._stopping.is_set():
                self._stats.look()
                begun = time.monotonic()
                if self.step(connection):
                    self._stopping.wait(min((time.monotonic() - begun) * PAUSE_TIMES, LONGEST_BREATH))
                else:
                    self._wait(connection)

    def step(self, connection: psycopg.Connection[Any]) -> int:
        """One round: seal, project, queue the mails. Returns how much there was to do."""
        sealed = self._traced("seal", seal_and_count, connection)
        try:
            return sealed + self._traced("project", project_all, connection)
        finally:  # a projection that fails must not hold up the mails
            queue_due_mails(connection, self._domain, utc_now())

    def _traced(
        self, name: str, do: Callable[[psycopg.Connection[Any]], int], connection: psycopg.Connection[Any]
    ) -> int:
        begun = time.time_ns()
        count = do(connection)
        if count:
            self._trace(name, begun, count, connection)
        return count

    def _wait(self, connection: psycopg.Connection[Any]) -> None:
        for _ in connection.notifies(timeout=WORKER_IDLE_SECONDS, stop_after=1):
            return

    def _send_webhooks(self) -> None:
        dispatcher_of(self._settings).run(self._stopping)

    def _send_mails(self) -> None:
        send = partial(smtp_send, self._settings.smtp_url or "")
        with pool(self._url, "mail", size=1) as connections:
            mailer = ClosureMailer(connections, send, self._settings.mail_from, self._settings.reopen_window)
            while not self._stopping.is_set():
                if not mailer.send_next(utc_now()):
                    self._stopping.wait(MAIL_SECONDS)

    def _prune(self) -> None:
        """Forgets old idempotency keys, a tenth of the time: nobody is in a hurry to be rid of them."""
        with connect(self._url, "prune") as connection:
            begun = time.monotonic()
            while not self._stopping.is_set() and prune_idempotency_keys(connection, self._settings.idempotency_hours):
                self._stopping.wait((time.monotonic() - begun) * PAUSE_TIMES)
                begun = time.monotonic()
        self._stopping.wait(KEY_PRUNE_SECONDS)

    def _take_snapshots(self) -> None:
        """Makes the snapshots that are missing, from the first event on and then of what comes, a tenth of the time."""
        ends, after = time.monotonic() + WORKER_AGAIN_SECONDS, 0
        with connect(self._url, "snapshots", statement_seconds=60) as connection:
            forget_snapshots(connection)
            while not self._stopping.is_set() and time.monotonic() < ends:
                begun = time.monotonic()
                last = take_snapshots(connection, after)
                after = after if last is None else last
                took = time.monotonic() - begun
                self._stopping.wait(SNAPSHOT_SECONDS if last is None else took * PAUSE_TIMES)


def seal_and_count(connection: psycopg.Connection[Any]) -> int:
    """Gives positions to what is committed, and counts it."""
    sealed = seal_all(connection)
    if sealed:
        SEALED_EVENTS.add(by=sealed)
        SEALING_DELAY.observe((), delay(connection, sealed))
    return sealed


def dispatcher_of(settings: Settings) -> Dispatcher:
    """What sends webhooks, under these settings."""
    rules = read_rules(settings.webhook_allow_networks, settings.webhook_allow_http, settings.webhook_hosts)
    return Dispatcher(settings.database_url or "", WebhookSender(rules), Vault(settings.webhook_keys))
