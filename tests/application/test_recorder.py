"""The recorder against the eventsourcing library's own test cases, and what the desk's log promises beyond them."""

import inspect
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import astuple
from threading import Event as Flag
from typing import Any
from unittest import TestCase
from uuid import UUID, uuid4

import psycopg
import pytest
from eventsourcing import persistence as library
from eventsourcing.persistence import StoredEvent
from eventsourcing.tests import persistence as cases
from eventsourcing.utils import Environment
from psycopg_pool import ConnectionPool

from application.helpdesk import HelpDesk
from application.store.event_store import HIGHEST_VERSION, LOAD_AND_NUMBERS, StoredRow
from application.store.idempotency_records import FIND_RECORD, IdempotencyRecord
from application.store.postgres import database as databases
from application.store.postgres.database import connect
from application.store.postgres.embedded_postgres import EmbeddedPostgres
from application.store.recorder import EventRecorder, Factory
from application.store.sealing import seal, seal_all
from application.store.snapshots import FOLD
from tests.support.running_desk import ROOT, free_port, wait_until
from tests.support.write_side import NOW, append, beside, history, make_schema, opened, rows, wait_for_locks

Pool = ConnectionPool[psycopg.Connection[Any]]
NO_POSITIONS = "positions of followers lie with the rows of the follower (projections/runner.py), not in a recorder"
NO_TRANSCODER = "events are msgspec structs: there is no transcoder to register types with"
NO_CIPHER = "one key for the whole application cannot be destroyed for one client, so the mapper takes no cipher"
RUN = {
    "AggregateRecorderTestCase.test_insert_and_select",
    "AggregateRecorderTestCase.test_performance",
    "ApplicationRecorderTestCase.test_insert_select",
    "ApplicationRecorderTestCase.test_performance",
    "ApplicationRecorderTestCase.test_concurrent_no_conflicts",
    "ApplicationRecorderTestCase.test_concurrent_throughput",
    "ApplicationRecorderTestCase.optional_test_insert_subscribe",
    "InfrastructureFactoryTestCase.test_mapper",
    "InfrastructureFactoryTestCase.test_create_aggregate_recorder",
    "InfrastructureFactoryTestCase.test_create_application_recorder",
}
NOT_APPLICABLE = {
    "NonInterleavingNotificationIDsBaseCase.test": "it demands that writers wait for each other; what it "
    "guards against, a reader that misses an event, is tested below without that demand",
    "InfrastructureFactoryTestCase.test_mapper_with_compressor": "PostgreSQL compresses what is long by itself",
    "InfrastructureFactoryTestCase.test_mapper_with_cipher": NO_CIPHER,
    "InfrastructureFactoryTestCase.test_mapper_with_cipher_and_compressor": NO_CIPHER,
    "InfrastructureFactoryTestCase.test_mapper_with_wrong_cipher_key": NO_CIPHER,
    "InfrastructureFactoryTestCase.test_create_tracking_recorder": NO_POSITIONS,
    "InfrastructureFactoryTestCase.test_create_process_recorder": NO_POSITIONS,
    "TrackingRecorderTestCase.test_insert_tracking": NO_POSITIONS,
    "TrackingRecorderTestCase.test_wait": NO_POSITIONS,
    "ProcessRecorderTestCase.test_insert_select": NO_POSITIONS,
    "ProcessRecorderTestCase.test_has_tracking_id": NO_POSITIONS,
    "ProcessRecorderTestCase.test_raises_when_lower_inserted_later": NO_POSITIONS,
    "ProcessRecorderTestCase.test_performance": NO_POSITIONS,
    "TranscoderTestCase.test_str": NO_TRANSCODER,
    "TranscoderTestCase.test_dict": NO_TRANSCODER,
    "TranscoderTestCase.test_dict_with_len_2_and__data_": NO_TRANSCODER,
    "TranscoderTestCase.test_dict_with_len_2_and__type_": NO_TRANSCODER,
    "TranscoderTestCase.test_dict_subclass": NO_TRANSCODER,
    "TranscoderTestCase.test_list_subclass": NO_TRANSCODER,
    "TranscoderTestCase.test_str_subclass": NO_TRANSCODER,
    "TranscoderTestCase.test_int_subclass": NO_TRANSCODER,
    "TranscoderTestCase.test_tuple": NO_TRANSCODER,
    "TranscoderTestCase.test_list": NO_TRANSCODER,
    "TranscoderTestCase.test_mixed": NO_TRANSCODER,
    "TranscoderTestCase.test_custom_type_in_dict": NO_TRANSCODER,
    "TranscoderTestCase.test_nested_custom_type": NO_TRANSCODER,
    "TranscoderTestCase.test_custom_type_error": NO_TRANSCODER,
}


