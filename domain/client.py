"""The client directory: one entry for each unique user ID, event-sourced like the tickets."""

from collections.abc import Iterable
from functools import lru_cache
from typing import TYPE_CHECKING, Literal
from uuid import UUID, uuid5

import msgspec
from msgspec.structs import astuple, force_setattr

from domain.events import TICKET_EVENTS, Event, Recorded
from domain.text import accept_line

_DIRECTORY = UUID("6f1e4c1a-5d0b-5c58-9d3c-0c7f3a1f2b7e")


@lru_cache(10_000)
def client_stream(user_id: str) -> UUID:
    """The stream of a user ID: the same ID always leads to the same stream, so an ID can exist only once."""
    return uuid5(_DIRECTORY, user_id)


class DirectoryEvent(Event, frozen=True):
    """What the directory says of a client from now on."""

    user_id: str
    name: str
    email: str
    phone: str | None = None
    organisation: str | None = None


class Registered(DirectoryEvent, frozen=True):
    """A client stands in the directory, under a user ID that nobody else has."""


class ContactChanged(DirectoryEvent, frozen=True):
    """A client's directory entry reads differently from now on."""


CLIENT_EVENTS: dict[str, type[Event]] = {
    "Client.Registered": Registered,
    "Client.ContactChanged": ContactChanged,
}
for _name, _event in CLIENT_EVENTS.items():
    _event.stored_as = _name
EVENTS = TICKET_EVENTS | CLIENT_EVENTS
if TYPE_CHECKING:
    EventType = str
else:
    EventType = Literal[tuple(EVENTS)]  # what a filter may name


class Client(msgspec.Struct, frozen=True):
    """A directory entry as it stands: whom the desk serves, and where the closing e-mail goes."""

    version: int
    user_id: str
    name: str
    email: str
    phone: str | None = None
    organisation: str | None = None


class Contact(msgspec.Struct, frozen=True):
    """What the directory is to say of a client. Raises BlankText and UnfitText."""

    name: str
    email: str
    phone: str | None = None
    organisation: str | None = None

    def __post_init__(self) -> None:
        """Keeps each text as it is to be stored."""
        for field in ("name", "phone", "organisation"):
            if (given := getattr(self, field)) is not None:
                force_setattr(self, field, accept_line(field, given))


class Precondition(msgspec.Struct, frozen=True):
    """What a caller takes the directory entry to be: at that version; there (`exists`), or not there yet."""

    version: int | None = None
    exists: bool | None = None

    def holds(self, client: Client | None) -> bool:
        """Whether the entry is so."""
        if self.version is not None:
            return client is not None and client.version == self.version
        return self.exists in (None, client is not None)


NO_PRECONDITION = Precondition()


def register(client: Client | None, user_id: str, contact: Contact) -> list[Event]:
    """The events that make the directory say `contact` of `user_id`; none when it says so already."""
    entry = (user_id, *astuple(contact))
    if client is None:
        return [Registered(*entry)]
    return [] if astuple(client)[1:] == entry else [ContactChanged(*entry)]


def fold_client(events: Iterable[Recorded]) -> Client | None:
    """The directory entry that the events make; None when there is none."""
    client: Client | None = None
    for recorded in events:
        if isinstance(recorded.event, DirectoryEvent):
            client = Client(recorded.originator_version, *astuple(recorded.event))
    return client
