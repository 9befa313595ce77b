"""The closing e-mail: one for each closing, whatever the mail server says, and its outcome in the ticket's history."""

import ssl
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from pathlib import Path
from smtplib import SMTPException, SMTPServerDisconnected
from threading import Event as Flag
from typing import Any
from uuid import UUID, uuid4

import msgspec
import psycopg
import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult

from application.commands import supporting_commands as s
from application.commands.deciding import Trace
from application.commands.procedure_commands import (
    CloseTicket,
    DocumentResolution,
    EscalateTicket,
    ResolveTicket,
    VerifyTicket,
)
from application.helpdesk import HelpDesk
from application.mail.closure_mail import ClosureMailer, mail_backoff, reason_of, trouble_of
from application.mail.mail_message import OutgoingMail
from application.mail.mail_outbox import LEASE, queue_due_mails
from application.mail.mail_text import closure_message
from application.mail.smtp import DELIVERY_SECONDS, DeliveryStopped, NeedsSmtputf8, SmtpSender
from application.mail.smtp_replies import MailRefused, Phase, Trouble
from application.store.event_store import StoredRow
from application.store.postgres import database as databases
from application.store.postgres.database import connect
from application.store.sealing import seal_all
from domain.client import Client, Contact
from domain.events import ClosureEmailFailed, ClosureEmailSent, Recorded
from domain.values import Channel, Level, Principal, Role
from tests.support.given import BEGUN, after
from tests.support.running_desk import Mailbox, free_port
from tests.support.tls_identity import IDENTITY
from tests.support.write_side import (
    CHECKER,
    CONTACT,
    ISSUE,
    NOW,
    OPEN,
    STAFF,
    append,
    beside,
    notes,
    opened,
    request,
    unchecked,
    wait_for_locks,
)

NO_TRACE = Trace()
FROM = "Service desk <desk@example.org>"
WINDOW = timedelta(days=14)
CLIENT = Principal("key-of-client-1", "Client One", frozenset({Role.CLIENT}), client_user_id="client-1")
SEND_MAILS = "deskledger test mail"


Send = Callable[[OutgoingMail], None]
Pool = Any


class PickyMailbox(Mailbox):
    """A mail server that also refuses senders and recipients, and keeps who logged in."""

    def __init__(self) -> None:
        super().__init__()
        self.senders: list[str] = []
        self.recipients: list[str] = []
        self.envelopes: list[tuple[str, list[str]]] = []
        self.logins: list[tuple[bytes, bytes]] = []
        self.secure: list[bool] = []

    async def handle_MAIL(self, server: Any, session: Any, envelope: Any, address: str, options: Any) -> str:  # noqa: N802
        """Accepts a sender, or answers the next verdict."""
        envelope.mail_from = address
        return self.senders.pop(0) if self.senders else "250 OK"

    async def handle_RCPT(self, server: Any, session: Any, envelope: Any, address: str, options: Any) -> str:  # noqa: N802
        """Accepts a recipient, or answers the next verdict."""
        envelope.rcpt_tos.append(address)
        return self.recipients.pop(0) if self.recipients else "250 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802
        """Keeps the envelope too."""
        self.envelopes.append((envelope.mail_from, envelope.rcpt_tos))
        self.secure.append(session.ssl is not None)
        return await super().handle_DATA(server, session, envelope)

    def login(self, server: Any, session: Any, envelope: Any, mechanism: str, given: Any) -> AuthResult:
        """Lets everybody in."""
        self.logins.append((given.login, given.password))
        return AuthResult(success=True)


class MailServer:
    """A mail server on a port of its own."""

    def __init__(self, **how: Any) -> None:
        self.mailbox = PickyMailbox()
        self._controller = Controller(self.mailbox, "127.0.0.1", free_port(), authenticator=self.mailbox.login, **how)
        self.place = f"127.0.0.1:{self._controller.port}"

    def __enter__(self) -> "MailServer":
        self._controller.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._controller.stop()


@pytest.fixture
def server() -> Iterator[MailServer]:
    """A mail server that accepts everything, as most do."""
    with MailServer() as running:
        yield running


@pytest.fixture
def identity(tmp_path: Path) -> tuple[ssl.SSLContext, Path]:
    """What a mail server speaks TLS with, and the file that its certificate lies in."""
    file = tmp_path / "identity.pem"
    file.write_text(IDENTITY)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(file)
    return context, file


@pytest.fixture
def connections(database: str) -> Iterator[Pool]:
    """The pool that mails are sent with."""
    with databases.pool(database, "test mail", size=2) as opened_pool:
        yield opened_pool


@pytest.fixture
def mailer(connections: Pool, server: MailServer) -> ClosureMailer:
    """Sends to the mail server."""
    return mailer_with(connections, SmtpSender(f"smtp://{server.place}").send)


def mailer_with(connections: Pool, send: Send) -> ClosureMailer:
    """A mailer that hands its messages to `send`."""
    return ClosureMailer(connections, send, FROM, WINDOW, pause=lambda _: None)


def at(now: datetime) -> Callable[[], datetime]:
    """A clock that stands still."""
    return lambda: now


