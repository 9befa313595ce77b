"""What goes out to a webhook: events as /v1/events shows them, with the trace that they belong to."""

from collections.abc import Sequence
from typing import Any

import msgspec
import psycopg
from psycopg.sql import SQL

from projections.queries.event_feed import META, FeedRow, feed_item

SELECT_EVENTS_AT = SQL("""
    select position, stream_id, version, at, type, body, {meta} from log join events using (ord)
    where position = any(%s)""").format(meta=META)


class Sent(msgspec.Struct, frozen=True):
    """An event as it goes out: the body, and the trace that it belongs to."""

    body: bytes
    traceparent: str | None


def bodies(connection: psycopg.Connection[Any], positions: Sequence[int]) -> dict[int, Sent]:
    """The events at these positions as /v1/events shows them, with the trace that they belong to."""
    found: dict[int, Sent] = {}
    for row in connection.execute(SELECT_EVENTS_AT, (list(positions),)):
        item = feed_item(FeedRow(*row))
        shown = msgspec.to_builtins(item.event) | {"traceparent": item.traceparent}
        found[row[0]] = Sent(msgspec.json.encode(shown), item.traceparent)
    return found
