"""The API's connections for queries: a pool that gives up soon, and says so."""

from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg.sql import SQL, Composed
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from application.combining import Unavailable
from application.database import connection_settings

POOL_SIZE = 8
WAIT_SECONDS = 4.0


class Readers:
    """Runs queries. Opens its connections in the process that uses them, never at import."""

    def __init__(self, url: str) -> None:
        self._pool: AsyncConnectionPool[psycopg.AsyncConnection[Any]] = AsyncConnectionPool(
            url,
            kwargs=connection_settings("api read"),
            min_size=1,
            max_size=POOL_SIZE,
            open=False,
            timeout=WAIT_SECONDS,
            reconnect_timeout=WAIT_SECONDS,
        )

    async def open(self) -> None:
        """Starts to connect; does not wait for it."""
        await self._pool.open(wait=False)

    async def close(self) -> None:
        """Closes every connection."""
        await self._pool.close()

    async def fetch(self, query: SQL | Composed, parameters: Sequence[Any]) -> list[Any]:
        """The rows of a query. Raises Unavailable when no connection can be had, or it broke, or it took too long."""
        try:
            try:
                return await self._fetch(query, parameters)
            except (psycopg.errors.QueryCanceled, PoolTimeout) as error:  # asked again, it would take as long again
                raise Unavailable(str(error)) from error
            except psycopg.OperationalError:  # the database was restarted, perhaps: look at every idle connection once
                await self._pool.check()
                return await self._fetch(query, parameters)
        except psycopg.OperationalError as error:
            raise Unavailable(str(error)) from error

    async def _fetch(self, query: SQL | Composed, parameters: Sequence[Any]) -> list[Any]:
        async with self._pool.connection() as connection:
            return await (await connection.execute(query, parameters)).fetchall()
