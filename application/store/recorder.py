"""The recorder on the eventsourcing library's contracts: it appends with `INSERT_EVENTS` and follows the sealed log."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from threading import Event as Flag
from typing import Any, LiteralString, NoReturn, Protocol
from uuid import UUID

import msgspec
import psycopg
from eventsourcing import persistence as library
from eventsourcing.persistence import ApplicationRecorder, Notification, StoredEvent, Subscription

from application.store.event_store import (
    INSERT_AND_KEEP,
    INSERT_EVENTS,
    LOAD,
    LOAD_AND_NUMBERS,
    LOAD_PART,
    LOAD_WHOLE,
    EventMapper,
    NotReadable,
    StoredRow,
    append_parameters,
    by_stream,
    to_recorded,
)
from application.store.idempotency_records import FIND_RECORD, INSERT_RECORD, IdempotencyRecord
from application.store.snapshots import FOLD
from domain.events import Recorded

SELECT: LiteralString = """
    select stream_id, version, type, body, at, meta, private, leaf from events
    where stream_id = %s and version > %s and version <= %s"""
NOTIFICATIONS: LiteralString = """
    select position, stream_id, version, type, body, at, meta, private, leaf from log join events using (ord)
    where position >= %s and position <= %s and (%s::text[] = '{}' or type = any(%s)) order by position limit %s"""
HIGHEST_POSITION = 2**62
RECORDER_PAGE_MAX = 500
RECORDER_POLL_SECONDS = 0.1


@dataclass(frozen=True)
class SealedRow(StoredRow, Notification):
    """An event with its position, `id`; the mapper reads it like any other row."""


class Connections(Protocol):
    """Where a recorder takes its connections from: a pool, or `OneTransaction`."""

    def connection(self) -> AbstractContextManager[psycopg.Connection[Any]]:
        """A connection for one statement; an append is committed when the block ends."""


class OneTransaction:
    """A connection in place of a pool: what is recorded becomes part of the transaction that is under way on it."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection

    @contextmanager
    def connection(self) -> Iterator[psycopg.Connection[Any]]:
        """The connection, behind a savepoint: an append that comes too late undoes itself, and not the transaction."""
        with self._connection.transaction():
            yield self._connection


class EventRecorder(ApplicationRecorder):
    """Inserts and selects events; a notification's id is the event's position in the sealed log."""

    def __init__(self, connections: Connections) -> None:
        self.connections = connections

    def insert_events(self, stored_events: Sequence[StoredEvent], **kwargs: Any) -> Sequence[int] | None:
        """Appends events, all or none, and the idempotency record `record` of their command where there is one.

        Returns None: positions are given later, by the sealer. Raises the library's IntegrityError when one of the
        versions exists already, or the key is known.
        """
        rows = [event if isinstance(event, StoredRow) else opaque_row(event) for event in stored_events]
        if rows:
            with self._connection() as connection:
                insert_rows(connection, rows, kwargs.get("record"))
        return None

    def keep_record(self, record: IdempotencyRecord) -> None:
        """Records the answer of a command that had nothing to change."""
        with self._connection() as connection:
            connection.execute(INSERT_RECORD, msgspec.structs.astuple(record))

    def find_record(self, principal: str, key: str) -> Sequence[Any] | None:
        """The idempotency record of a key, as a row of `FIND_RECORD`."""
        with self._connection() as connection:
            return connection.execute(FIND_RECORD, ([principal], [key])).fetchone()

    def select_events(
        self,
        originator_id: UUID | str,
        *,
        gt: int | None = None,
        lte: int | None = None,
        desc: bool = False,
        limit: int | None = None,
    ) -> Sequence[StoredEvent]:
        """The rows of one stream, by version."""
        order: LiteralString = " order by version desc" if desc else " order by version"
        after, through = -1 if gt is None else gt, 2**31 - 1 if lte is None else lte
        with self._connection() as connection:
            found = connection.execute(SELECT + order + " limit %s", (originator_id, after, through, limit)).fetchall()
        return [
            StoredRow(stream, version, type_, private or body, at, meta, private, leaf)
            for stream, version, type_, body, at, meta, private, leaf in found
        ]

    def load(self, stream_ids: Sequence[UUID]) -> dict[UUID, list[Recorded]]:
        """Several streams in one round trip, each from its last snapshot on."""
        try:
            with self._connection() as connection:
                return by_stream(connection.execute(LOAD, (list(stream_ids), FOLD)).fetchall())
        except NotReadable as error:
            if not error.is_snapshot:
                raise
        return self.load_whole(stream_ids)

    def load_whole(self, stream_ids: Sequence[UUID]) -> dict[UUID, list[Recorded]]:
        """Every event of several streams in one round trip."""
        with self._connection() as connection:
            return by_stream(connection.execute(LOAD_WHOLE, (list(stream_ids),)).fetchall())

    def load_part(self, stream_id: UUID, after: int, through: int) -> list[Recorded]:
        """The events of a stream after a version and up to another."""
        with self._connection() as connection:
            return [to_recorded(*row) for row in connection.execute(LOAD_PART, (stream_id, after, through)).fetchall()]

    def next_number(self) -> str:
        """A ticket number that nobody else gets."""
        with self._connection() as connection:
            return connection.execute(LOAD_AND_NUMBERS, ([], FOLD, 1)).fetchall()[0][6]  # type: ignore[no-any-return]

    def select_notifications(
        self,
        start: int | None,
        limit: int,
        stop: int | None = None,
        topics: Sequence[str] = (),
        *,
        inclusive_of_start: bool = True,
    ) -> Sequence[Notification]:
        """The sealed events from a position on, in the one order of all events."""
        first = (start or 0) + (0 if inclusive_of_start else 1)
        last = HIGHEST_POSITION if stop is None else stop
        with self._connection() as connection:
            found = connection.execute(NOTIFICATIONS, (first, last, list(topics), list(topics), limit)).fetchall()
        return [
            SealedRow(stream, version, type_, private or body, position, at, meta, private, leaf)
            for position, stream, version, type_, body, at, meta, private, leaf in found
        ]

    def max_notification_id(self) -> int | None:
        """The highest position; None while nothing is sealed."""
        with self._connection() as connection:
            row = connection.execute("select max(position) from log").fetchone()
        return row[0] if row else None

    def subscribe(self, gt: int | None = None, topics: Sequence[str] = ()) -> Subscription[ApplicationRecorder]:
        """Follows the log from a position on, by polling."""
        return LogSubscription(self, gt, topics)

    @contextmanager
    def _connection(self) -> Iterator[psycopg.Connection[Any]]:
        try:
            with self.connections.connection() as connection:
                yield connection
        except psycopg.Error as error:
            raise_in_its_terms(error)


