"""What a long ticket costs: every command but `compile_dossier`, the read, an earlier version and a stale command on
tickets of 10, 1,000 and 10,000 events, by turns.

    python -m tests.benchmarks.long_tickets [--turns 5]

Over HTTP, on an API that has just started and with no worker. The snapshots are those that `deskledger migrate` makes
of a database that has none. Behind the last snapshot of a long ticket lie up to 24 events, another number in each turn.
Each request is sent several times: what a command has recorded is deleted before the next, which no user of the desk
could do. A ratio is the median of those of all times. `claim_next` is left out: it finds its ticket in a list, and then
goes the way of `assign`. The server has all in its memory and does not wait for a disk: what is compared is the work.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from itertools import product
from operator import truediv
from statistics import median
from time import perf_counter
from typing import Any
from uuid import UUID

import urllib3

from application.store.postgres.database import connect
from application.store.snapshots import take_snapshots
from domain.procedure import PROCEDURE
from domain.values import Role
from tests.benchmarks import ground
from tests.support.api_requests import LED_TO_BY, filled, give, path_to, request
from tests.support.command_line import run
from tests.support.running_desk import RunningDesk, wait_until

SIZES, TURNS, ROUNDS = (10, 1_000, 10_000), 5, 31
ALLOWED = {1_000: 1.2, 10_000: 1.5}
STANDING = {command: before for before, command in LED_TO_BY.values()} | {
    "release": "assigned",
    "client_responded": "waiting",
    "escalate": "tier1",
    "route": "documented",
    "qualify": "tier2",
    "decline": "awaiting_approval",
    "return_to_level": "deciding",
    "reopen": "closed",
}
PAD = """
    insert into events select %s, version, nextval('events_ord'), now(), 'Ticket.NoteAdded',
        '{"text": "The client called again.", "visibility": "internal"}', null,
        '{"actor": {"id": "staff", "name": "staff", "role": "agent"}}', ''
    from generate_series(2, %s) version"""
Ask = Callable[[], Any]


def main() -> int:
    """Measures and prints; 1 when a long ticket costs more than it may."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=TURNS)
    turns = parser.parse_args().turns
    spent: dict[tuple[str, int], list[float]] = {}
    with ground.server(fsync="off", shared_buffers="2GB") as server, ground.own_directory() as directory:
        database = server.database("long_tickets")
        with RunningDesk(database, directory, workers=1, parts=("api",)) as served:
            served.client()
            asked = [one for turn in range(turns) for one in prepared(served, turn)]
            upgraded(database)
            server.tidy()
            served.hang_up()
            served.end("api")
            served.start("api")
            wait_until(partial(answers, served), "the API answers")
            with connect(database, "benchmark") as connection:
                connection.execute("alter table events disable trigger insert_only")
                (last,) = connection.execute("select max(ord) from events").fetchone()
                for _, (name, size, status, ask) in product(range(ROUNDS), asked):
                    begun = perf_counter()
                    reply = ask()
                    spent.setdefault((name, size), []).append((perf_counter() - begun) * 1000)
                    assert reply.status == status, (name, size, reply.data)
                    connection.execute("delete from events where ord > %s", (last,))
    return told({key: values for key, values in spent.items() if key[0] != "nothing"})


