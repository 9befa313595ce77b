"""The issuer's public keys, fetched with the limits that PyJWT's own client lacks: beside the event loop every
few minutes, and when a token names a key that is not known, but then not more often than every few seconds, whoever
sends such tokens. While the issuer is down, those of before go on being used."""

import asyncio
import time
from typing import Any

import msgspec
import structlog
import urllib3
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from jwt import PyJWK, PyJWKClientError, PyJWKSet, PyJWTError

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


ED25519 = "Ed25519"
NAMES_OF_KEYS = {ED25519: "EdDSA"}  # RFC 9864 has a name for each curve; the library makes its keys under the old one


class IssuerKeys:
    """The keys that the settings name: of a file, of a URL, or of the URL that the issuer publishes."""

    def __init__(self, settings: Settings) -> None:
        """Raises SettingsError when there is a file that cannot be used."""
        self._settings, self._algorithms = settings, read_algorithms(settings.oidc_algorithms)
        self.known: list[PyJWK] = []  # another list after each fetch
        self._lock, self._failed, self._tried_at = asyncio.Lock(), False, float("-inf")
        try:
            if settings.oidc_jwks_file:
                self.load()
        except FAILURES as error:
            file = f"DESKLEDGER_OIDC_JWKS_FILE={str(settings.oidc_jwks_file)!r}"
            raise SettingsError(
                f"{file} cannot be used: it takes the path of a file with a JSON Web Key Set: {error}"
            ) from None

    async def find(self, kid: str | None, algorithm: str) -> PyJWK:
        """The key that a token names; without a name, the only one.

        Raises PyJWKClientError when the issuer has no such key for this algorithm; Problem, 503, when it was never
        reached.
        """
        if not self.knows(kid):
            await asyncio.shield(self.refresh())  # whose client hangs up takes no fetch from others
        if not self.known:
            raise Problem(503, "issuer_unavailable", NO_KEYS, headers={"Retry-After": f"{COOL_DOWN_SECONDS:.0f}"})
        name = NAMES_OF_KEYS.get(algorithm, algorithm)
        found = [key for key in self.known if kid in (None, key.key_id) and key.algorithm_name == name]
        if algorithm == ED25519:
            found = [key for key in found if isinstance(key.key, Ed25519PublicKey)]
        if not found or (kid is None and len(found) > 1):
            raise PyJWKClientError("the issuer has no such key")
        return found[0]

    def knows(self, kid: str | None) -> bool:
        """Whether this key is among those that the issuer had when it was last asked."""
        return any(kid in (None, key.key_id) for key in self.known)

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
        """Fetches the public keys for signatures at once, each for every algorithm that it may be used with.

        Raises one of FAILURES.
        """
        # one secret among them, and whoever has it could sign: only keys of which the public half is enough
        keys = [key for key in self._published() if key.get("use") in (None, "sig") and "d" not in key]
        usable: list[dict[str, Any]] = []
        for key in keys:
            names = [name for name in self._algorithms if key.get("alg") in (None, name)]
            usable += [key | {"alg": name} for name in dict.fromkeys(NAMES_OF_KEYS.get(name, name) for name in names)]
        self.known = PyJWKSet.from_dict({"keys": usable}).keys

    def _published(self) -> list[dict[str, Any]]:
        issuer, url = self._settings.oidc_issuer or "", self._settings.oidc_jwks_url
        if file := self._settings.oidc_jwks_file:
            with file.open("rb") as opened:
                return msgspec.json.decode(opened.read(MOST_DOCUMENT_BYTES), type=Published).keys
        if url is None:
            found = fetch(f"{issuer.rstrip('/')}/{DISCOVERY}")
            if found.issuer != issuer:
                raise PyJWKClientError(f"{DISCOVERY} speaks for another issuer: {found.issuer[:100]!r}")
            url = https_url(found.jwks_uri)
        return fetch(url).keys


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