class PlainRecorder(EventRecorder):
    """Gives plain stored events, which the library's cases compare by class."""

    def select_events(self, originator_id: UUID | str, **wanted: Any) -> Sequence[StoredEvent]:
        """The rows without what the desk's rows have beside the library's fields."""
        return [StoredEvent(*astuple(row)[:4]) for row in super().select_events(originator_id, **wanted)]


class SealingRecorder(PlainRecorder):
    """Seals at once, as the worker does a moment later, and tells the positions, which the library's cases want."""

    def insert_events(self, stored_events: Sequence[StoredEvent], **kwargs: Any) -> Sequence[int] | None:
        """Appends, seals, and returns the positions."""
        super().insert_events(stored_events)
        streams = [event.originator_id for event in stored_events]
        with self.connections.connection() as connection:
            seal_all(connection)
            query = "select position, stream_id, version from log join events using (ord) where stream_id = any(%s)"
            found = {(stream, version): position for position, stream, version in connection.execute(query, (streams,))}
        return [found[event.originator_id, event.originator_version] for event in stored_events]


class AggregateCase(cases.AggregateRecorderTestCase):
    """The library's case on the desk's recorder."""

    __test__ = False
    pool: Pool

    def create_recorder(self) -> EventRecorder:
        """The recorder under test."""
        return PlainRecorder(self.pool)


class ApplicationCase(cases.ApplicationRecorderTestCase[EventRecorder]):
    """The library's case on the desk's recorder."""

    __test__ = False
    pool: Pool

    def create_recorder(self) -> EventRecorder:
        """The recorder under test."""
        return SealingRecorder(self.pool)


class FactoryCase(cases.InfrastructureFactoryTestCase[Factory]):
    """The library's case on the desk's factory."""

    __test__ = False
    pool: Pool

    def setUp(self) -> None:
        """The factory as the library finds it, with the pool that the desk hands in."""
        self.env = Environment("desk", {"PERSISTENCE_MODULE": "application.store.recorder:Factory"})
        super().setUp()
        self.factory.connections = self.pool

    def expected_factory_class(self) -> type[Factory]:
        """What the topic leads to."""
        return Factory

    def expected_aggregate_recorder_class(self) -> type[EventRecorder]:
        """One recorder for both contracts."""
        return EventRecorder

    expected_application_recorder_class = expected_aggregate_recorder_class
    expected_tracking_recorder_class = tracking_recorder_subclass = expected_process_recorder_class = None


OURS = {case.__mro__[1].__name__: case for case in (AggregateCase, ApplicationCase, FactoryCase)}


@pytest.fixture
def connections(database: str) -> Iterator[Pool]:
    """A pool on the test's database."""
    with databases.pool(database, "test recorder", size=12) as opened_pool:
        yield opened_pool


@pytest.fixture
def recorder(connections: Pool) -> EventRecorder:
    """The recorder as the desk uses it."""
    return EventRecorder(connections)


@pytest.fixture
def rival(database: str) -> Iterator[psycopg.Connection]:
    """A connection with an open transaction, to stand in somebody's way."""
    with closing(connect(database, "test rival")) as opened_rival:
        opened_rival.execute("begin")
        yield opened_rival


@pytest.mark.parametrize("name", sorted(RUN))
def test_the_librarys_own_case(name: str, connections: Pool, capsys: pytest.CaptureFixture[str]) -> None:
    """The recorder keeps the library's contract, as the library's own test cases check it."""
    case_name, method = name.split(".")
    case = OURS[case_name](method)
    case.pool = connections
    case.setUp()
    getattr(case, method)()
    case.tearDown()


def test_every_case_of_the_library_is_run_or_has_its_reason() -> None:
    """Nothing is left out silently: each test method of the library's module is run, or listed with why not."""
    found = {
        f"{name}.{method}"
        for name, case in inspect.getmembers(cases, inspect.isclass)
        if issubclass(case, TestCase) and case.__module__ == cases.__name__
        for method in vars(case)
        if method.startswith(("test", "optional_test"))
    }
    assert found == RUN | set(NOT_APPLICABLE)
    assert RUN.isdisjoint(NOT_APPLICABLE)


