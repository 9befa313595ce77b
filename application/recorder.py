"""The recorder on the eventsourcing library's contracts: it appends with `APPEND` and follows the sealed log."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from threading import Event as Flag
from typing import Any, LiteralString, NoReturn
from uuid import UUID

import msgspec
import psycopg
from eventsourcing import persistence as library
from eventsourcing.persistence import ApplicationRecorder, Notification, StoredEvent, Subscription
from psycopg_pool import ConnectionPool

from application.arrays import uuids
from application.event_store import (
    APPEND,
    LOAD,
    LOAD_AND_NUMBERS,
    EventMapper,
    Kept,
    StoredRow,
    append_parameters,
    by_stream,
)
from application.group_commit import GroupCommit
from application.repeating import FIND_KEPT, KEEP
from domain.events import Recorded

SELECT: LiteralString = """
    select stream_id, version, type, body, at, meta, private, leaf from events
    where stream_id = %s and version > %s and version <= %s"""
NOTIFICATIONS: LiteralString = """
    select position, stream_id, version, type, body, at, meta, private, leaf from log join events using (ord)
    where position >= %s and position <= %s and (%s::text[] = '{}' or type = any(%s)) order by position limit %s"""
HIGHEST = 2**62
POLL_SECONDS = 0.1


@dataclass(frozen=True)
class SealedRow(StoredRow, Notification):
    """An event with its position, `id`; the mapper reads it like any other row."""


class EventRecorder(ApplicationRecorder):
    """Inserts and selects events; a notification's id is the event's position in the sealed log."""

    def __init__(self, pool: ConnectionPool[psycopg.Connection[Any]]) -> None:
        self.pool = pool
        self._commits = GroupCommit(pool)

    def insert_events(self, stored_events: Sequence[StoredEvent], **kwargs: Any) -> Sequence[int] | None:
        """Appends events, all or none, and the idempotency record `kept` of their command where there is one.

        Returns None: positions are given later, by the sealer. Raises the library's IntegrityError when one of the
        versions exists already, or the key is known.
        """
        rows = [event if isinstance(event, StoredRow) else opaque_row(event) for event in stored_events]
        if rows and (wrong := self._commits.append(rows, kwargs.get("kept"))):
            raise_in_its_terms(wrong)
        return None

    def keep(self, kept: Kept) -> None:
        """Records the answer of a command that had nothing to change."""
        with self._connection() as connection:
            connection.execute(KEEP, msgspec.structs.astuple(kept))

    def find_kept(self, principal: str, key: str) -> Sequence[Any] | None:
        """The idempotency record of a key, as a row of `FIND_KEPT`."""
        with self._connection() as connection:
            return connection.execute(FIND_KEPT, ([principal], [key])).fetchone()

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
        """The events of several streams in one round trip."""
        with self._connection() as connection:
            return by_stream(connection.execute(LOAD, (list(stream_ids),)).fetchall())

    def next_number(self) -> str:
        """A ticket number that nobody else gets."""
        with self._connection() as connection:
            return connection.execute(LOAD_AND_NUMBERS, (uuids([]), 1)).fetchall()[0][6]  # type: ignore[no-any-return]

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
        last = HIGHEST if stop is None else stop
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
            with self.pool.connection() as connection:
                yield connection
        except psycopg.Error as error:
            raise_in_its_terms(error)


class LogSubscription(Subscription[ApplicationRecorder]):
    """Yields the events after a position for as long as it is not stopped."""

    def __init__(self, recorder: ApplicationRecorder, gt: int | None, topics: Sequence[str]) -> None:
        super().__init__(recorder, gt, topics)
        self._page: list[Notification] = []
        self._stopped = Flag()

    def stop(self) -> None:
        """Ends the iteration."""
        super().stop()
        self._stopped.set()

    def __next__(self) -> Notification:
        while not self._stopped.is_set():
            if self._page:
                notification = self._page.pop(0)
                self._last_notification_id = notification.id
                return notification
            self._page = list(
                self._recorder.select_notifications(
                    self._last_notification_id, 500, topics=self._topics, inclusive_of_start=False
                )
            )
            if not self._page:
                self._stopped.wait(POLL_SECONDS)
        raise StopIteration


class Factory(library.InfrastructureFactory[library.TrackingRecorder]):
    """Builds the desk's mapper and recorder for the library's Application; the pool is handed in, not configured."""

    pool: ConnectionPool[psycopg.Connection[Any]]

    def mapper(self, transcoder: Any = None, mapper_class: Any = None) -> Any:
        """The msgspec mapper."""
        return EventMapper(transcoder)

    def application_recorder(self) -> ApplicationRecorder:
        """The recorder on the events table."""
        return EventRecorder(self.pool)

    def aggregate_recorder(self, purpose: str = "events") -> library.AggregateRecorder:
        """The recorder on the events table; there are no snapshots, a ticket has tens of events."""
        return EventRecorder(self.pool)

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


def insert_rows(connection: psycopg.Connection[Any], rows: Sequence[StoredRow]) -> None:
    """Appends events inside the caller's transaction; raises UniqueViolation when somebody else came first."""
    first: dict[UUID | str, int] = {}
    heads = [
        row for row in rows if first.setdefault(row.originator_id, row.originator_version) == row.originator_version
    ]
    won = connection.execute(APPEND, append_parameters(rows)).fetchall()
    if len(won) < len(heads):
        raise psycopg.errors.UniqueViolation("another event has this version of the stream")


def opaque_row(event: StoredEvent) -> StoredRow:
    """A row for an event of somebody else's mapper: its state is bytes that the desk does not read."""
    return StoredRow(
        event.originator_id, event.originator_version, event.topic, b"{}", datetime.now(UTC), b"{}", event.state
    )
