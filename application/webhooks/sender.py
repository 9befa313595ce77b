"""Sends one webhook: over a connection of its own, to an address that was checked, up to the first answer.

The socket is opened here, to the address itself, so that no library looks a name up a second time, follows a redirect,
or asks a proxy of the environment. TLS and the header Host speak of the name. All of an attempt has one deadline, so
that nobody holds it up by answering a byte at a time.
"""

import socket
import ssl
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.client import HTTPConnection, HTTPException
from io import BufferedReader, RawIOBase
from typing import Any

import msgspec
from msgspec.structs import replace

from application.webhooks.address_rules import Resolve, Rules, Target, UrlRefused, addresses, look_up, read_url

ATTEMPT_TIMEOUT_SECONDS = 15.0  # for the whole attempt
WEBHOOK_CONNECT_SECONDS = 5.0
MOST_ADDRESSES = 3
TLS_RECORD = 16_384
MOST_READ = 4096  # of an answer's body; it says nothing that the desk needs
MOST_ATTEMPT_ERROR = 300


class AttemptOutcome(msgspec.Struct, frozen=True):
    """What came of an attempt: the status of the answer, or why there is none; `retry_after` in seconds."""

    status: int | None = None
    error: str | None = None
    retry_after: float | None = None
    duration_ms: int = 0

    @property
    def accepted(self) -> bool:
        """Whether the receiver has taken it: 2xx, and nothing else."""
        return self.status is not None and 200 <= self.status < 300


class TimedSocket(RawIOBase):
    """A connection whose every wait ends at the same moment; it has what http.client asks of a socket."""

    def __init__(self, opened: socket.socket, ends: float) -> None:
        self.opened, self._ends = opened, ends

    def makefile(self, mode: str) -> BufferedReader:
        """What has been answered."""
        return BufferedReader(self)

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """What comes next. Raises TimeoutError."""
        self.opened.settimeout(seconds_until(self._ends))
        return self.opened.recv_into(buffer)

    def sendall(self, sent: bytes) -> None:
        """Sends it in parts that TLS sends at once. Raises TimeoutError."""
        for begin in range(0, len(sent), TLS_RECORD):
            self.opened.settimeout(seconds_until(self._ends))
            self.opened.sendall(sent[begin : begin + TLS_RECORD])

    def close(self) -> None:
        """Left to whoever opened it: http.client lets go of it before the answer has been read."""


def seconds_until(ends: float) -> float:
    """How long may still be waited. Raises TimeoutError."""
    left = ends - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


class WebhookSender:
    """Hands webhooks to their receivers. `resolve` gives every address of a name."""

    def __init__(self, rules: Rules, resolve: Resolve = look_up) -> None:
        self._rules, self._resolve = rules, resolve
        self._tls = ssl.create_default_context()

    def send(self, url: str, body: bytes, headers: Mapping[str, str]) -> AttemptOutcome:
        """One attempt. Never raises for what a receiver does."""
        begun = time.monotonic()
        try:
            target = read_url(url, self._rules)
            checked = addresses(target, self._rules, self._resolve)
            timed = self._connected(target, checked[:MOST_ADDRESSES], begun + ATTEMPT_TIMEOUT_SECONDS)
            outcome = _exchange(target, timed, body, headers)
        except UrlRefused as refusal:
            outcome = AttemptOutcome(error=f"refused by the desk: {refusal}"[:MOST_ATTEMPT_ERROR])
        except TimeoutError:
            outcome = AttemptOutcome(error="no answer in time")
        except (OSError, HTTPException) as error:
            outcome = AttemptOutcome(error=_said(error)[:MOST_ATTEMPT_ERROR])
        return replace(outcome, duration_ms=round((time.monotonic() - begun) * 1000))

    def _connected(self, target: Target, checked: list[str], ends: float) -> TimedSocket:
        """To the first address that can be reached."""
        *others, last = checked
        for address in others:
            with suppress(OSError):
                return self._open(target, address, ends)
        return self._open(target, last, ends)

    def _open(self, target: Target, address: str, ends: float) -> TimedSocket:
        patience = min(WEBHOOK_CONNECT_SECONDS, seconds_until(ends))
        opened = socket.create_connection((address, target.port), patience)
        if target.secure:
            opened.settimeout(seconds_until(ends))  # for the whole handshake
            opened = self._tls.wrap_socket(opened, server_hostname=target.host)
        return TimedSocket(opened, ends)


def _exchange(target: Target, timed: TimedSocket, body: bytes, headers: Mapping[str, str]) -> AttemptOutcome:
    with timed.opened:
        connection = HTTPConnection(target.host, target.port)
        connection.sock = timed
        connection.request("POST", target.path, body, {**headers, "Host": target.authority, "Connection": "close"})
        response = connection.getresponse()
        outcome = AttemptOutcome(response.status, retry_after=_retry_after(response.headers.get("Retry-After", "")))
        with suppress(OSError, HTTPException):  # the status is what counts, and it is here
            response.read(MOST_READ)
    return outcome


def _said(error: Exception) -> str:
    if not isinstance(error, OSError):  # its text quotes what came: nobody is to read through the desk what is there
        return f"what was answered is not HTTP: {type(error).__name__}"
    return f"{type(error).__name__}: {error}".replace("\0", "")


def _retry_after(header: str) -> float | None:
    """The seconds that the receiver wants to be left alone for (RFC 9110, section 10.2.3)."""
    with suppress(ValueError, TypeError, IndexError, OverflowError):
        header = header.strip()
        if header.isdecimal():
            return float(header)
        then = parsedate_to_datetime(header)
        return max(0.0, (then.replace(tzinfo=then.tzinfo or UTC) - datetime.now(UTC)).total_seconds())
    return None
