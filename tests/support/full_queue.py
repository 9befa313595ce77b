"""A queue of thousands of tickets, decided by the domain and appended in batches."""

from datetime import timedelta
from random import Random

from msgspec.structs import replace

from application.commands.deciding import CommandRequest, decide, decide_client, new_stream_id
from application.store.event_store import to_row
from application.store.postgres.database import connect
from domain.client import client_stream
from domain.values import Grade
from tests.support.write_side import CONTACT, NOW, OPEN, STAFF, append

GRADES = [(impact, urgency) for impact in Grade for urgency in Grade]


def filled(database: str, count: int) -> set[str]:
    """A queue of so many tickets at tier 1, of every priority, decided by the domain and appended in batches."""
    chance = Random(20261123)
    made, tickets = [], set()
    with connect(database, "test load", statement_seconds=120) as connection:
        _, registered = decide_client("client-1", CONTACT, STAFF, NOW, ())
        append(connection, [to_row(event) for event in registered])
        for number in range(count):
            now = NOW + timedelta(seconds=number // 2)  # some enter at the same moment
            impact, urgency = chance.choice(GRADES)
            wish = replace(OPEN, issue=replace(OPEN.issue, impact=impact, urgency=urgency))
            ticket_id = new_stream_id(now)
            wanted = CommandRequest(ticket_id, wish, STAFF, now)
            made += decide(wanted, {client_stream("client-1"): registered}, f"T-{number:06}").events
            tickets.add(str(ticket_id))
        rows = [to_row(event) for event in made]
        for first in range(0, len(rows), 5_000):
            append(connection, rows[first : first + 5_000])
    return tickets
