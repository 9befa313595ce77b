"""Which history the log is: positions say nothing of another one."""

from typing import Any
from uuid import UUID

import psycopg


def begin_log(connection: psycopg.Connection[Any]) -> UUID:
    """Gives the log another identity, after a restore: who followed it learns that positions are given anew."""
    row = connection.execute("update log_identity set id = gen_random_uuid(), since = now() returning id").fetchone()
    identity: UUID = row[0] if row else UUID(int=0)
    return identity
