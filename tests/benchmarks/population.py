"""A desk with a past: so many tickets, made by the domain's own decisions, bulk-loaded.

    python -m tests.benchmarks.population postgresql://… --tickets 100000 --seed 1

Some thousand tickets walk through the procedure on the paths of `PATHS`, each step decided by the domain. Every ticket
of the population is one of them once more, with an id, a number, a client and times of its own; its leaf hashes are
computed, and its dossiers compiled, anew. The same seed gives the same rows.

The tickets are created evenly over ten months. Events lie in the log by time, within each block of 5,000
tickets.
The projections are brought to the end of the log by the product's own code.
"""

import argparse
import re
import struct
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import accumulate
from multiprocessing import get_context
from random import Random
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
import psycopg
from psycopg.sql import SQL, Identifier
from rich.progress import Progress as Bar

from application.commands.command import Command, Opening
from application.commands.deciding import CommandRequest, decide, decide_client
from application.commands.procedure_commands import COMMANDS, DocumentIssue, OpenTicket, ReceiveRequest, RequestSender
from application.commands.supporting_commands import RegisterClient
from application.mail.closure_mail import DESK_ACTOR
from application.store.event_store import leaf_hash, to_recorded, to_row
from application.store.postgres.database import connect, migrate
from domain import events as e
from domain.client import client_stream
from domain.ticket import Ticket, evolve
from domain.values import Channel, Grade, Level, Principal, Role, Visibility
from domain.words import canonical_digest, dossier_entries
from projections.queries.closure_mail_list import MailRow
from projections.rebuild.rebuild_projections import REBUILD_SIZES, rebuild
from projections.runner import PROJECTIONS, ensure_projections, lag, project

FIRST, SPAN = datetime(2026, 1, 5, tzinfo=UTC), timedelta(days=300)
REGISTERED = FIRST - timedelta(days=30)
BLOCK = 5_000
TICKETS_A_CLIENT = 10
VARIANTS = 40
MAIL_DOMAIN = "desk.example.org"
NO_TICKET, NO_CLIENT, NO_NUMBER = UUID(int=0), 0, "T-000000"

# Weight and steps. `open` is a ticket at tier 1 in one command, `up` an escalation and the verdict `can` or `cannot`.
PATHS = """
1 receive
1 receive identify
1 receive identify create
1 receive identify create describe
7 open
2 open assign
1 open assign note await
1 open priority
2 open escalate
1 open up-can assign
0.5 open up-cannot
0.7 open up-cannot escalate
0.4 open up-cannot up-can
0.5 open up-cannot up-cannot escalate
0.4 open up-cannot up-cannot up-can
0.3 open up-cannot up-cannot up-cannot escalate
0.2 open up-cannot up-cannot up-cannot escalate compile
0.2 open up-cannot up-cannot up-cannot escalate compile approve
0.6 open up-cannot up-cannot up-cannot escalate compile approve route
1 open resolve
0.5 open up-can resolve
0.5 open resolve pass
0.5 open resolve pass document
10 receive cancel
3 receive identify create cancel
10 open cancel
2 open up-cannot cancel
30 open resolve pass document close sent
8 open assign resolve pass document close sent
2 open await respond resolve pass document close sent
1 open note assign release assign resolve pass document close sent
1 receive identify create describe route resolve pass document close sent
4 open up-can resolve pass document close sent
2 open up-cannot up-can resolve pass document close sent
1 open up-can up-can resolve pass document close sent
0.7 open up-cannot up-cannot up-can resolve pass document close sent
0.3 open up-cannot up-cannot up-cannot escalate compile approve route resolve pass document close sent
0.2 open up-cannot up-cannot up-cannot escalate compile decline compile approve route resolve pass document close sent
0.1 open up-cannot up-cannot up-cannot escalate compile decline return-tier2 can resolve pass document close sent
0.1 open up-cannot up-cannot up-cannot escalate compile approve route return-it_manager compile decline cancel
1.5 open resolve fail resolve pass document close sent
0.5 open up-can resolve fail resolve pass document close sent
0.5 open priority resolve pass document close sent
0.5 open resolve pass document close bounced
0.1 open resolve pass document close
0.7 open resolve pass document close sent reopen resolve pass document close sent
0.2 open resolve pass document close sent reopen
0.1 open up-can resolve pass document close sent reopen resolve pass document close sent
"""
CATEGORIES = ("hardware", "software", "network", "printing", "telephony", "access", "e-mail", "other")
THINGS = (
    "the printer",
    "the mail client",
    "the lift",
    "the badge reader",
    "the payroll screen",
    "the phone",
    "the VPN",
)
FAULTS = ("does not start", "shows an error", "is very slow", "has stopped", "asks for a password again and again")
CAUSES = ("a worn part", "an expired certificate", "a full disk", "a wrong setting", "a loose cable", "an old driver")