def close(desk: HelpDesk, ticket_id: UUID, trace: Trace = NO_TRACE, actions: str = "toner replaced") -> None:
    """From in support to closed: four versions."""
    commands = [
        (ResolveTicket("new toner"), STAFF),
        (VerifyTicket(True, Channel.PHONE, "It prints."), CHECKER),
        (DocumentResolution("no toner", actions, "test page"), STAFF),
        (CloseTicket(), STAFF),
    ]
    for command, who in commands:
        desk.execute(request(ticket_id, command, who, trace=trace))


def closed(
    desk: HelpDesk,
    contact: Contact = CONTACT,
    summary: str = ISSUE.summary,
    trace: Trace = NO_TRACE,
    actions: str = "toner replaced",
) -> UUID:
    """A ticket that was closed with its version 9."""
    desk.register_client("client-1", contact, STAFF, NOW)
    issue = unchecked(ISSUE, summary=summary)
    ticket_id = uuid4()
    desk.execute(request(ticket_id, msgspec.structs.replace(OPEN, issue=issue)))
    close(desk, ticket_id, trace, actions)
    return ticket_id


def queue(connection: psycopg.Connection[Any], now: datetime = NOW) -> int:
    """What the worker does before it sends: seals, and follows the log."""
    seal_all(connection)
    return queue_due_mails(connection, "example.org", now)


def outbox(connection: psycopg.Connection[Any]) -> list[tuple[Any, ...]]:
    """Closed version, state, attempts and last error of each mail."""
    query = "select closed_version, state, attempts, last_error from closure_mails order by queued_at, closed_version"
    return connection.execute(query).fetchall()


def due_in(connection: psycopg.Connection[Any], now: datetime = NOW) -> float:
    """In how many seconds the only mail is due."""
    return (connection.execute("select due_at from closure_mails").fetchone()[0] - now).total_seconds()


def last(desk: HelpDesk, ticket_id: UUID) -> Recorded:
    """The last event of a ticket."""
    return desk.history(ticket_id)[-1]


def test_a_closing_is_mailed_once(
    desk: HelpDesk, connection: psycopg.Connection, mailer: ClosureMailer, server: MailServer
) -> None:
    """One closing, one mail, however often the log is followed and the outbox looked into."""
    ticket_id = closed(desk)
    assert queue(connection) > 0
    assert mailer.send_next(at(NOW))
    assert not mailer.send_next(at(NOW))
    queue(connection)
    assert not mailer.send_next(at(NOW + timedelta(days=9)))
    assert len(server.mailbox.messages) == 1
    assert server.mailbox.envelopes == [("desk@example.org", ["client-1@example.org"])]
    assert outbox(connection) == [(9, "sent", 1, None)]
    assert [event.type for event in desk.history(ticket_id)][8:] == ["Ticket.Closed", "Ticket.ClosureEmailSent"]


def test_the_mail_says_what_was_done_and_how_to_reopen(
    desk: HelpDesk, connection: psycopg.Connection, mailer: ClosureMailer, server: MailServer
) -> None:
    """Ticket number, the client's request, the resolution, and what to do when it is not fixed: in text and in HTML."""
    ticket_id = closed(desk)
    queue(connection)
    mailer.send_next(at(NOW))
    (message,) = server.mailbox.messages
    assert message["Message-ID"] == f"<ticket.{ticket_id}.closed.9@example.org>"
    assert message["Auto-Submitted"] == "auto-generated"
    assert message["X-Auto-Response-Suppress"] == "All"
    assert message["From"] == FROM
    assert message["To"] == "Client One <client-1@example.org>"
    assert message["Subject"] == "[T-000001] Closed: printer is silent"
    assert message["Date"].datetime == NOW
    assert [part.get_content_type() for part in message.iter_parts()] == ["text/plain", "text/html"]
    for part in message.iter_parts():
        words = part.get_content()
        for said in (
            "Dear Client One",
            "T-000001",
            "printer is silent",
            "new toner",
            "no toner",
            "test page",
            "14 days",
        ):
            assert said in words


def test_the_outcome_is_an_event_of_the_ticket(
    desk: HelpDesk, connection: psycopg.Connection, mailer: ClosureMailer
) -> None:
    """The event names the closing, the Message-ID and the attempts, and follows from the closing."""
    ticket_id = closed(desk)
    queue(connection)
    mailer.send_next(at(NOW + timedelta(minutes=1)))
    sent = last(desk, ticket_id)
    assert sent.event == ClosureEmailSent(9, f"<ticket.{ticket_id}.closed.9@example.org>", 1)
    assert (sent.at, sent.actor.role) == (NOW + timedelta(minutes=1), Role.SYSTEM)
    assert sent.causation_id == f"{ticket_id}/9"
    assert sent.level == desk.history(ticket_id)[8].level


def test_a_refusal_for_now_is_tried_again_with_growing_pauses(
    desk: HelpDesk, connection: psycopg.Connection, mailer: ClosureMailer, server: MailServer
) -> None:
    """4xx: the mail waits about 5 seconds, then about 10, and is not sent before; then it goes out."""
    ticket_id = closed(desk)
    queue(connection)
    server.mailbox.verdicts = ["451 try again later", "452 still no room"]
    assert mailer.send_next(at(NOW))
    assert 4 <= due_in(connection) <= 6
    assert not mailer.send_next(at(NOW + timedelta(seconds=3.9)))
    assert mailer.send_next(at(NOW + timedelta(seconds=6)))
    assert 8 <= due_in(connection, NOW + timedelta(seconds=6)) <= 12
    assert outbox(connection)[0][1:] == ("due", 2, "452 still no room (in answer to the end of the data)")
    assert last(desk, ticket_id).type == "Ticket.Closed"
    assert mailer.send_next(at(NOW + timedelta(seconds=18)))
    assert len(server.mailbox.messages) == 1
    assert last(desk, ticket_id).event.attempts == 3


