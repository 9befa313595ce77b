"""What every command is made of: its texts, what it reads, and its way to the decision."""

from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar
from uuid import UUID

import msgspec

from domain.client import Client, client_stream, fold_client
from domain.errors import UnknownClient
from domain.events import Event, Recorded, RequestReceived
from domain.rules import Given
from domain.ticket import Snapshot, Ticket
from domain.values import Actor

# Not blank, and then one class for every character: two neighbouring parts that both fit a character would take n²
# steps to say no to a long text.
SAYS_SOMETHING = r"^(?!\s*$)[^\x00]+$"  # without NUL, which PostgreSQL cannot store
ONE_LINE = r"^(?!\s*$)[^\x00-\x1f\x7f-\x9f\u2028\u2029]+$(?!\n)"  # without control characters and line separators
Line = Annotated[str, msgspec.Meta(min_length=1, max_length=500, pattern=ONE_LINE)]
Text = Annotated[str, msgspec.Meta(min_length=1, max_length=100_000, pattern=SAYS_SOMETHING)]
USER_ID = r"^[A-Za-z0-9][A-Za-z0-9._@+-]*$(?!\n)"
UserId = Annotated[str, msgspec.Meta(min_length=1, max_length=200, pattern=USER_ID)]
ADDRESS = r"^[^\x00-\x1f\x7f\s@<>,;:\"()\[\]\\]+@[^\x00-\x1f\x7f\s@<>,;:\"()\[\]\\]+$(?!\n)"
Email = Annotated[str, msgspec.Meta(min_length=3, max_length=254, pattern=ADDRESS)]
SHA256 = r"^[0-9a-f]{64}$(?!\n)"
Sha256 = Annotated[str, msgspec.Meta(pattern=SHA256)]


class Loaded(msgspec.Struct, frozen=True):
    """What a command gets beside the ticket: who acts, its history, the other streams it asked for, a ticket number.

    A history begins with a snapshot where there is one, but for a command that needs all of it.
    """

    actor: Actor
    history: Sequence[Recorded] = ()
    others: Mapping[UUID, Sequence[Recorded]] = {}
    number: str = ""

    def has_ticket(self, ticket_id: UUID) -> bool:
        """Whether a stream that was asked for is a ticket's; the directory has streams too."""
        stream = self.others.get(ticket_id)
        return bool(stream and isinstance(stream[0].event, RequestReceived | Snapshot))

    def client(self, user_id: str) -> Client:
        """The directory entry; raises UnknownClient."""
        client = fold_client(self.others.get(client_stream(user_id), ()))
        if client is None:
            raise UnknownClient
        return client


class Command(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What somebody wants of a ticket. Few need more of its history than the ticket that it makes."""

    name: ClassVar[str]
    takes_number: ClassVar[bool] = False
    needs_history: ClassVar[bool] = False

    def reads(self) -> tuple[UUID, ...]:
        """The streams that the decision needs beside the ticket's own."""
        return ()

    def decide(self, ticket: Ticket, given: Given, loaded: Loaded) -> list[Event]:
        """The events that fulfil the wish."""
        raise NotImplementedError


class Opening(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A command that begins a ticket."""

    name: ClassVar[str]
    takes_number: ClassVar[bool] = False
    needs_history: ClassVar[bool] = False

    def reads(self) -> tuple[UUID, ...]:
        """The streams that the decision needs."""
        return ()

    def begin(self) -> Event:
        """The first event of the ticket."""
        raise NotImplementedError

    def then(self) -> tuple[Command, ...]:
        """The commands that follow at once, each decided on the ticket as the one before has left it."""
        return ()
