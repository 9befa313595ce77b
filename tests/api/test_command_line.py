"""The command line, as somebody types it."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from uuid import UUID

import psycopg
import pytest

from api.cli.command_line import advice
from api.cli.demo.screen import Screen
from api.cli.doctor import FOLLOWER_AHEAD
from application.clock import utc_now
from application.helpdesk import HelpDesk
from application.identity.api_keys import hash_of
from application.store.postgres.database import connect
from application.store.sealing import seal_all
from application.store.snapshots import FOLD
from domain.client import Contact
from projections.runner import project_all
from tests.support.command_line import Run, run
from tests.support.random_walk import Walk
from tests.support.running_desk import ROOT, Mailbox, free_port
from tests.support.write_side import STAFF, append, notes, opened


@pytest.fixture
def deskledger(database: str) -> Run:
    """Commands on the test's database."""
    return lambda *words, **environment: run(*words, DATABASE_URL=database, **environment)


def test_a_key_is_alone_on_the_last_line_and_only_its_hash_is_stored(
    deskledger: Run, connection: psycopg.Connection
) -> None:
    """`keys create` prints the key once; the database holds nothing that opens the desk."""
    made = deskledger("keys", "create", "--name", "front desk", "--role", "intake", "--role", "quality")
    key = made.stdout.splitlines()[-1]
    assert (made.returncode, made.stdout) == (0, f"{key}\n")
    assert re.fullmatch(r"dl_[\w-]{43}", key)
    stored = connection.execute("select name, roles, hash from api_keys").fetchall()
    assert stored == [("front desk", ["intake", "quality"], hash_of(key))]


def test_keys_are_listed_and_revoked(deskledger: Run) -> None:
    """`keys list` is tab-separated when piped; a revoked key says so; revoking it again says what to look at."""
    deskledger("keys", "create", "--name", "tier 1", "--role", "agent", "--level", "tier1", "--expires", "30")
    header, row = [line.split("\t") for line in deskledger("keys", "list").stdout.splitlines()]
    assert header == ["id", "name", "roles", "levels", "client", "created", "used", "ends", "state"]
    assert [row[1], row[2], row[3], row[6], row[8]] == ["tier 1", "agent", "tier1", "", "valid"]
    assert deskledger("keys", "revoke", row[0]).stdout == f"revoked {row[0]}: it ends within seconds\n"
    assert deskledger("keys", "list").stdout.splitlines()[1].endswith("revoked")
    again = deskledger("keys", "revoke", row[0])
    assert (again.returncode, again.stderr) == (
        1,
        f"deskledger: no valid key has the id {row[0]}: see deskledger keys list\n",
    )


def test_what_is_stored_cannot_steer_a_terminal(
    deskledger: Run, connection: psycopg.Connection, capsys: pytest.CaptureFixture[str]
) -> None:
    """A name of before may hold anything: in a list it stays in its cell, and no escape sequence is sent. So in the
    demo."""
    deskledger("keys", "create", "--name", "x", "--role", "admin")
    connection.execute("update api_keys set name = %s", ("a\x1b]0;owned\x07\tb\nforged\u202e",))
    listed = deskledger("keys", "list").stdout
    assert len(listed.splitlines()) == 2
    assert listed.splitlines()[1].split("\t")[1] == "a␛]0;owned␇␉b⏎forged<U+202E>"
    Screen().say("a\x1b[2J\n", ("b\u202e\x9b", "bold"))
    assert capsys.readouterr().out == "a␛[2J⏎b<U+202E><U+009B>\n"


def test_half_characters_of_a_shell_are_refused(deskledger: Run) -> None:
    """Bytes that are no UTF-8 reach Python as half surrogate pairs: one line says so, and nothing is made."""
    for words in (["--name", "a\udcff"], ["--name", "\u200b"], ["--name", "x", "--client", "a\udcff"]):
        role = "client" if "--client" in words else "admin"
        refused = deskledger("keys", "create", *words, "--role", role)
        assert (refused.returncode, refused.stdout) == (1, "")
        assert refused.stderr.startswith("deskledger: ")
        assert len(refused.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--role", "agent"), "the role agent and a level belong together"),
        (("--role", "intake", "--level", "tier1"), "the role agent and a level belong together"),
        (("--role", "client"), "the role client and a client's user ID belong together"),
        (("--role", "boss"), "'boss' is none of intake, agent, quality, it_manager, client, auditor, reporter, admin"),
        (("--role", "agent", "--level", "it_manager"), "'it_manager' is none of tier1, tier2, tier3, onsite, noc"),
        (("--role", "intake", "--expires", "0"), "takes a whole number of days"),
    ],
)
def test_a_key_that_makes_no_sense_is_not_made(
    deskledger: Run, connection: psycopg.Connection, words: tuple[str, ...], says: str
) -> None:
    """Roles, levels and client have to fit together; the error says how."""
    refused = deskledger("keys", "create", "--name", "x", *words)
    assert refused.returncode in (1, 2)
    assert says in refused.stderr
    assert connection.execute("select count(*) from api_keys").fetchone() == (0,)


