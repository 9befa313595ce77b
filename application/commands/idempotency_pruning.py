"""Idempotency keys that are older than their lifetime are forgotten, a few at a time."""

from typing import Any, LiteralString

import psycopg

KEY_PRUNE_BATCH_MAX = 1_000
# Locked rows stay where they are, so that they are deleted by their place: no plan can come to read the whole table. A
# command waits for nobody here: it meets a row that is being deleted only when it comes again after the lifetime.
DELETE_OLD_KEYS: LiteralString = """
    delete from idempotency where ctid = any(array(
        select ctid from idempotency where at < now() - make_interval(hours => %s)
        order by at limit %s for update skip locked))"""


def prune_idempotency_keys(connection: psycopg.Connection[Any], hours: int, batch: int = KEY_PRUNE_BATCH_MAX) -> int:
    """Forgets one batch of keys that are older than so many hours, the oldest first. Returns how many."""
    return connection.execute(DELETE_OLD_KEYS, (hours, batch)).rowcount
