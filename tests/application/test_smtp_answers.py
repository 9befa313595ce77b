"""What mail servers answer, and what becomes of the mail: sent once for every 250, never lost, rightly ended.

The table was written by hand. Each case is a mail of its own, to a server that answers one phase as the case says and
everything else as usual. A mail that waits is then sent to a server that is well, and arrives.
"""

import ssl
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from application.helpdesk import HelpDesk
from application.mail.closure_mail import ClosureMailer
from application.mail.mail_outbox import queue_due_mails
from application.mail.smtp import SmtpSender
from application.mail.smtp_replies import SUBJECTS, MailRefused, Phase, Trouble, trouble_with
from application.store.postgres import database as databases
from application.store.sealing import seal_all
from tests.application.test_closure_mail import FROM, WINDOW, at, closed
from tests.support.scripted_smtp import CLOSE, DRIP, GARBAGE, RESET, ScriptedMailServer
from tests.support.tls_identity import IDENTITY
from tests.support.write_side import NOW

# phase, what the server says to it, and what the mail is then: due, due for the desk ("desk"), failed or sent
ANSWERS = """
CONNECT   | 421 4.3.2 too busy                                           | due
CONNECT   | 554 5.7.1 your address is blocked                            | desk
CONNECT   | 554 no SMTP service here                                     | desk
CONNECT   | 521 host does not accept mail                                | desk
EHLO      | 421 4.7.0 try later                                          | due
EHLO      | 550 5.7.1 helo refused                                       | desk
EHLO      | 504 5.5.2 need a fully qualified name                        | desk
MAIL      | 421 4.4.2 closing                                            | due
MAIL      | 450 4.1.8 sender domain not found                            | due
MAIL      | 451 4.7.1 greylisted                                         | due
MAIL      | 452 4.3.1 system storage full                                | due
MAIL      | 501 5.1.7 bad sender address syntax                          | desk
MAIL      | 530 5.7.0 must issue a STARTTLS command first                | desk
MAIL      | 530 authentication required                                  | desk
MAIL      | 550 5.1.0 sender rejected                                    | desk
MAIL      | 550 5.1.8 sender domain does not exist                       | desk
MAIL      | 550 5.7.23 SPF check failed                                  | desk
MAIL      | 550 no                                                       | desk
MAIL      | 552 5.3.4 message size exceeds the limit                     | failed
MAIL      | 552 message too big                                          | failed
MAIL      | 553 not your address                                         | desk
MAIL      | 554 5.7.0 policy                                             | desk
MAIL      | 555 5.5.4 unsupported option                                 | desk
RCPT      | 421 4.3.0 closing                                            | due
RCPT      | 450 4.2.0 greylisted                                         | due
RCPT      | 450 5.1.1 odd, but for now                                   | due
RCPT      | 451 temporary lookup failure                                 | due
RCPT      | 452 4.2.2 mailbox full                                       | due
RCPT      | 501 5.1.3 bad address syntax                                 | failed
RCPT      | 503 5.5.1 bad sequence                                       | desk
RCPT      | 521 5.3.2 host does not accept mail                          | desk
RCPT      | 530 log in first                                             | desk
RCPT      | 535 5.7.8 credentials invalid                                | desk
RCPT      | 550 5.1.1 no such user                                       | failed
RCPT      | 550 5.1.1 user unknown in relay recipient table              | failed
RCPT      | 550 5.1.2 no such domain                                     | failed
RCPT      | 550 5.1.6 moved                                              | failed
RCPT      | 550 5.1.10 null MX                                           | failed
RCPT      | 550 #5.1.0 address rejected                                  | failed
RCPT      | 550 5.2.1 mailbox disabled                                   | failed
RCPT      | 550 5.4.1 no answer from host                                | desk
RCPT      | 550 5.4.6 routing loop                                       | desk
RCPT      | 550 5.6.7 address needs SMTPUTF8                             | failed
RCPT      | 550 5.7.1 relaying denied                                    | desk
RCPT      | 550 5.7.1 blocked by a list                                  | desk
RCPT      | 550 5.7.1 user unknown                                       | failed
RCPT      | 550 5.7.2 not for this list                                  | failed
RCPT      | 550 5.7.25 reverse DNS failed                                | desk
RCPT      | 550 5.7.606 access denied, banned sending IP                 | desk
RCPT      | 550 5.0.0 no such user                                       | failed
RCPT      | 550 no such user                                             | failed
RCPT      | 550 user unknown in local recipient table                    | failed
RCPT      | 550 requested action not taken: mailbox unavailable          | failed
RCPT      | 550 relay not permitted                                      | desk
RCPT      | 550 we do not relay                                          | desk
RCPT      | 550 your IP is on a block list                               | desk
RCPT      | 551 user not local                                           | failed
RCPT      | 552 5.2.2 mailbox full                                       | desk
RCPT      | 552 over quota                                               | desk
RCPT      | 553 mailbox name not allowed here                            | desk
RCPT      | 553 odd name                                                 | failed
RCPT      | 554 5.7.1 Relay access denied                                | desk
RCPT      | 554 4.7.1 later                                              | due
RCPT      | 554 no                                                       | desk
RCPT      | 556 domain does not accept mail                              | failed
RCPT      | 571 who knows                                                | desk
RCPT      | 999 what                                                     | due
DATA      | 421 4.3.2 closing                                            | due
DATA      | 451 4.3.0 later                                              | due
DATA      | 503 5.5.1 no valid recipients                                | desk
DATA      | 550 5.1.1 no such user                                       | failed
DATA      | 554 5.7.1 blocked                                            | desk
DATA      | 250 what                                                     | due
END       | 421 4.3.0 closing                                            | due
END       | 451 4.7.1 later                                              | due
END       | 452 4.3.1 system storage                                     | due
END       | 550 5.1.1 no such user, after all                            | failed
END       | 550 5.7.1 message rejected: spam content                     | failed
END       | 550 5.7.1 blocked: your address has a bad reputation         | desk
END       | 550 5.7.1 no                                                 | desk
END       | 552 5.2.3 too long for the mailbox                           | failed
END       | 552 5.3.4 too big                                            | failed
END       | 552 system storage exceeded                                  | desk
END       | 552 no                                                       | desk
END       | 554 no                                                       | failed
END       | 554 5.3.0 something                                          | desk
END       | 554 5.6.0 bad content                                        | failed
END       | 554 5.7.0 Try again later                                    | desk
END       | 554 virus found                                              | failed
END       | 554 no such content here                                     | failed
END       | 550-5.7.1 your message was\\r\\n550 5.7.1 not accepted here  | desk
END       | 550-no\\r\\n550 spam                                         | failed
END       | 200 fine                                                     | sent
END       | 250                                                          | sent
END       | 250-queued\\r\\n250 as 4711                                  | sent
END       | 299 odd                                                      | sent
QUIT      | 421 4.4.2 closing                                            | sent
QUIT      | 500 what?                                                    | sent
QUIT      | 554 5.7.1 no                                                 | sent
"""
# What is no answer. A mail that was not accepted waits, whatever the server does to the connection.
NO_ANSWERS = """
CONNECT   | (closes)   | due
CONNECT   | (resets)   | due
CONNECT   | (garbage)  | due
CONNECT   | (drips)    | due
EHLO      | (closes)   | due
EHLO      | (resets)   | due
EHLO      | 250-(drips)| due
MAIL      | (closes)   | due
MAIL      | (garbage)  | due
MAIL      | (drips)    | due
RCPT      | (closes)   | due
RCPT      | (resets)   | due
RCPT      | (drips)    | due
DATA      | (closes)   | due
DATA      | (resets)   | due
DATA      | (drips)    | due
END       | (closes)   | due
END       | (resets)   | due
END       | (garbage)  | due
END       | (drips)    | due
END       | 250 (drips)| sent
END       | 250-(drips)| sent
AFTER     | (closes)   | sent
AFTER     | (resets)   | sent
AFTER     | (garbage)  | sent
AFTER     | (drips)    | sent
AFTER     | 421 going down | sent
QUIT      | (closes)   | sent
QUIT      | (resets)   | sent
QUIT      | (garbage)  | sent
QUIT      | (drips)    | sent
"""
STARTTLS_ANSWERS = """
STARTTLS  | 454 4.7.0 TLS not available  | due
STARTTLS  | 501 5.5.4 no parameters      | desk
STARTTLS  | 554 5.7.1 no                 | desk
STARTTLS  | (closes)                     | due
STARTTLS  | (resets)                     | due
STARTTLS  | (garbage)                    | due
STARTTLS  | (drips)                      | due
"""
OVER_TLS = """
AUTH      | 454 4.7.0 later                  | due
AUTH      | 535 5.7.8 wrong password         | desk
AUTH      | 535 wrong password               | desk
AUTH      | 534 5.7.9 too weak               | desk
AUTH      | 530 5.7.0 not you                | desk
AUTH      | (closes)                         | due
AUTH      | (drips)                          | due
RCPT      | 550 5.1.1 no such user           | failed
END       | 250 2.0.0 queued                 | sent
AFTER     | (closes)                         | sent
AFTER     | (resets)                         | sent
QUIT      | (closes)                         | sent
QUIT      | (resets)                         | sent
QUIT      | (drips)                          | sent
"""
SHORT_SECONDS = 1.0  # for a server that drips: everything else has the usual minute