def test_a_refusal_for_good_is_recorded_as_failed(
    desk: HelpDesk, connection: psycopg.Connection, mailer: ClosureMailer, server: MailServer
) -> None:
    """5xx: the mail is given up at once, with what the mail server said, where people look."""
    ticket_id = closed(desk)
    queue(connection)
    server.mailbox.verdicts = ["554 no such content here"]
    mailer.send_next(at(NOW))
    reason = "554 no such content here (in answer to the end of the data)"
    assert outbox(connection) == [(9, "failed", 1, reason)]
    message_id = f"<ticket.{ticket_id}.closed.9@example.org>"
    assert last(desk, ticket_id).event == ClosureEmailFailed(9, message_id, 1, reason)
    assert not mailer.send_next(at(NOW + timedelta(days=9)))


@pytest.mark.parametrize(
    ("senders", "recipients", "state", "reason"),
    [
        ([], ["550 no such user"], "failed", "550 no such user (in answer to RCPT)"),
        ([], ["450 mailbox busy"], "due", "450 mailbox busy (in answer to RCPT)"),
        ([], ["530 log in first"], "due", "530 log in first (in answer to RCPT)"),
        ([], ["550 relay not permitted"], "due", "550 relay not permitted (in answer to RCPT)"),
        (["553 not your address"], [], "due", "553 not your address (in answer to MAIL)"),
        (["530 log in first"], [], "due", "530 log in first (in answer to MAIL)"),
    ],
)
def test_refusals_of_the_envelope(
    desk: HelpDesk,
    connection: psycopg.Connection,
    mailer: ClosureMailer,
    server: MailServer,
    senders: list[str],
    recipients: list[str],
    state: str,
    reason: str,
) -> None:
    """A recipient who is refused for good ends the mail; refused for now, or for what the desk is, it waits."""
    closed(desk)
    queue(connection)
    server.mailbox.senders, server.mailbox.recipients = senders, recipients
    mailer.send_next(at(NOW))
    assert outbox(connection) == [(9, state, 1, reason)]
    assert server.mailbox.messages == []


def test_an_unreachable_mail_server_is_waited_for(
    desk: HelpDesk, connection: psycopg.Connection, connections: Pool, server: MailServer
) -> None:
    """Nobody has refused anything yet: patience begins with the first refusal, however long the server was away."""
    ticket_id = closed(desk)
    queue(connection)
    away = mailer_with(connections, SmtpSender(f"smtp://127.0.0.1:{free_port()}").send)
    for days in (0, 6):
        assert away.send_next(at(NOW + timedelta(days=days)))
        assert outbox(connection)[0][1] == "due"
    assert outbox(connection)[0][3].startswith("ConnectionRefusedError: ")
    server.mailbox.verdicts = ["450 later", "451 later", "452 still not"]
    mailer = mailer_with(connections, SmtpSender(f"smtp://{server.place}").send)
    for hours in (2, 5 * 24 + 1, 5 * 24 + 3):
        assert outbox(connection)[0][1] == "due"
        assert mailer.send_next(at(NOW + timedelta(days=6, hours=hours)))
    assert outbox(connection)[0][1:3] == ("failed", 5)
    assert last(desk, ticket_id).event.reason == "452 still not (in answer to the end of the data)"


def test_pauses_grow_up_to_an_hour() -> None:
    """Twice as long each time, up to an hour, with some chance in it so that a mail server is not stormed."""
    for attempts, seconds in [(1, 5), (2, 10), (3, 20), (10, 2560), (11, 3600), (1_000, 3600)]:
        pauses = {mail_backoff(attempts).total_seconds() for _ in range(50)}
        assert all(0.8 * seconds <= one <= 1.2 * seconds for one in pauses)
        assert len(pauses) > 1


@pytest.mark.parametrize(
    ("error", "trouble"),
    [
        (MailRefused(Phase.END, 552, b"too big"), Trouble.CONTENT),
        (MailRefused(Phase.AUTH, 535, b"wrong password"), Trouble.DESK),
        (NeedsSmtputf8("no SMTPUTF8"), Trouble.RECIPIENT),
        (ValueError("not an address"), Trouble.CONTENT),
        (SMTPServerDisconnected("gone"), Trouble.LATER),
        (SMTPException("no suitable authentication method"), Trouble.DESK),
        (TimeoutError(), Trouble.LATER),
        (ssl.SSLCertVerificationError(1, "self-signed"), Trouble.DESK),
        (RuntimeError("who knows"), Trouble.LATER),
    ],
    ids=repr,
)
def test_whom_an_error_concerns(error: Exception, trouble: Trouble) -> None:
    """What is wrong with the mail ends it; what is wrong with the desk, the server or the network is waited out."""
    assert trouble_of(error) is trouble


