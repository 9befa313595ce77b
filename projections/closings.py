"""When was which ticket closed, at what level, and did the e-mail reach the mail server? One row for each closing."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, ClassVar, LiteralString
from uuid import UUID

import psycopg

from domain import events as e
from projections.sealed_log import Sealed

_CLOSED: LiteralString = """
    insert into closings (ticket_id, version, position, closed_at, level)
    select * from unnest(%s::uuid[], %s::int[], %s::bigint[], %s::timestamptz[], %s::text[])"""
_MAILED: LiteralString = """
    update closings set mail = mailed.mail, mail_at = mailed.at, mail_attempts = mailed.attempts
    from unnest(%s::uuid[], %s::int[], %s::text[], %s::timestamptz[], %s::int[])
        mailed(ticket_id, version, mail, at, attempts)
    where closings.ticket_id = mailed.ticket_id and closings.version = mailed.version"""


class Closings:
    """Keeps `closings`; `version` is that of the Closed event, `mail` is null until the outcome is known."""

    name: ClassVar[str] = "closings"
    version: ClassVar[int] = 1
    tables: ClassVar[tuple[str, ...]] = ("closings",)
    ddl: ClassVar[LiteralString] = """
        create table closings (
            ticket_id uuid not null, version int not null, position bigint not null, closed_at timestamptz not null,
            level text not null, mail text, mail_at timestamptz, mail_attempts int,
            primary key (ticket_id, version))"""
    indexes: ClassVar[LiteralString] = """
        create index closings_closed on closings (closed_at, ticket_id);
        create index closings_mailed on closings (mail_at, ticket_id) where mail is not null"""

    def apply(self, connection: psycopg.Connection[Any], batch: Sequence[Sealed]) -> None:
        """Inserts the closings of the batch, then notes what became of the e-mails."""
        closed: list[tuple[UUID, int, int, datetime, str]] = []
        mailed: list[tuple[UUID, int, str, datetime, int]] = []
        for sealed in batch:
            recorded, stream = sealed.recorded, sealed.stream_id
            match recorded.event:
                case e.Closed(level):
                    closed.append((stream, recorded.originator_version, sealed.position, recorded.at, level))
                case e.ClosureEmailSent(version, _, attempts):
                    mailed.append((stream, version, "sent", recorded.at, attempts))
                case e.ClosureEmailFailed(version, _, attempts):
                    mailed.append((stream, version, "failed", recorded.at, attempts))
        for statement, rows in ((_CLOSED, closed), (_MAILED, mailed)):
            if rows:
                connection.execute(statement, [list(column) for column in zip(*rows, strict=True)])
