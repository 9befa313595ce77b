"""Webhooks cannot be used to reach what only the desk can reach: refused before any connection is opened."""

import socket
import ssl
import sys
import threading
from collections.abc import Iterator
from http.client import parse_headers
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from application.webhooks.address_rules import Rules, UrlRefused, addresses, is_allowed, look_up, read_rules, read_url
from application.webhooks.sender import AttemptOutcome, WebhookSender
from tests.support.tls_identity import IDENTITY
from tests.support.webhook_receiver import LOOPBACK, Clock, Desk, Receiver, nowhere

NOBODY = Rules()
connected: list[Any] = []
_listening = threading.local()


def _hear(event: str, arguments: tuple[Any, ...]) -> None:
    """Python tells of every connection and every look-up before it happens; what is raised here ends it.

    So no packet leaves this machine, even where the code under test would let it.
    """
    if event not in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
        return
    if getattr(_listening, "on", False):
        connected.append((event, arguments[0] if event == "socket.getaddrinfo" else arguments[1]))
        if event == "socket.getaddrinfo" and not str(arguments[0])[:1].isdigit():
            raise AssertionError(f"looked up: {arguments}")
    address = arguments[1] if event == "socket.connect" else None
    if isinstance(address, tuple) and not str(address[0]).startswith("127.") and address[0] not in ("::1", "localhost"):
        raise AssertionError(f"connected to: {arguments}")


sys.addaudithook(_hear)


@pytest.fixture
def heard() -> Iterator[list[Any]]:
    """What this thread connects to and looks up while the test runs."""
    connected.clear()
    _listening.on = True
    yield connected
    _listening.on = False


def send(url: str, rules: Rules = NOBODY, resolve: Any = None) -> AttemptOutcome:
    """One attempt, in this thread."""
    return WebhookSender(rules, resolve or unknown).send(url, b"{}", {"Content-Type": "application/json"})


def unknown(host: str, port: int) -> list[str]:
    """A name service that knows nothing."""
    raise socket.gaierror(-2, "Name or service not known")


