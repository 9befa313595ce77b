"""Webhooks over HTTP: subscriptions, what an admin does to them, and what became of their deliveries."""

from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from functools import partial
from uuid import UUID, uuid4

import msgspec
from falcon.asgi import Request, Response
from msgspec.structs import replace

from api.http.paging import JSON, NoFields, finish, send
from api.http.problems import Problem
from api.http.request_parsing import parameters, read_json
from api.http.resources.webhook_admin import webhook_messages as shapes
from api.http.resources.webhook_admin.webhook_deps import WebhookDeps, as_answered, changing, find, unknown
from application.clock import utc_now
from application.webhooks.signing import new_secret
from application.webhooks.subscriptions import (
    MOST_WEBHOOKS,
    Beside,
    Subscription,
    TooMany,
    UnknownWebhook,
    WebhookCommandRecord,
    new_ping,
)
from application.webhooks.subscriptions import SubscriptionCommands as Stored
from domain import roles
from domain.client import client_stream
from projections.queries.pages import Page
from projections.queries.webhook_list import delivery_page, webhook_page

Do = Callable[[Request, Response, UUID], Awaitable[None]]


class Webhooks:
    """All subscriptions."""

    def __init__(self, deps: WebhookDeps) -> None:
        self._deps = deps

    async def on_get(self, req: Request, resp: Response) -> None:
        """The subscriptions, without their secrets."""
        roles.require_read(req.context.who, "webhooks")
        asked = parameters(req, shapes.WebhookParameters)
        page = await webhook_page(self._deps.readers.fetch, asked.cursor, asked.limit)
        now = utc_now()
        shown = [shapes.view(one, now) for one in page.items]
        finish(req, resp, Page(shown, page.next, page.position), shapes.WebhookList)

    async def on_post(self, req: Request, resp: Response) -> None:
        """A new one: 201 with its secret, which is shown this once."""
        roles.require_manage(req.context.who, "webhooks")
        wanted = await read_json(req, shapes.CreateWebhook)
        body = await self._deps.answer(req, resp, partial(self._add, wanted, req.context.who.id))
        resp.status = 201
        resp.set_header("Location", f"/v1/webhooks/{msgspec.json.decode(body)['id']}")

    async def _add(self, wanted: shapes.CreateWebhook, by: str, record: WebhookCommandRecord) -> str:
        await self._deps.check(wanted.url)
        after = await _known_position(self._deps.stored, wanted.after)
        now, secret, vault = utc_now(), new_secret(), self._deps.vault
        new = _stored(wanted, after, vault.seal(secret), by, now)
        try:
            return await self._deps.stored.add(new, record, as_answered(vault, now, secret))
        except TooMany:
            detail = f"There are {MOST_WEBHOOKS} webhooks: delete one that is not used."
            raise Problem(409, "too_many_webhooks", detail) from None


class WebhookResource:
    """One subscription."""

    def __init__(self, deps: WebhookDeps) -> None:
        self._deps = deps

    async def on_get(self, req: Request, resp: Response, webhook_id: UUID) -> None:
        """The subscription, without its secret."""
        roles.require_read(req.context.who, "webhooks")
        send(resp, shapes.view(await find(self._deps, webhook_id), utc_now()))

    async def on_patch(self, req: Request, resp: Response, webhook_id: UUID) -> None:
        """Changes what the body names. What is due and has failed is tried again, now."""
        roles.require_manage(req.context.who, "webhooks")
        wanted = await read_json(req, shapes.ChangeWebhook)
        if wanted.url is not msgspec.UNSET:
            await self._deps.check(wanted.url)
        given = {name: value for name, value in msgspec.structs.asdict(wanted).items() if value is not msgspec.UNSET}
        if "client_user_id" in given:
            given["client_stream"] = _stream(given["client_user_id"])
        changed = changing(self._deps, webhook_id, lambda stored: replace(stored, **given), Beside(again=True))
        try:
            answer = await changed(WebhookCommandRecord())
        except UnknownWebhook:
            raise unknown() from None
        resp.content_type, resp.data = JSON, self._deps.vault.open(answer).encode()

    async def on_delete(self, req: Request, resp: Response, webhook_id: UUID) -> None:
        """Ends it: 204. What was not sent yet is not sent any more."""
        roles.require_manage(req.context.who, "webhooks")
        try:
            await self._deps.stored.delete(webhook_id, utc_now())
        except UnknownWebhook:
            raise unknown() from None
        resp.status = 204


