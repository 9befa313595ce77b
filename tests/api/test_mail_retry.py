"""A closing e-mail that has failed for good is sent again, to the address that the client has then."""

from typing import Any
from urllib.parse import quote

import pytest

from application.store.postgres.database import connect
from domain.values import Role
from tests.support.api_requests import brought
from tests.support.running_desk import RunningDesk, wait_until


@pytest.fixture
def mail(module_desk: RunningDesk) -> dict[str, Any]:
    """A mail that was refused for good."""
    module_desk.settled()
    module_desk.mailbox.verdicts[:] = ["550 5.1.1 no such user"]
    ticket = brought(module_desk, "closed", "client-1")
    module_desk.settled()
    module_desk.mailbox.messages.clear()
    return row(module_desk, ticket)


def row(desk: RunningDesk, ticket: str) -> dict[str, Any]:
    """The newest mail of a ticket, as the list shows it."""
    items = desk.get("/v1/closure_mails?limit=200").json["items"]
    return next(item for item in items if item["ticket_id"] == ticket)


def retry(desk: RunningDesk, message_id: str, key: str | None = None, **headers: str) -> Any:
    """Asks for it."""
    path = f"/v1/mails/{quote(message_id, safe='')}:retry"
    return desk.request("POST", path, {}, key or desk.key(Role.QUALITY), headers=headers)


@pytest.mark.parametrize("brackets", [True, False])
def test_a_failed_mail_goes_to_the_present_address(
    module_desk: RunningDesk, mail: dict[str, Any], brackets: bool
) -> None:
    """The address is corrected, the mail sent again, the ticket has both outcomes, and every list the last one."""
    assert (mail["state"], mail["address"]) == ("failed", "client-1@example.org")
    corrected = {"name": "Client 1", "email": "right@example.org"}
    assert module_desk.request("PUT", "/v1/clients/client-1", corrected, module_desk.key(Role.INTAKE)).status == 200
    message_id = mail["message_id"] if brackets else mail["message_id"].strip("<>")
    reply = retry(module_desk, message_id)
    assert reply.status == 200, reply.data
    assert (reply.json["state"], reply.json["attempts"], reply.json["settled_at"]) == ("due", 0, None)
    module_desk.settled()
    sent = row(module_desk, mail["ticket_id"])
    assert (sent["state"], sent["address"], sent["last_error"]) == ("sent", "right@example.org", None)
    assert [message["To"] for message in module_desk.mailbox.messages] == ["Client 1 <right@example.org>"]
    history = module_desk.get(f"/v1/tickets/{mail['ticket_id']}/history").json["items"]
    outcomes = [event["type"] for event in history][-2:]
    assert outcomes == ["Ticket.ClosureEmailFailed", "Ticket.ClosureEmailSent"]
    with connect(module_desk.database, "test") as connection:
        query = "select mail from closings where ticket_id = %s"
        wait_until(
            lambda: connection.execute(query, (mail["ticket_id"],)).fetchone() == ("sent",), "the projection has it"
        )
    again = {"name": "Client 1", "email": "client-1@example.org"}
    assert module_desk.request("PUT", "/v1/clients/client-1", again, module_desk.key(Role.INTAKE)).status == 200


def test_what_has_not_failed_is_not_sent_again(module_desk: RunningDesk, mail: dict[str, Any]) -> None:
    """Sent already, or waiting already: 409; a mail that there is not: 404; another command: 404."""
    assert retry(module_desk, mail["message_id"]).status == 200
    module_desk.settled()
    reply = retry(module_desk, mail["message_id"])
    assert (reply.status, reply.json["code"]) == (409, "mail_not_failed")
    assert "is sent" in reply.json["detail"]
    missing = retry(module_desk, "no-such@example.org")
    assert (missing.status, missing.json["code"]) == (404, "unknown_mail")
    other = module_desk.request("POST", "/v1/mails/x@y:burn", {}, module_desk.key(Role.ADMIN))
    assert other.status == 404
    assert len(module_desk.mailbox.messages) == 1


def test_a_retry_that_comes_again_has_its_first_answer(module_desk: RunningDesk, mail: dict[str, Any]) -> None:
    """Under the same key, byte for byte, also when the mail has been sent meanwhile; the mail goes once."""
    first = retry(module_desk, mail["message_id"], **{"Idempotency-Key": mail["ticket_id"]})
    module_desk.settled()
    second = retry(module_desk, mail["message_id"], **{"Idempotency-Key": mail["ticket_id"]})
    assert (first.status, second.status, second.data) == (200, 200, first.data)
    assert second.headers["Idempotency-Replayed"] == "true"
    assert len(module_desk.mailbox.messages) == 1
    other = retry(module_desk, "other@example.org", **{"Idempotency-Key": mail["ticket_id"]})
    assert (other.status, other.json["code"]) == (422, "idempotency_key_reused")
