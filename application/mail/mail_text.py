"""The words of the closing e-mail, in plain text and in HTML."""

from datetime import datetime, timedelta
from email.headerregistry import Address
from email.message import EmailMessage
from email.utils import format_datetime, parseaddr
from html import escape

from domain.client import Client
from domain.text import in_one_line, with_visible_controls
from domain.ticket import Ticket

SPECIALS = str.maketrans(dict.fromkeys('()<>@,;:\\"[]', " "))


def closure_message(
    ticket: Ticket, client: Client, message_id: str, mail_from: str, reopen_window: timedelta, now: datetime
) -> EmailMessage:
    """The mail to the client. Raises ValueError when an address cannot stand in a header."""
    message = EmailMessage()
    name, sender = parseaddr(mail_from)
    message["From"] = _address(name, sender)
    message["To"] = _address(client.name, client.email)
    message["Subject"] = f"[{ticket.number}] Closed: {_one_line(ticket.issue.summary if ticket.issue else ticket.text)}"
    message["Date"] = format_datetime(now)
    message["Message-ID"] = message_id
    message["Auto-Submitted"] = "auto-generated"  # RFC 3834: no machine is to answer it
    message["X-Auto-Response-Suppress"] = "All"
    paragraphs = [(title, with_visible_controls(text)) for title, text in _paragraphs(ticket, client, reopen_window)]
    message.set_content("\n\n".join(text if not title else f"{title}: {text}" for title, text in paragraphs) + "\n")
    message.add_alternative(_html(paragraphs), subtype="html")
    return message


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


def _address(name: str, address: str) -> Address:
    # Python's folding drops the quotes of a long name, and what needed them would then mean something else
    plain = _one_line(name.translate(SPECIALS)).lstrip(". ")
    try:
        return Address(plain, addr_spec=address)
    except Exception as error:  # email.errors raises several unrelated kinds
        raise ValueError(f"{address} cannot be an e-mail address: {error}") from error


def _one_line(text: str) -> str:
    return in_one_line(" ".join(text.split()))[:200]
