"""How large the product is: lines of its four packages without blanks, comments and docstrings.

`make lines`, or `make lines OLD=/path/to/another/worktree` beside another state of the tree.
"""

import ast
import sys
import tokenize
from pathlib import Path

PACKAGES = ("domain", "application", "projections", "api")
NO_CODE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
}
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def docstring_lines(tree: ast.AST) -> set[int]:
    """The numbers of the lines that docstrings take."""
    found: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            found.update(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    return found


def logical_lines(path: Path) -> int:
    """How many lines of a file hold code; a text over several lines counts with each of them."""
    with path.open("rb") as source:
        lines = {
            line
            for token in tokenize.tokenize(source.readline)
            if token.type not in NO_CODE
            for line in range(token.start[0], token.end[0] + 1)
        }
    return len(lines - docstring_lines(ast.parse(path.read_text())))


def lines_of(root: Path) -> dict[str, int]:
    """The logical lines of each room, `package/room`, and of each file outside a room by its package."""
    rooms: dict[str, int] = {}
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            room = "/".join(path.relative_to(root).parts[:-1][:2])
            rooms[room] = rooms.get(room, 0) + logical_lines(path)
    return rooms


def main() -> None:
    """Print the rooms and the sum of this tree, and how it compares with another."""
    here = lines_of(Path.cwd())
    for room, lines in here.items():
        print(f"{lines:6}  {room}")
    total = sum(here.values())
    print(f"{total:6}  together")
    for other in sys.argv[1:]:
        before = sum(lines_of(Path(other)).values())
        print(f"{before:6}  in {other}: now {total / before:.1%} of it")


if __name__ == "__main__":
    main()
