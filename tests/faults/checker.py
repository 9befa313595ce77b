"""The history checker: whether what clients were told, what followers read and what the store holds fit together.

Pure: a `History` goes in, what is wrong with it comes out. The rules are the eight properties of the sealed log
(docs/explanation/what-was-done-to-it.md), and what a client may rely on.
"""

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from uuid import UUID

import msgspec

from tests.faults.journal import RECORDED, REFUSED, Line, Sent

MOST_PASSES = 1  # within which an acknowledged event is sealed, whatever is held open elsewhere
MOST_SECONDS = 30.0  # within which everything is sealed and projected again, however much was killed
SHOWN = 5  # of the cases of one rule

Row = tuple[int, UUID, int, bytes]  # position, stream, version, leaf


class Command(msgspec.Struct, frozen=True):
    """What a client was told of one command. `told` is None without an answer; times are in nanoseconds."""

    mark: str
    sent: int
    size: int
    told: int | None = None
    answer: str = "unknown"
    stream: UUID | None = None
    versions: tuple[int, ...] = ()
    said: str = ""


class Stored(msgspec.Struct, frozen=True):
    """An event of the store; `mark` is its correlation id. `whole` is whether its leaf is that of its content."""

    stream: UUID
    version: int
    ord: int
    leaf: bytes
    mark: str | None
    type: str
    number: str | None = None
    whole: bool = True


class Store(msgspec.Struct, frozen=True):
    """One snapshot of the store."""

    events: Sequence[Stored]
    log: Sequence[tuple[int, int]]  # position, ord
    next_position: int
    highest: int
    holes: Sequence[tuple[int, int]]  # from, up to and without
    projections: Mapping[str, int]  # how far each has come


class Batch(msgspec.Struct, frozen=True):
    """What a follower got, at a time in nanoseconds, when it asked for what comes after a position."""

    at: int
    after: int
    rows: tuple[Row, ...]


class Held(msgspec.Struct, frozen=True):
    """A transaction that was held open with its numbers drawn; the log had reached `log_end` before it committed."""

    mark: str
    log_end: int


class Probe(msgspec.Struct, frozen=True):
    """An event was acknowledged while `beside` was held open, and sealed within so many passes."""

    beside: str
    passes: int


class Resumption(msgspec.Struct, frozen=True):
    """How long it took after a kill until all that was acknowledged was sealed and projected; None for never."""

    after: str
    seconds: float | None


class Cut(msgspec.Struct, frozen=True):
    """The store went back to an earlier state, as after a restore: what was acknowledged in between may be gone.

    May be gone: what was told after `since` and sent before `until`. The log was kept up to `position`.
    """

    since: int
    until: int
    position: int


class History(msgspec.Struct, frozen=True):
    """All there is to check. `resting`: nobody writes any more, and nothing is held open."""

    commands: Sequence[Command]
    store: Store
    batches: Sequence[Batch] = ()
    held: Sequence[Held] = ()
    vanished: Sequence[str] = ()  # transactions whose preparation was acknowledged, and which were not there any more
    probes: Sequence[Probe] = ()
    resumptions: Sequence[Resumption] = ()
    cuts: Sequence[Cut] = ()
    resting: bool = False


class Violation(msgspec.Struct, frozen=True):
    """A rule that does not hold, and where."""

    rule: str
    where: str


def check(history: History) -> list[Violation]:
    """Everything that is wrong with a history, a few cases of each rule."""
    shown: Counter[str] = Counter()
    found = []
    for rule, cases in RULES.items():
        for where in cases(history):
            shown[rule] += 1
            if shown[rule] <= SHOWN:
                found.append(Violation(rule, where))
    return found


def commands_of(lines: Iterable[Line]) -> list[Command]:
    """The commands of journals, in the order in which they were sent; one that was sent again counts once."""
    sent: dict[str, Command] = {}
    told: dict[str, Line] = {}
    for line in lines:
        if isinstance(line, Sent):
            sent.setdefault(line.mark, Command(line.mark, line.at, line.size))
        elif line.mark not in told or told[line.mark].answer != RECORDED:  # type: ignore[union-attr]
            told[line.mark] = line
    for mark, line in told.items():
        fields = {name: getattr(line, name) for name in ("answer", "stream", "versions", "said")}
        sent[mark] = msgspec.structs.replace(sent[mark], told=line.at, **fields)
    return sorted(sent.values(), key=lambda command: command.sent)


