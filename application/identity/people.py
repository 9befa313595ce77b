"""Who has signed in with a token? Kept, so that a ticket can be given to a person who has no key.

Collected in each process and written behind everybody's back: a person at most once an hour, and at once when the token
says something else than before.
"""

import asyncio
from datetime import datetime, timedelta
from typing import LiteralString

import msgspec
import psycopg
import structlog

from application.identity.token_claims import NAMESPACE
from application.store.postgres.pg_connection import PgConnection, Unavailable
from domain.values import Principal

SEEN_PERIOD = timedelta(hours=1)
PEOPLE_RETRY_SECONDS = 60.0
MOST_PEOPLE_REMEMBERED = 10_000
# Several processes write the same people: in one order, and the newer word stands.
WRITE_PEOPLE: LiteralString = """
    insert into people (issuer, subject, id, name, roles, levels, last_seen)
    select %s, subject, id, name, roles, levels, last_seen
    from json_to_recordset(%s::json) seen(
        subject text, id text, name text, roles text[], levels text[], last_seen timestamptz)
    order by subject collate "C"
    on conflict (issuer, subject) do update set
        id = excluded.id, name = excluded.name, roles = excluded.roles, levels = excluded.levels,
        last_seen = excluded.last_seen
    where people.last_seen < excluded.last_seen and (people.last_seen < excluded.last_seen - interval '59 minutes'
        or (people.id, people.name, people.roles, people.levels)
            is distinct from (excluded.id, excluded.name, excluded.roles, excluded.levels))"""
log = structlog.get_logger()


class SeenPerson(msgspec.Struct, frozen=True):
    """A row of `people`, but for the issuer."""

    subject: str
    id: str
    name: str
    roles: list[str]
    levels: list[str]
    last_seen: datetime


class People:
    """Notes who signs in with a token of one issuer, on a connection that is kept no longer than it takes to write."""

    def __init__(self, url: str, issuer: str) -> None:
        self._line, self._issuer = PgConnection(url, "people"), issuer
        self._known: dict[str, tuple[Principal, datetime]] = {}
        self._due: dict[str, SeenPerson] = {}
        self._writing: asyncio.Task[None] | None = None

    def note(self, who: Principal, at: datetime) -> None:
        """This person was seen just now. Costs no round trip."""
        known = self._known.get(who.id)
        if known and known[0] == who and at < known[1] + SEEN_PERIOD:
            return
        if len(self._known) >= MOST_PEOPLE_REMEMBERED:
            self._known.clear()
        self._known[who.id] = (who, at)
        subject, roles, levels = who.id.removeprefix(NAMESPACE), sorted(who.roles), sorted(who.levels)
        self._due[who.id] = SeenPerson(subject, who.id, who.name, list(roles), list(levels), at)
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write_on())

    async def close(self) -> None:
        """Writes what is not written yet."""
        if self._writing:
            self._writing.cancel()
            await asyncio.wait([self._writing])
        if self._due:
            await self._write()
        await self._line.close()

    async def _write_on(self) -> None:
        while self._due:
            if not await self._write():
                await asyncio.sleep(PEOPLE_RETRY_SECONDS)
        await self._line.close()

    async def _write(self) -> bool:
        due = dict(self._due)
        try:
            await self._line.execute(WRITE_PEOPLE, (self._issuer, msgspec.json.encode([*due.values()]).decode()))
        except (Unavailable, psycopg.Error) as error:
            log.warning("who has signed in is not written yet", reason=str(error).strip())
            return False
        self._due = {id_: seen for id_, seen in self._due.items() if due.get(id_) != seen}  # what came meanwhile
        return True
