"""Over HTTP and the command line: whose ticket it is, what it is about, who has it, and how all that is put right."""

import json
from collections.abc import Iterator

import pytest

from domain.values import Level, Role
from tests.support.api_requests import brought, client_key, problem, version, walk
from tests.support.command_line import run
from tests.support.oidc_issuer import Issuer
from tests.support.running_desk import RunningDesk, wait_until


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    """An issuer that answers."""
    with Issuer() as answering:
        yield answering


@pytest.fixture(scope="module")
def served(module_database: str, issuer: Issuer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDesk]:
    """A desk that trusts the issuer."""
    desk = RunningDesk(module_database, tmp_path_factory.mktemp("served"), workers=1)
    desk.environment |= issuer.environment
    with desk as running:
        yield running


def test_a_corrected_client_is_the_tickets_everywhere(served: RunningDesk) -> None:
    """The ticket, its lists, searches, the closing e-mail; the old client sees nothing of it any more."""
    old, new = client_key(served, "old"), client_key(served, "new")
    served.request("PUT", "/v1/clients/new", {"name": "Neuer Kunde", "email": "new@example.org"})
    ticket = brought(served, "tier1", "old")
    noted = {"text": "Call me at home."}, old, {"Idempotency-Key": "once"}
    assert served.request("POST", f"/v1/tickets/{ticket}:add_note", *noted).status == 200
    assert served.do(ticket, "add_note", text="Dear Old, we come.", visibility="client").status == 200
    assert served.do(ticket, "await_client", reason="which floor?").status == 200
    assert served.do(ticket, "client_responded", text="Old says: the third.").status == 200
    reply = served.do(ticket, "correct_client", client_user_id="new", reason="a colleague called for new")
    assert (reply.status, [event["type"] for event in reply.json["events"]]) == (200, ["Ticket.ClientCorrected"])
    served.caught_up()
    for path in (f"/v1/tickets/{ticket}", f"/v1/tickets/{ticket}/history", f"/v1/tickets/{ticket}?version=5"):
        problem(served.get(path, old), 404, "unknown_ticket")
    problem(served.do(ticket, "add_note", old, version(served, ticket), text="mine?"), 404, "unknown_ticket")
    problem(served.request("POST", f"/v1/tickets/{ticket}:add_note", *noted), 404, "unknown_ticket")
    assert list(walk(served, "/v1/tickets", key=old)) == []
    assert [row["ticket_id"] for row in walk(served, "/v1/tickets", key=new)] == [ticket]
    assert served.get(f"/v1/tickets/{ticket}", new).json["client"] == {"user_id": "new", "name": "Neuer Kunde"}
    told = served.get(f"/v1/tickets/{ticket}/history", new).data.decode()
    assert not any(word in told for word in ("at home", "Dear Old", "Old says", "colleague", "Client old", '"old"'))
    clients = {row["ticket_id"]: row["client_user_id"] for row in walk(served, "/v1/queues/tier1")}
    assert clients[ticket] == "new"
    assert [row["ticket_id"] for row in walk(served, "/v1/tickets?q=neuer")] == [ticket]
    served.close(ticket)
    served.settled()
    assert [mail["To"] for mail in served.mailbox.messages] == ["Neuer Kunde <new@example.org>"]
    detail = problem(served.do(ticket, "correct_client", client_user_id="old", reason="no"), 409, "ticket_closed")[
        "detail"
    ]
    assert "reopen it" in detail


def test_an_amended_issue_is_what_lists_and_searches_find(served: RunningDesk) -> None:
    """The new words find the ticket and the old ones do not; what was not amended still does."""
    ticket = brought(served, "tier1", "amending")
    assert (
        served.do(ticket, "amend_issue", reason="it is another one", summary="zebra jam", category="paper").status
        == 200
    )
    served.caught_up()
    row = served.get("/v1/tickets?client_user_id=amending").json["items"][0]
    assert (row["summary"], row["category"]) == ("zebra jam", "paper")
    mine = "/v1/tickets?client_user_id=amending&q="
    assert [len(served.get(mine + word).json["items"]) for word in ("zebra", "paper", "offline")] == [1, 1, 1]
    assert served.do(ticket, "amend_issue", reason="worse", description="it burns").status == 200
    served.caught_up()
    assert [len(served.get(mine + word).json["items"]) for word in ("zebra", "burns", "offline")] == [1, 1, 0]
    assert served.do(ticket, "amend_issue", reason="again", description="it burns").json["events"] == []


