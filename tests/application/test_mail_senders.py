"""Several mails go out at a time: a server that drips holds up neither the others nor the end of the worker."""

from threading import Thread

import psycopg
import pytest

from api.worker.worker_loop import MAIL_SENDERS, Worker
from application.helpdesk import HelpDesk
from application.mail.smtp import DELIVERY_SECONDS, DeliveryStopped, SmtpSender
from application.settings import Settings
from tests.application.test_closure_mail import closed
from tests.support.running_desk import HANG_SECONDS, wait_until
from tests.support.scripted_smtp import DRIP, ScriptedMailServer

SENT = "select count(*) from closure_mails where state = 'sent'"
TICKETS = 100


def work(database: str, server: ScriptedMailServer) -> tuple[Worker, Thread]:
    """A worker that sends to the server, in a thread of this process."""
    worker = Worker(Settings(database_url=database, smtp_url=f"smtp://{server.place}", mail_from="desk@example.org"))
    thread = Thread(target=worker.run, daemon=True)
    thread.start()
    return worker, thread


def test_a_hundred_mails_go_out_beside_a_server_that_drips(
    desk: HelpDesk, connection: psycopg.Connection, database: str
) -> None:
    """All but one of the deliveries at a time hang for their whole minute; a hundred mails are sent meanwhile."""
    tickets = [closed(desk) for _ in range(TICKETS + MAIL_SENDERS - 1)]
    phases = ("CONNECT", "EHLO", "END")
    with ScriptedMailServer(*({phase: DRIP} for phase in phases)) as server:
        worker, thread = work(database, server)
        wait_until(lambda: connection.execute(SENT).fetchone()[0] >= TICKETS, "a hundred mails are sent")
        worker.stop()
        thread.join(HANG_SECONDS)
        assert not thread.is_alive()
        mails = connection.execute("select message_id, state from closure_mails").fetchall()
        assert len(phases) == MAIL_SENDERS - 1
        assert len(mails) == len(tickets)
        seen = [line for data in server.accepted for line in data.split(b"\r\n") if line.startswith(b"Message-ID")]
        sent = sorted(f"Message-ID: {message_id}".encode() for message_id, state in mails if state == "sent")
        assert sorted(seen) == sent  # each of them once


@pytest.mark.parametrize("phase", ["CONNECT", "RCPT", "END"])
def test_a_worker_ends_although_the_server_drips(
    desk: HelpDesk, connection: psycopg.Connection, database: str, phase: str
) -> None:
    """The connection is cut, and the mail is due as it was, at once, for the next worker."""
    closed(desk)
    with ScriptedMailServer({phase: DRIP}) as server:
        worker, thread = work(database, server)
        assert server.dripping.wait(HANG_SECONDS)
        worker.stop()
        thread.join(DELIVERY_SECONDS / 2)  # long before the delivery would end by itself
        assert not thread.is_alive()
        query = "select state, attempts, lease, due_at <= now() + interval '1 second' from closure_mails"
        assert connection.execute(query).fetchone() == ("due", 0, None, True)
        worker, thread = work(database, server)
        wait_until(lambda: connection.execute(SENT).fetchone() == (1,), "the next worker sends it")
        worker.stop()
        thread.join(HANG_SECONDS)
        assert len(server.accepted) == 1


def test_who_sends_after_the_end_is_cut_off() -> None:
    """A delivery that begins when the desk has been stopped gets nowhere, and the server can be tried beforehand."""
    with ScriptedMailServer() as server:
        sender = SmtpSender(f"smtp://{server.place}")
        sender.check()
        sender.stop()
        with pytest.raises(DeliveryStopped):
            sender.check()
    assert server.accepted == []
