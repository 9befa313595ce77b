"""All queues at a glance: many screens ask for it all day, and those who ask meanwhile share an answer."""

import asyncio

from api.http.app import make_deps
from api.http.resources.queue_resources import Queues
from application.batching_desk import BatchingDesk
from application.settings import Settings


def test_all_queues_at_a_glance_are_looked_up_once_for_everybody(database: str) -> None:
    """Whoever asks while others wait gets their answer, which was begun after all had asked; who goes away takes
    nobody along, and who comes later gets an answer of their own."""

    async def read() -> list[object]:
        deps = make_deps(Settings(database_url=database), BatchingDesk(database))
        await deps.readers.open()
        queues = Queues(deps)
        try:
            asked = [queues._overview(None) for _ in range(5)]
            asked[0].cancel()
            return [*await asyncio.gather(*asked[1:]), await queues._overview(None)]
        finally:
            await deps.readers.close()

    answers = asyncio.run(read())
    assert len({id(answer) for answer in answers[:4]}) == 1
    assert answers[4] is not answers[0]
    assert answers[4] == answers[0]