def not_applicable() -> str:
    """The cases that do not apply, by their reason, as the table of the page."""
    reasons = dict.fromkeys(NOT_APPLICABLE.values())
    lines = [
        f"| {', '.join(f'`{name}`' for name, why in NOT_APPLICABLE.items() if why == reason)} | {reason} |"
        for reason in reasons
    ]
    return "\n".join(["| Case of the library | Why it does not apply |", "| --- | --- |", *lines]) + "\n"


def test_the_page_says_what_runs_and_what_does_not() -> None:
    """The documentation counts the library's cases, and gives the reason of each that is not run."""
    page = (ROOT / "docs" / "explanation" / "what-each-test-guards.md").read_text()
    assert not_applicable() in page
    found = len(RUN), len(RUN) + len(NOT_APPLICABLE), len(NOT_APPLICABLE)
    assert "{} of its {} cases run and pass, and {} do not apply.".format(*found) in page


def test_a_reader_misses_nothing_while_two_writers_race(recorder: EventRecorder, database: str) -> None:
    """A follower that remembers only the last position it saw gets every event once, in the order of each stream."""
    streams, done, seen = [uuid4(), uuid4()], Flag(), []

    def write(stream: UUID) -> None:
        for first in range(1, 500, 5):
            recorder.insert_events(rows(stream, first, 5))

    def keep_sealing() -> None:
        with connect(database, "test sealer") as sealer:
            while not done.is_set():
                seal_all(sealer)

    with beside(keep_sealing, *(lambda stream=stream: write(stream) for stream in streams)):
        try:
            with recorder.subscribe(gt=0) as subscription:
                seen = [next(subscription) for _ in range(1_000)]
        finally:
            done.set()
    assert [notification.id for notification in seen] == list(range(1, 1_001))
    for stream in streams:
        versions = [one.originator_version for one in seen if one.originator_id == stream]
        assert versions == list(range(1, 501))


def test_a_notification_is_read_by_the_mapper(desk: HelpDesk, connection: psycopg.Connection) -> None:
    """What a follower of the library gets is the whole event: who, when, what, and what led to it."""
    ticket = opened(desk)
    seal_all(connection)
    notifications = desk.recorder.select_notifications(None, 100)
    events = [desk.mapper.to_domain_event(one) for one in notifications if one.originator_id == ticket]
    assert events == desk.history(ticket) == list(desk.events.get(ticket))
    assert len(events) == 5


def test_one_stream_may_not_have_a_version_twice_in_one_insert(recorder: EventRecorder) -> None:
    """Two events that claim the same version are refused together, whichever version it is."""
    stream = uuid4()
    for twice in ([*rows(stream), *rows(stream)], [*rows(stream, 1, 2), *rows(stream, 2)]):
        with pytest.raises(library.IntegrityError):
            recorder.insert_events(twice)
    assert recorder.select_events(stream) == []


def test_events_of_several_streams_are_inserted_together_or_not(recorder: EventRecorder) -> None:
    """One conflict refuses the whole insert, on every stream."""
    known, other = uuid4(), uuid4()
    recorder.insert_events([*rows(known), *rows(other)])
    with pytest.raises(library.IntegrityError):
        recorder.insert_events([*rows(other, 2), *rows(known)])
    assert [len(recorder.select_events(stream)) for stream in (known, other)] == [1, 1]


def test_versions_of_a_stream_draw_their_numbers_in_order(
    recorder: EventRecorder, connection: psycopg.Connection
) -> None:
    """Whatever order the events of an insert are given in, the versions of a stream rise with their numbers."""
    first, second = uuid4(), uuid4()
    recorder.insert_events([*rows(first, 3, 2), *rows(second), *rows(first, 1, 2)])
    assert [history(connection, stream) for stream in (first, second)] == [[1, 2, 3, 4], [1]]


KEPT = IdempotencyRecord("key_1", "k", b"hash", b"answer")


