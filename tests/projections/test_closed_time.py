"""A time is over when no event of it can come any more: proven by who holds the lock, and by nothing else."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from application.clock import utc_now
from application.helpdesk import HelpDesk
from application.store.event_store import INSERT_EVENTS, append_parameters, to_row
from application.store.postgres import embedded_postgres as postgres
from application.store.postgres.database import connect, migrate
from application.store.read_pool import Readers
from application.store.sealing import seal_all
from domain.events import NoteAdded, Recorded
from domain.values import Actor, Role, Visibility
from projections.runner import PROJECTIONS, ensure_projections, project_all
from projections.status.closed_time import CLOSED_TIME_POLL_SECONDS, LATEST, ClosedTime, is_future
from projections.status.freshness import LOG
from tests.support.read_models import Asked
from tests.support.write_side import NOW, own_postgres

NAMES = [LOG, *(projection.name for projection in PROJECTIONS)]
BY = Actor("rival", "Rival", Role.AGENT)


@asynccontextmanager
async def closed_time(url: str) -> AsyncIterator[ClosedTime]:
    """What the API asks, on connections of its own."""
    readers = Readers(url)
    await readers.open()
    try:
        yield ClosedTime(readers.fetch)
    finally:
        await readers.close()


def passed(url: str, moment: datetime, seconds: float = 0.3) -> bool:
    """Whether that moment is over for a process that asks for the first time."""

    async def ask() -> bool:
        async with closed_time(url) as closed:
            return await closed.passed(moment, NAMES, seconds)

    return asyncio.run(ask())


def write(connection: psycopg.Connection) -> None:
    """One event of now."""
    row = to_row(Recorded(uuid4(), 1, utc_now(), BY, NoteAdded("x", Visibility.INTERNAL)))
    connection.execute(INSERT_EVENTS, append_parameters([row])[:1])


@contextmanager
def writing(url: str) -> Iterator[psycopg.Connection]:
    """A transaction that has written an event, and is open."""
    with connect(url, "writer") as writer:
        writer.autocommit = False
        write(writer)
        yield writer
        writer.rollback()


def test_a_time_is_over_when_the_desk_stands_still(strict_database: str, connection: psycopg.Connection) -> None:
    """Without a worker and without any event: nothing can come, so everything of before is known. Not the present."""
    assert passed(strict_database, utc_now() - LATEST - timedelta(seconds=0.5))
    assert passed(strict_database, datetime(1, 1, 1, tzinfo=UTC))
    assert not passed(strict_database, utc_now() - LATEST + timedelta(seconds=1))


def test_the_present_is_over_in_two_seconds(strict_database: str) -> None:
    """Whoever asks for this very moment waits for it."""
    moment = utc_now()
    assert passed(strict_database, moment, seconds=30)
    assert utc_now() - moment >= LATEST


def test_an_open_writer_holds_up_the_time_behind_its_beginning(strict_database: str) -> None:
    """Nobody knows what it has written until it ends: committed, its events are there; rolled back, there are none."""
    with connect(strict_database, "worker") as worker:
        for end in ("commit", "rollback"):
            with writing(strict_database) as writer:
                assert not passed(strict_database, utc_now(), seconds=3.5)
                writer.execute(end)
                seal_all(worker)
                project_all(worker)
                assert passed(strict_database, utc_now(), seconds=30)
                assert worker.execute("select count(*) from events").fetchone() == (1,)


def test_what_is_not_sealed_is_not_over(strict_database: str) -> None:
    """A worker that is away holds up what was written, and then the projections; also what was committed late."""
    with connect(strict_database, "worker") as worker, writing(strict_database) as late:
        write(worker)
        seal_all(worker)  # there is a hole now
        moment = utc_now()
        late.commit()
        assert not passed(strict_database, moment, seconds=2.5)
        seal_all(worker)
        assert not passed(strict_database, moment)
        project_all(worker)
        assert passed(strict_database, moment)


def test_a_reader_of_long_holds_up_nothing(strict_database: str, empty_database: str) -> None:
    """Nor does a transaction that writes elsewhere, in this database or in another one."""
    moment = utc_now() - 2 * LATEST
    with (
        connect(strict_database, "reader") as reader,
        psycopg.connect(make_conninfo(strict_database, dbname="postgres")) as other,
    ):
        reader.autocommit = False
        reader.execute("select count(*) from events")
        reader.execute("create table of_somebody_else (x int)")
        other.execute("create temporary table of_another_database (x int)")
        other.execute("select pg_current_xact_id()")
        assert passed(strict_database, moment)
        reader.rollback()
        other.rollback()


def test_nothing_is_over_while_the_past_is_imported(strict_database: str) -> None:
    """And everything is again afterwards, however the import ends."""
    with connect(strict_database, "worker") as worker:
        with HelpDesk.connect(strict_database, importing=True) as desk:
            desk.recorder.fetch("select 1")
            assert not passed(strict_database, NOW)
        assert passed(strict_database, NOW, seconds=30)
        assert worker.execute("select count(*) from events").fetchone() == (0,)


def test_a_prepared_transaction_is_a_writer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prepared after it was listed, it holds its lock under another name."""
    monkeypatch.setitem(postgres.POSTGRES_SETTINGS, "max_prepared_transactions", "1")
    with own_postgres() as server, connect(server.url, "worker") as worker:
        migrate(worker)
        ensure_projections(worker)

        async def ask() -> list[bool]:
            async with closed_time(server.url) as closed:
                with writing(server.url) as writer:
                    moment = utc_now()
                    found = [await closed.passed(moment, NAMES, 2.5)]
                    writer.execute("prepare transaction 'late'")
                    found.append(await closed.passed(moment, NAMES, 0.5))
                    worker.execute("commit prepared 'late'")
                    seal_all(worker)
                    project_all(worker)
                    return [*found, await closed.passed(moment, NAMES, 30)]

        assert asyncio.run(ask()) == [False, False, True]


def test_all_who_wait_share_one_look(strict_database: str) -> None:
    """However many wait, the database is asked once in each interval; while nobody waits, it is asked nothing."""
    with connect(strict_database, "test") as connection:
        asked = Asked(connection)

        async def ask() -> tuple[list[bool], int]:
            closed, moment = ClosedTime(asked.fetch), utc_now() - LATEST
            told = await asyncio.gather(*(closed.passed(moment, ["nothing of that name"], 0.5) for _ in range(50)))
            before = asked.times
            await asyncio.sleep(5 * CLOSED_TIME_POLL_SECONDS)
            return told, asked.times - before

        assert asyncio.run(ask())[1] == 0
        assert 2 <= asked.times <= 0.5 / CLOSED_TIME_POLL_SECONDS + 2


def test_a_database_that_is_away_has_nothing_to_say(strict_database: str) -> None:
    """It is asked until the time is over."""
    assert not passed(make_conninfo(strict_database, port="1"), utc_now() - 2 * LATEST)


def test_what_lies_ahead_of_every_clock_is_the_future() -> None:
    """A caller's clock may be ahead as much as a host's."""
    assert not is_future(utc_now() + LATEST / 2)
    assert is_future(utc_now() + 2 * LATEST)
    assert is_future(datetime.max.replace(tzinfo=UTC))
