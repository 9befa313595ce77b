"""The closing e-mail, a process manager: Closed → one mail to the client → ClosureEmailSent or ClosureEmailFailed.

A Closed event in the sealed log puts a mail into the outbox. A mail that is due is locked, handed to the mail server,
and its outcome is recorded as an event of the ticket in the same transaction that ends it in the outbox. The lock lasts
as long as its holder lives, so no two workers send the same mail, and a killed worker's mail is free at once. Killed
between the server's OK and the commit, the mail is sent once more, with the same Message-ID.
"""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from email.message import EmailMessage
from random import SystemRandom
from smtplib import SMTPDataError, SMTPException, SMTPNotSupportedError, SMTPRecipientsRefused, SMTPSenderRefused
from typing import Any, LiteralString
from uuid import UUID

import msgspec
import psycopg
import structlog
from eventsourcing.persistence import PersistenceError
from msgspec.structs import asdict
from psycopg_pool import ConnectionPool

from application.commands.deciding import Trace
from application.helpdesk import HelpDesk
from application.mail.mail_text import closure_message
from application.observability.metrics import CLOSING_MAILS_TRIED
from application.observability.trace_context import child_of, trace_of
from domain.client import client_stream, fold_client
from domain.events import ClosureEmailFailed, ClosureEmailSent, Recorded
from domain.ticket import fold
from domain.values import Actor, Role

MAIL_GIVE_UP_AFTER = timedelta(days=5)
FIRST_MAIL_PAUSE, LONGEST_MAIL_PAUSE = 5.0, 3600.0
FOLLOW_BATCH = 5_000
LOG_IN_FIRST = (530, 534, 535, 538)  # RFC 4954
DESK_ACTOR = Actor("deskledger", "Deskledger", Role.SYSTEM)

INSERT_DUE_MAILS: LiteralString = """
    with place as (  -- none where nothing came: then nothing is locked
        select position from followers
        where name = 'closure_mail' and position < (select max(position) from log) for update skip locked),
    batch as materialized (
        select max(next.position) as position, count(*) as count, min(ord) as lowest, max(ord) as highest
        from place cross join lateral (
            select position, ord from log where position > place.position order by position limit %(batch)s) next),
    closed as (  -- by an index of their own: of all other events nothing is read but the place in the log
        select stream_id, version from place, batch cross join lateral (
            select stream_id, version, ord from events
            where type = 'Ticket.Closed' and ord between batch.lowest and batch.highest) found
        where exists (
            select from log
            where log.ord = found.ord and log.position > place.position and log.position <= batch.position)),
    queued as (
        insert into closure_mails (ticket_id, closed_version, message_id, due_at, queued_at)
        select stream_id, version, '<ticket.' || stream_id || '.closed.' || version || '@' || %(domain)s || '>',
            %(now)s, %(now)s
        from closed on conflict do nothing)
    update followers set position = batch.position from batch
    where name = 'closure_mail' and batch.count > 0
    returning batch.count"""
TAKE: LiteralString = """
    select ticket_id, closed_version, message_id, attempts + 1, queued_at from closure_mails
    where state = 'due' and due_at <= %s order by due_at limit 1 for update skip locked"""
UPDATE_MAIL: LiteralString = """
    update closure_mails set state = %(state)s, attempts = %(attempts)s, last_error = %(reason)s,
        due_at = case when %(state)s = 'due' then %(at)s else due_at end,
        settled_at = case when %(state)s = 'due' then null else %(at)s::timestamptz end
    where ticket_id = %(ticket_id)s and closed_version = %(closed_version)s"""

Send = Callable[[EmailMessage], None]
log = structlog.get_logger()


class DueMail(msgspec.Struct, frozen=True):
    """A mail that was taken out of the outbox to be sent."""

    ticket_id: UUID
    closed_version: int
    message_id: str
    attempts: int
    queued_at: datetime


def queue_due_mails(connection: psycopg.Connection[Any], domain: str, now: datetime) -> int:
    """Queues a mail for each Closed event behind the follower's place. Returns how many events were looked at."""
    row = connection.execute(INSERT_DUE_MAILS, {"batch": FOLLOW_BATCH, "domain": domain, "now": now}).fetchone()
    return int(row[0]) if row else 0


