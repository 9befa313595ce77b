"""Who may be given a ticket: the holder of a valid key, or a person whom the desk has seen with a token."""

from collections.abc import Sequence
from typing import Any, LiteralString

from domain.values import Level, Principal, Role

SELECT_ASSIGNEE: LiteralString = """
    select name, roles, levels from api_keys
    where id = %s and revoked_at is null and (expires_at is null or expires_at > now())
    union all
    (select name, roles, levels from people where id = %s order by last_seen desc limit 1)"""


def assignee(id_: str, rows: Sequence[Sequence[Any]]) -> Principal | None:
    """Whom the rows of `SELECT_ASSIGNEE` stand for; None where there are none. What this version has no word for is
    left out."""
    if not rows:
        return None
    name, roles, levels = rows[0]
    known = frozenset(Role(role) for role in roles if role in set(Role))
    return Principal(id_, name, known, frozenset(Level(level) for level in levels if level in set(Level)))