class LogSubscription(Subscription[ApplicationRecorder]):
    """Yields the events after a position for as long as it is not stopped."""

    def __init__(self, recorder: ApplicationRecorder, gt: int | None, topics: Sequence[str]) -> None:
        super().__init__(recorder, gt, topics)
        self.recorder, self.position, self.topics = recorder, gt, topics
        self._page: Iterator[Notification] = iter(())
        self._stopped = Flag()

    def stop(self) -> None:
        """Ends the iteration."""
        super().stop()
        self._stopped.set()

    def __next__(self) -> Notification:
        while not self._stopped.is_set():
            if notification := next(self._page, None):
                self.position = notification.id
                return notification
            page = self.recorder.select_notifications(
                self.position, RECORDER_PAGE_MAX, topics=self.topics, inclusive_of_start=False
            )
            self._page = iter(page)
            if not page:
                self._stopped.wait(RECORDER_POLL_SECONDS)
        raise StopIteration


class Factory(library.InfrastructureFactory[library.TrackingRecorder]):
    """Builds the desk's mapper and recorder for the Application; connections are handed in, not configured."""

    connections: Connections

    def mapper(self, transcoder: Any = None, mapper_class: Any = None) -> Any:
        """The msgspec mapper."""
        return EventMapper(transcoder)

    def application_recorder(self) -> ApplicationRecorder:
        """The recorder on the events table."""
        return EventRecorder(self.connections)

    def aggregate_recorder(self, purpose: str = "events") -> library.AggregateRecorder:
        """The recorder on the events table; snapshots are read with the events (`application/store/snapshots.py`)."""
        return EventRecorder(self.connections)

    def tracking_recorder(self, tracking_recorder_class: Any = None) -> library.TrackingRecorder:
        """Not here: a projection's position lies with its rows (`projections/runner.py`)."""
        raise library.InfrastructureFactoryError("positions are kept by projections/runner.py")

    def process_recorder(self) -> library.ProcessRecorder:
        """Not here: a projection's position lies with its rows (`projections/runner.py`)."""
        raise library.InfrastructureFactoryError("positions are kept by projections/runner.py")


def raise_in_its_terms(error: Exception) -> NoReturn:
    """Raises the library's error for what PostgreSQL or the pool has said, and any other error as it is."""
    if isinstance(error, psycopg.errors.UniqueViolation):
        raise library.IntegrityError(error) from error
    if isinstance(error, psycopg.OperationalError):
        raise library.OperationalError(error) from error
    raise error


def insert_rows(
    connection: psycopg.Connection[Any], rows: Sequence[StoredRow], record: IdempotencyRecord | None = None
) -> None:
    """Appends events, all or none, with one statement; raises UniqueViolation when somebody else came first."""
    keys = [(rows[0].originator_id, record)] if record else []
    given, sql = append_parameters(rows, keys), INSERT_AND_KEEP if keys else INSERT_EVENTS
    if connection.execute(sql, given if keys else given[:1], prepare=True).rowcount != len(rows):
        raise psycopg.errors.UniqueViolation("not every event was inserted")


def opaque_row(event: StoredEvent) -> StoredRow:
    """A row for an event of somebody else's mapper: its state is bytes that the desk does not read."""
    return StoredRow(
        event.originator_id, event.originator_version, event.topic, b"{}", datetime.now(UTC), b"{}", event.state
    )
