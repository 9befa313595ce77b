"""When was each API key used last? Collected in each process and written in bulk, never while somebody waits for it."""

import asyncio
from datetime import datetime
from typing import LiteralString

import psycopg
import structlog

from application.store.postgres.pg_connection import PgConnection, Unavailable

PERIOD_SECONDS = 60.0
# Several processes write the same keys: in one order, and a key that another one is just writing is left to it.
WRITE: LiteralString = """
    with due as (
        select api_keys.id, used.at from unnest(%s::text[], %s::timestamptz[]) used(id, at)
        join api_keys on api_keys.id = used.id
        where last_used_at is null or last_used_at <= used.at - interval '1 minute'
        order by api_keys.id for no key update of api_keys skip locked)
    update api_keys set last_used_at = due.at from due where api_keys.id = due.id"""
log = structlog.get_logger()


class KeyUses:
    """Notes uses of keys; each key is written at most once a minute, on a connection that is kept no longer."""

    def __init__(self, url: str) -> None:
        self._line = PgConnection(url, "api key uses")
        self._used: dict[str, datetime] = {}
        self._writing: asyncio.Task[None] | None = None

    def note(self, id_: str, at: datetime) -> None:
        """This key was used just now. Costs no round trip."""
        self._used[id_] = at
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write_on())

    async def close(self) -> None:
        """Writes what is not written yet."""
        if self._writing:
            self._writing.cancel()
            await asyncio.wait([self._writing])
        if self._used:
            await self._write()

    async def _write_on(self) -> None:
        while self._used:
            await self._write()
            await asyncio.sleep(PERIOD_SECONDS)

    async def _write(self) -> None:
        used = dict(self._used)
        try:
            await self._line.execute(WRITE, (list(used), list(used.values())))
            self._used = {id_: at for id_, at in self._used.items() if used.get(id_) != at}  # and what came meanwhile
        except (Unavailable, psycopg.Error) as error:
            log.warning("the last use of keys is not written yet", reason=str(error).strip())
        finally:
            await self._line.close()
