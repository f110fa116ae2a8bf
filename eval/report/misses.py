"""Which misses are shown on the page: a sample without bias, the most confident ones, and the furthest away."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from eval.runs import QueryResult

PER_GROUP = 6


@dataclass(frozen=True, slots=True)
class Failures:
    """Misses of one direction: queries whose best positive ranks below the first place.

    `queries` and `misses` count all of them. The groups hold at most so many as asked for, and no query twice:
    `sample` is drawn at random from all misses, so that a share seen in it stands for the share among all, and is in
    order of rank; `confident` are those where the first hit scores highest above the best positive; `furthest` those
    with the worst ranks. The last two pass over what an earlier group shows.
    """

    queries: int
    misses: int
    sample: tuple[QueryResult, ...]
    confident: tuple[QueryResult, ...]
    furthest: tuple[QueryResult, ...]


def margin(result: QueryResult) -> float:
    """How much higher (cosine) the first hit scores than the best positive; above 0 for every miss."""
    return result.top[0].score - result.score


def choose(results: Sequence[QueryResult], per_group: int = PER_GROUP, seed: int = 0) -> Failures:
    """The misses of one direction's `results` to show, whatever their order.

    The sample is drawn by a hash of the query's id: a query missed in two runs is in the sample of both or close to it,
    so two pages can be read side by side.
    """
    misses = [result for result in results if result.rank > 1]
    shown: set[int] = set()

    def first(key: Callable[[QueryResult], Any]) -> tuple[QueryResult, ...]:
        left = (result for result in misses if result.query not in shown)
        chosen = sorted(left, key=lambda result: (key(result), result.query))[:per_group]
        shown.update(result.query for result in chosen)
        return tuple(chosen)

    sample = first(lambda result: blake2b(f"{seed}:{result.query}".encode()).digest())
    confident = first(lambda result: -margin(result))
    furthest = first(lambda result: -result.rank)
    in_order = tuple(sorted(sample, key=lambda result: (result.rank, result.query)))
    return Failures(len(results), len(misses), in_order, confident, furthest)
