"""Makes the desk of an earlier version that the upgrade is tested with.

    python tests/upgrade/make_material.py TREE VERSION

TREE is a worktree of the commit, with its dependencies at hand: for 0.1.0, `git worktree add ../old d294f5d`. The
earlier version's own API, worker and decisions make everything; nothing is written past them but one event that no
version can read. In `material/` it leaves a dump (VERSION.sql.gz), the data directory of the embedded PostgreSQL after
a clean end (VERSION-data.tar.xz), and what is expected of them (VERSION.json.gz): the answers to the queries, the
requests that were sent under an idempotency key with their answers, and the keys. Ids, times and secrets are others
each time; what there is of each kind is the same.
"""

import gzip
import json
import random
import shutil
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

OLD = Path(sys.argv[1]).resolve()
sys.path[:0] = [str(OLD), str(OLD / "tests")]

import psycopg
from answers import addresses, answer
from application.database import connect, migrate, pool
from application.deciding import Request, new_stream_id
from application.event_store import StoredRow
from application.keys import Wanted, create_key, revoke_key
from application.postgres import SETTINGS, EmbeddedPostgres
from asking import STANDINGS, brought, filled, give, walk
from receiving import Receiver
from served import Reply, Served, wait_until
from walk import STAFF, Walk
from writing import OPEN, append

from application.helpdesk import HelpDesk, utc_now
from domain import decisions
from domain.events import Recorded
from domain.rules import Given
from domain.ticket import evolve, fold
from domain.values import Actor, Grade, Level, Role, Visibility
from projections.runner import ensure_projections

MATERIAL = Path(__file__).with_name("material")
LONG = 10_000
WEBHOOK_KEY = "a" * 43 + "="
KEYS = {
    "intake": Wanted("front desk", [Role.INTAKE]),
    "tier2": Wanted("second level", [Role.AGENT], [Level.TIER2]),
    "quality": Wanted("quality", [Role.QUALITY]),
    "it_manager": Wanted("manager", [Role.IT_MANAGER]),
    "auditor": Wanted("auditor", [Role.AUDITOR]),
    "reporter": Wanted("reporter", [Role.REPORTER]),
    "admin": Wanted("admin", [Role.ADMIN]),
    "client": Wanted("client", [Role.CLIENT], [], "client-1"),
    "everything": Wanted("staff", [*STAFF.roles], [*STAFF.levels]),
    "expired": Wanted("long gone", [Role.ADMIN], expires_in=timedelta(seconds=-1)),
    "revoked": Wanted("revoked", [Role.ADMIN]),
}
DOORS = ("/v1/tickets", "/v1/queues", "/v1/events", "/v1/reports", "/v1/closure_mails", "/v1/webhooks")


class SmallPostgres(EmbeddedPostgres):
    """A cluster that leaves no more write-ahead log behind than it needs."""

    settings = {**SETTINGS, "wal_recycle": "off", "min_wal_size": "32MB"}

    def run(self, program: str, *words: str | Path, **options: Any) -> None:
        """Runs a program of PostgreSQL to its end."""
        process = self._spawn([self.programs() / program, *words], **options)
        process.communicate()
        assert process.returncode == 0, program