def prepared(served: RunningDesk, turn: int) -> Iterator[tuple[str, int, int, Ask]]:
    """What is asked in one turn, on tickets of its own: its name, how long the ticket is, and the status it answers."""
    spare = request(served)
    for _ in range(20 if turn == 0 else 0):  # opens the connections of a process that has just started
        yield "nothing", 0, 200, partial(served.get, f"/v1/tickets/{spare}")
        yield "nothing", 0, 200, partial(served.request, "POST", f"/v1/tickets/{spare}:add_note", {"text": "warm"})
    more = (12 + 7 * turn) % 25  # events behind the last snapshot, where there is one
    order = SIZES[turn % 3 :] + SIZES[: turn % 3]  # each size is asked first in a third of the turns
    lengths = {size: size + more * (size > SIZES[0]) for size in order}
    for name, size in product([name for name in PROCEDURE if name != "compile_dossier"], order):
        ticket = grown(served, STANDING.get(name, "tier1"), lengths[size])
        yield name, size, 200, command(served, ticket, name)
    for size in order:
        ticket = grown(served, "tier1", lengths[size])
        yield "GET ticket", size, 200, partial(served.get, f"/v1/tickets/{ticket}")
        yield "?version=", size, 200, partial(served.get, f"/v1/tickets/{ticket}?version={lengths[size] // 2}")
        stale, body = {"If-Match": f'"{lengths[size] - 1}"'}, {"text": "late"}
        path = f"/v1/tickets/{ticket}:add_note"
        yield "a stale command", size, 412, partial(served.request, "POST", path, body, None, stale)


def grown(served: RunningDesk, standing: str, size: int) -> str:
    """A ticket of so many events in a standing: notes behind the first, and then the way there."""
    ticket, path = request(served), path_to(standing)
    with connect(served.database, "benchmark") as connection:
        after = connection.execute("select max(ord) from events").fetchone()[0]
        connection.execute(PAD, (UUID(ticket), size - len(path)))
        while after is not None:  # or the way there would take long
            after = take_snapshots(connection, after)
    for step in path:
        reply = give(served, ticket, step, served.checker if step == "verify" else None)
        assert reply.status == 200, (standing, step, reply.data)
    return ticket


def answers(served: RunningDesk) -> bool:
    """Whether the API has started; without a worker it is not ready for long."""
    with suppress(urllib3.exceptions.HTTPError):
        return served.get("/livez").status == 200
    return False


def command(served: RunningDesk, ticket: str, name: str) -> Ask:
    """One command with all that it says, ready to be sent."""
    version, body = served.get(f"/v1/tickets/{ticket}").version, filled(served, ticket, name)
    others = {"verify": served.checker, "reopen": served.key(Role.CLIENT, client="client-1")}
    key, headers = others.get(name, served.staff), {"If-Match": f'"{version}"'}
    return partial(served.request, "POST", f"/v1/tickets/{ticket}:{name}", body, key, headers)


def upgraded(database: str) -> None:
    """The database as one from before snapshots becomes it."""
    with connect(database, "benchmark", statement_seconds=300) as connection:
        connection.execute("truncate snapshots")
    begun = perf_counter()
    done = run("migrate", DATABASE_URL=database)
    assert done.returncode == 0, done.stderr
    print(f"deskledger migrate took {perf_counter() - begun:.1f} s")


def told(spent: dict[tuple[str, int], list[float]]) -> int:
    """Prints a row for each operation; 1 when one is over what is allowed."""
    over = 0
    print(f"{'':20}{'10 events, ms':>16}{'1,000':>10}{'10,000':>10}")
    ratios: dict[int, list[float]] = {size: [] for size in ALLOWED}
    for name in dict.fromkeys(name for name, _ in spent):
        short = spent[name, SIZES[0]]
        for size, found in ratios.items():
            found.append(median(map(truediv, spent[name, size], short)))
        over += any(found[-1] > ALLOWED[size] for size, found in ratios.items())
        print(f"{name:20}{median(short):16.2f}" + "".join(f"{found[-1]:8.2f} ×" for found in ratios.values()))
    print(f"{'median':36}" + "".join(f"{median(found):8.2f} ×" for found in ratios.values()))
    print(f"{'highest':36}" + "".join(f"{max(found):8.2f} ×" for found in ratios.values()))
    print(f"{over} of {len(ratios[SIZES[1]])} over {ALLOWED[1_000]} × or {ALLOWED[10_000]} ×")
    return int(over > 0)


if __name__ == "__main__":
    sys.exit(main())