def test_a_reason_is_one_short_text() -> None:
    """What a mail server says may be long, and of any bytes: what is kept can be stored and shown."""
    assert reason_of(MailRefused(Phase.RCPT, 550, b"no \xff\nat all")) == "550 no \ufffd at all (in answer to RCPT)"
    assert reason_of(OSError("nul \0 " + "x" * 1000)) == ("OSError: nul  " + "x" * 1000)[:500]


def test_what_others_record_meanwhile_does_not_lose_the_outcome(
    desk: HelpDesk, connection: psycopg.Connection, connections: Pool, server: MailServer
) -> None:
    """The ticket may go on while its mail is under way: the outcome is recorded behind what happened meanwhile."""
    ticket_id = closed(desk)
    queue(connection)

    def send(mail: OutgoingMail) -> None:
        desk.execute(request(ticket_id, s.ReopenTicket("it came back"), CLIENT))
        SmtpSender(f"smtp://{server.place}").send(mail)

    mailer_with(connections, send).send_next(at(NOW))
    assert [event.type for event in desk.history(ticket_id)][9:] == ["Ticket.Reopened", "Ticket.ClosureEmailSent"]


def test_an_outcome_that_comes_second_is_recorded_third(
    desk: HelpDesk, database: str, connection: psycopg.Connection, mailer: ClosureMailer
) -> None:
    """Overtaken at the very moment of recording, the outcome goes behind the other event, and stays settled once."""
    ticket_id = closed(desk)
    queue(connection)
    with connect(database, "test rival") as rival:
        rival.execute("begin")
        append(rival, notes(ticket_id, 10))
        with beside(lambda: mailer.send_next(at(NOW))):
            wait_for_locks(connection, 1)
            rival.execute("commit")
    assert [event.type for event in desk.history(ticket_id)][9:] == ["Ticket.NoteAdded", "Ticket.ClosureEmailSent"]
    assert outbox(connection) == [(9, "sent", 1, None)]


def test_a_mail_that_nobody_can_handle_holds_up_no_other(
    desk: HelpDesk, connection: psycopg.Connection, connections: Pool, server: MailServer
) -> None:
    """Whatever goes wrong with one mail, it is postponed with its reason, and the next one is sent."""
    tickets = [closed(desk), closed(desk)]
    queue(connection)
    troubles = [RuntimeError("the printer of envelopes is on fire")]

    def send(mail: OutgoingMail) -> None:
        if troubles:
            raise troubles.pop()
        SmtpSender(f"smtp://{server.place}").send(mail)

    mailer = mailer_with(connections, send)
    assert [mailer.send_next(at(NOW)) for _ in range(3)] == [True, True, False]
    assert sorted(state for _, state, _, _ in outbox(connection)) == ["due", "sent"]
    assert "RuntimeError: the printer of envelopes is on fire" in [error for *_, error in outbox(connection)]
    assert mailer.send_next(at(NOW + timedelta(minutes=1)))
    assert {last(desk, ticket).type for ticket in tickets} == {"Ticket.ClosureEmailSent"}


def test_a_database_that_fails_is_not_taken_for_a_mail_that_fails(
    desk: HelpDesk, connection: psycopg.Connection, connections: Pool
) -> None:
    """An error of the database is the worker's to wait out; the mail stays due as it was, without an attempt."""
    closed(desk)
    queue(connection)

    def send(mail: OutgoingMail) -> None:
        raise psycopg.OperationalError("gone")

    with pytest.raises(psycopg.OperationalError):
        mailer_with(connections, send).send_next(at(NOW))
    assert outbox(connection) == [(9, "due", 0, None)]


def test_two_mailers_at_once_send_one_mail(
    desk: HelpDesk, connection: psycopg.Connection, connections: Pool, mailer: ClosureMailer, server: MailServer
) -> None:
    """While one worker sends a mail, another one finds nothing to send, and does not wait for it."""
    closed(desk)
    queue(connection)
    sending, go_on = Flag(), Flag()

    def send(mail: OutgoingMail) -> None:
        sending.set()
        assert go_on.wait(20)
        SmtpSender(f"smtp://{server.place}").send(mail)

    with beside(lambda: mailer_with(connections, send).send_next(at(NOW))) as first:
        try:
            assert sending.wait(20)
            assert not mailer.send_next(at(NOW))
        finally:
            go_on.set()
    assert first[0].result()
    assert len(server.mailbox.messages) == 1
    assert not mailer.send_next(at(NOW))


class Killed(BaseException):
    """The process ends at once."""


def test_a_mailer_that_dies_after_sending_sends_the_same_mail_again(
    desk: HelpDesk, connection: psycopg.Connection, connections: Pool, mailer: ClosureMailer, server: MailServer
) -> None:
    """Cut off between the server's OK and the record, the mail goes out once more when the lease has run out."""
    ticket_id = closed(desk)
    queue(connection)

    def send_and_die(mail: OutgoingMail) -> None:
        SmtpSender(f"smtp://{server.place}").send(mail)
        raise Killed

    with pytest.raises(Killed):
        mailer_with(connections, send_and_die).send_next(at(NOW))
    assert outbox(connection) == [(9, "due", 0, None)]
    assert not mailer.send_next(at(NOW + LEASE - timedelta(seconds=1)))
    assert mailer.send_next(at(NOW + LEASE))
    first, second = server.mailbox.messages
    assert first["Message-ID"] == second["Message-ID"]
    assert [event.type for event in desk.history(ticket_id)][8:] == ["Ticket.Closed", "Ticket.ClosureEmailSent"]


