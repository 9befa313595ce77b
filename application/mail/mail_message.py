"""A mail as the bytes that leave. No library reads what users typed as a header: each value is written here, in full.

Python's `email` package, given a text for a header, decodes the encoded words in it (RFC 2047); some releases that are
in use write a line break which comes out of one, so that the rest of the text becomes headers of its own. So headers
are written as plain ASCII or as encoded words of our own making, and the bytes are checked again before they leave.
This module stands on the standard library alone: a test runs it on every Python that is there.
"""

import re
import textwrap
import unicodedata
from collections.abc import Mapping, Sequence
from email.header import Header
from email.message import EmailMessage
from email.policy import SMTP
from typing import NamedTuple

MOST_HEADER_CHARS = 200
MOST_LINE_BYTES = 998  # RFC 5322, section 2.1.1
FOLD_AT = 68
MIME = SMTP.clone(cte_type="7bit")  # no server has to be able to do anything for it
_PLAIN = re.compile(r"[ -~]*")
_ATOMS = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+( [A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*")
_FIELD_NAME = re.compile(rb"([!-9;-~]+): ")
_BARE_BREAK = re.compile(rb"\r(?!\n)|(?<!\r)\n|\0")


class OutgoingMail(NamedTuple):
    """A mail with its envelope; `smtputf8` when the recipient's address is beyond ASCII before its @ (RFC 6531)."""

    sender: str
    recipient: str
    content: bytes
    smtputf8: bool = False


def one_line(text: str) -> str:
    """The text without line breaks and control characters, cut to 200 characters."""
    shown = "".join(" " if unicodedata.category(char) == "Cc" else char for char in text)
    return " ".join(shown.split())[:MOST_HEADER_CHARS].rstrip()


def header_text(text: str) -> str:
    """A text of users as the value of a header: in plain ASCII, or in encoded words."""
    line = one_line(text)
    return _folded(line) if _is_plain(line) else _encoded(line)


def header_mailbox(name: str, address: str) -> str:
    """A name and an address as the value of a header; a name is quoted where it has to be, and never changed."""
    line = one_line(name)
    if not line:
        return address
    if not _is_plain(line):
        phrase = _encoded(line)
    elif _ATOMS.fullmatch(line):
        phrase = _folded(line)
    else:
        phrase = _folded('"' + re.sub(r'(["\\])', r"\\\1", line) + '"')
    return f"{phrase}\r\n <{address}>" if len(phrase) + len(address) > FOLD_AT else f"{phrase} <{address}>"


def mail_bytes(headers: Mapping[str, str], text: str, html: str) -> bytes:
    """The whole mail, in plain text and in HTML, under these headers. Raises ValueError as `require_sound` does."""
    body = EmailMessage(MIME)
    body.set_content(text)
    body.add_alternative(html, subtype="html")
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    content = head.encode() + body.as_bytes()
    require_sound(content, [*headers, *body.keys()])
    return content


def require_sound(content: bytes, names: Sequence[str]) -> None:
    """Raises ValueError unless the mail has exactly these headers, in this order, and no line that could be another."""
    head, end, _ = content.partition(b"\r\n\r\n")
    if not end or _BARE_BREAK.search(content) or max(map(len, content.split(b"\r\n"))) > MOST_LINE_BYTES:
        raise ValueError("the mail would not be sound: a bare line break, or a line that is too long")
    first = [line for line in head.split(b"\r\n") if not (line[:1] in (b" ", b"\t") and line.strip())]
    found = [field[1].decode() if (field := _FIELD_NAME.match(line)) else "?" for line in first]
    if found != list(names):
        raise ValueError(f"the mail would have the headers {', '.join(found)}")


def _is_plain(line: str) -> bool:
    """Whether it is itself in a header: nobody takes a part of it for an encoded word."""
    return bool(_PLAIN.fullmatch(line)) and "=?" not in line


def _folded(line: str) -> str:
    return "\r\n ".join(textwrap.wrap(line, FOLD_AT, break_long_words=False, break_on_hyphens=False))


def _encoded(line: str) -> str:
    return Header(line, "utf-8", header_name="Subject").encode(linesep="\r\n")
