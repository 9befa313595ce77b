"""Hands mails to the mail server that DESKLEDGER_SMTP_URL names: each over a connection of its own, within a deadline.

smtplib has a deadline for each operation and none for the whole, so a server that sends a byte now and then holds it
for ever. Here a timer shuts the socket down under it.
"""

import socket
import ssl
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from smtplib import SMTP, SMTPException, SMTPResponseException, SMTPServerDisconnected
from threading import Lock, Timer
from typing import Any
from urllib.parse import unquote, urlsplit

from application.mail.mail_message import OutgoingMail
from application.mail.smtp_replies import MailRefused, Phase

DELIVERY_SECONDS = 60.0  # connecting, TLS, every command, and the data
CONNECT_SECONDS = 15.0  # of these, for one of the server's addresses
QUIT_SECONDS = 5.0  # for the end of the connection, by when the outcome is known
KNOWS_NO_EHLO = (500, 502)
MOST_REPLY_BYTES, MOST_REPLY_LINES = 8192, 20


class DeliveryStopped(Exception):
    """The desk ends: the delivery was cut off, and is made another time."""


class NeedsSmtputf8(SMTPException):
    """What stands before the @ is beyond ASCII, and the mail server cannot take that (RFC 6531)."""


class SmtpSender:
    """Sends over as many connections as there are threads that call it; `stop` cuts all of them off."""

    def __init__(self, url: str, seconds: float = DELIVERY_SECONDS) -> None:
        self._server, self._seconds = urlsplit(url), seconds
        self._host, self._secure = self._server.hostname or "", self._server.scheme == "smtps"
        self._lock, self._open, self._stopped = Lock(), set[SocketGuard](), False

    def send(self, mail: OutgoingMail) -> None:
        """Returns when the server has said that it has the mail: whatever comes after that changes nothing.

        Raises MailRefused, DeliveryStopped, SMTPException or OSError.
        """
        with self._connected() as smtp:
            _hand_over(smtp, mail)

    def check(self) -> None:
        """Goes as far as a delivery does before it names the mail. Raises what `send` raises."""
        with self._connected():
            pass

    def stop(self) -> None:
        """Cuts off what is under way, and whatever begins later."""
        with self._lock:
            self._stopped = True
            for guard in self._open:
                guard.cut(DeliveryStopped("the desk was stopped"))

    @contextmanager
    def _connected(self) -> Iterator[SMTP]:
        """A connection with which a mail may begin. With a password the server has to prove who it is; without one,
        TLS is used where it is offered, proven or not."""
        smtp = SMTP(timeout=self._seconds)  # it is handed its socket, so that somebody else can shut that down
        with self._guarded() as guard, closing(smtp):
            try:
                self._greet(smtp, guard)
                yield smtp
            except (OSError, SMTPException, MailRefused):
                if guard.error:  # what was cut off may look like an answer
                    raise guard.error from None
                raise
            finally:  # a server that does not say goodbye changes nothing, and is not waited for
                guard.restart(min(QUIT_SECONDS, self._seconds))
                with suppress(OSError, SMTPException, ValueError):
                    smtp.quit()

    @contextmanager
    def _guarded(self) -> "Iterator[SocketGuard]":
        guard = SocketGuard(self._seconds)
        with self._lock:
            self._open.add(guard)
            if self._stopped:
                guard.cut(DeliveryStopped("the desk was stopped"))
        try:
            yield guard
        finally:
            with self._lock:
                self._open.discard(guard)
            guard.close()

    def _greet(self, smtp: SMTP, guard: "SocketGuard") -> None:
        context = ssl.create_default_context()
        if not self._server.password:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        smtp.sock = self._connect(guard)
        if self._secure:
            smtp.sock = context.wrap_socket(smtp.sock, server_hostname=self._host)
        require_reply(Phase.CONNECT, smtp.getreply())
        _say_hello(smtp)
        if not self._secure and smtp.has_extn("starttls"):
            require_reply(Phase.STARTTLS, smtp.docmd("STARTTLS"))
            smtp.file = None  # and with it what came in the clear behind the answer (RFC 3207, section 4.2)
            smtp.sock = context.wrap_socket(smtp.sock, server_hostname=self._host)
            _say_hello(smtp)
        if self._server.username:
            _log_in(smtp, unquote(self._server.username), unquote(self._server.password or ""))

    def _connect(self, guard: "SocketGuard") -> socket.socket:
        port, failed = self._server.port or (465 if self._secure else 25), OSError("the mail server has no address")
        for family, kind, protocol, _, address in socket.getaddrinfo(self._host, port, type=socket.SOCK_STREAM):
            connection = socket.socket(family, kind, protocol)
            try:
                guard.watch(connection)
                connection.settimeout(min(CONNECT_SECONDS, self._seconds))
                connection.connect(address)
            except OSError as error:
                failed = error
                connection.close()
            else:
                connection.settimeout(self._seconds)
                return connection
        raise failed


