"""Webhooks on their way: every event at least once, in the order of its ticket, whatever the receiver does."""

import re
import socket
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime, timedelta
from threading import Event
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from standardwebhooks import Webhook

from api.worker.webhook_dispatcher import AT_ONCE
from api.worker.worker_loop import Worker
from application.settings import Settings
from application.store.event_store import to_row
from application.store.postgres.database import connect
from application.store.sealing import seal_all
from application.webhooks.delivery import delivery_backoff, prune_deliveries
from application.webhooks.delivery_queue import queue_deliveries, served_subscriptions
from application.webhooks.signing import Vault, is_mark, mark_of, new_secret
from application.webhooks.subscriptions import forget_old_secrets
from domain.client import client_stream
from domain.events import Closed, ClosureEmailSent, Recorded
from domain.values import Actor, Level, Role
from tests.support.running_desk import ROOT, wait_until
from tests.support.webhook_receiver import OK, SECRET, Clock, Desk, Received, Receiver, nowhere
from tests.support.write_side import NOW, append, beside


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A receiver that accepts everything."""
    with Receiver() as running:
        yield running


@pytest.fixture
def clock() -> Clock:
    """The time, which a test moves."""
    return Clock()


@pytest.fixture
def at(database: str, connection: psycopg.Connection, clock: Clock) -> Desk:
    """A desk with a dispatcher."""
    return Desk(database, connection, clock)


def in_order(received: list[Received]) -> bool:
    """Whether the events of each ticket came in the order of their versions, each perhaps several times."""
    versions = defaultdict(list)
    for one in received:
        versions[one.json["ticket_id"]].append(one.json["version"])
    return all(list(dict.fromkeys(seen)) == sorted(set(seen)) for seen in versions.values())


def prune(connection: psycopg.Connection, now: datetime) -> int:
    """Clears away until nothing is left to clear away; how much it was."""
    return sum(iter(lambda: prune_deliveries(connection, now), 0))


def test_every_event_is_sent_once_and_verifies(at: Desk, receiver: Receiver) -> None:
    """A receiver that accepts gets each event once, as the feed shows it, signed as Standard Webhooks says."""
    webhook, ticket = at.subscribe(receiver.url), uuid4()
    at.happen(ticket, 1, 3)
    at.settle()
    assert [one.json["version"] for one in receiver.received] == [1, 2, 3]
    for one in receiver.received:
        assert Webhook(SECRET).verify(one.body, one.headers) == one.json
        assert one.headers["webhook-id"] == f"evt_{webhook.id.hex}_{one.position}"
        assert (one.json["type"], one.json["ticket_id"]) == ("Ticket.NoteAdded", str(ticket))
        assert one.json["data"] == {"text": "I was faster", "visibility": "internal"}
    assert at.log("state", "attempts", "last_status", "last_error") == [("delivered", 1, 204, None)] * 3
    at.settle()
    assert len(receiver.received) == 3


def test_a_failure_is_tried_again_later_with_the_same_id(at: Desk, receiver: Receiver, clock: Clock) -> None:
    """What fails waits for its pause, and comes again with the same id and body, signed anew."""
    at.subscribe(receiver.url)
    receiver.verdict = lambda _: (500, {})
    at.happen(uuid4())
    at.settle()
    assert at.log("state", "attempts", "last_error") == [("due", 1, "answered 500")]
    clock.move(seconds=4.9)
    at.settle()
    assert len(receiver.received) == 1
    clock.move(seconds=0.2)
    receiver.verdict = lambda _: OK
    at.settle()
    first, second = receiver.received
    assert (first.headers["webhook-id"], first.body) == (second.headers["webhook-id"], second.body)
    assert int(second.headers["webhook-timestamp"]) - int(first.headers["webhook-timestamp"]) in (5, 6)
    assert at.log("state", "attempts", "last_status") == [("delivered", 2, 204)]


def test_an_event_waits_for_the_earlier_ones_of_its_ticket_only(at: Desk, receiver: Receiver, clock: Clock) -> None:
    """A ticket whose event fails stands still; the others go on."""
    stuck, free = uuid4(), uuid4()
    receiver.verdict = lambda one: (503, {}) if one.json["ticket_id"] == str(stuck) else OK
    at.subscribe(receiver.url)
    at.happen(stuck, 1, 3)
    at.happen(free, 1, 3)
    at.settle()
    assert [one.json["version"] for one in receiver.received if one.json["ticket_id"] == str(stuck)] == [1]
    assert [one.json["version"] for one in receiver.received if one.json["ticket_id"] == str(free)] == [1, 2, 3]
    at.happen(stuck, 4)
    receiver.verdict = lambda _: OK
    clock.move(seconds=6)
    at.settle()
    assert [one.json["version"] for one in receiver.received if one.json["ticket_id"] == str(stuck)] == [1, 1, 2, 3, 4]


def test_a_receiver_that_is_down_for_an_hour_gets_everything(at: Desk, clock: Clock) -> None:
    """Nobody listens for an hour, while more happens; then all of it is delivered, in order per ticket."""
    url, tickets = nowhere(), [uuid4() for _ in range(5)]
    at.subscribe(url)
    for version in range(1, 13):
        for ticket in tickets:
            at.happen(ticket, version)
        clock.move(minutes=5)
        at.settle()
    assert {state for (state,) in at.log("state")} == {"due", "waiting"}
    with Receiver(int(url.split(":")[2].partition("/")[0])) as receiver:
        clock.move(hours=2)
        at.settle()
        assert sorted(receiver.positions) == list(range(1, 61))
        assert in_order(receiver.received)
    assert {state for (state,) in at.log("state")} == {"delivered"}


def test_a_receiver_that_hangs_holds_up_itself_alone(at: Desk, receiver: Receiver) -> None:
    """While one receiver does not answer, another one gets everything; and the first gets no more than it has room."""
    with Receiver() as hanging:
        hanging.go_on.clear()
        at.subscribe(hanging.url)
        at.subscribe(receiver.url)
        for _ in range(20):
            at.happen(uuid4())
        at.until(lambda: len(receiver.received) == 20, "the other one has everything")
        assert hanging.connections == 4
        hanging.go_on.set()
        at.settle()
        assert sorted(hanging.positions) == list(range(1, 21))


def test_a_receiver_that_hangs_is_given_up_in_time(at: Desk, receiver: Receiver, monkeypatch) -> None:
    """An attempt that takes too long is ended from our side, whatever it waits for, and tried again later."""
    monkeypatch.setattr("application.webhooks.sender.ATTEMPT_TIMEOUT_SECONDS", 0.3)
    receiver.go_on.clear()
    at.subscribe(receiver.url)
    at.happen(uuid4())
    at.settle()
    assert at.log("state", "attempts", "last_status", "last_error") == [("due", 1, None, "no answer in time")]


def test_a_receiver_that_answers_drop_by_drop_is_given_up_in_time(at: Desk, monkeypatch) -> None:
    """An answer of which a byte comes again and again, without an end, is ended as well."""
    monkeypatch.setattr("application.webhooks.sender.ATTEMPT_TIMEOUT_SECONDS", 0.3)
    ended = threading.Event()

    def drip(opened: socket.socket) -> None:
        with suppress(OSError), opened.accept()[0] as connection:
            while not ended.wait(0.02):
                connection.sendall(b"H")

    with socket.create_server(("127.0.0.1", 0)) as opened, beside(lambda: drip(opened)):
        try:
            at.subscribe(f"http://127.0.0.1:{opened.getsockname()[1]}/in")
            at.happen(uuid4())
            at.settle()
        finally:
            ended.set()
    assert at.log("state", "attempts", "last_error") == [("due", 1, "no answer in time")]


def test_410_switches_off_at_once_and_loses_nothing(at: Desk, receiver: Receiver) -> None:
    """410 Gone: nothing is sent any more, the reason is there, and switched on again it goes on where it stopped."""
    webhook, ticket = at.subscribe(receiver.url), uuid4()
    receiver.verdict = lambda _: (410, {})
    at.happen(ticket)
    at.settle()
    at.happen(ticket, 2)
    at.settle()
    off = at.find(webhook)
    assert (off.enabled, off.disabled_reason) == (False, "the receiver answered 410 Gone")
    assert len(receiver.received) == 1
    receiver.verdict = lambda _: OK
    at.change(webhook, enabled=True, disabled_at=None, disabled_reason=None)
    at.settle()
    assert receiver.positions == [1, 1, 2]


def test_after_three_days_of_nothing_it_is_switched_off(at: Desk, clock: Clock) -> None:
    """The pauses grow up to six hours; after three days without one success it is switched off, and nothing is lost."""
    webhook = at.subscribe(nowhere())
    at.happen(uuid4())
    begun, hours = clock.now, 0
    while at.find(webhook).enabled:
        at.settle()
        hours += 1
        clock.move(hours=1)
    assert 72 <= hours <= 80
    off = at.find(webhook)
    assert off.disabled_reason.startswith("nothing was accepted for 3 days; the last attempt: ConnectionRefusedError")
    assert off.disabled_at - begun >= timedelta(days=3)
    ((state, attempts),) = at.log("state", "attempts")
    assert state == "due"
    assert 12 <= attempts <= 30


def test_an_event_that_alone_is_refused_is_given_up(at: Desk, receiver: Receiver, clock: Clock) -> None:
    """Where others are accepted meanwhile, the one that is not is given up after three days, and its ticket goes on."""
    webhook, stuck = at.subscribe(receiver.url), uuid4()
    receiver.verdict = lambda one: (422, {}) if one.json["version"] == 1 else OK
    at.happen(stuck, 1, 2)
    for version in range(2, 90):
        at.settle()
        clock.move(hours=1)
        at.happen(uuid4(), version)
    at.settle()
    assert at.find(webhook).enabled
    assert at.log("position", "state", "last_status")[:2] == [(1, "failed", 422), (2, "delivered", 204)]


@pytest.mark.parametrize(("said", "seconds"), [("120", 120), ("0", 5), ("999999", 86400), ("soon", 5)])
def test_retry_after_is_honoured_within_limits(
    at: Desk, receiver: Receiver, clock: Clock, said: str, seconds: int
) -> None:
    """The pause is never shorter than what the receiver asks for, up to a day; nonsense is not heard."""
    at.subscribe(receiver.url)
    receiver.verdict = lambda _: (429, {"Retry-After": said})
    at.happen(uuid4())
    at.settle()
    assert at.log("due_at") == [(clock.now + timedelta(seconds=seconds),)]


def test_a_receiver_that_asks_for_peace_gets_it(at: Desk, receiver: Receiver, clock: Clock) -> None:
    """Retry-After with 429 is about the receiver: no other ticket is sent either, until then or until it is mended."""
    webhook = at.subscribe(receiver.url)
    receiver.verdict = lambda _: (429, {"Retry-After": "3600"})
    for _ in range(20):
        at.happen(uuid4())
    at.settle()
    assert 1 <= len(receiver.received) <= AT_ONCE
    clock.move(minutes=59)
    at.settle()
    assert len(receiver.received) <= AT_ONCE
    receiver.verdict = lambda _: (204, {})
    at.change(webhook, description="mended")
    at.settle()
    assert {one.json["position"] for one in receiver.received} == set(range(1, 21))
    assert {state for (state,) in at.log("state")} == {"delivered"}


@pytest.mark.parametrize("status", [301, 302, 304, 307, 308, 400, 404, 500])
def test_only_2xx_is_success(at: Desk, receiver: Receiver, status: int) -> None:
    """A redirect is a failure like any other, and is not followed."""
    with Receiver() as other:
        at.subscribe(receiver.url)
        receiver.verdict = lambda _: (status, {"Location": other.url})
        at.happen(uuid4())
        at.settle()
        assert other.connections == 0
    assert at.log("state", "last_status", "last_error") == [("due", status, f"answered {status}")]


def test_pauses_double_with_full_jitter() -> None:
    """Anything between nothing and a ceiling, which doubles from 5 seconds up to six hours."""
    for attempts, ceiling in [(1, 5), (2, 10), (10, 2560), (14, 21600), (1_000, 21600)]:
        pauses = [delivery_backoff(attempts, None).total_seconds() for _ in range(200)]
        assert 0 <= min(pauses) < ceiling * 0.2
        assert ceiling * 0.8 < max(pauses) <= ceiling


def test_filters_are_those_of_the_feed(at: Desk, receiver: Receiver, connection: psycopg.Connection) -> None:
    """Type, ticket, actor and level: what does not fit leads to no row at all."""
    one, other = uuid4(), uuid4()
    at.subscribe(receiver.url, types=["Ticket.Closed"])
    at.subscribe(receiver.url, actor="nobody")
    at.subscribe(receiver.url, level="noc")
    at.subscribe(receiver.url, client_user_id="client-1")
    at.subscribe(receiver.url, ticket_id=one, types=["Ticket.NoteAdded", "Ticket.Closed"], actor="rival")
    connection.execute("update projections set position = 1000")
    at.happen(one)
    at.happen(other)
    at.settle()
    assert receiver.positions == [1]
    assert len(at.log("id")) == 1
    assert connection.execute("select distinct position from webhooks").fetchall() == [(2,)]


def test_a_level_filter_finds_the_outcome_of_a_mail_at_its_closing(
    at: Desk, receiver: Receiver, connection: psycopg.Connection
) -> None:
    """What became of a closing e-mail goes to whoever follows the level that closed, wherever the ticket is."""
    at.subscribe(receiver.url, level="noc")
    ticket, actor = uuid4(), Actor("desk", "desk", Role.SYSTEM)
    closed, sent = Closed(Level.NOC), ClosureEmailSent(1, "<1@desk>", 1)
    happened = enumerate(((closed, Level.NOC), (sent, Level.TIER1), (sent, Level.NOC)), 1)
    append(connection, [to_row(Recorded(ticket, n, NOW, actor, event, level=level)) for n, (event, level) in happened])
    seal_all(connection)
    at.settle()
    assert [(one.position, one.json["level"], one.json["step"]) for one in receiver.received] == [
        (n, "noc", "19") for n in (1, 2, 3)
    ]


def test_a_client_filter_follows_the_summaries(at: Desk, receiver: Receiver, connection: psycopg.Connection) -> None:
    """Whose a ticket is, the summaries tell: what they have not seen yet waits for them."""
    stream = client_stream("client-1")
    at.subscribe(receiver.url, client_user_id="client-1")
    at.happen(stream)
    at.settle()
    assert receiver.received == []
    connection.execute("update projections set position = 1 where name = 'ticket_summaries'")
    at.settle()
    assert receiver.positions == [1]


def test_a_replay_sends_everything_after_a_position_again(at: Desk, receiver: Receiver) -> None:
    """With the same ids, in order; what waited before is not sent beside it."""
    webhook, ticket = at.subscribe(receiver.url), uuid4()
    at.happen(ticket, 1, 5)
    at.settle()
    receiver.verdict = lambda _: (500, {})
    at.happen(ticket, 6)
    at.settle()
    receiver.verdict = lambda _: OK
    at.change(webhook, go_to=2)
    at.settle()
    assert receiver.positions == [1, 2, 3, 4, 5, 6, 3, 4, 5, 6]
    assert receiver.received[2].headers["webhook-id"] == receiver.received[6].headers["webhook-id"]
    assert (at.find(webhook).go_to, at.find(webhook).position) == (None, 6)


def test_a_replay_that_comes_in_the_middle_of_a_round_waits_for_the_next(at: Desk, receiver: Receiver) -> None:
    """Who is served was read before it: the attempts of that round are under way by then."""
    webhook = at.subscribe(receiver.url)
    served = {one.id: one for one in served_subscriptions(at.connection)}
    at.change(webhook, go_to=0)
    at.happen(uuid4())
    queue_deliveries(at.connection, served, at.clock())
    assert (at.find(webhook).go_to, at.log("position")) == (0, [])


def test_subscriptions_that_stand_apart_each_get_what_is_behind_them(at: Desk, receiver: Receiver) -> None:
    """Events are read once for all that stand together, and for each that stands elsewhere."""
    with Receiver() as other, Receiver() as late:
        at.subscribe(receiver.url)
        at.subscribe(other.url)
        at.happen(uuid4(), 1, 2)
        at.settle()
        at.change(at.subscribe(late.url), go_to=1)
        at.happen(uuid4())
        at.settle()
        assert [sorted(each.positions) for each in (receiver, other, late)] == [[1, 2, 3], [1, 2, 3], [2, 3]]


def test_a_replay_begins_when_nothing_of_before_is_under_way(at: Desk, receiver: Receiver) -> None:
    """An attempt that began before the replay comes to its end first, so that it cannot mix with it."""
    webhook, ticket = at.subscribe(receiver.url), uuid4()
    receiver.go_on.clear()
    at.happen(ticket, 1, 2)
    at.until(lambda: receiver.connections == 1, "the first is under way")
    at.change(webhook, go_to=0)
    at.dispatcher.step(at.connection, 0.02)
    assert at.find(webhook).go_to == 0
    receiver.go_on.set()
    at.settle()
    assert receiver.positions == [1, 1, 2]


def test_a_rotated_secret_signs_beside_the_old_one_for_a_time(at: Desk, receiver: Receiver, clock: Clock) -> None:
    """Until the old one's time is over, either secret verifies what is sent; then only the new one."""
    webhook, new = at.subscribe(receiver.url), new_secret()
    until = clock.now + timedelta(hours=24)
    at.change(webhook, secret=Vault().seal(new), old_secret=webhook.secret, old_secret_until=until)
    at.happen(uuid4())
    at.settle()
    (one,) = receiver.received
    assert len(one.headers["webhook-signature"].split(" ")) == 2
    for secret in (SECRET, new):
        assert Webhook(secret).verify(one.body, one.headers)
    clock.move(hours=24, seconds=1)
    at.happen(uuid4())
    at.settle()
    assert len(receiver.received[-1].headers["webhook-signature"].split(" ")) == 1


