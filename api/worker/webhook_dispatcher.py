"""The part of the worker that sends webhooks, in threads of its own: whoever hangs holds up itself alone.

One thread reads and writes the database. Each attempt is a thread that does nothing but speak to its receiver. A
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
from application.observability.logs import error_summary
from application.observability.trace_context import child_of
from application.webhooks.delivery import (
    LONGEST_RETRY_AFTER,
    PRUNE_BATCH,
    Chance,
    Delivery,
    DeliveryResult,
    prune_deliveries,
    record_attempts,
    settled,
    uniform,
)
from application.webhooks.delivery_queue import (
    ServedSubscription,
    connect_to_serve,
    due_deliveries,
    lock_subscription,
    queue_deliveries,
    served_subscriptions,
    unlock_subscription,
)
from application.webhooks.sender import ATTEMPT_TIMEOUT_SECONDS, AttemptOutcome, Flight, WebhookSender
from application.webhooks.signing import Locked, Vault, signed
from projections.queries.webhook_bodies import Sent, bodies

BUSY = frozenset({429, 503})  # what a Retry-After behind it is about is the receiver, and not the one event
AT_ONCE = 4  # attempts of one subscription
ROOM = 32  # for attempts beside the first of each subscription
DISPATCHER_IDLE_SECONDS = 0.25
NOBODY_SECONDS = 2.0  # while there is nobody to be told
DELIVERY_PRUNE_SECONDS = 60.0
LAST_SECONDS = 5.0  # at the end, what is under way is waited for so long
Clock = Callable[[], datetime]
Landed = SimpleQueue[tuple[int, AttemptOutcome]]
log = structlog.get_logger()


class UnderWay(msgspec.Struct, frozen=True):
    """An attempt."""

    delivery: Delivery
    flight: Flight
    revision: int  # of the subscription


class Dispatcher:
    """Serves the subscriptions that nobody else serves, until it is stopped."""

    def __init__(
        self, url: str, sender: WebhookSender, vault: Vault, clock: Clock = utc_now, chance: Chance = uniform
    ) -> None:
        self._url, self._sender, self._vault = url, sender, vault
        self._clock, self._chance = clock, chance
        self._locked: dict[UUID, int] = {}
        self._flights: dict[int, UnderWay] = {}
        self._failing: set[UUID] = set()
        self._resting: dict[UUID, tuple[int, datetime]] = {}  # at which revision, and until when
        self._landed: Landed = SimpleQueue()
        self._pruned = 0.0

    def run(self, stopping: threading.Event) -> None:
        """Until `stopping`; raises what the database raises. What is under way then is known to nobody: sent again."""
        self._locked, self._flights, self._failing, self._landed = {}, {}, set(), SimpleQueue()
        with connect_to_serve(self._url) as connection:
            try:
                while not stopping.is_set():
                    busy = self.step(connection)
                    if not busy and not self._flights:
                        stopping.wait(DISPATCHER_IDLE_SECONDS if self._locked else NOBODY_SECONDS)
                self._finish(connection)
            finally:
                for one in self._flights.values():
                    one.flight.cut()

    @property
    def busy(self) -> bool:
        """Whether attempts are under way."""
        return bool(self._flights)

    def step(self, connection: psycopg.Connection[Any], wait: float = DISPATCHER_IDLE_SECONDS) -> bool:
        """One round: who is to be served, what is new, whose turn it is, what has come back. False: nothing to do."""
        known = self._serve(connection)
        behind = queue_deliveries(connection, list(known.values()), self._clock())
        begun = self._begin(connection, known)
        ended = self._end(connection, wait if self._flights else 0)
        due = time.monotonic() > self._pruned + DELIVERY_PRUNE_SECONDS
        if due:
            self._prune(connection)
        return bool(behind or begun or ended)

    def _prune(self, connection: psycopg.Connection[Any]) -> None:
        """Clears away; that it cannot is no reason to cut what is under way."""
        self._pruned = time.monotonic()
        try:
            if prune_deliveries(connection, self._clock()) >= PRUNE_BATCH:
                self._pruned = -DELIVERY_PRUNE_SECONDS  # the next round goes on
        except psycopg.errors.QueryCanceled as error:
            log.warning("webhook deliveries cannot be cleared away", reason=error_summary(error))

    def _serve(self, connection: psycopg.Connection[Any]) -> dict[UUID, ServedSubscription]:
        """Takes what nobody serves, and leaves what is switched off once its last attempt has ended."""
        on = {one.id: one for one in served_subscriptions(connection)}
        for one in on.values():
            if one.id not in self._locked and lock_subscription(connection, one.number):
                self._locked[one.id] = one.number
        busy = {one.delivery.webhook_id for one in self._flights.values()}
        for id_ in self._locked.keys() - on.keys() - busy:
            unlock_subscription(connection, self._locked.pop(id_))
            self._failing.discard(id_)
        # a replay begins when nothing of before is under way
        return {id_: one for id_, one in on.items() if id_ in self._locked and (one.go_to is None or id_ not in busy)}

    def _begin(self, connection: psycopg.Connection[Any], known: dict[UUID, ServedSubscription]) -> int:
        """Sends what is due, as far as there is room."""
        if not known:
            return 0
        due = due_deliveries(connection, self._room(known), self._flights, self._clock())
        events = bodies(connection, [one.position for one in due if one.position is not None]) if due else {}
        for one in due:
            sent = events[one.position] if one.position is not None else _ping(one)
            self._send(known[one.webhook_id], one, sent)
        return len(due)

    def _room(self, known: dict[UUID, ServedSubscription]) -> dict[UUID, int]:
        flying = Counter(one.delivery.webhook_id for one in self._flights.values())
        left = ROOM - sum(count - 1 for count in flying.values())
        room = {}
        for id_ in known:
            revision, until = self._resting.get(id_, (0, None))
            if until and revision == known[id_].revision and until > self._clock():
                room[id_] = 0
                continue
            first = 1 - min(flying[id_], 1)
            more = 0 if id_ in self._failing else max(0, min(AT_ONCE - flying[id_] - first, left))
            room[id_], left = first + more, left - more
        return room

    def _send(self, to: ServedSubscription, delivery: Delivery, sent: Sent) -> None:
        now, flight = self._clock(), Flight()
        try:
            secrets = [self._vault.open(to.secret)]
            if to.old_secret and to.old_until and to.old_until > now:
                secrets.append(self._vault.open(to.old_secret))
        except Locked as error:
            self._landed.put((delivery.id, AttemptOutcome(None, str(error), 0)))
        else:
            headers = {
                "Content-Type": "application/json",
                "User-Agent": "Deskledger-Webhooks",
                "traceparent": child_of(sent.traceparent),
                **signed(secrets, webhook_id(delivery), sent.body, now),
            }
            arguments = (self._landed, delivery.id, to.url, sent.body, headers, flight)
            threading.Thread(target=self._fly, args=arguments, name="webhook", daemon=True).start()
        self._flights[delivery.id] = UnderWay(delivery, flight, to.revision)

    def _fly(self, landed: Landed, id_: int, url: str, body: bytes, headers: dict[str, str], flight: Flight) -> None:
        try:
            answer = self._sender.send(url, body, headers, flight)
        except Exception as error:  # one attempt, whatever is wrong with it, must come to an end
            log.exception("webhook attempt failed unexpectedly")
            answer = AttemptOutcome(None, f"our mistake: {type(error).__name__}", 0)
        landed.put((id_, answer))

    def _end(self, connection: psycopg.Connection[Any], wait: float) -> int:
        """Writes down what has come back, and ends what takes too long."""
        for one in self._flights.values():
            if time.monotonic() > one.flight.begun + ATTEMPT_TIMEOUT_SECONDS:
                one.flight.cut()
        landed = self._come_back(wait)
        if not landed:
            return 0
        tried: list[DeliveryResult] = []
        for id_, answer in landed:
            delivery, revision = self._flights[id_].delivery, self._flights[id_].revision
            after = settled(delivery, answer, self._clock(), self._chance)
            tried.append(msgspec.structs.replace(after, revision=revision))
            self._rest(delivery.webhook_id, revision, answer)
            (self._failing.discard if answer.accepted else self._failing.add)(delivery.webhook_id)
        for webhook, reason in record_attempts(connection, tried).items():
            log.warning("webhook switched off", webhook_id=str(webhook), reason=reason)
        for id_, _ in landed:
            del self._flights[id_]
        return len(landed)

    def _rest(self, webhook: UUID, revision: int, answer: AttemptOutcome) -> None:
        """A receiver that asks to be left alone for a while is left alone with everything, unless it is mended."""
        if answer.accepted:
            self._resting.pop(webhook, None)
        elif answer.status in BUSY and answer.retry_after:
            seconds = min(answer.retry_after, LONGEST_RETRY_AFTER)
            self._resting[webhook] = revision, self._clock() + timedelta(seconds=seconds)

    def _come_back(self, wait: float) -> list[tuple[int, AttemptOutcome]]:
        landed = []
        try:
            landed.append(self._landed.get(timeout=wait) if wait else self._landed.get_nowait())
            while True:
                landed.append(self._landed.get_nowait())
        except Empty:
            return landed

    def _finish(self, connection: psycopg.Connection[Any]) -> None:
        """What is under way may still come to its end."""
        until = time.monotonic() + LAST_SECONDS
        while self._flights and time.monotonic() < until:
            self._end(connection, DISPATCHER_IDLE_SECONDS)


def webhook_id(delivery: Delivery) -> str:
    """The same for every attempt, and for a replay: by it a receiver knows what it has seen already."""
    if delivery.position is None:
        return f"ping_{delivery.stream_id.hex}"
    return f"evt_{delivery.webhook_id.hex}_{delivery.position}"


def _ping(delivery: Delivery) -> Sent:
    shown = {"type": delivery.type, "at": delivery.queued_at, "webhook_id": delivery.webhook_id}
    return Sent(msgspec.json.encode(shown), None)
