"""Sealers that wait for one another: one that was overtaken must not judge by what it saw before it waited."""

from uuid import uuid4

import psycopg

from application.store.postgres.database import connect
from application.store.sealing import seal, seal_all
from tests.support.write_side import append, beside, rows, sealed, wait_for_locks

PASS_OF_ANOTHER = """
    with sealed as (insert into log (position, ord) select row_number() over (order by ord), ord from events)
    update seal_state set next_position = 3, hi = 3, holes = '{[2,3)}', pass_xid = pg_current_xact_id()"""


def test_an_overtaken_sealer_draws_no_fence(database: str, connection: psycopg.Connection) -> None:
    """A pass that had its transaction ID and then waited: the ID is no fence for the numbers drawn meanwhile."""
    late = uuid4()
    append(connection, rows(uuid4()))
    other, overtaken, writer = (connect(database, name) for name in ("another sealer", "overtaken", "writer"))
    with other, overtaken, writer:
        other.execute("begin")
        other.execute("select from seal_state for update")
        with beside(lambda: seal(overtaken)):
            wait_for_locks(connection, 1)
            writer.execute("begin")
            append(writer, rows(late))
            append(connection, rows(uuid4()))
            other.execute(PASS_OF_ANOTHER)
            other.execute("commit")
        for _ in range(5):
            seal_all(connection)
        writer.execute("commit")
    seal_all(connection)
    assert [stream for _, stream, _ in sealed(connection)][2:] == [late]
