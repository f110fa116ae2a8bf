"""Many threads ask, one thread answers."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from search.errors import QueryError
from search.web.batching import Batcher


def test_everybody_gets_the_own_answer_and_few_calls_are_made() -> None:
    batches: list[int] = []
    threads: set[int] = set()
    first = threading.Event()

    def square(numbers: Sequence[int]) -> list[int]:
        first.wait(10)  # until everybody has asked
        batches.append(len(numbers))
        threads.add(threading.get_ident())
        return [number * number for number in numbers]

    batcher: Batcher[int, int] = Batcher(square, at_once=16)
    with ThreadPoolExecutor(50) as clients:
        answers = [clients.submit(batcher.ask, number) for number in range(50)]
        while len(batcher._waiting) < 49 and not any(answer.done() for answer in answers):
            pass
        first.set()
        assert [answer.result() for answer in answers] == [number * number for number in range(50)]
    batcher.close()
    assert sum(batches) == 50
    assert max(batches) <= 16
    assert len(batches) <= 6
    assert len(threads) == 1


def test_a_question_that_fails_spoils_no_other() -> None:
    hold = threading.Event()

    def answer(words: Sequence[str]) -> list[str]:
        if words == ["first"]:
            hold.wait(10)
        if "bad" in words:
            raise QueryError("no such word")
        return [word.upper() for word in words]

    batcher: Batcher[str, str] = Batcher(answer)
    with ThreadPoolExecutor(8) as clients:
        asked = {"first": clients.submit(batcher.ask, "first")}
        while batcher._waiting:
            pass
        asked |= {word: clients.submit(batcher.ask, word) for word in ("a", "bad", "b", "c")}
        while len(batcher._waiting) < 4:
            pass
        hold.set()
        assert [asked[word].result() for word in ("first", "a", "b", "c")] == ["FIRST", "A", "B", "C"]
        with pytest.raises(QueryError, match="no such word"):
            asked["bad"].result()
    batcher.close()
