"""When was which ticket closed, at what level, and did the e-mail reach the mail server? One row for each closing."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, LiteralString
from uuid import UUID

import msgspec
import psycopg
from msgspec.structs import asdict, replace

from domain import events as e
from domain.values import Level
from projections.engine.projection import Projection
from projections.engine.sealed_log import Sealed, of_tickets
from projections.engine.table_writer import Table


class Closing(msgspec.Struct):
    """One closing; `version` is that of the Closed event, `mail` is "sent" or "failed", None until it is known.

    A mail that has failed may be sent again: `mail` and `mail_at` are its last outcome, `mail_failed_at` is when it
    first failed. Once it is sent it stays so.
    """

    ticket_id: UUID
    version: int
    position: int
    closed_at: datetime
    level: Level
    mail: str | None = None
    mail_at: datetime | None = None
    mail_attempts: int | None = None
    mail_failed_at: datetime | None = None


CLOSINGS = Table(
    "closings",
    Closing,
    "uuid int4 int8 timestamptz text text timestamptz int4 timestamptz",
    key=("ticket_id", "version"),
)
_MAILED: LiteralString = """
    update closings set mail = mailed.mail, mail_at = mailed.mail_at, mail_attempts = mailed.mail_attempts,
        mail_failed_at = coalesce(closings.mail_failed_at, mailed.mail_failed_at)
    from json_populate_recordset(null::closings, %b::json) mailed
    where closings.ticket_id = mailed.ticket_id and closings.version = mailed.version
        and closings.mail is distinct from 'sent'"""


class Closings(Projection):
    """Keeps `closings`; `version` is that of the Closed event, `mail` is null until the outcome is known."""

    name = "closings"
    version = 2
    tables = ("closings",)
    ddl = """
        create table closings (
            ticket_id uuid not null, version int not null, position bigint not null, closed_at timestamptz not null,
            level text not null, mail text, mail_at timestamptz, mail_attempts int,
            mail_failed_at timestamptz)"""
    indexes = """
        alter table closings add primary key (ticket_id, version);
        create index closings_closed on closings (closed_at, ticket_id);
        create index closings_mailed on closings (mail_at, ticket_id) where mail is not null;
        create index closings_mail_failed on closings (mail_failed_at, ticket_id) where mail_failed_at is not null"""

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


def _fold(batch: Iterable[Sealed]) -> tuple[list[Closing], list[dict[str, Any]]]:
    """The closings of a batch, and the outcomes of the e-mails of closings that are not in it."""
    closings: dict[tuple[UUID, int], Closing] = {}
    mailed: dict[tuple[UUID, int], dict[str, Any]] = {}
    for sealed in batch:
        match sealed.event:
            case e.Closed(level):
                closings[sealed.stream_id, sealed.version] = Closing(
                    sealed.stream_id, sealed.version, sealed.position, sealed.at, level
                )
            case e.ClosureEmailSent(version) | e.ClosureEmailFailed(version):
                key = (sealed.stream_id, version)
                if closing := closings.get(key):
                    closings[key] = replace(closing, **_outcome(asdict(closing), sealed))
                else:
                    before = mailed.get(key, {"ticket_id": sealed.stream_id, "version": version})
                    mailed[key] = before | _outcome(before, sealed)
    return list(closings.values()), list(mailed.values())


def _outcome(before: Mapping[str, Any], sealed: Sealed) -> dict[str, Any]:
    """What an outcome changes in what was known of a mail."""
    if before.get("mail") == "sent":
        return {}
    sent = isinstance(sealed.event, e.ClosureEmailSent)
    first = before.get("mail_failed_at") or (None if sent else sealed.at)
    attempts = sealed.event.attempts  # type: ignore[attr-defined]
    word = "sent" if sent else "failed"
    return {"mail": word, "mail_at": sealed.at, "mail_attempts": attempts, "mail_failed_at": first}
