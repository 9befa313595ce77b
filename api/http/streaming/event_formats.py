"""The forms in which events go out: lines of JSON, server-sent events, CloudEvents."""

from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Literal, NamedTuple
from uuid import UUID

import msgspec

from api.http.paging import encode
from projections.queries.event_feed import FeedItem
from projections.queries.ticket_view import EventView

NDJSON = "application/x-ndjson"
CLOUD_EVENTS = "application/cloudevents-batch+json"
SSE = "text/event-stream"
RETRY_MILLISECONDS = 1000
CLOUD_TYPE = "org.deskledger."


class CloudEvent(msgspec.Struct, frozen=True):
    """An event as CloudEvents 1.0 has it; `data` is the event as in the JSON feed."""

    id: str
    source: str
    specversion: str
    type: str
    time: datetime
    datacontenttype: Literal["application/json"]
    sequence: Annotated[str, msgspec.Meta(pattern="^[0-9]{20}$")]
    data: EventView
    subject: str | msgspec.UnsetType = msgspec.UNSET
    traceparent: str | msgspec.UnsetType = msgspec.UNSET


class Form(NamedTuple):
    """How a stream writes: what it begins with, an event, and a position up to which there is no further event."""

    media_type: str
    first: bytes
    event: Callable[[EventView], bytes]
    passed: Callable[[int], bytes]


def as_line(event: EventView) -> bytes:
    """An event as a line of JSON."""
    return encode(event) + b"\n"


def passed_line(position: int) -> bytes:
    """A line that holds no event: everything up to this position has been looked at."""
    return b'{"position":%d}\n' % position


def as_message(event: EventView) -> bytes:
    """An event as a server sends it to an EventSource that does not tell types apart: `onmessage` sees all of them."""
    return b"id: %d\ndata: %s\n\n" % (event.position or 0, encode(event))


def as_sent(event: EventView) -> bytes:
    """An event as a server sends it to an EventSource. JSON has no line breaks of its own."""
    name = event.type.replace("\r", " ").replace("\n", " ")
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (event.position or 0, name.encode(), encode(event))


def passed_sent(position: int) -> bytes:
    """A comment that keeps the connection alive, and an id without data: it is remembered, and nobody is called."""
    return b": passed\nid: %d\n\n" % position


LINES = Form(NDJSON, b"", as_line, passed_line)
SENT = Form(SSE, b"retry: %d\n\n" % RETRY_MILLISECONDS, as_sent, passed_sent)
MESSAGES = Form(SSE, SENT.first, as_message, passed_sent)


def as_cloud_event(item: FeedItem, log_id: UUID) -> CloudEvent:
    """An event as a CloudEvent: its position is its id, and written with zeros before it, its place in the sequence.

    Its source is the log: of each position there is one in it, and no other desk has the same.
    """
    event = item.event
    return CloudEvent(
        f"{event.position}",
        log_id.urn,
        "1.0",
        CLOUD_TYPE + event.type,
        event.at,
        "application/json",
        f"{event.position:020d}",
        event,
        str(event.ticket_id or event.client_user_id or "") or msgspec.UNSET,
        item.traceparent or msgspec.UNSET,
    )