def test_migrate_says_what_it_did(empty_database: str) -> None:
    """The first time it names what it applied, the second time that there was nothing to do."""
    first = run("migrate", DATABASE_URL=empty_database)
    assert "applied 0001_event_store.sql" in first.stdout
    assert "applied projection queue_stays" in first.stdout
    assert run("migrate", DATABASE_URL=empty_database).stdout == "the schema is up to date\n"


def test_migrate_takes_the_snapshots_of_long_tickets(
    deskledger: Run, desk: HelpDesk, connection: psycopg.Connection
) -> None:
    """Of those that are there and will perhaps never change again, as after an upgrade, without a worker."""
    ticket = opened(desk)
    append(connection, notes(ticket, 6, 100))
    assert deskledger("migrate").stdout == "the schema is up to date\n"
    found = connection.execute(
        "select stream_id, version from snapshots where fold = %s order by 2", (FOLD,)
    ).fetchall()
    assert found == [(ticket, 25), (ticket, 50), (ticket, 75), (ticket, 100)]


def test_rebuild_shows_the_tables_that_it_compared(
    deskledger: Run, desk: HelpDesk, connection: psycopg.Connection
) -> None:
    """One line for each table: rows, and how many differ."""
    list(Walk(desk, seed=21).steps(60))
    seal_all(connection)
    project_all(connection)
    rebuilt = deskledger("rebuild", "closings")
    count = connection.execute("select count(*) from closings").fetchone()[0]
    assert rebuilt.stdout == f"table\trows\tonly in the old one\tonly in the new one\nclosings\t{count}\t0\t0\n"
    unknown = deskledger("rebuild", "everything")
    assert unknown.stderr.startswith("deskledger: there is no projection 'everything': ticket_summaries, queue_stays")


def test_doctor_finds_nothing_wrong_where_nothing_is(deskledger: Run) -> None:
    """With a database, an admin key and a mail server that answers: exit status 0."""
    from aiosmtpd.controller import Controller

    deskledger("keys", "create", "--name", "admin", "--role", "admin")
    server = Controller(Mailbox(), hostname="127.0.0.1", port=free_port())
    server.start()
    try:
        healthy = deskledger("doctor", DESKLEDGER_SMTP_URL=f"smtp://127.0.0.1:{server.port}")
    finally:
        server.stop()
    assert (healthy.returncode, "WRONG" in healthy.stdout) == (0, False)
    assert healthy.stdout.endswith("\nnothing is wrong\n")


def test_doctor_says_what_to_do(deskledger: Run, connection: psycopg.Connection, desk: HelpDesk) -> None:
    """No key, no mail server, mails that failed or wait for the desk, an address that is none: each with its remedy."""
    connection.execute("""
        insert into closure_mails (ticket_id, closed_version, message_id, state, due_at, queued_at, last_error)
        values (gen_random_uuid(), 9, '<x>', 'failed', now(), now(), '550 no such user')""")
    connection.execute("""
        insert into closure_mails (ticket_id, closed_version, message_id, due_at, queued_at, last_error, needs_desk)
        values (gen_random_uuid(), 9, '<y>', now(), now(), '554 5.7.1 Relay access denied', true)""")
    directory = {"old": ["a..b@example.org"], "fine": ["anne@münchen.example"], "mended": ["a@b", "a@b.example"]}
    for user_id, emails in directory.items():  # as earlier versions took them
        for email in emails:
            desk.register_client(user_id, Contact(user_id, email), STAFF, utc_now())
    connection.execute("""
        insert into events (ord, stream_id, version, at, type, body, meta, leaf) select nextval('events_ord'),
        gen_random_uuid(), 1, now() - interval '1 hour', 'Ticket.RequestReceived', '{}', '{}', ''""")
    ill = deskledger("doctor", DESKLEDGER_SMTP_URL=f"smtp://127.0.0.1:{free_port()}")
    wrong = {line.split("\t")[1]: line.split("\t")[3] for line in ill.stdout.splitlines() if line.startswith("WRONG")}
    assert set(wrong) == {
        *("sealer", "admin keys", "closing e-mails due", "closing e-mails failed"),
        *("clients' addresses", "mail server"),
    }
    assert "1 that cannot be one; old: a..b@example.org\t" in ill.stdout
    assert "Relay access denied" in ill.stdout
    assert all(wrong.values())
    assert "550 no such user" in ill.stdout
    assert ill.returncode == 1


def test_doctor_looks_at_times(deskledger: Run, connection: psycopg.Connection, database: str) -> None:
    """A transaction that writes for long, an import, a follower beyond the log; a ticket of the future is named."""
    connection.execute("update followers set position = 99")
    connection.execute("""
        insert into ticket_summaries (ticket_id, version, position, state, channel, escalations, waiting_on_client,
            created_at, updated_at)
        select lpad('7', 32, '0')::uuid, 1, 1, 'received', 'phone', 0, false, now(), now() + interval '1 year'""")
    with HelpDesk.connect(database, importing=True) as desk, connect(database, "writer") as writer:
        desk.recorder.fetch("select 1")
        writer.autocommit = False
        writer.execute("lock table events in row exclusive mode")
        ill = deskledger("doctor")
        writer.rollback()
    found = {line.split("\t")[1]: line.split("\t") for line in ill.stdout.splitlines() if "\t" in line}
    assert found["clock"][0] == "ok"
    assert found["followers beyond the log"][2:] == ["1 closure_mail", FOLLOWER_AHEAD]
    assert found["imports"][2].endswith("sessions import")
    assert str(UUID(int=7)) in found["tickets of the future"][2]
    assert re.fullmatch(r"the longest writes events for \d+ s; 0 are prepared", found["transactions"][2])


