"""A mail that has failed is made due again, once, and its answer is kept in the same statement."""

import asyncio
from datetime import timedelta

import psycopg

from application.mail.mail_retry import MailRetries
from application.store.postgres.pg_connection import PgConnection
from tests.support.write_side import NOW

FAILED = """
    insert into closure_mails (ticket_id, closed_version, message_id, state, due_at, queued_at, settled_at)
    values (gen_random_uuid(), 9, '<x@desk>', 'failed', now(), now(), %s)"""


def test_only_what_failed_then_is_due_again(connection: psycopg.Connection, database: str) -> None:
    """Of two who ask at once one makes it due; whoever saw another outcome does not."""
    connection.execute(FAILED, (NOW,))

    async def ask() -> list[bool]:
        retries = MailRetries(PgConnection(database, "test retries"))
        seen = (NOW - timedelta(days=1), NOW, NOW)
        try:
            return [await retries.retry("<x@desk>", settled_at, "{}", NOW, None) for settled_at in seen]
        finally:
            await retries.close()

    assert asyncio.run(ask()) == [False, True, False]
    assert connection.execute("select state, attempts from closure_mails").fetchone() == ("due", 0)
