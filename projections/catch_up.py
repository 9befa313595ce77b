"""A runner that is far behind: several processes catch up, each with projections of its own, so that all cores work.

Every projection has its own checkpoint, and whoever moves it holds its row: so this needs nothing that one runner does
not need, and another runner beside it is as harmless as ever. Near the end of the log one runner goes on for all.
"""

from collections.abc import Sequence
from typing import Any, LiteralString

import psycopg

from projections.engine.process_pool import process_pool
from projections.runner import SET_LOOK_UP_PLANS, TAKE_OVER_SECONDS, project, project_all

FAR = 100_000  # events: a few seconds of work, against half a second that it takes to start the processes
SHARES = (("ticket_summaries",), ("queue_stays", "closings"))  # about the same work
COUNT_EVENTS_BEHIND: LiteralString = "select (select max(position) from log) - min(position) from projections"
PREPARED = (
    "set synchronous_commit to off",  # a batch that a crash of the database takes back is applied again
    f"set idle_in_transaction_session_timeout to '{TAKE_OVER_SECONDS}s'",
    SET_LOOK_UP_PLANS,
)


def catch_up(connection: psycopg.Connection[Any], far: int = FAR) -> int:
    """Brings the projections to the end of the log. Returns how many events were applied, of the longest way."""
    (behind,) = connection.execute(COUNT_EVENTS_BEHIND).fetchone() or (0,)
    if not behind:  # as it is nearly always: one question, and no more
        return 0
    longest = 0
    if behind > far:
        with process_pool(connection, len(SHARES), PREPARED, "worker") as run:
            longest = max(run((project_share, (share,)) for share in SHARES))
    return longest + project_all(connection)


def project_share(connection: psycopg.Connection[Any], names: Sequence[str]) -> int:
    """A task: batches of these projections, until they are at the end of the log or somebody else has them."""
    total = 0
    while count := project(connection, only=names):
        total += count
    return total
