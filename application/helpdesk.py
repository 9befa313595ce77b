"""The desk as an application of the eventsourcing library: the synchronous shell, for programs and tests."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import psycopg
from eventsourcing.application import Application
from eventsourcing.persistence import InfrastructureFactory, IntegrityError
from eventsourcing.utils import Environment
from psycopg_pool import ConnectionPool

from application.deciding import MOST_TRIES, NO_TRACE, Outcome, Request, Trace, decide, decide_client
from application.event_store import Kept
from application.recorder import EventRecorder, Factory
from application.repeating import Once
from domain.client import Client, Contact, client_stream
from domain.errors import DeskError, StaleVersion
from domain.events import Recorded
from domain.values import Principal


class HelpDesk(Application[UUID]):
    """Takes commands: load → decide → save. `pool` gives the connections; whoever made it closes it."""

    recorder: EventRecorder

    def __init__(self, pool: ConnectionPool[psycopg.Connection[Any]]) -> None:
        self.pool = pool
        super().__init__()

    def construct_factory(self, env: Environment) -> InfrastructureFactory:
        """The factory of the desk's own recorder and mapper."""
        factory = Factory(env)
        factory.pool = self.pool
        return factory

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


def utc_now() -> datetime:
    """The clock of the desk; decisions get its value, never the clock."""
    return datetime.now(UTC)
