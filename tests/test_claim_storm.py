"""Many claim from a full queue at once: nobody gets what another has, nothing stays behind, the urgent go first."""

import asyncio
import time
from collections import Counter
from datetime import timedelta
from random import Random
from typing import NamedTuple

from asking import standing_still
from msgspec.structs import replace
from served import Served
from wire import Caller
from writing import CONTACT, NOW, OPEN, STAFF, append

from application.database import connect
from application.deciding import Request, decide, decide_client, new_stream_id
from application.event_store import to_row
from domain.client import client_stream
from domain.values import Grade, Level, Role

CLAIMERS, TICKETS = 32, 5_000
LAGGING, TAKEN = 400, 100
GRADES = [(impact, urgency) for impact in Grade for urgency in Grade]
CLAIM = "/v1/queues/tier1:claim_next"


class Claim(NamedTuple):
    """A ticket that somebody got: its place in the queue, and when the request began and was answered."""

    place: tuple[int, str, str]
    who: int
    begun: float
    ended: float


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
            wanted = Request(ticket_id, wish, STAFF, now)
            made += decide(wanted, {client_stream("client-1"): registered}, f"T-{number:06}").events
            tickets.add(str(ticket_id))
        rows = [to_row(event) for event in made]
        for first in range(0, len(rows), 5_000):
            append(connection, rows[first : first + 5_000])
    return tickets


async def storm(served: Served, keys: list[str]) -> tuple[list[Claim], Counter[int], list[float]]:
    """Everybody claims until nothing is left; the claims, every status, and when each was told so."""
    claims: list[Claim] = []
    statuses: Counter[int] = Counter()
    gone: list[float] = []

    async def take(who: int, key: str) -> None:
        caller = Caller(served.port, key)
        while True:
            begun = time.monotonic()
            answer = await caller("POST", CLAIM)
            ended = time.monotonic()
            statuses[answer.status] += 1
            if answer.status != 200:
                gone.append(ended)
                return caller.close()
            ticket = answer.json
            place = (ticket["priority"], ticket["created_at"], ticket["ticket_id"])
            claims.append(Claim(place, who, begun, ended))

    await asyncio.gather(*(take(who, key) for who, key in enumerate(keys)))
    return claims, statuses, gone


def overtaken(claims: list[Claim]) -> list[tuple[Claim, Claim]]:
    """Claims of a ticket while a better one was free from before the request until after its answer."""
    found, latest = [], None
    for claim in sorted(claims):  # by place: whatever stands before is better
        if latest and latest.begun > claim.ended:
            found.append((claim, latest))
        latest = max(latest, claim, key=lambda one: one.begun) if latest else claim
    return found


def agents(served: Served) -> list[str]:
    """The keys of everybody who claims."""
    return [served.key(Role.AGENT, levels=[Level.TIER1], name=f"agent-{n}") for n in range(CLAIMERS)]


def assignments(served: Served) -> dict[str, int]:
    """How often each ticket was assigned."""
    query = "select stream_id, count(*) from events where type = 'Ticket.Assigned' group by 1"
    with connect(served.database, "test look") as connection:
        return {str(ticket): count for ticket, count in connection.execute(query).fetchall()}


def test_a_storm_on_a_full_queue(served: Served) -> None:
    """32 claim from 5,000 at once: each ticket goes to one of them, none is left, nobody is refused for losing a race
    or sent away while something is free, and nobody gets a ticket while a better one stays free all the time."""
    tickets = filled(served.database, TICKETS)
    served.caught_up()
    begun = time.monotonic()
    claims, statuses, gone = asyncio.run(storm(served, agents(served)))
    print(f"{len(claims) / (time.monotonic() - begun):,.0f} claims/s")
    assert statuses == {200: TICKETS, 204: CLAIMERS}
    assert Counter(claim.place[2] for claim in claims) == Counter(tickets)
    assert overtaken(claims) == []
    assert min(gone) > max(claim.begun for claim in claims)  # nobody asked after that, and got one
    assert assignments(served) == dict.fromkeys(tickets, 1)


def test_a_storm_while_the_list_stands_still_and_others_assign(served: Served) -> None:
    """The list shows every ticket as free all the time, and a supervisor assigns a quarter of them meanwhile: each goes
    to one of both sides, none is left, and nobody is refused for coming too late."""
    tickets = filled(served.database, LAGGING)
    served.caught_up()
    keys, taken = agents(served), sorted(tickets)[:: LAGGING // TAKEN]

    async def assign() -> Counter[int]:
        caller, told = Caller(served.port, served.staff), Counter[int]()
        for ticket in taken:
            answer = await caller("POST", f"/v1/tickets/{ticket}:assign", {"assignee": "somebody"}, If_Match='"5"')
            told[answer.status] += 1
        caller.close()
        return told

    async def both() -> tuple[tuple[list[Claim], Counter[int], list[float]], Counter[int]]:
        return await asyncio.gather(storm(served, keys), assign())

    with standing_still(served):
        (claims, statuses, _), told = asyncio.run(both())
    assert told.keys() <= {200, 412}
    assert statuses == {200: LAGGING - told[200], 204: CLAIMERS}
    assert len({claim.place[2] for claim in claims}) == LAGGING - told[200]
    assert assignments(served) == dict.fromkeys(tickets, 1)
