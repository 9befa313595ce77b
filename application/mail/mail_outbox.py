"""The outbox: a mail for each closing. Whoever sends one leases it, and gives the lease back with the outcome.

A lease is a moment up to which the mail is not due, so a killed worker's mail is free again by itself. It lasts longer
than a delivery may take. No transaction is open while a mail server is waited for.
"""

from datetime import datetime, timedelta
from typing import Any, LiteralString
from uuid import UUID, uuid4

import msgspec
import psycopg

from application.mail.smtp import DELIVERY_SECONDS

FOLLOW_BATCH = 5_000
LEASE = timedelta(seconds=DELIVERY_SECONDS + 30)

INSERT_DUE_MAILS: LiteralString = """
    with place as (  -- none where nothing came: then nothing is locked
        select position from followers
        where name = 'closure_mail' and position < (select max(position) from log) for update skip locked),
    batch as materialized (
        select max(next.position) as position, count(*) as count, min(ord) as lowest, max(ord) as highest
        from place cross join lateral (
            select position, ord from log where position > place.position order by position limit %(batch)s) next),
    closed as (  -- by an index of their own: of all other events nothing is read but the place in the log
        select stream_id, version from place, batch cross join lateral (
            select stream_id, version, ord from events
            where type = 'Ticket.Closed' and ord between batch.lowest and batch.highest) found
        where exists (
            select from log
            where log.ord = found.ord and log.position > place.position and log.position <= batch.position)),
    queued as (
        insert into closure_mails (ticket_id, closed_version, message_id, due_at, queued_at)
        select stream_id, version, '<ticket.' || stream_id || '.closed.' || version || '@' || %(domain)s || '>',
            %(now)s, %(now)s
        from closed on conflict do nothing)
    update followers set position = batch.position from batch
    where name = 'closure_mail' and batch.count > 0
    returning batch.count"""
LEASE_MAIL: LiteralString = """
    update closure_mails set lease = %(lease)s, due_at = %(until)s
    where (ticket_id, closed_version) = (
        select ticket_id, closed_version from closure_mails
        where state = 'due' and due_at <= %(now)s order by due_at limit 1 for update skip locked)
    returning ticket_id, closed_version, message_id, attempts + 1, lease, first_refused_at"""
# What the mail server has accepted is sent, also when the lease had run out meanwhile.
SETTLE: LiteralString = """
    update closure_mails set state = %(state)s, attempts = %(attempts)s, last_error = %(reason)s, due_at = %(at)s,
        settled_at = case when %(state)s = 'due' then null else %(at)s::timestamptz end, lease = null,
        first_refused_at = %(first_refused_at)s, needs_desk = %(needs_desk)s, address = coalesce(%(address)s, address)
    where ticket_id = %(ticket_id)s and closed_version = %(closed_version)s and state = 'due'
        and (lease = %(lease)s or %(state)s = 'sent')"""
RELEASE: LiteralString = "update closure_mails set due_at = %s, lease = null where lease = %s"


class DueMail(msgspec.Struct, frozen=True):
    """A mail that was leased to be sent; `attempts` counts this one, `first_refused_at` is of the first refusal."""

    ticket_id: UUID
    closed_version: int
    message_id: str
    attempts: int
    lease: UUID
    first_refused_at: datetime | None


class MailOutcome(msgspec.Struct, frozen=True):
    """What became of a mail: "sent", "failed" or "withdrawn" at a time, or "due" again; why, and for which address.

    `needs_desk`: it waits for whoever runs the desk.
    """

    state: str
    at: datetime
    reason: str | None = None
    address: str | None = None
    first_refused_at: datetime | None = None
    needs_desk: bool = False


def queue_due_mails(connection: psycopg.Connection[Any], domain: str, now: datetime) -> int:
    """Queues a mail for each Closed event behind the follower's place. Returns how many events were looked at."""
    row = connection.execute(INSERT_DUE_MAILS, {"batch": FOLLOW_BATCH, "domain": domain, "now": now}).fetchone()
    return int(row[0]) if row else 0


def lease_mail(connection: psycopg.Connection[Any], now: datetime) -> DueMail | None:
    """The mail that is due longest, for nobody else until the lease runs out; None when none is due."""
    row = connection.execute(LEASE_MAIL, {"lease": uuid4(), "now": now, "until": now + LEASE}).fetchone()
    return DueMail(*row) if row else None


def settle_mail(connection: psycopg.Connection[Any], mail: DueMail, outcome: MailOutcome) -> bool:
    """Notes the outcome; False when somebody else has the mail now."""
    given = {**msgspec.structs.asdict(mail), **msgspec.structs.asdict(outcome)}
    return connection.execute(SETTLE, given).rowcount == 1


def release_mail(connection: psycopg.Connection[Any], mail: DueMail, now: datetime) -> None:
    """Gives it back as it was."""
    connection.execute(RELEASE, (now, mail.lease))
