"""The log over HTTP: every event of the desk, in the one order of all events, in the form that the reader accepts."""

import asyncio
from functools import partial
from typing import Annotated
from urllib.parse import urlencode
from uuid import UUID

import msgspec
from falcon.asgi import Request, Response

from api.http.paging import JSON, encode, send
from api.http.problems import Problem
from api.http.read_your_writes import LIST_PROJECTIONS, MinPosition, wait_for_position
from api.http.request_parsing import MOST_WAIT_SECONDS, parameters
from api.http.resources.ticket_parameters import Moment
from api.http.streaming.event_formats import CLOUD_EVENTS, LINES, NDJSON, SENT, SSE, as_cloud_event
from api.http.streaming.event_stream import Stream, StreamRequest
from api.http.streaming.open_streams import OpenStreams
from application.store.postgres.read_pool import Readers
from domain import roles
from domain.values import Level
from projections.queries.event_feed import EventFilters, FeedPage, feed_end, feed_page
from projections.queries.pages import DEFAULT_LIMIT, MOST_ROWS_OF_PAGE
from projections.queries.ticket_view import EventView
from projections.status.freshness import LOG, Freshness

MOST_POSITION = 2**62
STREAM_SECONDS = 60
FORMS = {form.media_type: form for form in (LINES, SENT)}
OFFERED = (JSON, NDJSON, SSE)


class FeedParameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where to begin, which events, and how long to wait for those that have not happened yet."""

    after: Annotated[int, msgspec.Meta(ge=0, le=MOST_POSITION)] = 0
    limit: Annotated[int, msgspec.Meta(ge=1, le=MOST_ROWS_OF_PAGE)] = DEFAULT_LIMIT
    wait: Annotated[int, msgspec.Meta(ge=0, le=STREAM_SECONDS)] | None = None
    type: str | None = None
    ticket_id: UUID | None = None
    client_user_id: str | None = None
    actor: str | None = None
    level: Level | None = None
    since: Moment | None = msgspec.field(default=None, name="from")
    until: Moment | None = msgspec.field(default=None, name="to")
    min_position: MinPosition = None

    def filters(self) -> EventFilters:
        """Which events."""
        return EventFilters(
            self.type, self.ticket_id, self.client_user_id, self.actor, self.level, self.since, self.until
        )


class EventPage(msgspec.Struct, frozen=True):
    """A page of the log. `next` is null where it ends for now; `after` is the position to ask from next, always."""

    items: list[EventView]
    next: str | None
    after: Annotated[int, msgspec.Meta(ge=0)]


class EventFeed:
    """The event feed."""

    def __init__(self, readers: Readers, freshness: Freshness, streams: OpenStreams) -> None:
        self._readers, self._freshness, self._streams = readers, freshness, streams

    async def on_get(self, req: Request, resp: Response) -> None:
        """The events after a position: as a page of JSON or of CloudEvents, or as a stream of lines or of SSE."""
        roles.require_read(req.context.who, "events")
        media_type = wanted_form(req)
        asked = parameters(req, FeedParameters)
        resp.content_type = media_type
        resp.set_header("Vary", "Accept")
        read = (LOG, *LIST_PROJECTIONS) if asked.client_user_id else (LOG,)  # whose a ticket is, the summaries tell
        await wait_for_position(req, resp, self._freshness, asked.min_position, read)
        if media_type in FORMS:
            await self._stream(req, resp, asked, media_type)
        else:
            await self._page(req, resp, asked, media_type)

    async def _stream(self, req: Request, resp: Response, asked: FeedParameters, media_type: str) -> None:
        after, filters = asked.after, asked.filters()
        seconds = asked.wait or 0
        if media_type == SSE:
            after = last_event_id(req, after)
            seconds = STREAM_SECONDS if asked.wait is None else asked.wait
        end = await feed_end(self._readers.fetch, filters)
        resp.set_header("Deskledger-Position", str(end))
        if req.method == "GET":
            place = self._streams.take(req)
            resp.stream = Stream(self._streams, place, StreamRequest(filters, after, end, seconds, FORMS[media_type]))

    async def _page(self, req: Request, resp: Response, asked: FeedParameters, media_type: str) -> None:
        page = await self._when_there(req, asked)
        following = str(page.after) if page.more else None
        if following:
            query = urlencode({**req.params, "after": following})
            resp.set_header("Link", f'<{req.path}?{query}>; rel="next"')
        resp.set_header("Deskledger-Position", str(page.position))
        resp.set_header("Deskledger-After", str(page.after))
        if media_type == CLOUD_EVENTS:
            resp.data = encode([as_cloud_event(item) for item in page.items])
        else:
            send(resp, EventPage([item.event for item in page.items], following, page.after))

    async def _when_there(self, req: Request, asked: FeedParameters) -> FeedPage:
        """The page; where it is empty and the reader waits, the page as soon as it is not."""
        filters, fetch = asked.filters(), self._readers.fetch
        page = await feed_page(fetch, asked.after, filters, asked.limit)
        if page.items or not asked.wait:
            return page
        deadline = asyncio.get_running_loop().time() + min(asked.wait, MOST_WAIT_SECONDS)
        place = self._streams.take(req)
        try:
            while not page.items and not place.over and (left := deadline - asyncio.get_running_loop().time()) > 0:
                after = page.after
                if not page.more:
                    place.wish = wish = self._streams.log_tail.follow(filters, after)
                    found = await self._streams.log_tail.wait(wish, left)
                    after = after if found else wish.position
                if page.more:
                    page = await self._streams.in_turn(
                        partial(feed_page, after=after, filters=filters, limit=asked.limit)
                    )
                else:
                    page = await feed_page(fetch, after, filters, asked.limit)
        finally:
            self._streams.leave(place)
        return page


def wanted_form(req: Request) -> str:
    """The media type that the reader likes best; CloudEvents only for those who name them, as their JSON format says.

    Raises Problem with status 406.
    """
    named = CLOUD_EVENTS in req.accept.lower()
    found = req.client_prefers((*OFFERED, CLOUD_EVENTS) if named else OFFERED)
    if found is None:
        detail = f"Events come as {JSON}, {NDJSON}, {SSE} or {CLOUD_EVENTS}: name one of them in Accept."
        raise Problem(406, "not_acceptable", detail)
    return found


def last_event_id(req: Request, after: int) -> int:
    """The position in Last-Event-ID, which wins: who comes again asks for the same address as before.

    Raises Problem with status 400.
    """
    header = req.get_header("Last-Event-ID")
    if not header:
        return after
    if not (header.isascii() and header.isdecimal() and len(header) < 20 and int(header) <= MOST_POSITION):
        raise Problem(400, "bad_last_event_id", "Last-Event-ID takes the position of an event: the last id you got.")
    return int(header)
