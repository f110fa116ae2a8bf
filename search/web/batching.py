"""Group requests that arrive at the same time into one call, made by a single thread."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

MAX_BATCH = 32


class Batcher(Generic[Item, Result]):
    """Groups the items of many requests into batches, for a model that encodes thirty queries nearly as fast as one.

    Args:
        process: returns the results of a batch, in order; only one thread calls it.
        max_batch: the largest number of items in a batch.
    """

    def __init__(self, process: Callable[[Sequence[Item]], Sequence[Result]], max_batch: int = MAX_BATCH) -> None:
        self._process = process
        self._max_batch = max_batch
        self._waiting: deque[tuple[Item, asyncio.Future[Result]]] = deque()
        self._working: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="encoder")

    async def run(self, item: Item) -> Result:
        """Wait for the result of one item and return it. Raises what `process` raised for this item."""
        result: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, result))
        if self._working is None:
            self._working = asyncio.create_task(self._work())
        return await result

    def close(self) -> None:
        """Wait for the batch that is being processed, then end the thread."""
        self._thread.shutdown()

    async def _work(self) -> None:
        """Process the items that have waited longest together, until none is waiting."""
        while self._waiting:
            batch = [self._waiting.popleft() for _ in range(min(self._max_batch, len(self._waiting)))]
            results = await self._outcome([item for item, _ in batch])
            for number, (item, waiting) in enumerate(batch):
                # If the batch failed, each item is processed alone, so that only those that fail have an error.
                alone = isinstance(results, BaseException) and len(batch) > 1
                outcome = await self._outcome([item]) if alone else results
                if waiting.done():  # cancelled, as when the server shuts down
                    continue
                if isinstance(outcome, BaseException):
                    waiting.set_exception(outcome)
                else:
                    waiting.set_result(outcome[0 if alone else number])
        self._working = None

    async def _outcome(self, items: Sequence[Item]) -> Sequence[Result] | BaseException:
        call = asyncio.get_running_loop().run_in_executor(self._thread, self._checked, items)
        [outcome] = await asyncio.gather(call, return_exceptions=True)
        return outcome

    def _checked(self, items: Sequence[Item]) -> Sequence[Result]:
        """Return what `process` returns; asyncio cannot pass on a StopIteration."""
        try:
            results = self._process(items)
        except StopIteration as error:
            raise RuntimeError("an iterator ended early") from error
        if len(results) != len(items):
            raise RuntimeError(f"{len(results)} results for {len(items)} items")
        return results
