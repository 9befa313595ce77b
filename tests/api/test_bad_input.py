"""Bad input of every kind: it is refused as a problem document, records nothing, and the server goes on."""

import json
import random
import re
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode
from uuid import uuid4

import pytest

from domain.values import Role
from tests.support.api_requests import BODIES, ISSUE, JSON, PROBLEM, brought, filled, problem, request, version
from tests.support.running_desk import ROOT, Reply, RunningDesk

MIB = 1024 * 1024
REQUEST = {"channel": "email", "text": "no network", "sender": {}}
OPENING = {"client_user_id": "client-1", "channel": "email", "text": "no network", "issue": ISSUE}
ENTRY = {"name": "Ann", "email": "ann@example.org", "phone": "1", "organisation": "ACME"}
FUZZ, SEED = 1500, 20261123
MISSING = object()


@pytest.fixture(scope="module", autouse=True)
def healthy(shared_desk: RunningDesk) -> Iterator[None]:
    """Whatever these tests send: the API never meets an error that it does not know, and still serves at the end."""
    shared_desk.client("client-1")
    yield
    assert shared_desk.get("/v1/queues").status == 200
    log = (shared_desk.directory / "api.log").read_text()
    assert "Traceback" not in log
    assert "unexpected error" not in log


class Raw:
    """An answer read from the socket."""

    def __init__(self, received: bytes) -> None:
        head, _, self.data = received.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        assert re.match(r"HTTP/1\.[01] \d{3} ", first), received[:200]
        self.status = int(first.split()[1])
        self.headers = {name.title(): value for name, _, value in (line.partition(": ") for line in lines)}

    @property
    def json(self) -> Any:
        """The body."""
        return json.loads(self.data)


def raw(served: RunningDesk, sent: bytes) -> Raw:
    """Sends bytes on a connection of their own, and reads until the server closes it."""
    received = b""
    with socket.create_connection(("127.0.0.1", served.port), timeout=20) as connection:
        connection.sendall(sent)
        while chunk := connection.recv(65536):
            received += chunk
    return Raw(received)


def asked(
    served: RunningDesk, method: bytes, target: bytes, body: bytes | None = None, headers: tuple[bytes, ...] = ()
) -> Raw:
    """A request written by hand, with a key that may do everything."""
    lines = [method + b" " + target + b" HTTP/1.1", b"Host: desk", b"Connection: close", *headers]
    lines.append(b"Authorization: Bearer " + served.staff.encode())
    if body is not None:
        lines.append(b"Content-Length: %d" % len(body))
    return raw(served, b"\r\n".join([*lines, b"", body or b""]))


def good(answer: Raw, *statuses: int) -> None:
    """Whether it is one of these statuses, and a problem document where it is an error."""
    assert answer.status in statuses, (answer.status, answer.data[:300])
    if answer.status >= 400:
        problem(answer, answer.status)  # type: ignore[arg-type]


def with_field(body: dict[str, Any], pointer: str, value: Any) -> dict[str, Any]:
    """A copy of a body with one field changed, or left out."""
    *parents, name = pointer.split("/")[1:]
    changed = json.loads(json.dumps(body))
    inner = changed
    for parent in parents:
        inner = inner[parent]
    if value is MISSING:
        del inner[name]
    else:
        inner[name] = value
    return changed


