"""The secrets that webhooks are signed with (Standard Webhooks 1.0): made, kept, and used."""

from base64 import b64encode
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from hashlib import sha256
from secrets import token_bytes

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from standardwebhooks import Webhook

SIGNING_PREFIX = "whsec_"
SECRET_BYTES = 32
PLAIN_MARK, FERNET_MARK, SECRET_MARK = "plain:", "fernet:", "sha256:"


class Locked(Exception):
    """A secret was sealed with a key that DESKLEDGER_WEBHOOK_KEYS does not have."""


class Vault:
    """How secrets lie in the database: sealed with the first of these keys; with none, as they are.

    They cannot be hashed like API keys: whoever signs needs the secret itself.
    """

    def __init__(self, keys: str | None = None) -> None:
        self._keys = MultiFernet(read_keys(keys)) if keys else None

    def seal(self, text: str) -> str:
        """What is stored of a text."""
        return FERNET_MARK + self._keys.encrypt(text.encode()).decode() if self._keys else PLAIN_MARK + text

    def open(self, stored: str) -> str:
        """The text that was stored. Raises Locked."""
        if stored.startswith(PLAIN_MARK):
            return stored.removeprefix(PLAIN_MARK)
        with suppress(InvalidToken):
            if self._keys:
                return self._keys.decrypt(stored.removeprefix(FERNET_MARK)).decode()
        raise Locked(Locked.__doc__)


def read_keys(text: str) -> list[Fernet]:
    """The keys of a setting. Raises ValueError."""
    try:
        return [Fernet(part.strip()) for part in text.split(",")]
    except ValueError:
        raise ValueError("Fernet keys, separated by commas: each 32 random bytes in URL-safe base64") from None


def new_secret() -> str:
    """A secret that nobody can guess."""
    return SIGNING_PREFIX + b64encode(token_bytes(SECRET_BYTES)).decode()


def mark_of(secret: str) -> str:
    """What is kept of a secret where an answer is kept that shows it: as long as it lives, it can be found by that."""
    return SECRET_MARK + sha256(secret.encode()).hexdigest()


def is_mark(text: str) -> bool:
    """Whether a text stands for a secret."""
    return text.startswith(SECRET_MARK)


def signed(secrets: Sequence[str], webhook_id: str, body: bytes, now: datetime) -> dict[str, str]:
    """The three headers of Standard Webhooks: one signature for each secret; `now` is in UTC."""
    text = body.decode()
    return {
        "webhook-id": webhook_id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": " ".join(Webhook(secret).sign(webhook_id, now, text) for secret in secrets),
    }
