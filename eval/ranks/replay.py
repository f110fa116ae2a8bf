"""Replay a split against Qdrant: exactly, until every rank is known, or as it is served, for the first hits."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from eval.metrics import NOT_FOUND, PositiveRanks, Ranking, Ranks
from eval.progress import Progress, no_progress
from eval.protocol import Ids, Task
from eval.ranks.oracle import OracleRanks
from eval.runs import TOP, AgreementMetrics
from search.errors import EvaluationError
from search.index import ReadIndex, SearchParams
from search.records import Hit

HITS_PER_CALL = 25_600  # held in memory at once
SHALLOW = 80  # down to this rank it is cheaper to fetch all hits from the first
STRETCH, MARGIN = 1.125, 8  # stretches of an answer grow with their distance from its beginning, and overlap a little
TIMED = 256  # queries whose speed is measured

Bounds = tuple[Ranks, Ranks]  # the lowest and the highest possible rank of each query's best positive


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
        text = f"{self.queries - self.rounding - len(self.unexplained):,} of {self.queries:,} ranks are the same"
        if self.rounding:
            text += f"; {self.rounding:,} differ only because float32 rounding makes scores equal or swaps them"
        if len(self.unexplained):
            text += f"; {len(self.unexplained):,} DIFFER WITHOUT EXPLANATION, the first is query {self.unexplained[0]}"
        return text


@dataclass(frozen=True, slots=True)
class Replay:
    """Qdrant's answers to all queries of a task.

    `ranks` int64 (n,): 1 + the number of hits that score strictly higher than the best positive, `NOT_FOUND` if no
    positive was returned. `pessimistic` int64 (n,): 1 + the number of negatives that score at least as high, by
    Qdrant's own scores; `NOT_FOUND` if hits that were not fetched could tie too. `depth`: how many hits were fetched,
    None if as many as every rank took. `top_ids` int64 and `top_scores` float64, both (n, 10): the first hits, padded
    with -1 and NaN. `queries_per_second`: of queries sent together. `latencies_ms` float64 (m,): of single
    queries.
    """

    ranks: Ranks
    pessimistic: Ranks
    depth: int | None
    top_ids: Ids
    top_scores: npt.NDArray[np.float64]
    queries_per_second: float
    latencies_ms: npt.NDArray[np.float64]

    def ranking(self) -> Ranking:
        """Return the ranks of the best positives, from which metrics are computed."""
        return Ranking(self.ranks, self.depth)

    def exact_ranking(self, task: Task) -> Ranking:
        """Return the ranks if every one is known: with every tie lost too, and as those of all positives if no query
        has more than one, since those of the others were not fetched."""
        if len(task.positives) > len(self.ranks):
            return Ranking(self.ranks, pessimistic=Ranking(self.pessimistic))
        best, worst = (
            PositiveRanks(ranks, task.starts, np.ones_like(ranks)) for ranks in (self.ranks, self.pessimistic)
        )
        return Ranking(self.ranks, positives=best, pessimistic=Ranking(self.pessimistic, positives=worst))


EXACTLY = SearchParams(exact=True)
AS_SERVED = SearchParams()


def replay(
    index: ReadIndex,
    task: Task,
    params: SearchParams = EXACTLY,
    *,
    expected: Bounds | None = None,
    progress: Progress = no_progress,
) -> Replay:
    """Fetch the first ten hits of every query and, with `expected` ranks, the stretch of its answer in which its best
    positive and what ties with it should be; if that stretch does not settle the rank, the whole answer.

    The filter is the task's; that of `params` is ignored. `expected` only saves time: the ranks are those of Qdrant's
    answers.

    Raises:
        EvaluationError: with `expected`, a positive is not found in the whole gallery.
    """
    count, gallery = len(task.queries.ids), len(task.gallery.ids)
    ranks, pessimistic = (np.full(count, NOT_FOUND, dtype=np.int64) for _ in range(2))
    top_ids, top_scores = np.full((count, TOP), -1, dtype=np.int64), np.full((count, TOP), np.nan)
    for offsets, limits in _stretches(count, gallery, expected):
        waiting = np.flatnonzero(pessimistic == NOT_FOUND)
        kinds: set[tuple[int, int]] = set(zip(offsets[waiting].tolist(), limits[waiting].tolist(), strict=True))
        for offset, limit in sorted(kinds):
            rows = waiting[(offsets[waiting] == offset) & (limits[waiting] == limit)]
            at_once = max(1, HITS_PER_CALL // limit)
            for start in range(0, len(rows), at_once):
                some = rows[start : start + at_once]
                for row, hits in zip(some, _query(index, task, some, limit, params, offset), strict=True):
                    if not offset:
                        top = hits[:TOP]
                        top_ids[row, : len(top)] = [hit.id for hit in top]
                        top_scores[row, : len(top)] = [hit.score for hit in top]
                    positives = set(task.gallery.ids[task.positives_of(row)].tolist())
                    best = _best(index, task, int(row), positives) if offset and len(positives) > 1 else positives
                    ranks[row], pessimistic[row] = _rank(hits, positives, best, offset, offset + limit >= gallery)
                progress(len(some) if expected is None else int((pessimistic[some] != NOT_FOUND).sum()))
    if expected is not None and (lost := np.flatnonzero(pessimistic == NOT_FOUND)).size:
        raise EvaluationError(
            f"query {task.queries.ids[lost[0]]} of {task.name}: none of its positives came back from "
            f"{task.gallery.collection}; was the collection changed meanwhile? Run it again"
        )
    depth = TOP if expected is None else None
    return Replay(ranks, pessimistic, depth, top_ids, top_scores, *_speed(index, task, params))


def _stretches(count: int, gallery: int, expected: Bounds | None) -> Iterator[tuple[Ids, Ids]]:
    """Yield the part of each query's answer to fetch, as offsets and limits (n,), one attempt after another.

    There are few different parts, so that many queries share a call, and each is as short as it can be, because every
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


