"""A command comes again while the first one is still under way, as after the death of the process that was at it."""

from uuid import uuid4

import psycopg
import pytest

from application.commands.idempotency import IdempotencyRequest, StoredAnswer
from application.commands.procedure_commands import ReceiveRequest, RequestSender
from application.helpdesk import HelpDesk
from application.store.idempotency_records import IdempotencyRecord
from application.store.postgres.database import connect, pool
from domain.values import Channel
from tests.support.running_desk import wait_until
from tests.support.write_side import BatchingShell, Shell, append, beside, notes, request, wait_for_locks

COMMAND = ReceiveRequest(Channel.API, "no network", RequestSender())


@pytest.mark.parametrize("kind", ["synchronous", "combining"])
def test_who_comes_while_the_first_is_under_way_gets_its_answer(
    database: str, connection: psycopg.Connection, kind: str
) -> None:
    """The second command waits for the first one, records nothing, and has the first answer."""
    with connect(database, "first") as first, pool(database, "second", size=2) as connections:
        shell: Shell = HelpDesk(connections) if kind == "synchronous" else BatchingShell(database)
        stream, kept = uuid4(), IdempotencyRecord("desk-1", "k", b"same", b"first answer")
        first.execute("begin")
        append(first, notes(stream, 1), [(stream, kept)])
        again = IdempotencyRequest("desk-1", "k", b"same", lambda outcome: b"second answer")
        with beside(lambda: shell.execute(request(uuid4(), COMMAND), again)) as second:
            wait_for_locks(connection, 1)
            first.execute("commit")
            wait_until(second[0].done, "the second command is answered")
        shell.close()
    assert second[0].result() == StoredAnswer(b"first answer")
    assert connection.execute("select stream_id from events").fetchall() == [(stream,)]
