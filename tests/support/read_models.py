"""What the read models hold, how they are emptied, and what the queries of the read side run on."""

from typing import Any

import psycopg

from application.store.postgres.pg_connection import Unavailable
from projections.runner import PROJECTIONS

TABLES = [table for projection in PROJECTIONS for table in projection.tables]


def rows(connection: psycopg.Connection, table: str) -> list[tuple[Any, ...]]:
    """Everything that a table holds, in one order."""
    return sorted(connection.execute(f"select * from {table}").fetchall(), key=repr)


def contents(connection: psycopg.Connection) -> dict[str, list[tuple[Any, ...]]]:
    """Everything that the read models hold; a queue that is empty again counts as one that never was."""
    found = {table: rows(connection, table) for table in TABLES}
    found["queue_counts"] = [row for row in found["queue_counts"] if row[2]]
    return found


def start_again(connection: psycopg.Connection) -> None:
    """Empties every read model."""
    for table in TABLES:
        connection.execute(f"truncate {table}")
    connection.execute("update projections set position = 0")


def fetcher(connection: psycopg.Connection):
    """What the queries of the read side run on, here on a synchronous connection."""

    async def fetch(query: Any, parameters: Any) -> list[Any]:
        return connection.execute(query, parameters).fetchall()

    return fetch


class Asked:
    """A connection of the API's kind that counts what it is asked; its database can be one that does not answer."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self.connection, self.times, self.answers = connection, 0, True

    async def fetch(self, query: Any, parameters: Any) -> list[Any]:
        """The rows of a query."""
        self.times += 1
        if not self.answers:
            raise Unavailable("the database is restarted")
        return self.connection.execute(query, parameters).fetchall()
