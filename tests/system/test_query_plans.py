"""Does any answer take longer because the desk has a longer past? Every statement that the API sends is explained.

A populated desk is asked for every address, command and parameter there is, while PostgreSQL writes down what it is
asked: so a new endpoint is in, or the tests say that nobody asked it. Each statement is run once more with EXPLAIN. It
may not read a growing table from end to end, and not more than a page's worth of rows of it, but for what
`READS_MORE` allows, each with its reason.
"""

import asyncio
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

import falcon.inspect
import psycopg
import pytest

from api.http.app import create_app
from application.commands.procedure_commands import COMMANDS
from application.settings import Settings
from application.store.postgres.database import connect
from domain.values import Queue, Role
from projections.queries.event_feed import EventFilters, feed_page
from projections.reports.report_metrics import REPORT_METRICS
from tests.benchmarks.population import populate
from tests.support import postgres_servers as servers
from tests.support.api_requests import BODIES, brought, give
from tests.support.postgres_servers import open_directory
from tests.support.query_plans import SETTLES_AFTER, Read, Statement, explained, statements, written_down
from tests.support.reference_pages import lines, spans
from tests.support.running_desk import Reply, RunningDesk, free_port
from tests.support.stream_readers import NDJSON, SSE, stream

TICKETS = 4_000
MOST_ROWS = 1_000  # of one table, for a page of 50: at most 50 histories of about ten events
FEW_ROWS = {
    # what does not grow with the number of tickets, and how many there are
    "projections": "three",
    "schema_migrations": "one for each migration",
    "seal_state": "one",
    "followers": "one",
    "queue_counts": "six for each of nine queues",
    "parked_streams": "none, unless something is broken",
    "webhooks": "fifty at most",
    "api_keys": "as many as there are people and programs",
    "people": "as many as there are people",
    "pg_database": "as many as the server has databases",
    "log_identity": "one row",
}
LATE, JUNE = "2026-10-28T00:00:00Z", "2026-06-01T00:00:00Z"


class Allowed(NamedTuple):
    """A statement that may read more of a table, and why."""

    sql: str  # what stands in it
    tables: set[str]
    reason: str


class Asked(RunningDesk):
    """A desk that remembers what it was asked and how it answered."""

    def __init__(self, database: str, directory: Path, workers: int) -> None:
        super().__init__(database, directory, workers)
        self.asked: list[tuple[str, str, int]] = []

    def request(self, method: str, path: str, *args: Any, **more: Any) -> Reply:
        """As a desk's."""
        reply = super().request(method, path, *args, **more)
        self.asked.append((method, path, reply.status))
        return reply


class Plans(NamedTuple):
    """What was asked over HTTP, the statements that it led to, and a connection to explain them on."""

    asked: list[tuple[str, str, int]]
    statements: list[Statement]
    reads: list[tuple[Statement, Read]]
    connection: psycopg.Connection[Any]


@pytest.fixture(scope="module")
def plans() -> Iterator[Plans]:
    """A populated desk after it was asked everything; its API and worker have ended."""
    directory = open_directory()
    postgres = servers.own_server(directory)
    postgres.start()
    try:
        populate(postgres.url, TICKETS, processes=1)
        with connect(postgres.url, "test plans", 60) as connection, written_down(connection):
            remember_deliveries(connection)
            keep_snapshots(connection)
            spread(connection)
            with Asked(postgres.url, directory, workers=1) as desk:
                ask_everything(desk, connection)
            connection.execute("set deskledger.importing to on")  # appends are run again, later than they were
            found = statements(connection, "deskledger api")
            read = [(statement, one) for statement in found for one in explained(connection, statement)]
            yield Plans(desk.asked, found, read, connection)
    finally:
        postgres.stop()
        shutil.rmtree(directory)


def keep_snapshots(connection: psycopg.Connection[Any]) -> None:
    """A snapshot of every ticket, by another version of the program: the table is as large as it would be."""
    connection.execute(
        """insert into snapshots (stream_id, fold, version, ticket)
            select ticket_id, 'of another program', 50, '{}' from ticket_summaries"""
    )


