"""The same request again under its idempotency key: done once, answered twice with the same bytes, in both shells."""

import asyncio
from collections.abc import Callable, Iterator
from threading import Barrier
from uuid import UUID

import psycopg
import pytest

from application.batching_desk import BatchingDesk
from application.commands import procedure_commands as p
from application.commands import supporting_commands as s
from application.commands.deciding import Outcome, new_stream_id
from application.commands.idempotency import IdempotencyRequest, KeyReused, StoredAnswer
from application.helpdesk import HelpDesk
from application.store.postgres.database import pool
from domain.errors import Forbidden, StaleVersion, UnknownTicket
from domain.values import Principal, Role
from tests.support.running_desk import RunningDesk
from tests.support.write_side import NOW, OPEN, BatchingShell, Shell, beside, history, opened, request

NOTE = s.AddNote("looked at it")


@pytest.fixture(params=["synchronous", "combining"])
def shell(request: pytest.FixtureRequest, database: str) -> Iterator[Shell]:
    """Either shell."""
    if request.param == "combining":
        combining = BatchingShell(database)
        yield combining
        combining.close()
    else:
        with pool(database, "test desk", size=4) as connections, HelpDesk(connections) as desk:
            yield desk


def version(outcome: Outcome) -> bytes:
    """What the commands of these tests are answered."""
    return f"version {outcome.ticket.version}".encode()


def once(
    key: str = "k", request_hash: bytes = b"r", answer: Callable[[Outcome], bytes] = version
) -> IdempotencyRequest:
    """A key of the one caller."""
    return IdempotencyRequest("desk-1", key, request_hash, answer)


def repeated(shell: Shell, *given: object) -> bytes:
    """What a command that comes again is answered."""
    before = shell.execute(*given)  # type: ignore[arg-type]
    assert isinstance(before, StoredAnswer)
    return before.body


def test_a_repetition_records_nothing_and_has_the_first_answer(shell: Shell, connection: psycopg.Connection) -> None:
    """A note without a version could be added again at any time: under its key it is not."""
    ticket_id = opened(shell)
    first = shell.execute(request(ticket_id, NOTE), once())
    shell.execute(request(ticket_id, NOTE))
    assert repeated(shell, request(ticket_id, NOTE), once()) == version(first)
    assert history(connection, ticket_id) == list(range(1, 8))


def test_a_repetition_comes_before_the_version(shell: Shell) -> None:
    """The version has moved on by the command itself; its repetition succeeds all the same, another key's does not."""
    ticket_id = opened(shell)
    first = shell.execute(request(ticket_id, NOTE, expected_version=5), once())
    assert repeated(shell, request(ticket_id, NOTE, expected_version=5), once()) == version(first)
    with pytest.raises(StaleVersion):
        shell.execute(request(ticket_id, NOTE, expected_version=5), once("other"))


def test_an_opening_is_done_once(shell: Shell, connection: psycopg.Connection) -> None:
    """The repetition of a new ticket has an ID of its own, and yet there is one ticket."""
    opened(shell)
    first = shell.execute(request(new_stream_id(NOW), OPEN), once(answer=lambda made: made.ticket.ticket_id.bytes))
    answer = repeated(shell, request(new_stream_id(NOW), OPEN), once(answer=lambda made: made.ticket.ticket_id.bytes))
    assert UUID(bytes=answer) == first.ticket.ticket_id
    assert connection.execute("select count(distinct stream_id) from events").fetchone() == (3,)  # and the client


def test_a_key_is_for_one_request(shell: Shell, connection: psycopg.Connection) -> None:
    """Another request under a known key is refused, whatever its decision would be, and nothing is recorded."""
    ticket_id = opened(shell)
    shell.execute(request(ticket_id, NOTE), once())
    for expected in (None, 1):
        with pytest.raises(KeyReused):
            shell.execute(request(ticket_id, s.AddNote("another"), expected_version=expected), once("k", b"other"))
    assert history(connection, ticket_id) == list(range(1, 7))


def test_a_repetition_is_answered_only_to_who_may_still_read(shell: Shell, connection: psycopg.Connection) -> None:
    """Under the same key: the staff hears the first answer also in another role; who is nobody of the desk any more, or
    whose ticket it is not any more, hears a refusal, and nothing is recorded."""
    ticket_id = opened(shell)
    resolve = p.ResolveTicket("new toner")
    first = shell.execute(request(ticket_id, resolve), once())
    auditor, reporter, stranger = (
        Principal("desk-1", "Desk One", frozenset({role}), client_user_id="client-2" if role is Role.CLIENT else None)
        for role in (Role.AUDITOR, Role.REPORTER, Role.CLIENT)
    )
    assert repeated(shell, request(ticket_id, resolve, auditor), once()) == version(first)
    with pytest.raises(Forbidden):
        shell.execute(request(ticket_id, resolve, reporter), once())
    with pytest.raises(UnknownTicket):
        shell.execute(request(ticket_id, resolve, stranger), once())
    with pytest.raises(Forbidden):
        shell.execute(request(new_stream_id(NOW), OPEN, reporter), once())
    assert history(connection, ticket_id) == list(range(1, 7))