Advance = Callable[[int, int], None]
_HEAD = struct.Struct(">hi16siiiqiq")  # nine fields: stream, version, ord, at; then type, body, private, meta, leaf
_LENGTH = struct.Struct(">i").pack
_NULL = _LENGTH(-1)
_POSTGRES_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class Line(NamedTuple):
    """An event as it is to be stored: when, of which stream, which version, and the bytes of what follows."""

    at: int
    stream: bytes
    version: int
    rest: bytes


class Moment(NamedTuple):
    """An event of a template: how long after the first one, and its parts. `fixed` when nothing in it is patched."""

    after: timedelta
    type: str
    body: bytes
    meta: bytes
    fixed: bool


# ── Templates: tickets that the domain decided ──────────────────────────────────────────────────────────────


def _staff(name: str, place: int, *roles: Role, level: Level | None = None) -> Principal:
    return Principal(f"{name}-{place}", f"{name} {place}", frozenset(roles), frozenset([level] if level else []))


def client_id(number: int) -> str:
    """The user ID of a client."""
    return f"client-{number:06}"


def contact_of(number: int) -> RegisterClient:
    """The directory entry of a client."""
    return RegisterClient(
        f"Client {number:06}", f"{client_id(number)}@example.org", organisation=f"Organisation {number % 97}"
    )


