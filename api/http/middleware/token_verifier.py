"""JWT bearers of an OpenID Connect issuer: what is demanded of one, and whom it stands for (RFC 8725, RFC 9068)."""

from contextlib import suppress
from typing import Any, NamedTuple

import jwt
from jwt.algorithms import OKPAlgorithm

from api.http.middleware.issuer_keys import ED25519, IssuerKeys
from api.http.problems import Problem
from application.identity import token_claims
from application.settings import Settings
from domain.values import Principal

CHALLENGE = 'Bearer realm="deskledger"'
MOST_CHARACTERS = 7_500
LEEWAY_SECONDS = 10
OWN_KEYS = frozenset({"jwk", "jku", "x5c", "x5u"})  # a key that comes with the token would vouch for itself
TYPES = frozenset({"jwt", "at+jwt"})  # RFC 9068, section 2.1; a logout token, for one, signs nobody in
OPTIONS: Any = {"require": ["iss", "aud", "exp", "sub"], "enforce_minimum_key_length": True}
REASONS: dict[type[Exception], str] = {
    jwt.ExpiredSignatureError: "it has expired: get a new one",
    jwt.ImmatureSignatureError: "it is not valid yet",
    jwt.InvalidAudienceError: "it is for another audience",
    jwt.InvalidIssuerError: "it is from another issuer",
    jwt.InvalidSignatureError: "its signature is wrong",
    jwt.PyJWKClientError: "its issuer has no such key",
    token_claims.NoSubject: "its claim sub does not name anybody",
}

with suppress(ValueError):  # the library may know it by itself one day
    jwt.register_algorithm(ED25519, OKPAlgorithm())


def challenge(code: str, detail: str) -> Problem:
    """The refusal of a credential (RFC 6750, section 3)."""
    error = "" if code == "key_missing" else ', error="invalid_token"'
    return Problem(401, code, detail, headers={"WWW-Authenticate": CHALLENGE + error})


def bad_token(why: str) -> Problem:
    """It is not a token that this desk takes: why, without a word of the token."""
    return challenge("token_invalid", f"This token is not accepted: {why}.")


class Verified(NamedTuple):
    """Whom a token stands for, until when (seconds since 1970), by which key of the issuer, and of which it was one."""

    who: Principal
    ends_at: float
    kid: str | None
    known_keys: list[jwt.PyJWK]


class Tokens:
    """Verifies tokens of one issuer for one audience."""

    def __init__(self, settings: Settings) -> None:
        self.keys = IssuerKeys(settings)
        self._issuer, self._audience = settings.oidc_issuer, settings.oidc_audience
        self._algorithms = token_claims.read_algorithms(settings.oidc_algorithms)
        self._claims = token_claims.read_claims(settings.oidc_claims)
        self._grants = token_claims.read_grants(settings.oidc_roles) if settings.oidc_roles else token_claims.OWN_NAMES

    async def verify(self, token: str) -> Verified:
        """Whom it stands for. Raises Problem: 401, and 503 while the issuer's keys cannot be had."""
        if len(token) > MOST_CHARACTERS:
            raise bad_token(f"it has more than {MOST_CHARACTERS} characters")
        try:
            return await self._verify(token)
        except (jwt.PyJWTError, token_claims.NoSubject, ValueError, TypeError, OverflowError, RecursionError) as error:
            raise bad_token(_why(error)) from None

    async def _verify(self, token: str) -> Verified:
        header = jwt.get_unverified_header(token)
        kid, algorithm = header.get("kid"), header.get("alg")
        if OWN_KEYS & header.keys():
            raise bad_token("it brings a key of its own")
        if str(header.get("typ", "JWT")).lower().removeprefix("application/") not in TYPES:
            raise bad_token("it is of a type that is not for asking")
        if algorithm not in self._algorithms:
            raise bad_token("its algorithm is not allowed here")
        key = await self.keys.find(kid, algorithm)
        claims = jwt.decode(
            token,
            key.key,
            algorithms=(algorithm,),
            audience=self._audience,
            issuer=self._issuer,
            leeway=LEEWAY_SECONDS,
            options=OPTIONS,
        )
        who = token_claims.principal_of(claims, self._claims, self._grants)
        return Verified(who, float(int(claims["exp"])), kid, self.keys.known)


def _why(error: Exception) -> str:
    if isinstance(error, jwt.MissingRequiredClaimError):
        return f"it has no claim {error.claim}"
    return REASONS.get(type(error), "it cannot be read")
