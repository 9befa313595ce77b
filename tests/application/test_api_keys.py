"""API keys: made, found, listed, expired, revoked; the key itself is nowhere."""

from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from application.identity.api_keys import (
    SELECT_KEYS_BY_HASH,
    KeyRefused,
    NewKey,
    create_key,
    hash_of,
    list_keys,
    principal,
    revoke_key,
)
from domain.values import Level, Principal, Role

NOW = datetime(2026, 3, 2, 8, 0, tzinfo=UTC)


def found(connection: psycopg.Connection, key: str, now: datetime = NOW) -> Principal | None:
    """Whom a key stands for."""
    row = connection.execute(SELECT_KEYS_BY_HASH, ([hash_of(key)],)).fetchone()
    return principal(row, hash_of(key), now) if row else None


def test_a_key_stands_for_what_it_was_made_for(connection: psycopg.Connection) -> None:
    """Found by its hash, a key gives id, name, roles, levels and client."""
    id_, key = create_key(connection, NewKey("Tier 2, night", [Role.AGENT, Role.QUALITY], [Level.TIER2]), NOW)
    assert found(connection, key) == Principal(
        id_, "Tier 2, night", frozenset({Role.AGENT, Role.QUALITY}), frozenset({Level.TIER2})
    )
    _, of_client = create_key(connection, NewKey("portal", [Role.CLIENT], client_user_id="client-1"), NOW)
    assert found(connection, of_client).client_user_id == "client-1"


def test_an_id_is_recognised_by_people(connection: psycopg.Connection) -> None:
    """The id begins with the name, since it stands in the history; a name without letters gives `key`."""
    ids = [create_key(connection, NewKey(name, [Role.ADMIN]), NOW)[0] for name in ("Front Desk!", "☎", "Front Desk!")]
    assert [id_[:-6] for id_ in ids] == ["front-desk-", "key-", "front-desk-"]
    assert len(set(ids)) == 3


def test_the_key_is_nowhere(connection: psycopg.Connection) -> None:
    """Nothing in the table contains the key; only its SHA-256 does for finding it."""
    _, key = create_key(connection, NewKey("x", [Role.ADMIN]), NOW)
    assert connection.execute(
        "select count(*) from api_keys k where k::text like %s", (f"%{key[3:]}%",)
    ).fetchone() == (0,)
    assert found(connection, key[:-1] + ("a" if key[-1] != "a" else "b")) is None


def test_a_key_ends_when_its_time_is_over(connection: psycopg.Connection) -> None:
    """At the moment of its expiry it stands for nobody; a moment before it still does."""
    _, key = create_key(connection, NewKey("x", [Role.ADMIN], expires_in=timedelta(days=1)), NOW)
    assert found(connection, key, NOW + timedelta(days=1)) is None
    assert found(connection, key, NOW + timedelta(days=1, microseconds=-1)) is not None


def test_a_revoked_key_is_found_no_more(connection: psycopg.Connection) -> None:
    """Revoking ends a key once; a second time, and for an unknown id, there is nothing to end."""
    id_, key = create_key(connection, NewKey("x", [Role.ADMIN]), NOW)
    assert [revoke_key(connection, name, NOW) for name in (id_, id_, "unknown")] == [True, False, False]
    assert found(connection, key) is None
    assert [(known.id, known.revoked_at) for known in list_keys(connection)] == [(id_, NOW)]


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        (NewKey(" ", [Role.ADMIN]), "a key needs a name"),
        (NewKey("x", [Role.SYSTEM]), "no key can carry the role system"),
        (NewKey("x", [Role.AGENT]), "the role agent and a level belong together"),
        (NewKey("x", [Role.INTAKE], [Level.TIER1]), "the role agent and a level belong together"),
        (NewKey("x", [Role.CLIENT]), "the role client and a client's user ID belong together"),
        (NewKey("x", [Role.INTAKE], client_user_id="c"), "the role client and a client's user ID belong together"),
    ],
)
def test_a_key_that_makes_no_sense_is_refused(connection: psycopg.Connection, wanted: NewKey, says: str) -> None:
    """Nothing is stored, and the error says what belongs together."""
    with pytest.raises(KeyRefused, match=says):
        create_key(connection, wanted, NOW)
    assert list_keys(connection) == []


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("", "needs a name"),
        ("\u200b\u3164", "needs a name"),
        ("a\x1b]0;owned\x07", "must be one line"),
        ("two\nlines", "must be one line"),
        ("a\u202eb", "must be one line"),
        ("x" * 501, "at most 500 characters"),
        ("half\udc80", "must be Unicode text"),
    ],
)
def test_a_name_that_hides_something_makes_no_key(connection: psycopg.Connection, name: str, says: str) -> None:
    """A name stands in the history and on terminals: it can be seen, and it holds nothing else."""
    with pytest.raises(KeyRefused, match=says):
        create_key(connection, NewKey(name, [Role.ADMIN]), NOW)
    assert connection.execute("select count(*) from api_keys").fetchone() == (0,)


def test_a_name_is_kept_in_one_form(connection: psycopg.Connection) -> None:
    """However the terminal has written it."""
    _, key = create_key(connection, NewKey("Zoe\u0308", [Role.ADMIN]), NOW)
    assert found(connection, key).name == "Zoë"


def test_a_key_stands_for_what_can_be_a_client(connection: psycopg.Connection) -> None:
    """A user ID has the form that the directory gives it."""
    with pytest.raises(KeyRefused, match="user ID has letters"):
        create_key(connection, NewKey("portal", [Role.CLIENT], client_user_id="a b"), NOW)