def test_an_old_secret_is_forgotten_when_its_time_is_over(
    at: Desk, connection: psycopg.Connection, receiver: Receiver, clock: Clock
) -> None:
    """What signs nothing any more is not kept; what still signs is."""
    webhook = at.subscribe(receiver.url)
    until = clock.now + timedelta(hours=24)
    at.change(webhook, secret=Vault().seal(new_secret()), old_secret=webhook.secret, old_secret_until=until)
    assert forget_old_secrets(connection, clock.now) == 0
    assert at.find(webhook).old_secret == webhook.secret
    assert forget_old_secrets(connection, until) == 1
    assert (at.find(webhook).old_secret, at.find(webhook).old_secret_until) == (None, until)
    assert forget_old_secrets(connection, until) == 0


def test_a_secret_that_cannot_be_opened_sends_nothing(
    database: str, connection: psycopg.Connection, clock: Clock, receiver: Receiver
) -> None:
    """Without the key that a secret was sealed with, nothing goes out unsigned; the log says why."""
    key = "a" * 43 + "="
    at = Desk(database, connection, clock)
    at.subscribe(receiver.url, secret=Vault(key).seal(SECRET))
    at.happen(uuid4())
    at.settle()
    assert receiver.connections == 0
    assert "DESKLEDGER_WEBHOOK_KEYS" in at.log("last_error")[0][0]
    clock.move(minutes=1)
    with connect(database, "test other") as other:
        again = Desk(database, other, clock, vault=Vault(f"{'b' * 43}=,{key}"))
        at.connection.execute("select pg_advisory_unlock_all()")
        again.settle()
    assert Webhook(SECRET).verify(receiver.received[0].body, receiver.received[0].headers)
    assert SECRET.encode() not in str(connection.execute("select secret from webhooks").fetchone()).encode()


