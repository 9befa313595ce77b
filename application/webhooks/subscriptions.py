"""Subscriptions to webhooks: who wants to be told what, and where. What an admin does to them is one statement each.

A command reads the subscription, makes of it what it is to be, and writes it where nobody was faster. Its answer is
written along where there is an idempotency key. What is on its way is left to the worker that sends webhooks.
"""

from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any, LiteralString
from uuid import UUID, uuid4

import msgspec
import psycopg

from application.commands.idempotency import IdempotencyRequest as Request
from application.store.postgres.pg_connection import PgConnection
from domain.client import client_stream
from domain.errors import NotFound
from domain.values import Level

MOST_WEBHOOKS = 50  # a thread of the worker is kept for each
WEBHOOK_COLUMNS: LiteralString = """
    id, url, description, types, ticket_id, client_user_id, actor, level, enabled, disabled_at, disabled_reason,
    position, old_until, created_at, created_by, revision, secret, old_secret, go_to"""
SELECT_WEBHOOK: LiteralString = "select" + WEBHOOK_COLUMNS + " from webhooks where id = %s and deleted_at is null"
_GIVEN: LiteralString = """
    with given as (select * from json_populate_record(null::webhooks, %s::json)),
    more as (
        select * from json_to_record(%s::json) as m(
            now timestamptz, again boolean, ping uuid, principal text, key text, request_hash text, answer text)),"""
_KEPT: LiteralString = """
    kept as (
        insert into idempotency (principal, key, request_hash, answer, at)
        select principal, key, decode(request_hash, 'base64'), convert_to(answer, 'UTF8'), now from more, written
        where key is not null)
    select id from written"""
_INSERT: LiteralString = """
    written as (
        insert into webhooks (id, url, description, types, ticket_id, client_user_id, client_stream, actor, level,
            secret, position, created_at, created_by)
        select id, url, description, types, ticket_id, client_user_id, client_stream, actor, level,
            secret, position, created_at, created_by
        from given where (select count(*) from webhooks where deleted_at is null) < %s::int
        returning id),"""
_UPDATE: LiteralString = """
    written as (
        update webhooks w set revision = w.revision + 1, url = g.url, description = g.description, types = g.types,
            ticket_id = g.ticket_id, client_user_id = g.client_user_id, client_stream = g.client_stream,
            actor = g.actor, level = g.level, secret = g.secret, old_secret = g.old_secret, old_until = g.old_until,
            go_to = g.go_to, enabled = g.enabled, disabled_at = g.disabled_at, disabled_reason = g.disabled_reason
        from given g where w.id = g.id and w.revision = g.revision and w.deleted_at is null
        returning w.id),
    again as (
        update webhook_deliveries d set attempts = 0, first_failed_at = null, due_at = now
        from written, more where d.webhook_id = written.id and d.state = 'due' and more.again),
    pinged as (
        insert into webhook_deliveries (webhook_id, stream_id, type, state, due_at, queued_at)
        select id, ping, 'Webhook.Ping', 'due', now, now from written, more where ping is not null),"""
INSERT_WEBHOOK, CHANGE = _GIVEN + _INSERT + _KEPT, _GIVEN + _UPDATE + _KEPT
FORGET_OLD_SECRETS: LiteralString = "update webhooks set old_secret = null where old_secret <> '' and old_until <= %s"
DELETE: LiteralString = """
    update webhooks set deleted_at = %s::timestamptz, secret = '', old_secret = null, enabled = false
    where id = %s and deleted_at is null returning id"""


class UnknownWebhook(NotFound):
    """There is no such webhook."""


class WebhookView(msgspec.Struct, frozen=True):
    """A subscription. Up to `position` the log has been gone through for it."""

    id: UUID
    url: str
    description: str | None
    types: list[str]
    ticket_id: UUID | None
    client_user_id: str | None
    actor: str | None
    level: Level | None
    enabled: bool
    disabled_at: datetime | None
    disabled_reason: str | None
    position: Annotated[int, msgspec.Meta(ge=0)]
    old_secret_until: datetime | None
    created_at: datetime
    created_by: str


