"""The desk as an application of the eventsourcing library: the way in for every process that is not the API, and for
the users' own Python programs."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import Self
from uuid import UUID

from eventsourcing.application import Application
from eventsourcing.persistence import InfrastructureFactory, IntegrityError
from eventsourcing.utils import Environment

from application.clock import utc_now
from application.command import Command, Opening
from application.database import pool
from application.deciding import (
    MOST_TRIES,
    NO_TRACE,
    Outcome,
    Policy,
    Request,
    Trace,
    decide,
    decide_client,
    new_stream_id,
)
from application.event_store import Kept
from application.recorder import Connections, EventRecorder, Factory
from application.repeating import Once
from domain.client import Client, Contact, client_stream
from domain.errors import DeskError, StaleVersion, UnknownTicket
from domain.events import Event, Recorded
from domain.ticket import fold
from domain.values import Actor, Principal

DEFAULT_POLICY = Policy()


class HelpDesk(Application[UUID]):
    """Takes commands: load → decide → save. Whoever made the connections that are handed in closes them."""

    recorder: EventRecorder

    def __init__(self, connections: Connections, policy: Policy = DEFAULT_POLICY) -> None:
        self.connections, self.policy = connections, policy
        super().__init__()

    @classmethod
    @contextmanager
    def connect(cls, url: str, policy: Policy = DEFAULT_POLICY, size: int = 4) -> Iterator[Self]:
        """A desk on this database with at most `size` connections of its own, which are closed at the end."""
        with pool(url, "helpdesk", size) as connections, cls(connections, policy) as desk:
            yield desk

    def construct_factory(self, env: Environment) -> InfrastructureFactory:
        """The factory of the desk's own recorder and mapper."""
        factory = Factory(env)
        factory.connections = self.connections
        return factory

    def handle(
        self, command: Command | Opening, who: Principal, ticket_id: UUID | None = None, version: int | None = None
    ) -> Outcome:
        """Does now what somebody asks for: to the ticket, or where the command begins one, to a new ticket.

        With a `version`, only if that is still the ticket's version. Raises what `execute` raises.
        """
        now = utc_now()
        request = Request(ticket_id or new_stream_id(now), command, who, now, version, policy=self.policy)
        return self.execute(request)

    def execute(self, request: Request, once: Once | None = None) -> Outcome:
        """Does what a command asks for; does it again on what is there now when somebody else came first.

        Raises StaleVersion when the request names a version that is not the current one, the errors of `decide`, and
        Repeated or KeyReused when `once` has a key that is known.
        """
        for _ in range(MOST_TRIES):
            number = self.recorder.next_number() if request.command.takes_number else ""  # a new one for each try
            try:
                outcome = decide(request, self.recorder.load(request.reads()), number)
            except DeskError:  # what was done before may be impossible by now
                self._recognise(once)
                raise
            if not outcome.events:
                self._recognise(once)
            if self._recorded(outcome.events, once.kept(outcome) if once else None):
                return outcome
            self._recognise(once)
        raise StaleVersion(request.ticket_id)

    def _recognise(self, once: Once | None) -> None:
        if once:
            once.recognise(self.recorder.find_kept(once.principal, once.key))

    def register_client(
        self, user_id: str, contact: Contact, who: Principal, now: datetime, trace: Trace = NO_TRACE
    ) -> Client:
        """Makes the directory say `contact` of `user_id`."""
        for _ in range(MOST_TRIES):
            client, new = decide_client(user_id, contact, who, now, self.history(client_stream(user_id)), trace)
            if self._recorded(new):
                return client
        raise StaleVersion(client_stream(user_id))

    def record(self, ticket_id: UUID, event: Event, by: Actor, now: datetime, trace: Trace = NO_TRACE) -> Recorded:
        """Records a fact that no rule can refuse, as what became of an e-mail, behind what the ticket has by then.

        Raises UnknownTicket, and StaleVersion when others were faster too often.
        """
        for _ in range(MOST_TRIES):
            ticket = fold(self.history(ticket_id))
            if ticket is None:
                raise UnknownTicket
            version, at = ticket.version + 1, max(now, ticket.updated_at)
            came = (trace.correlation_id, trace.causation_id, trace.traceparent)
            fact = Recorded(ticket_id, version, at, by, event, *came, ticket.level)
            with suppress(IntegrityError):
                self.save(fact)
                return fact
        raise StaleVersion(ticket_id)

    def history(self, stream_id: UUID) -> list[Recorded]:
        """Every event of a stream, oldest first."""
        return self.recorder.load([stream_id]).get(stream_id, [])

    def _recorded(self, events: tuple[Recorded, ...], kept: Kept | None = None) -> bool:
        try:
            if events:
                self.save(*events, kept=kept)
            elif kept:
                self.recorder.keep(kept)
        except IntegrityError:
            return False
        return True