def cases(table: str) -> Iterator[tuple[str, str, str]]:
    """Phase, answer and what the mail is then."""
    for line in table.strip().splitlines():
        phase, said, becomes = (part.strip() for part in line.split("|"))
        yield phase, said.replace("\\r\\n", "\r\n"), becomes


class Table:
    """Plays a table of cases, each with a mail of its own, and says which did not come out as they should."""

    def __init__(self, desk: HelpDesk, connection: psycopg.Connection[Any], pool: Any) -> None:
        self._desk, self._connection, self._pool = desk, connection, pool

    def play(
        self, table: str, url: str = "smtp://{place}", context: ssl.SSLContext | None = None, **also: str
    ) -> list[Any]:
        """The cases that came out otherwise: phase, answer, what was to be and what was."""
        wrong = []
        for phase, said, becomes in cases(table):
            found = self._play({**also, phase: said}, also if context else {}, url, context)
            if found != (becomes, int(becomes == "sent"), int(becomes != "failed")):
                wrong.append((phase, said, becomes, found))
        return wrong

    def _play(
        self, script: dict[str, str], well: dict[str, str], url: str, context: ssl.SSLContext | None
    ) -> tuple[str, int, int]:
        """What the mail is, how often it was accepted, and how often once the server is well."""
        ticket_id = closed(self._desk)
        seal_all(self._connection)
        queue_due_mails(self._connection, "example.org", NOW)
        seconds = {"seconds": SHORT_SECONDS} if any(said.endswith(DRIP) for said in script.values()) else {}
        with ScriptedMailServer(script, well, context=context) as server:
            sender = SmtpSender(url.format(place=server.place), **seconds)
            assert self._mailer(sender).send_next(at(NOW))
            becomes, accepted = self._state(ticket_id), len(server.accepted)
            sender = SmtpSender(url.format(place=server.place))
            self._mailer(sender).send_next(at(NOW + timedelta(hours=1)))
            return becomes, accepted, len(server.accepted)

    def _mailer(self, sender: SmtpSender) -> ClosureMailer:
        return ClosureMailer(self._pool, sender.send, FROM, WINDOW)

    def _state(self, ticket_id: Any) -> str:
        query = "select case when needs_desk then 'desk' else state end from closure_mails where ticket_id = %s"
        return str(self._connection.execute(query, (ticket_id,)).fetchone()[0])


