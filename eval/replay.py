"""Replaying a split against Qdrant: exactly, until every rank is known, or as it is served, for the first hits."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from eval.metrics import NOT_FOUND, Ranks
from eval.oracle import ROUNDING, OracleRanks
from eval.protocol import Ids, Task
from eval.runs import TOP
from search.errors import EvaluationError
from search.index import Index
from search.records import Hit

QUERIES_PER_CALL = 256
FIRST_LIMIT = 100
WIDENING = 10
TIMED_SINGLY = 200  # queries asked one at a time for the latency

Progress = Callable[[int], object]


@dataclass(frozen=True, slots=True)
class Agreement:
    """How Qdrant's exact ranks compare with the oracle's, query by query."""

    queries: int
    rounding: int
    unexplained: Ids

    def __str__(self) -> str:
        if not self.rounding and not len(self.unexplained):
            return f"all {self.queries:,} ranks are the same"
        said = f"{self.queries - self.rounding - len(self.unexplained):,} of {self.queries:,} ranks are the same"
        if self.rounding:
            said += f"; {self.rounding:,} differ by items that score within {ROUNDING:g} (float32 rounding)"
        if len(self.unexplained):
            said += f"; {len(self.unexplained):,} DIFFER WITHOUT EXPLANATION, first the query {self.unexplained[0]}"
        return said


@dataclass(frozen=True, slots=True)
class Replay:
    """Qdrant's answers to all queries of a task.

    `ranks` int64 (n,): 1 + the number of hits that score strictly higher than the best positive, `NOT_FOUND` where none
    came back. `top_ids` int64 and `top_scores` float64, both (n, 10): the first hits, padded with -1 and NaN.
    `queries_per_second`: of all queries in batches. `latency_ms`: the median of queries asked one at a time.
    """

    ranks: Ranks
    top_ids: Ids
    top_scores: npt.NDArray[np.float64]
    queries_per_second: float
    latency_ms: float


@dataclass(frozen=True, slots=True)
class Effort:
    """How an index is asked: by a full scan (`exact`), or through HNSW with a beam of `ef` (None: the collection's),
    with or without scoring the hits of a quantised collection again."""

    exact: bool = False
    ef: int | None = None
    rescore: bool = True


EXACTLY = Effort(exact=True)
AS_SERVED = Effort()


def replay(
    index: Index,
    task: Task,
    effort: Effort = EXACTLY,
    *,
    limit: int = FIRST_LIMIT,
    widen: bool = True,
    progress: Progress = int,
) -> Replay:
    """Asks every query for its `limit` best hits; with `widen`, asks those without a positive again for more and more.

    Raises:
        EvaluationError: with `widen`, a positive is not found in the whole gallery.
    """
    count = len(task.queries.ids)
    ranks = np.full(count, NOT_FOUND, dtype=np.int64)
    top_ids, top_scores = np.full((count, TOP), -1, dtype=np.int64), np.full((count, TOP), np.nan)
    waiting, first_round = np.arange(count), True
    started, rate = time.perf_counter(), 0.0
    while len(waiting):
        limit = min(limit, len(task.gallery.ids))
        at_once = max(1, QUERIES_PER_CALL * FIRST_LIMIT // max(limit, FIRST_LIMIT))  # so many hits lie in memory
        for start in range(0, len(waiting), at_once):
            rows = waiting[start : start + at_once]
            for row, hits in zip(rows, _ask(index, task, rows, limit, effort), strict=True):
                ranks[row] = _rank(hits, set(task.gallery.ids[task.positives_of(row)].tolist()))
                if first_round:
                    top = hits[:TOP]
                    top_ids[row, : len(top)] = [hit.id for hit in top]
                    top_scores[row, : len(top)] = [hit.score for hit in top]
            progress(len(rows) if not widen else int(np.count_nonzero(ranks[rows] != NOT_FOUND)))
        if first_round:
            rate = count / (time.perf_counter() - started)
        first_round = False
        waiting = waiting[ranks[waiting] == NOT_FOUND] if widen else waiting[:0]
        if len(waiting) and limit == len(task.gallery.ids):
            raise EvaluationError(
                f"query {task.queries.ids[waiting[0]]} of {task.name}: none of its positives came back from "
                f"{task.gallery.collection}; was the collection changed meanwhile? Run it again"
            )
        limit *= WIDENING
    return Replay(ranks, top_ids, top_scores, rate, _latency(index, task, effort))


def _ask(index: Index, task: Task, rows: Ids, limit: int, effort: Effort) -> list[list[Hit]]:
    return index.query(
        task.gallery.collection,
        task.queries.vectors[rows],
        limit,
        where=task.gallery.where,
        exact=effort.exact,
        ef=effort.ef,
        rescore=effort.rescore,
        payload=False,
    )


def _rank(hits: list[Hit], positives: set[int]) -> int:
    best = next((hit.score for hit in hits if hit.id in positives), None)
    if best is None:
        return NOT_FOUND
    return 1 + sum(hit.score > best for hit in hits if hit.id not in positives)


def _latency(index: Index, task: Task, effort: Effort) -> float:
    """Milliseconds, the median of single queries for ten hits, spread over the split."""
    rows = np.unique(np.linspace(0, len(task.queries.ids) - 1, TIMED_SINGLY).astype(np.int64))
    seconds = []
    for row in rows:
        started = time.perf_counter()
        _ask(index, task, rows[rows == row], min(TOP, len(task.gallery.ids)), effort)
        seconds.append(time.perf_counter() - started)
    return float(1000 * np.median(seconds))


def agreement(oracle: OracleRanks, exact: Ranks) -> Agreement:
    """Compares Qdrant's exact ranks with the oracle's."""
    differ = exact != oracle.ranks
    explained = differ & (exact >= oracle.lowest) & (exact <= oracle.highest)
    return Agreement(len(exact), int(explained.sum()), oracle.task.queries.ids[differ & ~explained])
