"""The stage: two places for a cluster, one desk in front of them, its clients, its followers, and what is held open."""

import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psycopg

from api.cli.serve import end_with_parent
from application.store.postgres.database import connect
from projections.rebuild.rebuild_projections import Difference, rebuild
from projections.runner import PROJECTIONS
from tests.faults import clients, follower, journal
from tests.faults.checker import Batch, Cut, Held, History, Probe, Resumption, Violation, check, commands_of
from tests.faults.cluster import Cluster, address_of, children_of, prepare
from tests.faults.holding import Holder
from tests.faults.store import log_end, snapshot, unsealed
from tests.support.running_desk import ROOT, RunningDesk, wait_until

WORKERS = ("work", "work 2")
CLIENTS = ("api", "desk", "combining")
HOLES = "select holes = '{}' from seal_state"
PATIENCE = 40.0


class Desk(RunningDesk):
    """API and two workers as processes of their own; they end when this process dies."""

    def start(self, part: str) -> None:
        """Starts a part, "work 2" being a second worker."""
        with (self.directory / f"{part}.log").open("ab") as log:
            command = [sys.executable, "-m", "api.cli", part.split()[0]]
            self.processes[part] = subprocess.Popen(
                command, cwd=ROOT, env=self.environment, stdout=log, stderr=log, preexec_fn=end_with_parent
            )


