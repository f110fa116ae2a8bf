"""Replaying a split against Qdrant: exactly, until every rank is known, or as it is served, for the first hits."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from eval.metrics import NOT_FOUND, PositiveRanks, Ranking, Ranks
from eval.protocol import Ids, Task
from eval.ranks.oracle import ROUNDING, OracleRanks
from eval.runs import TOP, AgreementMetrics
from search.errors import EvaluationError
from search.index import ReadIndex, SearchParams
from search.records import Hit

HITS_PER_CALL = 25_600  # held in memory at once
SHALLOW = 80  # down to this rank it is cheaper to fetch from the first hit on
STRETCH, MARGIN = 1.125, 8  # an answer's stretches grow with their place in it, and overlap by a little
TIMED = 256  # queries whose speed is measured

Progress = Callable[[int], object]
Bounds = tuple[Ranks, Ranks]  # the lowest and the highest rank that each query's best positive can have


@dataclass(frozen=True, slots=True)
class Agreement:
    """How Qdrant's exact ranks compare with the oracle's, query by query."""

    queries: int
    rounding: int
    unexplained: Ids

    def counts(self) -> AgreementMetrics:
        return AgreementMetrics(
            queries=self.queries, differ_by_rounding=self.rounding, differ_unexplained=len(self.unexplained)
        )

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

    `ranks` int64 (n,): 1 + the number of hits that score strictly higher than the best positive, `NOT_FOUND` if none
    came back. `depth`: how many hits were fetched, None if as many as it took to find every rank. `top_ids` int64 and
    `top_scores` float64, both (n, 10): the first hits, padded with -1 and NaN. `queries_per_second`: asked together.
    `latency_ms`: the median of queries asked one at a time.
    """

    ranks: Ranks
    depth: int | None
    top_ids: Ids
    top_scores: npt.NDArray[np.float64]
    queries_per_second: float
    latency_ms: float

    def ranking(self, positives: PositiveRanks | None = None) -> Ranking:
        """Return what metrics are computed from, with the ranks of all positives if they are known."""
        return Ranking(self.ranks, self.depth, positives)


EXACTLY = SearchParams(exact=True)
AS_SERVED = SearchParams()


