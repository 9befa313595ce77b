"""What was answered up to a time is the same when it is asked for again, whatever happened at that time."""

from pathlib import Path

from tests.benchmarks.edge_of_time import storm
from tests.support.running_desk import RunningDesk

READS = 400


def test_every_figure_up_to_the_present_is_final(strict_database: str, tmp_path: Path) -> None:
    """Reports, queues, lists and feed at the edge, beside writers, a worker that is away and an open writer."""
    with RunningDesk(strict_database, tmp_path) as desk:
        told = storm(desk, READS, undisturbed=4.0)
    assert told.changed == []
    assert {each.status for each in told.reads} <= {200, 503}
    calm = [each.status for each in told.reads if not each.in_the_way]
    assert calm.count(200) >= 0.95 * len(calm) > 0
