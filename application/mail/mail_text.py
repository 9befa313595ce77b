"""The words of the closing e-mail, in plain text and in HTML."""

from datetime import datetime, timedelta
from email.utils import format_datetime, parseaddr
from html import escape

from application.commands.email_addresses import read_address, wire_address
from application.mail.mail_message import OutgoingMail, header_mailbox, header_text, mail_bytes
from domain.client import Client
from domain.text import in_one_line, with_visible_controls
from domain.ticket import Ticket


def closure_message(
    ticket: Ticket,
    client: Client,
    message_id: str,
    mail_from: str,
    reopen_window: timedelta,
    now: datetime,
    traceparent: str | None = None,
) -> OutgoingMail:
    """The mail to the client. Raises ValueError when an address cannot be one."""
    name, desk = parseaddr(mail_from)
    sender, recipient = _address(desk, in_house=True), _address(client.email)
    summary = in_one_line(" ".join((ticket.issue.summary if ticket.issue else ticket.text).split()))
    headers = {
        "From": header_mailbox(name, sender),
        "To": header_mailbox(client.name, recipient),
        "Subject": header_text(f"[{ticket.number}] Closed: {summary}"),
        "Date": format_datetime(now),
        "Message-ID": _in_ascii(message_id),
        "Auto-Submitted": "auto-generated",  # RFC 3834: no machine is to answer it
        "X-Auto-Response-Suppress": "All",
    }
    if traceparent:
        headers["traceparent"] = traceparent
    paragraphs = [(title, with_visible_controls(text)) for title, text in _paragraphs(ticket, client, reopen_window)]
    text = "\n\n".join(text if not title else f"{title}: {text}" for title, text in paragraphs) + "\n"
    content = mail_bytes(headers, text, _html(paragraphs))
    return OutgoingMail(sender, recipient, content, not recipient.isascii())


def _paragraphs(ticket: Ticket, client: Client, reopen_window: timedelta) -> list[tuple[str, str]]:
    """The mail's paragraphs: title (or none) and text."""
    paragraphs = [
        ("", f"Dear {in_one_line(client.name)},"),
        ("", f"your support request {ticket.number} is resolved and closed."),
    ]
    if ticket.issue:
        paragraphs.append(("Your request", in_one_line(ticket.issue.summary)))
    if ticket.resolution:
        paragraphs.append(("What was done", ticket.resolution.text))
    if ticket.details:
        paragraphs.append(("Cause", ticket.details.cause))
        paragraphs.append(("Actions", ticket.details.actions))
        paragraphs.append(("How it was checked", ticket.details.checked_by_method))
    if reopen_window:
        within = f"within {reopen_window.days} days"
        reopen = f"If it is not fixed, tell the service desk {within} and name the number {ticket.number}"
        paragraphs.append(("How to reopen it", f"{reopen}: the request is reopened where it was resolved."))
    else:
        paragraphs.append(("", f"If it is not fixed, send a new request that names the number {ticket.number}."))
    return paragraphs


def _html(paragraphs: list[tuple[str, str]]) -> str:
    body = "\n".join(
        f"<p>{f'<strong>{escape(title)}:</strong> ' if title else ''}{escape(text).replace(chr(10), '<br>')}</p>"
        for title, text in paragraphs
    )
    return f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"></head><body>\n{body}\n</body></html>\n'


def _address(address: str, in_house: bool = False) -> str:
    try:
        return wire_address(read_address(address, in_house))
    except ValueError as error:
        raise ValueError(f"{address} cannot be an e-mail address: {error}") from error


def _in_ascii(message_id: str) -> str:
    """Earlier versions queued mails whose Message-ID ends in a domain beyond ASCII."""
    if message_id.isascii():
        return message_id
    local, at, domain = message_id.strip("<>").rpartition("@")
    return f"<{local}{at}{domain.encode('idna').decode()}>"
