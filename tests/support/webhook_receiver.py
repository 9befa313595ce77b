"""What the tests of webhooks stand on: a real receiver on loopback, a clock that is moved, and a dispatcher at hand."""

import asyncio
import json
import ssl
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
import psycopg

from api.worker.webhook_dispatcher import Dispatcher
from application.store.postgres.pg_connection import PgConnection
from application.store.sealing import seal_all
from application.webhooks.address_rules import Resolve, Rules, look_up, read_rules
from application.webhooks.sender import WebhookSender
from application.webhooks.signing import Vault, new_secret
from application.webhooks.subscriptions import Subscription, SubscriptionChange, SubscriptionCommands, new_subscription
from tests.support.running_desk import free_port, wait_until
from tests.support.write_side import append, notes

LOOPBACK = read_rules("127.0.0.0/8", True, "127.0.0.1,*.test")
SECRET = new_secret()
Verdict = tuple[int, dict[str, str]]
OK: Verdict = (204, {})


class Received(NamedTuple):
    """A request that came in."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body."""
        return json.loads(self.body)

    @property
    def position(self) -> int:
        """Where in the log the event stands."""
        return int(self.json["position"])


class Receiver:
    """An HTTP server that keeps what it gets. `verdict` says what is answered, `connections` how many came."""

    def __init__(self, port: int = 0) -> None:
        self.received: list[Received] = []
        self.verdict: Callable[[Received], Verdict] = lambda _: OK
        self.connections = 0
        self.go_on = threading.Event()
        self.go_on.set()
        self._server = _Server(("127.0.0.1", port), _Handler)
        self._server.receiver = self
        self.port = self._server.server_port
        self.url = f"http://127.0.0.1:{self.port}/in"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    def __enter__(self) -> "Receiver":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.go_on.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def speak_tls(self, context: ssl.SSLContext) -> None:
        """Speaks TLS with this identity; the handshake is made when a request is read."""
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)

    @property
    def positions(self) -> list[int]:
        """The positions of what it got, in the order in which it came."""
        return [one.position for one in list(self.received)]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64
    receiver: Receiver

    def get_request(self) -> Any:
        self.receiver.connections += 1
        return super().get_request()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Who sent has gone away: that is what some of the tests are about."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_POST(self) -> None:
        """Keeps it, and answers the verdict."""
        receiver = self.server.receiver
        body = self.rfile.read(int(self.headers["Content-Length"]))
        got = Received(self.path, {name.lower(): value for name, value in self.headers.items()}, body)
        if len(body) < int(self.headers["Content-Length"]):
            return  # who sent was killed in the middle of it
        receiver.go_on.wait(20)
        receiver.received.append(got)
        status, headers = receiver.verdict(got)
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Says nothing."""


class Clock:
    """A time that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = datetime.now(UTC)

    def __call__(self) -> datetime:
        return self.now

    def move(self, **how: float) -> None:
        """Lets time pass."""
        self.now += timedelta(**how)


class Desk:
    """A dispatcher with a connection of its own, which a test takes step by step."""

    def __init__(self, database: str, connection: psycopg.Connection[Any], clock: Clock, **how: Any) -> None:
        self.database, self.connection, self.clock = database, connection, clock
        rules: Rules = how.pop("rules", LOOPBACK)
        resolve: Resolve = how.pop("resolve", look_up)
        vault: Vault = how.pop("vault", Vault())
        longest: Callable[[float, float], float] = lambda _, most: most  # noqa: E731
        self.dispatcher = Dispatcher(database, WebhookSender(rules, resolve), vault, clock, how.pop("chance", longest))

    def subscribe(self, url: str, **fields: Any) -> Subscription:
        """A subscription from the beginning of the log on."""
        given = {"types": [], "secret": Vault().seal(SECRET), "position": 0, "created_at": self.clock()} | fields
        new = new_subscription(url=url, created_by="test", **given)
        assert with_webhooks(self.database, lambda stored: stored.add(new, "")), "there are too many"
        return new

    def change(self, webhook: Subscription, **fields: Any) -> None:
        """Changes a subscription, as the API does."""
        change = lambda stored: msgspec.structs.replace(stored, **fields)  # noqa: E731
        self.apply(webhook, SubscriptionChange(change, again=True))

    def apply(self, webhook: Subscription, change: SubscriptionChange) -> None:
        """Makes a change, now."""
        with_webhooks(self.database, lambda stored: stored.change(webhook.id, change, lambda _: "", self.clock()))

    def find(self, webhook: Subscription) -> Subscription:
        """How it stands now."""
        return with_webhooks(self.database, lambda stored: stored.find(webhook.id))

    def happen(self, stream: UUID, first: int = 1, count: int = 1) -> None:
        """Notes on a ticket, sealed."""
        append(self.connection, notes(stream, first, count))
        seal_all(self.connection)

    def until(self, holds: Callable[[], Any], what: str) -> None:
        """Steps until something holds."""
        wait_until(lambda: (self.dispatcher.step(self.connection, 0.02), holds())[1], what)

    def settle(self) -> None:
        """Steps until nothing is due now, nothing is under way, and the log has been gone through."""
        self.until(lambda: not self.dispatcher.step(self.connection, 0.02) and not self.dispatcher.busy, "it settles")

    def log(self, *columns: str) -> list[tuple[Any, ...]]:
        """Columns of the deliveries, oldest first."""
        query = f"select {', '.join(columns)} from webhook_deliveries order by webhook_id, id"
        return self.connection.execute(query.encode()).fetchall()


def with_webhooks(database: str, do: Callable[[SubscriptionCommands], Any]) -> Any:
    """Runs what is asked of the subscriptions, on a connection of its own."""

    async def run() -> Any:
        stored = SubscriptionCommands(PgConnection(database, "test webhooks"))
        try:
            return await do(stored)
        finally:
            await stored.close()

    return asyncio.run(run())


def nowhere() -> str:
    """A URL where nobody listens."""
    return f"http://127.0.0.1:{free_port()}/in"