class Stage:
    """Everything of one chain of rounds; `with` builds it and takes it away again."""

    def __init__(self, directory: Path, seed: str, programs: Path | None = None) -> None:
        self.directory, self.seed = directory, seed
        self.chance, self.whom = random.Random(seed), random.Random(f"{seed} whom")  # among what is there just now
        self.clusters = [Cluster(directory / name, programs) for name in ("one", "two")]
        self.url = address_of(self.clusters)
        self.desk = Desk(self.url, directory, parts=("api", *WORKERS))
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.holder: Holder | None = None
        self.held: list[Held] = []
        self.probes: list[Probe] = []
        self.vanished: list[str] = []
        self.resumptions: list[Resumption] = []
        self.cuts: list[Cut] = []
        self.kills: Counter[str] = Counter()
        self.sealed_by_third = 0
        self._followers: list[Path] = []
        self._names: Counter[str] = Counter()

    @property
    def primary(self) -> Cluster:
        """The cluster that takes commands; the other one is the spare."""
        return self.clusters[0]

    @property
    def spare(self) -> Cluster:
        """The place where the next cluster will be."""
        return self.clusters[1]

    def __enter__(self) -> "Stage":
        try:
            self.primary.create()
            self.primary.start()
            prepare(self.primary.url)
            self.desk.__enter__()
            self.desk.client(clients.CLIENT)
            for kind in CLIENTS:
                self.start_clients(kind)
            self.start_follower("follower", self.url, 0)
            self.hold()
            for kind in CLIENTS:
                wait_until(lambda kind=kind: self._says(kind), f"the clients of {kind} work")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self.holder:
            self.holder.stop(release=False)
        for name in list(self.processes):
            self.end(name)
        self.desk.__exit__()
        for cluster in self.clusters:
            with suppress(ProcessLookupError, subprocess.TimeoutExpired):
                cluster.stop(20)
            cluster.lose()

    # ── Processes ───────────────────────────────────────────────────────────────────────────────────────────

    def start_clients(self, kind: str) -> None:
        """A process of clients of this kind, with a journal of its own."""
        self._names[kind] += 1
        where = (self.desk.base, self.desk.staff) if kind == "api" else (self.url,)
        self._start(
            kind, "tests.faults.clients", kind, f"{kind}{self._names[kind]}", str(self.directory), self.seed, *where
        )

    def start_follower(self, name: str, url: str, position: int) -> None:
        """A follower that begins after a position."""
        self._names[name] += 1
        path = self.directory / f"{name}{self._names[name]}.read"
        path.touch()
        self._followers.append(path)
        self._start(name, "tests.faults.follower", url, str(path), str(position))

    def _start(self, name: str, module: str, *words: str) -> None:
        environment = {**self.desk.environment, "PYTHONPATH": str(ROOT)}
        with (self.directory / f"{name}.said").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", module, *words],
                cwd=ROOT,
                env=environment,
                stdout=log,
                stderr=log,
                preexec_fn=end_with_parent,
            )

    def _says(self, kind: str) -> bool:
        """Whether the present clients of a kind have been told something."""
        path = self.directory / f"{kind}{self._names[kind]}.journal"
        return path.exists() and b'"recorded"' in path.read_bytes()

    def progress(self) -> int:
        """How much has been sent and told, in bytes of journals."""
        return sum(path.stat().st_size for path in self.directory.glob("*.journal"))

    def nobody_died(self) -> None:
        """Raises AssertionError when a process ended that nobody has ended."""
        for name, process in [*self.processes.items(), *self.desk.processes.items()]:
            if process.poll() is not None:
                said = "".join(
                    path.read_text()[-2000:]
                    for path in self.directory.glob(f"{name}.*")
                    if path.suffix in (".said", ".log")
                )
                raise AssertionError(f"{name} ended by itself, with {process.returncode}: {said}")

    def end(self, name: str, how: int = signal.SIGTERM) -> None:
        """Ends one of the processes that the desk does not know of."""
        process = self.processes.pop(name)
        process.send_signal(how)
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def hold(self) -> None:
        """Others begin to hold things open."""
        self._names["held"] += 1
        self.holder = Holder(self.url, self.directory, f"held{self._names['held']}", self.seed).start()

    def let_go(self, release: bool = True) -> None:
        """They end what they hold, or leave it as it is because its store is gone."""
        if holder := self.holder:
            holder.stop(release)
            self.held += holder.held
            self.probes += holder.probes
            self.vanished += holder.vanished
            self.sealed_by_third += holder.sealed
            self.holder = None

    def api_workers(self) -> list[int]:
        """The processes of the API that serve."""
        return children_of(self.desk.processes["api"].pid)

    def answers(self) -> None:
        """Waits until the database takes commands."""

        def takes_commands() -> bool:
            with suppress(psycopg.OperationalError), connect(self.url, "faults") as connection:
                return connection.execute("select 1").fetchone() is not None
            return False

        wait_until(takes_commands, "the database answers")

    # ── What has to be so ───────────────────────────────────────────────────────────────────────────────────

    def resume(self, after: str) -> None:
        """Waits until everything that is committed now is sealed and projected, and notes how long it took."""
        began = time.monotonic()
        self.answers()
        seconds = None
        with suppress(AssertionError):
            wait_until(self._caught_up(), "everything is sealed and projected")
            seconds = time.monotonic() - began
        self.resumptions.append(Resumption(after, seconds))

    def _caught_up(self) -> Callable[[], bool]:
        """Asks whether what is committed now is sealed, and then projected."""
        with connect(self.url, "faults") as connection:
            waiting = set(unsealed(connection))
        goal: list[int] = []

        def caught_up() -> bool:
            with suppress(psycopg.OperationalError), connect(self.url, "faults") as connection:
                if not goal and not waiting & set(unsealed(connection)):
                    goal.append(log_end(connection))
                least = connection.execute("select min(position) from projections").fetchone()[0]  # type: ignore[index]
                return bool(goal) and least >= goal[0]
            return False

        return caught_up

    def check(self, resting: bool = False) -> tuple[History, list[Violation]]:
        """Checks the history up to now. What is in flight at the time is unknown to the checker."""
        self.nobody_died()
        holder = self.holder
        held = [*self.held, *(holder.held if holder else [])]
        probes = [*self.probes, *(holder.probes if holder else [])]
        vanished = [*self.vanished, *(holder.vanished if holder else [])]
        batches, before = self._batches(), self._lines()
        with connect(self.url, "faults", statement_seconds=60) as connection:
            store = snapshot(connection, thoroughly=resting)
        sent = [line for line in self._lines() if isinstance(line, journal.Sent)]
        history = History(
            commands_of([*before, *sent]),
            store,
            batches,
            held,
            vanished,
            probes,
            self.resumptions,
            self.cuts,
            resting,
        )
        return history, check(history)

    def rest(self) -> None:
        """Nobody writes any more, nothing is held, everything is sealed and projected, and no hole is left."""
        for name in CLIENTS:
            self.end(name)
        self.let_go()
        self.resume("the end of all commands")
        with connect(self.url, "faults") as connection:
            with suppress(AssertionError):
                wait_until(lambda: connection.execute(HOLES).fetchone()[0], "no hole is left")  # type: ignore[index]

            def read_all() -> bool:
                own = [path for path in self._followers if path.name.startswith("follower")][-1:]  # not the standby's
                return max((batch.rows[-1][0] for batch in follower.batches(own)), default=0) >= log_end(connection)

            wait_until(read_all, "the follower has read everything")

    def rebuilt(self) -> list[Violation]:
        """How the projections differ from those that are built anew."""
        found: list[Difference] = []
        with connect(self.url, "faults", statement_seconds=120) as connection:
            for projection in PROJECTIONS:
                found += [one for one in rebuild(connection, projection) if one.only_old or one.only_new]
        return [Violation("projections equal to a rebuild", str(difference)) for difference in found]

    def _batches(self) -> list[Batch]:
        return follower.batches(self._followers)

    def _lines(self) -> list[journal.Line]:
        return journal.read(sorted(self.directory.glob("*.journal")))