class Story:
    """One ticket as it goes its path; every event is what a decision of the domain recorded."""

    def __init__(self, chance: Random) -> None:
        self._chance, self._now = chance, FIRST
        self._place = chance.randint(1, 9)
        self._thing, self._fault = chance.choice(THINGS), chance.choice(FAULTS)
        entry = contact_of(NO_CLIENT).contact()
        clerk = _staff("intake", 1, Role.INTAKE)
        _, registered = decide_client(client_id(NO_CLIENT), entry, clerk, REGISTERED, ())
        self._directory = {client_stream(client_id(NO_CLIENT)): registered}
        self.history: list[e.Recorded] = []
        self._ticket: Ticket | None = None

    def tell(self, step: str) -> None:
        """One step of a path."""
        step, _, what = step.partition("-")
        if step == "up":
            self.tell("escalate")
            self.tell(what)
        elif step in ("sent", "bounced"):
            self._mailed(step)
        else:
            command = self._command(step, what)
            self._wait(0.3 if isinstance(command, Opening) else 30)
            streams = {**self._directory, NO_TICKET: self.history}
            outcome = decide(CommandRequest(NO_TICKET, command, self._who(step), self._now), streams, NO_NUMBER)
            if not outcome.events:
                raise RuntimeError(f"{step} recorded nothing: the path is wrong")
            self._ticket = outcome.ticket
            self.history += outcome.events

    def _wait(self, hours: float) -> None:
        seconds = min(self._chance.expovariate(1 / (hours * 3600)), 6 * 86_400)
        self._now += timedelta(seconds=round(seconds, 6))

    def _who(self, step: str) -> Principal:
        if step in ("receive", "open", "identify", "create", "describe", "cancel"):
            return _staff("intake", self._place, Role.INTAKE)
        if step in ("pass", "fail", "close"):
            return _staff("quality", self._place, Role.QUALITY)
        if step in ("approve", "decline", "reopen", "respond"):
            user_id = client_id(NO_CLIENT)
            return Principal(f"portal-{user_id}", f"portal-{user_id}", frozenset({Role.CLIENT}), frozenset(), user_id)
        ticket = self._present()
        if step == "compile" or ticket.level is Level.IT_MANAGER:
            return _staff("it_manager", 1, Role.IT_MANAGER)
        if step == "route":
            return _staff("intake", self._place, Role.INTAKE)
        return _staff(f"{ticket.level}", self._place, Role.AGENT, level=ticket.level)

    def _present(self) -> Ticket:
        if self._ticket is None:
            raise RuntimeError("a path begins with receive or open")
        return self._ticket

    def _command(self, step: str, what: str) -> Command | Opening:
        thing, fault, cause = self._thing, self._fault, self._chance.choice(CAUSES)
        text = f"Since this morning {thing} {fault}. I have switched it off and on again, and it is still the same."
        if step == "receive":
            return ReceiveRequest(self._channel(), text, RequestSender(f"Client {NO_CLIENT:06}"))
        if step == "open":
            return OpenTicket(client_id(NO_CLIENT), self._channel(), text, self._issue())
        if step == "describe":
            return self._issue()
        if step == "identify":
            return COMMANDS["identify_client"](client_user_id=client_id(NO_CLIENT))
        dossier = self._ticket.dossier.sha256 if self._ticket and self._ticket.dossier else ""
        reason = f"{thing} {fault}, and what this level can do about it has been tried: {cause} is not the cause"
        made: dict[str, tuple[str, dict[str, Any]]] = {
            "create": ("create", {}),
            "route": ("route", {}),
            "assign": ("assign", {}),
            "release": ("release", {}),
            "close": ("close", {}),
            "escalate": ("escalate", {"reason": reason}),
            "can": ("qualify", {"can_resolve": True, "rationale": f"it looks like {cause}"}),
            "cannot": ("qualify", {"can_resolve": False, "rationale": f"if it is {cause}, it is beyond this level"}),
            "resolve": ("resolve", {"resolution": f"{cause} was found and put right; {thing} works again"}),
            "pass": ("verify", {"satisfied": True, "confirmed_via": self._channel(), "comment": f"{thing} works"}),
            "fail": ("verify", {"satisfied": False, "confirmed_via": self._channel(), "comment": f"it still {fault}"}),
            "document": (
                "document_resolution",
                {"cause": cause, "actions": f"{cause} removed", "checked_by_method": f"tried {thing} with the client"},
            ),
            "compile": ("compile_dossier", {"summary": f"everything that was tried with {thing}, {self._now:%j}"}),
            "approve": ("approve", {"dossier_sha256": dossier, "confirmed_via": Channel.WEB}),
            "decline": ("decline", {"dossier_sha256": dossier, "confirmed_via": Channel.WEB, "reason": "too dear"}),
            "return": ("return_to_level", {"level": Level(what or "tier1"), "reason": "look at it once more"}),
            "note": ("add_note", {"text": f"the client says that {thing} {fault}", "visibility": Visibility.INTERNAL}),
            "priority": ("change_priority", {**self._other_grades(), "reason": "more people are affected"}),
            "await": ("await_client", {"reason": f"since when exactly, and which model is {thing}?"}),
            "respond": ("client_responded", {"text": "since the day before yesterday; the model is on the label"}),
            "cancel": ("cancel", {"reason": "the client says that it is not needed any more"}),
            "reopen": ("reopen", {"reason": f"{thing} {fault} again"}),
        }
        name, fields = made[step]
        return COMMANDS[name](**fields)

    def _channel(self) -> Channel:
        return self._chance.choice(list(Channel))

    def _issue(self) -> DocumentIssue:
        description = f"{self._thing.capitalize()} {self._fault}. The client has restarted it twice, without success."
        grades = self._chance.choice(list(Grade)), self._chance.choice(list(Grade))
        return DocumentIssue(f"{self._thing} {self._fault}", description, self._chance.choice(CATEGORIES), *grades)

    def _other_grades(self) -> dict[str, Grade]:
        issue = self._present().issue
        return {"impact": Grade.HIGH, "urgency": Grade.LOW if issue and issue.urgency is Grade.HIGH else Grade.HIGH}

    def _mailed(self, step: str) -> None:
        ticket, closed = self._present(), self.history[-1]
        self._now += timedelta(seconds=round(self._chance.uniform(0.2, 4), 6))
        version, message_id = closed.originator_version, message_id_of(NO_TICKET, closed.originator_version)
        if step == "sent":
            event = e.ClosureEmailSent(version, message_id, 1)
        else:
            event = e.ClosureEmailFailed(version, message_id, 1, "550 no such user")
        cause = f"{NO_TICKET}/{version}"
        recorded = e.Recorded(NO_TICKET, version + 1, self._now, DESK_ACTOR, event, None, cause, None, ticket.level)
        self._ticket = evolve(ticket, recorded)
        self.history.append(recorded)


