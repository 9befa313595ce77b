"""The client directory: one entry for each unique user ID."""

from uuid import UUID

import pytest

from domain import events as e
from domain.client import Client, Contact, ContactChanged, Registered, client_stream, fold_client, register
from domain.values import Channel
from tests.support.given import QUALITY, START

CONTACT = Contact("Client A", "a@example.org", "+000", "Org A")
CLIENT = Client(1, "client-a", "Client A", "a@example.org", "+000", "Org A")
REGISTERED = Registered("client-a", "Client A", "a@example.org", "+000", "Org A")


def directory(*events: e.Event) -> Client | None:
    """The entry that these events make."""
    stream = client_stream("client-a")
    return fold_client(e.Recorded(stream, version, START, QUALITY, event) for version, event in enumerate(events, 1))


def test_a_client_is_registered_once():
    """The first entry of a user ID registers it; the same entry again records nothing."""
    assert register(None, "client-a", CONTACT) == [REGISTERED]
    assert directory(REGISTERED) == CLIENT
    assert register(CLIENT, "client-a", CONTACT) == []


def test_a_client_needs_only_a_name_and_an_address():
    """Telephone and organisation may be left out, and may come later."""
    assert register(None, "client-a", Contact("Client A", "a@example.org")) == [
        Registered("client-a", "Client A", "a@example.org", None, None)
    ]
    assert register(CLIENT, "client-a", Contact("Client A", "a@example.org")) == [
        ContactChanged("client-a", "Client A", "a@example.org", None, None)
    ]
    fields = ("client-a", "Client A", "a@example.org")
    assert Registered(*fields) == Registered(*fields, None, None)
    assert ContactChanged(*fields) == ContactChanged(*fields, None, None)
    assert Client(1, *fields) == Client(1, *fields, None, None)


@pytest.mark.parametrize(
    "contact",
    [
        Contact("Client Ä", "a@example.org", "+000", "Org A"),
        Contact("Client A", "b@example.org", "+000", "Org A"),
        Contact("Client A", "a@example.org", "+001", "Org A"),
        Contact("Client A", "a@example.org", "+000", "Org B"),
    ],
)
def test_whatever_reads_differently_is_a_change(contact: Contact):
    """A new name, address, telephone or organisation changes the entry, whole, and under the same user ID."""
    changed = ContactChanged("client-a", contact.name, contact.email, contact.phone, contact.organisation)
    assert register(CLIENT, "client-a", contact) == [changed]
    assert directory(REGISTERED, changed) == Client(
        2, "client-a", contact.name, contact.email, contact.phone, contact.organisation
    )
    assert register(directory(REGISTERED, changed), "client-a", contact) == []


def test_what_is_no_entry_makes_none():
    """Without events there is no entry, and an event of something else does not touch it."""
    foreign = e.RequestReceived(Channel.WEB, "help")
    assert directory() is None
    assert directory(foreign) is None
    assert directory(REGISTERED, foreign) == CLIENT


def test_a_user_id_has_one_stream_for_ever():
    """The same user ID leads to the same stream on every machine, so a user ID exists only once."""
    assert client_stream("client-a") == UUID("f990569a-954a-5eef-a4a9-fb680fa70a30")
    assert client_stream("client-a") != client_stream("client-A")
