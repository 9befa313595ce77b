"""`deskledger doctor`: what is wrong with this installation, and what to do about it."""

import argparse
from collections.abc import Iterator
from smtplib import SMTPException
from typing import Any
from urllib.parse import urlsplit

import msgspec
import psycopg

from api.cli.admin_commands import show
from application.mail.smtp import SmtpSender
from application.mail.smtp_replies import MailRefused
from application.settings import Settings
from application.store.postgres.database import connect
from application.store.postgres.embedded_postgres import database_url
from projections.status.checkup import Checkup, checkup

LEAST_POSTGRES = 150000
MOST_LAG = 10_000
UNSEALED_FINDING_SECONDS = 30
MOST_CLOCK_OFF = 1.0
LONG_WRITE_SECONDS = 10
SMTP_SECONDS = 5.0
DOCTOR_STATEMENT_SECONDS = 60
FOLLOWER_AHEAD = "the log was restored: run deskledger restored; rebuild projections, replay webhooks from its end"
MOST_TOLD = 3


class Finding(msgspec.Struct, frozen=True):
    """One thing that was looked at; `do` says what to do where it is not all right."""

    what: str
    says: str
    do: str = ""


def doctor(settings: Settings, options: argparse.Namespace) -> int:
    """Looks at everything. Returns 0 when nothing is wrong, else 1."""
    findings = [*_database(settings), *_mail_server(settings)]
    rows = [("WRONG" if each.do else "ok", each.what, each.says, each.do) for each in findings]
    show(("state", "what", "is", "do"), rows)
    wrong = sum(bool(finding.do) for finding in findings)
    print(f"\n{wrong} of {len(findings)} need you" if wrong else "\nnothing is wrong", flush=True)
    return 1 if wrong else 0


def _database(settings: Settings) -> Iterator[Finding]:
    source = "DATABASE_URL" if settings.database_url else f"embedded in {settings.data_dir}"
    try:
        with database_url(settings.database_url, settings.data_dir) as url, _connect(url) as connection:
            found = checkup(connection)
    except psycopg.OperationalError as error:
        yield Finding("database", f"{source} does not answer: {error}", "start it, or mend DATABASE_URL")
        return
    says = f"{source}: PostgreSQL {found.server_version // 10000}.{found.server_version % 10000}"
    says += "" if settings.database_url else f" at {url}"  # for psql and pg_dump
    yield Finding("database", says, "" if found.server_version >= LEAST_POSTGRES else "use PostgreSQL 15 or later")
    if found.missing_migrations:
        yield Finding("migrations", f"missing: {', '.join(found.missing_migrations)}", "run deskledger migrate")
        return
    yield Finding("migrations", "all applied")
    yield from _progress(found)
    make = "make one: deskledger keys create --name admin --role admin"
    yield Finding("admin keys", f"{found.admin_keys} valid", "" if found.admin_keys else make)
    yield from _time(found)
    yield from _mails(found, settings)
    yield from _references(found)


def _references(found: Checkup) -> Iterator[Finding]:
    held = "".join(f"; {ticket} by {who}" for ticket, who in found.first_held)
    do = "assign them to somebody, release them, or let the person sign in once"
    yield Finding("tickets held by nobody", f"{found.held_by_nobody}{held}", do if held else "")
    listed = "; ".join(" to ".join(map(str, circle)) for circle in found.circles)
    do = "these links were made before links had rules, or at once: know which one is the original"
    yield Finding("links in a circle", listed or "none", do if listed else "")


def _connect(url: str) -> psycopg.Connection[Any]:
    return connect(url, "doctor", DOCTOR_STATEMENT_SECONDS)  # it reads the whole directory


