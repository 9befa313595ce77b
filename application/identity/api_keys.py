"""API keys: a prefix and 32 random bytes. Only the SHA-256 of a key is stored; so much chance needs no slow hash."""

import re
from collections.abc import Sequence
from datetime import datetime, timedelta
from hashlib import sha256
from hmac import compare_digest
from secrets import token_hex, token_urlsafe
from typing import Any, LiteralString

import msgspec
import psycopg

from application.commands.text_types import USER_ID_PATTERN
from domain.errors import BlankText, UnfitText
from domain.text import accept_line
from domain.values import Level, Principal, Role

API_KEY_PREFIX = "dl_"
ROLES, LEVELS = frozenset(Role), frozenset(Level)
SELECT_KEYS_BY_HASH: LiteralString = """
    select hash, id, name, roles, levels, client_user_id, expires_at
    from api_keys where hash = any(%s) and revoked_at is null"""
INSERT_KEY: LiteralString = """
    insert into api_keys (id, hash, name, roles, levels, client_user_id, created_at, expires_at)
    values (%s, %s, %s, %s, %s, %s, %s, %s)"""
LIST_KEYS: LiteralString = """
    select id, name, roles, levels, client_user_id, created_at, expires_at, revoked_at, last_used_at
    from api_keys order by created_at"""


class KeyRefused(ValueError):
    """A key that cannot be made so; the message says why."""


class ApiKey(msgspec.Struct, frozen=True):
    """What is known of a key; the key itself is known to its holder only."""

    id: str
    name: str
    roles: list[str]
    levels: list[str]
    client_user_id: str | None
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None


class NewKey(msgspec.Struct, frozen=True):
    """What a new key is to carry."""

    name: str
    roles: Sequence[Role]
    levels: Sequence[Level] = ()
    client_user_id: str | None = None
    expires_in: timedelta | None = None


def hash_of(key: str) -> bytes:
    """What is stored of a key."""
    return sha256(key.encode()).digest()


def create_key(connection: psycopg.Connection[Any], wanted: NewKey, now: datetime) -> tuple[str, str]:
    """A new key: its id, and the key, which nobody can read again.

    Raises KeyRefused when name, roles, levels and client do not fit together.
    """
    name = _check(wanted)
    id_, key = _id(name), API_KEY_PREFIX + token_urlsafe(32)
    expires_at = now + wanted.expires_in if wanted.expires_in else None
    roles, levels = [str(role) for role in wanted.roles], [str(level) for level in wanted.levels]
    values = (id_, hash_of(key), name, roles, levels, wanted.client_user_id, now, expires_at)
    connection.execute(INSERT_KEY, values)
    return id_, key


def _id(name: str) -> str:
    """An id that people recognise, since it stands in the history as who did it: `front-desk-1f3a9c`."""
    plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40] or "key"
    return f"{plain}-{token_hex(3)}"


def _check(wanted: NewKey) -> str:
    """The name as it is kept."""
    try:
        name = accept_line("name", wanted.name)
    except BlankText:
        raise KeyRefused("a key needs a name: say whom or what it is for") from None
    except UnfitText as error:
        raise KeyRefused(f"the name {error.reason}") from None
    if Role.SYSTEM in wanted.roles:
        raise KeyRefused("no key can carry the role system")
    if (Role.AGENT in wanted.roles) != bool(wanted.levels):
        raise KeyRefused("the role agent and a level belong together: name the levels that the agent works at")
    if (Role.CLIENT in wanted.roles) != bool(wanted.client_user_id):
        raise KeyRefused(
            "the role client and a client's user ID belong together: name the client that the key stands for"
        )
    if wanted.client_user_id and not re.search(USER_ID_PATTERN, wanted.client_user_id):
        raise KeyRefused("a client's user ID has letters, digits and . _ @ + - and begins with a letter or digit")
    return name


def list_keys(connection: psycopg.Connection[Any]) -> list[ApiKey]:
    """Every key that was ever made, oldest first."""
    return [ApiKey(*row) for row in connection.execute(LIST_KEYS)]


def revoke_key(connection: psycopg.Connection[Any], id_: str, now: datetime) -> bool:
    """Ends a key. Returns False when there is no such key, or it is revoked already."""
    revoked = connection.execute("update api_keys set revoked_at = %s where id = %s and revoked_at is null", (now, id_))
    return revoked.rowcount == 1


def principal(row: Sequence[Any], hash_: bytes, now: datetime) -> Principal | None:
    """Whom a row of `SELECT_KEYS_BY_HASH` stands for; None when it is not that of this hash, or the key has expired.

    The index compares hashes byte by byte, and so may tell by its time how far one agrees with a stored one. That helps
    nobody: to choose the next byte of a hash, one would have to find a key that has it. What is let in is compared
    once more, in a time that tells nothing.
    """
    found, id_, name, roles, levels, client_user_id, expires_at = row
    if not compare_digest(found, hash_) or (expires_at and expires_at <= now):
        return None
    known = {Role(role) for role in roles if role in ROLES}  # a newer version may have others
    if client_user_id is None:
        known.discard(Role.CLIENT)  # of no client: it would see the tickets of all
    at = frozenset(Level(level) for level in levels if level in LEVELS)
    return Principal(id_, name, frozenset(known), at, client_user_id)