# What shows nothing: zero-width space and joiners, a byte order mark, fillers of Hangul, the blank Braille pattern, a
# soft hyphen, variation selectors, tags, what is ignored by default, bidi isolates.
UNSEEN = [
    *("\u200b", "\u200c\u200d", "\ufeff", "\u115f\u1160", "\u3164", "\uffa0", "\u2800", "\xad", "\ufe0f", "\U000e0100"),
    *("\U000e0001\U000e0041", "\U000e0fff", "\u2066\u2069", " \u200b\n"),
]
MARKED = "e" + "\u0301\u0323" * 16  # 32 marks on one letter
HIDDEN = ["\x07", "\x1b[2J", "\x85", "\x9b", "\u2028", "\u2029", "\u202e", "\u2066", "\u206a", "\ufffb"]
TEXT_WRONG: list[Any] = [
    None,
    7,
    1e300,
    True,
    [],
    ["a"],
    {},
    {"a": {"b": [1]}},
    "",
    " ",
    "\t\n ",
    "a\0b",
    "\0",
    "x" * 100_001,
    "\u0958" * 50_001,  # two characters each in NFC
    MARKED,
    *UNSEEN,
]
REASON_WRONG: list[Any] = [*TEXT_WRONG, *(f"too{sign} late" for sign in HIDDEN)]
LINE_WRONG: list[Any] = [None, 7, [], {}, "", "  ", "two\nlines", "tab\there", "nul\0", "\x7f", "\u2028", "x" * 501]
LINE_WRONG += [*UNSEEN, MARKED, *(f"An{sign}na" for sign in HIDDEN), "ends\n"]
GROWS = "\u0958" * 251  # two characters each in NFC
LINE_WRONG.append(GROWS)
USER_WRONG: list[Any] = [None, 7, [], "", " ", "a b", "a/b", "-a", "é", "a\n", "a\0", "x" * 201]
GRADE_WRONG: list[Any] = [None, 1, "", "HIGH", "urgent", [], {}]
HASH_WRONG: list[Any] = [None, 1, "", "a" * 63, "a" * 65, "A" * 64, "g" * 64, "a" * 64 + "\n"]
BOOL_WRONG: list[Any] = [None, 0, 1, "true", [], {}]
ID_WRONG: list[Any] = [None, 1, "", "T-000001", "x" * 36, [], str(uuid4())[:-1]]
EMAIL_WRONG: list[Any] = [
    None,
    7,
    "",
    "a",
    "a@",
    "@a",
    "a@b@c",
    "a b@c",
    "a@b\n",
    "<a@b>",
    "a@b,c@d",
    "a\0@b",
    "a" * 255 + "@b",
]
OPTIONAL = {
    "/sender/name",
    "/sender/email",
    "/sender/phone",
    "/phone",
    "/organisation",
    "/assignee",
    "/to",
    "/visibility",
}
FIELDS: dict[str, list[tuple[str, list[Any]]]] = {
    "requests": [
        ("/channel", [None, "", "fax", "EMAIL", 1, []]),
        ("/text", TEXT_WRONG),
        ("/sender", [None, "Ann", [], 1]),
        ("/sender/name", LINE_WRONG[1:]),
        ("/sender/email", EMAIL_WRONG[1:]),
        ("/sender/phone", LINE_WRONG[1:]),
    ],
    "tickets": [
        ("/client_user_id", USER_WRONG),
        ("/channel", [None, "fax"]),
        ("/text", TEXT_WRONG),
        ("/issue", ["no", [], 1]),
        ("/issue/summary", LINE_WRONG),
        ("/issue/description", TEXT_WRONG),
        ("/issue/category", LINE_WRONG),
        ("/issue/impact", GRADE_WRONG),
        ("/issue/urgency", GRADE_WRONG),
    ],
    "clients": [
        ("/name", LINE_WRONG),
        ("/email", EMAIL_WRONG),
        ("/phone", LINE_WRONG[1:]),
        ("/organisation", LINE_WRONG[1:]),
    ],
    "identify_client": [("/client_user_id", USER_WRONG)],
    "document_issue": [("/summary", LINE_WRONG), ("/description", TEXT_WRONG), ("/impact", GRADE_WRONG)],
    "route": [("/to", ["", "tier9", 1, []])],
    "assign": [("/assignee", [wrong for wrong in LINE_WRONG[1:] if wrong != GROWS])],
    "qualify": [("/can_resolve", BOOL_WRONG), ("/rationale", REASON_WRONG)],
    "escalate": [("/reason", REASON_WRONG)],
    "resolve": [("/resolution", TEXT_WRONG)],
    "verify": [("/satisfied", BOOL_WRONG), ("/confirmed_via", [None, "fax"]), ("/comment", REASON_WRONG)],
    "document_resolution": [("/cause", TEXT_WRONG), ("/actions", TEXT_WRONG), ("/checked_by_method", TEXT_WRONG)],
    "compile_dossier": [("/summary", REASON_WRONG)],
    "approve": [("/dossier_sha256", HASH_WRONG), ("/confirmed_via", [None, "fax"])],
    "decline": [("/dossier_sha256", HASH_WRONG), ("/reason", REASON_WRONG)],
    "return_to_level": [("/level", [None, "", "tier9"]), ("/reason", REASON_WRONG)],
    "add_note": [("/text", TEXT_WRONG), ("/visibility", ["", "public", 1])],
    "change_priority": [("/impact", GRADE_WRONG), ("/urgency", GRADE_WRONG), ("/reason", REASON_WRONG)],
    "await_client": [("/reason", REASON_WRONG)],
    "client_responded": [("/text", TEXT_WRONG)],
    "cancel": [("/reason", REASON_WRONG)],
    "reopen": [("/reason", REASON_WRONG), ("/confirmed_via", ["", "fax"])],
    "correct_client": [("/client_user_id", USER_WRONG), ("/reason", REASON_WRONG)],
    "amend_issue": [
        ("/reason", REASON_WRONG),
        ("/summary", LINE_WRONG[1:]),
        ("/description", TEXT_WRONG[1:]),
        ("/category", LINE_WRONG[1:]),
    ],
    "link": [("/other_ticket_id", ID_WRONG), ("/relation", [None, "", "twin_of"])],
}


