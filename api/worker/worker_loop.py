"""The worker: gives events their position, keeps the projections up, and sends webhooks and the closing e-mails."""

import signal
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from email.utils import parseaddr
from typing import Any

import psycopg
import structlog

from api.telemetry.process_watch import ProcessStats, seldom_collect, sends_spans, start_process_stats
from api.worker.webhook_dispatcher import Dispatcher
from application.clock import utc_now
from application.commands.email_addresses import read_address
from application.commands.idempotency_pruning import prune_idempotency_keys
from application.mail.closure_mail import ClosureMailer
from application.mail.mail_outbox import queue_due_mails
from application.mail.smtp import SmtpSender
from application.observability.logs import error_summary
from application.observability.metrics import SEALED_EVENTS, SEALING_DELAY, WORK_FAILED
from application.settings import Settings
from application.store.postgres.database import connect, pool
from application.store.sealing import LISTEN, delay, seal_all
from application.store.snapshots import forget_snapshots, take_snapshots
from application.webhooks.address_rules import read_rules
from application.webhooks.delivery import prune_deliveries
from application.webhooks.sender import WebhookSender
from application.webhooks.signing import Vault
from application.webhooks.subscriptions import forget_old_secrets
from projections.runner import prepare_runner, project_all
from projections.status.lost_references import take_back_tickets

WORKER_IDLE_SECONDS = 0.25  # how long a commit without a wake-up call may wait
MAIL_SECONDS = 1.0
MAIL_SENDERS = 4  # so many mails at a time, so that one slow delivery holds up no other
LAST_MAIL_SECONDS, CUT_MAIL_SECONDS = 3.0, 2.0  # at the end: mails go on so long, and are then cut off
PRUNE_SECONDS = 600.0
SNAPSHOT_SECONDS = 1.0
ENDED_KEYS_SECONDS = 60.0
WORKER_AGAIN_SECONDS = 600.0  # between looks at the whole table, for what was committed late
PAUSE_TIMES, LONGEST_BREATH = 9, 0.05  # a pause is so many rounds long, at most so many seconds
LONGEST_WORKER_PAUSE = 10.0
LAST_WORK_SECONDS = 35.0  # at the end: mails and webhooks that are being handed over, together
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
        self._domain = read_address(parseaddr(settings.mail_from)[1], in_house=True).ascii_domain
        self._stopping = threading.Event()
        self._counting = threading.Lock()
        self._stats = ProcessStats("work")

    def stop(self) -> None:
        """Ends what is under way, and then the worker."""
        self._stopping.set()

    def run(self) -> None:
        """Seals and projects in this thread. What a slow receiver, mail server or table may hold up has its own."""
        seldom_collect()
        for work in (self._prune, self._take_snapshots, self._take_back):
            self._start(work)
        senders = [self._send_webhooks, *([self._send_mails] if self._settings.smtp_url else [])]
        sending = [self._start(work) for work in senders]
        self._keep(self._follow_log)
        join_all(sending, LAST_WORK_SECONDS)

    def _start(self, work: Callable[[], None]) -> threading.Thread:
        thread = threading.Thread(target=self._keep, args=(work,), name=work.__name__.strip("_"), daemon=True)
        thread.start()
        return thread

    def _keep(self, work: Callable[[], None]) -> None:
        """Does it again after every failure, with growing pauses."""
        pause = 0.1
        while not self._stopping.is_set():
            try:
                work()
                pause = 0.1
            except Exception as error:  # noqa: BLE001 - said, and tried again: a worker that ends silently helps nobody
                with self._counting:  # several threads may do the same work
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
                    list(connection.notifies(timeout=WORKER_IDLE_SECONDS, stop_after=1))

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

    def _send_webhooks(self) -> None:
        settings = self._settings
        rules = read_rules(settings.webhook_allow_networks, settings.webhook_allow_http, settings.webhook_hosts)
        Dispatcher(self._url, WebhookSender(rules), Vault(settings.webhook_keys)).run(self._stopping)

    def _send_mails(self) -> None:
        """Sends in threads of their own; at the end each has a moment to come to its end, and is then cut off."""
        sender = SmtpSender(self._settings.smtp_url or "")
        with pool(self._url, "mail", size=2) as connections:
            mailer = ClosureMailer(
                connections, sender.send, self._settings.mail_from, self._settings.reopen_window, self._stopping.wait
            )

            def send_mails() -> None:
                if not mailer.send_next(utc_now):
                    self._stopping.wait(MAIL_SECONDS)

            threads = [self._start(send_mails) for _ in range(MAIL_SENDERS)]
            self._stopping.wait()
            join_all(threads, LAST_MAIL_SECONDS)
            sender.stop()
            join_all(threads, CUT_MAIL_SECONDS)

    def _prune(self) -> None:
        """Forgets old keys and deliveries, a tenth of the time: nobody is in a hurry to be rid of them."""
        with connect(self._url, "prune") as connection:
            begun = time.monotonic()
            while not self._stopping.is_set() and self._forget(connection):
                self._stopping.wait((time.monotonic() - begun) * PAUSE_TIMES)
                begun = time.monotonic()
        self._stopping.wait(PRUNE_SECONDS)

    def _forget(self, connection: psycopg.Connection[Any]) -> int:
        hours = self._settings.idempotency_hours
        forget_old_secrets(connection, utc_now())
        return prune_idempotency_keys(connection, hours) or prune_deliveries(connection, utc_now())

    def _take_back(self) -> None:
        """Frees the tickets of keys that have ended, which is once a minute soon enough."""
        with connect(self._url, "ended keys") as connection:
            freed = take_back_tickets(connection, utc_now())
        if freed:
            log.info("tickets of ended keys are free again", tickets=[str(ticket) for ticket in freed])
        self._stopping.wait(ENDED_KEYS_SECONDS)

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


def join_all(threads: Iterable[threading.Thread], seconds: float) -> None:
    """Waits for them to end, for so long together."""
    until = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(until - time.monotonic(), 0.0))


def seal_and_count(connection: psycopg.Connection[Any]) -> int:
    """Gives positions to what is committed, and counts it."""
    sealed = seal_all(connection)
    if sealed:
        SEALED_EVENTS.add(by=sealed)
        SEALING_DELAY.observe((), delay(connection, sealed))
    return sealed


def tracing(settings: Settings) -> AbstractContextManager[TraceWork]:
    """What a worker tells of its work: to OpenTelemetry, where that is wanted."""
    if not sends_spans(settings):
        return nullcontext(no_trace)
    from api.worker.worker_spans import work_spans

    return work_spans()


def stop_on_signals(worker: Worker) -> None:
    """SIGTERM and SIGINT end the worker: in a thread of their own, since the thread that they interrupt may be just in
    the middle of waiting for the end, with the lock that ending takes."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: threading.Thread(target=worker.stop).start())


def work(settings: Settings) -> None:
    """Runs a worker in this process until SIGTERM or SIGINT."""
    start_process_stats("work", settings)
    with tracing(settings) as trace:
        worker = Worker(settings, trace)
        stop_on_signals(worker)
        log.info("worker started")
        worker.run()
        log.info("worker stopped")
