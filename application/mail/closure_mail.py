"""The closing e-mail, a process manager: Closed → one mail to the client → ClosureEmailSent or ClosureEmailFailed.

A Closed event in the sealed log puts a mail into the outbox (`mail_outbox.py`). A mail that is due is leased, handed to
the mail server, and its outcome is recorded as an event of the ticket in the transaction that ends it in the outbox.
Killed between the server's OK and that commit, the mail is sent once more, with the same Message-ID. A mail that is no
longer true, since its ticket was reopened, is withdrawn: it is neither sent nor failed, and no event is recorded.
"""

import ssl
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from random import SystemRandom
from smtplib import SMTPException, SMTPResponseException, SMTPServerDisconnected
from threading import Lock
from typing import Any
from uuid import UUID

import psycopg
import structlog
from eventsourcing.persistence import OperationalError, PersistenceError
from psycopg_pool import ConnectionPool

from application.commands.deciding import Trace
from application.helpdesk import HelpDesk
from application.mail.mail_message import OutgoingMail
from application.mail.mail_outbox import DueMail, MailOutcome, lease_mail, release_mail, settle_mail
from application.mail.mail_text import closure_message
from application.mail.smtp import DeliveryStopped, NeedsSmtputf8
from application.mail.smtp_replies import MailRefused, Trouble, trouble_with
from application.observability.metrics import CLOSING_MAILS_TRIED
from application.observability.trace_context import child_of, trace_of
from domain.client import client_stream, fold_client
from domain.errors import StaleVersion
from domain.events import ClosureEmailFailed, ClosureEmailSent, Recorded, Reopened
from domain.ticket import fold
from domain.values import Actor, Role

MAIL_GIVE_UP_AFTER = timedelta(days=5)
FIRST_MAIL_PAUSE, LONGEST_MAIL_PAUSE = 5.0, 3600.0
RECORD_PAUSES = (0.1, 0.5, 2.0, 5.0, 10.0)  # a database that was restarted meanwhile; together less than the lease
DATABASE_FAILED = (psycopg.Error, PersistenceError)
TRY_TO_RECORD_AGAIN = (psycopg.OperationalError, OperationalError, StaleVersion)
DESK_ACTOR = Actor("deskledger", "Deskledger", Role.SYSTEM)

Send = Callable[[OutgoingMail], None]
log = structlog.get_logger()


class ClosureMailer:
    """Sends what is due, in as many threads as call it. `send` hands one mail to the mail server, or raises what
    `SmtpSender.send` raises; `pause` waits for so many seconds."""

    def __init__(
        self,
        pool: ConnectionPool[psycopg.Connection[Any]],
        send: Send,
        mail_from: str,
        reopen_window: timedelta,
        pause: Callable[[float], object] = time.sleep,
    ) -> None:
        self._pool, self._send, self._pause = pool, send, pause
        self._mail_from, self._reopen_window = mail_from, reopen_window
        self._counting = Lock()  # a metric is counted by one thread at a time

    def send_next(self, clock: Callable[[], datetime]) -> bool:
        """Sends the mail that is due longest and records what became of it. Returns False when none is due."""
        with self._pool.connection() as connection:
            mail = lease_mail(connection, clock())
        if mail is None:
            return False
        history, message = list[Recorded](), None
        try:
            history = self._history(mail.ticket_id)
            if still_closed(history, mail.closed_version):
                message = self._message(mail, history[: mail.closed_version], clock())
                self._send(message)
                outcome = MailOutcome("sent", clock(), address=message.recipient)
            else:
                outcome = MailOutcome("withdrawn", clock(), "the ticket was reopened before the mail left")
        except DATABASE_FAILED:
            raise
        except DeliveryStopped:
            with self._pool.connection() as connection:
                release_mail(connection, mail, clock())
            return True
        except Exception as error:  # noqa: BLE001 - one mail, whatever is wrong with it, must not hold up the others
            outcome = outcome_of(error, mail, history, message.recipient if message else None, clock())
        self._record(mail, history, outcome)
        return True

    def _history(self, stream: UUID) -> list[Recorded]:
        with self._pool.connection() as connection:
            return HelpDesk(connection).history(stream)

    def _message(self, mail: DueMail, history: Sequence[Recorded], now: datetime) -> OutgoingMail:
        ticket = fold(history)
        client = fold_client(self._history(client_stream(ticket.client_user_id or ""))) if ticket else None
        if ticket is None or client is None:
            raise ValueError("the ticket has no client in the directory")
        journey = history[-1].traceparent
        trace = child_of(journey) if journey else None
        return closure_message(ticket, client, mail.message_id, self._mail_from, self._reopen_window, now, trace)

    def _record(self, mail: DueMail, history: Sequence[Recorded], outcome: MailOutcome) -> None:
        """What the server has accepted must not go out again because the database was away for a moment."""
        for pause in RECORD_PAUSES:
            try:
                return self._record_once(mail, history, outcome)
            except TRY_TO_RECORD_AGAIN as error:
                log.warning("outcome of a closing e-mail not recorded yet", reason=reason_of(error))
                self._pause(pause)
        return self._record_once(mail, history, outcome)

    def _record_once(self, mail: DueMail, history: Sequence[Recorded], outcome: MailOutcome) -> None:
        with self._pool.connection() as connection, connection.transaction():
            settled = settle_mail(connection, mail, outcome)
            if settled and history and outcome.state in ("sent", "failed"):  # else only the outbox says so
                record(HelpDesk(connection), mail, history[: mail.closed_version][-1], outcome)
        if settled:
            with self._counting:
                CLOSING_MAILS_TRIED.add(("postponed" if outcome.state == "due" else outcome.state,))


