"""No secret is ever in a log: keys and tokens, used well and badly and in wrong places, and the passwords of URLs."""

import json
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import urllib3

from domain.values import Role
from tests.support.oidc_issuer import KEYS, Issuer
from tests.support.running_desk import ROOT, RunningDesk, free_port, wait_until

MAIL_PASSWORD, DATABASE_PASSWORD = "mail-Pa55w0rd", "database-Pa55w0rd"


def with_password(url: str) -> str:
    """The URL with a password, which a server that trusts the machine does not ask for."""
    return re.sub(r"^(\w+://[^:@/]+)@", rf"\1:{DATABASE_PASSWORD}@", url)


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    """An issuer whose keys are in a file."""
    with Issuer() as signing:
        yield signing


@pytest.fixture
def served(database: str, issuer: Issuer, tmp_path: Path) -> Iterator[RunningDesk]:
    """A whole desk that says all that it can say, with passwords in its URLs."""
    (tmp_path / "keys.json").write_text(json.dumps(issuer.document(KEYS)))
    desk = RunningDesk(database, tmp_path, workers=1)
    desk.environment |= issuer.environment | {
        "DATABASE_URL": with_password(database),
        "DESKLEDGER_SMTP_URL": desk.environment["DESKLEDGER_SMTP_URL"].replace("//", f"//desk:{MAIL_PASSWORD}@"),
        "DESKLEDGER_OIDC_JWKS_FILE": str(tmp_path / "keys.json"),
        "DESKLEDGER_FAILED_SIGN_INS": "6",
        "DESKLEDGER_LOG_LEVEL": "debug",
    }
    with desk as running:
        yield running


def raw(served: RunningDesk, request: str) -> bytes:
    """What comes back for bytes that need not be HTTP."""
    with socket.create_connection(("127.0.0.1", served.port), 10) as connection:
        connection.sendall(request.encode())
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(65536), b""))


def use_everywhere(served: RunningDesk, secret: str) -> set[int]:
    """A secret in every place where somebody might put it; the statuses of the answers."""
    bearer = {"Authorization": f"Bearer {secret}"}
    ticket = f"/v1/tickets/{served.ticket()}"
    places: list[tuple[str, str, dict[str, str], bytes | None]] = [
        ("GET", "/v1/queues", bearer, None),
        ("GET", "/v1/nothing", bearer, None),
        ("POST", "/v1/requests", bearer, b"{"),
        ("POST", f"{ticket}:add_note", bearer | {"Content-Type": "application/json"}, b'{"text": 1}'),
        ("GET", "/v1/queues", {"Authorization": f"Basic {secret}"}, None),
        ("GET", "/v1/queues", {"Authorization": secret}, None),
        ("GET", "/v1/queues", {"Authorization": f"Bearer {secret}x"}, None),
        ("GET", "/v1/queues", {"Authorization": f"Bearer {secret} {secret}"}, None),
        ("GET", "/v1/queues", {"X-Api-Key": secret, "Cookie": f"session={secret}"}, None),
        ("GET", f"/v1/queues?key={secret}", bearer, None),
        ("GET", f"/v1/queues?{secret}=1", bearer, None),
        ("GET", f"/v1/queues?access_token={secret}", {}, None),
        ("GET", f"/v1/{secret}", {}, None),
        ("GET", f"/v1/queues/{secret}", bearer, None),
        ("POST", f"{ticket}:{secret}", bearer, b"{}"),
        ("POST", f"{ticket}:add_note", bearer | {"Idempotency-Key": secret, "If-Match": secret}, b"{}"),
        (secret[:20], "/v1/queues", bearer, None),
    ]
    found = {
        served.http.request(method, served.base + path, headers=headers, body=body).status
        for method, path, headers, body in places
    }
    for broken in (
        f"GET /{secret}\r\n\r\n",
        f"{secret} / HTTP/1.1\r\n\r\n",
        f"GET / HTTP/1.1\r\nHost: x\r\nAuthorization : Bearer {secret}\r\n\r\n",
        f"GET / HTTP/1.1\r\nHost: x\r\n{secret}\r\n\r\n",
        f"POST /v1/requests HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {secret}\r\nContent-Length: {secret}\r\n\r\n",
    ):
        raw(served, broken)
    return found


def end_without_a_database(served: RunningDesk) -> None:
    """API, worker and a command, each told of a database that does not answer."""
    port = free_port()
    url = f"postgresql://desk:{DATABASE_PASSWORD}@127.0.0.1:{free_port()}/desk"
    environment = served.environment | {"DATABASE_URL": url, "DESKLEDGER_PORT": str(port)}
    with (served.directory / "away.log").open("ab") as log:
        command = [sys.executable, "-m", "api.cli"]
        parts = [
            subprocess.Popen([*command, part], cwd=ROOT, env=environment, stdout=log, stderr=log)
            for part in ("api", "work")
        ]
        try:
            subprocess.run([*command, "keys", "list"], cwd=ROOT, env=environment, stdout=log, stderr=log, timeout=60)
            said = served.directory / "away.log"
            wait_until(lambda: "worker failed" in said.read_text(), "the worker misses its database")
            headers = {"Authorization": f"Bearer {served.staff}"}
            address = f"http://127.0.0.1:{port}/v1/queues"
            wait_until(lambda: answers(served, address, headers) == 503, "the API misses its database")
        finally:
            parts[0].terminate()
            parts[1].kill()  # it would wait for a connection, for as long as the pool does
            for part in parts:
                part.wait(30)


def answers(served: RunningDesk, address: str, headers: dict[str, str]) -> int | None:
    """The status of an answer; None while nobody listens."""
    try:
        return served.http.request("GET", address, headers=headers).status
    except urllib3.exceptions.HTTPError:
        return None


def test_no_secret_is_in_a_log(served: RunningDesk, issuer: Issuer) -> None:
    """At level debug, whatever was done with keys and tokens, the lines hold no part of them that could be used."""
    token = issuer.token(roles=["intake", "auditor"])
    keys = [served.key(Role.INTAKE, Role.AUDITOR, name="logged"), "dl_" + "Zq" * 21, served.staff, served.checker]
    assert served.get("/v1/queues", served.checker).status == 200
    found = use_everywhere(served, keys[0]) | use_everywhere(served, token) | use_everywhere(served, keys[1])
    assert {200, 400, 401, 404, 429} <= found
    served.close(served.ticket())
    wait_until(lambda: mails_in_vain(served), "the mail server was tried")
    end_without_a_database(served)
    for part in ("api", "work"):
        served.end(part)
    said = {file.name: file.read_text() for file in served.directory.glob("*.log")}
    assert set(said) == {"api.log", "work.log", "away.log"}
    assert '"level": "debug"' in said["api.log"]
    secrets = [*keys, token, token.split(".")[1], token.split(".")[2], MAIL_PASSWORD, DATABASE_PASSWORD]
    for name, text in said.items():
        assert text
        assert [secret for secret in secrets if secret in text or secret[8:40] in text] == [], name


def mails_in_vain(served: RunningDesk) -> bool:
    """Whether a closing e-mail was tried, and the mail server did not want the password."""
    return any(mail["last_error"] for mail in served.get("/v1/closure_mails").json["items"])
