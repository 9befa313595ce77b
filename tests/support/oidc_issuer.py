"""An OpenID Connect issuer on loopback: its documents over real HTTP, its keys, and tokens of every kind."""

import json
import time
from base64 import urlsafe_b64encode
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

AUDIENCE = "desk"
DISCOVERY, KEYS = "/.well-known/openid-configuration", "/keys"
WAYS = {
    "RS256": RSAAlgorithm,
    "PS256": RSAAlgorithm,
    "ES256": ECAlgorithm,
    "EdDSA": OKPAlgorithm,
    "Ed25519": OKPAlgorithm,
}
with suppress(ValueError):  # the desk has done so, if it runs in this process
    jwt.register_algorithm("Ed25519", OKPAlgorithm())


@cache
def private_key(algorithm: str, number: int = 1) -> Any:
    """A key pair; made once a run, for making one takes its time."""
    if algorithm.startswith("ES"):
        return ec.generate_private_key(ec.SECP256R1())
    if algorithm in ("EdDSA", "Ed25519"):
        return ed25519.Ed25519PrivateKey.generate()
    return rsa.generate_private_key(65537, 2048)


def jwk(kid: str, algorithm: str, key: Any) -> dict[str, Any]:
    """The public half of a key as the issuer publishes it."""
    named = {"alg": algorithm} if algorithm == "Ed25519" else {}
    return {**WAYS[algorithm].to_jwk(key.public_key(), as_dict=True), "kid": kid, "use": "sig", **named}


def encoded(part: Any) -> str:
    """A part of a token."""
    data = part if isinstance(part, bytes) else json.dumps(part).encode()
    return urlsafe_b64encode(data).rstrip(b"=").decode()


class Issuer:
    """Serves its documents while `with` lasts. `asked` are the paths that somebody asked for, in order."""

    def __init__(self) -> None:
        self.keys = {"RS256": jwk("RS256", "RS256", private_key("RS256"))}
        for algorithm in ("ES256", "EdDSA", "Ed25519"):
            self.keys[algorithm] = jwk(algorithm, algorithm, private_key(algorithm))
        self.asked: list[str] = []
        self.status, self.more = 200, dict[str, Any]()
        self.held = Event()
        self.held.set()
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer.asked.append(self.path)
                issuer.held.wait(20)
                body = json.dumps(issuer.document(self.path)).encode()
                self.send_response(issuer.status)
                self.send_header("Content-Length", str(len(body)))
                self.send_header("Location", issuer.url + KEYS)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            def handle_error(self, *_: Any) -> None:
                """Who gave up is no news."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/realm"

    def __enter__(self) -> "Issuer":
        Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.held.set()
        self._server.shutdown()
        self._server.server_close()

    @property
    def environment(self) -> dict[str, str]:
        """The settings of a desk that trusts this issuer."""
        return {"DESKLEDGER_OIDC_ISSUER": self.url, "DESKLEDGER_OIDC_AUDIENCE": AUDIENCE}

    @property
    def fetches(self) -> int:
        """How often the keys were asked for."""
        return sum(path.endswith(KEYS) for path in self.asked)

    def document(self, path: str) -> dict[str, Any]:
        """What lies at a path."""
        if path.endswith(DISCOVERY):
            return {"issuer": self.url, "jwks_uri": self.url + KEYS} | self.more
        return {"keys": list(self.keys.values())} | self.more

    def claims(self, **more: Any) -> dict[str, Any]:
        """What a good token claims; a claim that is None is left out."""
        now = int(time.time())
        good = {"iss": self.url, "aud": AUDIENCE, "sub": "somebody", "iat": now, "exp": now + 300, "roles": ["auditor"]}
        return {name: value for name, value in (good | more).items() if value is not None}

    def token(self, algorithm: str = "RS256", headers: dict[str, Any] | None = None, **claims: Any) -> str:
        """A token that the issuer signs with its key for this algorithm."""
        kid = {"kid": algorithm} | (headers or {})
        return jwt.encode(self.claims(**claims), private_key(algorithm), algorithm, headers=kid)

    def forged(self, algorithm: str, secret: Any, claims: dict[str, Any] | None = None, **header: Any) -> str:
        """A token that a library would not make: signed with anything, with any header and any claims."""
        head = {"alg": algorithm, "typ": "JWT", "kid": "RS256"} | header
        signed = f"{encoded(head)}.{encoded(self.claims() | (claims or {}))}"
        return f"{signed}.{encoded(jwt.get_algorithm_by_name(algorithm).sign(signed.encode(), secret))}"

    def public_pem(self) -> bytes:
        """The public key in the form that everybody can get."""
        return private_key("RS256").public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def bearer(token: str) -> dict[str, str]:
    """The header that carries it."""
    return {"Authorization": f"Bearer {token}"}


def without_signature(parts: Sequence[Any]) -> str:
    """Parts that look like a token."""
    return ".".join(encoded(part) for part in parts)
