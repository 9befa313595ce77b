"""The shape of the house, as the architecture draws it."""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("domain", "application", "projections", "api")
SOURCES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
SQL = re.compile(
    r"^\s*(with\b.*\bas\b|select\b|insert into\b|update \w+ set\b|delete from\b|copy \w+|truncate\b|grant\b"
    r"|listen \w+|notify \w+|create (table|schema|index|view)|drop (table|schema|database)|alter (table|role)"
    r"|set (local )?search_path)",
    re.IGNORECASE | re.DOTALL,
)


def literals(path: Path) -> list[str]:
    """Every text of a module that is not a docstring."""
    tree = ast.parse(path.read_text())
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    return [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings
    ]


def sql_in(path: Path) -> list[str]:
    """The texts of a module that are SQL statements."""
    return [text for text in literals(path) if SQL.match(text)]


@pytest.mark.parametrize("path", [path for path in SOURCES if path.parts[-2] != "migrations"], ids=str)
def test_no_file_is_two_things(path: Path) -> None:
    """A file of the four packages has at most 300 lines."""
    assert path.read_text().count("\n") <= 300


FOLDERS = sorted({path.parent for path in SOURCES if "migrations" not in path.parts}, key=str)  # those only grow
UNCOUNTED = {"__init__.py", "__main__.py", "py.typed", "static", "__pycache__"}


@pytest.mark.parametrize("folder", FOLDERS, ids=str)
def test_a_room_is_seen_at_a_glance(folder: Path) -> None:
    """A folder of the four packages has at most twelve entries."""
    assert len({path.name for path in folder.iterdir()} - UNCOUNTED) <= 12


def test_a_name_says_which_file_is_meant() -> None:
    """No two files of the four packages have the same name."""
    names = Counter(path.name for path in SOURCES if path.name not in UNCOUNTED)
    assert [name for name, count in names.items() if count > 1] == []


def test_sql_stands_in_application_and_projections_only() -> None:
    """Neither the domain nor the ways in speak SQL."""
    found = {str(path.relative_to(ROOT)): sql_in(path) for path in SOURCES}
    assert {name: texts for name, texts in found.items() if texts and name.startswith(("domain/", "api/"))} == {}
    assert sum(bool(texts) for texts in found.values()) > 10  # the search finds SQL where it is


def test_only_the_settings_read_the_environment() -> None:
    """Every setting is in one table, so nothing else may look for one."""
    readers = {
        str(path.relative_to(ROOT))
        for path in SOURCES
        if re.search(r"os\.environ|os\.getenv|environb", path.read_text()) and path.name != "settings.py"
    }
    assert readers == set()


def test_no_connection_is_opened_at_import() -> None:
    """Importing any module opens no connection and starts no process."""
    for path in SOURCES:
        for node in ast.parse(path.read_text()).body:
            called = {
                part.attr if isinstance(part, ast.Attribute) else getattr(part, "id", "")
                for call in ast.walk(node)
                if isinstance(call, ast.Call)
                and not isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef)
                for part in [call.func]
            }
            assert not called & {"connect", "pool", "Popen", "ConnectionPool"}, (path, called)


def test_every_public_name_has_a_docstring() -> None:
    """What others may use says what it is."""
    defined = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    missing = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
        for path in SOURCES
        for holder in ast.walk(ast.parse(path.read_text()))
        if isinstance(holder, ast.Module | ast.ClassDef)
        for node in holder.body
        if isinstance(node, defined) and not node.name.startswith("_") and not ast.get_docstring(node)
    ]
    assert missing == []


# Who reads a clock in a test, and why no verdict can depend on how busy the machine is.
CLOCKS = {
    "api/test_oidc_tokens.py": {
        "past": "makes the times in a token",
        "test_unknown_kids_cause_one_fetch_in_a_while": "an upper bound that grows with the time",
    },
    "api/test_rate_limits.py": {
        "spend": "an upper bound that grows with the time",
        "test_who_is_let_in_is_not_kept_out_by_a_neighbour": "waits until a remembered key is forgotten",
    },
    "api/test_sockets.py": {
        "receive": "leaves an answer unread for longer than the desk waits",
        "talk": "keeps a connection for longer than its deadlines",
        "test_a_deadline_that_was_kept_cuts_nobody_off": "holds the one above",
        "test_who_does_not_read_the_answer_is_cut_off": "holds the one above",
    },
    "application/test_combining.py": {
        "test_the_worker_is_told_once_for_many": "holds the one below",
        "work": "an upper bound that grows with the time",
    },
    "busy.py": {
        "main": "prints how long a run took",
    },
    "mutations/__main__.py": {
        "main": "prints how long a run took",
        "run": "prints how long a run took",
    },
    "projections/test_rebuild.py": {
        "test_beside_commands_the_processes_rest": "a lower bound: who is busy only takes longer",
    },
    "support/oidc_issuer.py": {
        "claims": "makes the times in a token",
    },
    "support/running_desk.py": {
        "wait_until": "the bound that only a hang meets",
    },
    "system/test_claim_storm.py": {
        "storm": "holds the one below",
        "take": "which claims were under way at once, whatever the pace",
        "test_a_storm_on_a_full_queue": "prints the rate",
    },
    "system/test_killed_worker.py": {
        "test_every_closing_gets_its_mail_and_its_outcome": "the bound that only a hang meets",
        "wait_a_moment": "the moment of a kill",
    },
}


