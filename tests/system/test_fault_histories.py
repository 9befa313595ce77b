"""Kills, failovers and restores under load: the short form of `make faults`; and the checker that judges them."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from msgspec.structs import replace

from tests.faults import rounds, run
from tests.faults.checker import (
    RULES,
    Batch,
    Command,
    Cut,
    Held,
    History,
    Probe,
    Resumption,
    Store,
    Stored,
    check,
    commands_of,
)
from tests.faults.clients import Plan, Shared
from tests.faults.journal import RECORDED, REFUSED, UNKNOWN, Journal, read
from tests.support.postgres_servers import own_programs

STREAMS = [UUID(int=number) for number in range(3)]

# ── A history that is as it should be ───────────────────────────────────────────────────────────────────────


def event(stream: int, version: int, ord_: int, mark: str, **more: Any) -> Stored:
    """An event of the store."""
    return Stored(STREAMS[stream], version, ord_, bytes([ord_]), mark, "Ticket.Test", **more)


EVENTS = [
    event(0, 1, 1, "a", number="T-1"),
    event(0, 2, 2, "a"),
    event(1, 1, 4, "b", number="T-2"),
    event(1, 2, 5, "b"),
    event(0, 3, 6, "c"),
    event(2, 1, 3, "held"),  # committed after the others
    event(2, 2, 8, "unknown"),
]
LOG = [(1, 1), (2, 2), (3, 4), (4, 5), (5, 6), (6, 3), (7, 8)]
ROWS = tuple((position, e.stream, e.version, e.leaf) for position, e in enumerate(EVENTS, 1))
COMMANDS = [
    Command("held", 5, 1, 75, RECORDED, STREAMS[2], (1,)),
    Command("a", 10, 2, 20, RECORDED, STREAMS[0], (1, 2)),
    Command("b", 15, 2, 40, RECORDED, STREAMS[1], (1, 2)),
    Command("c", 50, 1, 60, RECORDED, STREAMS[0], (3,)),
    Command("refused", 51, 1, 61, REFUSED, said="412 stale_version"),
    Command("lost", 52, 1, 62, UNKNOWN, said="503"),
    Command("unknown", 80, 1, None),
]
GOOD = History(
    COMMANDS,
    Store(EVENTS, LOG, 8, 8, [], {"queue_stays": 7}),
    [Batch(70, 0, ROWS[:3]), Batch(71, 3, ROWS[3:5]), Batch(90, 5, ROWS[5:]), Batch(91, 1, ROWS[1:4])],
    [Held("held", 5)],
    [],
    [Probe("a prepared transaction", 1)],
    [Resumption("worker", 0.2)],
    resting=True,
)


def stored(history: History, **changes: Any) -> History:
    """The history with another store."""
    return replace(history, store=replace(history.store, **changes))


def told(mark: str, **changes: Any) -> Callable[[History], History]:
    """The history in which a client was told something else."""
    return lambda history: replace(
        history, commands=[replace(one, **changes) if one.mark == mark else one for one in history.commands]
    )


def without(*ords: int) -> Callable[[History], History]:
    """The history whose store has lost events, with their positions, as if they had never been."""

    def lose(history: History) -> History:
        kept = [one for one in history.store.events if one.ord not in ords]
        log = [(position, ord_) for position, ord_ in enumerate((o for _, o in LOG if o not in ords), 1)]
        changed = stored(history, events=kept, log=log, next_position=len(log) + 1, projections={})
        return replace(changed, batches=[], held=[])

    return lose


def changed(ord_: int, **changes: Any) -> Callable[[History], History]:
    """The history whose store has another event in the place of one, which no follower has read."""
    return lambda history: replace(
        stored(history, events=[replace(one, **changes) if one.ord == ord_ else one for one in EVENTS]), batches=[]
    )


def logged(*log: tuple[int, int], **changes: Any) -> Callable[[History], History]:
    """The history with another log, which no follower has read."""
    return lambda history: replace(stored(history, log=list(log), **changes), batches=[])


CORRUPTIONS: dict[str, tuple[Callable[[History], History], set[str]]] = {
    "a gap": (
        logged(*LOG[:-1], (8, 8), next_position=9, projections={}),
        {"1 positions are 1 … n"},
    ),
    "a position given again": (
        logged(*LOG[:-1], (6, 8), next_position=7, projections={}),
        {"1 positions are 1 … n", "5 in order"},
    ),
    "a sealer that will give a position again": (
        lambda history: stored(history, next_position=7),
        {"1 positions are 1 … n"},
    ),
    "another event at a position that was read": (
        lambda history: replace(history, batches=[Batch(70, 2, ((3, STREAMS[1], 2, bytes([5])),))]),
        {"2 what was read never changes"},
    ),
    "another content at a position that was read": (
        lambda history: replace(history, batches=[Batch(70, 2, ((3, STREAMS[1], 1, b"other"),))]),
        {"2 what was read never changes"},
    ),
    "a position that was read and is gone": (
        lambda history: replace(history, batches=[Batch(70, 7, ((8, STREAMS[1], 3, b"8"),))]),
        {"2 what was read never changes"},
    ),
    "a follower that was ahead of a position": (
        lambda history: replace(history, batches=[Batch(70, 0, (ROWS[0], ROWS[2]))]),
        {"2 what was read never changes"},
    ),
    "an event that is never sealed": (
        logged(*LOG[:-1], next_position=7, projections={"queue_stays": 6}),
        {"3 and 6 sealed exactly once"},
    ),
    "an event that the sealer has given up": (
        lambda history: replace(logged(*LOG[:-1], next_position=7, projections={})(history), resting=False),
        {"3 and 6 sealed exactly once"},
    ),
    "an event sealed twice": (
        logged(*LOG, (8, 8), next_position=9, projections={}),
        {"3 and 6 sealed exactly once"},
    ),
    "a position of nothing": (
        logged(*LOG, (8, 9), next_position=9, projections={}),
        {"3 and 6 sealed exactly once"},
    ),
    "holes that nobody can fill any more": (
        lambda history: stored(history, holes=[(7, 8)]),
        {"3 and 6 sealed exactly once"},
    ),
    "a held event below what was sealed before it": (
        lambda history: replace(history, held=[Held("held", 6)]),
        {"4 what was held is sealed later"},
    ),
    "a held event that is lost to the log": (
        logged(*LOG[:5], (6, 8), next_position=7, projections={"queue_stays": 6}),
        {"3 and 6 sealed exactly once", "4 what was held is sealed later"},
    ),
    "a prepared transaction that vanished": (
        lambda history: replace(history, vanished=["held"]),
        {"4 what was held is sealed later"},
    ),
    "versions that do not rise with positions": (
        logged((1, 2), (2, 1), *LOG[2:]),
        {"5 in order"},
    ),
    "an event before one that was acknowledged": (
        lambda history: logged((1, 1), (2, 2), (3, 4), (4, 5), (5, 3), (6, 8), (7, 6))(told("c", told=70)(history)),
        {"5 in order", "4 what was held is sealed later"},
    ),
    "nobody seals after a kill": (
        lambda history: replace(history, resumptions=[Resumption("worker", None)]),
        {"7 resumes after a kill"},
    ),
    "somebody seals too late after a kill": (
        lambda history: replace(history, resumptions=[Resumption("worker", 31.0)]),
        {"7 resumes after a kill"},
    ),
    "an event that had to wait for somebody else's transaction": (
        lambda history: replace(history, probes=[Probe("a transaction in another database", 2)]),
        {"8 nothing held elsewhere stalls it"},
    ),
    "an acknowledged command that is lost": (without(6), {"acknowledged is recorded"}),
    "an acknowledged version that is another's": (
        told("c", stream=STREAMS[1]),
        {"acknowledged is recorded"},
    ),
    "an acknowledged command of which a part is there": (
        without(5),
        {"acknowledged is recorded", "whole or not at all"},
    ),
    "an unknown command of which a part is there": (told("unknown", size=2), {"whole or not at all"}),
    "a stream without its first version": (
        lambda history: without(3)(told("held", answer=UNKNOWN)(history)),
        {"whole or not at all"},
    ),
    "a content that is not what was hashed": (changed(6, whole=False), {"whole or not at all"}),
    "a command that is recorded twice": (
        lambda history: changed(8, mark="held")(history),
        {"acknowledged is recorded", "nothing twice"},
    ),
    "a command in two streams": (
        lambda history: told("c", size=2, answer=UNKNOWN)(changed(8, mark="c")(history)),
        {"nothing twice"},
    ),
    "a ticket number given twice": (changed(4, number="T-1"), {"nothing twice"}),
    "a refused command that is recorded": (
        told("unknown", answer=REFUSED),
        {"nothing that was refused or not sent"},
    ),
    "an event that nobody sent": (changed(8, mark="ghost"), {"nothing that was refused or not sent"}),
    "an answer 500": (told("lost", said="500 internal_error"), {"no answer 500"}),
    "a projection that stands still": (
        lambda history: stored(history, projections={"queue_stays": 6}),
        {"projections follow"},
    ),
    "a projection ahead of the log": (
        lambda history: replace(stored(history, projections={"queue_stays": 8}), resting=False),
        {"projections follow"},
    ),
}


def test_a_good_history_is_accepted() -> None:
    """The checker has nothing against a history that is as it should be, at rest or in the middle."""
    assert check(GOOD) == []
    assert check(replace(GOOD, resting=False)) == []


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_the_checker_objects(kind: str) -> None:
    """A history that is wrong in one way is refused, by the rules that it breaks and by no other."""
    corrupt, rules = CORRUPTIONS[kind]
    assert {violation.rule for violation in check(corrupt(GOOD))} == rules


def test_every_rule_has_a_history_that_breaks_it() -> None:
    """No rule of the checker is there for show."""
    assert set().union(*(rules for _, rules in CORRUPTIONS.values())) == set(RULES)


def test_in_the_middle_an_event_may_wait_for_its_position() -> None:
    """While the desk works, an event above the highest number seen, or in a hole, is not lost: at rest it is."""
    short = logged(*LOG[:5], next_position=6, projections={}, highest=6, holes=[(3, 4)])(GOOD)
    assert check(replace(short, resting=False)) == []
    assert {violation.rule for violation in check(short)} == {
        "3 and 6 sealed exactly once",
        "4 what was held is sealed later",
    }


def test_only_what_was_told_before_a_restore_and_after_its_dump_may_be_gone() -> None:
    """A restore excuses the loss of whole commands between the dump and the restore, and of nothing else."""
    history = without(6, 8)(GOOD)
    assert check(replace(history, cuts=[Cut(55, 70, 5)])) == []
    for cut in (Cut(61, 70, 5), Cut(30, 49, 5)):
        assert {violation.rule for violation in check(replace(history, cuts=[cut]))} == {"acknowledged is recorded"}
    assert {one.rule for one in check(replace(without(5)(GOOD), cuts=[Cut(0, 100, 2)]))} == {
        "acknowledged is recorded",
        "whole or not at all",
    }


def test_after_a_restore_positions_beyond_the_dump_are_given_anew() -> None:
    """What was read up to the end of the dump stays; what was read beyond it, before the restore, may be another's."""
    old = Batch(65, 4, ((5, STREAMS[0], 3, bytes([6])), (6, STREAMS[2], 9, b"gone")))
    assert check(replace(GOOD, batches=[old], cuts=[Cut(50, 70, 5)])) == []
    for cut in (Cut(50, 70, 6), Cut(50, 60, 5)):
        assert {one.rule for one in check(replace(GOOD, batches=[old], cuts=[cut]))} == {
            "2 what was read never changes"
        }


