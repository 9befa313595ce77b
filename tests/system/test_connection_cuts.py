"""The answer may be lost at any point: who sends again under the same key has it done once: `make chaos`, short."""

import asyncio

from tests.faults.connection_cuts import CUTS, storm, table
from tests.support.running_desk import RunningDesk

COMMANDS, SEED = 400, "20261123"


def test_whoever_sends_again_has_each_command_done_once(served: RunningDesk) -> None:
    """16 clients behind a proxy that cuts connections at every point, while a process of the API is killed: each
    command is recorded exactly once, none is lost, and each answer of a key is the first one, byte for byte."""
    report = asyncio.run(storm(served, SEED, COMMANDS))
    print(table(report))
    assert report.wrong == []
    assert report.recorded == COMMANDS
    assert {where for where, _ in report.cuts} == set(CUTS)
    assert report.replayed > 0
    assert report.refused > 0