def clock_readers(path: Path) -> Iterator[str]:
    """The functions of a module that call `time.…`, a name imported from `time`, or the clock of an event loop."""
    tree = ast.parse(path.read_text())
    imported = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "time"
        for alias in node.names
    }
    for holder in ast.walk(tree):
        if isinstance(holder, ast.FunctionDef | ast.AsyncFunctionDef):
            for call in ast.walk(holder):
                if isinstance(call, ast.Call) and reads_clock(call.func, imported):
                    yield holder.name


def reads_clock(called: ast.expr, imported: set[str]) -> bool:
    """Whether what is called is a function of `time`, or a loop's `time`."""
    if isinstance(called, ast.Attribute):
        return ast.unparse(called.value) == "time" or called.attr == "time"
    return isinstance(called, ast.Name) and called.id in imported


def test_no_verdict_depends_on_how_busy_the_machine_is() -> None:
    """Whoever reads a clock in a test is listed with the reason, and whoever does not any more is listed no longer."""
    measured = ("benchmarks", "faults")
    files = [
        path for path in (ROOT / "tests").rglob("*.py") if path.relative_to(ROOT / "tests").parts[0] not in measured
    ]
    found = {str(path.relative_to(ROOT / "tests")): set(clock_readers(path)) for path in files}
    assert {file: readers for file, readers in found.items() if readers} == {file: set(CLOCKS[file]) for file in CLOCKS}


# ── names ── (style.md; a list of exceptions fails when one is no longer needed)

# A public name that two modules may define: each has its own.
SAME_NAMES = {"log"}

# Words that were in the house, and what the field calls it.
RIDDLES = {
    "said": "require_text, detail",
    "demand": "require_allowed",
    "refused": "refusal",
    "acting": "actor_for",
    "entitled": "require_role",
    "reading": "require_read",
    "managing": "require_manage",
    "Once": "IdempotencyRequest",
    "Line": "PgConnection, SingleLine",
    "cells": "metric_store",
    "crew": "process_pool",
    "sweep": "fold_streams",
    "tail": "log_tail",
    "dealing": "claim_dispenser",
    "manners": "response_headers",
    "vitals": "ProcessStats",
    "means": "deps",
    "prose": "descriptions",
    "illustrations": "body_examples",
    "supporting": "supporting_commands",
    "remarks": "history_only_events",
    "settle": "complete_response",
    "told": "error_summary",
    "no": "errors, error_codes",
}

# Attributes with a leading underscore that no module of ours defines: another library's, each with its decision.
FOREIGN_PRIVATE_NAMES: dict[str, str] = {}


def names_bound_at_the_top(tree: ast.Module) -> set[str]:
    """The public names that a module defines itself."""
    names = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        for target in targets:
            names |= {part.id for part in ast.walk(target) if isinstance(part, ast.Name)} if target else set()
    return {name for name in names if not name.startswith("_")}


def names_given(path: Path) -> Iterator[str]:
    """The names of a module, its classes, functions, parameters, variables and attributes, and of what it imports."""
    yield path.stem
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                yield node.name
            case ast.arg() | ast.keyword() if node.arg:
                yield node.arg
            case ast.Attribute():
                yield node.attr
            case ast.Name(ctx=ast.Store()):
                yield node.id
            case ast.ExceptHandler() if node.name:
                yield node.name
            case ast.alias():
                yield (node.asname or node.name).split(".")[-1]


def names_defined(tree: ast.Module) -> Iterator[str]:
    """What a module defines at any depth: its functions, classes, variables and attributes."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                yield node.name
            case ast.Name(ctx=ast.Store()):
                yield node.id
            case ast.Attribute(ctx=ast.Store()):
                yield node.attr


def test_a_public_name_is_defined_once() -> None:
    """One name for one thing: no two modules of the four packages define the same public name at their top."""
    places: dict[str, list[str]] = {}
    for path in SOURCES:
        for name in names_bound_at_the_top(ast.parse(path.read_text())):
            places.setdefault(name, []).append(str(path.relative_to(ROOT)))
    twice = {name: files for name, files in places.items() if len(files) > 1}
    assert {name: files for name, files in twice.items() if name not in SAME_NAMES} == {}
    assert set(twice) == SAME_NAMES  # an exception that is no longer needed goes


def test_names_are_the_words_of_the_field() -> None:
    """No module, class, function, parameter, variable or attribute bears a name that was found to be a riddle."""
    found = {
        str(path.relative_to(ROOT)): {name: RIDDLES[name] for name in names_given(path) if name in RIDDLES}
        for path in SOURCES
    }
    assert {file: names for file, names in found.items() if names} == {}


def test_no_private_name_of_another_library_is_used() -> None:
    """An attribute with a leading underscore is defined in the four packages, or excepted by a decision."""
    trees = [ast.parse(path.read_text()) for path in SOURCES]
    ours = {name for tree in trees for name in names_defined(tree)}
    private = {
        node.attr
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and re.match(r"_(?!_)", node.attr)
    }
    assert private - ours == set(FOREIGN_PRIVATE_NAMES)
    assert all((ROOT / "docs" / "decisions" / decision).is_file() for decision in FOREIGN_PRIVATE_NAMES.values())