def test_what_was_accepted_is_recorded_although_the_database_was_away(
    desk: HelpDesk, connection: psycopg.Connection, connections: Pool, server: MailServer
) -> None:
    """The connections die while the mail is handed over: the outcome is recorded, and no mail goes twice."""
    ticket_id = closed(desk)
    queue(connection)

    def send(mail: OutgoingMail) -> None:
        SmtpSender(f"smtp://{server.place}").send(mail)
        end = "select pg_terminate_backend(pid, 5000) from pg_stat_activity where application_name = %s"
        connection.execute(end, (SEND_MAILS,))

    assert mailer_with(connections, send).send_next(at(NOW))
    assert outbox(connection) == [(9, "sent", 1, None)]
    assert last(desk, ticket_id).type == "Ticket.ClosureEmailSent"


def test_a_mailer_that_cannot_record_says_so(
    desk: HelpDesk, connection: psycopg.Connection, connections: Pool, server: MailServer
) -> None:
    """After some attempts it gives up: the mail is due again when its lease has run out."""
    closed(desk)
    queue(connection)
    connection.execute("""
        create function busy() returns trigger language plpgsql as
            $$ begin raise 'busy' using errcode = 'too_many_connections'; end $$;
        create trigger busy before update on closure_mails for each row when (new.state = 'sent')
            execute function busy()""")
    pauses: list[float] = []
    sender = SmtpSender(f"smtp://{server.place}")
    with pytest.raises(psycopg.OperationalError, match="busy"):
        ClosureMailer(connections, sender.send, FROM, WINDOW, pauses.append).send_next(at(NOW))
    assert pauses == sorted(pauses)
    assert len(pauses) > 3
    assert sum(pauses) < (LEASE - timedelta(seconds=DELIVERY_SECONDS)).total_seconds()
    assert outbox(connection) == [(9, "due", 0, None)]


def test_no_transaction_is_open_while_the_server_is_waited_for(
    desk: HelpDesk, connection: psycopg.Connection, connections: Pool
) -> None:
    """While a mail is under way nothing is locked, and nobody else takes it."""
    closed(desk)
    queue(connection)
    seen = []

    def send(mail: OutgoingMail) -> None:
        open_now = "select count(*) from pg_stat_activity where application_name = %s and xact_start is not null"
        seen.append(connection.execute(open_now, (SEND_MAILS,)).fetchone()[0])
        seen.append(len(connection.execute("select from closure_mails for update nowait").fetchall()))
        seen.append(mailer_with(connections, send).send_next(at(NOW)))

    assert mailer_with(connections, send).send_next(at(NOW))
    assert seen == [0, 1, False]


def test_a_delivery_that_is_stopped_is_due_as_before(
    desk: HelpDesk, connection: psycopg.Connection, connections: Pool, mailer: ClosureMailer
) -> None:
    """The desk ends in the middle of a delivery: no attempt is counted, and the next worker sends the mail at once."""
    closed(desk)
    queue(connection)

    def send(mail: OutgoingMail) -> None:
        raise DeliveryStopped

    assert mailer_with(connections, send).send_next(at(NOW))
    assert outbox(connection) == [(9, "due", 0, None)]
    assert mailer.send_next(at(NOW))
    assert outbox(connection) == [(9, "sent", 1, None)]


def test_who_comes_too_late_changes_nothing(
    desk: HelpDesk, connection: psycopg.Connection, connections: Pool, mailer: ClosureMailer
) -> None:
    """A mailer that slept over its lease: another has sent the mail, and what it learns itself is not recorded."""
    ticket_id = closed(desk)
    queue(connection)

    def send(mail: OutgoingMail) -> None:
        assert mailer.send_next(at(NOW + LEASE))
        raise MailRefused(Phase.RCPT, 550, "5.1.1 no such user")

    assert mailer_with(connections, send).send_next(at(NOW))
    assert outbox(connection) == [(9, "sent", 1, None)]
    assert [event.type for event in desk.history(ticket_id)][9:] == ["Ticket.ClosureEmailSent"]


def test_a_mail_that_is_no_longer_true_does_not_leave(
    desk: HelpDesk, connection: psycopg.Connection, mailer: ClosureMailer, server: MailServer
) -> None:
    """Reopened before its mail left: the mail is withdrawn, neither sent nor failed; closing again sends another."""
    ticket_id = closed(desk)
    queue(connection)
    desk.execute(request(ticket_id, s.ReopenTicket("it came back"), CLIENT))
    assert mailer.send_next(at(NOW))
    assert server.mailbox.messages == []
    assert outbox(connection) == [(9, "withdrawn", 1, "the ticket was reopened before the mail left")]
    assert last(desk, ticket_id).type == "Ticket.Reopened"
    close(desk, ticket_id)
    queue(connection, NOW + timedelta(seconds=1))
    assert mailer.send_next(at(NOW + timedelta(seconds=1)))
    assert [message["Message-ID"] for message in server.mailbox.messages] == [
        f"<ticket.{ticket_id}.closed.14@example.org>"
    ]


