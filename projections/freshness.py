"""Has the read side caught up? For those who want to read what they wrote."""

import asyncio
from uuid import UUID

from psycopg.sql import SQL

from projections.pages import Fetch

STANDS = SQL("select from ticket_summaries where ticket_id = %s and version >= %s")
POLL_SECONDS = 0.02


async def wait_for_version(fetch: Fetch, ticket_id: UUID, version: int, seconds: float) -> bool:
    """Whether the projections hold this version of a ticket within so many seconds."""
    deadline = asyncio.get_running_loop().time() + seconds
    while not await fetch(STANDS, (ticket_id, version)):
        if asyncio.get_running_loop().time() + POLL_SECONDS > deadline:
            return False
        await asyncio.sleep(POLL_SECONDS)
    return True