def remember_deliveries(connection: psycopg.Connection[Any]) -> None:
    """Two webhooks that are switched off, with 10,000 deliveries each."""
    connection.execute(WEBHOOK)
    connection.execute(DELIVERIES)


def spread(connection: psycopg.Connection[Any]) -> None:
    """Makes the tables as long as those of ten times as many tickets, with as many rows: long enough for an index.

    What the worker deletes meanwhile would be vacuumed away, after a minute: on a busy machine only.
    """
    for table in growing(connection):
        connection.execute(f"alter table {table} set (fillfactor = 10, autovacuum_enabled = off)")
        connection.execute(f"vacuum (full, analyze) {table}")


def growing(connection: psycopg.Connection[Any]) -> set[str]:
    """Every table but those of `FEW_ROWS`."""
    query = "select relname from pg_class where relkind = 'r' and relnamespace = 'public'::regnamespace"
    return {name for (name,) in connection.execute(query)} - set(FEW_ROWS)


# ── Everything there is to ask ──────────────────────────────────────────────────────────────────────────────

QUERIES = """
/livez
/readyz
/metrics
/openapi.json
/docs
/docs/redoc-2.5.4.js
/v1/tickets
/v1/tickets?client_user_id=client-000007
/v1/tickets?state=closed
/v1/tickets?state=approved
/v1/tickets?state=in_support&min_position=1
/v1/tickets?level=tier1
/v1/tickets?level=noc
/v1/tickets?queue=tier1
/v1/tickets?queue=noc
/v1/tickets?assignee=tier1-3
/v1/tickets?assignee=nobody
/v1/tickets?priority=1
/v1/tickets?priority=3
/v1/tickets?created_from={june}
/v1/tickets?created_to={june}
/v1/tickets?created_to=2026-01-06T00:00:00Z
/v1/tickets?created_from={june}&created_to=2026-06-08T00:00:00Z
/v1/tickets?created_from={late}
/v1/tickets?q=printer
/v1/tickets?q=000123
/v1/tickets?q=unheard-of
/v1/tickets?limit=200
/v1/tickets/{ticket}
/v1/tickets/{ticket}?version=2
/v1/tickets/{ticket}?as_of={late}
/v1/tickets/{ticket}?position={end}
/v1/tickets/{ticket}?min_version=2
/v1/tickets/{ticket}/history
/v1/tickets/{ticket}/history?min_version=1
/v1/queues
/v1/queues?min_position=1
/v1/queues/{queue}
/v1/queues/{queue}?min_position=1
/v1/queues/{queue}?limit=200
/v1/queues/{queue}?priority=2
/v1/queues/{queue}?assignee={queue}-3
/v1/queues/{queue}?assignee=nobody
/v1/queues/{queue}?unassigned=true
/v1/queues/{queue}?unassigned=false
/v1/queues/{queue}?state=in_support
/v1/queues/{queue}?client_user_id=client-000007
/v1/queues/{queue}?waiting_on_client=true
/v1/queues/{queue}?waiting_on_client=false
/v1/queues/{queue}?as_of={late}
/v1/queues/{queue}?as_of={june}
/v1/clients/client-000007
/v1/clients/client-000007?limit=2&min_position=1
/v1/events
/v1/events?after={end}
/v1/events?after={end}&wait=0
/v1/events?after={end}&log_id={log_id}
/v1/events?after={end}&event_names=false
/v1/events?limit=200&min_position=1
/v1/events?type=Ticket.Closed
/v1/events?type=Ticket.ClientDeclined
/v1/events?ticket_id={ticket}
/v1/events?client_user_id=client-000007
/v1/events?actor=tier1-3
/v1/events?actor=nobody
/v1/events?level=tier1
/v1/events?level=noc
/v1/events?from={late}
/v1/events?to={june}
/v1/events?from={june}&to={late}
/v1/reports
/v1/closure_mails
/v1/closure_mails?state=due
/v1/closure_mails?state=sent&limit=20
/v1/closure_mails?state=failed
/v1/webhooks
/v1/webhooks?limit=1
/v1/webhooks/{webhook}
/v1/webhooks/{webhook}/deliveries
/v1/webhooks/{webhook}/deliveries?limit=200
/v1/webhooks/{webhook}/deliveries?state=due
/v1/webhooks/{webhook}/deliveries?state=waiting&limit=20
/v1/webhooks/{webhook}/deliveries?state=delivered
/v1/webhooks/{webhook}/deliveries?state=failed
"""
WEBHOOK = """
    insert into webhooks (id, url, secret, position, enabled, created_at, created_by)
    select gen_random_uuid(), 'http://127.0.0.1:9/in', 'plain:whsec_AAAA', 0, false, now(), 'plans'
    from generate_series(1, 2)"""