class Subscription(WebhookView, frozen=True):
    """A subscription as it is stored, in the order of WEBHOOK_COLUMNS; `secret` and `old_secret` are sealed.

    `go_to` is the position of a replay that has not begun.
    """

    revision: int
    secret: str
    old_secret: str | None
    go_to: int | None

    def secrets(self, now: datetime) -> list[str]:
        """What is sent is signed with each of them."""
        if self.old_secret and self.old_secret_until and self.old_secret_until > now:
            return [self.secret, self.old_secret]
        return [self.secret]


class SubscriptionChange(msgspec.Struct, frozen=True):
    """What is to become of a subscription, and beside it.

    `again` gives the deliveries that failed a fresh start, now; `ping` adds one, which stands behind no event.
    """

    to: Callable[[Subscription], Subscription]
    again: bool = False
    ping: UUID | None = None


AnswerFor = Callable[[Subscription], str]


class SubscriptionCommands:
    """The commands. `line` is a connection of their own.

    Raise UnknownWebhook, and UniqueViolation where the key of the request was used meanwhile.
    """

    def __init__(self, line: PgConnection) -> None:
        self._line = line

    async def close(self) -> None:
        """Closes the connection."""
        await self._line.close()

    async def find(self, id_: UUID) -> Subscription:
        """One of them."""
        rows = await self._line.read(SELECT_WEBHOOK, (str(id_),))
        if not rows:
            raise UnknownWebhook
        return Subscription(*rows[0])

    async def add(self, new: Subscription, answer: str, request: Request | None = None) -> bool:
        """A new one, with its answer; False when there are as many as the desk serves."""
        given = (_row(new), _more(request, answer, new.created_at), str(MOST_WEBHOOKS))
        return bool(await self._line.fetch(INSERT_WEBHOOK, given))

    async def change(
        self, id_: UUID, change: SubscriptionChange, answer: AnswerFor, now: datetime, request: Request | None = None
    ) -> str:
        """Makes of it what `change` says; what is answered."""
        while True:
            changed = change.to(await self.find(id_))
            body = answer(changed)
            more = _more(request, body, now, again=change.again, ping=change.ping)
            if await self._line.fetch(CHANGE, (_row(changed), more)):
                return body

    async def delete(self, id_: UUID, now: datetime) -> None:
        """Nothing is sent for it any more, and its secret is gone."""
        if not await self._line.fetch(DELETE, (now.isoformat(), str(id_))):
            raise UnknownWebhook


def forget_old_secrets(connection: psycopg.Connection[Any], now: datetime) -> int:
    """Forgets the secrets that were rotated away and sign nothing any more. Returns how many."""
    return connection.execute(FORGET_OLD_SECRETS, (now,)).rowcount


def new_subscription(**given: Any) -> Subscription:
    """A subscription that is switched on; what is not given is null."""
    nothing: dict[str, Any] = dict.fromkeys(Subscription.__struct_fields__)
    return Subscription(**nothing | {"id": uuid4(), "enabled": True, "revision": 1} | given)


def _row(subscription: Subscription) -> str:
    """The row of a subscription; a client's own stream is that of the user ID."""
    client, until = subscription.client_user_id, subscription.old_secret_until
    derived = {"client_stream": client_stream(client) if client else None, "old_until": until}
    return msgspec.json.encode(msgspec.structs.asdict(subscription) | derived).decode()


def _more(request: Request | None, answer: str, now: datetime, **beside: Any) -> str:
    """What is written beside the row, and what is kept under the key of the request."""
    kept = msgspec.structs.asdict(request) | {"answer": answer} if request else {}
    return msgspec.json.encode({"now": now, **beside, **kept}).decode()
