"""The texts that commands take: how long they may be, and what may stand in them.

A pattern says as much as one can say without look-arounds, which not every reader of the contract knows; `WithTexts`
sees to all of it. `\\Z` is the end of a text in Python alone: the contract writes `$` (`api/openapi/document.py`).
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import Annotated, Any, get_args, get_type_hints

import msgspec
from msgspec.structs import force_setattr

from domain import text as texts
from domain.text import FORMATTING, HIDDEN, HIDDEN_IN_LINES, INVISIBLE, Accept


def _pattern(barred: str, also_first: str = "") -> str:
    """Something that can be seen, and nothing that is barred.

    Two neighbouring parts fit no character in common: else it would take n² steps to say no to a long text.
    """
    return rf"^[{also_first}{INVISIBLE}]*[^{HIDDEN}{INVISIBLE}][^{barred}]*\Z"


def _text(most: int, pattern: str, accept: Accept) -> msgspec.Meta:
    return msgspec.Meta(min_length=1, max_length=most, pattern=pattern, extra={"accept": accept})


ONE_LINE, REASON = _pattern(HIDDEN), _pattern(HIDDEN_IN_LINES, r"\t\n\r")
SAYS_SOMETHING = _pattern(r"\x00", r"\x01-\x1f" + FORMATTING)  # without NUL, which PostgreSQL cannot store
SingleLine = Annotated[str, _text(500, ONE_LINE, texts.accept_line)]
Identifier = Annotated[str, _text(500, ONE_LINE, texts.accept_identifier)]
Reason = Annotated[str, _text(100_000, REASON, texts.accept_reason)]
Text = Annotated[str, _text(100_000, SAYS_SOMETHING, texts.accept_text)]
USER_ID_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._@+-]*\Z"
UserId = Annotated[str, msgspec.Meta(min_length=1, max_length=200, pattern=USER_ID_PATTERN)]
# The form of an address; whether it can be one is for `email_addresses.py` to say.
ADDRESS = (
    r'^([^\x00-\x1f\x7f\s@<>,;:"()\[\]\\]+|"[^\x00-\x1f\x7f"\\]+")'
    r'@[^\x00-\x1f\x7f\s@<>,;:"()\[\]\\]+\Z'
)
Email = Annotated[str, msgspec.Meta(min_length=3, max_length=254, pattern=ADDRESS)]
SHA256 = r"^[0-9a-f]{64}\Z"
Sha256 = Annotated[str, msgspec.Meta(pattern=SHA256)]


class WithTexts(msgspec.Struct, frozen=True):
    """What has texts of people, whether a body or a program made it: they are kept in NFC.

    Raises BlankText and UnfitText; where a body is decoded, a ValidationError with one of them as its cause.
    """

    def __post_init__(self) -> None:
        """Takes each text as its type says."""
        for field, accept in _rules(type(self)):
            given = getattr(self, field)
            if isinstance(given, str):
                kept = accept(field, given)
                if kept is not given:
                    force_setattr(self, field, kept)


@lru_cache(1000)
def _rules(struct: type[msgspec.Struct]) -> tuple[tuple[str, Accept], ...]:
    """How each text of a struct is taken."""
    return tuple(_text_fields(struct))


def _text_fields(struct: type[msgspec.Struct]) -> Iterator[tuple[str, Accept]]:
    hints: dict[str, Any] = get_type_hints(struct, include_extras=True)
    for field in struct.__struct_fields__:
        for part in (hints[field], *get_args(hints[field])):
            for meta in getattr(part, "__metadata__", ()):
                if accept := (meta.extra or {}).get("accept"):
                    yield field, accept