DELIVERIES = """
    insert into webhook_deliveries (webhook_id, position, stream_id, type, state, due_at, queued_at)
    select id, n, gen_random_uuid(), 'Ticket.NoteAdded',
        (array['failed', 'due', 'waiting', 'delivered'])[least(n % 50, 3) + 1], now(), now()
    from webhooks, generate_series(1, 10000) n"""
WEBHOOK_COMMANDS = {"ping": {}, "rotate_secret": {}, "replay": {"after": 1}, "disable": {}, "enable": {}}
WINDOWS = (
    "",
    "?from={june}&to=2026-06-08T00:00:00Z",
    "?from={late}&min_position=1",
    "?from={june}&to=2026-06-08T00:00:00Z&group_by=level,week",
)
STANDINGS = ("noc", "assigned", "waiting", "closed", "cancelled", "awaiting_approval")
THEN = {
    # what is given in these standings besides what leads there
    "noc": ["return_to_level"],
    "assigned": ["release", "change_priority", "add_note", "link", "amend_issue", "correct_client"],
    "waiting": ["client_responded"],
    "awaiting_approval": ["decline"],
}


def ask_everything(desk: Asked, connection: psycopg.Connection[Any]) -> None:
    """Every query, so often that its plan has settled, in every queue and for every metric; then every command."""
    for path in list(queries(connection)) * (SETTLES_AFTER + 1):
        reply = desk.get(path)
        assert reply.status == 200, (path, reply.data)
        if link := reply.headers.get("Link"):
            assert desk.get(link[1:].partition(">")[0]).status == 200
    follow_everything(desk)
    give_everything(desk)
    desk.caught_up()


def queries(connection: psycopg.Connection[Any]) -> Iterator[str]:
    """The paths of `QUERIES` with the values of this population, and those of the reports."""
    closed = "select ticket_id from ticket_summaries where state = 'closed' order by ticket_id limit 1"
    end = "select max(position) - 10 from log"
    known = (closed, end, "select id from webhooks")
    known = (*known, "select id from log_identity")
    (ticket,), (after,), (webhook,), (log_id,) = (connection.execute(query).fetchone() or ("",) for query in known)
    reports = [f"/v1/reports/{metric.name}{window}" for metric in REPORT_METRICS for window in WINDOWS]
    for path in (*QUERIES.split(), *reports):
        for queue in Queue if "{queue}" in path else (Queue.TIER1,):
            known_by = {"ticket": ticket, "webhook": webhook, "log_id": log_id}
            yield path.format(queue=queue, end=after, june=JUNE, late=LATE, **known_by)


def follow_everything(desk: Asked) -> None:
    """Streams that read the log from its beginning, and streams that wait at its end for so long that plans settle."""
    for query in ("after=0", "type=Ticket.Closed", "client_user_id=client-000007"):
        with stream(desk, NDJSON, query) as response:
            assert response.read().count(b"\n") > 1
    end = desk.get("/v1/events?limit=1").headers["Deskledger-Position"]
    with (
        stream(desk, NDJSON, f"after={end}&wait=1&type=Ticket.Closed") as one,
        stream(desk, SSE, f"after={end}&wait=1&client_user_id=client-000007") as other,
    ):
        assert (one.status, one.read()[:2], other.status, other.read()[:6]) == (200, b'{"', 200, b"retry:")