def replay(
    index: ReadIndex,
    task: Task,
    params: SearchParams = EXACTLY,
    *,
    expected: Bounds | None = None,
    progress: Progress = int,
) -> Replay:
    """Fetch the first ten hits of every query and, with `expected` ranks, the stretch of its answer in which its best
    positive should be; if it is not there, the whole answer.

    The task gives the filter, whatever `params` says of it. `expected` only saves time: the ranks are those of
    Qdrant's answers.

    Raises:
        EvaluationError: with `expected`, a positive is not found in the whole gallery.
    """
    count, gallery = len(task.queries.ids), len(task.gallery.ids)
    ranks = np.full(count, NOT_FOUND, dtype=np.int64)
    top_ids, top_scores = np.full((count, TOP), -1, dtype=np.int64), np.full((count, TOP), np.nan)
    for offsets, limits in _stretches(count, gallery, expected):
        waiting = np.flatnonzero(ranks == NOT_FOUND)
        kinds: set[tuple[int, int]] = set(zip(offsets[waiting].tolist(), limits[waiting].tolist(), strict=True))
        for offset, limit in sorted(kinds):
            rows = waiting[(offsets[waiting] == offset) & (limits[waiting] == limit)]
            at_once = max(1, HITS_PER_CALL // limit)
            for start in range(0, len(rows), at_once):
                some = rows[start : start + at_once]
                for row, hits in zip(some, _ask(index, task, some, limit, params, offset), strict=True):
                    if not offset:
                        top = hits[:TOP]
                        top_ids[row, : len(top)] = [hit.id for hit in top]
                        top_scores[row, : len(top)] = [hit.score for hit in top]
                    ranks[row] = _rank(hits, _positives(index, task, int(row), offset), offset)
                progress(len(some) if expected is None else int((ranks[some] != NOT_FOUND).sum()))
    if expected is not None and (lost := np.flatnonzero(ranks == NOT_FOUND)).size:
        raise EvaluationError(
            f"query {task.queries.ids[lost[0]]} of {task.name}: none of its positives came back from "
            f"{task.gallery.collection}; was the collection changed meanwhile? Run it again"
        )
    depth = TOP if expected is None else None
    return Replay(ranks, depth, top_ids, top_scores, *_speed(index, task, params))


def _stretches(count: int, gallery: int, expected: Bounds | None) -> Iterator[tuple[Ids, Ids]]:
    """Yield which part of each query's answer to fetch, as offsets and limits (n,), one attempt after another.

    There are few different ones, so that many queries share a call, and they are no longer than they need to be: every
    hit costs time.
    """
    start = np.zeros(count, dtype=np.int64)
    if expected is None:
        yield start, np.full(count, min(TOP, gallery))
        return
    highest = expected[1]
    doublings = np.ceil(np.log2(np.maximum(2 * highest / TOP, 1)))
    shallow = highest <= SHALLOW
    yield start, np.minimum(np.where(shallow, TOP * 2**doublings, TOP), gallery).astype(np.int64)
    first, last = (np.floor(np.log(ranks) / np.log(STRETCH)) for ranks in expected)
    offsets = np.maximum(STRETCH**first - MARGIN, 0).astype(np.int64)
    yield offsets, np.ceil(STRETCH ** (last + 1) + MARGIN - offsets).astype(np.int64)
    yield start, np.full(count, gallery)


def _ask(index: ReadIndex, task: Task, rows: Ids, limit: int, params: SearchParams, offset: int = 0) -> list[list[Hit]]:
    params = replace(params, where=task.gallery.where, payload=False, offset=offset)
    return index.query(task.gallery.collection, task.queries.vectors[rows], limit, params)


def _positives(index: ReadIndex, task: Task, row: int, offset: int) -> set[int]:
    """Return the ids of a query's positives; if the stretch does not begin at the first hit, only the one that Qdrant
    itself scores highest, since others could lie before it."""
    positives = task.gallery.ids[task.positives_of(row)].tolist()
    if not offset or len(positives) == 1:
        return set(positives)
    where = replace(task.gallery.where, ids=tuple(positives))
    vector = task.queries.vectors[row : row + 1]
    params = SearchParams(exact=True, payload=False, where=where)
    [best] = index.query(task.gallery.collection, vector, 1, params)
    return {hit.id for hit in best}


def _rank(hits: list[Hit], positives: set[int], offset: int) -> int:
    """Return the rank from a part of an answer that begins after `offset` hits, none of them the best positive."""
    best = next((hit.score for hit in hits if hit.id in positives), None)
    if best is None or (offset and hits[0].score <= best):  # those before it could tie with it
        return NOT_FOUND
    return offset + 1 + sum(hit.score > best for hit in hits if hit.id not in positives)


def _speed(index: ReadIndex, task: Task, params: SearchParams) -> tuple[float, float]:
    """Return queries a second, asked in one call, and milliseconds, the median of single queries, for the first ten
    hits of queries spread over the split."""
    rows = np.unique(np.linspace(0, len(task.queries.ids) - 1, TIMED).astype(np.int64))
    limit = min(TOP, len(task.gallery.ids))
    started = time.perf_counter()
    _ask(index, task, rows, limit, params)
    rate = len(rows) / (time.perf_counter() - started)
    seconds = []
    for row in range(len(rows)):
        started = time.perf_counter()
        _ask(index, task, rows[row : row + 1], limit, params)
        seconds.append(time.perf_counter() - started)
    return rate, float(1000 * np.median(seconds))


def agreement(oracle: OracleRanks, exact: Ranks) -> Agreement:
    """Compare Qdrant's exact ranks with the oracle's."""
    differ = exact != oracle.ranks
    explained = differ & (exact >= oracle.lowest) & (exact <= oracle.highest)
    return Agreement(len(exact), int(explained.sum()), oracle.task.queries.ids[differ & ~explained])