class Making:
    """The desk that is made, and what is expected of it."""

    def __init__(self, database: str, directory: Path) -> None:
        self.database, self.directory = database, directory
        self.keys: dict[str, str] = {}
        self.retries: list[dict[str, Any]] = []
        self.webhooks: list[dict[str, Any]] = []
        self.long = ""

    def make(self) -> dict[str, Any]:
        """Makes all of it."""
        with connect(self.database, "make") as connection:
            migrate(connection)
            ensure_projections(connection)
            self._keys(connection)
            self._long_ticket(connection)
        with ExitStack() as stack:
            receiver = stack.enter_context(Receiver())
            with self._desk(("api", "work")) as desk:
                self._with_everything_there(desk, receiver)
        with self._desk(("api",), DESKLEDGER_SMTP_URL="", DESKLEDGER_WEBHOOK_KEYS=WEBHOOK_KEY) as desk:
            desk.start("work")
            self._with_nobody_there(desk, receiver.url)
            desk.end("work")
            return self._expected(desk)

    def _desk(self, parts: tuple[str, ...], **settings: str) -> Served:
        desk = Served(self.database, self.directory, parts=parts)
        desk.environment |= {"DESKLEDGER_REOPEN_DAYS": "3650", **settings}
        return desk

    def _keys(self, connection: psycopg.Connection[Any]) -> None:
        for name, wanted in KEYS.items():
            id_, self.keys[name] = create_key(connection, wanted, utc_now())
            if name == "revoked":
                revoke_key(connection, id_, utc_now())

    def _long_ticket(self, connection: psycopg.Connection[Any]) -> None:
        """A ticket of 10,000 events, by its own decisions, each given what the one before it left."""
        with pool(self.database, "make") as connections, HelpDesk(connections) as desk:
            for _ in Walk(desk, 12).steps(260):
                pass
            ticket_id = new_stream_id(utc_now())
            desk.execute(Request(ticket_id, OPEN, STAFF, utc_now() - timedelta(days=200)))
            history = desk.history(ticket_id)
            for start in range(0, LONG, 500):
                events = list(further(history, min(500, LONG - len(history)), start))
                desk.save(*events)
                history += events
            self.long = str(ticket_id)

    def _with_everything_there(self, desk: Served, receiver: Receiver) -> None:
        """Mails are sent, and what happens is delivered."""
        desk.caught_up()
        self._webhook(desk, receiver.url, "plain")
        for number, standing in enumerate(STANDINGS):
            brought(desk, standing, f"client-{number % 3 + 1}")
        linked, other = brought(desk, "tier2", "client-2"), brought(desk, "tier2", "client-2")
        assert give(desk, linked, "link", other_ticket_id=other, relation="duplicate_of").status == 200
        self._retries(desk)
        desk.caught_up()
        with connect(self.database, "make") as connection:
            sent = "select not exists (select from closure_mails where state = 'due')"
            wait_until(lambda: connection.execute(sent).fetchone()[0], "the mails are sent")
            self._delivered(connection)

    def _delivered(self, connection: psycopg.Connection[Any]) -> None:
        done = """select (select max(position) from log) = (select min(position) from webhooks)
            and not exists (select from webhook_deliveries where state <> 'delivered')"""
        wait_until(lambda: connection.execute(done).fetchone()[0], "everything is delivered")

    def _with_nobody_there(self, desk: Served, url: str) -> None:
        """Mails and deliveries stay open, and a ticket is parked."""
        self._webhook(desk, url, "sealed", types=["Ticket.Closed", "Ticket.Escalated"], after=LONG)
        for standing in ("closed", "closed", "closed", "onsite", "approved"):
            brought(desk, standing, "client-1")
        parked = brought(desk, "tier1", "client-2")
        with connect(self.database, "make") as connection:
            append(connection, [StoredRow(UUID(parked), 6, "Ticket.Teleported", b'{"where":"Mars"}', utc_now())])
            desk.caught_up()
            tried = """select count(*) = 2 from webhooks where exists (
                select from webhook_deliveries d where webhook_id = webhooks.id and state = 'due' and attempts > 0)"""
            wait_until(lambda: connection.execute(tried).fetchone()[0], "deliveries have failed")

    def _webhook(self, desk: Served, url: str, description: str, **body: Any) -> None:
        body = {"url": url, "description": description, **body}
        self.webhooks.append(self._sent(desk, "/v1/webhooks", "admin", body).json)

    def _sent(self, desk: Served, path: str, key: str, body: Any, version: int | None = None) -> Reply:
        """A request under an idempotency key, written down with its answer."""
        headers = {"Idempotency-Key": f"kept-{len(self.retries)}"}
        if version is not None:
            headers["If-Match"] = f'"{version}"'
        text = json.dumps(body)
        reply = desk.request("POST", path, text.encode(), self.keys[key], headers)
        assert reply.status in (200, 201), reply.data
        asked = {"path": path, "key": key, "headers": headers, "body": text}
        shown = {name: reply.headers[name] for name in ("ETag", "Location") if name in reply.headers}
        self.retries.append({**asked, "status": reply.status, "answer": reply.data.decode(), "shown": shown})
        return reply

    def _retries(self, desk: Served) -> None:
        """A request of every kind that may be sent again."""
        self._sent(desk, "/v1/requests", "intake", {"channel": "phone", "text": "no network", "sender": {}})
        opening = {"client_user_id": "client-1", "channel": "email", "text": "it is slow – sehr langsam"}
        self._sent(desk, "/v1/tickets", "intake", opening)
        for standing, command in (
            ("tier1", "add_note"), ("tier1", "escalate"), ("tier2", "qualify"), ("tier3_can", "resolve"),
            ("deciding", "compile_dossier"), ("awaiting_approval", "approve"), ("resolved", "verify"),
            ("detailed", "close"), ("closed", "close"), ("tier1", "change_priority"), ("tier1", "cancel"),
        ):  # fmt: skip
            ticket = brought(desk, standing, "client-3")
            who = "quality" if command in ("verify", "close") else "everything"
            version = desk.get(f"/v1/tickets/{ticket}").version
            self._sent(desk, f"/v1/tickets/{ticket}:{command}", who, filled(desk, ticket, command), version)
        self._sent(desk, "/v1/queues/tier2:claim_next", "tier2", {})
        note = {"text": "still the same", "visibility": "client"}
        self._sent(desk, f"/v1/tickets/{self.long}:add_note", "everything", note)
        self._sent(desk, f"/v1/webhooks/{self.webhooks[0]['id']}:rotate_secret", "admin", {"overlap_hours": 0})
        self.webhooks[0] = json.loads(self.retries[-1]["answer"])

    def _expected(self, desk: Served) -> dict[str, Any]:
        now = utc_now()
        key = self.keys["everything"]
        tickets = [(item["ticket_id"], item["version"]) for item in walk(desk, "/v1/tickets", key=key)]
        metrics = [item["name"] for item in desk.get("/v1/reports", key).json["items"]]
        clients = ["client-1", "client-2", "client-3"]
        wanted = addresses(tickets, clients, now.isoformat(), metrics)
        wanted += ["/v1/webhooks", *(f"/v1/webhooks/{one['id']}/deliveries" for one in self.webhooks)]
        doors = {name: [desk.get(door, each).status for door in DOORS] for name, each in self.keys.items()}
        return {
            "made_at": now.isoformat(),
            "keys": self.keys,
            "doors": {"addresses": DOORS, "statuses": doors},
            "webhook_key": WEBHOOK_KEY,
            "webhooks": self.webhooks,
            "long_ticket": self.long,
            "retries": self.retries,
            "answers": {address: answer(desk.get, address, key) for address in wanted},
        }