PRIVATE = [
    "127.0.0.1",
    "127.9.9.9",
    "10.0.0.1",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "100.100.100.200",
    "0.0.0.0",
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
    "192.0.0.192",
    "192.0.2.1",
    "192.88.99.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "168.63.129.16",
    "::",
    "::1",
    "::127.0.0.1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:169.254.169.254",
    "::ffff:0:127.0.0.1",
    "64:ff9b::127.0.0.1",
    "64:ff9b::10.0.0.1",
    "64:ff9b:1::8.8.8.8",
    "2002:7f00:1::",
    "2002:a00:1::",
    "2001::1",
    "2001:0:a00:1:0:0:0:1",
    "2001:db8::1",
    "3fff::1",
    "fe80::1",
    "fec0::1",
    "fc00::1",
    "fd00:ec2::254",
    "ff02::1",
    "ff0e::1",
    "100::1",
    "5f00::1",
    "2606:4700::5efe:10.0.0.1",
    "2606:4700::200:5efe:a00:1",
]
PUBLIC = ["8.8.8.8", "1.1.1.1", "2606:4700:4700::1111", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8", "2002:808:808::1"]


@pytest.mark.parametrize("address", PRIVATE)
def test_an_address_that_is_not_public_is_refused(address: str, heard: list[Any]) -> None:
    """Written into the URL, or what a name stands for: nothing is connected to, and the reason is said."""
    shown = f"[{address}]" if ":" in address else address
    for url, resolve in [(f"https://{shown}/", unknown), ("https://desk.example.org/", lambda *_: [address])]:
        answer = send(url, resolve=resolve)
        assert answer.status is None
        assert "is not a public address" in answer.error
    assert heard == []


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_is_allowed(address: str) -> None:
    """What anybody could reach may be reached."""
    assert is_allowed(ip_address(address), NOBODY)


def test_one_bad_address_among_good_ones_is_enough(heard: list[Any]) -> None:
    """Every address of a name is looked at, and not only the one that would be used."""
    answer = send("https://desk.example.org/", resolve=lambda *_: ["8.8.8.8", "2606:4700::1", "10.0.0.1"])
    assert "10.0.0.1 is not a public address" in answer.error
    assert heard == []


@pytest.mark.parametrize(
    "url",
    [
        "http://desk.example.org/",
        "ftp://desk.example.org/",
        "file:///etc/passwd",
        "https://user@desk.example.org/",
        "https://user:secret@desk.example.org/",
        "https://desk.example.org@127.0.0.1/",
        "https://desk.example.org/#part",
        "https://desk.example.org\\@127.0.0.1/",
        "https://desk.example.org:22/",
        "https://desk.example.org:25/",
        "https://desk.example.org:0/",
        "https://desk.example.org:99999/",
        "https://desk.example.org:/",
        "https://desk.example.org:8443:1/",
        "https://2130706433/",
        "https://0x7f000001/",
        "https://0x7f.1/",
        "https://0177.0.0.1/",
        "https://127.1/",
        "https://127.0.0.1./",
        "https://1.2.3.4.5/",
        "https://1.2.3.08/",
        "https://①②⑦.⓪.⓪.①/",
        "https://dësk.example.org/",
        "https://desk。example.org/",
        "https://%31%32%37.0.0.1/",
        "https://[::1%25lo]/",
        "https://[::1%lo]/",
        "https://[fe80::1%251]/",
        "https://[::1].example.org/",
        "https://[2606:4700::1]x:443/",
        "https://[v1.x]/",
        "https://[/",
        "https:///in",
        "https://.example.org/",
        "https://desk..example.org/",
        "https://desk.example.org./",
        "https://-desk.example.org/",
        "https://desk .example.org/",
        "https://desk.example.org/a b",
        "https://desk.example.org/\r\nHost: 127.0.0.1",
        "https://desk.example.org/ä",
        f"https://{'a' * 64}.example.org/",
        f"https://{'a.' * 130}org/",
        f"https://desk.example.org/{'a' * 2000}",
        "//desk.example.org/",
        "desk.example.org",
        "",
    ],
)
def test_a_url_that_programs_read_differently_is_refused(url: str, heard: list[Any]) -> None:
    """Credentials, fragments, odd ports, and every way to write an address but the plain one: refused by the text."""
    with pytest.raises(UrlRefused):
        read_url(url, NOBODY)
    answer = send(url, resolve=lambda *_: ["8.8.8.8"])
    assert answer.error.startswith("refused by the desk: ")
    assert heard == []


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("https://desk.example.org", ("desk.example.org", 443, "/", "desk.example.org")),
        ("https://DESK.Example.org/In?a=1", ("desk.example.org", 443, "/In?a=1", "desk.example.org")),
        ("https://desk.example.org:8443/in", ("desk.example.org", 8443, "/in", "desk.example.org:8443")),
        ("https://8.8.8.8:443/", ("8.8.8.8", 443, "/", "8.8.8.8")),
        ("https://[2606:4700:0:0::1]:9000/", ("2606:4700::1", 9000, "/", "[2606:4700::1]:9000")),
        ("https://xn--dsk-hoa.example.org/", ("xn--dsk-hoa.example.org", 443, "/", "xn--dsk-hoa.example.org")),
    ],
)
def test_a_plain_url_is_taken_apart_once(url: str, target: tuple[Any, ...]) -> None:
    """Host, port and path, and what the header Host says."""
    read = read_url(url, NOBODY)
    assert (read.host, read.port, read.path, read.authority) == target


def test_a_name_that_resolves_differently_the_second_time_gains_nothing(
    database: str, connection: psycopg.Connection
) -> None:
    """What a name stands for is looked up once for each connection, and that very answer is connected to."""
    with Receiver() as inside, Receiver() as outside:
        answers = [["127.0.0.1"], ["10.0.0.1"], ["10.0.0.1"]]
        asked: list[str] = []

        def rebinding(host: str, port: int) -> list[str]:
            asked.append(host)
            return answers.pop(0)

        at = Desk(database, connection, Clock(), resolve=rebinding)
        at.subscribe(f"http://rebind.test:{outside.port}/in")
        at.happen(uuid4())
        at.settle()
        assert (outside.connections, asked) == (1, ["rebind.test"])
        assert outside.received[0].headers["host"] == f"rebind.test:{outside.port}"
        at.happen(uuid4())
        at.settle()
        assert (outside.connections, inside.connections, len(asked)) == (1, 0, 2)
        assert "10.0.0.1 is not a public address" in at.log("last_error")[1][0]


