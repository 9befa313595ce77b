"""Pages of a list: the cursor is opaque to its reader, and goes on exactly behind the last row that was read."""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Annotated, Any, TypeVar

import msgspec
from psycopg.sql import SQL, Composable, Composed

DEFAULT_LIMIT = 50
MOST_ROWS_OF_PAGE = 200
Moment = Annotated[datetime, msgspec.Meta(tz=True)]
Rank = Annotated[int, msgspec.Meta(ge=1, le=5)]  # of a priority
Query = SQL | Composed
Fetch = Callable[[Query, Sequence[Any]], Awaitable[list[Any]]]
CursorType = TypeVar("CursorType", bound=msgspec.Struct)


class BadCursor(ValueError):
    """This is not a cursor that the desk gave: leave it out to begin at the first page."""


class Page(msgspec.Struct, frozen=True):
    """Some rows of a list, the cursor of the next ones, and the position that the read model stands at."""

    items: list[Any]
    next: str | None
    position: int


def write_cursor(place: msgspec.Struct) -> str:
    """The cursor for what comes behind this place of a list."""
    return urlsafe_b64encode(msgspec.json.encode(place)).decode().rstrip("=")


def read_cursor(cursor: str | None, shape: type[CursorType]) -> CursorType | None:
    """The place that a cursor names; None without one. Raises BadCursor, also for a cursor of another list."""
    if cursor is None:
        return None
    try:
        return msgspec.json.decode(urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)), type=shape)
    except (ValueError, msgspec.MsgspecError, RecursionError):
        raise BadCursor from None


class Filters:
    """The conditions of a query and their parameters, in step."""

    def __init__(self) -> None:
        self._conditions: list[Composable] = []
        self.parameters: list[Any] = []

    def add(self, condition: Composable, *parameters: Any) -> None:
        """One more condition, with a parameter for each of its placeholders."""
        self._conditions.append(condition)
        self.parameters.extend(parameters)

    def equal(self, column: Composable, value: Any) -> None:
        """The column has this value; no condition when the value is None."""
        if value is not None:
            self.add(SQL("{} = %s").format(column), value)

    @property
    def where(self) -> Query:
        """All conditions, joined by and."""
        return SQL(" and ").join(self._conditions) if self._conditions else SQL("true")


def cut(rows: list[Any], limit: int) -> tuple[list[Any], bool]:
    """The page out of one row more than the page holds, and whether there is more."""
    return rows[:limit], len(rows) > limit