def still_closed(history: Sequence[Recorded], closed_version: int) -> bool:
    """Whether the closing with this version is the last word: the ticket was not reopened since."""
    return not any(isinstance(recorded.event, Reopened) for recorded in history[closed_version:])


def outcome_of(
    error: Exception, mail: DueMail, history: Sequence[Recorded], address: str | None, now: datetime
) -> MailOutcome:
    """What becomes of a mail that was not sent: it has failed, or waits until a time, and why.

    Patience begins with the first refusal. A server that cannot be reached refuses nothing, and is waited for.
    """
    reason, trouble, trace = reason_of(error), trouble_of(error), trace_of(history[-1].traceparent) if history else None
    about = log.bind(reason=reason, ticket_id=str(mail.ticket_id), trace_id=trace)
    refused_at = mail.first_refused_at or (now if is_refusal(error) else None)
    impatient = is_refusal(error) and refused_at is not None and now - refused_at > MAIL_GIVE_UP_AFTER
    if impatient or trouble in (Trouble.RECIPIENT, Trouble.CONTENT):
        about.error("closing e-mail failed for good")
        return MailOutcome("failed", now, reason, address, refused_at)
    again = now + mail_backoff(mail.attempts)
    about.warning("closing e-mail postponed", until=again.isoformat())
    return MailOutcome("due", again, reason, address, refused_at, trouble is Trouble.DESK)


def record(desk: HelpDesk, mail: DueMail, closed: Recorded, outcome: MailOutcome) -> None:
    """Records what became of the mail, caused by the closing: it failed for a reason, or was sent."""
    tried, reason = (mail.closed_version, mail.message_id, mail.attempts), outcome.reason
    event = ClosureEmailSent(*tried) if reason is None else ClosureEmailFailed(*tried, reason)
    caused_by = Trace(f"{mail.ticket_id}/{mail.closed_version}", closed.correlation_id, closed.traceparent)
    desk.record(mail.ticket_id, event, DESK_ACTOR, outcome.at, caused_by, closed.level)


def trouble_of(error: Exception) -> Trouble:
    """Whom an error concerns."""
    match error:
        case MailRefused():
            return trouble_with(error)
        case NeedsSmtputf8():
            return Trouble.RECIPIENT
        case ssl.SSLError():  # a bad certificate is a ValueError too
            return Trouble.DESK
        case SMTPServerDisconnected() | SMTPResponseException():
            return Trouble.LATER
        case SMTPException():  # it takes no password, or none of ours
            return Trouble.DESK
        case ValueError():
            return Trouble.CONTENT
    return Trouble.LATER


def is_refusal(error: Exception) -> bool:
    """Whether somebody said no, the mail server or the desk itself; the network says nothing."""
    return isinstance(error, MailRefused) or not isinstance(error, OSError)


def reason_of(error: Exception) -> str:
    """What went wrong, in one line: what the mail server said, or what kind of error it was."""
    text = str(error) if isinstance(error, MailRefused) else f"{type(error).__name__}: {error}"
    return text.replace("\0", "")[:500]


def mail_backoff(attempts: int) -> timedelta:
    """How long to wait before the next attempt: twice as long each time, up to an hour, with some chance in it."""
    seconds = min(FIRST_MAIL_PAUSE * 2 ** min(attempts - 1, 20), LONGEST_MAIL_PAUSE)
    return timedelta(seconds=seconds * SystemRandom().uniform(0.8, 1.2))
