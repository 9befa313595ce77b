"""Old idempotency keys are forgotten: none too early, few at a time, by an index, and beside commands."""

import psycopg
import pytest

from api.worker.worker_loop import Worker
from application.commands.idempotency_pruning import DELETE_OLD_KEYS, prune_idempotency_keys
from application.settings import Settings
from application.store.postgres.database import connect
from tests.support.query_plans import reads
from tests.support.running_desk import wait_until
from tests.support.write_side import beside

INSERT = """insert into idempotency (principal, key, request_hash, answer, at)
    select 'p', age || '-' || n, 'h', 'a', now() - make_interval(mins => age) from unnest(%s::int[]) age,
    generate_series(1, %s) n"""
LEFT = "select key from idempotency order by at, key"


def aged(connection: psycopg.Connection, *minutes: int, each: int = 1) -> None:
    """Keys of so many minutes."""
    connection.execute(INSERT, (list(minutes), each))


def left(connection: psycopg.Connection) -> list[str]:
    """The keys that are there, oldest first."""
    return [key for (key,) in connection.execute(LEFT)]


def test_a_key_lives_for_its_hours(connection: psycopg.Connection) -> None:
    """What is older goes, what is younger stays, by a minute."""
    aged(connection, 24 * 60 + 1, 24 * 60 - 1, 0)
    assert prune_idempotency_keys(connection, 24) == 1
    assert left(connection) == ["1439-1", "0-1"]
    assert prune_idempotency_keys(connection, 24) == 0


def test_keys_go_a_few_at_a_time_and_the_oldest_first(connection: psycopg.Connection) -> None:
    """A batch has a size, so that no statement takes long, however many there are."""
    aged(connection, 5000, 4000, 3000, each=10)
    assert prune_idempotency_keys(connection, 24, batch=10) == 10
    assert {key.partition("-")[0] for key in left(connection)} == {"4000", "3000"}
    assert [prune_idempotency_keys(connection, 24, batch=15) for _ in range(3)] == [15, 5, 0]


def test_two_workers_prune_side_by_side(connection: psycopg.Connection, database: str) -> None:
    """What one of them is deleting, the other one leaves to it and does not wait for."""
    aged(connection, 5000, each=30)
    with connect(database, "test other") as other, other.transaction():
        assert prune_idempotency_keys(other, 24, batch=10) == 10
        connection.execute("set statement_timeout = '3s'")
        assert prune_idempotency_keys(connection, 24, batch=30) == 20
    assert left(connection) == []


def test_pruning_keeps_no_command_waiting(connection: psycopg.Connection, database: str) -> None:
    """While old keys are being deleted, others are recorded and looked for."""
    aged(connection, 5000, each=30)
    with connect(database, "test other") as other, other.transaction():
        assert prune_idempotency_keys(other, 24) == 30
        connection.execute("set statement_timeout = '3s'")
        aged(connection, 0)
        assert connection.execute("select count(*) from idempotency where key = '5000-1'").fetchone() == (1,)


def test_old_keys_are_found_by_an_index(connection: psycopg.Connection) -> None:
    """Looking for old keys costs the same however many young ones there are."""
    aged(connection, *range(20), each=1_000)
    aged(connection, 5000, each=100)
    connection.execute("vacuum analyze idempotency")
    query = DELETE_OLD_KEYS.replace("%s", "24", 1).replace("%s", "1000", 1)
    with connection.transaction(force_rollback=True):
        found = [(read.table, read.how) for read in reads(connection, query) if read.rows > 100]
    assert found == []
    with connection.transaction(force_rollback=True):
        connection.execute("drop index idempotency_by_age")
        assert any(read.how == "Seq Scan" for read in reads(connection, query))


@pytest.mark.parametrize(("hours", "stays"), [(24, 0), (48, 2_500)])
def test_the_worker_prunes(database: str, hours: int, stays: int) -> None:
    """By its setting, a batch after the other; it begins at once, and rests when nothing is left to forget."""
    worker = Worker(Settings(database_url=database, idempotency_hours=hours))
    with connect(database, "test") as connection:
        aged(connection, 30 * 60, each=2_500)
        aged(connection, 49 * 60)
        with beside(worker.run):
            try:
                wait_until(lambda: len(left(connection)) == stays, "the worker has pruned")
            finally:
                worker.stop()
