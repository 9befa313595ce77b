"""The schema `reporting`: views for reporting jobs, and the one role that may read them and nothing else.

No view holds free text, a name or an address. The views lie on the tables of the projections, so whoever swaps those
tables calls `create_reporting` in the same transaction.
"""

from hashlib import sha256
from typing import Any, LiteralString

import psycopg
import structlog
from psycopg.sql import SQL, Composed, Identifier, Literal

from projections.reports.report_metrics import METRIC_COLUMNS, REPORT_METRICS, ReportMetric

ROLE = "deskledger_reporting"
TABLES: dict[str, tuple[str, LiteralString]] = {
    "queue_stays": (
        (
            "One row for each stay of a ticket in a queue. entered_by and left_by are the events that began and ended"
            " it, left_at is null while it lasts; priority is that at the end, entered_priority that at the beginning."
        ),
        """
        select ticket_id, queue, entered_at, left_at, entered_by, left_by,
            case when left_at >= entered_at then extract(epoch from left_at - entered_at)::float8
                 when left_at is not null then 0 end as seconds,  -- a wrong clock may have written what came first
            level, qualification,
            nullif(entered_rank, 6)::int as entered_priority, nullif(rank, 6)::int as priority,
            entered_position, left_position
        from queue_stays""",
    ),
    "tickets": (
        "One row for each ticket, as it stands; version and position are those of its last event.",
        """
        select ticket_id, number, version, position, state, level, queue, qualification, channel, category, impact,
            urgency, priority::int as priority, escalations, waiting_on_client, created_at as received_at, updated_at,
            closed_at
        from ticket_summaries""",
    ),
    "closings": (
        (
            "One row for each closing. resolved_at is the resolution that led to it; escalations and reopenings are"
            " those before it; reopened_at is the reopening that followed, null when none did; mail is sent or failed,"
            " null until the outcome is known; mail_failed_at is when it first failed; priority is that at the closing."
        ),
        """
        select c.ticket_id, c.version, c.position, c.closed_at, c.level, before.priority, before.received_at,
            before.first_resolved_at, before.resolved_at, before.escalations, before.reopenings, later.reopened_at,
            c.mail, c.mail_at, c.mail_attempts, c.mail_failed_at
        from closings c
        cross join lateral (
            select min(entered_at) as received_at,
                min(entered_at) filter (where queue = 'quality_control') as first_resolved_at,
                max(entered_at) filter (where queue = 'quality_control') as resolved_at,
                count(*) filter (where entered_by = 'Ticket.Escalated')::int as escalations,
                count(*) filter (where entered_by = 'Ticket.Reopened')::int as reopenings,
                max(nullif(rank, 6)) filter (where left_position = c.position)::int as priority
            from queue_stays s where s.ticket_id = c.ticket_id and s.entered_position < c.position) before
        left join lateral (
            select entered_at as reopened_at from queue_stays s
            where s.ticket_id = c.ticket_id and s.entered_position > c.position and s.entered_by = 'Ticket.Reopened'
            order by s.entered_position limit 1) later on true""",
    ),
}
REPORTING_SCHEMA_COMMENT = (
    "Views for reporting jobs: queue_stays, tickets, closings, and one view of rows for each metric of /v1/reports."
    " Times are UTC, durations seconds of calendar time. Dropped and made anew by `deskledger migrate` and by"
    " rebuilds, with whatever depends on them: keep objects of your own elsewhere."
)
FACTS = SQL("""
    select f.ticket_id, f.at, f.since, f.until, to_char(f.at at time zone 'UTC', 'IYYY-"W"IW') as week, f.level,
        t.category, f.priority, f.counted, case when f.value < 0 then 0 else f.value end as value {extra}
    from ({facts}) f left join ticket_summaries t using (ticket_id)""")
IS_REPORTING_SCHEMA_CURRENT = SQL("""
    select from pg_namespace n where nspname = 'reporting' and obj_description(n.oid, 'pg_namespace') = %s
    and not exists (select from pg_roles where rolname = %s and not has_schema_privilege(oid, n.oid, 'usage'))""")
log = structlog.get_logger()


def create_reporting(connection: psycopg.Connection[Any]) -> None:
    """Makes the schema and its views anew, in the caller's transaction, and lets the role read them."""
    for statement in _statements():
        connection.execute(statement)
    connection.execute(_comment(SQL("schema reporting"), _description()))
    grant_reading(connection, ROLE)


def reporting_stands(connection: psycopg.Connection[Any]) -> bool:
    """Whether the schema is there, is that of this version, and can be read by the role, where there is one."""
    return connection.execute(IS_REPORTING_SCHEMA_CURRENT, (_description(), ROLE)).fetchone() is not None


def grant_reading(connection: psycopg.Connection[Any], role: str) -> None:
    """Lets a role read the views, and nothing else; makes the role where it is missing and may be made.

    Roles belong to the whole cluster: another database's migration may make it at the same moment.
    """
    known = connection.execute("select from pg_roles where rolname = %s", (role,)).fetchone() is not None
    if known or _made(connection, role):
        reader = Identifier(role)
        connection.execute(SQL("grant usage on schema reporting to {}").format(reader))
        connection.execute(SQL("grant select on all tables in schema reporting to {}").format(reader))


def _made(connection: psycopg.Connection[Any], role: str) -> bool:
    """Whether the role is there now."""
    try:
        with connection.transaction():
            connection.execute(SQL("create role {} nologin").format(Identifier(role)))
    except (psycopg.errors.DuplicateObject, psycopg.errors.UniqueViolation):
        return True
    except psycopg.errors.InsufficientPrivilege:
        log.warning("the reporting role is missing and may not be made here; make it and migrate again", role=role)
        return False
    return True


def _statements() -> list[Composed]:
    """Everything but the comment on the schema and the grants."""
    made = [Composed([SQL("drop schema if exists reporting cascade")]), Composed([SQL("create schema reporting")])]
    for name, (meaning, select) in TABLES.items():
        made += _view(name, meaning, SQL(select))
    for metric in REPORT_METRICS:
        extra = Composed([SQL(", f.{}").format(Identifier(column)) for column in metric.extra])
        made += _view(metric.name, view_comment(metric), FACTS.format(facts=SQL(metric.facts), extra=extra))
        made += [
            _comment(SQL("column {}").format(_named(metric.name, name)), comment)
            for name, comment in METRIC_COLUMNS.items()
        ]
    return made


def _view(name: str, meaning: str, select: SQL | Composed) -> list[Composed]:
    view = _named(name)
    return [SQL("create view {} as {}").format(view, select), _comment(SQL("view {}").format(view), meaning)]


def _named(*names: str) -> Identifier:
    return Identifier("reporting", *names)


def _comment(thing: SQL | Composed, words: str) -> Composed:
    return SQL("comment on {} is {}").format(thing, Literal(words))


def _description() -> str:
    """The comment on the schema; it ends with the hash of the definitions, which tells whether they changed."""
    text = "\n".join(statement.as_string() for statement in _statements())
    return f"{REPORTING_SCHEMA_COMMENT} Definitions {sha256(text.encode()).hexdigest()[:16]}."


def view_comment(metric: ReportMetric) -> str:
    """The comment on the view of a metric."""
    split = f" {metric.split}: what the rows are split by." if metric.split in metric.extra else ""
    return f"{metric.definition} Formula: {metric.formula}. Population: {metric.population} Unit: {metric.unit}.{split}"