def sent(served: RunningDesk, name: str, ticket: str, body: Any) -> Reply:
    """The body to where bodies of that name go."""
    match name:
        case "requests" | "tickets":
            return served.request("POST", f"/v1/{name}", body)
        case "clients":
            return served.request("PUT", "/v1/clients/wrong", body)
    return served.request("POST", f"/v1/tickets/{ticket}:{name}", body, headers={"If-Match": "*"})


def proper(served: RunningDesk, name: str, ticket: str) -> dict[str, Any]:
    """A body that fits."""
    bodies = {"requests": REQUEST, "tickets": OPENING, "clients": ENTRY}
    return bodies.get(name) or filled(served, ticket, name)


@pytest.mark.parametrize("name", FIELDS)
def test_a_field_that_does_not_fit_is_pointed_at(shared_desk: RunningDesk, name: str) -> None:
    """422 with the JSON pointer of the field for a wrong type, a blank, a NUL, too much, or an unknown word; nothing is
    recorded."""
    ticket = request(shared_desk)
    fitting = proper(shared_desk, name, ticket)
    shared_desk.caught_up()
    before = shared_desk.get("/v1/events?limit=1").headers["Deskledger-Position"]
    for pointer, wrong in FIELDS[name]:
        optional = pointer in OPTIONAL or pointer == "/issue" or (name == "amend_issue" and pointer != "/reason")
        missing = [] if optional else [MISSING]
        for value in [*wrong, *missing]:
            told = problem(sent(shared_desk, name, ticket, with_field(fitting, pointer, value)), 422)
            assert [error["pointer"] for error in told["errors"]] == [pointer], (value, told)
            assert told["errors"][0]["detail"]
            assert len(told["detail"]) < 1000
    assert version(shared_desk, ticket) == 1
    shared_desk.caught_up()
    assert shared_desk.get("/v1/events?limit=1").headers["Deskledger-Position"] == before
    problem(shared_desk.get("/v1/clients/wrong"), 404)


@pytest.mark.parametrize("name", [*FIELDS, "create", "release", "close"])
def test_an_unknown_field_is_refused(shared_desk: RunningDesk, name: str) -> None:
    """422 points at a field that the command does not take, also beside right ones, also deep inside."""
    ticket = request(shared_desk)
    fitting = proper(shared_desk, name, ticket)
    for field in ("extra", "Text", "__proto__", "a/b~c", "\0", "💥", "x" * 5000, ""):
        told = problem(sent(shared_desk, name, ticket, fitting | {field: 1}), 422, "invalid_body")
        assert told["errors"][0]["pointer"].startswith("/")
        assert len(told["detail"]) < 1000
    for parent in fitting.keys() & {"issue", "sender"}:
        told = problem(sent(shared_desk, name, ticket, with_field(fitting, f"/{parent}/extra", 1)), 422)
        assert told["errors"][0]["pointer"] == f"/{parent}/extra"
    told = problem(sent(shared_desk, name, ticket, fitting | {"a/b~c": 1}), 422)
    assert told["errors"][0]["pointer"] == "/a~1b~0c"
    assert version(shared_desk, ticket) == 1


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"}",
        b"{'channel': 'email'}",
        b'{"channel":"email",}',
        json.dumps(REQUEST).encode() + b" {}",
        b"nonsense",
        b"NaN",
        b'{"text": NaN}',
        b'{"text": 01}',
        b'{"text": "a\nb"}',
        b'{"text": "\xff"}',
        b'{"text": "\xed\xa0\x80"}',
        b'{"text": "\\ud800"}',
        b'{"text": "\\udc00x"}',
        b'{"text": "\\x41"}',
        b"\xef\xbb\xbf{}",
        json.dumps(REQUEST).encode("utf-16"),
        b"\0",
        b" ",
        b'{"channel":"email","text":"a","sender":' + b"[" * 100_000,
        b'{"channel":' * 50_000,
    ],
    ids=lambda body: repr(body[:24]),
)
def test_what_is_not_json_is_malformed(shared_desk: RunningDesk, body: bytes) -> None:
    """400, or 422 where a wrong value comes before the place at which the text breaks off."""
    told = problem(shared_desk.request("POST", "/v1/requests", body), 422 if len(body) > 10_000 else 400)
    assert told["code"] == ("invalid_body" if len(body) > 10_000 else "malformed_json")


