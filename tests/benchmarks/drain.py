"""How fast the sealer gives a backlog its positions."""

import time
from collections.abc import Callable
from contextlib import ExitStack

from application.store.event_store import to_row
from application.store.sealing import seal_all
from tests.benchmarks import ground
from tests.benchmarks.contenders import recorded
from tests.benchmarks.figures import Figure, Notebook

BACKLOG = """
    insert into events (ord, stream_id, version, at, type, body, private, meta, leaf)
    select nextval('events_ord'), gen_random_uuid(), 1, now(), %s, %s, null, %s, %s from generate_series(1, %s)"""
EVENTS = 200_000
REPETITIONS = 5


def measure(quick: bool, count: Callable[[str], None]) -> list[Figure]:
    """Events a second, with a backlog that was committed before."""
    notebook, events = Notebook(), 20_000 if quick else EVENTS
    with ExitStack() as stack:
        server = stack.enter_context(ground.server())
        connection = stack.enter_context(ground.connect(server.database("desk"), "benchmark", statement_seconds=120))
        for _ in range(steps(quick)):
            count("a backlog")
            row = to_row(recorded())
            values = (row.topic, row.state.decode(), row.meta.decode(), row.leaf, events)
            connection.execute("set deskledger.importing to on")  # its last event is seconds older than its row
            connection.execute(BACKLOG, values)
            started = time.perf_counter()
            if seal_all(connection) != events:
                raise RuntimeError("the sealer did not seal what was there")
            rate = events / (time.perf_counter() - started)
            notebook.note("drain", f"sealer, a backlog of {events:,} events", "events/s", rate)
    return notebook.figures()


def steps(quick: bool) -> int:
    """How many measurements there are."""
    return 1 if quick else REPETITIONS
