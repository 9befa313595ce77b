"""Sends one webhook: over a connection of its own, to an address that was checked, up to the first answer.

The socket is opened here, to the address itself, so that no library looks a name up a second time, follows a redirect,
or asks a proxy of the environment. TLS and the header Host speak of the name.
"""

import socket
import ssl
import time
from collections.abc import Mapping
from contextlib import closing, suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.client import HTTPConnection, HTTPException

import msgspec
from msgspec.structs import replace

from application.webhooks.address_rules import Resolve, Rules, Target, UrlRefused, addresses, look_up, read_url

ATTEMPT_TIMEOUT_SECONDS = 15.0  # for the whole attempt
WEBHOOK_CONNECT_SECONDS = 5.0
MOST_ADDRESSES = 3
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


class Flight:
    """An attempt under way, which another thread can end."""

    def __init__(self) -> None:
        self.begun = time.monotonic()
        self.late = False
        self._socket: socket.socket | None = None

    def on(self, opened: socket.socket) -> None:
        """The connection that it goes over, in place of one before."""
        self.end()
        self._socket = opened
        if self.late:
            self.cut()

    def cut(self) -> None:
        """Ends it, whatever it waits for: the time is over."""
        self.late = True
        if self._socket:
            with suppress(
                OSError
            ):  # not SSLSocket's own: that forgets its TLS, of which another thread is just reading
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def end(self) -> None:
        """Lets go of the connection."""
        if self._socket:
            self._socket.close()


class WebhookSender:
    """Hands webhooks to their receivers. `resolve` gives every address of a name."""

    def __init__(self, rules: Rules, resolve: Resolve = look_up) -> None:
        self._rules, self._resolve = rules, resolve
        self._tls = ssl.create_default_context()

    def send(self, url: str, body: bytes, headers: Mapping[str, str], flight: Flight) -> AttemptOutcome:
        """One attempt. Never raises for what a receiver does."""
        try:
            target = read_url(url, self._rules)
            opened = self._connected(target, addresses(target, self._rules, self._resolve), flight)
            outcome = _exchange(target, opened, body, headers)
        except UrlRefused as refusal:
            outcome = AttemptOutcome(error=f"refused by the desk: {refusal}"[:MOST_ATTEMPT_ERROR])
        except (OSError, HTTPException) as error:
            late = flight.late or isinstance(error, TimeoutError)
            outcome = AttemptOutcome(error="no answer in time" if late else _said(error)[:MOST_ATTEMPT_ERROR])
        finally:
            flight.end()
        return replace(outcome, duration_ms=round((time.monotonic() - flight.begun) * 1000))

    def _connected(self, target: Target, checked: list[str], flight: Flight) -> socket.socket:
        """To the first address that can be reached."""
        *others, last = checked[:MOST_ADDRESSES]
        for address in others:
            with suppress(OSError):
                return self._open(target, address, flight)
        return self._open(target, last, flight)

    def _open(self, target: Target, address: str, flight: Flight) -> socket.socket:
        if flight.late:
            raise TimeoutError
        opened = socket.create_connection((address, target.port), timeout=WEBHOOK_CONNECT_SECONDS)
        flight.on(opened)
        opened.settimeout(ATTEMPT_TIMEOUT_SECONDS)
        if not target.secure:
            return opened
        secured = self._tls.wrap_socket(opened, server_hostname=target.host, do_handshake_on_connect=False)
        flight.on(secured)
        secured.do_handshake()
        return secured


def _exchange(target: Target, opened: socket.socket, body: bytes, headers: Mapping[str, str]) -> AttemptOutcome:
    with closing(HTTPConnection(target.host, target.port)) as connection:
        connection.sock = opened
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
        if header.isdecimal():
            return float(header)
        then = parsedate_to_datetime(header)
        return max(0.0, (then.replace(tzinfo=then.tzinfo or UTC) - datetime.now(UTC)).total_seconds())
    return None
