"""API keys on the wire: how soon they end, when they were used last, and what is remembered of them."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from api.http.middleware import authentication as auth
from api.http.middleware.authentication import Authentication
from application.batching_desk import BatchingDesk
from application.clock import utc_now
from application.identity import api_key_uses as key_uses
from application.identity import api_keys as keys
from application.identity.api_key_uses import KeyUses
from application.identity.api_keys import NewKey, create_key, hash_of, list_keys, principal, revoke_key
from application.settings import Settings
from application.store.postgres.database import connect
from domain.values import Level, Role
from tests.support.api_requests import problem
from tests.support.running_desk import RunningDesk, wait_until


@pytest.fixture(scope="module")
def served(module_database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDesk]:
    """The API alone, two processes of it."""
    with RunningDesk(module_database, tmp_path_factory.mktemp("served"), parts=("api",)) as running:
        yield running


def made(database: str, **more: Any) -> tuple[str, str]:
    """A new key: its id, and the key."""
    with connect(database, "test keys") as connection:
        return create_key(connection, NewKey("auditor", [Role.AUDITOR], **more), utc_now())


def revoked(database: str, id_: str) -> None:
    """Ends a key."""
    with connect(database, "test keys") as connection:
        assert revoke_key(connection, id_, utc_now())


def last_use(database: str, id_: str) -> Any:
    """When the table says that a key was used last."""
    with connect(database, "test keys") as connection:
        return next(key.last_used_at for key in list_keys(connection) if key.id == id_)


def test_a_revoked_key_ends_within_seconds_in_every_process(served: RunningDesk) -> None:
    """Also where it was used just before; and it stays ended."""
    id_, key = made(served.database)
    assert {served.get("/v1/queues", key).status for _ in range(20)} == {200}
    revoked(served.database, id_)
    wait_until(lambda: {served.get("/v1/queues", key).status for _ in range(20)} == {401}, "the key has ended")
    assert problem(served.get("/v1/queues", key), 401, "key_unknown")


def test_uses_are_written_at_once_and_at_the_end(database: str, tmp_path: Path) -> None:
    """The first use soon after it, later ones within a minute, or when the process ends; of refused keys nothing."""
    (first, one), (second, two) = made(database), made(database)
    (gone, ended), (over, old), (unused, _) = made(database), made(database, expires_in=timedelta(-1)), made(database)
    revoked(database, gone)
    before = utc_now()
    with RunningDesk(database, tmp_path, workers=1, parts=("api",)) as served:
        assert {served.get("/v1/queues", key).status for key in (ended, old)} == {401}
        assert served.get("/v1/queues", one).status == 200
        wait_until(lambda: last_use(database, first), "the use is written")
        assert served.get("/v1/queues", two).status == 200
    assert before <= last_use(database, first) <= last_use(database, second) <= utc_now()
    assert [last_use(database, id_) for id_ in (gone, over, unused)] == [None] * 3


def test_ended_keys_stay_in_the_list(connection: psycopg.Connection) -> None:
    """What somebody did with a key is in the history for ever, so the key stays in the list."""
    gone, _ = create_key(connection, NewKey("gone", [Role.ADMIN]), utc_now())
    create_key(connection, NewKey("over", [Role.ADMIN], expires_in=timedelta(days=-1)), utc_now())
    revoke_key(connection, gone, utc_now())
    assert [key.name for key in list_keys(connection)] == ["gone", "over"]


def run(database: str, work: Callable[[KeyUses], Awaitable[Any]]) -> Any:
    """Runs something with the uses of one process, which are closed at the end."""

    async def running() -> Any:
        uses = KeyUses(database)
        try:
            return await work(uses)
        finally:
            await uses.close()

    return asyncio.run(running())


def test_uses_are_written_together_and_once_a_minute(connection: psycopg.Connection, database: str) -> None:
    """Many keys in one statement; a second use within the minute is not written, one after it is."""
    keys = [create_key(connection, NewKey(f"k{n}", [Role.ADMIN]), utc_now())[0] for n in range(50)]
    now = utc_now()
    for at, written in ((now, now), (now + timedelta(seconds=59), now), (now + timedelta(seconds=60),) * 2):

        async def use(uses: KeyUses, at: Any = at) -> None:
            for id_ in (*keys, "unheard-of"):
                uses.note(id_, at)

        run(database, use)
        assert {key.last_used_at for key in list_keys(connection)} == {written}


def test_a_process_that_nobody_asked_writes_nothing(database: str) -> None:
    """It opens no connection either."""

    async def rest(uses: KeyUses) -> None:
        uses._line = type(uses._line)("postgresql://127.0.0.1:9/nothing", "test")

    assert run(database, rest) is None


def test_noting_a_use_asks_nothing_of_the_database(database: str) -> None:
    """It may be away: uses are kept until it is there again, and nobody hears of it."""
    id_, _ = made(database)

    async def use(uses: KeyUses) -> None:
        line, uses._line = uses._line, type(uses._line)("postgresql://127.0.0.1:9/nothing", "test")
        uses.note(id_, utc_now())
        writing = uses._writing
        wait = asyncio.create_task(asyncio.sleep(0.2))
        await asyncio.wait((wait,))
        assert writing is not None
        assert not writing.done()
        assert last_use(database, id_) is None
        uses._line = line

    run(database, use)
    assert last_use(database, id_) is not None


def test_a_process_that_goes_on_writes_again(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Uses that come after the first writing are written by the next one, without being asked; then it rests."""
    monkeypatch.setattr(key_uses, "PERIOD_SECONDS", 0.05)
    (first, _), (second, _) = made(database), made(database)

    async def use(uses: KeyUses) -> None:
        uses.note(first, utc_now())
        task = uses._writing
        await until(lambda: last_use(database, first))
        uses.note(second, utc_now())
        await until(lambda: last_use(database, second))
        await until(lambda: task is not None and task.done())

    run(database, use)