def test_two_workers_do_not_send_the_same_at_once(
    database: str, connection: psycopg.Connection, clock: Clock, receiver: Receiver
) -> None:
    """A subscription is served by one of them; when that one's connection ends, the other goes on at once."""
    with connect(database, "test first") as first, connect(database, "test second") as second:
        one, two = Desk(database, first, clock), Desk(database, second, clock)
        one.subscribe(receiver.url)
        one.happen(uuid4(), 1, 3)
        one.until(lambda: len(receiver.received) == 1, "the first one sends")
        for _ in range(20):
            two.dispatcher.step(second, 0)
        assert not two.dispatcher.busy
        one.settle()
        assert receiver.positions == [1, 2, 3]
        two.happen(uuid4())
        first.close()
        two.until(lambda: len(receiver.received) == 4, "the second one sends, once the server has seen that end")
        two.settle()
    assert receiver.positions == [1, 2, 3, 4]


def test_two_workers_that_run_side_by_side_send_everything_once(
    database: str, connection: psycopg.Connection, clock: Clock, receiver: Receiver
) -> None:
    """Nobody is stopped: 200 events of 20 tickets are sent once each, in order, whoever serves."""
    desks, stopping = [Desk(database, connection, clock) for _ in range(2)], threading.Event()
    desks[0].subscribe(receiver.url)
    tickets = [uuid4() for _ in range(20)]
    with beside(*(lambda desk=desk: desk.dispatcher.run(stopping) for desk in desks)) as running:
        for version in range(1, 11):
            for ticket in tickets:
                desks[0].happen(ticket, version)
        try:
            wait_until(lambda: len(receiver.received) >= 200, "everything was sent")
        finally:
            stopping.set()
    for one in running:
        one.result()
    assert sorted(receiver.positions) == list(range(1, 201))
    assert in_order(receiver.received)