def give_everything(desk: Asked) -> None:
    """Every command, one of them twice under one key, a client in the directory, and a claim from every queue."""
    for standing in STANDINGS:
        ticket = brought(desk, standing)
        for command in THEN.get(standing, ()):
            assert give(desk, ticket, command).status == 200
        if standing == "closed":
            owner = desk.key(Role.CLIENT, client="client-1")
            assert desk.do(ticket, "reopen", owner, reason="it is back").status == 200
    ticket = desk.ticket()
    once = {"Idempotency-Key": "plans-1"}
    for _ in range(2):
        reply = desk.request("POST", f"/v1/tickets/{ticket}:add_note", BODIES["add_note"], None, once)
        assert reply.status == 200
    for queue in Queue:
        assert desk.request("POST", f"/v1/queues/{queue}:claim_next", headers={"Prefer": "wait=2"}).status == 200
    admin, wanted = desk.key(Role.ADMIN), {"url": f"http://127.0.0.1:{free_port()}/in"}
    failed = desk.get("/v1/closure_mails?state=failed&limit=1").json["items"][0]["message_id"].strip("<>")
    for _ in range(2):
        assert (
            desk.request("POST", f"/v1/mails/{failed}:retry", {}, admin, {"Idempotency-Key": "plans-3"}).status == 200
        )
    made = desk.request("POST", "/v1/webhooks", wanted, admin, {"Idempotency-Key": "plans-2"}).json["id"]
    for command, body in WEBHOOK_COMMANDS.items():
        assert desk.request("POST", f"/v1/webhooks/{made}:{command}", body, admin).status == 200
    assert desk.request("PATCH", f"/v1/webhooks/{made}", {"types": ["Ticket.Closed"]}, admin).status == 200
    assert desk.request("DELETE", f"/v1/webhooks/{made}", None, admin).status == 204


# ── What the plans must be like ─────────────────────────────────────────────────────────────────────────────

REPORT, AS_OF, FEED = "with asked as", "with present as", "from log cross join lateral"
READS_MORE = (
    Allowed(
        REPORT,
        {"queue_stays", "closings"},
        "a report is made of the rows of its window, and who was open at a moment is found among all that came before",
    ),
    Allowed(
        AS_OF,
        {"queue_stays"},
        "who was in a queue at a moment is found among all that came before it, or all that left since",
    ),
    Allowed(
        FEED,
        {"log", "events"},
        "a filter looks at 50,000 positions at most, and its page says where to go on",
    ),
)


def too_many(statement: Statement, read: Read) -> bool:
    """Whether more rows of a growing table are read than a page is worth, and nothing allows it."""
    allowed = (one.tables for one in READS_MORE if one.sql in " ".join(statement.sql.split()))
    return read.table not in FEW_ROWS and read.rows > MOST_ROWS and not any(read.table in tables for tables in allowed)


def end_to_end(statement: Statement, read: Read) -> bool:
    """Whether a growing table is read from end to end. A report without a beginning may: all of it is its window."""
    of_all = REPORT in statement.sql and statement.values[0] == "NULL"
    return read.table not in FEW_ROWS and read.how == "Seq Scan" and not of_all


def test_every_address_was_asked(plans: Plans) -> None:
    """What the other tests look at is everything that the API can be asked."""
    app = create_app(Settings(database_url="postgresql://nobody@127.0.0.1/nothing"))
    for route in falcon.inspect.inspect_routes(app):
        address = re.compile(re.sub(r"\{\w+(:uuid)?\}", "[^/:]+", route.path))
        for method in route.methods:
            if not method.internal and method.method != "HEAD":
                answers = {
                    status
                    for asked, path, status in plans.asked
                    if asked == method.method and address.fullmatch(urlsplit(path).path)
                }
                assert answers & {200, 201, 204}, f"nobody asked {method.method} {route.path}: add it to QUERIES"