def further(history: list[Recorded], count: int, seed: int) -> Iterator[Recorded]:
    """The next events of a ticket: notes, another priority, somebody who takes it, a question and its answer."""
    chance, ticket = random.Random(seed), fold(history)
    assert ticket is not None
    by = Actor("desk-1", "Desk One", Role.AGENT)
    at = ticket.updated_at
    while count:
        at += timedelta(minutes=chance.randint(1, 30))
        for event in _decided(chance, ticket, Given(by, at))[:count]:
            recorded = Recorded(ticket.ticket_id, ticket.version + 1, at, by, event, None, None, None, ticket.level)
            ticket, count = evolve(ticket, recorded), count - 1
            yield recorded


def _decided(chance: random.Random, ticket: Any, given: Given) -> list[Any]:
    words = f"looked at the printer, found {chance.randint(1, 10**6)} pages"
    if ticket.waiting_on_client:
        return decisions.client_responded(ticket, given, words)
    match chance.randint(1, 10):
        case 1:
            return decisions.change_priority(
                ticket, given, chance.choice(list(Grade)), chance.choice(list(Grade)), words
            )
        case 2:
            return decisions.assign(ticket, given, f"agent-{chance.randint(1, 9)}")
        case 3:
            return decisions.await_client(ticket, given, words)
    return decisions.add_note(ticket, given, words, Visibility.INTERNAL)


def pack(cluster: Path, target: Path) -> None:
    """The data directory of a cluster that was ended, in an order and with owners that say nothing of this machine."""
    with tarfile.open(target, "w:xz", preset=9) as archive:
        for path in sorted(set(cluster.rglob("*")) - {cluster / "postmaster.opts"}):  # it is written at each start
            entry = archive.gettarinfo(path, str(Path("postgres") / path.relative_to(cluster)))
            entry.uid = entry.gid = 0
            entry.uname = entry.gname = ""
            if path.is_file():
                with path.open("rb") as content:
                    archive.addfile(entry, content)
            else:
                archive.addfile(entry)


def main(version: str) -> None:
    """Makes the three files."""
    directory = Path(tempfile.mkdtemp(prefix="deskledger-material-"))
    directory.chmod(0o755)
    postgres = SmallPostgres(directory)
    postgres.start()
    try:
        expected = Making(postgres.url, directory).make()
        postgres.run("vacuumdb", "--all", "--analyze", f"--maintenance-db={postgres.url}")
        options = ("--no-owner", "--no-privileges", f"--dbname={postgres.url}")
        dump = directory / "dump.sql"
        with dump.open("wb") as output:
            postgres.run("pg_dump", *options, stdout=output)
        with psycopg.connect(postgres.url, autocommit=True) as connection:
            connection.execute("select pg_switch_wal()")
            connection.execute("checkpoint")
    finally:
        postgres.stop()
    MATERIAL.mkdir(exist_ok=True)
    (MATERIAL / f"{version}.sql.gz").write_bytes(gzip.compress(dump.read_bytes(), 9, mtime=0))
    (MATERIAL / f"{version}.json.gz").write_bytes(gzip.compress(json.dumps(expected).encode(), 9, mtime=0))
    pack(postgres.cluster, MATERIAL / f"{version}-data.tar.xz")
    shutil.rmtree(directory)


if __name__ == "__main__":
    main(sys.argv[2])
