"""Requests that may be sent again: what an Idempotency-Key makes of one."""

from collections.abc import Callable
from hashlib import sha256

from falcon.asgi import Request

from api.http.request_parsing import idempotency_key
from application.commands.deciding import Outcome
from application.commands.idempotency import IdempotencyRequest


def idempotency_request(req: Request, answer: Callable[[Outcome], bytes]) -> IdempotencyRequest | None:
    """That the caller wants this request done once; None without an Idempotency-Key. The body has been read."""
    key = idempotency_key(req)
    if key is None:
        return None
    request = f"{req.method} {req.path}\n".encode() + req.context.body
    return IdempotencyRequest(req.context.who.id, key, sha256(request).digest(), answer)
