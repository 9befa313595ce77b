"""What is recorded of a command that has an idempotency key, in the transaction of its events."""

from typing import LiteralString

import msgspec

FIND_RECORD: LiteralString = "select request_hash, answer from idempotency where principal = %s and key = %s"
INSERT_RECORD: LiteralString = """
    insert into idempotency (principal, key, request_hash, answer, at) values (%s, %s, %s, %s, now())
    on conflict (principal, key) do nothing"""


class IdempotencyRecord(msgspec.Struct, frozen=True):
    """An idempotency record: who asked what under which key, and the first answer, byte for byte."""

    principal: str
    key: str
    request_hash: bytes
    answer: bytes