def test_a_mail_continues_the_trace_of_its_command(
    desk: HelpDesk, connection: psycopg.Connection, mailer: ClosureMailer, server: MailServer
) -> None:
    """With a span of its own; the mail of a command without a trace names none."""
    sent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    closed(desk, trace=Trace(traceparent=sent))
    queue(connection)
    assert mailer.send_next(at(NOW))
    (mail,) = server.mailbox.messages
    assert mail["traceparent"][:36] == sent[:36]
    assert mail["traceparent"] != sent
    closed(desk)
    queue(connection)
    assert mailer.send_next(at(NOW))
    assert server.mailbox.messages[1]["traceparent"] is None


def test_closed_again_is_mailed_again(
    desk: HelpDesk, connection: psycopg.Connection, mailer: ClosureMailer, server: MailServer
) -> None:
    """A ticket that was reopened and closed again has two mails, each with a Message-ID of its own."""
    ticket_id = closed(desk)
    queue(connection)
    mailer.send_next(at(NOW))
    desk.execute(request(ticket_id, s.ReopenTicket("it came back"), CLIENT))
    close(desk, ticket_id)
    queue(connection, NOW + timedelta(seconds=1))
    mailer.send_next(at(NOW + timedelta(seconds=1)))
    ids = [message["Message-ID"].strip() for message in server.mailbox.messages]
    assert ids == [f"<ticket.{ticket_id}.closed.{version}@example.org>" for version in (9, 15)]
    assert [(version, state) for version, state, *_ in outbox(connection)] == [(9, "sent"), (15, "sent")]


@pytest.mark.parametrize(
    "name",
    [
        "Eve\r\nBcc: evil@example.org",
        "Eve <evil@example.org>, Bob",
        'Eve" <evil@example.org> "',
        "Eve <evil@example.org>, " + "x" * 300,
        "[]:;, :, " + "x" * 90,
        ". " + "x" * 90,
    ],
)
def test_a_name_cannot_add_headers_or_recipients(
    desk: HelpDesk, connection: psycopg.Connection, mailer: ClosureMailer, server: MailServer, name: str
) -> None:
    """Whatever a client's name is, the mail goes to the one address, under the headers that the desk writes."""
    closed(desk, unchecked(CONTACT, name=name))
    queue(connection)
    mailer.send_next(at(NOW))
    check_headers(server)


@pytest.mark.parametrize("summary", ["a\r\nBcc: evil@example.org", "a\n\nbody of somebody else", "\u2028x\x85y" * 200])
def test_a_summary_cannot_add_headers(
    desk: HelpDesk, connection: psycopg.Connection, mailer: ClosureMailer, server: MailServer, summary: str
) -> None:
    """Whatever a ticket's summary is, it stays in the subject, on one line."""
    closed(desk, summary=summary)
    queue(connection)
    mailer.send_next(at(NOW))
    check_headers(server)


def test_what_is_hidden_in_a_text_is_seen_in_the_mail(
    desk: HelpDesk, connection: psycopg.Connection, mailer: ClosureMailer, server: MailServer
) -> None:
    """Controls and bidi overrides are shown as signs, in the subject too: they cannot steer who reads. Lines stay."""
    hidden = "\x1b[2Jgone\u202egnp.exe"
    closed(desk, unchecked(CONTACT, name=f"Eve{hidden}"), hidden, actions=f"one{hidden}\n\ttwo")
    queue(connection)
    mailer.send_next(at(NOW))
    (mail,) = server.mailbox.messages
    shown = "␛[2Jgone<U+202E>gnp.exe"
    assert mail["Subject"] == f"[T-000001] Closed: {shown}"
    words = mail.get_body(("plain",)).get_content().replace("\r\n", "\n")
    for said in (f"Dear Eve{shown},", f"Your request: {shown}", f"Actions: one{shown}\n\ttwo"):
        assert said in words
    for part in mail.iter_parts():
        assert not {"\x1b", "\u202e"} & set(part.get_content())


def check_headers(server: MailServer) -> None:
    """One mail, to the one address, with the desk's headers and no other; `X-…` are aiosmtpd's own."""
    (message,) = server.mailbox.messages
    assert server.mailbox.envelopes == [("desk@example.org", ["client-1@example.org"])]
    assert [one.addr_spec for one in message["To"].addresses] == ["client-1@example.org"]
    headers = {name for name in message if not name.startswith("X-")}
    desks = {"From", "To", "Subject", "Date", "Message-ID", "Auto-Submitted", "MIME-Version", "Content-Type"}
    assert headers == desks
    assert "Dear " in message.get_body(("plain",)).get_content()


def test_html_shows_what_was_written_as_text(
    desk: HelpDesk, connection: psycopg.Connection, mailer: ClosureMailer, server: MailServer
) -> None:
    """No word of client or agent becomes markup."""
    closed(desk, msgspec.structs.replace(CONTACT, name="<b>Eve & Bob</b>"), summary='<script>alert("x")</script>')
    queue(connection)
    mailer.send_next(at(NOW))
    html = server.mailbox.messages[0].get_body(("html",)).get_content()
    assert "&lt;script&gt;alert(&quot;x&quot;)&lt;/script&gt;" in html
    assert "Dear &lt;b&gt;Eve &amp; Bob&lt;/b&gt;," in html
    assert "<script" not in html
    assert "<b>" not in html


