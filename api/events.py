"""The log over HTTP: every event of the desk, in the one order of all events."""

from datetime import datetime
from typing import Annotated
from urllib.parse import urlencode
from uuid import UUID

import msgspec
from falcon.asgi import Request, Response

from api.decoding import parameters
from api.listing import send
from api.waiting import LISTS, MinPosition, wait_for_position
from application.reading import Readers
from domain import roles
from domain.values import Level
from projections.feed import EventFilters, feed_page
from projections.freshness import LOG, Freshness
from projections.pages import DEFAULT_LIMIT, MOST

Moment = Annotated[datetime, msgspec.Meta(tz=True)]


class FeedParameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where to begin, and which events."""

    after: Annotated[int, msgspec.Meta(ge=0, le=2**62)] = 0
    limit: Annotated[int, msgspec.Meta(ge=1, le=MOST)] = DEFAULT_LIMIT
    type: str | None = None
    ticket_id: UUID | None = None
    client_user_id: str | None = None
    actor: str | None = None
    level: Level | None = None
    since: Moment | None = msgspec.field(default=None, name="from")
    until: Moment | None = msgspec.field(default=None, name="to")
    min_position: MinPosition = None


class Events:
    """The event feed."""

    def __init__(self, readers: Readers, freshness: Freshness) -> None:
        self._readers, self._freshness = readers, freshness

    async def on_get(self, req: Request, resp: Response) -> None:
        """The events after a position; `next` is the position to go on from when there is more."""
        roles.reading(req.context.who, "events")
        asked = parameters(req, FeedParameters)
        filters = EventFilters(
            asked.type, asked.ticket_id, asked.client_user_id, asked.actor, asked.level, asked.since, asked.until
        )
        read = (LOG, *LISTS) if asked.client_user_id else (LOG,)  # whose a ticket is, the summaries tell
        await wait_for_position(req, resp, self._freshness, asked.min_position, read)
        page = await feed_page(self._readers.fetch, asked.after, filters, asked.limit)
        if page.more:
            query = urlencode({**req.params, "after": page.after})
            resp.set_header("Link", f'<{req.path}?{query}>; rel="next"')
        resp.set_header("Deskledger-Position", str(page.position))
        send(resp, {"items": page.items, "next": str(page.after) if page.more else None, "after": page.after})