@pytest.mark.parametrize("body", [b"[]", b"null", b"7", b'"text"', b"true", b"[" * 100_000, b"9" * 100_000, b"1e999"])
def test_a_body_that_is_no_object_is_refused(shared_desk: RunningDesk, body: bytes) -> None:
    """422, at any depth and of any size."""
    ticket = request(shared_desk)
    for path in ("/v1/requests", "/v1/tickets", f"/v1/tickets/{ticket}:close", "/v1/queues/tier1:claim_next"):
        problem(shared_desk.request("POST", path, body, headers={"If-Match": "*"}), 422, "invalid_body")


def test_a_huge_number_is_no_text(shared_desk: RunningDesk) -> None:
    """422 for numbers of any length in the place of a text."""
    for number in (b"9" * 500_000, b"-" + b"9" * 400, b"1e99999", b"0." + b"1" * 100_000):
        body = b'{"channel":"email","text":' + number + b',"sender":{}}'
        assert problem(shared_desk.request("POST", "/v1/requests", body), 422)["errors"][0]["pointer"] == "/text"


def test_an_empty_body_stands_for_no_fields(shared_desk: RunningDesk) -> None:
    """A command without fields needs no body and no Content-Type; one with fields names the first that is missing."""
    ticket = brought(shared_desk, "identified")
    response = shared_desk.http.request(
        "POST",
        f"{shared_desk.base}/v1/tickets/{ticket}:create",
        headers={"Authorization": f"Bearer {shared_desk.staff}", "If-Match": '"2"'},
    )
    assert response.status == 200
    for path in ("/v1/requests", "/v1/tickets", f"/v1/tickets/{ticket}:cancel"):
        problem(shared_desk.request("POST", path, b"", headers={"If-Match": "*"}), 422, "invalid_body")


@pytest.mark.parametrize(
    "content_type",
    ["text/plain", "application/x-www-form-urlencoded", "application/xml", "json", "", "application/jsonx"],
)
def test_a_body_of_another_type_is_refused(shared_desk: RunningDesk, content_type: str) -> None:
    """415 says what to send."""
    reply = shared_desk.request("POST", "/v1/requests", REQUEST, headers={"Content-Type": content_type})
    assert "application/json" in problem(reply, 415, "not_json")["detail"]


@pytest.mark.parametrize(
    "content_type", ["application/json; charset=utf-8", "Application/JSON", 'application/json;a="b"']
)
def test_parameters_of_the_content_type_do_no_harm(shared_desk: RunningDesk, content_type: str) -> None:
    """The media type decides, whatever its case and parameters."""
    reply = shared_desk.request("POST", "/v1/requests", REQUEST, headers={"Content-Type": content_type})
    assert reply.status == 201


def test_the_limits_of_texts_are_what_is_kept(shared_desk: RunningDesk) -> None:
    """100,000 characters of any script are kept as they came; a body of exactly 1 MiB is read."""
    text = "🖨️ñ\n" * 20_000
    text += "x" * (100_000 - len(text))
    reply = shared_desk.request("POST", "/v1/requests", REQUEST | {"text": text})
    assert reply.status == 201
    assert shared_desk.get(reply.headers["Location"]).json["text"] == text
    body = json.dumps(REQUEST).encode()
    assert shared_desk.request("POST", "/v1/requests", body + b" " * (MIB - len(body))).status == 201
    problem(shared_desk.request("POST", "/v1/requests", body + b" " * (MIB - len(body) + 1)), 413, "body_too_large")


def test_a_text_cannot_keep_the_server_busy(shared_desk: RunningDesk) -> None:
    """A long text that is refused at its end is refused at once: no pattern goes back and forth over it."""
    for text in ("a" * 99_999 + "\0", " " * 100_000, "a " * 49_999 + "\0", " " * 99_999 + "\0"):
        body = json.dumps(REQUEST | {"text": text}).encode()
        headers = {"Authorization": f"Bearer {shared_desk.staff}", "Content-Type": JSON}
        response = shared_desk.http.request(
            "POST", shared_desk.base + "/v1/requests", body=body, headers=headers, timeout=3.0
        )
        assert response.status == 422


