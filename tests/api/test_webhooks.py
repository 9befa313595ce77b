"""Subscriptions to webhooks over HTTP: made, changed, switched, replayed; and the whole thing under kill −9."""

import random
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import msgspec
import psycopg
import pytest
from psycopg.sql import SQL, Identifier
from standardwebhooks import Webhook

from application.store.postgres.database import connect
from application.webhooks.address_rules import read_hosts
from application.webhooks.signing import Locked, Vault, new_secret, read_keys
from application.webhooks.subscriptions import MOST_WEBHOOKS, SubscriptionChange, UnknownWebhook
from domain.values import Role
from tests.support.running_desk import Reply, RunningDesk, wait_until
from tests.support.webhook_receiver import OK, Clock, Desk, Receiver, nowhere, with_webhooks

KEY, OTHER = "a" * 43 + "=", "b" * 43 + "="


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A receiver that accepts everything."""
    with Receiver() as running:
        yield running


@pytest.fixture
def admin(shared_desk: RunningDesk) -> str:
    """The key of an admin."""
    return shared_desk.key(Role.ADMIN)


@pytest.fixture
def auditor(shared_desk: RunningDesk) -> str:
    """The key of an auditor."""
    return shared_desk.key(Role.AUDITOR)


def post(desk: RunningDesk, path: str, key: str, once: str | None = None, **body: Any) -> Reply:
    """A command about webhooks."""
    return desk.request("POST", f"/v1/webhooks{path}", body, key, {"Idempotency-Key": once} if once else None)


def make(desk: RunningDesk, key: str, url: str, **body: Any) -> Any:
    """A new subscription."""
    reply = post(desk, "", key, url=url, **body)
    assert reply.status == 201, reply.data
    return reply.json


def test_a_webhook_gets_what_happens_from_then_on(shared_desk: RunningDesk, admin: str, receiver: Receiver) -> None:
    """What happened before is not sent; what happens then is, signed with the secret that was shown once."""
    shared_desk.ticket()
    shared_desk.caught_up()
    made = make(shared_desk, admin, receiver.url, types=["Ticket.NoteAdded"], description="chat")
    assert made["secret"].startswith("whsec_")
    ticket = shared_desk.ticket()
    trace = {"traceparent": f"00-{'a' * 32}-{'b' * 16}-01"}
    note = {"text": "ring twice", "visibility": "internal"}
    shared_desk.request("POST", f"/v1/tickets/{ticket}:add_note", note, None, trace)
    wait_until(lambda: receiver.received, "the note was sent")
    (one,) = receiver.received
    assert Webhook(made["secret"]).verify(one.body, one.headers) == one.json
    shown = shared_desk.get(f"/v1/events?ticket_id={ticket}&type=Ticket.NoteAdded").json["items"][0]
    assert {**one.json, "traceparent": None} == {**shown, "traceparent": None}
    assert one.json["traceparent"].split("-")[1] == "a" * 32
    assert one.headers["traceparent"].split("-")[1] == "a" * 32
    assert one.headers["content-type"] == "application/json"
    shared_desk.request("DELETE", f"/v1/webhooks/{made['id']}", key=admin)


def test_what_is_answered_stays_without_the_secret(shared_desk: RunningDesk, admin: str, auditor: str) -> None:
    """The list, the subscription, its deliveries and every command show no secret, and no log line has one."""
    made = make(shared_desk, admin, nowhere(), level="noc", ticket_id=str(uuid4()), actor="a", client_user_id="c")
    path = f"/v1/webhooks/{made['id']}"
    shown = shared_desk.get(path, auditor)
    assert shown.json == {name: value for name, value in made.items() if name != "secret"}
    rotated = post(shared_desk, f"/{made['id']}:rotate_secret", admin).json
    answers = [
        shown,
        shared_desk.get("/v1/webhooks", auditor),
        shared_desk.get(f"{path}/deliveries", auditor),
        post(shared_desk, f"/{made['id']}:disable", admin),
        shared_desk.request("PATCH", path, {"level": None}, admin),
    ]
    said = b"".join(one.data for one in answers)
    said += b"".join(log.read_bytes() for log in shared_desk.directory.glob("*.log"))
    for secret in (made["secret"], rotated["secret"]):
        assert secret.removeprefix("whsec_").encode() not in said
    assert made["secret"] != rotated["secret"]
    shared_desk.request("DELETE", path, key=admin)


@pytest.mark.parametrize("role", [role for role in Role if role not in (Role.ADMIN, Role.SYSTEM)])
def test_admins_manage_and_auditors_read(shared_desk: RunningDesk, admin: str, role: Role) -> None:
    """Nobody else does either."""
    levels, client = (["tier1"] if role is Role.AGENT else []), ("client-1" if role is Role.CLIENT else None)
    key = shared_desk.key(role, levels=levels, client=client)
    made = make(shared_desk, admin, nowhere())
    path = f"/v1/webhooks/{made['id']}"
    reads = [shared_desk.get(one, key).status for one in ("/v1/webhooks", path, f"{path}/deliveries")]
    assert reads == [200 if role is Role.AUDITOR else 403] * 3
    assert post(shared_desk, "", key, url=nowhere()).status == 403
    for command in ("enable", "disable", "rotate_secret", "ping"):
        assert post(shared_desk, f"/{made['id']}:{command}", key).status == 403
    assert post(shared_desk, f"/{made['id']}:replay", key, after=0).status == 403
    assert shared_desk.request("PATCH", path, {}, key).status == 403
    assert shared_desk.request("DELETE", path, key=key).status == 403
    shared_desk.request("DELETE", path, key=admin)


@pytest.mark.parametrize(
    ("body", "code", "pointer"),
    [
        ({}, "invalid_body", "/url"),
        ({"url": "https://10.0.0.1/in"}, "url_refused", "/url"),
        ({"url": "https://desk.example.org/in"}, "url_refused", "/url"),
        ({"url": "http://127.0.0.1:25/in"}, "url_refused", "/url"),
        ({"url": "http://127.0.0.1:8080/in", "types": ["Ticket.Eaten"]}, "invalid_body", "/types/0"),
        ({"url": "http://127.0.0.1:8080/in", "level": "tier9"}, "invalid_body", "/level"),
        ({"url": "http://127.0.0.1:8080/in", "after": -1}, "invalid_body", "/after"),
        ({"url": "http://127.0.0.1:8080/in", "after": 10**9}, "unknown_position", "/after"),
        ({"url": "http://127.0.0.1:8080/in", "secret": "mine"}, "invalid_body", "/secret"),
        ({"url": "http://127.0.0.1:8080/in", "actor": "a\u0000"}, "invalid_body", "/actor"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    shared_desk: RunningDesk, admin: str, body: dict[str, Any], code: str, pointer: str
) -> None:
    """422 with the place in the body, and nothing is made."""
    before = len(shared_desk.get("/v1/webhooks", admin).json["items"])
    reply = post(shared_desk, "", admin, **body)
    assert (reply.status, reply.json["code"], reply.json["errors"][0]["pointer"]) == (422, code, pointer)
    assert len(shared_desk.get("/v1/webhooks", admin).json["items"]) == before


def test_a_webhook_that_is_not_there(shared_desk: RunningDesk, admin: str) -> None:
    """404 for everything about it, also after it was deleted; an unknown command is named."""
    made = make(shared_desk, admin, nowhere())
    path = f"/v1/webhooks/{made['id']}"
    assert shared_desk.request("DELETE", path, key=admin).status == 204
    for reply in (
        shared_desk.get(path, admin),
        shared_desk.get(f"{path}/deliveries", admin),
        shared_desk.request("PATCH", path, {}, admin),
        shared_desk.request("DELETE", path, key=admin),
        post(shared_desk, f"/{made['id']}:enable", admin),
    ):
        assert (reply.status, reply.json["code"]) == (404, "unknown_webhook")
    assert post(shared_desk, f"/{made['id']}:sing", admin).json["code"] == "unknown_command"


def test_a_request_that_is_sent_again_is_done_once(shared_desk: RunningDesk, admin: str) -> None:
    """Under an idempotency key the first answer comes again byte for byte, with the same secret; for another: 422."""
    url = nowhere()
    first, again = (post(shared_desk, "", admin, once="hook-1", url=url) for _ in range(2))
    assert (first.status, again.status, again.data) == (201, 201, first.data)
    assert again.headers["Idempotency-Replayed"] == "true"
    assert again.headers["Location"] == f"/v1/webhooks/{first.json['id']}"
    assert post(shared_desk, "", admin, once="hook-1", url=nowhere()).json["code"] == "idempotency_key_reused"
    rotations = [post(shared_desk, f"/{first.json['id']}:rotate_secret", admin, once="hook-2") for _ in range(2)]
    assert rotations[0].data == rotations[1].data
    shared_desk.request("DELETE", f"/v1/webhooks/{first.json['id']}", key=admin)


def places_of(database: str, text: str) -> list[str]:
    """The tables that hold a text in any column, also in bytes."""
    with connect(database, "test secrets") as connection:
        tables = connection.execute("select relname from pg_stat_user_tables where schemaname = 'public'").fetchall()
        query = SQL("select from {} t where t::text like %s or t::text like %s limit 1")
        given = (f"%{text}%", f"%{text.encode().hex()}%")
        return [name for (name,) in tables if connection.execute(query.format(Identifier(name)), given).rowcount]


@pytest.mark.parametrize("end", ["rotated away", "deleted"])
def test_no_copy_of_a_secret_outlives_it(shared_desk: RunningDesk, admin: str, end: str) -> None:
    """It lies in its webhook alone; a request that comes again has it while it lives, and is told when it is gone."""
    once = str(uuid4())
    url = nowhere()
    first = post(shared_desk, "", admin, once=once, url=url)
    path, secret = f"/{first.json['id']}", first.json["secret"]
    assert places_of(shared_desk.database, secret) == ["webhooks"]
    rotated = post(shared_desk, f"{path}:rotate_secret", admin, once=f"{once}-1", overlap_hours=1)
    assert post(shared_desk, "", admin, once=once, url=url).data == first.data  # for an hour it signs as well
    if end == "deleted":
        assert shared_desk.request("DELETE", f"/v1/webhooks{path}", key=admin).status == 204
        gone = [secret, rotated.json["secret"]]
    else:
        now = post(shared_desk, f"{path}:rotate_secret", admin, overlap_hours=1)
        assert places_of(shared_desk.database, now.json["secret"]) == ["webhooks"]
        again = post(shared_desk, f"{path}:rotate_secret", admin, once=f"{once}-1", overlap_hours=1)
        assert again.data == rotated.data
        gone = [secret]
    again = post(shared_desk, "", admin, once=once, url=url)
    assert (again.status, again.json["code"]) == (409, "secret_gone")
    assert [places_of(shared_desk.database, one) for one in gone] == [[]] * len(gone)
    if end != "deleted":
        shared_desk.request("DELETE", f"/v1/webhooks{path}", key=admin)


def test_an_answer_of_an_earlier_version_is_given_as_it_was_kept(shared_desk: RunningDesk, admin: str) -> None:
    """Version 0.2.0 kept answers with their secret: a retry over the upgrade has the first answer."""
    once, url = str(uuid4()), nowhere()
    first = post(shared_desk, "", admin, once=once, url=url)
    with connect(shared_desk.database, "test earlier") as connection:
        kept = "update idempotency set answer = convert_to(%s, 'UTF8') where key = %s"
        assert connection.execute(kept, (f"plain:{first.data.decode()}", once)).rowcount == 1
    assert post(shared_desk, "", admin, once=once, url=url).data == first.data
    shared_desk.request("DELETE", f"/v1/webhooks/{first.json['id']}", key=admin)


def test_changes_are_those_that_are_named(shared_desk: RunningDesk, admin: str) -> None:
    """What is left out stays; null takes a filter away; a URL is checked again."""
    made = make(shared_desk, admin, nowhere(), types=["Ticket.Closed"], client_user_id="client-1", level="noc")
    path, url = f"/v1/webhooks/{made['id']}", nowhere()
    changed = shared_desk.request("PATCH", path, {"url": url, "level": None, "client_user_id": "c-2"}, admin).json
    assert changed == shared_desk.get(path, admin).json
    assert changed == {name: value for name, value in made.items() if name != "secret"} | {
        "url": url,
        "level": None,
        "client_user_id": "c-2",
    }
    refused = shared_desk.request("PATCH", path, {"url": "https://169.254.169.254/"}, admin)
    assert (refused.status, refused.json["code"]) == (422, "url_refused")
    shared_desk.request("DELETE", path, key=admin)


def test_a_ping_is_sent_once_and_what_became_of_it_is_there(
    shared_desk: RunningDesk, admin: str, receiver: Receiver
) -> None:
    """It has one attempt, and stands in the list of deliveries; switched off, there is nobody to ping."""
    made = make(shared_desk, admin, receiver.url, types=["Ticket.Reopened"])
    receiver.verdict = lambda _: (500, {})
    path = f"/v1/webhooks/{made['id']}/deliveries"
    assert post(shared_desk, f"/{made['id']}:ping", admin).status == 200
    wait_until(lambda: shared_desk.get(f"{path}?state=failed", admin).json["items"], "the ping has failed")
    receiver.verdict = lambda _: OK
    assert post(shared_desk, f"/{made['id']}:ping", admin).status == 200
    wait_until(lambda: shared_desk.get(f"{path}?state=delivered", admin).json["items"], "the ping was sent")
    newest = shared_desk.get(f"{path}?limit=1", admin)
    (one,) = newest.json["items"]
    assert (one["type"], one["position"], one["attempts"], one["last_status"]) == ("Webhook.Ping", None, 1, 204)
    (other,) = shared_desk.get(f"{path}?limit=1&cursor={newest.json['next']}", admin).json["items"]
    assert (other["state"], other["last_error"], other["next_attempt_at"]) == ("failed", "answered 500", None)
    first, second = receiver.received
    assert Webhook(made["secret"]).verify(second.body, second.headers)["type"] == "Webhook.Ping"
    assert first.headers["webhook-id"] != second.headers["webhook-id"]
    assert post(shared_desk, f"/{made['id']}:disable", admin, reason="moved").json["disabled_reason"] == "moved"
    assert post(shared_desk, f"/{made['id']}:ping", admin).json["code"] == "webhook_disabled"
    assert post(shared_desk, f"/{made['id']}:enable", admin).json["disabled_reason"] is None
    shared_desk.request("DELETE", f"/v1/webhooks/{made['id']}", key=admin)


def test_a_replay_over_http(shared_desk: RunningDesk, admin: str, receiver: Receiver) -> None:
    """From a position on, everything is sent again; a position that the log has not come to is refused."""
    ticket = shared_desk.ticket()
    shared_desk.caught_up()
    made = make(shared_desk, admin, receiver.url, ticket_id=ticket, after=0)
    wait_until(lambda: len(receiver.received) == 5, "the ticket so far")
    again = post(shared_desk, f"/{made['id']}:replay", admin, after=receiver.positions[1])
    assert again.json["position"] == receiver.positions[1]
    wait_until(lambda: len(receiver.received) == 8, "the last three again")
    assert receiver.positions[5:] == receiver.positions[2:5]
    assert post(shared_desk, f"/{made['id']}:replay", admin, after=10**9).json["code"] == "unknown_position"
    shared_desk.request("DELETE", f"/v1/webhooks/{made['id']}", key=admin)


def test_the_list_comes_in_pages(shared_desk: RunningDesk, admin: str) -> None:
    """Each subscription is on one page."""
    made = {make(shared_desk, admin, nowhere())["id"] for _ in range(3)}
    seen, cursor = [], ""
    while cursor is not None:
        page = shared_desk.get(f"/v1/webhooks?limit=1{cursor and f'&cursor={cursor}'}", admin).json
        seen += [one["id"] for one in page["items"]]
        cursor = page["next"]
    assert made <= set(seen)
    assert len(seen) == len(set(seen))
    for one in made:
        shared_desk.request("DELETE", f"/v1/webhooks/{one}", key=admin)


def test_kill_9_of_the_workers_loses_nothing(served: RunningDesk) -> None:
    """Two workers, killed again and again: every event is delivered, those of a ticket in their order."""
    chance, tickets = random.Random(23), [served.ticket(f"client-{n}") for n in range(8)]
    admin = served.key(Role.ADMIN)
    workers = [served.processes.pop("work")]
    with Receiver() as receiver, connect(served.database, "test") as connection:
        receiver.verdict = lambda _: OK if chance.random() < 0.9 else (503, {"Retry-After": "0"})
        make(served, admin, receiver.url, types=["Ticket.NoteAdded"])
        try:
            for turn in range(40):
                note = {"text": f"{turn}", "visibility": "internal"}
                served.request("POST", f"/v1/tickets/{tickets[turn % 8]}:add_note", note)
                if turn % 8 == 0:
                    before = len(receiver.received)
                    served.start("work")
                    workers.append(served.processes.pop("work"))
                    wait_until(lambda: len(receiver.received) > before, "something is sent")  # noqa: B023
                    killed = workers.pop(0)
                    killed.kill()
                    killed.wait()
            query = """with first as materialized (select id from webhooks for update)  -- as whoever writes to them
                update webhook_deliveries set due_at = now() from first where webhook_id = first.id and state = 'due'"""
            every = "select position from log join events using (ord) where type = 'Ticket.NoteAdded'"
            expected = 40

            def all_there() -> bool:
                connection.execute(query)  # nobody has to wait for the pauses
                known = {position for (position,) in connection.execute(every)}
                return len(known) == expected and known <= set(receiver.positions)

            wait_until(all_there, "everything was delivered")
        finally:
            for worker in workers:
                worker.kill()
                worker.wait()
    versions = defaultdict(list)
    for one in receiver.received:
        versions[one.json["ticket_id"]].append(one.json["version"])
    for seen in versions.values():
        assert list(dict.fromkeys(seen)) == sorted(set(seen))


# ── Below HTTP ──────────────────────────────────────────────────────────────────────────────────────────────


def test_a_change_waits_for_nobody_and_loses_nothing(database: str, connection: psycopg.Connection) -> None:
    """Of two who change it at once, the second makes its change to what the first has made."""
    desk = Desk(database, connection, Clock())
    webhook = desk.subscribe("https://desk.example.org/")
    seen = []

    def change(stored: Any) -> Any:
        seen.append(stored.revision)
        if len(seen) == 1:
            connection.execute("update webhooks set description = 'first', revision = revision + 1")
        return msgspec.structs.replace(stored, url="https://second.example.org/")

    desk.apply(webhook, SubscriptionChange(change))
    stored = desk.find(webhook)
    assert (seen, stored.description, stored.url) == ([1, 2], "first", "https://second.example.org/")


def test_there_are_as_many_as_are_served_and_no_more(database: str, connection: psycopg.Connection) -> None:
    """A thread is kept for each: the one too many is refused, until one is deleted."""
    desk = Desk(database, connection, Clock())
    made = [desk.subscribe("https://desk.example.org/") for _ in range(MOST_WEBHOOKS)]
    with pytest.raises(AssertionError, match="too many"):
        desk.subscribe("https://desk.example.org/")
    with_webhooks(database, lambda all_: all_.delete(made[0].id, datetime.now(UTC)))
    with pytest.raises(UnknownWebhook):
        with_webhooks(database, lambda all_: all_.delete(made[0].id, datetime.now(UTC)))
    with pytest.raises(UnknownWebhook):
        desk.find(made[0])
    desk.subscribe("https://desk.example.org/")
    assert connection.execute("select secret from webhooks where deleted_at is not null").fetchall() == [("",)]


def test_a_ping_fails_for_good_and_an_event_does_not(database: str, connection: psycopg.Connection) -> None:
    """A ping that is not answered is settled; no event stands behind it."""
    desk = Desk(database, connection, Clock())
    webhook = desk.subscribe(nowhere())
    desk.apply(webhook, SubscriptionChange(lambda it: it, ping=uuid4()))
    desk.happen(uuid4())
    desk.clock.move(seconds=1)
    desk.settle()
    assert sorted(desk.log("state", "attempts", "position is null")) == [("due", 1, False), ("failed", 1, True)]


def test_secrets_lie_sealed_where_there_is_a_key() -> None:
    """With keys, what is stored says nothing without them; the first one seals, all of them open."""
    secret = new_secret()
    sealed = Vault(KEY).seal(secret)
    assert secret not in sealed
    assert Vault(f"{OTHER},{KEY}").open(sealed) == secret
    assert Vault(KEY).open(Vault().seal(secret)) == secret  # from before there was a key
    for vault in (Vault(), Vault(OTHER)):
        with pytest.raises(Locked, match="DESKLEDGER_WEBHOOK_KEYS"):
            vault.open(sealed)


@pytest.mark.parametrize("text", ["short", f"{KEY},", f"{KEY},x", "ä" * 44])
def test_a_key_that_is_none_is_refused(text: str) -> None:
    """The setting is checked at the start, and not when something is to be signed."""
    with pytest.raises(ValueError, match="Fernet keys"):
        read_keys(text)


@pytest.mark.parametrize("text", ["", "a b", "*", "*.", "https://desk.example.org", "desk.example.org:443", "a,,b"])
def test_a_host_that_is_none_is_refused(text: str) -> None:
    """Names, names below a domain, and addresses: nothing else."""
    with pytest.raises(ValueError, match="hosts"):
        read_hosts(text)
