"""The command that CONTRIBUTING.md adds as an example is added to a copy of the tree: it works, and its test passes."""

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.reference_pages import ROOT

PAGE = (ROOT / "CONTRIBUTING.md").read_text().partition("## Add a command")[2]
BLOCK = re.compile(r"(?P<text>.*?)^```python\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"`((?:domain|application|projections|api|tests)/[\w/]+\.py)`")
DOTS = "    # ...\n"
PACKAGES = ("domain", "application", "projections", "api")
OPERATION = """
from api.http.app import create_app
from application.settings import Settings
from api.openapi.operations import ENDPOINTS
create_app(Settings(database_url="postgresql://nobody@127.0.0.1/nothing"))
assert "remind_client" in {one.name for one in ENDPOINTS}
"""


def blocks() -> list[tuple[str, str]]:
    """What the page shows: for each block the file that the text before it names last before naming another, and it."""
    found, file = [], ""
    for block in BLOCK.finditer(PAGE):
        named = FILE.findall(block["text"].rpartition("**")[2] if "**" in block["text"] else block["text"])
        file = named[0] if named else file
        found.append((file, re.sub(r"    \.\.\.,?\n", DOTS, block["code"])))
    return found


def added(source: str, code: str) -> str:
    """A module with what a block shows of it: definitions, entries of a table, a case."""
    if code.startswith(" "):  # a case: in front of the first one
        return source.replace(first_case := re.search(r"^ +case ", source, re.MULTILINE)[0], code + first_case, 1)
    for node in ast.parse(code).body:
        shown = ast.get_source_segment(code, node) or ""
        if isinstance(node, ast.Assign):
            source = with_entries(source, node.targets[0].id, shown)
        else:  # in front of the last table of the module, which may name it, or at the end
            tables = [one.lineno for one in ast.parse(source).body if isinstance(one, ast.AnnAssign)]
            lines = source.splitlines(keepends=True)
            place = tables[-1] - 1 if tables and isinstance(node, ast.ClassDef) else len(lines)
            source = "".join([*lines[:place], "\n\n" + shown + "\n\n\n", *lines[place:]])
    return source


def with_entries(source: str, table: str, shown: str) -> str:
    """A table with the lines before the dots in place of as many of its own, and those behind them at its end."""
    before, _, behind = shown.partition(DOTS)
    leading = before.splitlines(keepends=True)[1:]
    entries = behind.splitlines(keepends=True)[:-1]
    (node,) = (
        one
        for one in ast.parse(source).body
        if isinstance(one, ast.Assign | ast.AnnAssign)
        and ast.unparse(one).partition(" =")[0].partition(":")[0] == table
    )
    lines = source.splitlines(keepends=True)
    lines[node.end_lineno - 1 : node.end_lineno - 1] = entries
    lines[node.lineno : node.lineno + len(leading)] = leading
    return "".join(lines)


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tree with the command in it."""
    there = tmp_path_factory.mktemp("contributing")
    for part in (*PACKAGES, "tests"):
        shutil.copytree(ROOT / part, there / part, ignore=shutil.ignore_patterns("__pycache__", "material"))
    shutil.copy(ROOT / "pyproject.toml", there)
    for file, code in blocks():
        path = there / file
        path.write_text(added(path.read_text(), code))
    return there


def run(there: Path, *words: str) -> None:
    """A program of the copy, which must end well."""
    done = subprocess.run([sys.executable, *words], cwd=there, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_it_touches_at_most_seven_files_of_the_product() -> None:
    """What a new command costs."""
    files = {file for file, _ in blocks() if file.startswith(PACKAGES)}
    assert 5 <= len(files) <= 7, files


def test_the_contract_has_it(copy: Path) -> None:
    """The API starts, and describes the command."""
    run(copy, "-c", OPERATION)


def test_its_test_passes(copy: Path) -> None:
    """The decision does what the page says, and everything that held before holds beside it."""
    run(copy, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/domain/test_decisions.py")