def test_a_few_cases_of_a_rule_are_enough() -> None:
    """However much is wrong, what is shown stays readable."""
    probes = [Probe("a prepared transaction", 2)] * 100
    assert len(check(replace(GOOD, probes=probes))) == 5


def test_a_journal_tells_what_was_sent_and_answered(tmp_path: Path) -> None:
    """A command has the times of its first sending and of its answer; one without an answer is unknown."""
    path, stream = tmp_path / "client.journal", uuid4()
    journal = Journal(path)
    for mark in ("taken", "refused", "open"):
        journal.sending(mark, 5)
    journal.unknown("taken", "503")
    journal.recorded("taken", stream, [1, 2])
    journal.refused("refused", "412 stale_version")
    with path.open("a") as file:
        file.write('{"type":"told","mark":"open"')  # killed while it wrote
    taken, refused, unanswered = commands_of(read([path]))
    assert (taken.answer, taken.stream, taken.versions, taken.size) == (RECORDED, stream, (1, 2), 5)
    assert (refused.answer, refused.said) == (REFUSED, "412 stale_version")
    assert (unanswered.answer, unanswered.told) == (UNKNOWN, None)
    assert taken.sent < refused.sent < unanswered.sent < taken.told < refused.told


def test_the_first_acknowledgement_counts(tmp_path: Path) -> None:
    """A command that is sent again under its key was acknowledged when it was acknowledged first."""
    journal = Journal(tmp_path / "client.journal")
    journal.sending("twice", 1)
    journal.recorded("twice", STREAMS[0], [1])
    first = commands_of(read([tmp_path / "client.journal"]))
    journal.sending("twice", 1)
    journal.unknown("twice", "503")
    assert commands_of(read([tmp_path / "client.journal"])) == first


