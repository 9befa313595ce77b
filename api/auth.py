"""Who asks: the API key of a request, looked up at most every two seconds, so that a revoked key ends soon."""

import time
from datetime import datetime
from typing import Any

from falcon.asgi import Request, Response

from api.problems import Problem
from application.combining import CombiningDesk
from application.helpdesk import utc_now
from application.keys import PREFIX, hash_of, principal
from domain.values import Principal

REMEMBERED_SECONDS = 2.0
MOST_REMEMBERED = 10_000
OPEN_PATHS = frozenset({"/livez", "/readyz"})
CHALLENGE = 'Bearer realm="deskledger"'


class Authentication:
    """Puts the caller into `req.context.who`, or answers 401."""

    def __init__(self, desk: CombiningDesk) -> None:
        self._desk = desk
        self._known: dict[bytes, tuple[float, Principal | None]] = {}

    async def process_request(self, req: Request, resp: Response) -> None:
        """Runs before a request is routed."""
        if req.path not in OPEN_PATHS:
            req.context.who = await self._who(req.get_header("Authorization"), utc_now())

    async def _who(self, header: str | None, now: datetime) -> Principal:
        scheme, _, key = (header or "").partition(" ")
        key = key.strip()
        if scheme.lower() != "bearer" or not key:
            raise _challenge("key_missing", "Send your API key: Authorization: Bearer <key>.")
        who = await self._find(key, now) if key.startswith(PREFIX) else None
        if who is None:
            raise _challenge(
                "key_unknown", "This API key is unknown, expired or revoked: ask your admin for a new one."
            )
        return who

    async def _find(self, key: str, now: datetime) -> Principal | None:
        hash_ = hash_of(key)
        known = self._known.get(hash_)
        if known and known[0] > time.monotonic():
            return known[1]
        row: Any = await self._desk.find_key(hash_)
        who = principal(row, now) if row else None
        if len(self._known) >= MOST_REMEMBERED:
            self._known.clear()
        self._known[hash_] = (time.monotonic() + REMEMBERED_SECONDS, who)
        return who


def _challenge(code: str, detail: str) -> Problem:
    error = ', error="invalid_token"' if code == "key_unknown" else ""
    return Problem(401, code, detail, headers={"WWW-Authenticate": CHALLENGE + error})
