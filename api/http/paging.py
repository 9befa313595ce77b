"""Lists over HTTP: paging in, items, cursor, link and position out."""

from typing import Annotated, Any, Generic, TypeVar
from urllib.parse import quote, urlencode

import msgspec
from falcon.asgi import Request, Response

from api.http.problems import IN_PATHS
from domain.visibility import Audience, seen_by
from projections.queries.pages import DEFAULT_LIMIT, MOST_ROWS_OF_PAGE, Page

encode = msgspec.json.Encoder().encode
JSON = "application/json"
Limit = Annotated[int, msgspec.Meta(ge=1, le=MOST_ROWS_OF_PAGE)]
Item = TypeVar("Item")


class NoParameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Nothing to choose from."""


class NoFields(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A body without fields."""


class Paging(msgspec.Struct, frozen=True):
    """How every list is read: a page of at most 200 items, from a cursor on."""

    cursor: str | None = None
    limit: Limit = DEFAULT_LIMIT


class Listing(msgspec.Struct, Generic[Item], frozen=True):
    """Some items of a list; `next` is the cursor of those that follow, null when there are none."""

    items: list[Item]
    next: str | None


def send(resp: Response, value: Any) -> None:
    """Answers with a value as JSON."""
    resp.content_type = JSON
    resp.data = encode(value)


def finish(
    req: Request, resp: Response, page: Page, kind: type[Listing[Any]], audience: Audience = Audience.STAFF
) -> None:
    """Answers with a page as a list of that kind, as the reader sees it."""
    place(req, resp, page.position, cursor=page.next)
    send(resp, kind([seen_by(audience, item) for item in page.items], page.next))


def place(req: Request, resp: Response, position: int, **following: str | None) -> None:
    """The headers of a page: where the read model stands, and the address of the next page, by the named parameter."""
    resp.set_header("Deskledger-Position", str(position))
    if any(following.values()):
        query = urlencode({**req.params, **following})
        resp.set_header("Link", f'<{quote(req.path, safe=IN_PATHS)}?{query}>; rel="next"')