def test_what_was_under_way_when_the_worker_died_is_sent_again(
    database: str, connection: psycopg.Connection, clock: Clock, receiver: Receiver
) -> None:
    """The database cuts the worker off while an attempt is under way: the next one sends the same again, same id."""
    stopping, desk = threading.Event(), Desk(database, connection, clock)
    desk.subscribe(receiver.url)
    receiver.go_on.clear()
    desk.happen(uuid4())
    with beside(lambda: desk.dispatcher.run(stopping)) as running:
        wait_until(lambda: receiver.connections == 1, "it is under way")
        end = "select pg_terminate_backend(pid, 5000) from pg_stat_activity where application_name = %s"
        connection.execute(end, ("deskledger webhooks",))
        receiver.go_on.set()
    with pytest.raises(psycopg.OperationalError):
        running[0].result()
    assert desk.log("state") == [("due",)]
    Desk(database, connection, clock).settle()
    first, second = receiver.received
    assert first.headers["webhook-id"] == second.headers["webhook-id"]


def test_a_full_line_stays_in_the_log(at: Desk, receiver: Receiver, monkeypatch) -> None:
    """No more deliveries wait than there is room for: the rest stays in the log, and comes when there is room again."""
    monkeypatch.setattr("application.webhooks.delivery_queue.MOST_PENDING", 3)
    monkeypatch.setattr("application.webhooks.delivery_queue.DELIVERY_BATCH_MAX", 2)
    webhook, ticket = at.subscribe(receiver.url), uuid4()
    receiver.go_on.clear()
    at.happen(ticket, 1, 10)
    at.until(lambda: receiver.connections == 1, "the first is under way")
    for _ in range(5):
        at.dispatcher.step(at.connection, 0.01)
    assert len(at.log("id")) == 4
    assert at.find(webhook).position == 4
    receiver.go_on.set()
    at.settle()
    assert receiver.positions == list(range(1, 11))


