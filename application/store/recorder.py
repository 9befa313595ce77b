"""The recorder on the eventsourcing library's contracts: it appends with `INSERT_EVENTS` and follows the sealed log."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from threading import Event as Flag
from typing import Any, LiteralString
from uuid import UUID

import psycopg
from eventsourcing import persistence as library
from eventsourcing.persistence import ApplicationRecorder, Notification, StoredEvent, Subscription
from psycopg_pool import ConnectionPool

from application.store.event_store import INSERT_AND_KEEP, INSERT_EVENTS, EventMapper, StoredRow, append_parameters
from application.store.idempotency_records import IdempotencyRecord

# The columns in the order of the fields of `StoredRow` and `SealedRow`.
SELECT: LiteralString = """
    select stream_id, version, type, coalesce(private, convert_to(body::text, 'UTF8')), at, meta, private, leaf
    from events where stream_id = %s and version > coalesce(%s, -1) and version <= coalesce(%s, 2147483647)"""
NOTIFICATIONS: LiteralString = """
    select stream_id, version, type, coalesce(private, convert_to(body::text, 'UTF8')), position,
        at, meta, private, leaf from log join events using (ord)
    where position >= %s and position <= coalesce(%s, 9223372036854775807)
        and (%s::text[] = '{}' or type = any(%s)) order by position limit %s"""
RECORDER_PAGE_MAX = 500
RECORDER_POLL_SECONDS = 0.1


@dataclass(frozen=True)
class SealedRow(StoredRow, Notification):
    """An event with its position, `id`; the mapper reads it like any other row."""


# A pool; or one connection, where what is recorded is to be part of the transaction that is under way on it.
Connections = ConnectionPool[psycopg.Connection[Any]] | psycopg.Connection[Any]


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
        record: IdempotencyRecord | None = kwargs.get("record")
        keys = [(row.originator_id, record) for row in rows[:1] if record]
        given, sql = append_parameters(rows, keys), INSERT_AND_KEEP if keys else INSERT_EVENTS
        with self._connection() as connection:
            inserted = connection.execute(sql, given if keys else given[:1], prepare=True).rowcount
            if inserted != len(rows):
                raise psycopg.errors.UniqueViolation("not every event was inserted")
        return None

    def fetch(self, sql: LiteralString, parameters: Sequence[Any] = ()) -> list[Any]:
        """The rows of one statement."""
        with self._connection() as connection:
            cursor = connection.execute(sql, parameters)
            return cursor.fetchall() if cursor.description else []

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
        found = self.fetch(SELECT + order + " limit %s", (originator_id, gt, lte, limit))
        return [StoredRow(*row) for row in found]

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
        found = self.fetch(NOTIFICATIONS, (first, stop, list(topics), list(topics), limit))
        return [SealedRow(*row) for row in found]

    def max_notification_id(self) -> int | None:
        """The highest position; None while nothing is sealed."""
        position: int | None = self.fetch("select max(position) from log")[0][0]
        return position

    def subscribe(self, gt: int | None = None, topics: Sequence[str] = ()) -> Subscription[ApplicationRecorder]:
        """Follows the log from a position on, by polling."""
        return LogSubscription(self, gt, topics)

    @contextmanager
    def _connection(self) -> Iterator[psycopg.Connection[Any]]:
        try:
            if isinstance(self.connections, ConnectionPool):
                with self.connections.connection() as connection:
                    yield connection
            else:  # behind a savepoint: an append that comes too late undoes itself, and not the transaction
                with self.connections.transaction():
                    yield self.connections
        except psycopg.errors.UniqueViolation as error:
            raise library.IntegrityError(error) from error
        except psycopg.OperationalError as error:
            raise library.OperationalError(error) from error


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


def opaque_row(event: StoredEvent) -> StoredRow:
    """A row for an event of somebody else's mapper: its state is bytes that the desk does not read."""
    return StoredRow(
        event.originator_id, event.originator_version, event.topic, b"{}", datetime.now(UTC), b"{}", event.state
    )
