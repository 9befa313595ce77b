"""What each test guards: a mechanism is taken out of a copy of the tree, and the tests that are named must fail.

`make mutations` does so for every row of `tests/mutations/table.py`.
"""

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from tests.mutations.table import MUTATIONS, PROMISES, Mutation

ROOT = Path(__file__).parent.parent.parent
PAGE = ROOT / "docs" / "explanation" / "what-each-test-guards.md"
PRODUCT = ("domain", "application", "projections", "api")
AT_ONCE = 2
LONGEST_SECONDS = 300  # of the tests of one mutation
LONGEST_OF_ALL_SECONDS = 1_200
BROKEN = re.compile(
    r"[\w.]*(PostgresError|SyntaxError|Undefined|NameError|TypeError|ImportError|ProgrammingError|AttributeError)"
)
TABLES = re.compile(r"\| Promise \| \|\n(\|.*\n|\n(?=\|))+")
Verdicts = dict[str, tuple[str, str]]  # of each test PASSED, FAILED or ERROR, and why


def pattern(text: str) -> re.Pattern[str]:
    """What finds a text of the table, however it is laid out; `…` is a group that takes any name."""
    tokens = re.findall(r"\w+|[^\w\s]", text)
    return re.compile(r"\s*".join(r"([\w.]+)" if token == "…" else re.escape(token) for token in tokens))


def edited(root: Path, old: str, new: str) -> tuple[Path, str]:
    """The file of the product that has a text, and what becomes of it.

    Raises ValueError when the text does not stand in the product exactly once.
    """
    files = [path for part in PRODUCT for path in (root / part).rglob("*") if path.suffix in (".py", ".sql")]
    found = [(path, match) for path in files for match in pattern(old).finditer(path.read_text())]
    if len(found) != 1:
        raise ValueError(f"stands there {len(found)} times: {old}")
    path, match = found[0]
    names = re.sub(r"…(\d)", lambda name: match[int(name[1])], new)
    return path, match.string[: match.start()] + names + match.string[match.end() :]


def mutate(root: Path, mutation: Mutation) -> None:
    """Takes a mechanism out of a tree."""
    for old, new in mutation.edits.items():
        path, text = edited(root, old, new)
        path.write_text(text)


def homes(test: str) -> list[str]:
    """A test as pytest names it: a function of this name, in whatever file. Raises ValueError when there is none."""
    function, case = re.fullmatch(r"(\w+)(.*)", test).groups()
    files = sorted(path.relative_to(ROOT) for path in (ROOT / "tests").rglob("test_*.py") if defines(path, function))
    if not files:
        raise ValueError(f"no such test: {test}")
    return [f"{file}::{function}{case}" for file in files]


def defines(path: Path, function: str) -> bool:
    """Whether a file has a function of that name."""
    return re.search(rf"^(async )?def {function}\(", path.read_text(), re.MULTILINE) is not None


def tables() -> str:
    """The promises and the mutations, as the page shows them."""
    lines = ["| Promise | |", "| --- | --- |", *(f"| ({key}) | {promise} |" for key, promise in PROMISES.items()), ""]
    lines += ["| Taken out | Promise | Fails |", "| --- | --- | --- |"]
    for mutation in MUTATIONS:
        promises = ", ".join(f"({promise})" for promise in mutation.promises.split())
        lines.append(f"| {mutation.mechanism} | {promises} | {functions(mutation, '`')} |")
    return "\n".join(lines) + "\n"


def functions(mutation: Mutation, quote: str = "") -> str:
    """The functions that guard a mechanism."""
    return ", ".join(dict.fromkeys(quote + test.partition("[")[0] + quote for test in mutation.tests))


@contextmanager
def copy() -> Iterator[Path]:
    """A copy of the tree, with neither history nor caches."""
    there = Path(tempfile.mkdtemp(prefix="deskledger-mutation-"))
    try:
        shutil.copytree(ROOT, there, ignore=shutil.ignore_patterns(".*", "__pycache__"), dirs_exist_ok=True)
        there.chmod(0o755)
        yield there
    finally:
        shutil.rmtree(there)


def verdicts(there: Path, tests: list[str], seconds: float = LONGEST_SECONDS) -> Verdicts:
    """What became of each of the tests in a copy; nothing when time ran out."""
    command = [sys.executable, "-m", "pytest", "-q", "-n0", "-p", "no:randomly", "-p", "no:cacheprovider", "-rA"]
    path = {"PYTHONPATH": str(there), "PYTHONDONTWRITEBYTECODE": "1", "COLUMNS": "250"}
    process = subprocess.Popen(
        [*command, *tests],
        cwd=there,
        env=os.environ | path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        said, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)  # so that pytest ends what it has started
        process.communicate()
        return {}
    found = re.findall(r"^(PASSED|FAILED|ERROR) (tests/\S+?::.+?)(?: - (.*))?$", said, re.MULTILINE)
    return {test: (verdict, reason) for verdict, test, reason in found}


def run(mutation: Mutation) -> tuple[list[str], str, float]:
    """Takes one mechanism out. Returns the named tests that do not fail, why the others do, and the seconds it took.

    A test that fails since the mutation is no program at all has shown nothing.
    """
    began = time.monotonic()
    with copy() as there:
        mutate(there, mutation)
        found = verdicts(there, [home for test in mutation.tests for home in homes(test)])
    failed = {
        test.partition("::")[2]: why
        for test, (verdict, why) in found.items()
        if verdict == "FAILED" and not BROKEN.match(why)
    }
    alive = [name for name in mutation.tests if not any(test == name or test.startswith(f"{name}[") for test in failed)]
    why = [why for _, why in found.values()] if alive else list(failed.values())
    return alive, "; ".join(dict.fromkeys(why)), time.monotonic() - began


def main() -> int:
    """First everything as it is, which must pass; then each mutation, which must not. Returns 1 if one survives."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", help="only mechanisms whose names hold all of these words")
    parser.add_argument("--table", action="store_true", help=f"only write the tables of {PAGE.name}")
    options = parser.parse_args()
    if options.table:
        PAGE.write_text(TABLES.sub(lambda _: tables(), PAGE.read_text(), count=1))
        return 0
    chosen = [one for one in MUTATIONS if all(word in one.mechanism for word in options.words)]
    if not chosen:
        parser.error(f"no mechanism has these words: {' '.join(options.words)}")
    began = time.monotonic()
    with copy() as there:
        tests = dict.fromkeys(home for one in chosen for test in one.tests for home in homes(test))
        found = verdicts(there, list(tests), LONGEST_OF_ALL_SECONDS)
    bad = {test: why for test, (verdict, why) in found.items() if verdict != "PASSED"}
    if bad or not found:
        print("the tests must pass as it is:", bad or "they took too long, or there are none")
        return 1
    print(f"as it is, {len(found)} tests pass ({time.monotonic() - began:.0f} s)", flush=True)
    survived = 0
    with ThreadPoolExecutor(AT_ONCE) as threads:
        for mutation, (alive, why, seconds) in zip(chosen, threads.map(run, chosen), strict=True):
            survived += bool(alive)
            print(f"{','.join(mutation.promises.split()):8} {seconds:4.0f} s  {mutation.mechanism}")
            outcome = f"SURVIVES {', '.join(alive)}" if alive else f"fails {functions(mutation)}"
            print(f"                 {outcome}: {why}", flush=True)
    print(f"{len(chosen)} mutations, {survived} survive, {time.monotonic() - began:.0f} s in all")
    return min(survived, 1)


if __name__ == "__main__":
    sys.exit(main())