def test_a_known_key_records_nothing(recorder: EventRecorder, connection: psycopg.Connection) -> None:
    """A key stands beside the events of one command: with a known one nothing is recorded, and with events that come
    too late no key is."""
    first, second = uuid4(), uuid4()
    recorder.insert_events(rows(first, 1, 2), record=KEPT)
    with pytest.raises(library.IntegrityError):
        recorder.insert_events(rows(second), record=KEPT)
    with pytest.raises(library.IntegrityError):
        recorder.insert_events(rows(first, 2, 2), record=IdempotencyRecord("key_1", "late", b"hash", b"answer"))
    assert [history(connection, stream) for stream in (first, second)] == [[1, 2], []]
    assert recorder.fetch(FIND_RECORD, ("key_1", "k")) == [(b"hash", b"answer")]
    assert recorder.fetch(FIND_RECORD, ("key_1", "late")) == []


def test_inserts_in_opposite_order_do_not_deadlock(
    recorder: EventRecorder, connection: psycopg.Connection, rival: psycopg.Connection
) -> None:
    """Whatever order the streams of two inserts are given in, they are written in one order: one of them waits."""
    a, b, c = (UUID(int=n) for n in (1, 2, 3))
    append(rival, rows(b))
    upwards = [*rows(a, 1, 2), *rows(b, 1, 2), *rows(c, 1, 2)]
    downwards = [*rows(c, 1, 3), *rows(b, 1, 3), *rows(a, 1, 3)]
    with beside(*(lambda given=given: recorder.insert_events(given) for given in (upwards, downwards))) as inserted:
        wait_for_locks(connection, 2)
        rival.execute("rollback")
    assert {type(one.exception()) for one in inserted} == {type(None), library.IntegrityError}
    assert len({len(history(connection, stream)) for stream in (a, b, c)}) == 1


@pytest.mark.parametrize("kept", [None, KEPT], ids=["events", "events and key"])
def test_an_insert_has_its_xid_before_its_number(
    recorder: EventRecorder, connection: psycopg.Connection, rival: psycopg.Connection, kept: IdempotencyRecord | None
) -> None:
    """Who stands still between its number and its row is older than the fence: its number is not given up."""
    held = uuid4()
    connection.execute(
        f"""create function stand_still() returns trigger language plpgsql as
        $$ begin if new.stream_id = '{held}' then perform pg_advisory_xact_lock(1); end if; return new; end $$;
        create trigger between_number_and_row before insert on events for each row execute function stand_still()"""
    )
    rival.execute("select pg_advisory_xact_lock(1)")
    append(connection, rows(uuid4()))  # the first number of 32 is written ahead, which gives its writer an ID anyway
    with beside(lambda: recorder.insert_events(rows(held), record=kept)) as inserted:
        wait_for_locks(connection, 1)
        append(connection, rows(uuid4()))
        assert [seal(connection) for _ in range(3)] == [2, 0, 0]
        rival.execute("rollback")
    assert inserted[0].exception() is None
    assert seal(connection) == 1


def interrupted(work: Callable[[], object], meanwhile: Callable[[], object]) -> None:
    """Runs work in the main thread, which is interrupted when `meanwhile`, in another one, has come to its end."""

    def interrupt() -> None:
        try:
            meanwhile()
        finally:
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a run in the background ignores it
    try:
        with beside(interrupt) as done, pytest.raises(KeyboardInterrupt):
            work()
    finally:
        signal.signal(signal.SIGINT, before)
    done[0].result()


def test_who_is_interrupted_has_recorded_nothing(
    recorder: EventRecorder, connection: psycopg.Connection, rival: psycopg.Connection
) -> None:
    """Ctrl-C while an insert waits stops it on the server too, and the recorder can be used again."""
    stream = uuid4()
    append(rival, rows(stream))
    interrupted(lambda: recorder.insert_events(rows(stream)), lambda: wait_for_locks(connection, 1))
    rival.execute("rollback")
    assert history(connection, stream) == []
    recorder.insert_events(rows(stream))
    assert history(connection, stream) == [1]


