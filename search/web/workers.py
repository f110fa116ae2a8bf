"""Run the work of requests in a few threads, and refuse requests while too many are waiting."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from starlette.exceptions import HTTPException

Result = TypeVar("Result")

THREADS = 4  # more of them compete for the interpreter lock
QUEUE = 512  # requests
RETRY_AFTER = 2  # seconds


class Workers:
    """Runs the calls of requests in `threads` threads, in order; accepts `threads + queue` requests at a time."""

    def __init__(self, threads: int = THREADS, queue: int = QUEUE) -> None:
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="worker")
        self._capacity = threads + queue
        self._accepted = 0

    async def run(self, call: Callable[[], Result]) -> Result:
        """Return the result of a call. Raises HTTPException as `place` does, and what the call raised."""
        with self.place():
            return await self.call(call)

    @contextmanager
    def place(self) -> Iterator[None]:
        """Take a place in the queue, for a request that makes several calls.

        Raises:
            HTTPException: status 503, at once, because the queue is full.
        """
        if self._accepted >= self._capacity:
            raise HTTPException(
                503, "the server is busy: try again in a moment", headers={"Retry-After": str(RETRY_AFTER)}
            )
        self._accepted += 1
        try:
            yield
        finally:
            self._accepted -= 1

    async def call(self, call: Callable[[], Result]) -> Result:
        """Return the result of a call for a request that has a place. Raises what the call raised."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)