def test_staff_reopen_on_the_clients_word(served: RunningDesk) -> None:
    """With the channel it is reopened and says so; without it is refused, and an agent may not."""
    ticket = brought(served, "closed", "returning")
    quality, agent = served.key(Role.QUALITY), served.key(Role.AGENT, levels=[Level.TIER1])
    problem(served.do(ticket, "reopen", quality, reason="it is back"), 422, "confirmation_missing")
    problem(served.do(ticket, "reopen", agent, reason="it is back", confirmed_via="phone"), 403, "role_missing")
    assert served.do(ticket, "reopen", quality, reason="it is back", confirmed_via="phone").status == 200
    last = served.get(f"/v1/tickets/{ticket}/history").json["items"][-1]
    assert last["words"] == "Reopened, back to Tier 1 Support, on the client's word by phone: it is back"


def test_a_person_can_be_given_a_ticket_once_they_have_signed_in(served: RunningDesk, issuer: Issuer) -> None:
    """Unknown before; afterwards with the role and level that the token said."""
    ticket = served.ticket()
    refused = problem(served.do(ticket, "assign", assignee="oidc:vera"), 422, "unknown_assignee")
    assert refused["errors"][0]["pointer"] == "/assignee"
    assert (
        served.get("/v1/queues", issuer.token(sub="vera", name="Vera", roles=["agent"], levels=["tier1"])).status == 200
    )
    wait_until(lambda: served.do(ticket, "assign", assignee="oidc:vera").status == 200, "Vera is known")
    assert served.get(f"/v1/tickets/{ticket}").json["assignee"] == "oidc:vera"
    assert served.do(ticket, "escalate", reason="up").status == 200
    problem(served.do(ticket, "assign", assignee="oidc:vera"), 422, "assignee_lacks_role")


def test_a_revoked_key_leaves_its_tickets_to_the_next(served: RunningDesk) -> None:
    """`keys revoke` prints what it released; the next who claims gets the ticket."""
    claimer, other = (
        served.key(Role.AGENT, levels=[Level.NOC], name="leaving"),
        served.key(Role.AGENT, levels=[Level.NOC]),
    )
    ticket = brought(served, "noc", "waiting")
    served.caught_up()
    holder = served.request("POST", "/v1/queues/noc:claim_next", {}, claimer).json["assignee"]
    served.caught_up()
    assert served.request("POST", "/v1/queues/noc:claim_next", {}, other).status == 204
    revoked = run("keys", "revoke", holder, DATABASE_URL=served.database)
    assert revoked.stdout == f"revoked {holder}: it ends within seconds\nreleased {ticket}\n"
    wait_until(lambda: served.request("POST", "/v1/queues/noc:claim_next", {}, other).status == 200, "it is free")
    last = served.get(f"/v1/tickets/{ticket}/history").json["items"][-2]
    assert (last["words"], last["actor"]["role"]) == (f"Taken from {holder}: the API key has ended", "system")


def test_links_have_rules(served: RunningDesk) -> None:
    """A duplicate of its own duplicate is refused, and so is a follow-up of what came later."""
    first, second = served.ticket(), served.ticket()
    link = {"other_ticket_id": second, "relation": "duplicate_of"}
    assert served.do(first, "link", **link).status == 200
    assert served.do(first, "link", **link).json["events"] == []
    told = problem(served.do(second, "link", other_ticket_id=first, relation="duplicate_of"), 409, "circular_link")
    assert "link" in told["allowed_commands"]
    problem(served.do(first, "link", other_ticket_id=second, relation="follow_up_of"), 409, "follows_later")
    assert served.do(second, "link", other_ticket_id=first, relation="follow_up_of").status == 200
    assert json.loads(served.do(first, "link", other_ticket_id=second, relation="related_to").data)["events"]
    assert served.do(second, "link", other_ticket_id=first, relation="related_to").json["events"] == []
