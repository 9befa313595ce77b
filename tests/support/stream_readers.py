"""Readers of the feed's streams, as tests need them: they read as much as they are told to, and hang up anywhere."""

import http.client
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from domain.values import Role
from tests.support.running_desk import RunningDesk

NDJSON, SSE = "application/x-ndjson", "text/event-stream"
CLOUD_EVENTS = "application/cloudevents-batch+json"
_ID = re.compile(rb"^id: (\d+)$", re.MULTILINE)
_DATA = re.compile(rb"^data: (.*)$", re.MULTILINE)
_EVENT = re.compile(rb"^event: (.*)$", re.MULTILINE)


class Told(NamedTuple):
    """What a reader makes of the bytes: the events, and the position that it would go on from."""

    events: list[dict[str, Any]]
    position: int


@contextmanager
def stream(
    served: RunningDesk, accept: str, query: str = "", key: str | None = None, **headers: str
) -> Iterator[http.client.HTTPResponse]:
    """An open stream; whoever leaves hangs up."""
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=30)
    sent = {"Accept": accept, "Authorization": f"Bearer {key or served.key(Role.AUDITOR)}"}
    try:
        connection.request("GET", f"/v1/events?{query}", headers=sent | headers)
        yield connection.getresponse()
    finally:
        connection.close()


def read(response: http.client.HTTPResponse, most: int) -> bytes:
    """So many bytes, or fewer where the stream ends."""
    found = b""
    while len(found) < most and (part := response.read1(most - len(found))):
        found += part
    return found


def told(accept: str, sent: bytes, position: int) -> Told:
    """What is complete in these bytes, for a reader that stood at `position`."""
    events = []
    parts = sent.split(b"\n" if accept == NDJSON else b"\n\n")[:-1]
    for part in parts:
        if accept == NDJSON:
            line = json.loads(part)
            position, data = line["position"], line if "type" in line else None
        else:
            found, data = _ID.search(part), None
            position = int(found[1]) if found else position
            if event := _DATA.search(part):
                data = json.loads(event[1])
                name = _EVENT.search(part)
                assert (name and name[1].decode(), position) == (data["type"], data["position"])
        events += [data] if data else []
    return Told(events, position)


def all_of(served: RunningDesk, accept: str, query: str, key: str | None = None) -> Told:
    """What a stream tells from its beginning to its end, without waiting for more."""
    with stream(served, accept, f"{query}&wait=0", key) as response:
        assert (response.status, response.headers["Content-Type"]) == (200, accept)
        return told(accept, response.read(), 0)