async def until(holds: Callable[[], Any]) -> None:
    """Waits in the loop until something holds."""
    async with asyncio.timeout(10):
        while not holds():
            await asyncio.sleep(0.01)


def test_a_long_answer_hears_that_its_key_has_ended(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`still_good` asks the database at most as often as a request would, and says no once the key is revoked."""
    id_, key = made(database)

    async def ask() -> list[bool]:
        desk = BatchingDesk(database)
        authentication = Authentication(desk, Settings(database_url=database))
        credential = await authentication._find_key(hash_of(key))
        assert credential is not None
        said = [await credential.still_good()]
        revoked(database, id_)
        said.append(await credential.still_good())  # remembered
        credential.again_at = 0
        said.append(await credential.still_good())
        await authentication.process_shutdown({}, {})
        await desk.close()
        return said

    assert asyncio.run(ask()) == [True, True, False]


def test_what_is_remembered_is_bounded(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who was looked at longest ago is forgotten first, and looked up again when it comes."""
    monkeypatch.setattr(auth, "MOST_KEYS_REMEMBERED", 3)
    keys = [made(database)[1] for _ in range(5)]

    async def ask() -> list[bytes]:
        desk = BatchingDesk(database)
        authentication = Authentication(desk, Settings(database_url=database))
        for key in (*keys, keys[3]):
            await authentication._find_key(hash_of(key))
        await authentication.process_shutdown({}, {})
        await desk.close()
        return list(authentication._known)

    assert asyncio.run(ask()) == [hash_of(keys[number]) for number in (2, 4, 3)]


def test_a_row_of_another_hash_lets_nobody_in() -> None:
    """The hash that was found is compared once more, whatever the look-up says."""
    row = (hash_of("dl_a"), "a-1", "a", ["admin"], [], None, None)
    assert principal(row, hash_of("dl_a"), utc_now()) is not None
    assert principal(row, hash_of("dl_b"), utc_now()) is None


def test_the_hash_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """By `hmac.compare_digest`, whose answer counts."""
    compared: list[tuple[bytes, bytes]] = []
    monkeypatch.setattr(keys, "compare_digest", lambda *pair: bool(compared.append(pair)))
    assert principal((b"hash", "a-1", "a", ["admin"], [], None, None), b"hash", utc_now()) is None
    assert compared == [(b"hash", b"hash")]


def test_a_row_lets_in_no_further_than_it_can_be_read() -> None:
    """The role client without a client would see the tickets of all; a role of a newer version is none here."""
    row = (b"hash", "a-1", "a", ["client", "dispatcher", "auditor"], ["tier1", "tier9"], None, None)
    who = principal(row, b"hash", utc_now())
    assert who is not None
    assert (who.roles, who.levels) == ({Role.AUDITOR}, {Level.TIER1})


def test_keys_list_shows_the_last_use(database: str) -> None:
    """To the minute, in UTC."""
    id_, _ = made(database)

    async def use(uses: KeyUses) -> None:
        uses.note(id_, utc_now())

    run(database, use)
    command = [sys.executable, "-m", "api.cli", "keys", "list"]
    environment = os.environ | {"DATABASE_URL": database}
    said = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60).stdout
    row = next(line.split("\t") for line in said.splitlines() if line.startswith(id_))
    assert row[6] == f"{last_use(database, id_):%Y-%m-%dT%H:%MZ}"
