"""Many requests submit items, one thread processes them in batches."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import pytest

from search.errors import QueryError
from search.web.batching import Batcher


def test_each_request_gets_its_own_result_from_few_calls() -> None:
    batches: list[int] = []
    threads: set[int] = set()
    start = threading.Event()

    def square(numbers: Sequence[int]) -> list[int]:
        batches.append(len(numbers))
        start.wait(10)  # until all requests have submitted their item
        threads.add(threading.get_ident())
        return [number * number for number in numbers]

    async def scenario() -> list[int]:
        batcher: Batcher[int, int] = Batcher(square, max_batch=16)
        requests = [asyncio.create_task(batcher.run(number)) for number in range(50)]
        await asyncio.sleep(0.05)
        requests[7].cancel()  # a client that leaves takes nothing from the others
        start.set()
        results = await asyncio.gather(*requests[:7], *requests[8:])
        assert await batcher.run(50) == 2500
        batcher.close()
        return results

    assert asyncio.run(scenario()) == [number * number for number in range(50) if number != 7]
    assert sum(batches) == 51
    assert max(batches) == 16
    assert len(batches) <= 6
    assert len(threads) == 1


def test_an_item_that_fails_does_not_fail_the_others() -> None:
    def to_upper(words: Sequence[str]) -> list[str]:
        if "bad" in words:
            raise QueryError("no such word")
        return [word.upper() for word in words]

    async def scenario() -> None:
        batcher: Batcher[str, str] = Batcher(to_upper)
        words = ["first", "a", "bad", "b", "c"]
        outcomes = await asyncio.gather(*map(batcher.run, words), return_exceptions=True)
        assert [outcomes[number] for number in (0, 1, 3, 4)] == ["FIRST", "A", "B", "C"]
        assert str(outcomes[2]) == "no such word"
        with pytest.raises(QueryError, match="no such word"):
            await batcher.run("bad")
        batcher.close()

    asyncio.run(scenario())
