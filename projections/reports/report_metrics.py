"""What the desk measures: every metric once, with its words and the SQL of its rows.

The same table makes the views of `reporting`, their comments, the answers of `/v1/reports` and what
`docs/reference/reports.md` has to say. A row of a metric is one event or one ticket; its columns are described in
`METRIC_COLUMNS`. A figure asked for up to a moment is made of what was known before that moment, so that asking again
later gives the same answer.
"""

from typing import Literal, LiteralString

import msgspec

GroupName = Literal["level", "category", "priority", "week", "queue"]
GROUPS: tuple[GroupName, ...] = ("level", "category", "priority", "week")  # of every metric
METRIC_COLUMNS = {
    "ticket_id": "the ticket",
    "at": "the date by which the row is counted",
    "since": "from when on the row is known, at or after at; it counts for a moment after this",
    "until": "when it stopped to be so, null while it is so; it counts for a moment up to this",
    "week": "the ISO week of at, in UTC, as in 2026-W45",
    "level": "the level that the row is about; null before a ticket has reached one",
    "category": "the ticket's category; null before it is documented",
    "priority": "the ticket's priority at that date, 1 is worked first; null before it is documented",
    "counted": "whether the row belongs to the numerator",
    "value": "the measured seconds of calendar time; null where the metric counts instead of measuring",
}
RATIO = "ratio from 0 to 1; null when nothing is in the population"
SECONDS_UNIT = "seconds of calendar time: nights, weekends and waiting on the client count; null without a population"


class ReportMetric(msgspec.Struct, frozen=True, kw_only=True):
    """A metric. `facts` selects its rows: ticket_id, at, since, until, level, priority, counted, value and the extra
    columns. `kind` says what `value` of an answer is: a share of the rows, the mean of their values, or their number.

    `part` is what splits the rows further, under the name `split`; `headline` is the part that the figures of a whole
    cell are those of, where the parts are different things. `where` picks the rows of a window from `lo` to `hi`.
    """

    name: str
    definition: str
    formula: str
    population: str
    unit: str
    facts: LiteralString
    kind: str = "share"
    split: str | None = None
    part: LiteralString = "null::text"
    headline: str | None = None
    extra: tuple[str, ...] = ()
    where: LiteralString = "at >= lo"
    has_beginning: bool = True
    group_by: tuple[GroupName, ...] = GROUPS


