"""Subscriptions to webhooks: who wants to be told what, and where. What an admin does to them is one statement each.

A command reads the subscription, makes of it what it is to be, and writes it where nobody was faster. Its answer is
written along where there is an idempotency key. What is on its way is left to the worker that serves the subscription.
"""

from collections.abc import Callable
from datetime import datetime
from typing import Any, LiteralString
from uuid import UUID, uuid4

import msgspec

from application.store.postgres.pg_connection import PgConnection

MOST_WEBHOOKS = 50  # a thread of the worker is kept for each
WEBHOOK_COLUMNS: LiteralString = """
    id, revision, url, description, types, ticket_id, client_user_id, client_stream, actor, level, secret, old_secret,
    old_until, position, go_to, enabled, disabled_at, disabled_reason, created_at, created_by"""
SELECT_WEBHOOK: LiteralString = "select" + WEBHOOK_COLUMNS + " from webhooks where id = %s and deleted_at is null"
LOG_END: LiteralString = "select coalesce(max(position), 0) from log"
_KEPT: LiteralString = """
    kept as (
        insert into idempotency (principal, key, request_hash, answer, at)
        select principal, key, decode(request_hash, 'hex'), convert_to(answer, 'UTF8'), at
        from json_to_record(%s::json) as k(principal text, key text, request_hash text, answer text, at timestamptz),
            written
        where key is not null)
    select id from written"""
_INSERT: LiteralString = """
    with written as (
        insert into webhooks (id, url, description, types, ticket_id, client_user_id, client_stream, actor, level,
            secret, position, created_at, created_by)
        select id, url, description, types, ticket_id, client_user_id, client_stream, actor, level,
            secret, position, created_at, created_by
        from json_populate_record(null::webhooks, %s::json)
        where (select count(*) from webhooks where deleted_at is null) < %s::int
        returning id),"""
_CHANGE: LiteralString = """
    with given as (select * from json_populate_record(null::webhooks, %s::json)),
    more as (select * from json_to_record(%s::json) as m(again boolean, ping uuid, now timestamptz)),
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
INSERT_WEBHOOK, CHANGE = _INSERT + _KEPT, _CHANGE + _KEPT
DELETE: LiteralString = """
    update webhooks set deleted_at = %s::timestamptz, secret = '', old_secret = null, enabled = false
    where id = %s and deleted_at is null returning id"""


class UnknownWebhook(LookupError):
    """There is no such webhook."""


class TooMany(Exception):
    """There are as many webhooks as the desk serves."""


class Subscription(msgspec.Struct, frozen=True):
    """A subscription as it is stored; `secret` and `old_secret` are sealed."""

    id: UUID
    revision: int
    url: str
    description: str | None
    types: list[str]
    ticket_id: UUID | None
    client_user_id: str | None
    client_stream: UUID | None
    actor: str | None
    level: str | None
    secret: str
    old_secret: str | None
    old_until: datetime | None
    position: int
    go_to: int | None
    enabled: bool
    disabled_at: datetime | None
    disabled_reason: str | None
    created_at: datetime
    created_by: str


class WebhookCommandRecord(msgspec.Struct, frozen=True):
    """What is kept under an idempotency key, with the answer still to come."""

    principal: str | None = None
    key: str | None = None
    request_hash: str = ""


class Beside(msgspec.Struct, frozen=True):
    """What a change does to deliveries: `again` gives those that failed a fresh start, now; `ping` adds one."""

    again: bool = False
    ping: UUID | None = None


SubscriptionChange = Callable[[Subscription], Subscription]
AnswerFor = Callable[[Subscription], str]


class SubscriptionCommands:
    """The commands. `line` is a connection of their own."""

    def __init__(self, line: PgConnection) -> None:
        self._line = line

    async def close(self) -> None:
        """Closes the connection."""
        await self._line.close()

    async def log_end(self) -> int:
        """The highest position of the log."""
        return int((await self._line.read(LOG_END))[0][0])

    async def find(self, id_: UUID) -> Subscription:
        """One of them. Raises UnknownWebhook."""
        rows = await self._line.read(SELECT_WEBHOOK, (str(id_),))
        if not rows:
            raise UnknownWebhook
        return Subscription(*rows[0])

    async def add(self, new: Subscription, record: WebhookCommandRecord, answer: AnswerFor) -> str:
        """A new one; what is answered. Raises TooMany, and UniqueViolation when the key was used meanwhile."""
        body = answer(new)
        if not await self._line.fetch(
            INSERT_WEBHOOK, (_json(new), str(MOST_WEBHOOKS), _kept(record, body, new.created_at))
        ):
            raise TooMany
        return body

    async def change(
        self,
        id_: UUID,
        change: SubscriptionChange,
        beside: Beside,
        now: datetime,
        record: WebhookCommandRecord,
        answer: AnswerFor,
    ) -> str:
        """Makes of it what `change` says; what is answered. Raises UnknownWebhook, and UniqueViolation as `add`."""
        while True:
            changed = change(await self.find(id_))
            body = answer(changed)
            more = _json({"again": beside.again, "ping": beside.ping, "now": now})
            if await self._line.fetch(CHANGE, (_json(changed), more, _kept(record, body, now))):
                return body

    async def delete(self, id_: UUID, now: datetime) -> None:
        """Nothing is sent for it any more, and its secret is gone. Raises UnknownWebhook."""
        if not await self._line.fetch(DELETE, (now.isoformat(), str(id_))):
            raise UnknownWebhook


def new_ping() -> Beside:
    """A ping: it stands in no line with the events."""
    return Beside(ping=uuid4())


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _kept(record: WebhookCommandRecord, answer: str, now: datetime) -> str:
    return _json({**msgspec.structs.asdict(record), "answer": answer, "at": now})