def contiguous(history: History) -> Iterator[str]:
    """Positions are 1 … n, and the sealer goes on with n + 1."""
    positions = [position for position, _ in history.store.log]
    for expected, position in enumerate(sorted(positions), 1):
        if expected != position:
            yield f"position {position} stands where {expected} should"
            return
    if history.store.next_position != len(positions) + 1:
        yield f"{len(positions)} positions are given, and the next one is {history.store.next_position}"


def unchanged(history: History) -> Iterator[str]:
    """What a follower read at a position stands there for ever, and nothing appears before it afterwards."""
    by_ord = {event.ord: event for event in history.store.events}
    log = {position: by_ord.get(ord_) for position, ord_ in history.store.log}
    for batch in history.batches:
        kept = min((cut.position for cut in history.cuts if batch.at <= cut.until), default=None)
        for expected, (position, stream, version, leaf) in enumerate(batch.rows, batch.after + 1):
            now = log.get(position)
            if position != expected:
                yield f"after {expected - 1}, a follower read {position}"
                break
            if kept is not None and position > kept:
                break
            if now is None or (now.stream, now.version, now.leaf) != (stream, version, leaf):
                yield f"position {position} was read as version {version} of {stream}, and is not any more"


def exactly_once(history: History) -> Iterator[str]:
    """Every committed event is sealed once, or is still where the sealer will find it; at rest all are sealed."""
    store = history.store
    counts = Counter(ord_ for _, ord_ in store.log)
    known = {event.ord for event in store.events}
    yield from (f"number {ord_} has {count} positions" for ord_, count in counts.items() if count > 1)
    yield from (f"number {ord_} has a position, and there is no such event" for ord_ in counts if ord_ not in known)
    holes = sorted(store.holes)
    starts = [start for start, _ in holes]
    for event in store.events:
        if event.ord in counts:
            continue
        at = bisect_right(starts, event.ord) - 1
        is_hole = at >= 0 and event.ord < holes[at][1]
        if history.resting or (event.ord <= store.highest and not is_hole):
            yield f"version {event.version} of {event.stream} has no position and gets none: number {event.ord}"
    if history.resting and store.holes:
        yield f"holes are left: {store.holes[:SHOWN]}"


def held_back(history: History) -> Iterator[str]:
    """What was held open while others went on is sealed, after all that was sealed in the meantime."""
    positions, committed = _positions(history), _by_mark(history)
    for held in history.held:
        found = positions.get(held.mark)
        if found and min(found) <= held.log_end:
            yield f"{held.mark} was not committed at {held.log_end}, and got position {min(found)}"
        elif not found and held.mark in committed and history.resting:
            yield f"{held.mark} was held open, is committed, and has no position"
    yield from (f"{mark} was prepared, and was not there any more" for mark in history.vanished)


def in_order(history: History) -> Iterator[str]:
    """In a stream, positions rise with versions; what was acknowledged before another was sent comes first."""
    position_of = {ord_: position for position, ord_ in history.store.log}
    streams: dict[UUID, list[tuple[int, int | None]]] = defaultdict(list)
    for event in history.store.events:
        streams[event.stream].append((event.version, position_of.get(event.ord)))
    for stream, rows in streams.items():
        sealed = [position for _, position in sorted(rows) if position is not None]
        if any(one >= other for one, other in pairwise(sealed)):
            yield f"the positions of {stream} do not rise with its versions"
    positions = _positions(history)
    told = sorted((c.told, c.mark) for c in history.commands if c.told is not None and c.answer == RECORDED)
    highest, last, n = 0, "", 0
    for command in sorted(history.commands, key=lambda command: command.sent):
        while n < len(told) and told[n][0] < command.sent:  # type: ignore[operator]
            if (top := max(positions.get(told[n][1], [0]))) > highest:
                highest, last = top, told[n][1]
            n += 1
        if command.mark in positions and min(positions[command.mark]) < highest:
            yield f"{last} was acknowledged before {command.mark} was sent, and has the higher position {highest}"


def resumes(history: History) -> Iterator[str]:
    """After a kill, everything that was acknowledged is sealed and projected in time."""
    for resumption in history.resumptions:
        if resumption.seconds is None or resumption.seconds > MOST_SECONDS:
            yield f"not within {MOST_SECONDS} s after {resumption.after}"