@pytest.mark.parametrize("email", ["", "nobody", "a@b@example.org", "a b@example.org", "a@example.org\r\nBcc: b@e.org"])
def test_a_client_without_a_valid_address_is_a_failure_with_its_reason(
    desk: HelpDesk, connection: psycopg.Connection, mailer: ClosureMailer, server: MailServer, email: str
) -> None:
    """What cannot be an address is not tried again; the ticket says why its client heard nothing."""
    ticket_id = closed(desk, msgspec.structs.replace(CONTACT, email=email))
    queue(connection)
    mailer.send_next(at(NOW))
    assert server.mailbox.messages == []
    assert "cannot be an e-mail address" in last(desk, ticket_id).event.reason
    assert outbox(connection)[0][1] == "failed"


def test_a_domain_leaves_in_a_labels(desk: HelpDesk, connection: psycopg.Connection, connections: Pool) -> None:
    """Client and desk at domains beyond ASCII: every mail server can take that, also one without SMTPUTF8."""
    closed(desk, msgspec.structs.replace(CONTACT, email="anne@ännes-büro.example"))
    seal_all(connection)
    queue_due_mails(connection, "münchen.example", NOW)  # as earlier versions did
    with MailServer(enable_SMTPUTF8=False) as server:
        sender = SmtpSender(f"smtp://{server.place}")
        ClosureMailer(connections, sender.send, "Büro <desk@münchen.example>", WINDOW).send_next(at(NOW))
    (mail,) = server.mailbox.messages
    ours, theirs = "desk@xn--mnchen-3ya.example", "anne@xn--nnes-bro-zza0w.example"
    assert server.mailbox.envelopes == [(ours, [theirs])]
    assert (mail["From"], mail["To"]) == (f"Büro <{ours}>", f"Client One <{theirs}>")
    assert mail["Message-ID"].endswith("@xn--mnchen-3ya.example>")
    assert connection.execute("select address from closure_mails").fetchone() == (theirs,)


def test_an_address_beyond_ascii_takes_a_server_that_can(
    desk: HelpDesk, connection: psycopg.Connection, connections: Pool, mailer: ClosureMailer, server: MailServer
) -> None:
    """What stands before the @ needs SMTPUTF8: one without it will not learn it by waiting."""
    tickets = [closed(desk, msgspec.structs.replace(CONTACT, email="usér@example.org")) for _ in range(2)]
    queue(connection)
    with MailServer(enable_SMTPUTF8=False) as old:
        mailer_with(connections, SmtpSender(f"smtp://{old.place}").send).send_next(at(NOW))
    mailer.send_next(at(NOW))
    reasons = {getattr(last(desk, ticket).event, "reason", None) for ticket in tickets}
    assert reasons == {None, "NeedsSmtputf8: the mail server has no SMTPUTF8, which usér@example.org needs"}
    assert server.mailbox.envelopes == [("desk@example.org", ["usér@example.org"])]


INTO_OUTBOX = """
    insert into closure_mails (ticket_id, closed_version, message_id, due_at, queued_at) values (%s, %s, %s, %s, %s)"""


def test_a_mail_for_nobody_ends_in_the_outbox(
    desk: HelpDesk, connection: psycopg.Connection, mailer: ClosureMailer, server: MailServer
) -> None:
    """A mail whose ticket or client does not exist fails by itself, and does not stand in the way of the others."""
    connection.execute(INTO_OUTBOX, (uuid4(), 1, "<x@y>", NOW - timedelta(hours=1), NOW))
    ticket_id = closed(desk)
    queue(connection)
    assert [mailer.send_next(at(NOW)), mailer.send_next(at(NOW)), mailer.send_next(at(NOW))] == [True, True, False]
    reason = "ValueError: the ticket has no client in the directory"
    assert sorted(outbox(connection)) == [(1, "failed", 1, reason), (9, "sent", 1, None)]
    connection.execute(INTO_OUTBOX, (ticket_id, 1, "<z@y>", NOW, NOW))
    mailer.send_next(at(NOW))
    assert last(desk, ticket_id).event == ClosureEmailFailed(1, "<z@y>", 1, reason)


def test_a_mail_without_an_issue_says_what_came_in() -> None:
    """A ticket of which little is known is mailed with what is known; without a reopen window none is promised."""
    ticket, client = after(None, BEGUN[:3]), Client(1, "client-a", "Client A", "a@example.org")
    sent = closure_message(ticket, client, "<x@y>", FROM, timedelta(0), NOW)
    mail = message_from_bytes(sent.content, policy=default)
    words = mail.get_body(("plain",)).get_content()
    assert mail["Subject"] == "[T-000001] Closed: The printer is silent."
    assert "What was done" not in words
    assert "reopen" not in words
    assert "send a new request that names the number T-000001" in words


def test_following_twice_queues_once(desk: HelpDesk, connection: psycopg.Connection, database: str) -> None:
    """Two followers at once: the second finds the place held, and leaves the work to the first."""
    closed(desk)
    seal_all(connection)
    with connect(database, "test other") as other:
        other.execute("begin")
        assert queue_due_mails(other, "example.org", NOW) == 10
        assert queue_due_mails(connection, "example.org", NOW) == 0
        other.execute("commit")
    assert queue_due_mails(connection, "example.org", NOW) == 0
    assert len(outbox(connection)) == 1


