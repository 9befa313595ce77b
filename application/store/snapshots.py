"""Snapshots: a ticket at every 25th version and at each dossier, so that a long one loads as soon as a short one.

Nothing depends on them but time. They are read by the fold that made them alone, and their table may be emptied at any
time; a snapshot that cannot be read is passed over (docs/decisions/0039).
"""

import inspect
from collections import defaultdict
from contextlib import suppress
from hashlib import sha256
from typing import Any, LiteralString
from uuid import UUID

import msgspec
import psycopg

from application.store.event_store import LOAD, NotReadable, by_stream
from domain import events, procedure, ticket, values
from domain.errors import UnknownTicket
from domain.events import Recorded
from domain.ticket import Snapshot, begin_ticket, evolve

SNAPSHOT_BATCH_MAX = 200
MADE_BY = (values, events, procedure, ticket)  # every module that the fold of a ticket depends on
FOLD = sha256("".join(map(inspect.getsource, MADE_BY)).encode()).hexdigest()[:16]

# The next events with a version that a snapshot is due at and not there, in the order in which they were drawn.
_DUE: LiteralString = """
    select ord, stream_id, version from events
    where (version %% 25 = 0 or (type = 'Ticket.DossierCompiled' and version > 25)) and ord > %s and not exists (
        select from snapshots
        where snapshots.stream_id = events.stream_id and fold = %s and snapshots.version = events.version)
    order by ord limit %s"""
_INSERT: LiteralString = """
    insert into snapshots (stream_id, fold, version, ticket) values (%s, %s, %s, %s) on conflict do nothing"""
_DAMAGED: LiteralString = "delete from snapshots where stream_id = %s and fold = %s and version = %s"
_OUTLIVED: LiteralString = """
    delete from snapshots where ctid = any(array(
        select ctid from snapshots where fold <> %s and made_at < now() - interval '7 days' limit %s))"""


def take_snapshots(connection: psycopg.Connection[Any], after: int = 0, batch: int = SNAPSHOT_BATCH_MAX) -> int | None:
    """Makes the next snapshots that are missing, behind a number of `events.ord`. Returns the number to go on behind;
    None when none was missing.

    What is a snapshot is the same whoever makes it, so any number may do this at once. A ticket that cannot be folded
    gets none.
    """
    due = connection.execute(_DUE, (after, FOLD, batch)).fetchall()
    streams: defaultdict[UUID, set[int]] = defaultdict(set)
    for _, stream, version in due:
        streams[stream].add(version)
    for stream, versions in streams.items():
        _take(connection, stream, versions)
    return due[-1][0] if due else None


def take_all_snapshots(connection: psycopg.Connection[Any]) -> None:
    """Makes every snapshot that is missing, in batches."""
    after: int | None = 0
    while after is not None:
        after = take_snapshots(connection, after)


def forget_snapshots(connection: psycopg.Connection[Any], batch: int = 1_000) -> int:
    """Deletes some that another version of the program made, a week ago or earlier. Returns how many."""
    return connection.execute(_OUTLIVED, (FOLD, batch)).rowcount


def _take(connection: psycopg.Connection[Any], stream: UUID, versions: set[int]) -> None:
    made, now = [], None
    with suppress(UnknownTicket, NotReadable):  # the directory's, or one that has to be healed first
        for recorded in _load(connection, stream, min(versions), max(versions)):
            now = evolve(now, recorded) if now else begin_ticket(recorded)
            if now.version in versions:
                made.append((stream, FOLD, now.version, msgspec.json.encode(Snapshot(now)).decode()))
    with connection.transaction(), connection.cursor() as cursor:
        cursor.executemany(_INSERT, made)


def _load(connection: psycopg.Connection[Any], stream: UUID, first: int, last: int) -> list[Recorded]:
    """The events up to the last of some versions, from a snapshot before the first. Deletes one that is damaged."""
    rows = connection.execute(LOAD, ([stream], FOLD, first, last)).fetchall()
    try:
        return by_stream(rows).get(stream, [])
    except NotReadable as error:
        if not error.is_snapshot:
            raise
        connection.execute(_DAMAGED, (stream, FOLD, error.version))
    return _load(connection, stream, first, last)
