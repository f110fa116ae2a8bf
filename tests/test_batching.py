"""Many threads submit items, one thread processes them in batches."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from search.errors import QueryError
from search.web.batching import Batcher


def test_each_thread_gets_its_own_result_from_few_calls() -> None:
    batches: list[int] = []
    threads: set[int] = set()
    start = threading.Event()

    def square(numbers: Sequence[int]) -> list[int]:
        batches.append(len(numbers))
        start.wait(10)  # until all threads have submitted their item
        threads.add(threading.get_ident())
        return [number * number for number in numbers]

    batcher: Batcher[int, int] = Batcher(square, max_batch=16)
    with ThreadPoolExecutor(50) as clients:
        results = [clients.submit(batcher.run, number) for number in range(50)]
        while not batches or len(batcher._waiting) + batches[0] < 50:
            time.sleep(0.001)
        start.set()
        assert [result.result() for result in results] == [number * number for number in range(50)]
    batcher.close()
    assert sum(batches) == 50
    assert max(batches) <= 16
    assert len(batches) <= 6
    assert len(threads) == 1


def test_an_item_that_fails_does_not_fail_the_others() -> None:
    hold = threading.Event()

    def to_upper(words: Sequence[str]) -> list[str]:
        if words == ["first"]:
            hold.wait(10)
        if "bad" in words:
            raise QueryError("no such word")
        return [word.upper() for word in words]

    batcher: Batcher[str, str] = Batcher(to_upper)
    with ThreadPoolExecutor(8) as clients:
        results = {"first": clients.submit(batcher.run, "first")}
        while batcher._waiting:
            pass
        results |= {word: clients.submit(batcher.run, word) for word in ("a", "bad", "b", "c")}
        while len(batcher._waiting) < 4:
            pass
        hold.set()
        assert [results[word].result() for word in ("first", "a", "b", "c")] == ["FIRST", "A", "B", "C"]
        with pytest.raises(QueryError, match="no such word"):
            results["bad"].result()
    batcher.close()
