"""Who asks: the API key or the token of a request. What was let in is remembered by its hash for a moment, so that not
every request takes a look-up or the check of a signature, and yet a revoked key ends within seconds."""

import asyncio
import time
from collections.abc import Set
from hashlib import sha256
from typing import Any

import structlog
from falcon.asgi import Request, Response

from api.http.middleware.rate_limits import Addresses, FailedSignIns, RateLimit
from api.http.middleware.token_verifier import Tokens, Verified, challenge
from api.http.problems import Problem
from application.batching_desk import BatchingDesk
from application.clock import utc_now
from application.identity.api_key_uses import KeyUses
from application.identity.api_keys import API_KEY_PREFIX, principal
from application.identity.people import People
from application.settings import Settings
from domain.values import Principal

KEY_SECONDS, TOKEN_SECONDS = 2.0, 60.0  # how long a credential is remembered; a token never longer than it lasts
MOST_KEYS_REMEMBERED = 10_000
KEY_MISSING = "Send your API key or token: Authorization: Bearer <key>."
KEY_UNKNOWN = "This API key is unknown, expired or revoked: ask your admin for a new one."
NO_ROLE = "Your key or token names no role that this desk knows: ask your admin, or whoever runs the sign-in, for one."
log = structlog.get_logger()


class Credential:
    """A key or token that was let in: `req.context.credential`. Long answers ask now and then if it still holds."""

    def __init__(
        self, auth: "Authentication", hash_: bytes, who: Principal, seconds: float, token: Verified | None = None
    ) -> None:
        self._auth, self.hash, self.who, self.token = auth, hash_, who, token
        self.again_at = time.monotonic() + seconds  # when it is looked at again

    async def still_good(self) -> bool:
        """Whether it would be let in now: not revoked, not expired, and its issuer has not withdrawn the key.

        Takes no round trip within two seconds of the last one. Raises Unavailable when the database does not answer.
        """
        return await self._auth.still_holds(self)


class Authentication:
    """Puts the caller into `req.context.who`, or answers 401, 403 for nobody we know, 429 for too many requests.

    At `open_paths` nobody is asked for a key.
    """

    def __init__(self, desk: BatchingDesk, settings: Settings, open_paths: Set[str] = frozenset()) -> None:
        self._open_paths = open_paths
        self._desk, self._uses = desk, KeyUses(settings.database_url or "")
        self._tokens = Tokens(settings) if settings.oidc_issuer else None
        self._people = People(settings.database_url or "", settings.oidc_issuer or "")
        self._limit = RateLimit(settings.rate_limit) if settings.rate_limit else None
        self._failures, self._addresses = FailedSignIns(settings.failed_sign_ins), Addresses(settings.trusted_proxies)
        self._fetching: asyncio.Task[None] | None = None
        self._known: dict[bytes, Credential] = {}  # what was longest not looked at stands first

    async def process_startup(self, scope: dict[str, Any], event: dict[str, Any]) -> None:
        """Runs in each worker, after the fork: asks for the issuer's keys, and waits for nobody."""
        if self._tokens:
            self._fetching = asyncio.create_task(self._tokens.keys.keep_fresh())

    async def process_shutdown(self, scope: dict[str, Any], event: dict[str, Any]) -> None:
        """Runs when a worker has finished what it accepted."""
        if self._fetching:
            self._fetching.cancel()
        await self._uses.close()
        await self._people.close()

    async def process_request(self, req: Request, resp: Response) -> None:
        """Runs before a request is routed, and before anything is read for it."""
        if req.path in self._open_paths:
            return
        scheme, _, secret = (req.get_header("Authorization") or "").partition(" ")
        secret = secret.strip()
        if scheme.lower() != "bearer" or not secret:
            raise challenge("key_missing", KEY_MISSING)
        hash_ = sha256(secret.encode()).digest()
        known = self._known.get(hash_)
        if known is None or known.again_at <= time.monotonic() or self._other_keys(known):
            known = await self._admit(req, secret, hash_)
        req.context.who, req.context.credential = known.who, known
        if self._limit:
            self._limit.spend(resp, known.who.id)
        if not known.who.roles:
            raise Problem(403, "role_missing", NO_ROLE)

    def _other_keys(self, known: Credential) -> bool:
        """Whether the issuer's keys were fetched since this token was looked at."""
        return bool(known.token and self._tokens and self._tokens.keys.known is not known.token.known_keys)

    async def still_holds(self, credential: Credential) -> bool:
        """As `Credential.still_good`."""
        if self._tokens and (token := credential.token):
            return time.time() < token.ends_at and self._tokens.keys.knows(token.kid)
        known = self._known.get(credential.hash)
        if known and known.again_at > time.monotonic():
            return True
        return await self._find_key(credential.hash) is not None

    async def _admit(self, req: Request, secret: str, hash_: bytes) -> Credential:
        """Looks at a credential. A good one is let in whatever others at that address have tried.

        However many come at once, a process looks keys up in one query at a time (`find_key`).
        """
        tokens = None if secret.startswith(API_KEY_PREFIX) else self._tokens
        try:
            found = await (self._find_token(tokens, secret, hash_) if tokens else self._find_key(hash_))
            if found is None:
                raise challenge("key_unknown", KEY_UNKNOWN)
        except Problem as problem:
            self._known.pop(hash_, None)
            if problem.status == 401:
                address = self._addresses.of(req)
                self._failures.demand_room(address)
                if self._failures.count(address):
                    log.warning("too many failed sign-ins", address=address)
            raise
        return found

    async def _find_token(self, tokens: Tokens, secret: str, hash_: bytes) -> Credential:
        token = await tokens.verify(secret)
        self._people.note(token.who, utc_now())
        seconds = min(TOKEN_SECONDS, token.ends_at - time.time())
        return self._remember(Credential(self, hash_, token.who, seconds, token))

    async def _find_key(self, hash_: bytes) -> Credential | None:
        now = utc_now()
        row: Any = await self._desk.find_key(hash_)
        who = principal(row, hash_, now) if row else None
        if who is None:
            return None
        self._uses.note(who.id, now)
        left = (row[6] - now).total_seconds() if row[6] else KEY_SECONDS
        return self._remember(Credential(self, hash_, who, min(KEY_SECONDS, left)))

    def _remember(self, credential: Credential) -> Credential:
        self._known.pop(credential.hash, None)
        if len(self._known) >= MOST_KEYS_REMEMBERED:
            del self._known[next(iter(self._known))]
        self._known[credential.hash] = credential
        return credential
