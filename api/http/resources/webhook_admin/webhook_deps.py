"""What the resources of webhooks have in common: the way to a subscription, to an answer, and to an address."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
import psycopg
from falcon.asgi import Request, Response

from api.http.paging import JSON, encode
from api.http.problems import Problem
from api.http.request_parsing import idempotency_key, idempotency_request
from api.http.resources.webhook_admin import webhook_messages as shapes
from application.batching_desk import BatchingDesk
from application.clock import utc_now
from application.commands.idempotency import IdempotencyRequest
from application.settings import Settings
from application.store.postgres.pg_connection import PgConnection
from application.store.postgres.read_pool import Readers
from application.webhooks.address_rules import Resolve, Rules, UrlRefused, addresses, look_up, read_rules, read_url
from application.webhooks.signing import Locked, Vault
from application.webhooks.subscriptions import (
    AnswerFor,
    Beside,
    Subscription,
    SubscriptionChange,
    UnknownWebhook,
    WebhookCommandRecord,
)
from application.webhooks.subscriptions import SubscriptionCommands as Stored

LOCKED_SECONDS = "60"  # somebody has to change a setting
LOOK_UP_SECONDS = 5.0


class WebhookDeps(msgspec.Struct, frozen=True):
    """What every resource here works with."""

    stored: Stored
    readers: Readers
    desk: BatchingDesk
    vault: Vault
    rules: Rules
    resolve: Resolve

    async def process_shutdown(self, scope: Mapping[str, Any], event: Mapping[str, Any]) -> None:
        """Closes the connection when a process of the API ends."""
        await self.stored.close()

    async def check(self, url: str) -> None:
        """Raises Problem with status 422 when the desk sends no webhooks there."""
        try:
            target = read_url(url, self.rules)
            look = asyncio.to_thread(addresses, target, self.rules, self.resolve)
            await asyncio.wait_for(look, LOOK_UP_SECONDS)
        except UrlRefused as error:
            raise _url_refused(f"{error}.") from None
        except TimeoutError:
            raise _url_refused("the name service did not answer in time: try again.") from None

    async def answer(self, req: Request, resp: Response, do: Callable[[WebhookCommandRecord], Awaitable[str]]) -> bytes:
        """Answers with what `do` says, or with the first answer where the request comes again."""
        key, wanted = idempotency_key(req), _done_once(req)
        before = await self.desk.find_answer(wanted)
        try:
            text = before.body.decode() if before else await do(_record(req, key))
        except psycopg.errors.UniqueViolation:  # the same key, a moment ago
            before = await self.desk.find_answer(wanted)
            if before is None:
                raise
            text = before.body.decode()
        except UnknownWebhook:
            raise unknown() from None
        if before:
            resp.set_header("Idempotency-Replayed", "true")
        try:
            resp.content_type, resp.data = JSON, self.vault.open(text).encode()
        except Locked as locked:  # the first answer was given by a process with other keys
            text = f"{locked} Whoever runs the desk has to set it."
            raise Problem(503, "secrets_locked", text, headers={"Retry-After": LOCKED_SECONDS}) from None
        return resp.data


def make_webhook_deps(
    settings: Settings, desk: BatchingDesk, readers: Readers, resolve: Resolve = look_up
) -> WebhookDeps:
    """What they work with under these settings; `resolve` gives every address of a name."""
    rules = read_rules(settings.webhook_allow_networks, settings.webhook_allow_http, settings.webhook_hosts)
    stored = Stored(PgConnection(settings.database_url or "", "api webhooks"))
    return WebhookDeps(stored, readers, desk, Vault(settings.webhook_keys), rules, resolve)


async def find(deps: WebhookDeps, id_: UUID) -> Subscription:
    """A subscription. Raises Problem with status 404."""
    try:
        return await deps.stored.find(id_)
    except UnknownWebhook:
        raise unknown() from None


def changing(
    deps: WebhookDeps, id_: UUID, change: SubscriptionChange, beside: Beside | None = None, secret: str | None = None
) -> Callable[[WebhookCommandRecord], Awaitable[str]]:
    """What changes a subscription, and says how it is answered; with its `secret` where there is a new one."""
    now = utc_now()
    answer = as_answered(deps.vault, now, secret)
    return lambda record: deps.stored.change(id_, change, beside or Beside(), now, record, answer)


def as_answered(vault: Vault, now: datetime, secret: str | None) -> AnswerFor:
    """How a subscription is answered: sealed, since it is kept under the idempotency key."""

    def answer(stored: Subscription) -> str:
        shown: Any = shapes.with_secret(stored, secret, now) if secret else shapes.view(stored, now)
        return vault.seal(encode(shown).decode())

    return answer


def _done_once(req: Request) -> IdempotencyRequest | None:
    return idempotency_request(req, lambda _: b"")


def _record(req: Request, key: str | None) -> WebhookCommandRecord:
    if key is None:
        return WebhookCommandRecord()
    wanted = _done_once(req)
    return WebhookCommandRecord(req.context.who.id, key, wanted.request_hash.hex() if wanted else "")


def _url_refused(reason: str) -> Problem:
    return Problem(422, "url_refused", reason[0].upper() + reason[1:], errors=[{"pointer": "/url", "detail": reason}])


def unknown() -> Problem:
    """That there is no such subscription."""
    return Problem(404, "unknown_webhook", "There is no such webhook.")