def test_a_follower_comes_to_the_end_in_batches(
    desk: HelpDesk, connection: psycopg.Connection, monkeypatch: Any
) -> None:
    """A log that is longer than a batch is followed batch by batch, and no closing is left out."""
    monkeypatch.setattr("application.mail.mail_outbox.FOLLOW_BATCH", 4)
    closed(desk)
    assert queue(connection) == 4
    opened(desk)
    while queue(connection):
        continue
    assert [version for version, *_ in outbox(connection)] == [9]
    assert connection.execute("select position = (select max(position) from log) from followers").fetchone() == (True,)


def message() -> OutgoingMail:
    """Some mail."""
    mail = EmailMessage()
    mail["From"], mail["To"], mail["Subject"] = "desk@example.org", "client-1@example.org", "hello"
    mail.set_content("hello\n.\n..\n")
    return OutgoingMail("desk@example.org", "client-1@example.org", mail.as_bytes().replace(b"\n", b"\r\n"))


def test_tls_is_used_where_it_is_offered(identity: tuple[ssl.SSLContext, Path]) -> None:
    """Without a password to protect, an unproven server's TLS is better than none."""
    with MailServer(tls_context=identity[0]) as server:
        SmtpSender(f"smtp://{server.place}").send(message())
    assert server.mailbox.secure == [True]


def test_smtps_speaks_tls_from_the_first_byte(identity: tuple[ssl.SSLContext, Path]) -> None:
    """The scheme smtps means TLS before anything is said."""
    with MailServer(ssl_context=identity[0]) as server:
        SmtpSender(f"smtps://{server.place}").send(message())
    assert len(server.mailbox.messages) == 1


@pytest.mark.parametrize("scheme", ["smtp", "smtps"])
def test_a_password_goes_to_a_proven_server_only(
    identity: tuple[ssl.SSLContext, Path], monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    """A server whose certificate nobody vouches for does not get the password; a proven one gets it, decoded."""
    how = {"tls_context": identity[0]} if scheme == "smtp" else {"ssl_context": identity[0], "auth_require_tls": False}
    with MailServer(**how) as server:
        url = f"{scheme}://desk%40example.org:p%40ss%2Fword@{server.place}"
        with pytest.raises(ssl.SSLCertVerificationError):
            SmtpSender(url).send(message())
        assert server.mailbox.logins == []
        monkeypatch.setenv("SSL_CERT_FILE", str(identity[1]))
        SmtpSender(url).send(message())
    assert server.mailbox.logins == [(b"desk@example.org", b"p@ss/word")]
    assert len(server.mailbox.messages) == 1


def test_a_password_is_never_sent_in_the_clear(server: MailServer) -> None:
    """A server without TLS, or somebody on the way who takes it out, gets neither password nor mail."""
    with pytest.raises(SMTPException, match="offers no TLS"):
        SmtpSender(f"smtp://desk:password@{server.place}").send(message())
    assert (server.mailbox.logins, server.mailbox.messages) == ([], [])


def test_a_server_that_takes_no_login_is_named_so(
    identity: tuple[ssl.SSLContext, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user for a server without logins is a wrong setting: the mail waits until it is right."""
    monkeypatch.setenv("SSL_CERT_FILE", str(identity[1]))
    refusal = pytest.raises(SMTPException, match="takes no user and password")
    with MailServer(ssl_context=identity[0]) as server, refusal as refused:
        SmtpSender(f"smtps://desk:password@{server.place}").send(message())
    assert trouble_of(refused.value) is Trouble.DESK


def test_a_ticket_that_cannot_be_read_holds_up_no_other_mail(
    desk: HelpDesk, connection: psycopg.Connection, mailer: ClosureMailer, server: MailServer
) -> None:
    """Its mail waits for a program that reads the event, and ends in the outbox after days; the others go out."""
    broken = closed(desk)
    queue(connection)
    append(connection, [StoredRow(broken, 10, "Ticket.OfTomorrow", b"{}", NOW)])
    closed(desk)
    queue(connection)
    assert [mailer.send_next(at(NOW)), mailer.send_next(at(NOW)), mailer.send_next(at(NOW))] == [True, True, False]
    assert len(server.mailbox.messages) == 1
    assert sorted(row[1] for row in outbox(connection)) == ["due", "sent"]
    assert mailer.send_next(at(NOW + timedelta(days=6)))
    assert sorted(row[1] for row in outbox(connection)) == ["failed", "sent"]
    assert not mailer.send_next(at(NOW + timedelta(days=6)))


def test_an_outcome_belongs_to_the_level_that_closed(
    desk: HelpDesk, connection: psycopg.Connection, connections: Pool
) -> None:
    """Reopened and escalated while the mail is on its way: what became of the mail is stored at the closing's level."""
    ticket_id = closed(desk)
    queue(connection)

    def go_on(_: OutgoingMail) -> None:
        desk.execute(request(ticket_id, s.ReopenTicket("it came back"), CLIENT))
        desk.execute(request(ticket_id, EscalateTicket("not here")))

    assert mailer_with(connections, go_on).send_next(at(NOW))
    escalated, outcome = desk.history(ticket_id)[-2:]
    assert (escalated.level, outcome.level) == (Level.TIER2, Level.TIER1)
    assert isinstance(outcome.event, ClosureEmailSent)
