"""One connection for the API's short statements, without what a cursor does around each of them.

It speaks to libpq through `psycopg.pq`: a statement is prepared once, parameters are JSON or an array, and the event
loop watches the socket for as long as the connection lives. psycopg's cursor takes 42 µs of CPU for a round trip, this
takes 18, and a command makes two of them (docs/decisions/0036).
"""

import asyncio
import re
import select
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, LiteralString

import psycopg
from psycopg.adapt import PyFormat, Transformer
from psycopg.errors import error_from_result
from psycopg.pq import DiagnosticField, ExecStatus, Format
from psycopg.pq.abc import PGconn, PGresult

from application.store.postgres.database import connection_settings

CONNECTION_PATIENCE_SECONDS = 15.0
CANCEL_SECONDS = 2.0
Parameter = str | list[Any]  # as text, for whatever type the statement wants; or an array, as psycopg packs it


class Unavailable(Exception):
    """The database does not answer; what was sent is recorded whole or not at all."""


class PgConnection:
    """One connection, opened when it is needed and opened anew after it broke. One statement at a time."""

    def __init__(self, url: str, name: str) -> None:
        self._url, self._name = url, name
        self._connection: psycopg.AsyncConnection[Any] | None = None
        self._turn = asyncio.Lock()
        self._socket = -1
        self._prepared: dict[str, bytes] = {}
        self._values: Any = None  # turns Python's values into PostgreSQL's and back
        self._hangup = select.poll()
        self._result: Any = None
        self._answer: asyncio.Future[PGresult] | None = None

    async def read(self, sql: LiteralString, parameters: Sequence[Parameter] = ()) -> list[Any]:
        """The rows of a statement that changes nothing: tried once more when the connection was found broken.

        Raises Unavailable also when it was cancelled: asked again, it would take as long again.
        """
        try:
            with suppress(Unavailable):
                return await self.fetch(sql, parameters)
            return await self.fetch(sql, parameters)
        except psycopg.OperationalError as error:
            raise Unavailable(str(error)) from error

    async def fetch(self, sql: LiteralString, parameters: Sequence[Parameter] = ()) -> list[Any]:
        """The rows of one statement. Raises Unavailable when the connection cannot be had or broke."""
        result, values = await self._answered(sql, parameters)
        values.set_pgresult(result)
        rows: list[Any] = values.load_rows(0, result.ntuples, tuple)
        return rows

    async def execute(self, sql: LiteralString, parameters: Sequence[Parameter] = ()) -> int:
        """How many rows one statement changed. Raises Unavailable as `fetch` does."""
        result, _ = await self._answered(sql, parameters)
        return result.command_tuples or 0

    async def close(self) -> None:
        """Lets go of the connection; the next statement opens another one."""
        connection, self._connection = self._connection, None
        if connection:
            self._unwatch()
            await connection.close()

    async def _answered(self, sql: LiteralString, parameters: Sequence[Parameter]) -> tuple[PGresult, Any]:
        async with self._turn:
            connection = await self._open()
            try:
                async with asyncio.timeout(CONNECTION_PATIENCE_SECONDS):
                    return await self._run(connection.pgconn, sql, parameters), self._values
            except (asyncio.CancelledError, TimeoutError) as error:
                # stopped, as it might be recorded much later; an answer must not be taken for the next one's
                with suppress(psycopg.Error):
                    await connection.cancel_safe(timeout=CANCEL_SECONDS)
                await self.close()
                if isinstance(error, asyncio.CancelledError):
                    raise
                raise Unavailable(f"no answer within {CONNECTION_PATIENCE_SECONDS:g} s") from error
            except (psycopg.OperationalError, psycopg.InterfaceError) as error:
                if not connection.closed:
                    raise
                await self.close()
                raise Unavailable(str(error)) from error

    async def _run(self, pgconn: PGconn, sql: str, parameters: Sequence[Parameter]) -> PGresult:
        if sql not in self._prepared:
            name = f"line_{len(self._prepared)}".encode()
            pgconn.send_prepare(name, numbered(sql).encode())
            await self._complete(pgconn)
            self._prepared[sql] = name
        formats = [PyFormat.TEXT if isinstance(value, str) else PyFormat.BINARY for value in parameters]
        values = self._values.dump_sequence(parameters, formats)
        pgconn.send_query_prepared(self._prepared[sql], values, self._values.formats, Format.BINARY)
        return await self._complete(pgconn)

    async def _complete(self, pgconn: PGconn) -> PGresult:
        """Sends what is to be sent, and waits for the answer. Raises what it says is wrong."""
        self._answer = asyncio.get_running_loop().create_future()
        self._send(pgconn)
        result = await self._answer
        if result.status not in (ExecStatus.COMMAND_OK, ExecStatus.TUPLES_OK):
            code = result.error_field(DiagnosticField.SQLSTATE)  # without it, libpq's own words: the connection is gone
            raise error_from_result(result) if code else psycopg.OperationalError(result.error_message.decode())
        return result

    def _send(self, pgconn: PGconn) -> None:
        """Runs again and again, while there is more to send than the socket takes."""
        loop = asyncio.get_running_loop()
        loop.remove_writer(self._socket)
        with suppress(psycopg.OperationalError):  # what reads the socket hears of it, too
            if pgconn.flush():
                loop.add_writer(self._socket, self._send, pgconn)

    def _receive(self, pgconn: PGconn) -> None:
        """Runs whenever something has come in: the last result is the answer, once nothing follows it."""
        try:
            pgconn.consume_input()
            while not pgconn.is_busy():
                result = pgconn.get_result()
                if result is None:
                    self._end(None)
                    return
                self._result = result
        except psycopg.OperationalError as error:
            self._unwatch()
            self._end(error)

    def _end(self, error: Exception | None) -> None:
        if self._answer and not self._answer.done():
            if error:
                self._answer.set_exception(error)
            else:
                self._answer.set_result(self._result)

    def _unwatch(self) -> None:
        """Once, and by its number: libpq closes the socket of a connection that is gone, and others get its number."""
        number, self._socket = self._socket, -1
        if number >= 0:
            loop = asyncio.get_running_loop()
            loop.remove_reader(number)
            loop.remove_writer(number)

    async def _open(self) -> psycopg.AsyncConnection[Any]:
        """The connection. An idle one with something to read is one that the server has hung up on."""
        if self._connection and (self._connection.closed or self._hangup.poll(0)):
            await self.close()
        if self._connection is None:
            try:
                settings = connection_settings(self._name, look_ups=True)
                connection = await psycopg.AsyncConnection.connect(self._url, **settings)
            except psycopg.Error as error:
                raise Unavailable(str(error)) from error
            connection.pgconn.nonblocking = 1
            self._socket = connection.pgconn.socket
            asyncio.get_running_loop().add_reader(self._socket, self._receive, connection.pgconn)
            self._connection, self._prepared, self._answer = connection, {}, None
            self._values, self._hangup = Transformer(connection), select.poll()
            self._hangup.register(self._socket, select.POLLIN)
        return self._connection


def numbered(sql: str) -> str:
    """A statement with PostgreSQL's own parameters, $1, $2 …, in place of psycopg's."""
    first, *others = re.split("%[sb]", sql)
    return first + "".join(f"${number}{text}" for number, text in enumerate(others, 1))
