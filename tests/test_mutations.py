"""The table of mutations cannot rot: what it takes out stands in the tree, and what it names is there."""

import pytest

from tests.mutations.__main__ import ROOT, edited, homes
from tests.mutations.table import MUTATIONS, PROMISES, Mutation


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.mechanism)
def test_what_is_taken_out_and_what_must_fail_is_there(mutation: Mutation) -> None:
    """Each text stands in the product exactly once, and each test that is named exists."""
    for old, new in mutation.edits.items():
        path, text = edited(ROOT, old, new)
        assert text != path.read_text()
    assert all(homes(test) for test in mutation.tests)


def test_every_promise_is_guarded() -> None:
    """Each promise of the page stands on a mechanism in the table."""
    assert {promise for mutation in MUTATIONS for promise in mutation.promises.split()} == set(PROMISES)