@pytest.fixture
def table(desk: HelpDesk, connection: psycopg.Connection[Any], database: str) -> Iterator[Table]:
    """Plays cases."""
    with databases.pool(database, "test mail") as pool:
        yield Table(desk, connection, pool)


@pytest.fixture
def context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """What a server speaks TLS with; its certificate is known to whoever sends."""
    file = tmp_path / "identity.pem"
    file.write_text(IDENTITY)
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(file)
    return context


def test_each_answer_has_its_outcome(table: Table) -> None:
    """Codes × enhanced codes × phases: what is sent, what has failed, what waits, and for whom."""
    assert table.play(ANSWERS) == []


def test_what_is_no_answer_loses_nothing(table: Table) -> None:
    """Closed, reset, garbled or dripping: the mail waits, unless the server has said 2xx to it."""
    assert table.play(NO_ANSWERS) == []


def test_tls_that_fails_is_waited_for(table: Table) -> None:
    """A server that offers TLS and then does not speak it gets no mail in the clear."""
    assert table.play(STARTTLS_ANSWERS, EHLO="250-me\r\n250 STARTTLS") == []
    assert table.play("STARTTLS | 220 go | desk", EHLO="250-me\r\n250 STARTTLS", HELO="500 what?") == []


def test_the_same_holds_over_tls(table: Table, context: ssl.SSLContext) -> None:
    """Login, refusals, and a connection that ends without a word after the 250."""
    url, hello = "smtp://desk:password@{place}", "250-me\r\n250-STARTTLS\r\n250 AUTH PLAIN"
    assert table.play(OVER_TLS, url, context, EHLO=hello) == []


def test_an_old_server_that_knows_no_ehlo_is_greeted_with_helo(table: Table) -> None:
    """RFC 5321, section 3.2."""
    assert table.play("EHLO | 500 what? | sent") == []
    assert table.play("HELO | 550 5.7.1 who are you? | desk", EHLO="500 what?") == []


def test_there_are_cases_enough() -> None:
    """At least sixty, in every phase."""
    found = [case for table in (ANSWERS, NO_ANSWERS, STARTTLS_ANSWERS, OVER_TLS) for case in cases(table)]
    assert len(found) >= 60
    assert {phase for phase, *_ in found} == {*Phase.__members__, "AFTER", "QUIT"}
    assert {CLOSE, RESET, DRIP, GARBAGE} <= {said for _, said, _ in found}


def test_every_subject_of_the_registry_has_an_outcome() -> None:
    """RFC 3463, section 3: what is said of an unknown detail is what is said of its subject."""
    for subject, trouble in SUBJECTS.items():
        assert trouble_with(MailRefused(Phase.RCPT, 550, f"5.{subject}.99 what?")) is trouble
    assert trouble_with(MailRefused(Phase.RCPT, 550, "5.9.9 what?")) is Trouble.RECIPIENT