REPORT_METRICS: tuple[ReportMetric, ...] = (
    ReportMetric(
        name="first_level_resolution_rate",
        definition="How much the first level finishes by itself: tickets closed without ever having been escalated,"
        " however many contacts it took.",
        formula="tickets without an escalation before their first closing / tickets closed for the first time",
        population="Unique tickets, each once, by the date of its first closing. Every ticket passes tier 1, so all of"
        " them are tier 1's. Cancelled tickets are not among them; what happens after a reopening changes nothing."
        " level: the level that closed.",
        unit=RATIO,
        facts="""
            select ticket_id, closed_at as at, closed_at as since, null::timestamptz as until, level, priority,
                escalations = 0 as counted, null::float8 as value
            from reporting.closings where reopenings = 0""",
    ),
    ReportMetric(
        name="time_to_resolve",
        definition="How long the client had the issue: from the receipt of the request to the first resolution (first)"
        " and to the one that stands (full). The figures of a cell are those of full.",
        formula="sum of the times from receipt to resolution / number of tickets; mean, p50 and p90 (interpolated)",
        population="Unique tickets that stand closed at the end of the window, each once, by the date of its last"
        " closing; first and full have the same tickets. A ticket that was reopened since is not among them until it"
        " is closed again; then full runs from the first receipt on. level: the level that closed.",
        unit=SECONDS_UNIT,
        kind="duration",
        split="resolution",
        part="resolution",
        headline="full",
        extra=("resolution",),
        facts="""
            select ticket_id, closed_at as at, closed_at as since, reopened_at as until, level, priority,
                true as counted, extract(epoch from r.at - received_at)::float8 as value, resolution
            from reporting.closings,
                lateral (values ('first', first_resolved_at), ('full', resolved_at)) r(resolution, at)""",
    ),
    ReportMetric(
        name="time_to_close",
        definition="How long a ticket takes as a whole: from the receipt of the request to its closing.",
        formula="sum of the times from receipt to closing / number of tickets; mean, p50 and p90 (interpolated)",
        population="Unique tickets that stand closed at the end of the window, each once, by the date of its last"
        " closing: the same tickets as in time_to_resolve. level: the level that closed.",
        unit=SECONDS_UNIT,
        kind="duration",
        facts="""
            select ticket_id, closed_at as at, closed_at as since, reopened_at as until, level, priority,
                true as counted, extract(epoch from closed_at - received_at)::float8 as value
            from reporting.closings""",
    ),
    ReportMetric(
        name="time_at_level",
        definition="How long a level holds a ticket at a stretch: from its arrival at the level until the level"
        " resolves, escalates or returns it, or it is cancelled.",
        formula="sum of the lengths of the stays / number of stays; mean, p50 and p90 (interpolated)",
        population="Events: every stay at tier1, tier2, tier3, onsite, noc or it_manager, by the date of its end; a"
        " ticket that comes back (failed quality control, returned, reopened) begins another stay. Stays that have not"
        " ended are not counted. level: the level that held the ticket.",
        unit=SECONDS_UNIT,
        kind="duration",
        facts="""
            select ticket_id, left_at as at, left_at as since, null::timestamptz as until, queue as level, priority,
                true as counted, seconds as value
            from reporting.queue_stays
            where queue in ('tier1', 'tier2', 'tier3', 'onsite', 'noc', 'it_manager') and left_at is not null""",
    ),
    ReportMetric(
        name="escalation_rate",
        definition="How often a level hands a ticket one rung up, as a whole and for each edge of the ladder.",
        formula="stays at the level ended by an escalation / stays at the level ended in any way",
        population="Events: every stay at tier1, tier2, tier3 or onsite, by the date of its end; noc has no rung above"
        " it. A ticket that comes back begins another stay. level: the level that held the ticket.",
        unit=RATIO,
        split="edge",
        part="edge",
        extra=("edge",),
        facts="""
            select ticket_id, left_at as at, left_at as since, null::timestamptz as until, queue as level, priority,
                left_by = 'Ticket.Escalated' as counted, null::float8 as value,
                case queue when 'tier1' then 'tier1>tier2' when 'tier2' then 'tier2>tier3'
                    when 'tier3' then 'tier3>onsite' else 'onsite>it_manager' end as edge
            from reporting.queue_stays
            where queue in ('tier1', 'tier2', 'tier3', 'onsite') and left_at is not null""",
    ),
    ReportMetric(
        name="qualification_accuracy",
        definition="How often a level that received a ticket was right about what it can resolve. can_resolve is right"
        " when the level's resolution passes quality control, and wrong when the level escalates before that."
        " cannot_resolve is right when the next resolution to pass quality control is another level's, and wrong when"
        " it is, after a return, that of the level itself.",
        formula="verdicts that turned out right / verdicts that turned out right or wrong",
        population="Events: every verdict, by the date on which it turned out right or wrong. Verdicts that nothing"
        " has decided yet, or never will because the ticket was cancelled, are not counted. level: the level that gave"
        " the verdict.",
        unit=RATIO,
        split="verdict",
        part="verdict",
        extra=("verdict",),
        facts="""
            select s.ticket_id, d.left_at as at, d.left_at as since, null::timestamptz as until, s.level, s.priority,
                d.left_by = 'Ticket.QCVerified' and (d.level = s.level) = (s.qualification = 'can_resolve') as counted,
                null::float8 as value, s.qualification as verdict
            from reporting.queue_stays d join reporting.queue_stays s on s.ticket_id = d.ticket_id
                and s.entered_position <= d.entered_position
                and s.entered_by in ('Ticket.Escalated', 'Ticket.ReturnedToLevel')
                and (s.qualification = 'can_resolve'
                     or s.qualification = 'cannot_resolve' and d.left_by = 'Ticket.QCVerified')
            where d.queue in ('tier2', 'tier3', 'onsite', 'quality_control')
                and d.left_by in ('Ticket.Escalated', 'Ticket.QCVerified') and not exists (
                    select from reporting.queue_stays e  -- what has decided it before
                    where e.ticket_id = s.ticket_id and e.entered_position >= s.entered_position
                        and e.entered_position < d.entered_position and (e.left_by = 'Ticket.QCVerified'
                            or e.left_by = 'Ticket.Escalated' and s.qualification = 'can_resolve'))""",
    ),
    ReportMetric(
        name="qc_failure_rate",
        definition="How often quality control finds that the issue is not resolved to the client's satisfaction.",
        formula="resolutions that failed quality control / resolutions that passed or failed it",
        population="Events: every verdict of quality control, by its date; a ticket has one for each resolution that"
        " was checked. level: the level that resolved.",
        unit=RATIO,
        facts="""
            select ticket_id, left_at as at, left_at as since, null::timestamptz as until, level, priority,
                left_by = 'Ticket.QCFailed' as counted, null::float8 as value
            from reporting.queue_stays
            where queue = 'quality_control' and left_by in ('Ticket.QCVerified', 'Ticket.QCFailed')""",
    ),
    ReportMetric(
        name="reopen_rate",
        definition="How often a closing did not last: the client had the ticket reopened.",
        formula="closings followed by a reopening before the end of the window / closings",
        population="Events: every closing, by its date; a ticket has one for each time that it was closed. The figure"
        " of a recent window rises until the reopen window is over: ask with a later end for what came since."
        " level: the level that closed.",
        unit=RATIO,
        facts="""
            select ticket_id, closed_at as at, closed_at as since, reopened_at as until, level, priority,
                false as counted, null::float8 as value
            from reporting.closings
            union all
            select ticket_id, closed_at, reopened_at, null, level, priority, true, null
            from reporting.closings where reopened_at is not null""",
    ),
    ReportMetric(
        name="backlog",
        definition="How many tickets are open at a moment, the end of the window, and how old they are: less than 10"
        " days, 10 to 30 days, more than 30 days since they were received or last reopened.",
        formula="number of open tickets; for each age band the number of those of that age",
        population="Unique tickets that are open at the end of the window, going by what happened before it, whatever"
        " the beginning is. level: the level that holds the ticket or whose resolution is being checked; week: the"
        " week in which it was received or last reopened; queue: the queue that it is in.",
        unit="tickets",
        kind="count",
        split="age_band",
        part="""case when hi - at < interval '10 days' then '<10'
                     when hi - at <= interval '30 days' then '10-30' else '>30' end""",
        extra=("queue", "entered_at", "left_at"),
        where="entered_at < hi and (left_at is null or left_at >= hi)",  # implied by since and until, but indexed
        has_beginning=False,
        group_by=(*GROUPS, "queue"),
        facts="""
            select s.ticket_id, o.at, x.since, x.until, s.level, nullif(x.rank, 6)::int as priority, true as counted,
                null::float8 as value, s.queue, s.entered_at, s.left_at
            from reporting.queue_stays s
            cross join lateral (
                select q.entered_at as at from reporting.queue_stays q
                where q.ticket_id = s.ticket_id and q.entered_position <= s.entered_position
                    and q.entered_by in ('Ticket.RequestReceived', 'Ticket.Reopened')
                order by q.entered_position desc limit 1) o
            cross join lateral (
                select rank, since, coalesce(lead(since) over (order by position), s.left_at) as until
                from (select s.entered_position as position, s.entered_at as since,
                          coalesce(s.entered_priority, 6) as rank
                      union all
                      select c.position, c.at, c.rank from rank_changes c
                      where c.ticket_id = s.ticket_id and c.position > s.entered_position
                          and (s.left_position is null or c.position < s.left_position)) changes) x""",
    ),
    ReportMetric(
        name="throughput",
        definition="How many tickets the desk closes; beside it every other movement into and out of the open"
        " tickets: new, reopened, closed, cancelled. The figures of a cell are those of closed.",
        formula="number of closings; and ending = opening + new + reopened - closed - cancelled",
        population="Events: every receipt, reopening, closing and cancellation, by its date; a reopened ticket is"
        " closed more than once. level: the level that holds the ticket at the movement, null for new ones.",
        unit="movements of tickets",
        kind="count",
        split="movement",
        part="movement",
        headline="closed",
        extra=("movement",),
        facts="""
            select ticket_id, entered_at as at, entered_at as since, null::timestamptz as until, level,
                entered_priority as priority, false as counted, null::float8 as value,
                case entered_by when 'Ticket.Reopened' then 'reopened' else 'new' end as movement
            from reporting.queue_stays where entered_by in ('Ticket.RequestReceived', 'Ticket.Reopened')
            union all
            select ticket_id, left_at, left_at, null, level, priority, left_by = 'Ticket.Closed', null,
                case left_by when 'Ticket.Closed' then 'closed' else 'cancelled' end
            from reporting.queue_stays where left_by in ('Ticket.Closed', 'Ticket.Cancelled')""",
    ),
    ReportMetric(
        name="closure_mail_success",
        definition="How many closing e-mails the mail server accepted.",
        formula="closing e-mails accepted / closing e-mails accepted or refused for good",
        population="Events: every closing e-mail whose outcome is known, by the date of the outcome; one for each"
        " closing. One that failed counts as failed up to the moment when it was sent again and accepted."
        " level: the level that closed.",
        unit=RATIO,
        facts="""
            select ticket_id, mail_failed_at as at, mail_failed_at as since, null::timestamptz as until, level,
                priority, false as counted, null::float8 as value
            from reporting.closings where mail = 'failed' and mail_failed_at is not null
            union all
            select ticket_id, mail_failed_at, mail_failed_at, mail_at, level, priority, false, null
            from reporting.closings where mail = 'sent' and mail_failed_at is not null
            union all
            select ticket_id, mail_at, mail_at, null, level, priority, true, null
            from reporting.closings where mail = 'sent'""",
    ),
)
BY_NAME = {metric.name: metric for metric in REPORT_METRICS}
