"""A desk of an earlier version is upgraded: nothing that it knew is lost, and nobody who talks to it notices."""

from collections.abc import Iterator
from pathlib import Path
from secrets import token_hex
from typing import Any

import pytest
from standardwebhooks import Webhook

from application.store.postgres.database import connect
from tests.support.postgres_servers import Fresh
from tests.support.running_desk import Reply, RunningDesk, wait_until
from tests.support.webhook_receiver import Receiver
from tests.upgrade.answers import answer, differences
from tests.upgrade.earlier_version import expected, migrate_all, restore, settings, unpack

OPEN_DELIVERIES = "select webhook_id, position from webhook_deliveries where state in ('due', 'waiting')"
MENDED = ("019caf4b-b3e0-71ee-bdc2-6bade14957d2", 34, "Ticket.ClosureEmailSent")


@pytest.fixture(scope="module")
def upgraded(module_empty_database: str) -> str:
    """A database of before, restored and migrated."""
    restore(module_empty_database)
    migrate_all(module_empty_database)
    return module_empty_database


@pytest.fixture(scope="module")
def module_empty_database(postgres: str) -> Iterator[str]:
    """A database for the tests of this module, which they clone or leave as it is."""
    with Fresh(postgres, f"deskledger_upgrade_{token_hex(4)}") as url:
        yield url


@pytest.fixture(scope="module")
def desk(upgraded: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDesk]:
    """The present API on the database of before; the worker comes when the webhooks have been looked at."""
    running = RunningDesk(upgraded, tmp_path_factory.mktemp("upgraded"), parts=("api",))
    running.environment |= settings()
    with Receiver() as receiver, running:
        assert list(unlike(running, webhooks=True)) == []
        send_to(running, receiver)  # a receiver that is gone would be tried, and given up some day
        running.start("work")
        running.caught_up()
        yield running


def unlike(desk: RunningDesk, webhooks: bool = False) -> Iterator[str]:
    """What the desk answers otherwise than it did before."""
    for address, before in expected()["answers"].items():
        if address.startswith("/v1/webhooks") is webhooks:
            now = answer(desk.get, address, expected()["keys"]["everything"], as_shown_before)
            yield from differences(before, now, address)


def as_shown_before(item: Any) -> Any:
    """The one outcome of an e-mail that was shown at the level that the ticket had come to, not at its closing's."""
    if (item.get("ticket_id"), item.get("version"), item.get("type")) == MENDED:
        assert (item["level"], item["step"]) == ("tier1", "T1-3")
        return item | {"level": "tier2", "step": "7"}
    return item


def send_to(desk: RunningDesk, receiver: Receiver) -> None:
    """An admin says where the receiver is now."""
    for webhook in expected()["webhooks"]:
        changed = desk.request(
            "PATCH", f"/v1/webhooks/{webhook['id']}", {"url": receiver.url}, expected()["keys"]["admin"]
        )
        assert changed.status == 200, changed.data


def send_again(desk: RunningDesk, kept: dict[str, Any]) -> Reply:
    """Sends a request of before once more, as it was sent then."""
    key = expected()["keys"][kept["key"]]
    return desk.request("POST", kept["path"], kept["body"].encode(), key, kept["headers"])


def test_every_query_is_answered_as_before(desk: RunningDesk) -> None:
    """Tickets in every state, earlier versions, histories, lists, queues, the log, reports: nothing is missing."""
    assert list(unlike(desk)) == []


def test_every_key_opens_what_it_did(desk: RunningDesk) -> None:
    """Roles, levels, clients, ends and revocations are those of before."""
    doors = expected()["doors"]
    for name, before in doors["statuses"].items():
        now = [desk.get(address, expected()["keys"][name]).status for address in doors["addresses"]]
        assert (name, now) == (name, before)


def test_a_request_of_before_gets_its_answer_of_before(desk: RunningDesk) -> None:
    """Sent again under its idempotency key: byte for byte, and nothing is done."""
    for kept in expected()["retries"]:
        again = send_again(desk, kept)
        shown = {name: again.headers.get(name) for name in kept["shown"]}
        assert (kept["path"], again.status, again.data.decode(), again.headers.get("Idempotency-Replayed"), shown) == (
            kept["path"], kept["status"], kept["answer"], "true", kept["shown"],
        )  # fmt: skip


def test_a_key_of_before_is_good_for_its_request_only(desk: RunningDesk) -> None:
    """Another request under it is refused, as it would have been before."""
    kept = expected()["retries"][2]
    other = send_again(desk, {**kept, "body": kept["body"].replace("slow", "dear")})
    assert (other.status, other.json["code"]) == (422, "idempotency_key_reused")


def test_what_was_to_be_sent_is_sent(empty_database: str, tmp_path: Path) -> None:
    """Open deliveries arrive, signed with the secrets of before, in the order of each ticket; open mails go out."""
    restore(empty_database)
    migrate_all(empty_database)
    with connect(empty_database, "test") as connection:
        due = {(str(webhook), position) for webhook, position in connection.execute(OPEN_DELIVERIES).fetchall()}
        mails = {mail["message_id"] for mail in expected()["answers"]["/v1/closure_mails?state=due"][1]}
        assert (len(due) > 50, len(mails)) == (True, 3)
        running = RunningDesk(empty_database, tmp_path, parts=("api",))
        running.environment |= settings() | {"DESKLEDGER_SMTP_URL": running.environment["DESKLEDGER_SMTP_URL"]}
        with Receiver() as receiver, running:
            send_to(running, receiver)
            running.start("work")
            wait_until(lambda: len(running.mailbox.messages) >= len(mails), "the mails are sent")
            settled = f"select not exists ({OPEN_DELIVERIES})"
            wait_until(lambda: connection.execute(settled).fetchone()[0], "everything is delivered")
        assert {message["Message-ID"] for message in running.mailbox.messages} == mails
        assert due <= {(signed_by(one), one.position) for one in receiver.received}


def signed_by(received: Any) -> str:
    """The webhook whose secret signed a request."""
    for webhook in expected()["webhooks"]:
        try:
            Webhook(webhook["secret"]).verify(received.body, received.headers)
        except Exception:
            continue
        return str(webhook["id"])
    raise AssertionError("no secret of before signed it")


def test_a_data_directory_of_before_is_served(directory: Path, embedded: None) -> None:
    """`deskledger serve` on it migrates it and answers every query as before."""
    unpack(directory)
    running = RunningDesk("", directory, parts=())
    running.environment |= settings() | {"DESKLEDGER_IDEMPOTENCY_HOURS": "8760"}
    with running:
        running.start("serve")
        wait_until(running._answers, "it answers")
        assert list(unlike(running)) == []
        key = expected()["keys"]["everything"]
        note = running.request(
            "POST", f"/v1/tickets/{expected()['long_ticket']}:add_note", {"text": "and on it goes"}, key
        )
        assert (note.status, note.json["version"]) == (200, 10_002)