def test_a_name_that_is_public_when_subscribed_and_loopback_when_sent_is_refused(heard: list[Any]) -> None:
    """Good at the first look-up, loopback at the second: no connection, though somebody listens there."""
    with Receiver() as inside:
        answers = [["8.8.8.8"], ["127.0.0.1"]]
        url, resolve = f"https://rebind.example.org:{inside.port}/in", lambda *_: answers.pop(0)
        assert addresses(read_url(url, NOBODY), NOBODY, resolve) == ["8.8.8.8"]
        answer = send(url, resolve=resolve)
        assert "127.0.0.1 is not a public address" in answer.error
        assert inside.connections == 0
    assert heard == []


def test_a_redirect_to_inside_is_not_followed() -> None:
    """A 3xx is a failure, and where it points nobody goes."""
    with Receiver() as first, Receiver() as inside:
        for status in (301, 302, 303, 307, 308):
            first.verdict = lambda _, status=status: (status, {"Location": inside.url})
            answer = send(first.url, LOOPBACK)
            assert (answer.status, answer.accepted) == (status, False)
        assert (first.connections, inside.connections) == (5, 0)


def test_no_proxy_of_the_environment_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy would look the name up again, and connect wherever that leads."""
    with Receiver() as receiver, Receiver() as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        assert send(receiver.url, LOOPBACK).accepted
        assert (receiver.connections, proxy.connections) == (1, 0)


def test_only_the_named_hosts_where_there_are_any(heard: list[Any]) -> None:
    """With DESKLEDGER_WEBHOOK_HOSTS, another host is refused before its name is looked up."""
    rules = read_rules(None, False, "Hooks.example.org, *.example.com,8.8.8.8")
    for good in ("https://hooks.example.org/", "https://a.b.example.com/", "https://8.8.8.8/"):
        read_url(good, rules)
    for bad in ("https://example.com/", "https://notexample.com/", "https://x.hooks.example.org/", "https://8.8.4.4/"):
        with pytest.raises(UrlRefused, match="only"):
            read_url(bad, rules)
        assert send(bad, rules).status is None
    assert heard == []


def test_a_mapped_address_is_allowed_like_the_one_it_means() -> None:
    """A network of the setting holds for both forms; what merely leads to it through a gateway is not named by it."""
    rules = read_rules("10.0.0.0/8,fd00::/8", False, None)
    for good in ("10.1.2.3", "::ffff:10.1.2.3", "fd00::1"):
        assert is_allowed(ip_address(good), rules)
    for bad in ("192.168.0.1", "64:ff9b::10.1.2.3", "2002:a01:203::", "fd00::1%1"):
        assert not is_allowed(ip_address(bad), rules)


@pytest.mark.parametrize("answer", [[], ["not an address"], ["fe80::1%2"]])
def test_what_a_name_service_should_not_answer_is_refused(answer: list[str], heard: list[Any]) -> None:
    """No address, nonsense, or one that means something on one machine only."""
    assert send("https://desk.example.org/", resolve=lambda *_: answer).error.startswith("refused by the desk: ")
    assert heard == []


def test_an_unknown_name_is_a_failure() -> None:
    """A name service that knows nothing, or cannot be asked, ends the attempt."""
    assert send("https://desk.example.org/").error == "refused by the desk: the name desk.example.org is not known"


def test_the_next_address_is_tried_when_one_cannot_be_reached() -> None:
    """A name with several allowed addresses is reached at the first that answers; with none, the last one says why."""
    rules = read_rules("127.0.0.0/8", True, None)
    with Receiver() as receiver:
        url = f"http://several.test:{receiver.port}/in"
        assert send(url, rules, lambda *_: ["127.0.0.2", "127.0.0.1"]).accepted
        assert send(url, rules, lambda *_: ["127.0.0.2", "127.0.0.3"]).error.startswith("ConnectionRefusedError")


def test_the_name_service_of_the_machine_gives_every_address_once() -> None:
    """An address needs no look-up: it stands for itself."""
    assert look_up("127.0.0.1", 80) == ["127.0.0.1"]


@pytest.fixture
def secure(tmp_path: Path) -> Iterator[tuple[Receiver, Path]]:
    """A receiver that speaks TLS as localhost, and the file with its certificate."""
    file = tmp_path / "identity.pem"
    file.write_text(IDENTITY)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(file)
    receiver = Receiver()
    receiver.speak_tls(context)
    with receiver:
        yield receiver, file


def test_tls_proves_the_name_and_not_the_address(
    secure: tuple[Receiver, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection goes to the checked address; the certificate has to be of the name, by somebody who is trusted."""
    receiver, file = secure
    rules, home = read_rules("127.0.0.0/8", False, None), lambda *_: ["127.0.0.1"]
    good, bad = (f"https://{name}:{receiver.port}/in" for name in ("localhost", "desk.example.org"))
    assert "certificate verify failed" in send(good, rules, home).error
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    assert send(good, rules, home).accepted
    assert "certificate verify failed" in send(bad, rules, home).error
    assert len(receiver.received) == 1


