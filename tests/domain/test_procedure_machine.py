"""The whole procedure at random, a few lives of a desk, the same ones each time."""

from collections import Counter

from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from tests.support.procedure_machine import QUIET, Desk, reached


def test_the_desk_keeps_every_rule_whatever_it_is_asked():
    """Rules 1 to 11 hold after every command, whoever gives it, in whatever order, whatever the clock does."""
    reached.clear()
    run_state_machine_as_test(Desk, settings=settings(QUIET, max_examples=20, derandomize=True))
    assert reached >= Counter(Closed=1, ClientApproved=1)
