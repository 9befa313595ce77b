"""Appends of one event: the desk's recorder and its combining shell beside eventsourcing, pgbench and UmaDB."""

import multiprocessing
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from statistics import mean

from api.worker.worker_loop import LONGEST_BREATH, PAUSE_TIMES, WORKER_IDLE_SECONDS
from application.store.sealing import LISTEN, seal_all
from tests.benchmarks import ground
from tests.benchmarks.contenders import (
    MANY,
    WRITERS,
    Pgbench,
    Run,
    combining,
    library,
    library_functions,
    library_recorder,
    ours,
    umadb,
    umadb_server,
)
from tests.benchmarks.figures import Figure, Notebook, interleaved

REPETITIONS, LONELY_REPETITIONS = 5, 3  # of one writer, of whom no ratio has to be shown
SEALED = "recorder, sealer running"
PLAIN = "recorder, no sealer"
LIBRARY = "eventsourcing, default"
FUNCTIONS = "eventsourcing, db functions (unsafe)"
PGBENCH = "pgbench, one INSERT"
COMBINING = "combining, sealer running"
UMADB = "UmaDB, one condition"
AT_MANY = (PGBENCH, COMBINING, UMADB)
PROCESSES = 2
REST, GO, END = "rest", "go", "end"  # what a sealer is told
TWINS, TURN = (SEALED, PLAIN), 0.4  # measured by turns of so many times the length of others
THREADS = "threads of two processes"
NOTES = {
    SEALED: f"{THREADS}, by turns with the next",
    PLAIN: "the same processes and database; what they append is sealed afterwards",
    LIBRARY: THREADS,
    FUNCTIONS: f"{THREADS}; takes no lock, so that a follower can skip events",
    PGBENCH: "the same columns and indexes, no Python",
    COMBINING: "with an idempotency record for each, two processes",
    UMADB: f"its server as it ships; {THREADS}, each with one client; the condition is that no event has the tag",
}


def measure(quick: bool, count: Callable[[str], None]) -> list[Figure]:
    """Appends a second of every contender at every number of writers."""
    notebook = Notebook()
    seconds, repetitions = (0.2, 1) if quick else (1.0, REPETITIONS)
    with ground.server() as server, contenders(server) as runs:

        def one(name: str, writers: int) -> None:
            load = "1 writer" if writers == 1 else f"{writers} writers"
            twins = TWINS if name in TWINS else (name,)
            rates: dict[str, list[float]] = {each: [] for each in twins}
            for each in turns(twins, writers):
                rates[each].append(runs[each](writers, seconds if len(twins) == 1 else seconds * TURN))
            for each in twins:
                notebook.note("append", f"{each}, {load}", "appends/s", mean(rates[each]), NOTES.get(each, ""))

        for run in runs.values():  # connections, prepared statements and the first pages of the tables
            run(8 if quick else max(WRITERS), 0.1 if quick else 0.5)
        planned = [
            (writers, (f"{name}, {writers} writers", lambda name=name, writers=writers: one(name, writers)))
            for name, writers in points(quick)
            if name in runs and name != PLAIN
        ]
        lonely = min(repetitions, LONELY_REPETITIONS)
        interleaved([step for _, step in planned], lonely, count, server.tidy)
        interleaved([step for writers, step in planned if writers > 1], repetitions - lonely, count, server.tidy)
    return notebook.figures()


def points(quick: bool) -> list[tuple[str, int]]:
    """What is measured."""
    names = (SEALED, PLAIN, LIBRARY, FUNCTIONS, PGBENCH, COMBINING, UMADB)
    if quick:
        return [(name, 8) for name in names]
    return [*((name, writers) for writers in WRITERS for name in names), *((name, MANY) for name in AT_MANY)]


def steps(quick: bool) -> int:
    """How many measurements there are."""
    measured = [writers for name, writers in points(quick) if name != PLAIN]
    rest = REPETITIONS - min(REPETITIONS, LONELY_REPETITIONS)
    return len(measured) if quick else len(measured) * (REPETITIONS - rest) + sum(w > 1 for w in measured) * rest


def turns(names: tuple[str, ...], writers: int) -> tuple[str, ...]:
    """Who runs when: one alone once; two, whose difference is small, many times by turns, neither always first."""
    return names if len(names) == 1 else (*names, *reversed(names)) * (3 if writers > 1 else 1)


