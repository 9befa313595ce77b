"""Kills, failovers and restores under load, each checked: `make faults`. Prints its seed, its progress, and a table."""

import argparse
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FunctionType

from tests.faults import rounds
from tests.faults.checker import RULES, History, Violation
from tests.faults.stage import Stage

Round = FunctionType
LEAST_KILLS, LEAST_CHANGES = 200, 20
KILLS, CHAINS = 10, 4


def crashes(stage: Stage) -> str:
    """Kills of everything."""
    return rounds.crashes(stage, KILLS)


class Tally:
    """What was done and found in all chains."""

    def __init__(self) -> None:
        self.kills: Counter[str] = Counter()
        self.rounds: Counter[str] = Counter()
        self.answers: Counter[str] = Counter()
        self.seen: Counter[str] = Counter()
        self.slowest = 0.0
        self.violations: list[Violation] = []

    @property
    def changes(self) -> int:
        """Failovers and restores."""
        return sum(self.rounds[name] for name in ("failover", "failover_that_loses", "restore"))

    def add(self, stage: Stage, history: History) -> None:
        """Takes in what a chain has done."""
        self.kills += stage.kills
        self.answers.update(command.answer for command in history.commands)
        told = {command.mark for command in history.commands if command.answer == "recorded" and command.versions}
        there = {event.mark for event in history.store.events}
        self.seen["acknowledged, and gone with a restore or a lagging standby"] += len(told - there)
        unknown = {command.mark for command in history.commands if command.answer == "unknown"}
        self.seen["unknown to the client, and recorded"] += len(unknown & there)
        self.seen["events sealed"] += len(history.store.log)
        self.seen["positions read by followers"] += sum(len(batch.rows) for batch in history.batches)
        self.seen["transactions held open and committed"] += len(history.held)
        self.seen["passes counted beside something held"] += sum(probe.beside != "nothing" for probe in history.probes)
        self.seen["events sealed by a third sealer"] += stage.sealed_by_third
        self.slowest = max([self.slowest, *(one.seconds or 0.0 for one in history.resumptions)])


def long_form(chance: random.Random, chains: int) -> list[list[Round]]:
    """The rounds of each chain: crashes and changes of store in a random order."""
    once: list[Round] = (
        [crashes] * 5 + [rounds.failover] * 3 + [rounds.failover_that_loses, rounds.restore, rounds.restore]
    )
    return [chance.sample(once, len(once)) for _ in range(chains)]


SHORT_FORM: list[Round] = [rounds.every_kind, rounds.failover, rounds.failover_that_loses, rounds.restore]


def run_chain(
    name: str, plan: list[Round], seed: str, tally: Tally, say: Callable[[str], None], programs: Path | None
) -> None:
    """One chain of rounds on one history. What is wrong goes into the tally."""
    directory = Path(tempfile.mkdtemp(prefix="deskledger-faults-"))
    directory.chmod(0o755)  # PostgreSQL runs as somebody else when root starts it
    try:
        with Stage(directory, f"{seed} {name}", programs) as stage:
            for number, step in enumerate(plan, 1):
                done = step(stage)
                history, found = stage.check()
                tally.rounds[step.__name__] += 1
                tally.violations += found
                say(f"{name}, round {number} of {len(plan)}: {done}. {summary(history)}, {len(found)} violations")
                say_all(found, say)
            history, found = rounds.end(stage)
            tally.add(stage, history)
            tally.violations += found
            say(f"{name} at rest, projections compared with a rebuild: {summary(history)}, {len(found)} violations")
            say_all(found, say)
    finally:
        shutil.rmtree(directory)


def summary(history: History) -> str:
    """How much there is to check."""
    return f"{len(history.commands):,} commands, {len(history.store.log):,} events in the log"


def say_all(found: list[Violation], say: Callable[[str], None]) -> None:
    """Says what is wrong."""
    for violation in found:
        say(f"  VIOLATION {violation.rule}: {violation.where}")


def table(tally: Tally, seed: str, seconds: float) -> str:
    """What was done, what was seen, and what was wrong."""
    lines = [
        ("seed", seed),
        ("seconds", f"{seconds:,.0f}"),
        *((f"kills: {name}", f"{count:,}") for name, count in sorted(tally.kills.items())),
        ("kills in all", f"{sum(tally.kills.values()):,}"),
        ("failovers to a synchronous standby", str(tally.rounds["failover"])),
        ("failovers to a standby that was behind", str(tally.rounds["failover_that_loses"])),
        ("restores of a dump into a new cluster", str(tally.rounds["restore"])),
        ("failovers and restores in all", str(tally.changes)),
        *((f"commands: {answer}", f"{count:,}") for answer, count in sorted(tally.answers.items())),
        *((name, f"{count:,}") for name, count in tally.seen.items()),
        ("longest time until all was sealed and projected again", f"{tally.slowest:.1f} s"),
    ]
    rules = Counter(violation.rule for violation in tally.violations)
    lines += [(f"rule: {rule}", f"{rules[rule]} violations") for rule in [*RULES, "projections equal to a rebuild"]]
    width = max(len(name) for name, _ in lines)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in lines)


def main() -> int:
    """Returns the exit status: 0 when nothing is wrong, and enough was done."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", help="repeats the choices of a run (default: a new one)")
    parser.add_argument("--chains", type=int, default=CHAINS, help="how many histories (default: %(default)s)")
    parser.add_argument("--short", action="store_true", help="one of each kind only")
    parser.add_argument("--programs", type=Path, help="the bin directory of another PostgreSQL than the embedded one")
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that nothing is left behind
    seed = asked.seed or str(random.SystemRandom().randrange(10**9))
    began = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - began:4.0f} s] {text}", flush=True)

    say(f"seed {seed}; the same choices again: make faults SEED={seed}")
    plans = [SHORT_FORM] if asked.short else long_form(random.Random(seed), asked.chains)
    tally = Tally()
    for number, plan in enumerate(plans, 1):
        run_chain(f"chain {number}", plan, seed, tally, say, asked.programs)
    print(f"\n{table(tally, seed, time.monotonic() - began)}")
    enough = asked.short or (sum(tally.kills.values()) >= LEAST_KILLS and tally.changes >= LEAST_CHANGES)
    print(
        "\nVIOLATIONS: see above" if tally.violations else "\nno violation", "" if enough else "; too little was done"
    )
    return 0 if enough and not tally.violations else 1


if __name__ == "__main__":
    sys.exit(main())