def message_id_of(ticket_id: UUID, closed_version: int) -> str:
    """The Message-ID of a closing e-mail, as the outbox makes it."""
    return f"<ticket.{ticket_id}.closed.{closed_version}@{MAIL_DOMAIN}>"


@cache
def templates(seed: int) -> tuple[list[tuple[Moment, ...]], list[float]]:
    """Every path in its variants, and how often each is taken."""
    made, weights = [], []
    for line in PATHS.strip().splitlines():
        weight, *steps = line.split()
        for variant in range(VARIANTS):
            story = Story(Random(f"{seed}/{line}/{variant}"))
            for step in steps:
                story.tell(step)
            made.append(tuple(_moment(recorded, story.history[0].at) for recorded in story.history))
            weights.append(float(weight))
    return made, list(accumulate(weights))


# What is a ticket's own, in one pattern: what was put in is not looked through again.
_OWN = re.compile(rb"00000000-0000-0000-0000-000000000000|T-000000|000000")


_NAMES_DOSSIER = (e.DossierCompiled, e.ClientApproved, e.ClientDeclined)


def _moment(recorded: e.Recorded, begin: datetime) -> Moment:
    row = to_row(recorded)
    patched = isinstance(recorded.event, _NAMES_DOSSIER) or _OWN.search(row.state + row.meta)
    return Moment(recorded.at - begin, recorded.type, row.state, row.meta, not patched)


# ── Tickets: templates once more ────────────────────────────────────────────────────────────────────────────


def ticket_lines(
    template: Sequence[Moment], ticket_id: UUID, number: int, client: int, begin: datetime
) -> Iterator[tuple[datetime, str, bytes, bytes]]:
    """The events of a ticket: time, type, body and meta."""
    own = {
        str(NO_TICKET).encode(): str(ticket_id).encode(),
        NO_NUMBER.encode(): f"T-{number:06}".encode(),
        b"000000": f"{client:06}".encode(),
    }
    compiles = any(moment.type == "Ticket.DossierCompiled" for moment in template)
    told: list[e.Recorded] = []
    dossier = b""
    for version, (after, type_, body, meta, fixed) in enumerate(template, 1):
        at = begin + after
        if not fixed:
            body, meta = (_OWN.sub(lambda found: own[found[0]], text) for text in (body, meta))
            if type_ == "Ticket.DossierCompiled":
                event = _compiled(body, told)
                body, dossier = msgspec.json.encode(event, order="sorted"), event.sha256.encode()
            elif type_ in ("Ticket.ClientApproved", "Ticket.ClientDeclined"):
                known = msgspec.json.decode(body)["dossier_sha256"].encode()
                body = body.replace(known, dossier)
        if compiles:
            told.append(to_recorded(ticket_id, version, at, type_, body, meta))
        yield at, type_, body, meta