def test_what_was_already_so_is_answered_the_same_again(shell: Shell) -> None:
    """A command that records no event keeps its answer too; one that says that nothing is to be kept does not."""
    ticket_id = opened(shell)
    assign = s.AssignTicket("desk-1")
    shell.execute(request(ticket_id, assign))
    assert shell.execute(request(ticket_id, assign), once()).events == ()
    shell.execute(request(ticket_id, NOTE))
    assert repeated(shell, request(ticket_id, assign), once()) == b"version 6"
    for _ in range(2):
        assert shell.execute(request(ticket_id, assign), once("empty", answer=lambda _: b"")).events == ()


def test_a_refusal_is_not_kept(shell: Shell) -> None:
    """What was refused is decided anew when it comes again, for the ticket may have moved on."""
    ticket_id = opened(shell)
    for _ in range(2):
        with pytest.raises(StaleVersion):
            shell.execute(request(ticket_id, NOTE, expected_version=4), once())
    assert shell.execute(request(ticket_id, NOTE, expected_version=5), once()).events


def test_the_same_key_twice_in_one_batch(database: str, connection: psycopg.Connection) -> None:
    """Two new tickets under one key go out together: the batch clashes, and one by one the second has the answer."""

    async def ask() -> list[object]:
        desk = BatchingDesk(database)
        try:
            asked = [desk.execute(request(new_stream_id(NOW), OPEN), once()) for _ in range(2)]
            others = [desk.execute(request(new_stream_id(NOW), OPEN), once(f"k{n}")) for n in range(4)]
            return await asyncio.gather(*asked, *others, return_exceptions=True)
        finally:
            await desk.close()

    shell = BatchingShell(database)
    opened(shell)
    shell.close()
    kinds = [type(answer).__name__ for answer in asyncio.run(ask())]
    assert sorted(kinds) == ["Outcome"] * 5 + ["StoredAnswer"]
    assert connection.execute("select count(distinct stream_id) from events").fetchone() == (7,)  # and the client


def test_the_same_key_at_the_same_time(database: str, connection: psycopg.Connection) -> None:
    """Two processes get the same request at once, ten times: one does it, and the other gives the same answer."""
    shells = [BatchingShell(database) for _ in range(2)]
    ticket_id, start = opened(shells[0]), Barrier(2)

    def ask(shell: BatchingShell, key: str) -> bytes:
        start.wait(20)
        result = shell.execute(request(ticket_id, NOTE), once(key))
        return result.body if isinstance(result, StoredAnswer) else version(result)

    for turn in range(10):
        with beside(*(lambda shell=shell, key=f"k{turn}": ask(shell, key) for shell in shells)) as asked:
            pass
        assert {one.result() for one in asked} == {f"version {6 + turn}".encode()}
    for shell in shells:
        shell.close()
    assert history(connection, ticket_id) == list(range(1, 16))


def keyed(served: RunningDesk, path: str, body: object, key: str, **headers: str) -> tuple[int, bytes, str | None]:
    """A POST under an idempotency key: status, body, and whether it says that it was done before."""
    reply = served.request("POST", path, body, headers={"Idempotency-Key": key, **headers})
    return reply.status, reply.data, reply.headers.get("Idempotency-Replayed")


def test_a_retry_over_http(served: RunningDesk) -> None:
    """The first answer byte for byte, with status, address and version, and a header that says so."""
    ticket_id = served.ticket()
    path, current = f"/v1/tickets/{ticket_id}:assign", {"If-Match": '"5"'}
    served.person("anna")
    first = keyed(served, path, {"assignee": "anna"}, "a key", **current)
    assert first[::2] == (200, None)
    assert served.do(ticket_id, "release").status == 200
    assert keyed(served, path, {"assignee": "anna"}, '"a key"', **current) == (*first[:2], "true")
    assert keyed(served, path, {"assignee": "bert"}, "a key", **current)[0] == 422
    body = {"channel": "phone", "text": "it is silent", "sender": {"name": "A caller"}}
    made, again = (served.request("POST", "/v1/requests", body, headers={"Idempotency-Key": "new"}) for _ in range(2))
    assert (made.status, made.data, made.headers["Location"]) == (again.status, again.data, again.headers["Location"])
    assert again.version == made.version == 1


def test_a_retry_of_claim_next(served: RunningDesk) -> None:
    """Who asks again for the next ticket gets the same one, also when it was the last one of the queue."""
    served.ticket()
    served.ticket()
    served.caught_up()
    path = "/v1/queues/tier1:claim_next"
    mine = keyed(served, path, {}, "mine")
    assert keyed(served, path, {}, "mine") == (200, mine[1], "true")
    last = keyed(served, path, {}, "last")
    assert last[1] != mine[1]
    served.caught_up()
    assert keyed(served, path, {}, "last") == (200, last[1], "true")
    assert keyed(served, path, {}, "late")[0] == 204


@pytest.mark.parametrize("key", ["", '""', "x" * 256, "ä"])
def test_a_malformed_key_is_refused(shared_desk: RunningDesk, key: str) -> None:
    """It says what a key is, and nothing is done."""
    headers = {"Idempotency-Key": key.encode("latin-1").decode("latin-1")}
    body = {"channel": "phone", "text": "it is silent", "sender": {"name": "A caller"}}
    reply = shared_desk.request("POST", "/v1/requests", body, headers=headers)
    assert (reply.status, reply.json["code"]) == (400, "bad_idempotency_key")
