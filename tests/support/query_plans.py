"""What PostgreSQL was asked, as it wrote it down itself, and how it goes about an answer."""

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import psycopg
from psycopg.sql import SQL, Identifier

from tests.support.running_desk import wait_until

_ASKED = re.compile(r"(?:execute (?P<name>[^:]+)|statement): (?P<sql>.*)", re.DOTALL)
_VALUE = re.compile(r"\$\d+ = (NULL|'(?:[^']|'')*')")
_EXPLAINED = re.compile(r"\s*(select|with|insert|update|delete)\b", re.IGNORECASE)
SETTLES_AFTER = 6  # custom plans, before PostgreSQL weighs them against a generic one; psycopg prepares after 5
_RUN = "explain (analyze, timing off, summary off, format json) "
_PLAN = "explain (format json) "


class Statement(NamedTuple):
    """A statement with the values that came with it, as literals, and the name of the connection that sent it.

    `keeps_plan` says whether the desk has prepared it, so that its plan may come to serve all values.
    """

    who: str
    sql: str
    values: tuple[str, ...]
    keeps_plan: bool

    @property
    def name(self) -> str:
        """Its beginning and its values, for people."""
        return f"{self.who}: {' '.join(self.sql.split())[:300]} … {', '.join(self.values)[:200]}"


class Read(NamedTuple):
    """A node of a plan that reads a table: how, and how many rows it looked at when it ran."""

    table: str
    how: str
    rows: float


@contextmanager
def written_down(connection: psycopg.Connection[Any]) -> Iterator[None]:
    """The server writes every statement of this database to its log, as JSON. Takes a superuser."""
    database = SQL("alter database {} set log_statement to 'all'").format(Identifier(connection.info.dbname))
    connection.execute("alter system set log_destination to 'jsonlog'")
    connection.execute("select pg_reload_conf()")
    connection.execute(database)
    logfile = "select pg_current_logfile('jsonlog')"
    wait_until(lambda: connection.execute(logfile).fetchone() != (None,), "the server writes JSON")
    yield
    connection.execute("alter system reset log_destination")
    connection.execute("select pg_reload_conf()")


def statements(connection: psycopg.Connection[Any], who: str) -> list[Statement]:
    """What connections of this name asked in this database so far, each statement with each kind of values once."""
    said = connection.execute("select pg_read_file(pg_current_logfile('jsonlog'))").fetchone()
    found: list[tuple[str, str, tuple[str, ...]]] = []
    prepared: set[str] = set()
    for line in said[0].splitlines() if said else ():
        entry = json.loads(line)
        sender, asked = entry.get("application_name", ""), _ASKED.fullmatch(entry.get("message", ""))
        if asked and sender.startswith(who) and entry.get("dbname") == connection.info.dbname:
            found.append((sender, asked["sql"].strip(), tuple(_VALUE.findall(entry.get("detail", "")))))
            if asked["name"] not in (None, "<unnamed>"):
                prepared.add(found[-1][1])
    told = {(sql, values): (sender, sql, values) for sender, sql, values in found if _EXPLAINED.match(sql)}
    return [Statement(*one, keeps_plan=one[1] in prepared) for one in told.values()]


def explained(connection: psycopg.Connection[Any], statement: Statement) -> list[Read]:
    """What it reads by a plan for its own values, and by the one that PostgreSQL settles for where the plan is kept.

    It is run, and what it changes is taken back; an insert that cannot be done twice is only planned.
    """
    try:
        return _explained(connection, statement, _RUN)
    except psycopg.errors.UniqueViolation:
        return _explained(connection, statement, _PLAN)


def _explained(connection: psycopg.Connection[Any], statement: Statement, how: str) -> list[Read]:
    execute = f"execute asked ({', '.join(statement.values)})" if statement.values else "execute asked"
    connection.execute("deallocate all")
    with connection.transaction(force_rollback=True):
        connection.execute(f"prepare asked as {statement.sql}".encode())
        found = reads(connection, execute, how)
        if statement.keeps_plan:
            for _ in range(SETTLES_AFTER):
                connection.execute(f"explain {execute}".encode())
            found += reads(connection, execute, how)
    return found


def reads(connection: psycopg.Connection[Any], query: str, how: str = _RUN) -> list[Read]:
    """Runs a query and tells what it has read."""
    row = connection.execute((how + query).encode()).fetchone()
    plan = row[0] if row else []
    return list(_reads((json.loads(plan) if isinstance(plan, str | bytes) else plan)[0]["Plan"]))


def _reads(node: dict[str, Any]) -> Iterator[Read]:
    if node["Node Type"].endswith("Scan") and "Relation Name" in node:
        removed = sum(value for name, value in node.items() if name.startswith("Rows Removed by"))
        rows, loops = node.get("Actual Rows", node["Plan Rows"]), node.get("Actual Loops", 1)
        yield Read(node["Relation Name"], node["Node Type"], (rows + removed) * loops)
    below: Sequence[dict[str, Any]] = node.get("Plans", ())
    for part in below:
        yield from _reads(part)
