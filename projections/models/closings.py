"""When was which ticket closed, at what level, and did the e-mail reach the mail server? One row for each closing."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar, LiteralString
from uuid import UUID

import msgspec
import psycopg

from domain import events as e
from domain.values import Level
from projections.engine.sealed_log import Sealed, of_tickets
from projections.engine.table_writer import Table


class Closing(msgspec.Struct):
    """One closing; `version` is that of the Closed event, `mail` is "sent" or "failed", None until it is known."""

    ticket_id: UUID
    version: int
    position: int
    closed_at: datetime
    level: Level
    mail: str | None = None
    mail_at: datetime | None = None
    mail_attempts: int | None = None


class Mailed(msgspec.Struct):
    """What became of the e-mail of a closing that was recorded in an earlier batch."""

    ticket_id: UUID
    version: int
    mail: str
    mail_at: datetime
    mail_attempts: int


CLOSINGS = Table(
    "closings", Closing, "uuid int4 int8 timestamptz text text timestamptz int4", key=("ticket_id", "version")
)
_TOLD = frozenset({e.Closed, e.ClosureEmailSent, e.ClosureEmailFailed})
_MAILED: LiteralString = """
    update closings set mail = mailed.mail, mail_at = mailed.mail_at, mail_attempts = mailed.mail_attempts
    from json_to_recordset(%b::json)
        as mailed(ticket_id uuid, version int, mail text, mail_at timestamptz, mail_attempts int)
    where closings.ticket_id = mailed.ticket_id and closings.version = mailed.version"""


class Closings:
    """Keeps `closings`; `version` is that of the Closed event, `mail` is null until the outcome is known."""

    name: ClassVar[str] = "closings"
    version: ClassVar[int] = 1
    tables: ClassVar[tuple[str, ...]] = ("closings",)
    ddl: ClassVar[LiteralString] = """
        create table closings (
            ticket_id uuid not null, version int not null, position bigint not null, closed_at timestamptz not null,
            level text not null, mail text, mail_at timestamptz, mail_attempts int)"""
    indexes: ClassVar[LiteralString] = """
        alter table closings add primary key (ticket_id, version);
        create index closings_closed on closings (closed_at, ticket_id);
        create index closings_mailed on closings (mail_at, ticket_id) where mail is not null"""
    counts: ClassVar[Mapping[str, LiteralString]] = {}
    finish: ClassVar[LiteralString] = ""

    def apply(self, connection: psycopg.Connection[Any], batch: Sequence[Sealed]) -> None:
        """Inserts the closings of the batch, and notes what became of the e-mails of earlier ones."""
        closings, mailed = _fold(of_tickets(batch))
        CLOSINGS.upsert(connection, closings)
        if mailed:
            connection.execute(_MAILED, (msgspec.json.encode(mailed).decode(),))

    def build(self, connection: psycopg.Connection[Any], streams: Sequence[Sealed]) -> None:
        """Adds the closings of whole tickets."""
        closings, _ = _fold(of_tickets(streams))
        CLOSINGS.copy(connection, closings)

    def forget(self, connection: psycopg.Connection[Any], streams: Sequence[UUID]) -> None:
        """Removes the closings of these tickets."""
        connection.execute("delete from closings where ticket_id = any(%s)", (list(streams),))


def _fold(batch: Iterable[Sealed]) -> tuple[list[Closing], list[Mailed]]:
    """The closings of a batch, and the outcomes of the e-mails of closings that are not in it."""
    closings: dict[tuple[UUID, int], Closing] = {}
    mailed: list[Mailed] = []
    for sealed in batch:
        if type(sealed.event) not in _TOLD:
            continue
        match sealed.event:
            case e.Closed(level):
                closings[sealed.stream_id, sealed.version] = Closing(
                    sealed.stream_id, sealed.version, sealed.position, sealed.at, level
                )
            case e.ClosureEmailSent(version, _, attempts) | e.ClosureEmailFailed(version, _, attempts):
                outcome = "sent" if isinstance(sealed.event, e.ClosureEmailSent) else "failed"
                if closing := closings.get((sealed.stream_id, version)):
                    closing.mail, closing.mail_at, closing.mail_attempts = outcome, sealed.at, attempts
                else:
                    mailed.append(Mailed(sealed.stream_id, version, outcome, sealed.at, attempts))
    return list(closings.values()), mailed