def _query(
    index: ReadIndex, task: Task, rows: Ids, limit: int, params: SearchParams, offset: int = 0
) -> list[list[Hit]]:
    params = replace(params, where=task.gallery.where, payload=False, offset=offset)
    return index.query(task.gallery.collection, task.queries.vectors[rows], limit, params)


def _best(index: ReadIndex, task: Task, row: int, positives: set[int]) -> set[int]:
    """Return the id of that positive of a query which Qdrant itself scores highest.

    A stretch that does not begin at the first hit does not show which it is: others could lie before it.
    """
    where = replace(task.gallery.where, ids=tuple(sorted(positives)))
    vector = task.queries.vectors[row : row + 1]
    params = SearchParams(exact=True, payload=False, where=where)
    [best] = index.query(task.gallery.collection, vector, 1, params)
    return {hit.id for hit in best}


def _rank(hits: list[Hit], positives: set[int], best: set[int], offset: int, to_the_end: bool) -> tuple[int, int]:
    """Return the rank and the pessimistic rank from a part of an answer that begins after `offset` hits.

    The best positive is one of `best`. What the part cannot tell is `NOT_FOUND`: both ranks if the hits before it could
    score no higher than the positive, the pessimistic one if those after it could score as high.
    """
    score = next((hit.score for hit in hits if hit.id in best), None)
    if score is None or (offset and hits[0].score <= score):
        return NOT_FOUND, NOT_FOUND
    rivals = [hit.score for hit in hits if hit.id not in positives]
    settled = to_the_end or hits[-1].score < score
    return (
        offset + 1 + sum(rival > score for rival in rivals),
        offset + 1 + sum(rival >= score for rival in rivals) if settled else NOT_FOUND,
    )


def _speed(index: ReadIndex, task: Task, params: SearchParams) -> tuple[float, npt.NDArray[np.float64]]:
    """Return queries per second in one call, and the milliseconds of single queries.

    Measured for the first ten hits of `TIMED` queries spread over the split.
    """
    rows = np.unique(np.linspace(0, len(task.queries.ids) - 1, TIMED).astype(np.int64))
    limit = min(TOP, len(task.gallery.ids))
    started = time.perf_counter()
    _query(index, task, rows, limit, params)
    rate = len(rows) / (time.perf_counter() - started)
    seconds = []
    for row in range(len(rows)):
        started = time.perf_counter()
        _query(index, task, rows[row : row + 1], limit, params)
        seconds.append(time.perf_counter() - started)
    return rate, 1000 * np.array(seconds)


def agreement(oracle: OracleRanks, exact: Ranks) -> Agreement:
    """Compare Qdrant's exact ranks with the oracle's."""
    differ = exact != oracle.ranks
    explained = differ & (exact >= oracle.lowest) & (exact <= oracle.highest)
    return Agreement(len(exact), int(explained.sum()), oracle.task.queries.ids[differ & ~explained])
