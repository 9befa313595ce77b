"""The append: a command's events all or none, beside others; the keys of the winners; leaves that all can recompute."""

import hashlib
import json
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from threading import Barrier
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from application.store.event_store import INSERT_AND_KEEP, EventMapper, append_parameters, by_stream, to_row
from application.store.idempotency_records import IdempotencyRecord
from application.store.postgres.database import connect
from domain.events import ClosureEmailSent, DossierCompiled, Escalated, Event, Linked, NoteAdded, Recorded
from domain.values import Actor, Level, Relation, Role, Visibility
from tests.support.write_side import NOW, append, beside, history, rows, wait_for_locks

A, M, Z = (UUID(int=n) for n in (1, 2, 3))
ACTOR = Actor("agent-1", "Agentin Änne", Role.AGENT)


@pytest.fixture
def others(database: str) -> Iterator[list[psycopg.Connection]]:
    """Three more connections."""
    opened = [connect(database, "test other") for _ in range(3)]
    yield opened
    for connection in opened:
        connection.close()


def kept(key: str, stream: UUID, principal: str = "key_1") -> tuple[UUID, IdempotencyRecord]:
    """An idempotency record of the command on that stream."""
    return stream, IdempotencyRecord(principal, key, b"hash of " + key.encode(), b"answer to " + key.encode())


def keys(connection: psycopg.Connection[Any]) -> list[tuple[str, str, bytes, bytes]]:
    """The idempotency records that stand."""
    query = "select principal, key, request_hash, answer from idempotency order by key"
    return connection.execute(query).fetchall()


def note(text: str, stream: UUID = A, version: int = 1, at: datetime = NOW, **more: Any) -> Recorded:
    """An event with a text."""
    return Recorded(stream, version, at, ACTOR, NoteAdded(text, Visibility.INTERNAL), **more)