def test_a_backend_that_is_killed_is_the_librarys_operational_error(own_postgres: EmbeddedPostgres) -> None:
    """Its connection ends without a word, in the middle of a statement; inserts work again when PostgreSQL does."""
    url, stream = own_postgres.url, uuid4()
    with connect(url, "test") as connection, databases.pool(url, "test recorder", size=4) as pool:
        make_schema(connection)
        recorder = EventRecorder(pool)
        recorder.insert_events(rows(uuid4()))
        with closing(connect(url, "test rival")) as rival:
            rival.execute("begin")
            append(rival, rows(stream))
            with beside(lambda: recorder.insert_events(rows(stream))) as cut:
                wait_for_locks(connection, 1)
                query = "select pid from pg_stat_activity where wait_event_type = 'Lock'"
                os.kill(connection.execute(query).fetchall()[0][0], signal.SIGKILL)
        assert isinstance(cut[0].exception(), library.OperationalError)

        def again() -> bool:
            with suppress(library.OperationalError):
                return recorder.insert_events(rows(stream)) is None
            return False

        wait_until(again, "PostgreSQL has recovered")


def test_what_is_recorded_in_a_transaction_stands_or_falls_with_it(
    recorder: EventRecorder, connection: psycopg.Connection
) -> None:
    """A conflict undoes the insert that has it, and what was done in the transaction before and after it stands."""
    taken, own = uuid4(), uuid4()
    recorder.insert_events(rows(taken))
    inside = EventRecorder(connection)
    with connection.transaction() as transaction:
        inside.insert_events(rows(own))
        with pytest.raises(library.IntegrityError):
            inside.insert_events([*rows(own, 2), *rows(taken)])
        inside.insert_events(rows(own, 2))
        assert recorder.select_events(own) == []
        assert len(inside.select_events(own)) == 2
    assert len(recorder.select_events(own)) == 2
    with connection.transaction() as transaction:
        inside.insert_events(rows(own, 3))
        raise psycopg.Rollback(transaction)
    assert len(recorder.select_events(own)) == 2


def test_what_the_table_cannot_hold_is_postgresqls_own_error(recorder: EventRecorder) -> None:
    """It is no conflict and no failure of the database: nobody should try it again."""
    with pytest.raises(psycopg.DataError):
        recorder.insert_events([StoredRow(uuid4(), 1, "Ticket.Test", b"{not JSON", NOW)])


def test_ticket_numbers_go_on_after_a_million(recorder: EventRecorder, connection: psycopg.Connection) -> None:
    """Numbers have six digits, and more when there are more tickets."""
    wanted = ([], FOLD, HIGHEST_VERSION, HIGHEST_VERSION, 2)
    assert [row[6] for row in recorder.fetch(LOAD_AND_NUMBERS, wanted)] == ["T-000001", "T-000002"]
    connection.execute("select setval('ticket_numbers', 999999)")
    assert [row[6] for row in recorder.fetch(LOAD_AND_NUMBERS, wanted)] == ["T-1000000", "T-1000001"]


def test_a_broken_connection_is_the_librarys_operational_error(
    recorder: EventRecorder, connections: Pool, connection: psycopg.Connection
) -> None:
    """Who speaks the library's contract gets the library's error, and the next call works again."""
    recorder.max_notification_id()
    connection.execute(
        "select pg_terminate_backend(pid, 60000) from pg_stat_activity"
        " where application_name = 'deskledger test recorder'"
    )
    with pytest.raises(library.OperationalError):
        recorder.max_notification_id()
    connections.check()
    append(connection, rows(uuid4()))
    seal_all(connection)
    assert recorder.max_notification_id() == 1


def test_no_connection_in_time_is_the_librarys_operational_error() -> None:
    """A pool that has no connection to give is reported like a broken one."""
    nowhere = f"postgresql://deskledger@127.0.0.1:{free_port()}/deskledger"
    empty = ConnectionPool(nowhere, min_size=0, max_size=1, open=True, timeout=0.1)
    with empty, pytest.raises(library.OperationalError):
        EventRecorder(empty).max_notification_id()


def test_a_stopped_subscription_ends_while_it_waits(recorder: EventRecorder) -> None:
    """A follower that waits for the next event ends when it is stopped."""
    with recorder.subscribe() as subscription, beside(lambda: list(subscription)) as followed:
        subscription.stop()
    assert followed[0].result() == []


def test_positions_are_not_kept_by_the_library(connections: Pool) -> None:
    """The library's tracking and process recorders are refused, with where positions are kept instead."""
    factory = Factory(Environment("desk"))
    for refused in (factory.tracking_recorder, factory.process_recorder):
        with pytest.raises(library.InfrastructureFactoryError, match=r"projections/runner\.py"):
            refused()
