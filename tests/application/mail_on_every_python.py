"""Writes mails with all that users may type, and reads them as bytes. Stands on the standard library alone.

`python mail_on_every_python.py path/to/mail_message.py` ends with 0 when every mail is as it should be.
"""

import importlib.util
import re
import sys
from email import message_from_bytes
from email.header import decode_header
from email.policy import default
from types import ModuleType
from typing import Any

BREAK = "=?utf-8?q?=0D=0ABcc:_x@evil.example?="
TYPED = (
    BREAK,
    f"printer {BREAK} is silent",
    f'"{BREAK}" {BREAK}',
    "=?utf-8?b?DQpCY2M6IHhAZXZpbC5leGFtcGxl?=",
    "=?us-ascii?q?=0A=0Abody_of_somebody_else?=",
    "=?utf-8?q?a?= =?utf-8?q?=0D=0ABcc:x?=",
    "=?utf-7?q?+AA0ACg-Bcc:?=",
    "=?",
    "a\r\nBcc: x@evil.example",
    "a\n\nbody of somebody else",
    "a\rBcc: x@evil.example",
    "\x0b\x0c\x1c\x85\u2028Bcc: x@evil.example",
    "\x00\x01\x1b[31m\x7f\x9f",
    "Müller, Jörg",
    "Müller, Jörg <x@evil.example>, Bcc: y@evil.example",
    "Dr. Maximilian Alexander von und zu Hohenstein-Liechtenberg, Vice President of Printing and Facilities, retd.",
    'Eve" <x@evil.example> "',
    "back\\slash \\",
    "(a comment)",
    ". ",
    "@",
    ":;,<>[]",
    "Subject: x",
    "x" * 2000,
    "x y " * 500,
    "日本語のプリンター" * 40,
    "🖨️" * 90,
    "a b",
)
NAMES = ["From", "To", "Subject", "MIME-Version", "Content-Type"]


def written(mail: ModuleType, typed: str) -> bytes:
    """A mail with the text in each place that users fill."""
    headers = {
        "From": mail.header_mailbox(typed, "desk@example.org"),
        "To": mail.header_mailbox(typed, "anne@example.org"),
        "Subject": mail.header_text(f"[T-000001] Closed: {typed}"),
    }
    body = typed.replace("\0", "")  # which the desk takes nowhere
    found: bytes = mail.mail_bytes(headers, f"{body}\n.\n", f"<p>{body}</p>\n")
    return found


def fields(content: bytes) -> list[tuple[str, str]]:
    """The headers as the bytes have them, unfolded."""
    found: list[tuple[str, str]] = []
    for line in content.partition(b"\r\n\r\n")[0].decode("ascii").split("\r\n"):
        if line[0] in " \t":
            found[-1] = (found[-1][0], found[-1][1] + line)
        else:
            name, _, value = line.partition(": ")
            found.append((name, value))
    return found


def decoded(value: str) -> str:
    """The text that encoded words stand for."""
    parts = decode_header(value)
    return "".join(part if isinstance(part, str) else part.decode(word or "ascii") for part, word in parts)


def name_in(value: str) -> str:
    """The name in front of an address. The library puts blanks between encoded words, against RFC 2047."""
    phrase = value.rpartition("<")[0].rstrip()
    return re.sub(r"\\(.)", r"\1", phrase[1:-1]) if phrase.startswith('"') else decoded(phrase)


def faults(mail: ModuleType, typed: str) -> list[Any]:
    """What is wrong with the mail."""
    content, line = written(mail, typed), mail.one_line(typed)
    found, read = fields(content), message_from_bytes(content, policy=default)
    subject = mail.one_line(f"[T-000001] Closed: {typed}")
    checks = {
        "names": [name for name, _ in found] == NAMES == list(read.keys()),
        "breaks": content.count(b"\r\n") == content.count(b"\r") == content.count(b"\n"),
        "line length": max(map(len, content.split(b"\r\n"))) <= 998,
        "subject": decoded(found[2][1]) == subject == str(read["Subject"]),
        "recipient": [one.addr_spec for one in read["To"].addresses] == ["anne@example.org"],
        "sender": [one.addr_spec for one in read["From"].addresses] == ["desk@example.org"],
        "name": [name_in(value) for _, value in found[:2]] == [line, line],
        "body": [part.get_content_type() for part in read.iter_parts()] == ["text/plain", "text/html"],
    }
    return [(typed[:40], name, found) for name, fine in checks.items() if not fine]


def main(path: str) -> int:
    """Prints what is wrong."""
    spec = importlib.util.spec_from_file_location("mail_message", path)
    mail = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    spec.loader.exec_module(mail)  # type: ignore[union-attr]
    wrong = [fault for typed in TYPED for fault in faults(mail, typed)]
    for fault in wrong:
        print(*fault)
    print(f"{sys.version.split()[0]}: {len(TYPED)} mails, {len(wrong)} faults")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
