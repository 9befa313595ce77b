"""The rounds: load all the time, and in each round something is done to the desk, until the checker looks."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from application.store.postgres.database import connect
from tests.faults.checker import Cut, History, Violation
from tests.faults.cluster import Cluster, children_of, moment
from tests.faults.holding import roll_back_prepared
from tests.faults.kills import OF_POSTGRES, OF_PROCESSES, WEIGHTS, kill
from tests.faults.stage import Stage
from tests.faults.store import log_end

LONGEST_BREATH = 1.5  # seconds
LOG = "select position, stream_id, version, leaf from log join events using (ord) order by position"


def crashes(stage: Stage, kills: int) -> str:
    """Kills of everything, one after the other, sometimes before the one before is recovered from."""
    names = list(WEIGHTS)
    for _ in range(kills):
        breathe(stage)
        name = stage.chance.choices(names, list(WEIGHTS.values()))[0]
        kill(stage, name)
        if name in OF_POSTGRES and stage.chance.random() < 0.3:
            stage.resume(name)
    stage.resume(name)
    return f"{kills} kills, the last one of {name}"


def every_kind(stage: Stage) -> str:
    """One kill of each kind."""
    for name in stage.chance.sample(list(WEIGHTS), len(WEIGHTS)):
        breathe(stage)
        kill(stage, name)
    stage.resume(name)
    return "one kill of each kind"


def failover(stage: Stage) -> str:
    """The machine of the primary is lost under load; a standby that each commit has waited for takes over."""
    standby = stage.spare
    follow(stage, standby)
    stage.primary.wait_for_standby("standby")
    for _ in range(2):
        breathe(stage)
        kill(stage, stage.chance.choice(list(OF_PROCESSES)))
    with held_up(standby):  # whatever is acknowledged now has to be on the standby all the same
        breathe(stage)
        stage.primary.lose()
    stage.kills["PostgreSQL, whole machine"] += 1
    standby.replayed()
    standby.promote()
    switch(stage)
    stage.resume("a failover")
    return "failover to a synchronous standby"


def failover_that_loses(stage: Stage) -> str:
    """The same with a standby that nobody waits for, and which is behind: what is lost is the end, and nothing else."""
    standby = stage.spare
    follow(stage, standby)
    breathe(stage)
    if not standby.follows(stage.primary):
        raise AssertionError("the standby does not follow")
    since = moment()
    lost_from = stage.primary
    with held_up(standby):
        breathe(stage)
        lost_from.lose()
    stage.kills["PostgreSQL, whole machine"] += 1
    stage.let_go(release=False)
    standby.replayed()
    with connect(standby.url, "faults") as connection:
        kept = log_end(connection)
    stage.cuts.append(Cut(since, moment(), kept))
    standby.promote()
    switch(stage, position=kept)
    lost = compare_with(lost_from, stage, kept)
    stage.resume("a failover that loses")
    return f"failover to a standby that was behind: kept the log up to {kept}, lost {lost} positions after it"


def restore(stage: Stage) -> str:
    """A dump is made under load; some time later everything is lost, and the dump is restored into a new cluster."""
    since, dump = moment(), stage.directory / "desk.dump"
    stage.primary.dump(dump)
    for _ in range(2):
        breathe(stage)
        kill(stage, stage.chance.choice(list(OF_PROCESSES)))
    new = stage.spare
    new.hide()
    new.create()
    stage.let_go(release=False)
    stage.primary.lose()
    stage.kills["PostgreSQL, whole machine"] += 1
    new.start()
    new.burn(stage.chance.choice([0, 100, 1_000, 5_000]))
    new.restore(dump)
    dump.unlink()
    with connect(new.url, "faults") as connection:
        kept = log_end(connection)
    new.stop()
    new.show()
    stage.cuts.append(Cut(since, moment(), kept))
    new.start()
    switch(stage, position=kept)
    stage.resume("a restore")
    return f"restore of a dump into a new cluster: the log goes on after {kept}"


def follow(stage: Stage, standby: Cluster) -> None:
    """A standby is made and started, and read from."""
    standby.create_standby(stage.primary)
    standby.start()
    with connect(standby.url, "faults") as connection:
        position = log_end(connection)
    stage.start_follower("standby follower", standby.url, position)


@contextmanager
def held_up(standby: Cluster) -> Iterator[None]:
    """The standby receives nothing for a while, and falls behind."""
    receivers = [pid for pid in children_of(standby.process.pid) if "walreceiver" in words(pid)]  # type: ignore[union-attr]
    for pid in receivers:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in receivers:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def switch(stage: Stage, position: int | None = None) -> None:
    """The other cluster is the primary now. `position`: followers have to begin again there."""
    stage.clusters.reverse()
    if "standby follower" in stage.processes:
        stage.end("standby follower")
    if position is not None:
        roll_back_prepared(stage.url)
        stage.end("follower")
        stage.start_follower("follower", stage.url, position)
        stage.hold()


def compare_with(lost: Cluster, stage: Stage, kept: int) -> int:
    """Starts the lost cluster where nobody finds it: up to `kept` its log is that of the new primary.

    Returns how many positions are lost. Raises AssertionError when what was kept is not a prefix of what there was.
    """
    lost.hide()
    lost.start_again()
    try:
        with connect(lost.url, "faults") as before, connect(stage.url, "faults") as now:
            there, here = (one.execute(LOG).fetchall() for one in (before, now))
    finally:
        lost.stop()
        lost.show()
    if there[:kept] != here[:kept]:
        raise AssertionError("what was kept is not a prefix of what there was")
    return len(there) - kept


def words(pid: int) -> str:
    """The command line of a process."""
    with suppress(OSError):
        return (Path("/proc") / str(pid) / "cmdline").read_bytes().decode(errors="replace")
    return ""


def breathe(stage: Stage) -> None:
    """Lets the desk work for a while that is not the same each time; this is the point at which something is done."""
    before, most = stage.progress() + stage.chance.randint(1, 20_000), time.monotonic() + LONGEST_BREATH
    time.sleep(stage.chance.uniform(0.05, 0.4))
    while stage.progress() < before and time.monotonic() < most:
        time.sleep(0.02)


def end(stage: Stage) -> tuple[History, list[Violation]]:
    """Everything comes to rest, is checked thoroughly, and the projections are compared with a rebuild."""
    stage.rest()
    history, found = stage.check(resting=True)
    return history, [*found, *stage.rebuilt()]