def not_stalled(history: History) -> Iterator[str]:
    """Whatever is held open elsewhere, an acknowledged event is sealed by the next pass."""
    for probe in history.probes:
        if probe.passes > MOST_PASSES:
            yield f"beside {probe.beside}, an event needed {probe.passes} passes"


def acknowledged(history: History) -> Iterator[str]:
    """What was acknowledged is there, in the versions that were told."""
    by_mark = _by_mark(history)
    for command in history.commands:
        if command.answer != RECORDED:
            continue
        there = [(event.stream, event.version) for event in by_mark.get(command.mark, [])]
        if not there and command.versions and _may_be_gone(history, command):
            continue
        if sorted(there) != [(command.stream, version) for version in command.versions]:
            yield f"{command.mark} was acknowledged as {command.versions} of {command.stream}, and there is {there}"


def whole(history: History) -> Iterator[str]:
    """Of a command, all events are there or none, in neighbouring versions of one stream."""
    by_mark = _by_mark(history)
    for command in history.commands:
        events = by_mark.get(command.mark, [])
        if events and len(events) < command.size:
            yield f"{command.mark} has {command.size} events, and {len(events)} of them are recorded"
    streams: dict[UUID, list[int]] = defaultdict(list)
    for event in history.store.events:
        streams[event.stream].append(event.version)
    for stream, versions in streams.items():
        if sorted(versions) != list(range(1, len(versions) + 1)):
            yield f"the versions of {stream} are {sorted(versions)}"
    yield from (
        f"version {e.version} of {e.stream} is not what was hashed" for e in history.store.events if not e.whole
    )


def not_twice(history: History) -> Iterator[str]:
    """Nothing is recorded twice, and no ticket number is given twice."""
    by_mark = _by_mark(history)
    for command in history.commands:
        events = by_mark.get(command.mark, [])
        if len(events) > command.size or len({event.stream for event in events}) > 1:
            yield f"{command.mark} has {command.size} events, and {len(events)} are recorded"
    numbers = Counter(event.number for event in history.store.events if event.number)
    yield from (f"{count} tickets have the number {number}" for number, count in numbers.items() if count > 1)


def nobody_else(history: History) -> Iterator[str]:
    """What was refused is not recorded, and what nobody sent neither."""
    answers = {command.mark: command.answer for command in history.commands}
    for mark, events in _by_mark(history).items():
        if mark not in answers:
            yield f"nobody sent {mark}: {events[0].type}"
        elif answers[mark] == REFUSED:
            yield f"{mark} was refused, and recorded"


def no_mistake(history: History) -> Iterator[str]:
    """Nobody is answered that the desk made a mistake."""
    yield from (f"{command.mark}: {command.said}" for command in history.commands if command.said.startswith("500"))


def projected(history: History) -> Iterator[str]:
    """No projection is ahead of the log; at rest each stands at its end."""
    end = len(history.store.log)
    for name, position in history.store.projections.items():
        if position > end or (history.resting and position != end):
            yield f"{name} stands at {position}, and the log ends at {end}"


RULES = {
    "1 positions are 1 … n": contiguous,
    "2 what was read never changes": unchanged,
    "3 and 6 sealed exactly once": exactly_once,
    "4 what was held is sealed later": held_back,
    "5 in order": in_order,
    "7 resumes after a kill": resumes,
    "8 nothing held elsewhere stalls it": not_stalled,
    "acknowledged is recorded": acknowledged,
    "whole or not at all": whole,
    "nothing twice": not_twice,
    "nothing that was refused or not sent": nobody_else,
    "no answer 500": no_mistake,
    "projections follow": projected,
}


def _by_mark(history: History) -> dict[str, list[Stored]]:
    found: dict[str, list[Stored]] = defaultdict(list)
    for event in history.store.events:
        if event.mark is not None:
            found[event.mark].append(event)
    return found


def _positions(history: History) -> dict[str, list[int]]:
    """The positions of each command."""
    mark_of = {event.ord: event.mark for event in history.store.events}
    found: dict[str, list[int]] = defaultdict(list)
    for position, ord_ in history.store.log:
        if mark := mark_of.get(ord_):
            found[mark].append(position)
    return found


def _may_be_gone(history: History, command: Command) -> bool:
    return any(
        command.told is not None and command.told >= cut.since and command.sent <= cut.until for cut in history.cuts
    )
