"""The part of the worker that sends webhooks, in threads of its own: whoever hangs holds up itself alone.

One thread reads and writes the database. Each attempt is a thread that signs, and speaks to its receiver. A
subscription has always room for one attempt, so that receivers that hang take no room from others; while its receiver
answers, it has more, as long as there is room at all.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable
from datetime import datetime, timedelta
from queue import Empty, SimpleQueue
from typing import Any
from uuid import UUID

import msgspec
import psycopg
import structlog

from application.clock import utc_now
from application.observability.trace_context import child_of
from application.webhooks import delivery_queue as queue
from application.webhooks.delivery import (
    LONGEST_RETRY_AFTER,
    Chance,
    Delivery,
    WebhookPing,
    record_attempts,
    settled,
    uniform,
)
from application.webhooks.sender import AttemptOutcome, WebhookSender
from application.webhooks.signing import Locked, Vault, signed
from application.webhooks.subscriptions import Subscription
from projections.queries.webhook_bodies import Sent, bodies

BUSY = frozenset({429, 503})  # what a Retry-After behind it is about is the receiver, and not the one event
AT_ONCE = 4  # attempts of one subscription
ROOM = 32  # for attempts beside the first of each subscription
DISPATCHER_IDLE_SECONDS = 0.25
LAST_SECONDS = 5.0  # at the end, what is under way is waited for so long
Clock = Callable[[], datetime]
log = structlog.get_logger()


class Dispatcher:
    """Sends webhooks while no other worker does, until it is stopped. It runs once."""

    def __init__(
        self, url: str, sender: WebhookSender, vault: Vault, clock: Clock = utc_now, chance: Chance = uniform
    ) -> None:
        self._url, self._sender, self._vault = url, sender, vault
        self._clock, self._chance = clock, chance
        self._may_send = False
        self._under_way: dict[int, Delivery] = {}  # by its id
        self._ended = SimpleQueue[tuple[Delivery, AttemptOutcome]]()
        self._failing: set[UUID] = set()
        self._resting: dict[tuple[UUID, int], datetime] = {}  # until when, as long as it has that revision

    def run(self, stopping: threading.Event) -> None:
        """Until `stopping`; raises what the database raises. What is under way then is known to nobody: sent again."""
        with queue.connect_to_serve(self._url) as connection:
            while not stopping.is_set():
                if not self.step(connection) and not self.busy:
                    stopping.wait(DISPATCHER_IDLE_SECONDS)
            until = time.monotonic() + LAST_SECONDS
            while self.busy and time.monotonic() < until:
                self._end(connection, DISPATCHER_IDLE_SECONDS)

    @property
    def busy(self) -> bool:
        """Whether attempts are under way."""
        return bool(self._under_way)

    def step(self, connection: psycopg.Connection[Any], wait: float = DISPATCHER_IDLE_SECONDS) -> bool:
        """One round: who is to be served, what is new, whose turn it is, what has come back. False: nothing to do."""
        served, behind, begun = self._served(connection), 0, 0
        if served:
            behind = queue.queue_deliveries(connection, served, self._clock())
            begun = self._begin(connection, served)
        ended = self._end(connection, wait if self.busy else 0)
        return bool(behind or begun or ended)

    def _served(self, connection: psycopg.Connection[Any]) -> dict[UUID, Subscription]:
        """The subscriptions that are switched on, if it is here that they are served."""
        self._may_send = self._may_send or queue.may_send(connection)
        if not self._may_send:
            return {}
        busy = {one.webhook_id for one in self._under_way.values()}
        # a replay begins when nothing of before is under way
        return {
            one.id: one for one in queue.served_subscriptions(connection) if one.go_to is None or one.id not in busy
        }

    def _begin(self, connection: psycopg.Connection[Any], served: dict[UUID, Subscription]) -> int:
        """Sends what is due, as far as there is room."""
        due = queue.due_deliveries(connection, self._room(served), self._under_way, self._clock())
        events = bodies(connection, [one.position for one in due if one.position is not None]) if due else {}
        for one in due:
            sent = events[one.position] if one.position is not None else _ping(one)
            self._under_way[one.id] = one
            work = (served[one.webhook_id], one, sent)
            threading.Thread(target=self._attempt, args=work, name="webhook", daemon=True).start()
        return len(due)

    def _room(self, served: dict[UUID, Subscription]) -> list[tuple[Subscription, int]]:
        """How many more attempts each may have: none while it rests, and one at a time while it fails."""
        at_work = Counter(one.webhook_id for one in self._under_way.values())
        left, now, room = ROOM - (at_work.total() - len(at_work)), self._clock(), []
        for id_, one in served.items():
            if self._resting.get((id_, one.revision), now) <= now:
                more = 0 if id_ in self._failing else min(AT_ONCE - max(at_work[id_], 1), left)
                room.append((one, more if at_work[id_] else more + 1))
                left -= more
        return room

    def _attempt(self, to: Subscription, delivery: Delivery, sent: Sent) -> None:
        """Runs in a thread of its own."""
        try:
            outcome = self._sender.send(to.url, sent.body, self._headers(to, delivery, sent))
        except Locked as locked:
            outcome = AttemptOutcome(error=str(locked))
        except Exception as error:  # one attempt, whatever is wrong with it, must come to an end
            log.exception("webhook attempt failed unexpectedly")
            outcome = AttemptOutcome(error=f"our mistake: {type(error).__name__}")
        self._ended.put((delivery, outcome))

    def _headers(self, to: Subscription, delivery: Delivery, sent: Sent) -> dict[str, str]:
        now = self._clock()
        return {
            "Content-Type": "application/json",
            "User-Agent": "Deskledger-Webhooks",
            "traceparent": child_of(sent.traceparent),
            **signed([self._vault.open(each) for each in to.secrets(now)], webhook_id(delivery), sent.body, now),
        }

    def _end(self, connection: psycopg.Connection[Any], wait: float) -> int:
        """Writes down what has come back."""
        try:
            ended = [self._ended.get(timeout=wait)]
        except Empty:
            return 0
        ended += [self._ended.get() for _ in range(self._ended.qsize())]
        now = self._clock()
        tried = [settled(delivery, outcome, now, self._chance) for delivery, outcome in ended]
        for webhook, reason in record_attempts(connection, tried, now).items():
            log.warning("webhook switched off", webhook_id=str(webhook), reason=reason)
        for delivery, outcome in ended:
            del self._under_way[delivery.id]
            self._learn(delivery, outcome, now)
        return len(ended)

    def _learn(self, delivery: Delivery, outcome: AttemptOutcome, now: datetime) -> None:
        """A receiver that asks to be left alone is, with everything, for so long or until it accepts something."""
        (self._failing.discard if outcome.accepted else self._failing.add)(delivery.webhook_id)
        if outcome.accepted:
            self._resting.pop((delivery.webhook_id, delivery.revision), None)
        if outcome.status in BUSY and outcome.retry_after:
            seconds = min(outcome.retry_after, LONGEST_RETRY_AFTER)
            self._resting[delivery.webhook_id, delivery.revision] = now + timedelta(seconds=seconds)


def webhook_id(delivery: Delivery) -> str:
    """The same for every attempt, and for a replay: by it a receiver knows what it has seen already."""
    if delivery.position is None:
        return f"ping_{delivery.stream_id.hex}"
    return f"evt_{delivery.webhook_id.hex}_{delivery.position}"


def _ping(delivery: Delivery) -> Sent:
    return Sent(msgspec.json.encode(WebhookPing(delivery.queued_at, delivery.webhook_id)), None)