def test_every_command_was_given(plans: Plans) -> None:
    """Each command was given, and was not refused."""
    given = {path.rpartition(":")[2] for method, path, status in plans.asked if method == "POST" and status == 200}
    assert given == {*COMMANDS, "claim_next", "retry", *WEBHOOK_COMMANDS}


def test_every_parameter_was_used(plans: Plans) -> None:
    """Each parameter that the reference names was part of a request that was answered."""
    used: dict[str, set[str]] = {}
    for method, path, status in plans.asked:
        if method == "GET" and status == 200:
            used.setdefault(urlsplit(path).path, set()).update(parse_qs(urlsplit(path).query))
    for addresses, names, _ in lines("http.md", "Address", "Parameter"):
        for address in spans(addresses):
            here = re.compile(re.sub(r"\{\w+\}", "[^/:]+", address))
            found = set[str]().union(*(names for path, names in used.items() if here.fullmatch(path)))
            assert set(spans(names)) <= found, f"add it to QUERIES: {address}"


def test_no_growing_table_is_read_from_end_to_end(plans: Plans) -> None:
    """No statement of the API has a sequential scan of a table that grows with the number of tickets."""
    bad = [(statement.name, read) for statement, read in plans.reads if end_to_end(statement, read)]
    assert bad == []


def test_no_statement_reads_more_than_a_page_is_worth(plans: Plans) -> None:
    """Also by an index, no statement looks at more rows than one page needs, but for what READS_MORE allows."""
    bad = [(statement.name, read) for statement, read in plans.reads if too_many(statement, read)]
    assert bad == []


def test_what_reads_more_is_still_there(plans: Plans) -> None:
    """Nothing is allowed that nobody needs."""
    for allowed in READS_MORE:
        for table in allowed.tables:
            assert any(
                allowed.sql in " ".join(statement.sql.split()) and read.table == table and read.rows > MOST_ROWS
                for statement, read in plans.reads
            ), (allowed, table)


def test_a_growing_table_is_known_for_one(plans: Plans) -> None:
    """Every table grows unless FEW_ROWS says otherwise, and what it names is there and small."""
    assert growing(plans.connection) >= {"events", "log", "ticket_summaries", "queue_stays", "closings", "idempotency"}
    for table in FEW_ROWS:
        assert (plans.connection.execute(f"select count(*) from {table}").fetchone() or (999,))[0] < 100, table


def test_a_missing_index_is_seen(plans: Plans) -> None:
    """Without the index, the statements that need it are refused: these tests can fail."""
    for index, parts in {
        "ticket_summaries_client": ("from ticket_summaries t where", '"client_user_id" ='),
        "ticket_summaries_created": ("from ticket_summaries t where", "created_at <"),
        "closure_mails_unsettled": ("from closure_mails where state = 'failed'",),
    }.items():
        needing = [one for one in plans.statements if all(part in " ".join(one.sql.split()) for part in parts)]
        with plans.connection.transaction(force_rollback=True):
            plans.connection.execute(f"drop index {index}")
            bad = [read for one in needing for read in explained(plans.connection, one) if refused(one, read)]
        assert bad, index


def refused(statement: Statement, read: Read) -> bool:
    """Whether either test would refuse it."""
    return end_to_end(statement, read) or too_many(statement, read)


def test_a_filter_of_the_feed_looks_at_so_many_positions_and_no_further(plans: Plans) -> None:
    """A page of what fits seldom may be empty; it says where to go on, and in the end everything has been found."""

    async def fetch(query: Any, parameters: Any) -> list[Any]:
        return plans.connection.execute(query, parameters).fetchall()

    wanted, after, found, empty = EventFilters(type="Ticket.ClientDeclined"), 0, [], 0
    while True:
        page = asyncio.run(feed_page(fetch, after, wanted, 50, most=2_000))
        assert page.after <= after + 2_000
        found += [item.event.position for item in page.items]
        empty += not page.items
        if not page.more:
            break
        after = page.after
    query = "select position from log join events using (ord) where type = 'Ticket.ClientDeclined' order by position"
    assert found == [row[0] for row in plans.connection.execute(query)]
    assert found
    assert empty
