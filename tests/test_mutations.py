"""The table of mutations cannot rot: what it takes out stands in the tree, and what it names is there."""

import re
from pathlib import Path

import pytest

from tests.mutations import MUTATIONS, PROMISES, ROOT, Mutation, applied, table

PAGE = ROOT / "docs" / "explanation" / "what-each-test-guards.md"
FUNCTION = re.compile(r"^(?:async )?def (test_\w+)\(", re.MULTILINE)


def functions(file: Path) -> set[str]:
    """The tests of a file."""
    return set(FUNCTION.findall(file.read_text()))


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.mechanism)
def test_what_is_taken_out_is_there(mutation: Mutation) -> None:
    """Each text stands in its file exactly once, and taking it out changes the file."""
    for file, old, new in mutation.edits:
        text = (ROOT / file).read_text()
        assert applied(text, old, new) != text


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.mechanism)
def test_the_named_tests_are_there(mutation: Mutation) -> None:
    """Each mutation names at least one test, and each of them exists."""
    named = [test.partition("[")[0].partition("::") for test in mutation.tests]
    assert named
    assert [test for file, _, test in named if test not in functions(ROOT / file)] == []


def test_a_text_that_is_not_there_once_is_refused() -> None:
    """A mutation of a text that is gone, or that stands there twice, is an error and not a mutation that survives."""
    assert applied("one two", "two", "three") == "one three"
    for text in ("one", "two two"):
        with pytest.raises(ValueError, match="stands there"):
            applied(text, "two", "three")


def test_every_promise_is_guarded() -> None:
    """Each of the log's eight properties and of combining's five promises stands on a mechanism in the table."""
    guarded = {promise for mutation in MUTATIONS for promise in mutation.promises.split()}
    assert guarded == set(PROMISES)
    assert guarded >= {*"12345678", *"abcde"}


def test_no_mechanism_is_listed_twice() -> None:
    """A mechanism has one row, and a row changes something that no other row changes."""
    assert len({mutation.mechanism for mutation in MUTATIONS}) == len({m.edits for m in MUTATIONS}) == len(MUTATIONS)


def test_the_page_has_the_table() -> None:
    """docs/explanation/what-each-test-guards.md says what the table says: python -m tests.mutations --table."""
    assert table() in PAGE.read_text()
