"""E-mail addresses are checked where they come in, when somebody is there who can mend them."""

import msgspec
import psycopg
import pytest

from application.commands.email_addresses import is_address, read_address, wire_address
from application.commands.procedure_commands import RequestSender
from application.commands.supporting_commands import RegisterClient
from application.helpdesk import HelpDesk
from application.settings import SettingsError, read_settings
from domain.client import Client, Contact, client_stream, fold_client
from domain.values import Role
from tests.support.running_desk import RunningDesk
from tests.support.write_side import NOW, STAFF

GOOD = {
    "anne@example.org": "anne@example.org",
    "Anne+printer@EXAMPLE.org": "Anne+printer@example.org",
    '"Big Bug"@bug.com': '"Big Bug"@bug.com',
    "usér@example.org": "usér@example.org",
    "anne@münchen.example": "anne@xn--mnchen-3ya.example",
    "usér@münchen.example": "usér@xn--mnchen-3ya.example",
    "anne@xn--mnchen-3ya.example": "anne@xn--mnchen-3ya.example",
    "anne@office.local": "anne@office.local",
    "anne@mail.test": "anne@mail.test",
}
BAD = {
    "a..b@example.org": "two periods in a row",
    ".a@example.org": "period",
    "a@b": "period",
    "a@example..org": "period",
    "a@-example.org": "hyphen",
    "a@localhost": "period",
    "a@123.123": "top-level domain",
    "a" * 65 + "@example.org": "too long",
    "a@" + "b" * 64 + ".org": "",
    "a@[127.0.0.1]": "an e-mail address",
    "Anne <anne@example.org>": "an e-mail address",
    "a@b@example.org": "an e-mail address",
    '"a\r\nBcc: x"@example.org': "an e-mail address",
}


@pytest.mark.parametrize("address", GOOD)
def test_what_can_be_an_address_is_taken(shared_desk: RunningDesk, address: str) -> None:
    """And kept as it was given; on the wire its domain is in A-labels."""
    user_id, key = f"addressed-{abs(hash(address))}", shared_desk.key(Role.INTAKE)
    reply = shared_desk.request("PUT", f"/v1/clients/{user_id}", {"name": "Anne", "email": address}, key)
    assert (reply.status, reply.json["email"]) == (201, address)
    body = {"channel": "email", "text": "no toner", "sender": {"email": address}}
    assert shared_desk.request("POST", "/v1/requests", body, key).status == 201
    assert wire_address(read_address(address)) == GOOD[address]


@pytest.mark.parametrize("address", BAD)
def test_what_cannot_be_one_is_refused_with_why(shared_desk: RunningDesk, address: str) -> None:
    """422, at the field, in words that help; nothing is recorded."""
    key = shared_desk.key(Role.INTAKE)
    put = shared_desk.request("PUT", "/v1/clients/unaddressed", {"name": "Anne", "email": address}, key)
    body = {"channel": "email", "text": "no toner", "sender": {"email": address}}
    post = shared_desk.request("POST", "/v1/requests", body, key)
    for reply, pointer in ((put, "/email"), (post, "/sender/email")):
        assert (reply.status, reply.json["code"], reply.json["errors"][0]["pointer"]) == (422, "invalid_body", pointer)
        assert BAD[address] in reply.json["errors"][0]["detail"]
    assert shared_desk.get("/v1/clients/unaddressed").status == 404


@pytest.mark.parametrize("address", BAD)
def test_a_struct_takes_no_other(address: str) -> None:
    """Whatever makes it: bodies of the API, and Python programs of users."""
    assert not is_address(address)
    for struct, field in ((RegisterClient, {"name": "x"}), (RequestSender, {})):
        with pytest.raises((ValueError, msgspec.ValidationError), match="Invalid field `email`"):
            struct(email=address, **field)
    assert RequestSender().email is None


def test_what_is_in_the_directory_already_stays(desk: HelpDesk, connection: psycopg.Connection) -> None:
    """Earlier versions took addresses that cannot be one: their entries are read as before."""
    desk.register_client("old", Contact("Old", "a..b@example.org"), STAFF, NOW)
    assert fold_client(desk.history(client_stream("old"))) == Client(1, "old", "Old", "a..b@example.org")


@pytest.mark.parametrize(
    ("value", "taken"),
    [
        ("Service desk <desk@example.org>", True),
        ("desk@localhost", True),
        ("Büro <desk@münchen.example>", True),
        ("dësk@example.org", False),
        ("a..b@example.org", False),
        ("desk", False),
    ],
)
def test_the_desks_own_address_is_checked_at_the_start(value: str, taken: bool) -> None:
    """Before its @ it is in ASCII, since a server without SMTPUTF8 could take no mail at all."""
    if taken:
        assert read_settings({"DESKLEDGER_MAIL_FROM": value}).mail_from == value
    else:
        with pytest.raises(SettingsError, match="it takes an e-mail address"):
            read_settings({"DESKLEDGER_MAIL_FROM": value})
