"""A snapshot and the events behind it make the same ticket as all of the events, wherever the snapshot lies."""

import msgspec
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from application.store.event_store import to_recorded, to_row
from domain.events import Recorded
from domain.ticket import Snapshot, evolve, fold
from tests.support.procedure_machine import QUIET, Desk

compared = 0


def restored(last: Recorded, upto: list[Recorded]) -> Recorded:
    """What the store gives in place of the last of some events: a snapshot that was written and read again."""
    ticket, row = fold(upto), to_row(last)
    assert ticket is not None
    body = msgspec.json.encode(Snapshot(ticket))
    return to_recorded(last.originator_id, last.originator_version, row.at, Snapshot.stored_as, body, row.meta)


class SnapshotDesk(Desk):
    """At the end of a life of a desk, every ticket is folded from every snapshot that could have been made of it."""

    def teardown(self) -> None:
        """Compares, at every version behind each snapshot."""
        global compared
        for ticket_id in self.tickets:
            history = self.streams[ticket_id]
            whole = [fold(history[:end]) for end in range(len(history) + 1)]
            for cut in range(1, len(history) + 1):
                snapshot = restored(history[cut - 1], history[:cut])
                one_by_one = fold([snapshot])
                for end in range(cut, len(history) + 1):
                    assert fold([snapshot, *history[cut:end]]) == whole[end]
                    if end > cut:  # as the worker goes on from a snapshot
                        one_by_one = evolve(one_by_one, history[end - 1])
                    assert one_by_one == whole[end]
                    compared += 1


def test_a_snapshot_and_the_rest_make_the_same_ticket_as_the_whole() -> None:
    """For random histories, whatever was asked of the desk, and through the JSON that a snapshot is stored as."""
    run_state_machine_as_test(SnapshotDesk, settings=settings(QUIET, max_examples=10, derandomize=True))
    assert compared > 1_000
