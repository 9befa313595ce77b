"""The client directory: one entry for each unique user ID, event-sourced like the tickets."""

from collections.abc import Iterable
from functools import lru_cache
from uuid import UUID, uuid5

import msgspec

from domain.events import TICKET_EVENTS, Event, Recorded

_DIRECTORY = UUID("6f1e4c1a-5d0b-5c58-9d3c-0c7f3a1f2b7e")


@lru_cache(10_000)
def client_stream(user_id: str) -> UUID:
    """The stream of a user ID: the same ID always leads to the same stream, so an ID can exist only once."""
    return uuid5(_DIRECTORY, user_id)


class Registered(Event, frozen=True):
    """A client stands in the directory, under a user ID that nobody else has."""

    user_id: str
    name: str
    email: str
    phone: str | None = None
    organisation: str | None = None


class ContactChanged(Event, frozen=True):
    """A client's directory entry reads differently from now on."""

    user_id: str
    name: str
    email: str
    phone: str | None = None
    organisation: str | None = None


CLIENT_EVENTS: dict[str, type[Event]] = {
    "Client.Registered": Registered,
    "Client.ContactChanged": ContactChanged,
}
for _name, _event in CLIENT_EVENTS.items():
    _event.stored_as = _name
EVENTS = TICKET_EVENTS | CLIENT_EVENTS


class Client(msgspec.Struct, frozen=True):
    """A directory entry as it stands: whom the desk serves, and where the closing e-mail goes."""

    version: int
    user_id: str
    name: str
    email: str
    phone: str | None = None
    organisation: str | None = None


class Contact(msgspec.Struct, frozen=True):
    """What the directory is to say of a client."""

    name: str
    email: str
    phone: str | None = None
    organisation: str | None = None


def register(client: Client | None, user_id: str, contact: Contact) -> list[Event]:
    """The events that make the directory say `contact` of `user_id`; none when it says so already."""
    fields = (user_id, contact.name, contact.email, contact.phone, contact.organisation)
    if client is None:
        return [Registered(*fields)]
    known = Contact(client.name, client.email, client.phone, client.organisation)
    return [] if known == contact else [ContactChanged(*fields)]


def fold_client(events: Iterable[Recorded]) -> Client | None:
    """The directory entry that the events make; None when there is none."""
    client: Client | None = None
    for recorded in events:
        client = _evolve(client, recorded)
    return client


def _evolve(client: Client | None, recorded: Recorded) -> Client | None:
    version = recorded.originator_version
    match recorded.event:
        case Registered(user_id, name, email, phone, organisation):
            return Client(version, user_id, name, email, phone, organisation)
        case ContactChanged(user_id, name, email, phone, organisation):
            return Client(version, user_id, name, email, phone, organisation)
    return client
