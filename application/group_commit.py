"""Group commit for threads: who appends while another append is under way shares the next statement and its commit.

Who comes when nobody appends is the leader, and sends its rows at once. Who comes meanwhile waits. When the leader has
its answer, the first of those who wait leads, with the rows of all who have come by the time that it runs.
"""

import select
from collections.abc import Sequence
from contextlib import suppress
from itertools import count
from threading import Lock
from typing import Any, LiteralString
from weakref import WeakKeyDictionary

import psycopg
from psycopg.errors import error_from_result
from psycopg.pq import ExecStatus, Format
from psycopg.pq.abc import PGconn, PGresult
from psycopg_pool import ConnectionPool

from application.event_store import INSERT, INSERT_AND_KEEP, Kept, StoredRow, insert_parameters
from application.line import CANCEL_SECONDS, PATIENCE_SECONDS, numbered

BROKEN_OFF = psycopg.OperationalError("the thread that sent it was interrupted: it is recorded whole or not at all")
_numbers = count()


class Wanted:
    """What one thread wants recorded, and what came of it. Its thread sleeps on `turn`, which is taken until then."""

    __slots__ = ("error", "kept", "leads", "rows", "turn")

    def __init__(self, rows: Sequence[StoredRow], kept: Kept | None) -> None:
        self.rows, self.kept, self.leads, self.turn = rows, kept, False, Lock()
        self.error: Exception | None = BROKEN_OFF
        self.turn.acquire()


class GroupCommit:
    """Appends what threads want recorded, each time with one connection of the pool and one statement for all."""

    def __init__(self, pool: ConnectionPool[psycopg.Connection[Any]]) -> None:
        self._pool = pool
        self._mutex = Lock()
        self._waiting: list[Wanted] = []
        self._led = False
        self._prepared: WeakKeyDictionary[psycopg.Connection[Any], dict[str, bytes]] = WeakKeyDictionary()

    def append(self, rows: Sequence[StoredRow], kept: Kept | None = None) -> Exception | None:
        """Appends the events of one command, all or none, and its idempotency record; waits until it is committed.

        Returns what was wrong with it, of psycopg or of its rows; None when it is recorded.
        """
        own = Wanted(rows, kept)
        try:
            self._join(own)
            if not own.leads:
                own.turn.acquire()
            if own.leads:
                self._lead(own)
        except BaseException:  # interrupted: nobody must wait for who has gone
            self._leave(own)
            raise
        return own.error

    def _join(self, own: Wanted) -> None:
        with self._mutex:
            self._waiting.append(own)
            if not self._led:
                self._led = own.leads = True

    def _lead(self, own: Wanted) -> None:
        batch: list[Wanted] = []
        try:
            with self._mutex:
                batch, self._waiting = self._waiting, []
            self._commit(batch)
        finally:
            try:
                self._leave(own)  # first, so that the next statement is on its way while the others wake up
            finally:
                for one in batch:
                    one.turn.release()

    def _leave(self, own: Wanted) -> None:
        """Wants nothing any more; who led makes the first of those who wait the next leader."""
        with self._mutex:
            self._waiting = [one for one in self._waiting if one is not own]
            if own.leads:
                own.leads, self._led = False, bool(self._waiting)
                for one in self._waiting[:1]:
                    one.leads = True
                    one.turn.release()

    def _commit(self, batch: list[Wanted]) -> None:
        try:
            connection = self._pool.getconn()
        except psycopg.OperationalError as error:  # nothing is sent
            for one in batch:
                one.error = error
            return
        try:
            self._send(connection, batch)
        finally:
            self._pool.putconn(connection)

    def _send(self, connection: psycopg.Connection[Any], batch: list[Wanted]) -> None:
        error: Exception | None = None
        try:
            self._insert(connection, batch)
        except Exception as wrong:  # noqa: BLE001 - it belongs to whoever wanted it
            if len(batch) > 1:
                for one in batch:  # one bad command harms only itself; on a connection that broke, nothing can be sent
                    self._send(connection, [one])
                return
            error = wrong
        for one in batch:
            one.error = error

    def _insert(self, connection: psycopg.Connection[Any], batch: list[Wanted]) -> None:
        rows = [row for one in batch for row in one.rows]
        kept = [(one.rows[0].originator_id, one.kept) for one in batch if one.kept]
        parameters = insert_parameters(rows, kept)
        sql = INSERT_AND_KEEP if kept else INSERT
        try:
            done = self._run(connection, sql, parameters)
        except psycopg.errors.InvalidSqlStatementName:  # somebody has deallocated all there was: nothing ran
            self._prepared.pop(connection, None)
            done = self._run(connection, sql, parameters)
        if done.command_tuples != len(rows):
            raise psycopg.errors.UniqueViolation("not every event was inserted")

    def _run(self, connection: psycopg.Connection[Any], sql: LiteralString, parameters: Sequence[bytes]) -> PGresult:
        name = self._prepare(connection, sql)
        connection.pgconn.send_query_prepared(name, parameters, [Format.BINARY] * len(parameters))
        return _answer(connection)

    def _prepare(self, connection: psycopg.Connection[Any], sql: LiteralString) -> bytes:
        """The name of a statement, which is prepared once for each connection."""
        known = self._prepared.setdefault(connection, {})
        name = known.get(sql)
        if name is None:
            name = f"append_{next(_numbers)}".encode()  # others may share the connection
            connection.pgconn.send_prepare(name, numbered(sql).encode())
            _answer(connection)
            known[sql] = name
        return name


def _answer(connection: psycopg.Connection[Any]) -> PGresult:
    """Sends what is to be sent, and waits for the answer. Raises what it says is wrong.

    The wait is one call without the interpreter lock, where `Connection.wait` takes it several times and slows down all
    the threads that are about to join.
    """
    try:
        results = _results(connection.pgconn)
    except psycopg.Error:
        raise
    except BaseException as error:  # an answer that nobody waits for must not be taken for the next one's
        with suppress(psycopg.Error):
            connection.cancel_safe(timeout=CANCEL_SECONDS)
        connection.close()
        if isinstance(error, TimeoutError):
            raise psycopg.OperationalError(str(error)) from None
        raise
    for result in results:
        if result.status != ExecStatus.COMMAND_OK:
            raise error_from_result(result)
    return results[0]


def _results(pgconn: PGconn) -> list[PGresult]:
    line, results = select.poll(), list[PGresult]()
    line.register(pgconn.socket, select.POLLIN | select.POLLOUT)
    while pgconn.flush():  # more than the socket takes at once
        _wait(line)
        pgconn.consume_input()
    line.modify(pgconn.socket, select.POLLIN)
    while True:
        while pgconn.is_busy():
            _wait(line)
            pgconn.consume_input()
        result = pgconn.get_result()
        if result is None:
            return results
        results.append(result)


def _wait(line: select.poll) -> None:
    if not line.poll(PATIENCE_SECONDS * 1000):
        raise TimeoutError(f"no answer within {PATIENCE_SECONDS:g} s: it is recorded whole or not at all")
