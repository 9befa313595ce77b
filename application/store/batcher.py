"""Group commit, one floor higher: what is wanted while a round trip is under way goes out together as the next one."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from time import perf_counter
from typing import Any, Generic, TypeVar

import psycopg

from application.observability.metrics import BATCH_DURATION, BATCH_SIZE
from application.store.postgres.pg_connection import Unavailable

In = TypeVar("In")
Out = TypeVar("Out")
MOST_IN_ONE_TRIP = 200
LONGEST_WAIT_SECONDS = 0.01  # for others, who may read a stream of any length


class Batcher(Generic[In, Out]):
    """Collects what is wanted while a round trip is under way; the next round trip takes all of it.

    A round trip that is under way in one of `after` is waited for: those who get its answer will want something here.
    """

    def __init__(
        self,
        round_trip: Callable[[list[In]], Awaitable[list[Out]]],
        after: Sequence["Batcher[Any, Any]"] = (),
        name: str = "",
    ) -> None:
        self._labels = (name,)
        self._round_trip, self._after = round_trip, after
        self._waiting: list[tuple[In, asyncio.Future[Out]]] = []
        self._task: asyncio.Task[None] | None = None
        self._under_way: asyncio.Future[None] | None = None

    def __call__(self, wanted: In) -> asyncio.Future[Out]:
        """The future answer to one want."""
        future: asyncio.Future[Out] = asyncio.get_running_loop().create_future()
        self._waiting.append((wanted, future))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._trips())
        return future

    async def _trips(self) -> None:
        while self._waiting:
            await asyncio.sleep(0)  # whoever has asked by now, too
            if before := [each._under_way for each in self._after if each._under_way]:
                await asyncio.wait(before, timeout=LONGEST_WAIT_SECONDS)
            batch, self._waiting = self._waiting[:MOST_IN_ONE_TRIP], self._waiting[MOST_IN_ONE_TRIP:]
            # somebody who went away before the trip wants nothing any more
            self._under_way, begun = asyncio.get_running_loop().create_future(), perf_counter()
            await self._trip([(wanted, future) for wanted, future in batch if not future.done()])
            BATCH_SIZE.observe(self._labels, len(batch))
            BATCH_DURATION.observe(self._labels, perf_counter() - begun)
            self._under_way.set_result(None)
            self._under_way = None

    async def _trip(self, batch: list[tuple[In, asyncio.Future[Out]]]) -> None:
        try:
            answers = await self._round_trip([wanted for wanted, _ in batch]) if batch else []
        except Unavailable as error:  # it may have been recorded, so it must not be tried again
            _fail(batch, error)
        except Exception as error:  # noqa: BLE001 - it belongs to whoever wanted it
            if len(batch) == 1:  # cancelled by a timeout, out of disk …: the database cannot, whatever is wanted of it
                _fail(batch, Unavailable(str(error)) if isinstance(error, psycopg.OperationalError) else error)
            else:  # one bad want harms only itself
                for one in batch:
                    await self._trip([one])
        else:
            for (_, future), answer in zip(batch, answers, strict=True):
                if not future.done():
                    future.set_result(answer)


def _fail(batch: Iterable[tuple[Any, asyncio.Future[Any]]], error: Exception) -> None:
    for _, future in batch:
        if not future.done():
            future.set_exception(error)
