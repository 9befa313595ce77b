"""The issuer's public keys: fetched beside the event loop, kept while the issuer is down, and asked for again when a
token names a key that is not among them, but not more often than every few seconds, whoever sends such tokens."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import urljoin

import msgspec
import structlog
import urllib3
from jwt import PyJWK, PyJWTError

from application.settings import Settings, SettingsError, https_url

FRESH_SECONDS = 300.0  # older keys are fetched anew
STALE_SECONDS = 360.0  # keys that are as old are fetched before a token is looked at
COOL_DOWN_SECONDS = 5.0
PATIENCE_SECONDS = 5.0  # for one document
MOST_BYTES = 256 * 1024
DISCOVERY = ".well-known/openid-configuration"
ASYMMETRIC = ("RSA", "EC", "OKP")
Jwk: TypeAlias = "dict[str, Any]"
log = structlog.get_logger()


class NoKeys(Exception):
    """The keys of the issuer cannot be had, and were not known before."""


class UnknownKey(ValueError):
    """The issuer has no such key, or it is for another algorithm."""


class Unusable(ValueError):
    """What came is not a set of public keys."""


class KeySet:
    """The keys of one source. `source` blocks, and gives the keys as they are written; it runs in a thread."""

    def __init__(self, source: Callable[[], list[Jwk]]) -> None:
        self._source = source
        self._raw: list[Jwk] = []
        self._ready: dict[tuple[str | None, str], PyJWK] = {}
        self._tried_at = self._fetched_at = float("-inf")
        self._task: asyncio.Task[None] | None = None
        self._failed = False  # while the issuer is down, nobody waits for a key that is known
        self.changes = 0  # how often other keys than before came

    async def find(self, kid: str | None, algorithm: str) -> PyJWK:
        """The key that a token names; without a name, the only one. Raises UnknownKey or NoKeys."""
        age = time.monotonic() - self._fetched_at
        if not self.knows(kid) or age > FRESH_SECONDS:
            refresh = self.refresh()
            if refresh and (not self.knows(kid) or (age > STALE_SECONDS and not self._failed)):
                await asyncio.wait((refresh,))
        if not self.loaded:
            raise NoKeys
        return self._ready.get((kid, algorithm)) or self._make(kid, algorithm)

    def knows(self, kid: str | None) -> bool:
        """Whether this key is among those that the issuer had when it was last asked."""
        return bool(self._named(kid))

    @property
    def loaded(self) -> bool:
        """Whether there are keys."""
        return bool(self._raw)

    def refresh(self) -> asyncio.Task[None] | None:
        """Asks the source, unless it was asked just now: then this is what is under way, or None."""
        if self._task and not self._task.done():
            return self._task
        if time.monotonic() < self._tried_at + COOL_DOWN_SECONDS:
            return None
        self._tried_at = time.monotonic()
        self._task = asyncio.create_task(self._refresh())
        return self._task

    def load(self) -> None:
        """Asks the source at once. Raises OSError, Unusable."""
        self._take(self._source())

    async def _refresh(self) -> None:
        try:
            found = await asyncio.to_thread(self._source)
        except (OSError, urllib3.exceptions.HTTPError, ValueError) as error:
            self._failed, self._tried_at = True, time.monotonic()  # it may have taken as long as the cool-down
            log.warning("the issuer's keys cannot be had", reason=str(error)[:300], known=len(self._raw))
        else:
            self._take(found)

    def _take(self, found: list[Jwk]) -> None:
        self.changes += found != self._raw
        self._raw, self._ready, self._fetched_at, self._failed = found, {}, time.monotonic(), False

    def _named(self, kid: str | None) -> list[Jwk]:
        if kid is None:
            return self._raw if len(self._raw) == 1 else []
        return [raw for raw in self._raw if raw.get("kid") == kid]

    def _make(self, kid: str | None, algorithm: str) -> PyJWK:
        for raw in self._named(kid):
            if raw.get("alg") in (None, algorithm):
                try:
                    key = self._ready[kid, algorithm] = PyJWK(raw, algorithm)
                except (PyJWTError, ValueError):
                    continue
                return key
        raise UnknownKey


def public_keys(document: bytes) -> list[Jwk]:
    """The public keys for signatures that a JSON Web Key Set holds (RFC 7517). Raises Unusable."""
    try:
        found = msgspec.json.decode(document, type=dict[str, Any]).get("keys")
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        found = None
    # one secret among them, and whoever has it could sign: only keys of which the public half is enough
    keys = [key for key in found if _for_signatures(key)] if isinstance(found, list) else []
    if not keys:
        raise Unusable("it is no JSON Web Key Set with a public key for signatures")
    return keys


def _for_signatures(key: Any) -> bool:
    return isinstance(key, dict) and key.get("kty") in ASYMMETRIC and key.get("use") in (None, "sig") and "d" not in key


def key_set(settings: Settings) -> KeySet:
    """The keys that the settings name. Raises SettingsError when the file cannot be used."""
    if settings.oidc_jwks_file is None:
        return KeySet(lambda: fetch_keys(settings.oidc_issuer or "", settings.oidc_jwks_url))
    file = settings.oidc_jwks_file
    keys = KeySet(lambda: read_keys(file))
    try:
        keys.load()
    except (OSError, Unusable) as error:
        said = "the path of a file with a JSON Web Key Set"
        raise SettingsError(
            f"DESKLEDGER_OIDC_JWKS_FILE={str(file)!r} cannot be used: it takes {said}: {error}"
        ) from None
    return keys


def read_keys(file: Path) -> list[Jwk]:
    """The keys of a file. Raises OSError, Unusable."""
    with file.open("rb") as opened:
        return public_keys(opened.read(MOST_BYTES))


def fetch_keys(issuer: str, url: str | None) -> list[Jwk]:
    """The keys behind a URL, by default the one that the issuer publishes (OpenID Connect Discovery, section 4).

    Raises urllib3's errors, OSError, and ValueError for what is not what it should be.
    """
    with urllib3.PoolManager(retries=False) as http:
        if url is None:
            told = msgspec.json.decode(_get(http, urljoin(f"{issuer.rstrip('/')}/", DISCOVERY)), type=dict[str, Any])
            if told.get("issuer") != issuer:
                raise Unusable(f"{DISCOVERY} speaks for another issuer: {str(told.get('issuer'))[:100]!r}")
            url = https_url(str(told.get("jwks_uri")))
        return public_keys(_get(http, url))


def _get(http: urllib3.PoolManager, url: str) -> bytes:
    """What lies there, at most so many bytes within so many seconds, however slowly they come; no redirect."""
    deadline, read = time.monotonic() + PATIENCE_SECONDS, bytearray()
    timeout, headers = urllib3.Timeout(total=PATIENCE_SECONDS), {"Accept-Encoding": "identity"}
    response = http.request("GET", url, headers=headers, timeout=timeout, redirect=False, preload_content=False)
    with response:
        if response.status != 200:
            raise Unusable(f"{url} answers {response.status}")
        while part := response.read1(MOST_BYTES):
            read += part
            if len(read) > MOST_BYTES or time.monotonic() > deadline:
                raise Unusable(f"{url} sends more than {MOST_BYTES} bytes, or too slowly")
    return bytes(read)
