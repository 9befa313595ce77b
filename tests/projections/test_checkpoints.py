"""A projection's checkpoint moves with its rows, from where the batch began, or not at all."""

import psycopg
import pytest

from application.helpdesk import HelpDesk
from application.store.sealing import seal_all
from projections.engine.projection import positions
from projections.runner import project_all
from tests.support.write_side import opened

# What a second runner would do that holds no lock: moves the checkpoint while the batch is being applied.
OVERTAKE = """
    create function overtake() returns trigger language plpgsql as $$
    begin update projections set position = 1; return null; end $$;
    create trigger overtake after insert on ticket_summaries execute function overtake()"""


def test_a_checkpoint_that_moved_undoes_the_batch(desk: HelpDesk, connection: psycopg.Connection) -> None:
    """A checkpoint is compared before it is set: what somebody else has applied meanwhile is not applied again."""
    opened(desk)
    seal_all(connection)
    connection.execute(OVERTAKE)
    with pytest.raises(RuntimeError, match="checkpoint moved"):
        project_all(connection)
    assert set(positions(connection).values()) == {0}
    assert connection.execute("select count(*) from ticket_summaries").fetchone() == (0,)
