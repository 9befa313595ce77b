"""The API's connections for queries: a pool that gives up soon, and says so.

Whoever asks what others ask too, while they wait for an answer, is answered together with the others: by a run of the
query that begins after all of them have asked, so that nobody sees less than what was there when asking.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any
from weakref import WeakValueDictionary

import psycopg
from psycopg.sql import SQL, Composed
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from application.store.batcher import Batcher
from application.store.postgres.database import connection_settings
from application.store.postgres.pg_connection import Unavailable

POOL_SIZE = 8
READ_POOL_WAIT_SECONDS = 4.0


class Readers(AsyncConnectionPool[psycopg.AsyncConnection[Any]]):
    """Runs queries. Opens its connections in the process that uses them, never at import."""

    def __init__(self, url: str, name: str = "api read", least: int = 1, most: int = POOL_SIZE) -> None:
        super().__init__(
            url,
            kwargs=connection_settings(name),
            min_size=least,
            max_size=most,
            open=False,
            timeout=READ_POOL_WAIT_SECONDS,
            reconnect_timeout=READ_POOL_WAIT_SECONDS,
        )
        self._shared: WeakValueDictionary[tuple[Any, ...], Batcher[None, list[Any]]] = WeakValueDictionary()

    async def fetch(self, query: SQL | Composed, parameters: Sequence[Any]) -> list[Any]:
        """The rows of a query. Raises Unavailable when no connection can be had, or it broke, or it took too long."""
        if isinstance(query, Composed) or any(isinstance(value, list) for value in parameters):
            return await self._answer(query, parameters)
        asked = (id(query), *parameters)  # a text that is always the same is one object
        shared = self._shared.get(asked)
        if shared is None:
            shared = self._shared[asked] = Batcher(partial(self._answer_all, query, parameters), name="query")
        return await shared(None)

    async def _answer_all(self, query: SQL, parameters: Sequence[Any], asked: list[None]) -> list[list[Any]]:
        return [await self._answer(query, parameters)] * len(asked)

    async def _answer(self, query: SQL | Composed, parameters: Sequence[Any]) -> list[Any]:
        try:
            try:
                return await self._select(query, parameters)
            except (psycopg.errors.QueryCanceled, PoolTimeout) as error:  # asked again, it would take as long again
                raise Unavailable(str(error)) from error
            except psycopg.OperationalError:  # the database was restarted, perhaps: look at every idle connection once
                await self.check()
                return await self._select(query, parameters)
        except psycopg.OperationalError as error:
            raise Unavailable(str(error)) from error

    async def _select(self, query: SQL | Composed, parameters: Sequence[Any]) -> list[Any]:
        # A query composed for one request is planned for its values: a plan for any value reads a million tickets
        # where few of them fit. A text that is always the same keeps its plan.
        prepare = False if isinstance(query, Composed) else None
        async with self.connection() as connection:
            return await (await connection.execute(query, parameters, prepare=prepare)).fetchall()