@contextmanager
def contenders(server: ground.Server) -> Iterator[dict[str, Run]]:
    """Every contender on a database of its own, in processes of its own."""
    with ExitStack() as stack:
        runs: dict[str, Run] = {}
        for name, work in ((SEALED, ours), (LIBRARY, library), (FUNCTIONS, library_functions), (COMBINING, combining)):
            url = server.database(work.__name__)
            if work in (library, library_functions):  # before the processes: two at once would fail
                library_recorder(url, work is library_functions).create_table()
            runs[name] = team = stack.enter_context(Team(work, url))
            if work in (ours, combining):
                runs[name], without = with_sealer(team, stack.enter_context(Sealer(url)))
                if name in TWINS:
                    runs[PLAIN] = without
        program = server.program("pgbench")
        if program.exists() or shutil.which("pgbench"):
            runs[PGBENCH] = Pgbench(server, str(program if program.exists() else shutil.which("pgbench")))
        runs[UMADB] = stack.enter_context(Team(umadb, stack.enter_context(umadb_server(server.directory))))
        yield runs


class Team:
    """Processes that append when they are told to; `work` makes, in each of them, what runs for a while."""

    def __init__(self, work: Callable[[str], Run], url: str) -> None:
        spawn = multiprocessing.get_context("forkserver")
        pairs = [spawn.Pipe() for _ in range(PROCESSES)]
        self.url, self._ends = url, [ours for ours, _ in pairs]
        self._processes = [spawn.Process(target=member, args=(work, url, theirs), daemon=True) for _, theirs in pairs]

    def __enter__(self) -> "Team":
        for process in self._processes:
            process.start()
        return self

    def __exit__(self, *_: object) -> None:
        for end in self._ends:
            end.send(None)
        for process in self._processes:
            process.join(20)

    def __call__(self, writers: int, seconds: float) -> float:
        """Appends a second of all processes together."""
        shares = [writers // len(self._ends) + (n < writers % len(self._ends)) for n in range(len(self._ends))]
        busy = [(end, share) for end, share in zip(self._ends, shares, strict=True) if share]
        for end, share in busy:
            end.send((share, seconds))
        return sum(received(end) for end, _ in busy)


def with_sealer(team: Team, sealer: "Sealer") -> tuple[Run, Run]:
    """The team's runs while the sealer runs, and while it rests: the same processes and the same database, because the
    first of two equal teams was a tenth slower than the second, whichever had the sealer. Each ends when all is sealed,
    so that the next contender gets the machine for itself."""

    def sealed() -> None:
        with ground.connect(team.url, "benchmark") as connection:
            unsealed = "select exists (select from events where ord > hi) from seal_state"
            ground.wait_until(lambda: not connection.execute(unsealed).fetchone()[0], "the sealer is done")

    def beside(writers: int, seconds: float) -> float:
        rate = team(writers, seconds)
        sealed()
        return rate

    def without(writers: int, seconds: float) -> float:
        with sealer.resting():
            rate = team(writers, seconds)
        sealed()
        return rate

    return beside, without


def received(end: Connection) -> float:
    """A process's answer; an error of its own is raised here."""
    answer = end.recv()
    if isinstance(answer, Exception):
        raise answer
    return float(answer)


def member(work: Callable[[str], Run], url: str, end: Connection) -> None:
    """The life of a process of a team."""
    run = work(url)
    while order := end.recv():
        try:
            end.send(run(*order))
        except Exception as error:
            end.send(RuntimeError(f"{type(error).__name__}: {error}"))


class Sealer:
    """A sealer that runs beside, in a process of its own."""

    def __init__(self, url: str) -> None:
        spawn = multiprocessing.get_context("forkserver")
        self._end, theirs = spawn.Pipe()
        self._process = spawn.Process(target=seal_until_told, args=(url, theirs), daemon=True)

    def __enter__(self) -> "Sealer":
        self._process.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.send(END)
        self._process.join(20)

    @contextmanager
    def resting(self) -> Iterator[None]:
        """Meanwhile it does nothing."""
        self._end.send(REST)
        received(self._end)
        try:
            yield
        finally:
            self._end.send(GO)


def seal_until_told(url: str, end: Connection) -> None:
    """Seals as the worker does."""
    with ground.connect(url, "benchmark sealer") as connection:
        connection.execute(LISTEN)
        while True:
            if end.poll():
                if end.recv() == END:
                    return
                end.send(0)
                if end.recv() == END:
                    return
            begun = time.perf_counter()
            if seal_all(connection):
                time.sleep(min((time.perf_counter() - begun) * PAUSE_TIMES, LONGEST_BREATH))
                continue
            for _ in connection.notifies(timeout=WORKER_IDLE_SECONDS, stop_after=1):
                break
