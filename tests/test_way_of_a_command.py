"""The way of a command as the README shows it, and as a request goes it."""

import asyncio
import re
import sys
from pathlib import Path
from types import FrameType
from typing import Any
from uuid import UUID

import falcon.asgi
from falcon.testing import ASGIConductor

from api.http.resources.ticket_commands import TicketCommands
from application.batching_desk import BatchingDesk
from application.commands.deciding import Policy, new_stream_id
from projections.status.freshness import Freshness
from tests.support.write_side import CONTACT, NOW, OPEN, STAFF, request

ROOT = Path(__file__).parent.parent
ROW = re.compile(r"^\| \d+ \| `(?P<file>[\w/]+\.py)` \| `(?P<function>[\w.]+)` \|", re.MULTILINE)
WAY = ROW.findall((ROOT / "README.md").read_text().split("### The way of a command")[1].split("\n#")[0])


class Caller:
    """Lets everybody in as the desk's own people."""

    async def process_request(self, req: Any, resp: Any) -> None:
        """Who asks."""
        req.context.who = STAFF


async def escalated(desk: BatchingDesk, ticket_id: UUID) -> tuple[int, list[tuple[str, str]]]:
    """The status of an escalation over HTTP, and our own functions in the order in which they were entered."""
    entered: list[tuple[str, str]] = []

    def note(frame: FrameType, event: str, _: object) -> None:
        path = Path(frame.f_code.co_filename)
        if event == "call" and path.is_relative_to(ROOT):
            entered.append((str(path.relative_to(ROOT)), frame.f_code.co_qualname))

    app = falcon.asgi.App(middleware=[Caller()])
    app.add_route("/v1/tickets/{ticket_id:uuid}:{command}", TicketCommands(desk, Freshness(desk.load), Policy()))
    async with ASGIConductor(app) as client:
        sys.setprofile(note)
        try:
            reply = await client.simulate_post(
                f"/v1/tickets/{ticket_id}:escalate", json={"reason": "more skill"}, headers={"If-Match": '"5"'}
            )
        finally:
            sys.setprofile(None)
    return reply.status_code, entered


def test_a_request_goes_the_way_that_the_readme_shows(database: str) -> None:
    """At most ten functions lead from the route to the commit and the answer, in this order."""

    async def walk() -> tuple[int, list[tuple[str, str]]]:
        desk, ticket_id = BatchingDesk(database), new_stream_id(NOW)
        try:
            await desk.register_client("client-1", CONTACT, STAFF, NOW)
            await desk.execute(request(ticket_id, OPEN))
            return await escalated(desk, ticket_id)
        finally:
            await desk.close()

    status, entered = asyncio.run(walk())
    assert status == 200
    assert 0 < len(WAY) <= 10
    rest = iter(entered)
    assert all(step in rest for step in WAY), [step for step in entered if step in WAY]