@pytest.mark.parametrize("size", [MIB + 1, 5 * MIB, 20 * MIB])
def test_too_large_a_body_is_refused(shared_desk: RunningDesk, size: int) -> None:
    """413, with Content-Length and in chunks, and the connection's next request is answered."""
    problem(shared_desk.request("POST", "/v1/requests", b"x" * size), 413, "body_too_large")
    if size < 16 * MIB:  # beyond that the server hangs up on whoever goes on sending
        chunks = iter([b"x" * 65_536] * (size // 65_536 + 1))
        headers = {"Authorization": f"Bearer {shared_desk.staff}", "Content-Type": JSON}
        response = shared_desk.http.request("POST", shared_desk.base + "/v1/requests", body=chunks, headers=headers)
        assert (response.status, response.json()["code"]) == (413, "body_too_large")
    assert shared_desk.get("/v1/queues").status == 200


def test_a_length_that_is_announced_is_believed(shared_desk: RunningDesk) -> None:
    """413 before all of it has come."""
    key = b"Authorization: Bearer " + shared_desk.staff.encode() + b"\r\nConnection: close\r\n"
    head = b"POST /v1/requests HTTP/1.1\r\nHost: desk\r\nContent-Type: application/json\r\n" + key
    good(raw(shared_desk, head + b"Content-Length: 999999999999\r\n\r\nx"), 413)


def test_what_is_not_http_is_answered_as_a_problem(shared_desk: RunningDesk) -> None:
    """400, 414, 431 or 501 for what cannot be read as a request; the connection ends, the server does not."""
    key = b"Authorization: Bearer " + shared_desk.staff.encode() + b"\r\n"
    start = b"GET /v1/queues HTTP/1.1\r\nHost: desk\r\n" + key
    post = b"POST /v1/requests HTTP/1.1\r\nHost: desk\r\nContent-Type: application/json\r\n" + key
    for bytes_, status in [
        (b"\0\1\2\3\r\n\r\n", 400),
        (b"hello\r\n\r\n", 400),
        (b"GET\r\n\r\n", 400),
        (b"get /v1/queues HTTP/1.1\r\n\r\n", 400),
        (b"GET /v1/queues HTTP/9.9\r\n\r\n", 400),
        (b"GET * HTTP/1.1\r\nHost: desk\r\n\r\n", 400),
        (b"GET /v1/queues\xc3\xa9 HTTP/1.1\r\nHost: desk\r\n\r\n", 400),
        (b"GET /v1/queues HTTP/1.1\nHost: desk\n\n", 400),
        (start + b"Bad Name: x\r\n\r\n", 400),
        (start + b"X: a\0b\r\n\r\n", 400),
        (start + b": no name\r\n\r\n", 400),
        (start + b"X: " + b"a" * 100_000 + b"\r\n\r\n", 431),
        (start + b"".join(b"X-%d: a\r\n" % n for n in range(500)) + b"\r\n", 431),
        (b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: desk\r\n\r\n", 414),
        (post + b"Content-Length: two\r\n\r\n{}", 400),
        (post + b"Content-Length: -2\r\n\r\n{}", 400),
        (post + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{} ", 400),
        (post + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (post + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n", 400),
    ]:
        answer = raw(shared_desk, bytes_)
        good(answer, status)
        assert answer.json["instance"] == "/"
        assert b"Traceback" not in answer.data


def test_paths_and_queries_of_any_bytes_are_answered(shared_desk: RunningDesk) -> None:
    """Bad percent-encoding, bytes that are no UTF-8, NUL, dots and slashes: 400, 404, 422, or what is meant."""
    ticket = request(shared_desk).encode()
    for odd in (
        b"%",
        b"%zz",
        b"%0",
        b"%00",
        b"%ff%fe",
        b"%ed%a0%80",
        b"%f0%9f%92%a5",
        b"..%2f..",
        b"%2e%2e",
        b"%0d%0a",
    ):
        for path in (
            b"/" + odd,
            b"/v1/tickets/" + odd,
            b"/v1/tickets/" + ticket + b":" + odd,
            b"/v1/tickets/" + ticket + odd,
            b"/v1/queues/" + odd,
            b"/v1/clients/" + odd,
        ):
            good(asked(shared_desk, b"GET", path), 404, 405)
            good(asked(shared_desk, b"POST", path, b"{}", (b"Content-Type: application/json",)), 404, 405, 428)
        good(
            asked(
                shared_desk,
                b"PUT",
                b"/v1/clients/" + odd,
                json.dumps(ENTRY).encode(),
                (b"Content-Type: application/json",),
            ),
            404,
            422,
        )
        for path in (
            b"/v1/tickets",
            b"/v1/queues/tier1",
            b"/v1/events",
            b"/v1/closure_mails",
            b"/v1/tickets/" + ticket,
        ):
            for query in (odd, b"q=" + odd, odd + b"=1", b"cursor=" + odd, b"limit=" + odd, b"assignee=" + odd):
                good(asked(shared_desk, b"GET", path + b"?" + query), 200, 400)


def test_the_instance_of_a_problem_is_a_uri(shared_desk: RunningDesk) -> None:
    """RFC 9457: `instance` is percent-encoded as a path has to be, and stands for what was asked."""
    answer = asked(shared_desk, b"GET", b"/v1/queues/%22%3Cb%3E%20%C3%A9%00")
    assert answer.json["instance"] == "/v1/queues/%22%3Cb%3E%20%C3%A9%00"


def test_methods_that_nobody_knows_are_refused(shared_desk: RunningDesk) -> None:
    """400 for a word that is no method, 405 for one that the address does not take."""
    for method, status in [(b"FOO", 400), (b"TRACE", 405), (b"CONNECT", 405), (b"PATCH", 405), (b"PROPFIND", 400)]:
        good(asked(shared_desk, method, b"/v1/queues"), status, 405)
    options = asked(shared_desk, b"OPTIONS", b"/v1/queues")
    assert options.status == 204
    assert "GET" in options.headers["Allow"]


def test_other_protocols_are_not_spoken(shared_desk: RunningDesk) -> None:
    """The wish for HTTP/2 is ignored: such a request needs its key, and is answered like any other. The handshake of a
    WebSocket is refused, with a key or without."""
    socket_ = (b"Upgrade: websocket", b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", b"Sec-WebSocket-Version: 13")
    cleartext = (b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA")
    for headers, without, with_key in ((socket_, 501, 501), (cleartext, 401, 200)):
        lines = [b"GET /v1/queues HTTP/1.1", b"Host: desk", b"Connection: Upgrade, close, HTTP2-Settings", *headers]
        good(raw(shared_desk, b"\r\n".join([*lines, b"", b""])), without)
        lines.append(b"Authorization: Bearer " + shared_desk.staff.encode())
        good(raw(shared_desk, b"\r\n".join([*lines, b"", b""])), with_key)


def test_a_body_where_none_is_wanted_does_no_harm(shared_desk: RunningDesk) -> None:
    """A GET with a body is answered, and its body is not taken for the next request."""
    smuggled = b"DELETE /v1/queues HTTP/1.1\r\nHost: desk\r\n\r\n"
    answer = asked(shared_desk, b"GET", b"/v1/queues", smuggled)
    assert (answer.status, answer.data.count(b"HTTP/1.1")) == (200, 0)
    key = b"Authorization: Bearer " + shared_desk.staff.encode() + b"\r\n"
    first = (
        b"GET /v1/queues HTTP/1.1\r\nHost: desk\r\n" + key + b"Content-Length: %d\r\n\r\n" % len(smuggled) + smuggled
    )
    second = b"GET /livez HTTP/1.1\r\nHost: desk\r\nConnection: close\r\n\r\n"
    answer = raw(shared_desk, first + second)
    assert answer.data.count(b"HTTP/1.1 200 OK") == 1  # the first answer's own line was read as the head
    assert b"HTTP/1.1 405" not in answer.data


def test_headers_that_come_twice_are_one_list(shared_desk: RunningDesk) -> None:
    """Two If-Match are a list, which is refused; two keys are no key."""
    ticket = request(shared_desk).encode()
    path, body = b"/v1/tickets/" + ticket + b":cancel", json.dumps(BODIES["cancel"]).encode()
    headers = (b"Content-Type: application/json", b'If-Match: "1"', b'If-Match: "1"')
    assert asked(shared_desk, b"POST", path, body, headers).json["code"] == "bad_if_match"
    twice = (b"Content-Type: application/json", b'If-Match: "1"', b"Authorization: Bearer dl_other")
    good(asked(shared_desk, b"POST", path, body, twice), 401)
    assert version(shared_desk, ticket.decode()) == 1


def test_one_connection_serves_good_and_bad_requests(shared_desk: RunningDesk) -> None:
    """After a refusal the connection goes on with the next request."""
    key = b"Host: desk\r\nAuthorization: Bearer " + shared_desk.staff.encode() + b"\r\n"
    bad = b"POST /v1/requests HTTP/1.1\r\n" + key + b"Content-Type: application/json\r\nContent-Length: 1\r\n\r\n{"
    last = b"GET /v1/queues HTTP/1.1\r\n" + key + b"Connection: close\r\n\r\n"
    answer = raw(shared_desk, bad * 3 + last)
    assert answer.status == 400
    assert answer.data.count(b"HTTP/1.1 400") == 2
    assert answer.data.count(b"HTTP/1.1 200") == 1


def test_who_hangs_up_harms_nobody(shared_desk: RunningDesk) -> None:
    """Connections that end in the middle of a request leave the server as it was."""
    head = b"POST /v1/requests HTTP/1.1\r\nHost: desk\r\nContent-Type: application/json\r\nContent-Length: 100\r\n"
    head += b"Authorization: Bearer " + shared_desk.staff.encode() + b"\r\n\r\n"
    for part in (b"", b"GET", head[:40], head, head + b'{"channel":'):
        for _ in range(5):
            with socket.create_connection(("127.0.0.1", shared_desk.port)) as connection:
                connection.sendall(part)
    assert shared_desk.get("/v1/queues").status == 200


def test_secrets_and_internals_are_in_no_answer(shared_desk: RunningDesk) -> None:
    """Neither a key nor SQL nor a path of the server stands in what is refused."""
    ticket = request(shared_desk)
    replies = [
        shared_desk.request("POST", "/v1/requests", b"{"),
        shared_desk.get("/v1/tickets?q=%27%3B%20drop%20table%20events%3B--"),
        shared_desk.get("/v1/tickets?cursor=x"),
        shared_desk.get("/v1/queues", "dl_wrong"),
        shared_desk.request("POST", f"/v1/tickets/{ticket}:explode", {}),
        shared_desk.do(ticket, "close"),
        shared_desk.do(ticket, "cancel", version=9, reason="x"),
    ]
    for reply in replies:
        text = reply.data.decode()
        assert shared_desk.staff not in text
        assert not re.search(r"Traceback|File \"|select |insert |psycopg|msgspec", text, re.IGNORECASE)
        assert str(ROOT) not in text


FRAGMENTS = [
    b"",
    b"0",
    b"-1",
    b"1",
    b"null",
    b"true",
    b'"a"',
    b"a",
    b"%00",
    b"%ff",
    b"%",
    b"..",
    b"'",
    b'"',
    b"*",
    b"x" * 300,
    b"\xe2\x80\xa8".hex().encode(),
    b"2026-11-23T09:00:00Z",
    b"0001-01-01T00:00:00Z",
    b"9999-12-31T23:59:59Z",
    b"tier1",
    b"it_manager",
    b"in_support",
    b"closed",
    b"99999999999999999999",
    b"1e400",
    b"W/",
    b"[]",
    b"{}",
    b"Infinity",
]
NAMES = [b"limit", b"cursor", b"q", b"state", b"level", b"queue", b"as_of", b"version", b"position", b"after", b"from"]
NAMES += [
    b"to",
    b"type",
    b"actor",
    b"ticket_id",
    b"client_user_id",
    b"priority",
    b"unassigned",
    b"assignee",
    b"created_from",
]
METHODS = [b"GET"] * 5 + [b"POST"] * 6 + [b"PUT", b"DELETE", b"PATCH", b"HEAD", b"OPTIONS", b"BREW"]
HEADERS = [b"If-Match", b"Prefer", b"Content-Type", b"X-Correlation-Id", b"traceparent", b"Accept", b"Expect", b"Range"]
HEADERS += [b"If-None-Match", b"Content-Encoding", b"X-Forwarded-For", b"Forwarded", b"Cookie", b"Upgrade", b"TE"]
VALUES = [
    b'"1"',
    b"*",
    b'W/"1"',
    b"wait=0",
    b"application/json",
    b"text/html",
    b"00-" + b"a" * 32 + b"-" + b"b" * 16 + b"-01",
]
VALUES += [b"100-continue", b"bytes=0-1", b"gzip", b"\xff\xfe", b"a" * 1000, b"websocket", b"h2c", b""]


class Chance:
    """Requests put together from fragments, the same ones in every run: mostly right, and wrong somewhere."""

    def __init__(self, tickets: list[str]) -> None:
        self._random = random.Random(SEED)
        self._tickets = [ticket.encode() for ticket in tickets]

    def request(self) -> tuple[bytes, bytes, bytes | None, tuple[bytes, ...]]:
        """Method, target, body and headers."""
        pick = self._random.choice
        method, path, fitting = self._aim()
        if self._seldom(5):
            method = pick(METHODS)
        query = b"&".join(pick(NAMES) + b"=" + pick(FRAGMENTS) for _ in range(self._random.randrange(3)))
        target = path + (b"?" + query if query and (method == b"GET" or self._seldom(5)) else b"")
        body = None if fitting is None and not self._seldom(9) else self._body(fitting or {})
        headers = [pick(HEADERS) + b": " + pick([*VALUES, *FRAGMENTS]) for _ in range(self._random.randrange(2))]
        headers += [b"Content-Type: application/json"] * (body is not None and not self._seldom(9))
        headers += [b"If-Match: " + pick([b"*", b"*", b'"1"', b'"7"'])] * (not self._seldom(5))
        return method, target.replace(b'"', b"%22").replace(b" ", b"%20"), body, tuple(headers)

    def _seldom(self, often: int) -> bool:
        return self._random.randrange(often) == 0

    def _aim(self) -> tuple[bytes, bytes, dict[str, Any] | None]:
        pick = self._random.choice
        ticket, word, command = pick(self._tickets), pick(FRAGMENTS), pick(list(BODIES))
        if self._seldom(2):
            body = BODIES[command] | ({"other_ticket_id": pick(self._tickets).decode()} if command == "link" else {})
            return b"POST", b"/v1/tickets/" + ticket + b":" + command.encode(), body
        posts = [(b"/v1/tickets", OPENING), (b"/v1/requests", REQUEST), (b"/v1/queues/tier1:claim_next", {})]
        posts.append((b"/v1/tickets/" + ticket + b":" + word, {}))
        paths = [
            b"/v1/tickets",
            b"/v1/tickets/" + ticket,
            b"/v1/tickets/" + ticket + b"/history",
            b"/v1/tickets/" + word,
        ]
        paths += [b"/v1/queues", b"/v1/queues/" + pick([b"tier1", word]), b"/v1/clients/" + pick([b"client-1", word])]
        paths += [b"/v1/closure_mails", b"/" + word]
        return pick(
            [
                (b"POST", *pick(posts)),
                (b"PUT", b"/v1/clients/" + pick([b"fuzz", word]), ENTRY),
                (b"GET", pick(paths), None),
            ]
        )

    def _body(self, fitting: dict[str, Any]) -> bytes:
        pick = self._random.choice
        if self._seldom(12):
            return pick(FRAGMENTS)
        fields = {name: value for name, value in fitting.items() if not self._seldom(12)}
        if self._seldom(4):
            name = pick([*fields, "text", "reason", "level", "zz", ""])
            fields[name] = pick([None, 0, -1, 1e308, True, "", "a", "\0", "\ud7ff", [], {}, [[{}]], "x" * 600, 10**30])
        text = json.dumps(fields).encode()
        return text[: self._random.randrange(len(text) + 1)] if self._seldom(12) else text


def test_no_request_from_fragments_breaks_the_server(shared_desk: RunningDesk) -> None:
    """1,500 requests put together at random from good and bad parts: no 500, and every refusal is a problem."""
    tickets = [brought(shared_desk, standing) for standing in ("received", "tier1", "tier2", "deciding", "closed")]
    chance = Chance([*tickets, str(uuid4())])
    seen: dict[int, int] = {}
    for number in range(FUZZ):
        method, target, body, headers = chance.request()
        answer = asked(shared_desk, method, target, body, headers)
        seen[answer.status] = seen.get(answer.status, 0) + 1
        where = (number, method, target, body, headers, answer.status, answer.data[:300])
        assert answer.status < 500 or answer.status == 501, where
        if answer.status >= 400:
            assert answer.headers["Content-Type"] == PROBLEM, where
            if method != b"HEAD":
                problem(answer, answer.status)  # type: ignore[arg-type]
    assert seen.keys() >= {200, 201, 400, 404, 405, 409, 412, 422}, seen
    assert seen[200] > FUZZ / 20, seen


def test_clients_cannot_break_it_either(shared_desk: RunningDesk) -> None:
    """The same for a key that may do nearly nothing: what it may not see is never more than refused."""
    key = shared_desk.key(Role.REPORTER)
    ticket = request(shared_desk)
    for command in BODIES:
        reply = shared_desk.request("POST", f"/v1/tickets/{ticket}:{command}", BODIES[command], key, {"If-Match": "*"})
        assert reply.status in (403, 422)
        problem(reply, reply.status)


@pytest.mark.parametrize("words", ["-" * 40 + "a", "- " * 100 + "a", '-"' * 60, "a -b or -c", "((" * 50 + "!&|" * 50])
def test_no_search_is_too_much_for_the_parser(shared_desk: RunningDesk, words: str) -> None:
    """PostgreSQL takes 32 operators inside one another, and says so with an error of its own."""
    assert shared_desk.get(f"/v1/tickets?{urlencode({'q': words})}").status == 200
