"""A projection is built anew beside the old one, caught up, compared and swapped; readers notice nothing."""

import threading

import psycopg
import pytest
from test_projections import contents
from walk import Walk

from application.database import connect
from application.helpdesk import HelpDesk
from application.sealing import seal_all
from projections.projection import positions
from projections.rebuild import rebuild
from projections.runner import PROJECTIONS, ensure_projections, project_all


@pytest.fixture
def worked(desk: HelpDesk, connection: psycopg.Connection) -> Walk:
    """A desk with 400 random steps behind it."""
    walk = Walk(desk, seed=13)
    list(walk.steps(400))
    seal_all(connection)
    project_all(connection)
    return walk


@pytest.mark.parametrize("projection", PROJECTIONS, ids=lambda projection: projection.name)
def test_a_rebuilt_projection_equals_the_live_one(worked: Walk, connection: psycopg.Connection, projection) -> None:
    """The same fold over the same log: no row differs, and the position stays."""
    before = contents(connection), positions(connection)
    differences = rebuild(connection, projection)
    assert [(each.table, each.only_old, each.only_new) for each in differences if each.table != "queue_counts"] == [
        (table, 0, 0) for table in projection.tables if table != "queue_counts"
    ]
    assert sum(each.rows for each in differences) > 0
    assert (contents(connection), positions(connection)) == before


def test_what_was_wrong_is_said_and_mended(worked: Walk, connection: psycopg.Connection) -> None:
    """A row that somebody spoilt is counted as a difference, and right again afterwards."""
    before = contents(connection)
    spoilt = "update queue_stays set queue = 'noc' where ctid in (select ctid from queue_stays limit 3)"
    connection.execute(spoilt)
    differences = {each.table: each for each in rebuild(connection, PROJECTIONS[1])}
    assert (differences["queue_stays"].only_old, differences["queue_stays"].only_new) == (3, 3)
    assert contents(connection) == before


def test_readers_see_the_old_tables_until_the_swap(worked: Walk, database: str, connection: psycopg.Connection) -> None:
    """While a rebuild runs, a reader finds every row at any time, and writers and the runner go on."""
    expected = connection.execute("select count(*) from ticket_summaries").fetchone()[0]
    done, seen = threading.Event(), []

    def read() -> None:
        with connect(database, "reader") as reader:
            while not done.is_set():
                seen.append(reader.execute("select count(*) from ticket_summaries").fetchone()[0])

    def record() -> None:
        with connect(database, "runner") as runner:
            for _ in worked.steps(60):
                seal_all(runner)
                project_all(runner)

    readers = [threading.Thread(target=read), threading.Thread(target=record)]
    for each in readers:
        each.start()
    for _ in range(5):
        rebuild(connection, PROJECTIONS[0])
    readers[1].join()
    done.set()
    readers[0].join()
    assert len(seen) > 10
    assert min(seen) >= expected
    project_all(connection)
    live = contents(connection)
    rebuild(connection, PROJECTIONS[0])
    assert contents(connection) == live


def test_a_long_log_is_read_in_batches(worked: Walk, connection: psycopg.Connection) -> None:
    """The batches before the swap and the last one in it make the same rows; the progress rises to the end."""
    before, told = contents(connection), []
    rebuild(connection, PROJECTIONS[1], lambda done, total: told.append((done, total)), batch=50, near=20)
    assert contents(connection) == before
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert told[-1][1] - told[-1][0] <= 20


def test_a_rebuild_that_is_cut_off_leaves_nothing(worked: Walk, connection: psycopg.Connection) -> None:
    """A failure in the middle keeps the old tables, and the next rebuild begins anew."""
    before = contents(connection)

    class Cut(Exception):
        pass

    def cut(done: int, total: int) -> None:
        raise Cut

    with pytest.raises(Cut):
        rebuild(connection, PROJECTIONS[0], cut, near=20)
    assert contents(connection) == before
    schemas = connection.execute("select count(*) from pg_namespace where nspname like 'building%'").fetchone()[0]
    assert schemas == 0
    rebuild(connection, PROJECTIONS[0])
    assert contents(connection) == before


def test_a_new_version_of_a_projection_is_rebuilt_by_migrate(worked: Walk, connection: psycopg.Connection) -> None:
    """Tables of an older version than the code's are built anew when the schema is brought up to date."""
    before = contents(connection)
    connection.execute("update projections set version = 0 where name = 'closings'")
    connection.execute("update closings set level = 'noc'")
    assert ensure_projections(connection) == ["closings"]
    assert contents(connection) == before
    assert ensure_projections(connection) == []


def test_reports_read_the_new_tables(worked: Walk, connection: psycopg.Connection) -> None:
    """The reporting views follow the swap: they show rows that came after it."""
    for projection in PROJECTIONS:
        rebuild(connection, projection)
    count = "select count(*) from reporting.queue_stays"
    before = connection.execute(count).fetchone()[0]
    list(worked.steps(60))
    seal_all(connection)
    project_all(connection)
    assert connection.execute(count).fetchone()[0] > before > 0
