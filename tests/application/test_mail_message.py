"""A mail as bytes: what users typed is never a header, a line break or another recipient, on every Python there is."""

import shutil
import subprocess
import sys
from email import message_from_bytes
from email.policy import default
from pathlib import Path

import pytest

from application.mail import mail_message
from application.mail.mail_message import header_mailbox, header_text, mail_bytes, one_line, require_sound
from tests.application import mail_on_every_python

HERE = Path(mail_on_every_python.__file__)
ASK = "import sys; print(*sys.version_info[:3], sys.implementation.name)"
OLDEST = (3, 11)


def pythons() -> dict[str, str]:
    """A program for each Python that the desk may run on, of those on this machine: this one, those on the PATH, and
    those that lie beside this one."""
    names = [f"python3.{minor}" for minor in range(11, 30)]
    found = [sys.executable, *filter(None, map(shutil.which, [*names, "python3"]))]
    found += [str(path) for path in sorted(Path(sys.base_prefix).parent.glob("*/bin/python3"))]
    versions = {}
    for program in found:
        told = subprocess.run([program, "-I", "-c", ASK], capture_output=True, text=True, check=False).stdout.split()
        if len(told) == 4 and told[3] == "cpython" and tuple(map(int, told[:2])) >= OLDEST:
            versions.setdefault(".".join(told[:3]), program)
    return versions


def test_no_text_of_users_becomes_a_header_on_any_python() -> None:
    """Each Python of this machine from 3.11 on writes the mails; the bytes are read without the library's help.

    Of those releases 3.11.7 and 3.12.1 write the line break of an encoded word when they are given the text.
    """
    found, script = pythons(), [str(HERE), mail_message.__file__]
    for version, program in found.items():
        ran = subprocess.run([program, "-I", *script], capture_output=True, text=True, check=False)
        assert ran.returncode == 0, (version, ran.stdout, ran.stderr)
    assert ".".join(map(str, sys.version_info[:3])) in found


@pytest.mark.parametrize("typed", mail_on_every_python.TYPED)
def test_no_text_of_users_becomes_a_header(typed: str) -> None:
    """The same, in this process."""
    assert mail_on_every_python.faults(mail_message, typed) == []


def test_what_is_written_with_a_fault_is_noticed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """The check itself: a mail module that lets texts through does not pass."""
    assert mail_on_every_python.main(mail_message.__file__) == 0
    broken = mail_message.mail_bytes({"From": "a", "To": "b", "Subject": "c"}, "x", "y").replace(
        b"c\r\n", b"c\r\nBcc: x\r\n"
    )
    monkeypatch.setattr(mail_on_every_python, "written", lambda *_: broken)
    assert mail_on_every_python.main(mail_message.__file__) == 1
    assert "names" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("Anne", "Anne <a@b.org>"),
        ("Anne O'Neil", "Anne O'Neil <a@b.org>"),
        ("Müller, Jörg", "=?utf-8?b?TcO8bGxlciwgSsO2cmc=?= <a@b.org>"),
        ("Miller, George", '"Miller, George" <a@b.org>'),
        ("J. Doe", '"J. Doe" <a@b.org>'),
        ('"Jim" \\o/', '"\\"Jim\\" \\\\o/" <a@b.org>'),
        (
            "Dr. Maximilian Alexander von und zu Hohenstein-Liechtenberg, Vice President",
            '"Dr. Maximilian Alexander von und zu Hohenstein-Liechtenberg, Vice\r\n President"\r\n <a@b.org>',
        ),
        ("=?x?q?y?=", "=?utf-8?b?PT94P3E/eT89?= <a@b.org>"),
        (" \n ", "a@b.org"),
    ],
)
def test_a_name_is_quoted_and_never_changed(name: str, written: str) -> None:
    """Quoted where a sign means something, encoded where it is beyond ASCII, folded where it is long."""
    assert header_mailbox(name, "a@b.org") == written


def test_a_plain_subject_stays_readable() -> None:
    """In ASCII as it is; long, it is folded; else in encoded words. Line breaks and control characters are blanks."""
    assert header_text("[T-1] Closed: printer is silent") == "[T-1] Closed: printer is silent"
    assert header_text("printer " * 12).split("\r\n ") == [" ".join(["printer"] * 8), " ".join(["printer"] * 4)]
    assert header_text("Drücker") == "=?utf-8?q?Dr=C3=BCcker?="
    assert one_line(" a\r\nb\0c\x85\u2028d  ") == "a b c d"
    assert len(one_line("x" * 300)) == 200


@pytest.mark.parametrize(
    "content",
    [
        b"From: a\r\nTo: b\r\nBcc: c\r\n\r\nx\r\n",
        b"From: a\r\n\r\nx\r\n",
        b"From: a\r\nFrom: a\r\nTo: b\r\n\r\nx\r\n",
        b"To: b\r\nFrom: a\r\n\r\nx\r\n",
        b"From: a\r\nTo: b\r\n \r\n\r\nx\r\n",
        b"From: a\r\nTo b\r\n\r\nx\r\n",
        b"From: a\nTo: b\r\n\r\nx\r\n",
        b"From: a\r\nTo: b\r\n\r\nx\n",
        b"From: a\rx\r\nTo: b\r\n\r\nx\r\n",
        b"From: a\r\nTo: b\r\n\r\nx\0\r\n",
        b"From: a\r\nTo: b" + b"b" * 999 + b"\r\n\r\nx\r\n",
        b"From: a\r\nTo: b\r\n",
    ],
    ids=repr,
)
def test_what_is_not_as_it_was_meant_does_not_leave(content: bytes) -> None:
    """The bytes have the headers that were meant, each once, in order, and no line that could be another."""
    require_sound(b"From: a\r\nTo: b\r\n c\r\n\r\nx\r\n", ["From", "To"])
    with pytest.raises(ValueError, match="the mail would"):
        require_sound(content, ["From", "To"])


@pytest.mark.parametrize("body", ["a\rb", "x" * 3000, "ä" * 3000, ".\n..\n", "From x\n", "\x0b\x0c\x1b", "日本\n" * 50])
def test_a_body_arrives_whole(body: str) -> None:
    """In lines that every server takes, seven bits each."""
    content = mail_bytes({"From": "a@b.org", "To": "c@d.org", "Subject": "x"}, body + "\n", f"<p>{body}</p>\n")
    assert content.isascii()
    read = message_from_bytes(content, policy=default).get_body(("plain",)).get_content()
    assert read.replace("\r\n", "\n") == body.replace("\r", "\n") + "\n"