class SocketGuard:
    """Shuts a socket down when its time is over, or when somebody says so; `error` says why, once it has."""

    def __init__(self, seconds: float) -> None:
        self.error: Exception | None = None
        self._lock = Lock()
        self._socket: socket.socket | None = None
        self._timer = self._start_timer(seconds)

    def watch(self, connection: socket.socket) -> None:
        """From now on this is the socket. Raises OSError when the time is over already."""
        with self._lock:
            self._forget()
            self._socket = connection.dup()  # of our own: the number of a closed one may be another's at once
            if self.error:
                raise OSError(str(self.error))

    def cut(self, error: Exception) -> None:
        """Whoever waits for the socket waits no longer, in whatever thread."""
        with self._lock:
            self.error = self.error or error
            if self._socket:
                with suppress(OSError):
                    self._socket.shutdown(socket.SHUT_RDWR)

    def restart(self, seconds: float) -> None:
        """From now on there are so many seconds."""
        self._timer.cancel()
        self._timer = self._start_timer(seconds)

    def close(self) -> None:
        """Nothing is watched any more."""
        self._timer.cancel()
        with self._lock:
            self._forget()

    def _forget(self) -> None:
        if self._socket:
            self._socket.close()
        self._socket = None

    def _start_timer(self, seconds: float) -> Timer:
        timer = Timer(seconds, self.cut, (TimeoutError(f"the delivery took longer than {seconds:g} s"),))
        timer.daemon = True
        timer.start()
        return timer


def require_reply(phase: Phase, reply: tuple[int, bytes], least: int = 200) -> None:
    """Raises MailRefused unless the reply is positive: 2xx, or what begins with the digit of `least`."""
    if reply[0] // 100 != least // 100:
        raise MailRefused(phase, *reply)


def _say_hello(smtp: SMTP) -> None:
    reply = smtp.ehlo()
    require_reply(Phase.EHLO, smtp.helo() if reply[0] in KNOWS_NO_EHLO else reply)


def _log_in(smtp: SMTP, user: str, password: str) -> None:
    """Raises SMTPException when somebody on the way could read the password, or the server takes none."""
    if not isinstance(smtp.sock, ssl.SSLSocket):
        raise SMTPException("the mail server offers no TLS, and a password is never sent in the clear")
    if not smtp.has_extn("auth"):
        raise SMTPException("the mail server takes no user and password")
    try:
        smtp.login(user, password)
    except SMTPResponseException as error:
        raise MailRefused(Phase.AUTH, error.smtp_code, error.smtp_error) from None


def _hand_over(smtp: SMTP, mail: OutgoingMail) -> None:
    options = f" SIZE={len(mail.content)}" if smtp.has_extn("size") else ""
    if mail.smtputf8:
        if not smtp.has_extn("smtputf8"):
            raise NeedsSmtputf8(f"the mail server has no SMTPUTF8, which {mail.recipient} needs")
        smtp.command_encoding = "utf-8"
        options += " SMTPUTF8 BODY=8BITMIME"
    require_reply(Phase.MAIL, smtp.docmd("MAIL", f"FROM:<{mail.sender}>{options}"))
    require_reply(Phase.RCPT, smtp.docmd("RCPT", f"TO:<{mail.recipient}>"))
    require_reply(Phase.DATA, smtp.docmd("DATA"), 300)
    # a period more where a line begins with one, and that of the end (RFC 5321, section 4.5.2)
    smtp.send(mail.content.replace(b"\r\n.", b"\r\n..") + b".\r\n")
    _require_accepted(smtp)


def _require_accepted(smtp: SMTP) -> None:
    """Raises MailRefused unless the server has said 2xx. Nothing behind these three digits can take it back."""
    answer: Any = smtp.file
    digits = answer.read(3)
    if digits.startswith(b"2"):
        return
    lines = [answer.readline(MOST_REPLY_BYTES)]
    while lines[-1].startswith(b"-") and len(lines) < MOST_REPLY_LINES:
        lines.append(answer.readline(MOST_REPLY_BYTES)[3:])
    if not lines[-1].endswith(b"\n"):
        raise SMTPServerDisconnected("the connection was closed before the server had said whether it has the mail")
    code = int(digits) if digits.isdigit() else -1
    raise MailRefused(Phase.END, code, b"\n".join(line[1:].strip() for line in lines))