class ClosureMailer:
    """Sends what is due. `send` hands one message to the mail server, or raises what smtplib raises."""

    def __init__(
        self, pool: ConnectionPool[psycopg.Connection[Any]], send: Send, mail_from: str, reopen_window: timedelta
    ) -> None:
        self._pool, self._send = pool, send
        self._mail_from, self._reopen_window = mail_from, reopen_window

    def send_next(self, now: datetime) -> bool:
        """Sends the mail that is due longest and records what became of it. Returns False when none is due."""
        with self._pool.connection() as connection, connection.transaction():
            row = connection.execute(TAKE, (now,)).fetchone()
            if row is None:
                return False
            mail, desk, history = DueMail(*row), HelpDesk(connection), list[Recorded]()
            reason: str | None = None
            try:
                history = desk.history(mail.ticket_id)[: mail.closed_version]
                self._send(self._message(desk, mail, history, now))
                state, at = "sent", now
            except (psycopg.Error, PersistenceError):
                raise
            except Exception as error:  # noqa: BLE001 - one mail, whatever is wrong with it, must not hold up the others
                state, at, reason = state_after(error, mail, history, now)
            connection.execute(UPDATE_MAIL, {"state": state, "at": at, "reason": reason, **asdict(mail)})
            if history and state != "due":  # of a ticket that cannot be read only the outbox says so
                record(desk, mail, history[-1], reason, now)
            CLOSING_MAILS_TRIED.add(("postponed" if state == "due" else state,))
        return True

    def _message(self, desk: HelpDesk, mail: DueMail, history: Sequence[Recorded], now: datetime) -> EmailMessage:
        ticket = fold(history)
        client = fold_client(desk.history(client_stream(ticket.client_user_id or ""))) if ticket else None
        if ticket is None or client is None:
            raise ValueError("the ticket has no client in the directory")
        message = closure_message(ticket, client, mail.message_id, self._mail_from, self._reopen_window, now)
        if journey := history[-1].traceparent:
            message["traceparent"] = child_of(journey)
        return message


def state_after(
    error: Exception, mail: DueMail, history: Sequence[Recorded], now: datetime
) -> tuple[str, datetime, str]:
    """The state of a mail that was not sent, since when it has ended or until when it waits, and why."""
    reason, trace = reason_of(error), trace_of(history[-1].traceparent) if history else None
    about = log.bind(reason=reason, ticket_id=str(mail.ticket_id), trace_id=trace)
    if is_final(error) or now - mail.queued_at > MAIL_GIVE_UP_AFTER:
        about.error("closing e-mail failed for good")
        return "failed", now, reason
    again = now + mail_backoff(mail.attempts)
    about.warning("closing e-mail postponed", until=again.isoformat())
    return "due", again, reason


def record(desk: HelpDesk, mail: DueMail, closed: Recorded, reason: str | None, now: datetime) -> None:
    """Records what became of the mail, caused by the closing: it failed for a reason, or was sent."""
    tried = (mail.closed_version, mail.message_id, mail.attempts)
    outcome = ClosureEmailSent(*tried) if reason is None else ClosureEmailFailed(*tried, reason)
    caused_by = Trace(f"{mail.ticket_id}/{mail.closed_version}", closed.correlation_id, closed.traceparent)
    desk.record(mail.ticket_id, outcome, DESK_ACTOR, now, caused_by, closed.level)


def is_final(error: Exception) -> bool:
    """Whether trying again is pointless: the server refused this mail for good, or the address cannot be an address.

    What it says of the desk (who are you, log in first) is for the operator to mend: the mail waits.
    """
    if isinstance(error, SMTPRecipientsRefused):
        return all(_refuses_for_good(code) for code, _ in error.recipients.values())
    if isinstance(error, SMTPSenderRefused | SMTPDataError):
        return _refuses_for_good(error.smtp_code)
    if isinstance(error, OSError) and not isinstance(error, SMTPException):
        return False  # the network; a bad certificate is a ValueError too
    return isinstance(error, ValueError | SMTPNotSupportedError)


def _refuses_for_good(code: int) -> bool:
    return code >= 500 and code not in LOG_IN_FIRST


def reason_of(error: Exception) -> str:
    """What the mail server said, in one line."""
    if isinstance(error, SMTPRecipientsRefused):
        refusals = error.recipients.values()
        return "; ".join(f"{code} {text.decode(errors='replace')}" for code, text in refusals)[:500]
    return f"{type(error).__name__}: {error}".replace("\0", "")[:500]


def mail_backoff(attempts: int) -> timedelta:
    """How long to wait before the next attempt: twice as long each time, up to an hour, with some chance in it."""
    seconds = min(FIRST_MAIL_PAUSE * 2 ** min(attempts - 1, 20), LONGEST_MAIL_PAUSE)
    return timedelta(seconds=seconds * SystemRandom().uniform(0.8, 1.2))