def test_restored_gives_the_log_another_identity(deskledger: Run, connection: psycopg.Connection) -> None:
    """It prints the new one."""
    known = connection.execute("select id from log_identity").fetchone()[0]
    told = deskledger("restored")
    new = connection.execute("select id from log_identity").fetchone()[0]
    assert (told.returncode, str(new) in told.stdout, new != known) == (0, True, True)


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (psycopg.OperationalError(), "mend DATABASE_URL"),
        (psycopg.errors.DeadlockDetected(), "run it again"),
        (psycopg.errors.LockNotAvailable(), "run it again"),
        (psycopg.errors.QueryCanceled(), "took too long"),
        (psycopg.errors.DiskFull(), "no room"),
        (psycopg.errors.InsufficientPrivilege(), "run deskledger migrate"),
        (psycopg.errors.AdminShutdown(), "Start it"),
        (psycopg.errors.InvalidPassword(), "mend DATABASE_URL"),
        (psycopg.errors.CheckViolation(), "deskledger doctor"),
    ],
)
def test_the_advice_fits_the_error(error: psycopg.Error, says: str) -> None:
    """Only who cannot reach the database is told to mend its address."""
    assert says in advice(error)
    unreached = error.sqlstate in (None, "57P01", "28P01")
    assert ("mend DATABASE_URL" in advice(error)) == unreached


def test_doctor_of_an_empty_or_absent_database(empty_database: str) -> None:
    """Missing migrations and a database that does not answer are findings, not tracebacks."""
    empty = run("doctor", DATABASE_URL=empty_database)
    assert "WRONG\tmigrations\tmissing: 0001_event_store.sql" in empty.stdout
    absent = run("doctor", DATABASE_URL=f"postgresql://127.0.0.1:{free_port()}/nothing")
    assert "WRONG\tdatabase\tDATABASE_URL does not answer" in absent.stdout
    assert (empty.returncode, absent.returncode) == (1, 1)


@pytest.mark.parametrize("words", [("keys", "list"), ("migrate",), ("rebuild", "closings")])
def test_a_database_that_is_gone_is_one_clear_error(words: tuple[str, ...]) -> None:
    """No traceback: what does not answer, and what to do."""
    failed = run(*words, DATABASE_URL=f"postgresql://somebody:secret-word@127.0.0.1:{free_port()}/nothing")
    assert failed.returncode == 1
    assert "Traceback" not in failed.stderr
    assert "secret-word" not in failed.stderr
    assert failed.stderr.endswith("Start it, or mend DATABASE_URL.\n")


@pytest.mark.parametrize("part", ["api", "work"])
def test_a_part_alone_needs_a_database(part: str) -> None:
    """`api` and `work` bring none of their own; they say what does."""
    refused = run(part, DATABASE_URL="")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.startswith("deskledger: DATABASE_URL is not set: a part alone needs it")


def test_keys_before_the_first_serve(directory: Path, embedded: None) -> None:
    """With the embedded database, a command starts it for as long as it is needed, and stops it again."""
    made = run("keys", "create", "--name", "a", "--role", "admin", DATABASE_URL="", DESKLEDGER_DATA_DIR=str(directory))
    assert made.returncode == 0
    assert not (directory / "postgres" / "postmaster.pid").exists()


def test_help_teaches() -> None:
    """Every command is listed with what it does, and the help of one begins with a sentence."""
    shown = run("--help").stdout
    for command in ("serve", "api", "work", "migrate", "demo", "keys", "rebuild", "doctor"):
        assert re.search(rf"^    {command} +\S", shown, re.MULTILINE), command
    assert "first steps:" in shown
    assert "Everything on one machine" in run("serve", "--help").stdout


def test_logs_are_json_lines_when_nobody_is_looking(deskledger: Run) -> None:
    """A worker that cannot reach its database logs one JSON object a line, without secrets, and ends on SIGTERM."""
    environment = {**os.environ, "DATABASE_URL": f"postgresql://somebody:secret-word@127.0.0.1:{free_port()}/nothing"}
    command = [sys.executable, "-m", "api.cli", "work"]
    with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) as worker:
        lines = [worker.stderr.readline() for _ in range(3)]
        worker.terminate()
        assert worker.wait(20) == 0
        worker.stderr.read()
    events = [json.loads(line)["event"] for line in lines]
    assert events == ["worker started", "worker failed, trying again", "worker failed, trying again"]
    assert "secret-word" not in "".join(lines)