class Talker:
    """A server that reads each request, and answers it with these bytes."""

    def __init__(self, said: bytes) -> None:
        self._said = said
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}/"
        self._thread = threading.Thread(target=self._talk)

    def __enter__(self) -> "Talker":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()

    def _talk(self) -> None:
        try:
            while True:
                with self._socket.accept()[0] as one, one.makefile("rb") as request:
                    headers = parse_headers(request) if request.readline() else {}
                    request.read(int(headers.get("Content-Length", 0)))  # or what is left unread resets the connection
                    one.sendall(self._said)
        except OSError:
            return


@pytest.mark.parametrize(
    ("said", "status", "error"),
    [
        (b"", None, "RemoteDisconnected: Remote end closed connection without response"),
        (b"hello\r\n\r\n", None, "what was answered is not HTTP: BadStatusLine"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000 + b"\r\n\r\n", None, "what was answered is not HTTP: LineTooLong"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n", None, "what was answered is not HTTP: HTTPException"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", 200, None),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 200, None),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 300_000, 200, None),
    ],
)
def test_whatever_is_answered_the_attempt_ends(said: bytes, status: int | None, error: str | None) -> None:
    """No answer, nonsense, endless headers or bodies: the status counts where there is one, the rest is not read."""
    with Talker(said) as talker:
        answer = send(talker.url, LOOPBACK)
    assert answer.status == status
    assert answer.error == error


def test_an_attempt_whose_time_is_over_before_it_connected_opens_nothing(
    heard: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time can be over while a name is looked up."""
    monkeypatch.setattr("application.webhooks.sender.ATTEMPT_TIMEOUT_SECONDS", 0)
    assert send("http://slow.test/", LOOPBACK, lambda *_: ["127.0.0.1"]).error == "no answer in time"
    assert heard == []


def test_who_says_nothing_at_all_is_given_up_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a TLS handshake that is not answered nor an answer that does not come holds an attempt up."""
    monkeypatch.setattr("application.webhooks.sender.ATTEMPT_TIMEOUT_SECONDS", 0.3)
    rules = read_rules("127.0.0.0/8", True, None)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        for scheme in ("http", "https"):
            answer = send(f"{scheme}://127.0.0.1:{silent.getsockname()[1]}/", rules)
            assert (answer.status, answer.error) == (None, "no answer in time")


def test_retry_after_may_be_a_date() -> None:
    """RFC 9110: seconds or a date; a date of the past is now."""
    with Receiver() as receiver:
        for said, least, most in [
            ("120 ", 120, 120),
            ("Fri, 31 Dec 1999 23:59:59 GMT", 0, 0),
            ("Fri, 31 Dec 2199 23:59:59 GMT", 10**9, 10**10),
            ("Fri, 31 Dec 2199 23:59:59 -0000", 10**9, 10**10),
        ]:
            receiver.verdict = lambda _, said=said: (503, {"Retry-After": said})
            assert least <= send(receiver.url, LOOPBACK).retry_after <= most


def test_nobody_there_is_a_failure_with_its_reason() -> None:
    """A port where nobody listens."""
    assert send(nowhere(), LOOPBACK).error.startswith("ConnectionRefusedError")
