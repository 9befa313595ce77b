"""Commands that are sent again: under the same idempotency key, the first answer is given again, byte for byte.

The record lies in the transaction of the events, so a key is known exactly when its command is recorded. Nobody looks
for it beforehand: where a key is known, the append does nothing, and then it is looked for.
"""

from collections.abc import Callable

import msgspec

from application.commands.deciding import Outcome
from application.store.idempotency_records import IdempotencyRecord


class KeyReused(Exception):
    """This idempotency key was used for another request: take a new key for a new request."""


class StoredAnswer(msgspec.Struct, frozen=True):
    """The first answer to a request that comes again, byte for byte."""

    body: bytes


class IdempotencyRequest(msgspec.Struct, frozen=True):
    """A request that is to be done once: whose key, for which request (SHA-256), and how its outcome is answered.

    An empty answer is not kept: the request may still be done.
    """

    principal: str
    key: str
    request_hash: bytes
    answer: Callable[[Outcome], bytes]

    def record(self, outcome: Outcome) -> IdempotencyRecord | None:
        """The record of an outcome."""
        answer = self.answer(outcome)
        return IdempotencyRecord(self.principal, self.key, self.request_hash, answer) if answer else None

    def stored_answer(self, request_hash: bytes, body: bytes) -> StoredAnswer:
        """Takes a row of `FIND_RECORD`. Raises KeyReused."""
        if request_hash != self.request_hash:
            raise KeyReused
        return StoredAnswer(body)