def _progress(found: Checkup) -> Iterator[Finding]:
    late = found.unsealed and found.oldest_unsealed_seconds > UNSEALED_FINDING_SECONDS
    do = "start a worker: deskledger serve, or deskledger work"
    says = f"{found.unsealed} events wait, the oldest {found.oldest_unsealed_seconds} s"
    yield Finding("sealer", says, do if late else "")
    for name, behind in sorted(found.lag.items()):
        yield Finding(f"projection {name}", f"{behind} events behind", do if behind > MOST_LAG else "")
    yield _parked(found)


def _parked(found: Checkup) -> Finding:
    listed = "".join(
        f"; {parked.projection} {parked.stream_id} since position {parked.since_position}: {parked.error}"
        for parked in found.parked[:MOST_TOLD]
    )
    do = "update the program, or mend what the error names; then run deskledger replay"
    return Finding("parked streams", f"{len(found.parked)}{listed}", do if found.parked else "")


def _time(found: Checkup) -> Iterator[Finding]:
    off = found.clock_off_seconds
    do = "set this host's clock and the database's right: commands are refused meanwhile"
    yield Finding("clock", f"{off:+.1f} s against the database's", do if abs(off) > MOST_CLOCK_OFF else "")
    says = f"the longest writes events for {found.oldest_writer_seconds} s; {found.prepared_transactions} are prepared"
    waits = found.oldest_writer_seconds > LONG_WRITE_SECONDS or found.prepared_transactions
    do = "reads by time wait for it: end it, or commit what is prepared (pg_stat_activity, pg_prepared_xacts)"
    yield Finding("transactions", says, do if waits else "")
    if found.imports:
        yield Finding("imports", f"{found.imports} sessions import", "reads by time wait until they are done")
    names = ", ".join(found.followers_ahead[:MOST_TOLD])
    says = f"{len(found.followers_ahead)} {names}".strip()
    yield Finding("followers beyond the log", says, FOLLOWER_AHEAD if names else "")
    listed = ", ".join(map(str, found.tickets_ahead[:MOST_TOLD]))
    says = "; a clock was ahead, and their next events are of the present again" if listed else ""
    yield Finding("tickets of the future", f"{len(found.tickets_ahead)} {listed}".strip() + says)


def _mails(found: Checkup, settings: Settings) -> Iterator[Finding]:
    wait = "mend what the mail server says; they are tried again by themselves" if found.waiting else ""
    if found.mails_due and not settings.smtp_url:
        wait = "set DESKLEDGER_SMTP_URL, so that they can leave"
    reasons = "".join(f"; {ticket_id}: {error}" for ticket_id, error in found.waiting)
    yield Finding("closing e-mails due", f"{found.mails_due}{reasons}", wait)
    listed = "".join(f"; {ticket_id}: {error}" for ticket_id, error in found.last_failed)
    do = "mend the client's address, then POST /v1/mails/{message_id}:retry; /v1/closure_mails?state=failed lists all"
    yield Finding("closing e-mails failed", f"{found.mails_failed}{listed}", do if listed else "")
    wrong = found.wrong_addresses
    listed = "".join(f"; {user_id}: {email}" for user_id, email in wrong[:MOST_TOLD])
    do = "correct them in the directory: PUT /v1/clients/{user_id}"
    yield Finding("clients' addresses", f"{len(wrong)} that cannot be one{listed}", do if wrong else "")


def _mail_server(settings: Settings) -> Iterator[Finding]:
    if not settings.smtp_url:
        do = "set DESKLEDGER_SMTP_URL=smtp://host:port; until then closing e-mails wait in the outbox"
        yield Finding("mail server", "DESKLEDGER_SMTP_URL is not set", do)
        return
    url = urlsplit(settings.smtp_url)
    name = f"{url.hostname}:{url.port or (465 if url.scheme == 'smtps' else 25)}"
    try:
        SmtpSender(settings.smtp_url, SMTP_SECONDS).check()
    except (OSError, SMTPException, MailRefused) as error:
        yield Finding("mail server", f"{name} takes no mail: {error}", "start it, or mend DESKLEDGER_SMTP_URL")
    else:
        yield Finding("mail server", f"{name} answers")
