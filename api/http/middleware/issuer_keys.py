"""The issuer's public keys: PyJWT's client, with the limits that it lacks. They are fetched beside the event loop every
few minutes, and when a token names a key that is not known, but then not more often than every few seconds, whoever
sends such tokens. While the issuer is down, those of before go on being used."""

import asyncio
import time
from typing import Any

import msgspec
import structlog
import urllib3
from jwt import PyJWK, PyJWKClient, PyJWKClientError, PyJWTError

from api.http.problems import Problem
from application.identity.token_claims import read_algorithms
from application.settings import Settings, SettingsError, https_url

FRESH_SECONDS = 300.0
COOL_DOWN_SECONDS = 5.0
FETCH_SECONDS = 5.0  # for one document
MOST_DOCUMENT_BYTES = 256 * 1024
DISCOVERY = ".well-known/openid-configuration"
FAILURES = (OSError, urllib3.exceptions.HTTPError, PyJWTError, ValueError, RecursionError)
NO_KEYS = "The keys of the token issuer cannot be had now, so that no token can be checked. Try again."
log = structlog.get_logger()


class Published(msgspec.Struct):
    """What an issuer publishes: where its keys are (OpenID Connect Discovery, section 4), or the keys (RFC 7517)."""

    issuer: str = ""
    jwks_uri: str = ""
    keys: list[dict[str, Any]] = []


class IssuerKeys(PyJWKClient):
    """The keys that the settings name: of a file, of a URL, or of the URL that the issuer publishes."""

    def __init__(self, settings: Settings) -> None:
        """Raises SettingsError when there is a file that cannot be used."""
        self._settings, self._issuer = settings, settings.oidc_issuer or ""
        super().__init__(settings.oidc_jwks_url or f"{self._issuer.rstrip('/')}/{DISCOVERY}", cache_jwk_set=False)
        self.known: list[PyJWK] = []  # another list after each fetch
        self._lock, self._failed, self._tried_at = asyncio.Lock(), False, float("-inf")
        try:
            if settings.oidc_jwks_file:
                self.load()
        except FAILURES as error:
            file = f"DESKLEDGER_OIDC_JWKS_FILE={str(settings.oidc_jwks_file)!r}"
            detail = "it takes the path of a file with a JSON Web Key Set"
            raise SettingsError(f"{file} cannot be used: {detail}: {error}") from None

    async def find(self, kid: str | None, algorithm: str) -> PyJWK:
        """The key that a token names; without a name, the only one.

        Raises PyJWKClientError when the issuer has no such key for this algorithm; Problem, 503, when it was never
        reached.
        """
        if not self.knows(kid):
            await asyncio.shield(self.refresh())  # whose client hangs up takes no fetch from others
        if not self.known:
            raise Problem(503, "issuer_unavailable", NO_KEYS, headers={"Retry-After": f"{COOL_DOWN_SECONDS:.0f}"})
        found = [key for key in self._named(kid) if key.algorithm_name == algorithm]
        if not found or (kid is None and len(found) > 1):
            raise PyJWKClientError("the issuer has no such key")
        return found[0]

    def knows(self, kid: str | None) -> bool:
        """Whether this key is among those that the issuer had when it was last asked."""
        return bool(self._named(kid))

    async def keep_fresh(self) -> None:
        """Fetches the keys now and every few minutes, and while that fails every few seconds."""
        while True:
            await self.refresh()
            await asyncio.sleep(COOL_DOWN_SECONDS if self._failed else FRESH_SECONDS)

    async def refresh(self) -> None:
        """Fetches the keys beside the event loop, one fetch at a time, unless that was tried just now."""
        async with self._lock:
            if time.monotonic() < self._tried_at + COOL_DOWN_SECONDS:
                return
            self._failed = True
            try:
                await asyncio.to_thread(self.load)
                self._failed = False
            except FAILURES as error:
                log.warning("the issuer's keys cannot be had", reason=str(error)[:300], known=len(self.known))
            finally:
                self._tried_at = time.monotonic()

    def load(self) -> None:
        """Fetches the keys at once. Raises one of FAILURES."""
        self.known = self.get_jwk_set().keys

    def fetch_data(self) -> dict[str, Any]:
        """The public keys for signatures, each once for every algorithm that it may be used with."""
        found = self._read().keys
        # one secret among them, and whoever has it could sign: only keys of which the public half is enough
        keys = [key for key in found if key.get("use") in (None, "sig") and "d" not in key]
        algorithms = read_algorithms(self._settings.oidc_algorithms)
        return {"keys": [key | {"alg": name} for key in keys for name in algorithms if key.get("alg") in (None, name)]}

    def _read(self) -> Published:
        if file := self._settings.oidc_jwks_file:
            with file.open("rb") as opened:
                return msgspec.json.decode(opened.read(MOST_DOCUMENT_BYTES), type=Published)
        found = fetch(self.uri)
        if self._settings.oidc_jwks_url:
            return found
        if found.issuer != self._issuer:
            raise PyJWKClientError(f"{DISCOVERY} speaks for another issuer: {found.issuer[:100]!r}")
        return fetch(https_url(found.jwks_uri))

    def _named(self, kid: str | None) -> list[PyJWK]:
        return [key for key in self.known if kid in (None, key.key_id)]


def fetch(url: str) -> Published:
    """What lies there: at most so many bytes within so many seconds, however slowly they come; no redirect is followed.

    Raises one of FAILURES.
    """
    deadline, read = time.monotonic() + FETCH_SECONDS, bytearray()
    limits: dict[str, Any] = {"retries": False, "redirect": False, "timeout": FETCH_SECONDS, "preload_content": False}
    with urllib3.request("GET", url, **limits) as response:
        if response.status != 200:
            raise PyJWKClientError(f"{url} answers {response.status}")
        while part := response.read1(MOST_DOCUMENT_BYTES):
            read += part
            if len(read) > MOST_DOCUMENT_BYTES or time.monotonic() > deadline:
                raise PyJWKClientError(f"{url} sends more than {MOST_DOCUMENT_BYTES} bytes, or too slowly")
    return msgspec.json.decode(read, type=Published)
