"""The whole procedure at random, many lives of a desk, others each time: the long form of the one in tests/domain."""

from collections import Counter

from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from domain import events as e
from tests.support.procedure_machine import QUIET, Desk, reached

DEEP = [
    *("received", "identified", "created", "documented", "in_support", "resolved", "verified", "closed", "cancelled"),
    *("deciding", "awaiting_approval", "approved", "in support at onsite", "in support at noc"),
    *(event.__name__ for event in e.TICKET_EVENTS.values()),
]


def test_the_desk_keeps_every_rule_whatever_it_is_asked():
    """Rules 1 to 11 hold after every command, whoever gives it, in whatever order, whatever the clock does."""
    reached.clear()
    run_state_machine_as_test(Desk, settings=settings(QUIET, max_examples=250, print_blob=True))
    assert reached >= Counter(dict.fromkeys(DEEP, 5))
