"""Remarks only add to the history of a ticket: what else a read model holds of it stays as it is.

They are the most frequent events of a busy desk, so a batch is freed of them first. Where a dossier stands they do
change more (`procedure.DOSSIER_STANDS`): there they go the way of all events.
"""

from collections.abc import Sequence, Set

from psycopg.sql import SQL, Composable

from domain.procedure import DOSSIER_STANDS
from domain.ticket import HISTORY_ONLY_EVENTS
from projections.engine.sealed_log import Sealed

DOSSIERS: Composable = SQL("({})").format(SQL(", ").join(sorted(DOSSIER_STANDS)))  # for "state in"


def only_remarks(batch: Sequence[Sealed]) -> dict[int, Sealed]:
    """The last event of each ticket that a batch has nothing but remarks on, by the number of the ticket's ID."""
    last = {sealed.stream_id.int: sealed for sealed in batch if type(sealed.event) in HISTORY_ONLY_EVENTS}
    for sealed in batch if last else ():
        if type(sealed.event) not in HISTORY_ONLY_EVENTS:
            last.pop(sealed.stream_id.int, None)
    return last


def without(batch: list[Sealed], tickets: Set[int]) -> list[Sealed]:
    """The batch without the events of some tickets, given by the numbers of their IDs."""
    return [sealed for sealed in batch if sealed.stream_id.int not in tickets] if tickets else batch
