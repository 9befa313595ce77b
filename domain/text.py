"""Texts that people write: what they may hold, and how they are kept, searched and shown.

Kept is NFC (UAX #15). The classes of characters are written as they stand between the brackets of a regular expression,
in Python and in ECMA-262 alike, since the contract quotes them.
"""

import re
from collections.abc import Callable
from functools import partial
from itertools import groupby
from unicodedata import category, normalize

from domain.errors import BlankText, UnfitText

# Shows nothing: spaces, fillers, the blank braille pattern, variation selectors, what is ignored by default (UAX #44).
INVISIBLE = (
    r"\x20\xa0\xad\u034f\u061c\u115f\u1160\u1680\u17b4\u17b5\u180b-\u180f\u2000-\u200f\u202f\u205f-\u2065\u2800\u3000"
    r"\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8"
)
INVISIBLE_BEYOND = (  # in 16 bits; ECMA-262 reads these only with the flag u
    r"\U00013430-\U0001343f\U00016fe4\U0001bca0-\U0001bca3\U0001d159\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
# Shows nothing either, and changes how the text around it is shown: line and paragraph separators, bidi embeddings,
# overrides and isolates, other formatting that is deprecated or means nothing in plain text; and controls.
FORMATTING = r"\x7f-\x9f\u2028-\u202e\u2066-\u206f\ufff9-\ufffb"
HIDDEN = r"\x00-\x1f" + FORMATTING
HIDDEN_IN_LINES = r"\x00-\x08\x0b\x0c\x0e-\x1f" + FORMATTING  # all of them but tabs and line breaks
MOST_IN_LINE = 500
MOST_MARKS = 30  # on one letter, as in UAX #15's Stream-Safe Text Format: ordering n of them takes n² steps

_SHOWN = re.compile(f"[^{INVISIBLE}{INVISIBLE_BEYOND}{HIDDEN}]")
# Marks are neither letters nor digits. The first class leaves out where most letters are: six times as fast.
_PERHAPS_MARKS = re.compile(rf"[^\x00-\u02ff\u0370-\u0482\u30a0-\ua66e\uac00-\ud7ff][^\w\s\x00-\x7f]{{{MOST_MARKS},}}")
_TO_SHOW, _TO_SHOW_IN_LINES = re.compile(f"\r\n|[{HIDDEN}]"), re.compile(f"\r(?!\n)|[{HIDDEN_IN_LINES}]")
_SIGNS = {"\n": "⏎", "\r\n": "⏎", "\x7f": "␡"} | {chr(code): chr(0x2400 + code) for code in range(32) if code != 10}

Accept = Callable[[str, str], str]  # the name of a field, and what came for it


def normalised(text: str) -> str:
    """The text in NFC, as it is kept."""
    return text if text.isascii() else normalize("NFC", text)


def folded(text: str) -> str:
    """The text as searches compare it: without the difference of composed and decomposed, of upper and lower case."""
    return text.lower() if text.isascii() else normalize("NFC", normalize("NFC", text).casefold())


def shows_something(text: str) -> bool:
    """Whether anything of the text can be seen."""
    return bool(_SHOWN.search(text))


def in_one_line(text: str) -> str:
    """The text in one line, with a sign for each character that would break the line, or change how it is shown.

    A line break is `⏎`, another control its picture (`␛`), the rest its number (`<U+202E>`).
    """
    return text if text.isprintable() else _TO_SHOW.sub(_sign, text)


def with_visible_controls(text: str) -> str:
    """The same of a text that is shown with its own line breaks and tabs."""
    return text if text.isprintable() else _TO_SHOW_IN_LINES.sub(_sign, text)


def _sign(found: re.Match[str]) -> str:
    return _SIGNS.get(found[0]) or f"<U+{ord(found[0]):04X}>"


def _accept(field: str, text: str, *, most: int, barred: re.Pattern[str], why: str, identifies: bool = False) -> str:
    if text.isascii() and text.isprintable() and len(text) <= MOST_IN_LINE and text.strip():
        return text  # most texts, at a quarter of the cost
    if not shows_something(text):
        raise BlankText(field)
    if not text.isascii():
        _require_storable(field, text)
        text = text if identifies else normalize("NFC", text)  # what identifies is compared as it is
    if len(text) > most:
        raise UnfitText(field, f"must have at most {most} characters")
    if not text.isprintable() and barred.search(text):
        raise UnfitText(field, why)
    return text


def _require_storable(field: str, text: str) -> None:
    """Raises UnfitText for half a surrogate pair, which is no character, and for more marks than a letter can have."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UnfitText(field, "must be Unicode text: half a surrogate pair is no character") from None
    for run in _PERHAPS_MARKS.findall(text):
        if any(kind == "M" and len(list(same)) > MOST_MARKS for kind, same in groupby(category(one)[0] for one in run)):
            raise UnfitText(field, f"must not have more than {MOST_MARKS} marks on one letter")


_NO_HIDDEN = "must not hold control characters or characters that change the direction of the text"
_accept_line = partial(
    _accept, most=MOST_IN_LINE, barred=re.compile(f"[{HIDDEN}]"), why=f"must be one line, and {_NO_HIDDEN}"
)
# Each takes a field's name and what came for it, and returns what is kept. They raise BlankText and UnfitText.
accept_line: Accept = partial(_accept_line, identifies=False)
accept_identifier: Accept = partial(_accept_line, identifies=True)
accept_reason: Accept = partial(_accept, most=100_000, barred=re.compile(f"[{HIDDEN_IN_LINES}]"), why=_NO_HIDDEN)
accept_text: Accept = partial(_accept, most=100_000, barred=re.compile("\0"), why="must not hold NUL characters")
