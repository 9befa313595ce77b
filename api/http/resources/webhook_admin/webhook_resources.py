"""Webhooks over HTTP: subscriptions, what an admin does to them, and what became of their deliveries."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import msgspec
import psycopg
from falcon.asgi import Request, Response
from msgspec.structs import asdict, replace

from api.http.paging import JSON, NoFields, encode, finish, send
from api.http.problems import Problem
from api.http.request_parsing import idempotency_request, parameters, read_json
from api.http.resources.webhook_admin import webhook_messages as shapes
from application.batching_desk import BatchingDesk
from application.clock import utc_now
from application.commands.idempotency import IdempotencyRequest
from application.settings import Settings
from application.store.postgres.pg_connection import PgConnection
from application.store.read_pool import Readers
from application.webhooks.address_rules import UrlRefused, addresses, read_rules, read_url
from application.webhooks.signing import Locked, Vault, is_mark, mark_of, new_secret
from application.webhooks.subscriptions import (
    MOST_WEBHOOKS,
    Subscription,
    SubscriptionChange,
    SubscriptionCommands,
    UnknownWebhook,
    new_subscription,
)
from domain import roles
from projections.queries.event_feed import log_end
from projections.queries.pages import Page
from projections.queries.webhook_list import delivery_page, webhook_page

LOCKED_SECONDS = "60"  # somebody has to change a setting
LOOK_UP_SECONDS = 5.0
COMMAND_BODIES: dict[str, type[msgspec.Struct]] = {
    "enable": NoFields,
    "disable": shapes.DisableWebhook,
    "rotate_secret": shapes.RotateSecret,
    "replay": shapes.Replay,
    "ping": NoFields,
}


class ShownSecret(msgspec.Struct):
    """What of an answer says which secret it shows."""

    id: UUID
    secret: str = ""


Answered = Callable[[IdempotencyRequest | None], Awaitable[str]]


class Webhooks:
    """All subscriptions; behind the suffixes: one of them, its commands, and its deliveries."""

    def __init__(self, settings: Settings, desk: BatchingDesk, readers: Readers) -> None:
        self._desk, self._readers = desk, readers
        self._stored = SubscriptionCommands(PgConnection(settings.database_url or "", "api webhooks"))
        self._rules = read_rules(settings.webhook_allow_networks, settings.webhook_allow_http, settings.webhook_hosts)
        self._vault = Vault(settings.webhook_keys)

    async def process_shutdown(self, scope: Mapping[str, Any], event: Mapping[str, Any]) -> None:
        """Closes the connection when a process of the API ends."""
        await self._stored.close()

    async def on_get(self, req: Request, resp: Response) -> None:
        """The subscriptions, without their secrets."""
        roles.require_read(req.context.who, "webhooks")
        asked = parameters(req, shapes.WebhookParameters)
        page = await webhook_page(self._readers.fetch, asked.cursor, asked.limit)
        finish(req, resp, Page([shapes.view(one) for one in page.items], page.next, page.position), shapes.WebhookList)

    async def on_post(self, req: Request, resp: Response) -> None:
        """A new one: 201 with its secret, which is shown this once."""
        roles.require_manage(req.context.who, "webhooks")
        wanted = await read_json(req, shapes.CreateWebhook)
        body = await self._answer(req, resp, partial(self._add, wanted, req.context.who.id))
        resp.status = 201
        resp.set_header("Location", f"/v1/webhooks/{msgspec.json.decode(body)['id']}")

    async def on_get_one(self, req: Request, resp: Response, webhook_id: UUID) -> None:
        """The subscription, without its secret."""
        roles.require_read(req.context.who, "webhooks")
        send(resp, shapes.view(await self._stored.find(webhook_id)))

    async def on_patch_one(self, req: Request, resp: Response, webhook_id: UUID) -> None:
        """Changes what the body names. What is due and has failed is tried again, now."""
        roles.require_manage(req.context.who, "webhooks")
        wanted = await read_json(req, shapes.ChangeWebhook)
        if wanted.url is not msgspec.UNSET:
            await self._check(wanted.url)
        named = {name: value for name, value in asdict(wanted).items() if value is not msgspec.UNSET}
        change = SubscriptionChange(partial(replace, **named), again=True)
        await self._show(resp, await self._stored.change(webhook_id, change, self._sealed, utc_now()))

    async def on_delete_one(self, req: Request, resp: Response, webhook_id: UUID) -> None:
        """Ends it: 204. What was not sent yet is not sent any more."""
        roles.require_manage(req.context.who, "webhooks")
        await self._stored.delete(webhook_id, utc_now())
        resp.status = 204

    async def on_get_deliveries(self, req: Request, resp: Response, webhook_id: UUID) -> None:
        """What became of what was to be sent, newest first; what is settled is kept for 30 days."""
        roles.require_read(req.context.who, "webhooks")
        asked = parameters(req, shapes.DeliveryParameters)
        await self._stored.find(webhook_id)
        page = await delivery_page(self._readers.fetch, webhook_id, asked.state, asked.cursor, asked.limit)
        finish(req, resp, page, shapes.DeliveryList)

    async def on_post_command(self, req: Request, resp: Response, webhook_id: UUID, command: str) -> None:
        """A command on a subscription that is there; the answer is how it stands then."""
        roles.require_manage(req.context.who, "webhooks")
        if command not in COMMAND_BODIES:
            names = ", ".join(sorted(COMMAND_BODIES))
            raise Problem(404, "unknown_command", f"There is no command {command!r}: {names}.")
        wanted = await read_json(req, COMMAND_BODIES[command])
        change = await self._change_for(command, wanted, req.context.who.id)
        answer = partial(self._sealed, with_secret=command == "rotate_secret")
        await self._answer(req, resp, partial(self._stored.change, webhook_id, change, answer, utc_now()))

    async def _change_for(self, command: str, wanted: Any, by: str) -> SubscriptionChange:
        match command:
            case "enable":  # where it stopped
                on = partial(replace, enabled=True, disabled_at=None, disabled_reason=None)
                return SubscriptionChange(on, again=True)
            case "disable":  # what is not sent yet waits
                reason = wanted.reason or f"switched off by {by}"
                return SubscriptionChange(
                    partial(replace, enabled=False, disabled_at=utc_now(), disabled_reason=reason)
                )
            case "rotate_secret":  # for some hours the old one signs as well
                until = utc_now() + timedelta(hours=wanted.overlap_hours)
                new = {"secret": self._vault.seal(new_secret()), "old_secret_until": until}
                return SubscriptionChange(lambda stored: replace(stored, old_secret=stored.secret, **new))
            case "replay":
                return SubscriptionChange(partial(replace, go_to=await self._known_position(wanted.after)))
        return SubscriptionChange(_switched_on, ping=uuid4())

    async def _add(self, wanted: shapes.CreateWebhook, by: str, request: IdempotencyRequest | None) -> str:
        await self._check(wanted.url)
        given = asdict(wanted)
        given["position"] = await self._known_position(given.pop("after"))
        secret = self._vault.seal(new_secret())
        new = new_subscription(**given, secret=secret, created_at=utc_now(), created_by=by)
        answer = self._sealed(new, with_secret=True)
        if not await self._stored.add(new, answer, request):
            detail = f"There are {MOST_WEBHOOKS} webhooks: delete one that is not used."
            raise Problem(409, "too_many_webhooks", detail)
        return answer

    async def _answer(self, req: Request, resp: Response, do: Answered) -> bytes:
        """Answers with what `do` says, or with the first answer where the request comes again."""
        request = idempotency_request(req, lambda _: b"")
        before = await self._desk.find_answer(request)
        if before is None:
            try:
                return await self._show(resp, await do(request))
            except psycopg.errors.UniqueViolation:  # the same key, a moment ago
                before = await self._desk.find_answer(request)
                if before is None:
                    raise
        resp.set_header("Idempotency-Replayed", "true")
        return await self._show(resp, before.body.decode())

    def _sealed(self, stored: Subscription, with_secret: bool = False) -> str:
        """How a subscription is answered: sealed, and with the hash of its secret, since it is kept under the key."""
        secret = self._vault.open(stored.secret) if with_secret else ""
        text = encode(shapes.view(stored, secret or None)).decode()
        return self._vault.seal(text.replace(secret, mark_of(secret)) if secret else text)

    async def _show(self, resp: Response, answer: str) -> bytes:
        """Answers, with the secret as long as it lives. What an earlier version has kept holds the secret itself."""
        try:
            text = self._vault.open(answer)
            shown = msgspec.json.decode(text, type=ShownSecret)
            body = (text.replace(shown.secret, await self._secret(shown)) if is_mark(shown.secret) else text).encode()
        except Locked as locked:  # the first answer was given by a process with other keys
            text = f"{locked} Whoever runs the desk has to set it."
            raise Problem(503, "secrets_locked", text, headers={"Retry-After": LOCKED_SECONDS}) from None
        resp.content_type, resp.data = JSON, body
        return body

    async def _secret(self, shown: ShownSecret) -> str:
        """The secret that an answer shows. Raises Problem with status 409 when it signs nothing any more."""
        with suppress(UnknownWebhook):
            stored = await self._stored.find(shown.id)
            for secret in map(self._vault.open, stored.secrets(utc_now())):
                if mark_of(secret) == shown.secret:
                    return secret
        detail = "The secret that this request made is gone: it was rotated since, or the webhook was deleted."
        raise Problem(409, "secret_gone", f"{detail} Make a new one.")

    async def _check(self, url: str) -> None:
        """Raises Problem with status 422 when the desk sends no webhooks there."""
        try:
            look = asyncio.to_thread(addresses, read_url(url, self._rules), self._rules)
            await asyncio.wait_for(look, LOOK_UP_SECONDS)
        except UrlRefused as error:
            raise _url_refused(f"{error}.") from None
        except TimeoutError:
            raise _url_refused("the name service did not answer in time: try again.") from None

    async def _known_position(self, after: int | None) -> int:
        end = await log_end(self._readers.fetch)
        if after is not None and after > end:
            errors = [{"pointer": "/after", "detail": "too high"}]
            raise Problem(422, "unknown_position", f"The log ends at {end}.", errors=errors)
        return end if after is None else after


def _url_refused(reason: str) -> Problem:
    return Problem(422, "url_refused", reason[0].upper() + reason[1:], errors=[{"pointer": "/url", "detail": reason}])


def _switched_on(stored: Subscription) -> Subscription:
    if not stored.enabled:
        raise Problem(409, "webhook_disabled", "The webhook is switched off: enable it first.")
    return stored