class WebhookDeliveries:
    """What became of what was to be sent."""

    def __init__(self, deps: WebhookDeps) -> None:
        self._deps = deps

    async def on_get(self, req: Request, resp: Response, webhook_id: UUID) -> None:
        """The deliveries, newest first; those that are settled are kept for 30 days."""
        roles.require_read(req.context.who, "webhooks")
        asked = parameters(req, shapes.DeliveryParameters)
        await find(self._deps, webhook_id)
        page = await delivery_page(self._deps.readers.fetch, webhook_id, asked.state, asked.cursor, asked.limit)
        finish(req, resp, page, shapes.DeliveryList)


class WebhookCommands:
    """What can be done to a subscription beside changing it."""

    def __init__(self, deps: WebhookDeps) -> None:
        self._deps = deps
        self._commands: dict[str, Do] = {
            "enable": self._enable,
            "disable": self._disable,
            "rotate_secret": self._rotate_secret,
            "replay": self._replay,
            "ping": self._ping,
        }

    async def on_post(self, req: Request, resp: Response, webhook_id: UUID, command: str) -> None:
        """A command on a subscription that is there; the answer is how it stands then."""
        roles.require_manage(req.context.who, "webhooks")
        do = self._commands.get(command)
        if do is None:
            names = ", ".join(sorted(self._commands))
            raise Problem(404, "unknown_command", f"There is no command {command!r}: {names}.")
        await do(req, resp, webhook_id)

    async def _enable(self, req: Request, resp: Response, id_: UUID) -> None:
        """Switches it on, where it stopped; what has failed is tried again, now."""
        await read_json(req, NoFields)
        on = partial(replace, enabled=True, disabled_at=None, disabled_reason=None)
        await self._deps.answer(req, resp, changing(self._deps, id_, on, Beside(again=True)))

    async def _disable(self, req: Request, resp: Response, id_: UUID) -> None:
        """Switches it off. What is not sent yet waits."""
        wanted = await read_json(req, shapes.DisableWebhook)
        reason = wanted.reason or f"switched off by {req.context.who.id}"
        off = partial(replace, enabled=False, disabled_at=utc_now(), disabled_reason=reason)
        await self._deps.answer(req, resp, changing(self._deps, id_, off))

    async def _rotate_secret(self, req: Request, resp: Response, id_: UUID) -> None:
        """A new secret, shown this once; for some hours the old one signs as well."""
        wanted = await read_json(req, shapes.RotateSecret)
        secret, until = new_secret(), utc_now() + timedelta(hours=wanted.overlap_hours)
        sealed = self._deps.vault.seal(secret)
        rotated = lambda stored: replace(stored, secret=sealed, old_secret=stored.secret, old_until=until)  # noqa: E731
        await self._deps.answer(req, resp, changing(self._deps, id_, rotated, secret=secret))

    async def _replay(self, req: Request, resp: Response, id_: UUID) -> None:
        """Goes on from a position."""
        wanted = await read_json(req, shapes.Replay)
        after = await _known_position(self._deps.stored, wanted.after)
        await self._deps.answer(req, resp, changing(self._deps, id_, partial(replace, go_to=after)))

    async def _ping(self, req: Request, resp: Response, id_: UUID) -> None:
        """Sends something that means nothing, once."""
        await read_json(req, NoFields)
        await self._deps.answer(req, resp, changing(self._deps, id_, _switched_on, new_ping()))


def _stored(wanted: shapes.CreateWebhook, after: int, secret: str, by: str, now: datetime) -> Subscription:
    return Subscription(
        uuid4(),
        1,
        wanted.url,
        wanted.description,
        wanted.types,
        wanted.ticket_id,
        wanted.client_user_id,
        _stream(wanted.client_user_id),
        wanted.actor,
        wanted.level,
        secret,
        None,
        None,
        after,
        None,
        True,
        None,
        None,
        now,
        by,
    )


def _stream(user_id: str | None) -> UUID | None:
    return client_stream(user_id) if user_id else None


async def _known_position(stored: Stored, after: int | None) -> int:
    end = await stored.log_end()
    if after is not None and after > end:
        raise Problem(
            422, "unknown_position", f"The log ends at {end}.", errors=[{"pointer": "/after", "detail": "too high"}]
        )
    return end if after is None else after


def _switched_on(stored: Subscription) -> Subscription:
    if not stored.enabled:
        raise Problem(409, "webhook_disabled", "The webhook is switched off: enable it first.")
    return stored
