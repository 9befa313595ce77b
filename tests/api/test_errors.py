"""What an error says: what to do about it, and never a traceback, whatever lies in the store."""

from pathlib import Path
from uuid import UUID

import pytest
from psycopg.sql import SQL, Identifier

from application.store.event_store import NotReadable, StoredRow, to_recorded
from application.store.postgres.database import connect
from domain.client import client_stream
from domain.errors import StaleVersion
from domain.values import Role
from tests.support.api_requests import client_key, problem, request, version
from tests.support.running_desk import RunningDesk, wait_until
from tests.support.write_side import NOW, append

FUTURE = "Ticket.FromTheFuture"
TICKET = UUID(int=1)


@pytest.mark.parametrize(
    ("type_", "body", "meta"),
    [
        (FUTURE, b"{}", b'{"actor": {"id": "a", "name": "a", "role": "agent"}}'),
        ("Ticket.Escalated", b"{}", b'{"actor": {"id": "a", "name": "a", "role": "agent"}}'),
        ("Ticket.Created", b'{"number": "T-1"}', b"{}"),
        ("Ticket.Created", b'{"number": "T-\xff"}', b'{"actor": {"id": "a", "name": "a", "role": "agent"}}'),
    ],
)
def test_an_event_that_cannot_be_read_is_named(type_: str, body: bytes, meta: bytes) -> None:
    """A type that nobody knows, a body or meta that does not fit, no UTF-8: NotReadable, with stream, version, type."""
    with pytest.raises(NotReadable) as raised:
        to_recorded(TICKET, 7, NOW, type_, body, meta)
    assert (raised.value.stream_id, raised.value.version, raised.value.type) == (TICKET, 7, type_)


def test_a_version_ahead_of_the_ticket_is_said_to_be_so() -> None:
    """Whoever names a version that is not there yet is told where the ticket is, and not that it has moved on."""
    assert StaleVersion(TICKET, 3, 9).detail == "There is no such version yet: the present one is 3."
    assert StaleVersion(TICKET, 9, 3).detail == StaleVersion(TICKET).detail == StaleVersion.__doc__


def test_a_ticket_with_an_unreadable_event_is_a_problem_and_no_other_is(module_desk: RunningDesk) -> None:
    """Ticket, history and commands of that ticket: 503 that names the event; other tickets go on, also in one batch."""
    broken, sound = request(module_desk), request(module_desk)
    with connect(module_desk.database, "test future") as connection:
        append(connection, [StoredRow(UUID(broken), 2, FUTURE, b"{}", NOW)])
    replies = [
        module_desk.get(f"/v1/tickets/{broken}"),
        module_desk.get(f"/v1/tickets/{broken}?version=1"),
        module_desk.get(f"/v1/tickets/{broken}/history"),
        module_desk.request("POST", f"/v1/tickets/{broken}:add_note", {"text": "a note"}),
        module_desk.request("POST", f"/v1/tickets/{broken}:create", {}, headers={"If-Match": '"1"'}),
    ]
    for reply in replies:
        assert f"Event 2 of this ticket or client, {FUTURE}," in problem(reply, 503, "unreadable_event")["detail"]
        assert reply.headers["Retry-After"] == "60"
    assert version(module_desk, sound) == 1
    assert module_desk.do(sound, "add_note", text="a note").status == 200
    log = module_desk.directory / "api.log"
    wait_until(lambda: log.read_text().count(FUTURE) >= len(replies), "the log names the event")
    assert "Traceback" not in log.read_text()


