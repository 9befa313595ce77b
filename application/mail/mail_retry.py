"""A closing e-mail that has failed for good is sent again, when somebody says so: to the client's present address."""

from datetime import datetime
from typing import LiteralString

import msgspec

from application.commands.idempotency import IdempotencyRequest
from application.store.postgres.pg_connection import PgConnection
from domain.errors import NotFound

# The answer is kept under the caller's key in the same statement, so a repetition has it whenever the mail is due.
RETRY: LiteralString = """
    with given as (
        select * from json_to_record(%s::json) as g(
            message_id text, settled_at timestamptz, now timestamptz, principal text, key text, request_hash text,
            answer text)),
    retried as (
        update closure_mails m set state = 'due', due_at = now, attempts = 0, settled_at = null,
            first_refused_at = null, needs_desk = false
        from given
        where m.message_id = given.message_id and m.state = 'failed' and m.settled_at = given.settled_at
        returning m.message_id),
    kept as (
        insert into idempotency (principal, key, request_hash, answer, at)
        select principal, key, decode(request_hash, 'base64'), convert_to(answer, 'UTF8'), now from given, retried
        where key is not null)
    select message_id from retried"""


class UnknownMail(NotFound):
    """There is no such e-mail."""


class MailRetries:
    """Makes mails due again. `line` is a connection of its own."""

    def __init__(self, line: PgConnection) -> None:
        self._line = line

    async def retry(
        self, message_id: str, settled_at: datetime, answer: str, now: datetime, request: IdempotencyRequest | None
    ) -> bool:
        """Makes a mail due that failed at `settled_at`; False when it is not so any more.

        Raises UniqueViolation where the key of the request was used meanwhile.
        """
        kept = msgspec.structs.asdict(request) | {"answer": answer} if request else {}
        given = {**kept, "message_id": message_id, "settled_at": settled_at, "now": now}
        return bool(await self._line.fetch(RETRY, (msgspec.json.encode(given).decode(),)))

    async def close(self) -> None:
        """Closes the connection."""
        await self._line.close()
