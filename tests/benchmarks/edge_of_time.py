"""Reads by time at the very edge of the present, while writers write: what is answered is final.

    python -m tests.benchmarks.edge_of_time [READS]

Reports, queues, lists and the feed are asked up to this moment. Meanwhile the worker is stopped now and then, a
transaction that has written is held open across the edge; one more writes in another database, all of the time. Every
that was given is asked for again at the end, and has to be the same.
"""

import random
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from statistics import quantiles
from tempfile import TemporaryDirectory
from threading import Event, Thread
from time import monotonic
from typing import Any
from uuid import uuid4

import msgspec
import psycopg
from psycopg.conninfo import make_conninfo
from rich.progress import Progress

from application.clock import utc_now
from application.store.event_store import INSERT_EVENTS, append_parameters, to_row
from application.store.postgres.database import connect, migrate
from application.store.postgres.embedded_postgres import EmbeddedPostgres
from domain.events import NoteAdded, Recorded
from domain.values import Actor, Role, Visibility
from projections.runner import ensure_projections
from tests.support.running_desk import RunningDesk

READERS, WRITERS = 80, 3
AWAY_SECONDS, HELD_SECONDS, CALM_SECONDS = 8.0, 7.0, 12.0
METRICS = ("throughput", "backlog", "escalation_rate", "time_at_level")
QUEUES = ("intake", "tier1", "tier2", "quality_control")
BY = Actor("edge", "Edge", Role.AGENT)


class Read(msgspec.Struct, frozen=True):
    """A read by time: what was answered, after how long, and whether something was in its way."""

    path: str
    status: int
    answer: Any
    seconds: float
    in_the_way: bool


class Told(msgspec.Struct, frozen=True):
    """What came of it: the reads, how many events were written, and which answers were others when asked again."""

    reads: list[Read]
    events: int
    changed: list[str]


def address(moment: str, chance: random.Random) -> str:
    """A read up to a moment."""
    kinds = (
        f"/v1/reports/{chance.choice(METRICS)}?to={moment}",
        f"/v1/queues/{chance.choice(QUEUES)}?as_of={moment}&limit=200",
        f"/v1/tickets?created_to={moment}&limit=1",
        f"/v1/events?after={{after}}&to={moment}&limit=200",
    )
    return chance.choice(kinds)


def final(path: str, answer: Any) -> Any:
    """What of an answer must never change: not how far the read side is, and of a list of tickets which one is last."""
    if path.startswith("/v1/tickets"):
        return [row["ticket_id"] for row in answer["items"]]
    return {name: value for name, value in answer.items() if name not in ("position", "after", "next")}


def work(desk: RunningDesk, stop: Event, chance: random.Random) -> None:
    """Tickets are opened, and go up to quality control or to tier 2."""
    while not stop.is_set():
        ticket = desk.ticket(chance.choice(("ann", "bob", "cy")))
        if chance.random() < 0.5:
            desk.do(ticket, "escalate", reason="too hard")
        else:
            desk.do(ticket, "resolve", resolution="new toner")


def disturb(desk: RunningDesk, stop: Event, disturbed: Event, undisturbed: float) -> None:
    """By turns: the worker is away, and a transaction that has written is held open."""
    turn = 0
    while not stop.wait(undisturbed):
        disturbed.set()
        if turn % 2 == 0:
            desk.end("work")
            stop.wait(AWAY_SECONDS)
            desk.start("work")
        else:
            with connect(desk.database, "held") as held:
                held.autocommit = False
                row = to_row(Recorded(uuid4(), 1, utc_now(), BY, NoteAdded("held", Visibility.INTERNAL)))
                held.execute(INSERT_EVENTS, append_parameters([row])[:1])
                stop.wait(HELD_SECONDS)
                held.rollback()
        desk.caught_up()
        disturbed.clear()
        turn += 1


def read(desk: RunningDesk, chance: random.Random, disturbed: Event) -> Read:
    """One read up to this moment, timed."""
    end = max(0, int(desk.get("/v1/events?limit=1").headers["Deskledger-Position"]) - 20)
    path = address(datetime.now(UTC).isoformat().replace("+00:00", "Z"), chance).format(after=end)
    before, begun = disturbed.is_set(), monotonic()
    reply = desk.get(path)
    answer = final(path, reply.json) if reply.status == 200 else reply.json
    return Read(path, reply.status, answer, monotonic() - begun, before or disturbed.is_set())


def storm(
    desk: RunningDesk, count: int, done: Callable[[], None] = lambda: None, undisturbed: float = CALM_SECONDS
) -> Told:
    """So many reads by time beside writers and what is in the way; then each answer is asked for again."""
    stop, disturbed, chance = Event(), Event(), random.Random(13)
    others = [Thread(target=work, args=(desk, stop, random.Random(n))) for n in range(WRITERS)]
    others.append(Thread(target=disturb, args=(desk, stop, disturbed, undisturbed)))
    elsewhere = psycopg.connect(make_conninfo(desk.database, dbname="postgres"))
    try:
        elsewhere.execute("select pg_current_xact_id()")
        for thread in others:
            thread.start()

        def one(seed: int) -> Read:
            found = read(desk, random.Random(seed), disturbed)
            done()
            return found

        with ThreadPoolExecutor(READERS) as threads:
            reads = list(threads.map(one, (chance.getrandbits(32) for _ in range(count))))
    finally:
        stop.set()
        for thread in others:
            thread.join()
        elsewhere.close()
    desk.caught_up()
    answered = [each for each in reads if each.status == 200]
    changed = [each.path for each in answered if final(each.path, desk.get(each.path).json) != each.answer]
    with connect(desk.database, "count") as connection:
        events = connection.execute("select count(*) from events").fetchone()
    return Told(reads, events[0] if events else 0, changed)


def say(told: Told) -> None:
    """The figures."""
    for name, some in (
        ("calm", [each for each in told.reads if not each.in_the_way]),
        ("beside a worker that is away or an open writer", [each for each in told.reads if each.in_the_way]),
    ):
        ok = sorted(each.seconds for each in some if each.status == 200)
        if len(ok) > 1:
            cuts = quantiles(ok, n=100)
            share = len(ok) / len(some)
            print(
                f"{name}: {len(some)} reads, {share:.1%} answered 200; wait p50 {cuts[49]:.2f} s, p99 {cuts[98]:.2f} s"
            )
    print(f"statuses: {dict(Counter(each.status for each in told.reads))}; {told.events} events were written")
    print(f"asked again and not the same: {len(told.changed)} {told.changed[:3]}")


def main(arguments: Sequence[str]) -> int:
    """A desk of its own."""
    count = int(arguments[0]) if arguments else 10_000
    with TemporaryDirectory(prefix="deskledger-edge-") as directory:
        Path(directory).chmod(0o755)  # whoever PostgreSQL runs as has to get in
        postgres = EmbeddedPostgres(Path(directory))
        postgres.start()
        try:
            with connect(postgres.url, "migrate") as connection:
                migrate(connection)
                ensure_projections(connection)
            with RunningDesk(postgres.url, Path(directory)) as desk, Progress(disable=not sys.stderr.isatty()) as bar:
                task = bar.add_task("reads", total=count)
                told = storm(desk, count, lambda: bar.advance(task))
        finally:
            postgres.stop()
    say(told)
    return 1 if told.changed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
