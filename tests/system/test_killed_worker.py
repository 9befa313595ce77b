"""The worker is killed in the middle of everything; no closing e-mail and no outcome is lost."""

import random
import time
from collections import Counter
from uuid import UUID

from application.store.postgres.database import connect
from tests.support.running_desk import RunningDesk

TICKETS = 200
OUTCOMES = "select count(*) from events where type in ('Ticket.ClosureEmailSent', 'Ticket.ClosureEmailFailed')"


def test_every_closing_gets_its_mail_and_its_outcome(served: RunningDesk, capsys) -> None:
    """Kill −9 at random points while 200 tickets are closed: each has one outcome event; its Message-ID was seen."""
    chance, kills, recorded, longest = random.Random(20), 0, 0, 0.9
    tickets = [served.ticket() for _ in range(TICKETS)]
    deadline = time.monotonic() + 900
    with connect(served.database, "test") as connection:
        pending = list(tickets)
        while pending or recorded < TICKETS:
            assert time.monotonic() < deadline, "not every outcome is recorded"
            for ticket in pending[:20]:
                served.close(ticket)
            pending = pending[20:]
            wait_a_moment(chance.uniform(0.05, longest))
            served.processes["work"].kill()
            served.processes["work"].wait()
            kills += 1
            served.start("work")
            before, recorded = recorded, connection.execute(OUTCOMES).fetchone()[0]
            longest = min(
                longest * (1.5 if recorded == before else 1), 20.0
            )  # it had not even started, or waits for leases
        told = connection.execute(
            "select stream_id, body ->> 'message_id' from events where type = 'Ticket.ClosureEmailSent'"
        ).fetchall()
    assert Counter(stream for stream, _ in told) == Counter(map(UUID, tickets))
    seen = Counter(message["Message-ID"] for message in served.mailbox.messages)
    assert set(seen) == {message_id for _, message_id in told}
    twice = sum(count > 1 for count in seen.values())
    with capsys.disabled():
        print(
            f"\n{kills} kills, {len(served.mailbox.messages)} mails for {TICKETS} closings, {twice} seen more than once"
        )


def wait_a_moment(seconds: float) -> None:
    """Lets the worker work for a while that is not the same each time; this is the point at which it is killed."""
    time.sleep(seconds)