def test_a_word_that_does_not_fit_is_answered_with_those_that_do(module_desk: RunningDesk) -> None:
    """Bodies, their inner objects and parameters: the error lists the values of the enum."""
    body = {"channel": "fax", "text": "no network", "sender": {}}
    said = problem(module_desk.request("POST", "/v1/requests", body), 422)["errors"]
    assert said == [{"pointer": "/channel", "detail": "it takes one of email, phone, web, walk_in, api"}]
    issue = {"summary": "s", "description": "d", "category": "c", "impact": "huge", "urgency": "low"}
    opening = {"client_user_id": "c", "channel": "api", "text": "t", "issue": issue}
    said = problem(module_desk.request("POST", "/v1/tickets", opening), 422)["errors"]
    assert said == [{"pointer": "/issue/impact", "detail": "it takes one of low, medium, high"}]
    said = problem(module_desk.get("/v1/tickets?level=tier9"), 400)["errors"]
    assert said == [{"pointer": "/level", "detail": "it takes one of tier1, tier2, tier3, onsite, it_manager, noc"}]


def test_what_is_given_twice_or_is_not_there_is_said_plainly(module_desk: RunningDesk) -> None:
    """A parameter that comes twice, a version that is not there, a method that nobody knows: in words of the desk."""
    ticket = request(module_desk)
    twice = problem(module_desk.get("/v1/tickets?limit=1&limit=2"), 400, "invalid_parameter")
    assert twice["errors"][0]["pointer"] == "/limit"
    assert "given twice" in twice["detail"]
    ahead = module_desk.do(ticket, "cancel", version=9, reason="not needed")
    assert problem(ahead, 412)["detail"] == "There is no such version yet: the present one is 1."
    there = problem(module_desk.get(f"/v1/tickets/{ticket}?version=9"), 404, "unknown_version")
    assert there["detail"] == "There is no such version: the ticket is at 1."
    assert "OPTIONS" in problem(module_desk.request("FOO", "/v1/queues"), 400)["detail"]


def test_a_client_is_told_no_more_of_an_unreadable_ticket(module_desk: RunningDesk) -> None:
    """A client whose ticket has such an event gets the same problem; nothing of the event but its name is shown."""
    key = client_key(module_desk, "client-9")
    ticket = request(module_desk)
    with connect(module_desk.database, "test future") as connection:
        append(connection, [StoredRow(UUID(ticket), 2, FUTURE, b'{"secret": "internal"}', NOW)])
    reply = module_desk.get(f"/v1/tickets/{ticket}", key)
    problem(reply, 503, "unreadable_event")
    assert b"internal" not in reply.data


def test_a_client_is_not_told_of_another_clients_unreadable_entry(module_desk: RunningDesk) -> None:
    """Whose entry it is, is asked before it is loaded: there or not, readable or not, it is 404."""
    key = client_key(module_desk, "client-9")
    with connect(module_desk.database, "test future") as connection:
        append(connection, [StoredRow(client_stream("client-unreadable"), 1, FUTURE, b"{}", NOW)])
    problem(module_desk.get("/v1/clients/client-unreadable"), 503, "unreadable_event")
    problem(module_desk.get("/v1/clients/client-unreadable", key), 404, "unknown_user_id")


def test_a_database_that_takes_no_writes_is_unavailable(database: str, tmp_path: Path) -> None:
    """A standby, after its primary was lost: 503, read on, and try again. Nothing of it is our mistake."""
    with RunningDesk(database, tmp_path, workers=1, parts=("api",)) as served:
        ticket, admin = request(served), served.key(Role.ADMIN, Role.INTAKE)
        with connect(database, "test") as connection:
            name = connection.info.dbname
            connection.execute(SQL("alter database {} set default_transaction_read_only = on").format(Identifier(name)))
            others = "select pg_terminate_backend(pid, 60000) from pg_stat_activity where datname = %s and pid <> %s"
            connection.execute(others, (name, connection.info.backend_pid))
        posts = [
            ("/v1/requests", {"channel": "api", "text": "t", "sender": {}}),
            ("/v1/webhooks", {"url": "http://127.0.0.1:9000/in"}),
        ]
        for path, body in posts:
            problem(served.request("POST", path, body, admin), 503, "database_unavailable")
        assert served.get(f"/v1/tickets/{ticket}").status == 200