def test_the_receiver_of_the_documentation_works(at: Desk, receiver: Receiver) -> None:
    """What docs/how-to/receive-webhooks.md shows accepts what the desk sends, once, and nothing else."""
    page = (ROOT / "docs" / "how-to" / "receive-webhooks.md").read_text()
    (shown,) = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    namespace: dict[str, Any] = {}
    exec(shown, namespace)
    webhook = at.subscribe(receiver.url)
    at.happen(uuid4())
    at.settle()
    at.change(webhook, go_to=0)
    at.settle()
    assert [namespace["receive"](SECRET, one.headers, one.body) for one in receiver.received] == [204, 204]
    assert len(namespace["seen"]) == 1
    assert namespace["receive"](SECRET, receiver.received[0].headers, b"{}") == 401


def test_what_is_settled_is_cleared_away_after_30_days(at: Desk, receiver: Receiver, clock: Clock) -> None:
    """Settled deliveries go by their age; of a deleted subscription everything goes, and then the row itself."""
    webhook, gone = at.subscribe(receiver.url), at.subscribe(nowhere())
    at.happen(uuid4())
    at.settle()
    at.connection.execute("update webhooks set deleted_at = %s, enabled = false where id = %s", (clock.now, gone.id))
    clock.move(days=29)
    assert prune(at.connection, clock.now) == 2  # what the deleted one left, and itself
    assert at.log("webhook_id") == [(webhook.id,)]
    clock.move(days=2)
    assert prune(at.connection, clock.now) == 1
    assert at.log("id") == []
    assert at.connection.execute("select id from webhooks").fetchall() == [(webhook.id,)]


