"""The API's connections for queries: a pool that gives up soon, and says so."""

from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg.sql import SQL, Composed
from psycopg_pool import AsyncConnectionPool, PoolTimeout

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

    async def fetch(self, query: SQL | Composed, parameters: Sequence[Any]) -> list[Any]:
        """The rows of a query. Raises Unavailable when no connection can be had, or it broke, or it took too long."""
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
