"""A proxy in front, as the documentation says: its configuration is run, with the desk behind it."""

import getpass
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import urllib3

from tests.support.running_desk import ROOT, RunningDesk, free_port, wait_until
from tests.support.stream_readers import SSE, stream

PAGE = ROOT / "docs" / "how-to" / "put-a-proxy-in-front.md"
NGINX = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
pytestmark = pytest.mark.skipif(not NGINX, reason="nginx is not installed")
AROUND = """
user {user};
worker_processes 1;
pid nginx.pid;
events {{ worker_connections 512; }}
http {{
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
{page}
}}
"""


class Proxied(RunningDesk):
    """A desk whose clients come through the proxy: `port` and `base` are the proxy's."""

    def behind(self, port: int) -> "Proxied":
        """The same desk, as its clients see it."""
        self.port, self.base = port, f"http://127.0.0.1:{port}"
        return self


def configuration(port: int, desk: int) -> str:
    """The page's configuration, on a port of this test and without TLS, for which there is no certificate."""
    text = re.findall(r"```nginx\n(.*?)```", PAGE.read_text(), re.DOTALL)[0]
    text = re.sub(r"\n *ssl_\w+ [^;]*;", "", text)
    for written, here in (("listen 443 ssl", f"listen 127.0.0.1:{port}"), ("127.0.0.1:8000", f"127.0.0.1:{desk}")):
        assert written in text
        text = text.replace(written, here)
    return AROUND.format(user=getpass.getuser(), page=text)


@pytest.fixture
def proxied(database: str, tmp_path: Path) -> Iterator[Proxied]:
    """nginx with the page's configuration, and the desk behind it."""
    desk, port = Proxied(database, tmp_path, workers=1), free_port()
    desk.environment |= {"DESKLEDGER_TRUSTED_PROXIES": "127.0.0.1", "DESKLEDGER_FAILED_SIGN_INS": "1"}
    (tmp_path / "nginx.conf").write_text(configuration(port, desk.port))
    command = [str(NGINX), "-p", str(tmp_path), "-e", "error.log", "-c", "nginx.conf", "-g", "daemon off;"]
    with desk, (tmp_path / "nginx.out").open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out)
        try:
            through = desk.behind(port)
            wait_until(lambda: answers(through), "nginx answers")
            yield through
        finally:
            process.terminate()
            process.wait(30)


def answers(desk: RunningDesk) -> bool:
    """Whether the proxy is there."""
    try:
        return desk.http.request("GET", f"{desk.base}/livez").status == 200
    except urllib3.exceptions.HTTPError:
        return False


def guess(desk: RunningDesk, client: urllib3.PoolManager) -> int:
    """The status for a key that nobody has."""
    return client.request("GET", f"{desk.base}/v1/queues", headers={"Authorization": "Bearer dl_guessed"}).status


def test_the_desk_answers_through_the_proxy_of_the_page(proxied: Proxied) -> None:
    """Commands, queries and refusals come as they are; an event comes while its stream goes on; refused keys count
    for the client and not for the proxy; and where the desk is gone, the proxy says so as a problem."""
    ticket = proxied.ticket()
    assert proxied.get(f"/v1/tickets/{ticket}").json["state"] == "in_support"
    too_large = proxied.request("POST", "/v1/requests", b"x" * (2**20 + 1))
    assert (too_large.status, too_large.json["code"]) == (413, "body_too_large")
    assert proxied.get("/metrics").status == 404
    with stream(proxied, SSE, "wait=60", key=proxied.staff) as response:
        found = b""
        while ticket.encode() not in found:
            part = response.read1(65_536)
            assert part, "the stream has ended"
            found += part
    with urllib3.PoolManager(retries=False, source_address=("127.0.0.2", 0)) as other:
        assert 429 in [guess(proxied, other) for _ in range(5)]
    assert guess(proxied, proxied.http) == 401
    assert json.loads(proxied.http.request("GET", f"{proxied.base}/livez").data) == {"status": "alive"}
    proxied.end("api")
    away = proxied.get("/v1/queues")
    assert (away.status, away.headers["Content-Type"]) == (503, "application/problem+json")
    assert (away.json["status"], away.headers["Retry-After"]) == (503, "2")
