"""From the claims of a verified token to who asks: by two settings, so that no program is written for an issuer."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from application.commands.text_types import ONE_LINE, USER_ID_PATTERN
from domain.text import normalised
from domain.values import Level, Principal, Role

ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519")
NAMESPACE = "oidc:"  # the id of a key never has a colon, so no token can take one for its own
MOST_SUBJECT, MOST_NAME = 255, 200  # OpenID Connect Core, section 2: a subject has at most 255 characters
Grants = dict[str, tuple[Role, Level | None]]
OWN_NAMES: Grants = {str(role): (role, None) for role in Role if role is not Role.SYSTEM}
NAMES_AT_LEVELS: Grants = {f"agent:{level}": (Role.AGENT, level) for level in Level if level is not Level.IT_MANAGER}


class Claims(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which claim says what. A name that begins with a slash is a JSON pointer (RFC 6901) to one that is nested."""

    roles: str = "roles"
    levels: str = "levels"
    client_user_id: str = "client_user_id"
    name: str = "name"


class NoSubject(ValueError):
    """The token does not say in `sub` whom it stands for, in at most 255 printable characters."""


def read_claims(text: str) -> Claims:
    """The claims that a setting names. Raises ValueError, saying what is accepted."""
    try:
        return msgspec.json.decode(text, type=Claims)
    except (msgspec.DecodeError, UnicodeError):
        wanted = 'a JSON object that names claims, like {"roles": "/realm_access/roles", "name": "preferred_username"}'
        raise ValueError(f"{wanted}; also levels and client_user_id") from None


def read_grants(text: str) -> Grants:
    """What each value of the roles claim gives. Raises ValueError, saying what is accepted."""
    try:
        given = msgspec.json.decode(text, type=dict[str, str])
        return {value: (OWN_NAMES | NAMES_AT_LEVELS)[grant] for value, grant in given.items()}
    except (msgspec.DecodeError, UnicodeError, KeyError):
        wanted = 'a JSON object from value to role, like {"service-desk": "intake", "second-line": "agent:tier2"}'
        raise ValueError(wanted) from None


def read_algorithms(text: str) -> tuple[str, ...]:
    """The algorithms that a setting allows. Raises ValueError, saying what is accepted.

    Only asymmetric ones can be named: with any other, whoever knows the public key could sign.
    """
    names = tuple(name.strip() for name in text.split(","))
    if not set(names) <= set(ALGORITHMS):
        raise ValueError(f"one or more of {', '.join(ALGORITHMS)}, separated by commas")
    return names


def principal_of(token: Mapping[str, Any], claims: Claims, grants: Grants) -> Principal:
    """Whom the claims of a token stand for; values that mean nothing here are left out.

    The role client counts only together with a user ID, and levels only together with the role agent, as with keys.
    Raises NoSubject.
    """
    subject, name = token.get("sub"), _found(token, claims.name)
    if not _one_line(subject, MOST_SUBJECT):
        raise NoSubject(NoSubject.__doc__)
    given = [grants[value] for value in _values(_found(token, claims.roles)) if value in grants]
    roles, levels = {role for role, _ in given}, {level for _, level in given if level}
    levels |= {Level(value) for value in _values(_found(token, claims.levels)) if value in set(Level)}
    user_id = _found(token, claims.client_user_id)
    if not (isinstance(user_id, str) and len(user_id) <= MOST_NAME and re.search(USER_ID_PATTERN, user_id)):
        roles.discard(Role.CLIENT)
    return Principal(
        f"{NAMESPACE}{subject}",
        normalised(name) if _one_line(name, MOST_NAME) else str(subject),
        frozenset(roles),
        frozenset(levels - {Level.IT_MANAGER}) if Role.AGENT in roles else frozenset(),
        user_id if Role.CLIENT in roles else None,
    )


def _found(token: Mapping[str, Any], place: str) -> Any:
    if not place.startswith("/"):
        return token.get(place)
    value: Any = token
    for part in place[1:].split("/"):
        value = value.get(part.replace("~1", "/").replace("~0", "~")) if isinstance(value, dict) else None
    return value


def _values(claim: Any) -> Iterator[str]:
    """The values of a claim: a list, or one text, which some issuers fill with several words."""
    if isinstance(claim, str):
        yield claim
        claim = claim.split()
    if isinstance(claim, list):
        yield from (value for value in claim if isinstance(value, str))


def _one_line(value: Any, most: int) -> bool:
    return isinstance(value, str) and len(value) <= most and value.isprintable() and bool(re.search(ONE_LINE, value))
