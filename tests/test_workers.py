"""What the server does with more requests than it can work on: a queue in order, then 503."""

from __future__ import annotations

import asyncio
import threading
import time
from functools import partial

import pytest
from starlette.exceptions import HTTPException

from search.web.workers import Workers


def test_requests_wait_in_order_and_those_beyond_the_queue_are_refused_at_once() -> None:
    release = threading.Event()
    order: list[int] = []
    running: list[int] = []

    def work(number: int) -> int:
        running.append(number)
        release.wait(10)
        order.append(number)
        return number

    async def scenario() -> list[int]:
        workers = Workers(threads=1, queue=3)
        accepted = [asyncio.ensure_future(workers.run(partial(work, number))) for number in range(4)]
        await asyncio.sleep(0.05)
        began = time.monotonic()
        with pytest.raises(HTTPException) as refused:
            await workers.run(lambda: work(99))
        assert time.monotonic() - began < 1
        assert (refused.value.status_code, refused.value.headers) == (503, {"Retry-After": "2"})
        assert running == [0]
        release.set()
        results = await asyncio.gather(*accepted)
        assert await workers.run(lambda: work(5)) == 5  # there is room again
        return results

    assert asyncio.run(scenario()) == [0, 1, 2, 3]
    assert order == [0, 1, 2, 3, 5]


def test_a_call_that_fails_frees_its_place() -> None:
    async def scenario() -> None:
        workers = Workers(threads=1, queue=0)
        for _ in range(3):
            with pytest.raises(ZeroDivisionError):
                await workers.run(lambda: 1 / 0)
        assert await workers.run(lambda: 7.0) == 7

    asyncio.run(scenario())
