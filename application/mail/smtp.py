"""Hands a message to the mail server that DESKLEDGER_SMTP_URL names."""

import ssl
from email.message import EmailMessage
from smtplib import SMTP, SMTP_SSL, SMTPException
from urllib.parse import unquote, urlsplit

SMTP_TIMEOUT_SECONDS = 30.0


def smtp_send(url: str, message: EmailMessage) -> None:
    """Sends one message over a connection of its own. Raises SMTPException or OSError.

    With a password the server has to prove who it is; without one, TLS is used where it is offered, proven or not.
    """
    server = urlsplit(url)
    host, secure = server.hostname or "", server.scheme == "smtps"
    context = ssl.create_default_context()
    if not server.password:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if secure:
        connection: SMTP = SMTP_SSL(host, server.port or 465, timeout=SMTP_TIMEOUT_SECONDS, context=context)
    else:
        connection = SMTP(host, server.port or 25, timeout=SMTP_TIMEOUT_SECONDS)
    with connection:
        connection.ehlo()
        if not secure and connection.has_extn("starttls"):
            connection.starttls(context=context)
            connection.ehlo()
        if server.username:
            _log_in(connection, unquote(server.username), unquote(server.password or ""))
        connection.send_message(message)


def _log_in(connection: SMTP, user: str, password: str) -> None:
    """Raises SMTPException when somebody on the way could read the password, or the server takes none."""
    if not isinstance(connection.sock, ssl.SSLSocket):
        raise SMTPException("the mail server offers no TLS, and a password is never sent in the clear")
    if not connection.has_extn("auth"):
        raise SMTPException("the mail server takes no user and password")
    connection.login(user, password)
