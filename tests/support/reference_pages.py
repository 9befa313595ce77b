"""The tables of the reference, as tests compare them with the code."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
README, REFERENCE, DECISIONS = ROOT / "README.md", ROOT / "docs" / "reference", ROOT / "docs" / "decisions"
FENCE = re.compile(r"^```(?P<kind>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
RULE = re.compile(r"\|(?: ?-+ ?\|)+")


def cells(line: str) -> list[str]:
    """The cells of a line of a table."""
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip()[1:-1])]


def tables(text: str) -> list[list[list[str]]]:
    """The tables of a text: for each its lines of cells, without the line below the head."""
    found = re.findall(r"(?:^\|.*\|$\n?)+", FENCE.sub("", text), re.MULTILINE)
    return [[cells(line) for line in table.splitlines() if not RULE.fullmatch(line)] for table in found]


def lines(page: str, *head: str) -> list[list[str]]:
    """The lines of all tables of a page of the reference that have this head."""
    found = [table[1:] for table in tables((REFERENCE / page).read_text()) if table[0][: len(head)] == list(head)]
    assert found, f"no table of {page} begins with {head}"
    return [line for table in found for line in table]


def spans(text: str) -> list[str]:
    """What stands in backticks."""
    return re.findall(r"`([^`]+)`", text)
