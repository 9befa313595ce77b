"""What every command is made of: its texts, what it reads, and its way to the decision."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar
from uuid import UUID

import msgspec
from msgspec.structs import asdict

from application.commands.text_types import WithTexts
from domain.client import Client, client_stream, fold_client
from domain.errors import UnknownClient, UnknownOther
from domain.events import Event, Recorded, RequestReceived
from domain.rules import Given
from domain.ticket import Snapshot, Ticket, fold
from domain.values import Actor, Principal


class Loaded(msgspec.Struct, frozen=True):
    """What a command gets beside the ticket: who asks when, who acts, the ticket's history, the other streams that it
    asked for, a ticket number, the person whom it names.

    A history begins with a snapshot where there is one, but for a command that needs all of it.
    """

    given: Given
    actor: Actor
    history: Sequence[Recorded] = ()
    others: Mapping[UUID, Sequence[Recorded]] = {}
    number: str = ""
    assignee: Principal | None = None

    def ticket(self, ticket_id: UUID) -> Ticket:
        """Another ticket, whose stream was asked for; raises UnknownOther. The directory has streams too."""
        stream = self.others.get(ticket_id)
        ticket = fold(stream) if stream and isinstance(stream[0].event, RequestReceived | Snapshot) else None
        if ticket is None:
            raise UnknownOther
        return ticket

    def client(self, user_id: str) -> Client:
        """The directory entry; raises UnknownClient."""
        client = fold_client(self.others.get(client_stream(user_id), ()))
        if client is None:
            raise UnknownClient
        return client


class Wish(WithTexts, frozen=True, forbid_unknown_fields=True):
    """What somebody wants: something of a ticket, or a new one. Few need more of its history than the ticket."""

    name: ClassVar[str]
    takes_number: ClassVar[bool] = False
    needs_history: ClassVar[bool] = False

    def reads(self) -> tuple[UUID, ...]:
        """The streams that the decision needs beside the ticket's own."""
        return ()

    def names(self, who: Principal) -> str | None:
        """The id of the person whom the command names beside the one who asks: it is looked up. Most name nobody."""
        return None


Decision = Callable[..., list[Event]]


class Command(Wish, frozen=True):
    """What somebody wants of a ticket: the fields that its decision takes."""

    decision: ClassVar[Decision]

    def takes(self, ticket: Ticket, loaded: Loaded) -> dict[str, Any]:
        """What the decision takes by name, beside the ticket and what is given: the fields, if nothing else is said."""
        return asdict(self)

    def decide(self, ticket: Ticket, loaded: Loaded) -> list[Event]:
        """The events that fulfil the wish. Raises what the decision raises."""
        return type(self).decision(ticket, loaded.given, **self.takes(ticket, loaded))


CommandTable = dict[str, type[Command]]


def decided_by(*rows: tuple[type[Command], Decision]) -> CommandTable:
    """A table of commands. Each has the name of its decision."""
    for command, decision in rows:
        command.name, command.decision = decision.__name__, decision
    return {command.name: command for command, _ in rows}


class Opening(Wish, frozen=True):
    """A command that begins a ticket."""

    def begin(self) -> RequestReceived:
        """The first event of the ticket."""
        raise NotImplementedError

    def then(self) -> tuple[Command, ...]:
        """The commands that follow at once, each decided on the ticket as the one before has left it."""
        return ()