def leaf_by_the_book(row: tuple[UUID, int, datetime, str, bytes, bytes]) -> bytes:
    """What an auditor computes from the columns, with nothing of ours: SHA-256(0x00 || canonical JSON)."""
    stream, version, at, type_, body, meta = row
    envelope = {
        "at": at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "body": json.loads(body),
        "meta": json.loads(meta),
        "stream": str(stream),
        "type": type_,
        "version": version,
    }
    canonical = json.dumps(envelope, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(b"\0" + canonical.encode()).digest()


def check_leaves(connection: psycopg.Connection[Any]) -> int:
    """Every leaf is what the columns give. Returns how many there are."""
    query = "select stream_id, version, at, type, body, meta, leaf from events"
    found = connection.execute(query).fetchall()
    for *row, leaf in found:
        assert leaf_by_the_book(tuple(row)) == leaf
    return len(found)


def test_all_events_of_a_command_are_recorded_in_order(connection: psycopg.Connection) -> None:
    """The events of each command of a batch draw their numbers in the order of their versions."""
    streams = [uuid4() for _ in range(20)]
    assert append(connection, [row for stream in streams for row in rows(stream, 1, 30)]) == set(streams)
    for stream in streams:
        assert history(connection, stream) == list(range(1, 31))


def test_a_command_that_comes_second_leaves_nothing(connection: psycopg.Connection) -> None:
    """When the first version of a command is taken, none of its events is recorded; the rest of the batch is."""
    append(connection, rows(A, 1, 2))
    assert append(connection, [*rows(M, 1, 3), *rows(A, 2, 3), *rows(Z, 1, 3)]) == {M, Z}
    assert history(connection, A) == [1, 2]
    assert history(connection, M) == history(connection, Z) == [1, 2, 3]


def test_two_at_once_on_one_version_have_one_winner(
    connection: psycopg.Connection, others: list[psycopg.Connection]
) -> None:
    """Who comes second waits for the first to commit, and then loses whole, and only on that stream."""
    first, second, _ = others
    first.execute("begin")
    append(first, rows(A, 1, 2))
    with beside(lambda: append(second, [*rows(A, 1, 4), *rows(M, 1, 4)])) as appended:
        wait_for_locks(connection, 1)
        first.execute("commit")
    assert appended[0].result() == {M}
    assert history(connection, A) == [1, 2]
    assert history(connection, M) == [1, 2, 3, 4]


def test_who_waits_for_a_rollback_wins(connection: psycopg.Connection, others: list[psycopg.Connection]) -> None:
    """When the first rolls back, the second is recorded whole."""
    first, second, _ = others
    first.execute("begin")
    append(first, rows(A, 1, 2))
    with beside(lambda: append(second, rows(A, 1, 4))) as appended:
        wait_for_locks(connection, 1)
        first.execute("rollback")
    assert appended[0].result() == {A}
    assert history(connection, A) == [1, 2, 3, 4]


def test_batches_in_opposite_order_do_not_deadlock(
    connection: psycopg.Connection, others: list[psycopg.Connection]
) -> None:
    """Whatever order the streams of two batches are given in, they are written in one order: one batch waits."""
    first, second, third = others
    first.execute("begin")
    append(first, rows(M))
    upwards = [*rows(A, 1, 2), *rows(M, 1, 2), *rows(Z, 1, 2)]
    downwards = [*rows(Z, 1, 3), *rows(M, 1, 3), *rows(A, 1, 3)]
    with beside(lambda: append(second, upwards), lambda: append(third, downwards)) as appended:
        wait_for_locks(connection, 2)
        first.execute("rollback")
    won = [one.result() for one in appended]
    assert sorted(won, key=len) == [set(), {A, M, Z}]
    assert len({len(history(connection, stream)) for stream in (A, M, Z)}) == 1


def test_keys_in_opposite_order_do_not_deadlock(
    connection: psycopg.Connection, others: list[psycopg.Connection]
) -> None:
    """The keys of two batches are written in one order too: one batch clashes, the other one stands."""
    first, second, third = others
    first.execute("begin")
    append(first, rows(uuid4()), [kept("m", uuid4())])
    first.execute("insert into idempotency values ('key_1', 'm', '', '', now())")
    streams = [uuid4() for _ in range(6)]
    upwards = [row for stream in streams[:3] for row in rows(stream)]
    downwards = [row for stream in streams[3:] for row in rows(stream)]
    up = [kept(key, stream) for key, stream in zip("amz", streams[:3], strict=True)]
    down = [kept(key, stream) for key, stream in zip("zma", streams[3:], strict=True)]
    with beside(lambda: append(second, upwards, up), lambda: append(third, downwards, down)) as appended:
        wait_for_locks(connection, 2)
        first.execute("rollback")
    failures = [error for one in appended if (error := one.exception())]
    assert [type(error) for error in failures] == [psycopg.errors.UniqueViolation]
    assert len(keys(connection)) == 3


def test_keys_of_a_plain_insert_do_not_deadlock(
    connection: psycopg.Connection, others: list[psycopg.Connection]
) -> None:
    """The insert that fails as a whole writes its keys in one order too: one batch clashes, the other one stands."""
    first, second, third = others
    first.execute("begin")
    first.execute("insert into idempotency values ('key_1', 'm', '', '', now())")

    def insert(writer: psycopg.Connection[Any], names: str) -> None:
        writer.execute(INSERT_AND_KEEP, append_parameters(rows(uuid4()), [kept(name, A) for name in names]))

    with beside(lambda: insert(second, "amz"), lambda: insert(third, "zma")) as inserted:
        wait_for_locks(connection, 2)
        first.execute("rollback")
    failures = [type(error) for one in inserted if (error := one.exception())]
    assert failures == [psycopg.errors.UniqueViolation]
    assert len(keys(connection)) == 3


def race(connection: psycopg.Connection[Any], start: Barrier, seed: int, streams: list[UUID]) -> list[tuple[UUID, int]]:
    """Appends 60 batches of commands on contended streams. Returns stream and first version of every winner."""
    chance, won = random.Random(seed), []
    start.wait(20)
    for turn in range(60):
        chosen = chance.sample(streams, 4)
        query = "select stream_id, max(version) from events where stream_id = any(%s) group by stream_id"
        known = dict(connection.execute(query, (chosen,)).fetchall())
        firsts = {stream: known.get(stream, 0) + 1 for stream in chosen}
        given = [row for stream in chosen for row in rows(stream, firsts[stream], chance.randint(1, 3))]
        names = [kept(f"{seed}-{turn}-{stream}", stream) for stream in chosen]
        won += [(stream, firsts[stream]) for stream in append(connection, given, names)]
    return won


def test_contended_streams_stay_contiguous(connection: psycopg.Connection, others: list[psycopg.Connection]) -> None:
    """Three writers on eight streams: every version once, every command whole, a key for each winner and no other."""
    streams, start = [uuid4() for _ in range(8)], Barrier(3)
    seeds = [random.getrandbits(32) for _ in others]
    work = [lambda c=c, s=s: race(c, start, s, streams) for c, s in zip(others, seeds, strict=True)]
    with beside(*work) as raced:
        pass
    won = [winner for one in raced for winner in one.result()]
    assert len(won) == len(set(won)) == len(keys(connection))
    for stream in streams:
        versions = history(connection, stream)
        assert versions == list(range(1, len(versions) + 1))
        assert {first for s, first in won if s == stream} <= set(versions)


def test_keys_are_recorded_for_the_winners_only(connection: psycopg.Connection) -> None:
    """A command that came second leaves no idempotency record, so that its repetition is not answered from one."""
    append(connection, rows(A))
    assert append(connection, [*rows(A), *rows(M)], [kept("of A", A), kept("of M", M)]) == {M}
    assert keys(connection) == [("key_1", "of M", b"hash of of M", b"answer to of M")]


def test_a_key_that_is_known_stops_its_own_command_only(connection: psycopg.Connection) -> None:
    """A caller's key is never recorded twice: nothing of its second command is recorded, all of the others is.

    Another caller's key is another one.
    """
    append(connection, rows(A), [kept("k", A)])
    assert append(connection, [*rows(M, 1, 2), *rows(Z, 1, 2)], [kept("k", M), kept("z", Z)]) == {Z}
    assert (history(connection, M), history(connection, Z)) == ([], [1, 2])
    append(connection, rows(M), [kept("k", M, principal="key_2")])
    assert [(principal, key) for principal, key, *_ in keys(connection)] == [
        ("key_1", "k"),
        ("key_2", "k"),
        ("key_1", "z"),
    ]


def test_a_leaf_is_recomputable_from_the_columns(connection: psycopg.Connection) -> None:
    """The hash that the writer recorded is what anybody computes from what PostgreSQL gives back."""
    trace = {"correlation_id": "j/1", "causation_id": "c", "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad-01"}
    more: list[Event] = [
        Escalated(Level.TIER1, Level.TIER2, "up"),
        Linked(uuid4(), Relation.DUPLICATE_OF),
        ClosureEmailSent(9, "<ticket.closed.9@desk>", 2),
        DossierCompiled("all", "ab" * 32, 3, ("1. eins – ä", '2. "zwei"', "")),
    ]
    elsewhere = datetime(2026, 3, 1, 1, 2, 3, 4, tzinfo=timezone(timedelta(hours=5, minutes=30)))
    recorded = [Recorded(A, version, NOW, ACTOR, event, level=Level.TIER2) for version, event in enumerate(more, 1)]
    recorded += [note("with a trace", A, 5, elsewhere, **trace), note("at a whole second", A, 6, level=None)]
    append(connection, map(to_row, recorded))
    assert check_leaves(connection) == 6


def test_every_character_keeps_its_leaf(connection: psycopg.Connection) -> None:
    """No text that PostgreSQL stores reads differently afterwards: every character of Unicode is tried."""
    characters = [chr(code) for code in range(1, 0x110000) if not 0xD800 <= code < 0xE000]
    texts = ["".join(characters[start : start + 50_000]) for start in range(0, len(characters), 50_000)]
    append(connection, [to_row(note(text, A, version)) for version, text in enumerate(texts, 1)])
    assert check_leaves(connection) == len(texts) == 23


@pytest.mark.parametrize(
    "change",
    [
        {"text": "another text"},
        {"stream": M},
        {"version": 2},
        {"at": NOW + timedelta(microseconds=1)},
        {"correlation_id": "another"},
        {"level": Level.NOC},
    ],
    ids=str,
)
def test_a_leaf_tells_every_change(change: dict[str, Any]) -> None:
    """Whatever is changed about an event, its leaf is another one."""
    known: dict[str, Any] = {"text": "a text", "stream": A, "version": 1, "at": NOW, "correlation_id": "one"}
    assert to_row(note(**known)).leaf != to_row(note(**known | change)).leaf


def test_rows_are_read_as_the_events_that_were_written(connection: psycopg.Connection) -> None:
    """A row holds all of an event: reading gives back what was written, by the store and by the library's mapper."""
    written = note("read me", A, 1, NOW + timedelta(microseconds=7), correlation_id="c", level=Level.NOC)
    mapper = EventMapper(None)
    append(connection, [mapper.to_stored_event(written)])
    row = connection.execute("select stream_id, version, at, type, body, meta from events").fetchone()
    assert by_stream([row]) == {A: [written]}
    assert mapper.to_domain_event(to_row(written)) == written