@pytest.mark.parametrize("failures", [0, 3])
@pytest.mark.parametrize("verdict", [410, 500])
def test_an_attempt_of_before_undoes_no_repair(
    at: Desk, receiver: Receiver, clock: Clock, verdict: int, failures: int
) -> None:
    """While an attempt hangs, an admin mends the URL: whatever the old one says then, the new one is tried at once."""
    webhook = at.subscribe(receiver.url)
    receiver.verdict = lambda _: (500, {})
    at.happen(uuid4())
    for _ in range(failures):
        at.settle()
        clock.move(hours=1)
    answer, asked = Event(), Event()

    def slow(_: Received) -> tuple[int, dict[str, str]]:
        asked.set()
        assert answer.wait(20)
        return verdict, {"Retry-After": "86400"}

    receiver.verdict = slow
    at.until(asked.is_set, "the receiver is asked")
    with Receiver() as mended:
        at.change(webhook, url=mended.url)
        answer.set()
        at.settle()
        assert at.find(webhook).enabled
        assert [one.json["version"] for one in mended.received] == [1]
    assert at.log("state", "attempts") == [("delivered", 1)]


def test_a_full_log_is_pruned_until_it_is_not(at: Desk, receiver: Receiver, clock: Clock) -> None:
    """The worker clears away batch after batch of what is old, as long as there is any."""
    webhook, worker = at.subscribe(receiver.url), Worker(Settings(database_url=at.database))
    at.connection.execute(
        """insert into webhook_deliveries (webhook_id, stream_id, type, state, due_at, queued_at, settled_at)
        select %s, gen_random_uuid(), 'Ticket.NoteAdded', 'delivered', %s, %s, %s from generate_series(1, 4500)""",
        (webhook.id, *[clock() - timedelta(days=40)] * 3),
    )
    with beside(worker.run):
        try:
            wait_until(lambda: at.log("id") == [], "all of it is gone")
        finally:
            worker.stop()


def test_a_mark_stands_for_one_secret() -> None:
    """What is kept of a secret tells secrets apart, and is none."""
    one, other = new_secret(), new_secret()
    assert mark_of(one) == mark_of(one) != mark_of(other)
    assert [is_mark(text) for text in (mark_of(one), one)] == [True, False]
    assert one not in mark_of(one)