def test_a_seed_repeats_the_choices(tmp_path: Path) -> None:
    """The same seed gives the same rounds and the same wishes; another one gives others."""
    shared = Shared(tmp_path / "shared")
    for stream in STREAMS:
        shared.add(stream)
    one, same, other = ([plan.next() for _ in range(20)] for plan in (Plan("api1-0", seed, shared) for seed in "112"))
    assert one == same != other
    first, again, another = (run.long_form(random.Random(seed), 2) for seed in "112")
    assert first == again != another


def test_the_long_form_does_enough() -> None:
    """`make faults` makes at least 200 kills, and 20 failovers and restores."""
    plan = [step for chain in run.long_form(random.Random(1), run.CHAINS) for step in chain]
    changes = [step for step in plan if step in (rounds.failover, rounds.failover_that_loses, rounds.restore)]
    assert len(changes) >= run.LEAST_CHANGES >= 20
    assert (len(plan) - len(changes)) * run.KILLS >= run.LEAST_KILLS >= 200


def test_the_short_form() -> None:
    """One kill of each kind, a failover, one that loses its end, and a restore, under load: no rule is broken."""
    tally, said = run.Tally(), []
    run.run_chain("short", run.SHORT_FORM, str(random.getrandbits(32)), tally, said.append, own_programs())
    assert tally.violations == [], said
    assert tally.changes == 3
    assert tally.answers[RECORDED] > 100, said
