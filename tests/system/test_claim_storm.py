"""Many claim from a full queue at once: nobody gets what another has, nothing stays behind, the urgent go first."""

import asyncio
import time
from collections import Counter
from typing import NamedTuple

from application.store.postgres.database import connect
from domain.values import Level, Role
from tests.support.api_requests import standing_still
from tests.support.full_queue import filled
from tests.support.raw_http import Caller
from tests.support.running_desk import RunningDesk

CLAIMERS, TICKETS = 32, 5_000
LAGGING, TAKEN = 400, 100
CLAIM = "/v1/queues/tier1:claim_next"


class Claim(NamedTuple):
    """A ticket that somebody got: its place in the queue, and when the request began and was answered."""

    place: tuple[int, str, str]
    who: int
    begun: float
    ended: float


async def storm(served: RunningDesk, keys: list[str]) -> tuple[list[Claim], Counter[int], list[float]]:
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


def agents(served: RunningDesk) -> list[str]:
    """The keys of everybody who claims."""
    return [served.key(Role.AGENT, levels=[Level.TIER1], name=f"agent-{n}") for n in range(CLAIMERS)]


def assignments(served: RunningDesk) -> dict[str, int]:
    """How often each ticket was assigned."""
    query = "select stream_id, count(*) from events where type = 'Ticket.Assigned' group by 1"
    with connect(served.database, "test look") as connection:
        return {str(ticket): count for ticket, count in connection.execute(query).fetchall()}


def test_a_storm_on_a_full_queue(served: RunningDesk) -> None:
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


def test_a_storm_while_the_list_stands_still_and_others_assign(served: RunningDesk) -> None:
    """The list shows every ticket as free all the time, and a supervisor assigns a quarter of them meanwhile: each goes
    to one of both sides, none is left, and nobody is refused for coming too late."""
    tickets = filled(served.database, LAGGING)
    served.caught_up()
    keys, taken = agents(served), sorted(tickets)[:: LAGGING // TAKEN]
    served.person("somebody")

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
