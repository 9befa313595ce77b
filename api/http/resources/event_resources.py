"""The log over HTTP: every event of the desk, in the one order of all events, in the form that the reader accepts."""

from typing import Annotated
from uuid import UUID

import msgspec
from falcon.asgi import Request, Response

from api.http.paging import JSON, Limit, Listing, encode, place, send
from api.http.problems import Problem
from api.http.request_parsing import MOST_WAIT_SECONDS, read_query
from api.http.resources.api_resource import LIST_PROJECTIONS, ApiResource, MinPosition, known_position
from api.http.streaming.event_formats import CLOUD_EVENTS, LINES, MESSAGES, NDJSON, SENT, SSE, as_cloud_event
from api.http.streaming.event_stream import Stream, StreamRequest
from projections.queries.event_feed import EventFilters, FeedPage, feed_end, feed_page, log_standing
from projections.queries.pages import DEFAULT_LIMIT
from projections.queries.ticket_view import EventView
from projections.status.freshness import LOG

MOST_POSITION = 2**62
STREAM_SECONDS = 60
FORMS = {form.media_type: form for form in (LINES, SENT)}
OFFERED = (JSON, NDJSON, SSE)


class FeedParameters(EventFilters, frozen=True, forbid_unknown_fields=True):
    """Where to begin, which events, and how long to wait for those that have not happened yet."""

    after: Annotated[int, msgspec.Meta(ge=0, le=MOST_POSITION)] = 0
    limit: Limit = DEFAULT_LIMIT
    wait: Annotated[int, msgspec.Meta(ge=0, le=STREAM_SECONDS)] | None = None
    min_position: MinPosition = None
    log_id: UUID | None = None
    event_names: bool = True


class EventPage(Listing[EventView], frozen=True):
    """A page of the log. `next` is null where it ends for now; `after` is the position to ask from next, always.

    `log_id` is the log that these positions are of.
    """

    after: Annotated[int, msgspec.Meta(ge=0)]
    log_id: UUID


class EventFeed(ApiResource):
    """The event feed."""

    async def on_get(self, req: Request, resp: Response) -> None:
        """The events after a position: as a page of JSON or of CloudEvents, or as a stream of lines or of SSE."""
        asked = read_query(req, "events", FeedParameters)
        resp.content_type = media_type = wanted_form(req)
        resp.set_header("Vary", "Accept")
        if media_type == SSE:
            asked = msgspec.structs.replace(asked, after=last_event_id(req, asked.after))
        log = await log_standing(self.fetch)
        resp.set_header("Deskledger-Log", str(log.log_id))
        if asked.log_id not in (None, log.log_id):
            detail = f"That position is of another log: this one is {log.log_id}. Begin again, with what it holds now."
            raise Problem(409, "unknown_position", detail)
        known_position(asked.after, log.position)
        read = (LOG, *LIST_PROJECTIONS) if asked.client_user_id else (LOG,)  # whose a ticket is, the summaries tell
        await self.wait_for_position(req, resp, asked.min_position, read)
        await self.wait_for_time(req, resp, "to", asked.until, read)
        if media_type in FORMS:
            await self._stream(req, resp, asked, media_type)
        else:
            await self._page(req, resp, asked, media_type, log.log_id)

    async def _stream(self, req: Request, resp: Response, asked: FeedParameters, media_type: str) -> None:
        seconds = STREAM_SECONDS if media_type == SSE and asked.wait is None else asked.wait or 0
        form = FORMS[media_type] if asked.event_names else MESSAGES
        end = await feed_end(self.fetch, asked)
        place(req, resp, end)
        if req.method == "GET":
            wanted = StreamRequest(asked, asked.after, end, seconds, form)
            resp.stream = Stream(self.deps.streams, self.deps.streams.take(req), wanted)

    async def _page(self, req: Request, resp: Response, asked: FeedParameters, media_type: str, log_id: UUID) -> None:
        page = await self._when_there(req, asked)
        following = str(page.after) if page.more else None
        place(req, resp, page.position, after=following)
        resp.set_header("Deskledger-After", str(page.after))
        if media_type == CLOUD_EVENTS:
            resp.data = encode([as_cloud_event(item, log_id) for item in page.items])
        else:
            send(resp, EventPage([item.event for item in page.items], following, page.after, log_id))

    async def _when_there(self, req: Request, asked: FeedParameters) -> FeedPage:
        """The page; where nothing is there and the reader waits, the page as soon as something is."""
        page = await feed_page(self.fetch, asked.after, asked, asked.limit)
        if page.items or page.more or not asked.wait:
            return page
        streams = self.deps.streams
        waiting = streams.take(req)
        try:
            waiting.wish = wish = streams.log_tail.follow(asked, page.after)
            found = await streams.log_tail.wait(wish, min(asked.wait, MOST_WAIT_SECONDS))
        finally:
            streams.leave(waiting)
        return await feed_page(self.fetch, page.after if found else wish.position, asked, asked.limit)


def wanted_form(req: Request) -> str:
    """The media type that the reader likes best; CloudEvents only for those who name them, as their JSON format says.

    What takes none of the four was refused before; so CloudEvents are what is left.
    """
    named = CLOUD_EVENTS in req.accept.lower()
    return req.client_prefers((*OFFERED, CLOUD_EVENTS) if named else OFFERED) or CLOUD_EVENTS


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