def _compiled(body: bytes, told: Sequence[e.Recorded]) -> e.DossierCompiled:
    """The dossier of what was told so far, as `compile_dossier` makes it."""
    known = msgspec.json.decode(body, type=e.DossierCompiled)
    identified = [one.event.client_user_id for one in told if isinstance(one.event, e.ClientIdentified)]
    entries = dossier_entries(told, identified[-1])
    return e.DossierCompiled(known.summary, canonical_digest(entries), len(told), (), entries)


def _line(stream_id: UUID, version: int, at: datetime, type_: str, body: bytes, meta: bytes) -> Line:
    leaf = leaf_hash(stream_id, version, at, type_, body, meta)
    name = type_.encode()
    rest = b"".join(
        (
            _LENGTH(len(name)), name, _LENGTH(len(body) + 1), b"\1", body, _NULL,
            _LENGTH(len(meta) + 1), b"\1", meta, _LENGTH(32), leaf,
        )
    )  # fmt: skip
    return Line((at - _POSTGRES_EPOCH) // _MICROSECOND, stream_id.bytes, version, rest)


class Plan(NamedTuple):
    """What is to be made: so many tickets and clients, from this seed, in blocks of so many tickets."""

    tickets: int
    seed: int
    block: int = BLOCK

    @property
    def clients(self) -> int:
        """How many clients there are; their numbers begin with 1."""
        return max(1, self.tickets // TICKETS_A_CLIENT)

    @property
    def blocks(self) -> list[range]:
        """The tickets in blocks."""
        return [range(start, min(start + self.block, self.tickets)) for start in range(0, self.tickets, self.block)]

    def paths(self, block: range) -> list[tuple[Moment, ...]]:
        """The template of each ticket of a block."""
        made, weights = templates(self.seed)
        return Random(f"{self.seed}/paths/{block.start}").choices(made, cum_weights=weights, k=len(block))

    def positions(self) -> list[int]:
        """The first position of each block, and the one behind the last."""
        counts = (sum(map(len, self.paths(block))) for block in self.blocks)
        return list(accumulate(counts, initial=self.clients + 1))


def block_lines(plan: Plan, block: range) -> tuple[list[Line], list[MailRow]]:
    """The events of a block of tickets by time, and their closing e-mails."""
    chance = Random(f"{plan.seed}/tickets/{block.start}")
    lines: list[Line] = []
    mails: list[MailRow] = []
    for index, template in zip(block, plan.paths(block), strict=True):
        begin = FIRST + SPAN * ((index + chance.random()) / plan.tickets)
        ticket_id = stream_id_of(begin, chance)
        client = chance.randint(1, plan.clients)
        for version, event in enumerate(ticket_lines(template, ticket_id, index + 1, client, begin), 1):
            lines.append(_line(ticket_id, version, *event))
            _take_mail(mails, ticket_id, version, event[0], event[1])
    lines.sort(key=lambda line: line.at)  # stable: the versions of a ticket stay in order
    return lines, mails


def stream_id_of(at: datetime, chance: Random) -> UUID:
    """A UUID of version 7 for this moment, as the desk makes it, but by the seed's chance."""
    bits = int(at.timestamp() * 1000) << 80 | chance.getrandbits(80)
    return UUID(int=bits & ~(0xF << 76) & ~(0x3 << 62) | 0x7 << 76 | 0x2 << 62)


def _take_mail(mails: list[MailRow], ticket_id: UUID, version: int, at: datetime, type_: str) -> None:
    if type_ == "Ticket.Closed":
        message_id = message_id_of(ticket_id, version)
        mails.append(MailRow(ticket_id, version, message_id, "due", 0, at, None, at, None, None, None, False))
    elif type_ in ("Ticket.ClosureEmailSent", "Ticket.ClosureEmailFailed"):
        sent = type_ == "Ticket.ClosureEmailSent"
        ends = {"state": "sent" if sent else "failed", "last_error": None if sent else "550 no such user"}
        mails[-1] = msgspec.structs.replace(mails[-1], attempts=1, settled_at=at, **ends)


def client_lines(plan: Plan) -> Iterator[Line]:
    """The registrations of the clients, in order."""
    clerk = _staff("intake", 1, Role.INTAKE)
    for number in range(1, plan.clients + 1):
        at = REGISTERED + timedelta(days=30) * (number / (plan.clients + 1))
        _, (recorded,) = decide_client(client_id(number), contact_of(number).contact(), clerk, at, ())
        row = to_row(recorded)
        yield _line(recorded.originator_id, 1, recorded.at, recorded.type, row.state, row.meta)


# ── Loading ─────────────────────────────────────────────────────────────────────────────────────────────────


def populate(
    url: str,
    tickets: int,
    seed: int = 1,
    progress: Advance = lambda *_: None,
    processes: int = 2,
    block: int = BLOCK,
) -> int:
    """Fills an empty database with tickets; the schema is made where it is missing. Returns how many events.

    `progress` is told how many events are done, and of how many: first stored, then projected. Raises ValueError when
    there are events already.
    """
    plan = Plan(tickets, seed, block)
    with connect(url, "population", 3600) as connection:
        migrate(connection)
        ensure_projections(connection)
        if connection.execute("select exists (select from events)").fetchone() != (False,):
            raise ValueError("the database holds events already: population needs an empty one")
        _tune(connection)
        positions = plan.positions()
        total = positions[-1] - 1
        with without_indexes(connection, "events"), without_indexes(connection, "log"):
            _store(url, plan, positions, processes, progress)
            connection.execute("insert into log select n, n from generate_series(1, %s::bigint) n", (total,))
        _finish(connection, plan, total)
        connection.execute("vacuum (analyze)")
        _project(connection, total, progress)
        connection.execute("vacuum (analyze)")
    return total


def _project(connection: psycopg.Connection[Any], total: int, progress: Advance) -> None:
    """Brings the projections to the end of the log: by a rebuild where they are far from it."""
    if total > REBUILD_SIZES.far:
        rebuild(connection, *PROJECTIONS, progress=progress)
    while project(connection):
        progress(total - max(lag(connection).values()), total)


def _tune(connection: psycopg.Connection[Any]) -> None:
    """Loading is repeated when it fails, so it need not survive a crash half-way."""
    connection.execute("set synchronous_commit to off")
    connection.execute("set maintenance_work_mem to '512MB'")


@contextmanager
def without_indexes(connection: psycopg.Connection[Any], table: str) -> Iterator[None]:
    """Takes the indexes of an empty table away, and makes them again, as they were, when it is full."""
    name = Identifier(table)
    constraints = connection.execute(
        "select conname, pg_get_constraintdef(oid) from pg_constraint where conrelid = %s::regclass"
        " and contype in ('p', 'u') order by conname",
        (table,),
    ).fetchall()
    for constraint, _ in constraints:
        connection.execute(SQL("alter table {} drop constraint {}").format(name, Identifier(constraint)))
    indexes = connection.execute(
        "select indexrelid::regclass::text, pg_get_indexdef(indexrelid) from pg_index where indrelid = %s::regclass",
        (table,),
    ).fetchall()
    for index, _ in indexes:
        connection.execute(SQL("drop index {}").format(Identifier(index)))
    yield
    for constraint, definition in constraints:
        made = SQL("alter table {} add constraint {} ").format(name, Identifier(constraint)) + SQL(definition)
        connection.execute(made)
    for _, definition in indexes:
        connection.execute(definition)


def _store(url: str, plan: Plan, positions: list[int], processes: int, progress: Advance) -> None:
    store_clients(url, plan)
    blocks = list(zip(plan.blocks, positions, strict=False))
    if len(blocks) == 1 or processes == 1:
        for block, position in blocks:
            store_block(url, plan, block, position)
            progress(position, positions[-1] - 1)
        return
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as workers:
        waiting = [workers.submit(store_block, url, plan, block, position) for block, position in blocks]
        for number, future in enumerate(waiting, 1):
            future.result()
            progress(positions[number] - 1, positions[-1] - 1)


def store_clients(url: str, plan: Plan) -> None:
    """Copies the clients' events; they come first."""
    with connect(url, "population", 3600) as connection:
        connection.execute("set deskledger.importing to on")
        copy_lines(connection, client_lines(plan), 1)


def store_block(url: str, plan: Plan, block: range, position: int) -> None:
    """Copies the events and mails of one block; runs in a process of its own."""
    lines, mails = block_lines(plan, block)
    with connect(url, "population", 3600) as connection:
        _tune(connection)
        connection.execute("set deskledger.importing to on")
        copy_lines(connection, lines, position)
        names = SQL(", ").join(map(Identifier, MailRow.__struct_fields__))
        with connection.cursor().copy(SQL("copy closure_mails ({}) from stdin").format(names)) as copy:
            for mail in mails:
                copy.write_row(msgspec.structs.astuple(mail))


def copy_lines(connection: psycopg.Connection[Any], lines: Iterator[Line] | list[Line], position: int) -> None:
    """Copies events to the table, with the numbers from `position` on."""
    columns = "stream_id, version, ord, at, type, body, private, meta, leaf"
    with connection.cursor().copy(f"copy events ({columns}) from stdin (format binary)") as copy:
        waiting = bytearray(b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0")
        for ord_, (at, stream, version, rest) in enumerate(lines, position):
            waiting += _HEAD.pack(9, 16, stream, 4, version, 8, ord_, 8, at)
            waiting += rest
            if len(waiting) > 1 << 18:
                copy.write(bytes(waiting))
                waiting.clear()
        copy.write(bytes(waiting) + b"\xff\xff")


def _finish(connection: psycopg.Connection[Any], plan: Plan, total: int) -> None:
    """Sequences, sealer, mail follower, and the idempotency records of the last days go on behind what is loaded."""
    connection.execute("select setval('events_ord', %s), setval('ticket_numbers', %s)", (total, plan.tickets))
    connection.execute("update seal_state set next_position = %s, hi = %s", (total + 1, total))
    connection.execute("update followers set position = %s where name = 'closure_mail'", (total,))
    connection.execute(
        """insert into idempotency (principal, key, request_hash, answer, at)
        select 'intake-' || n %% 9, md5(n || '/' || %s), sha256(n::text::bytea),
            convert_to(repeat('0', 400), 'UTF8'), %s
        from generate_series(1, %s) n""",
        (plan.seed, FIRST + SPAN, plan.tickets // 20 + 1),
    )


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Fills an empty database with tickets and everything about them.")
    parser.add_argument("url", help="the database: postgresql://user@host:port/name")
    parser.add_argument("--tickets", type=int, default=100_000, help="how many (default: 100000), 8 events each")
    parser.add_argument("--seed", type=int, default=1, help="another seed, other tickets (default: 1)")
    parser.add_argument("--processes", type=int, default=2, help="how many fill the event store (default: 2)")
    options = parser.parse_args()
    with Bar() as bar:
        tasks = [bar.add_task(what, total=None) for what in ("storing", "projecting")]

        def advance(done: int, total: int) -> None:
            stored = bar.tasks[0].finished
            bar.update(tasks[int(stored)], completed=done, total=total)

        events = populate(options.url, options.tickets, options.seed, advance, options.processes)
    print(f"{options.tickets} tickets, {events} events")


if __name__ == "__main__":
    main()
