"""Ranks of every query's best positive: by the oracle in memory, and by asking Qdrant."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from eval.metrics import Ranks
from eval.protocol import Ids, Task
from search.errors import EvaluationError
from search.index import Index, Vectors

QUERIES_PER_BLOCK = 256
PAIRS_PER_BLOCK = 16_384  # of near ties, scored again in float64
FIRST_LIMIT = 100
WIDENING = 10

ROUNDING = 1e-5
"""Scores of unit vectors this close may be ordered either way by float32 arithmetic (its error stays under 1e-6 for
hundreds of dimensions; the margin is for engines that sum in another order)."""


@dataclass(frozen=True, slots=True)
class OracleRanks:
    """`ranks` int64 (n,): 1 + the number of items that score strictly higher than the best positive.

    `lowest` and `highest`: what rounding in float32 could make of it.
    """

    ranks: Ranks
    lowest: Ranks
    highest: Ranks


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


def oracle_ranks(task: Task, progress: Callable[[int], object] = int) -> OracleRanks:
    """Exact ranks from the stored vectors.

    A float32 matrix product, in blocks, finds the order; items within `ROUNDING` of the positive's score are scored
    again in float64, row by row, so that equal vectors tie exactly. Memory: one block of queries times the gallery.
    `progress` is called with the number of queries done since the last call.
    """
    queries, gallery = task.queries.vectors, task.gallery.vectors
    ranks, lowest, highest = (np.empty(len(queries), dtype=np.int64) for _ in range(3))
    owner = np.repeat(np.arange(len(queries)), np.diff(task.starts))
    of_positives = _dots(queries, gallery, owner, task.positives)
    best = np.maximum.reduceat(of_positives, task.starts[:-1])
    for start in range(0, len(queries), QUERIES_PER_BLOCK):
        block = slice(start, min(start + QUERIES_PER_BLOCK, len(queries)))
        scores = queries[block] @ gallery.T
        mine = slice(task.starts[block.start], task.starts[block.stop])
        scores[owner[mine] - start, task.positives[mine]] = -np.inf  # a positive is nobody's rival
        threshold = best[block, np.newaxis]
        surely = np.count_nonzero(scores > threshold + ROUNDING, axis=1)
        row, column = np.nonzero(np.abs(scores - threshold) <= ROUNDING)
        higher = _dots(queries, gallery, row + start, column) > best[row + start]
        ranks[block] = 1 + surely + np.bincount(row[higher], minlength=len(scores))
        lowest[block] = 1 + surely
        highest[block] = 1 + surely + np.bincount(row, minlength=len(scores))
        progress(len(scores))
    return OracleRanks(ranks, lowest, highest)


def _dots(queries: Vectors, gallery: Vectors, query_rows: Ids, gallery_rows: Ids) -> npt.NDArray[np.float64]:
    """Dot products in float64 of chosen pairs; the same two rows give the same bits wherever they occur."""
    out = np.empty(len(query_rows))
    for start in range(0, len(out), PAIRS_PER_BLOCK):
        pairs = slice(start, start + PAIRS_PER_BLOCK)
        left = queries[query_rows[pairs]].astype(np.float64)
        out[pairs] = np.einsum("ij,ij->i", left, gallery[gallery_rows[pairs]].astype(np.float64))
    return out


def qdrant_ranks(index: Index, task: Task, *, exact: bool = True, progress: Callable[[int], object] = int) -> Ranks:
    """Ranks int64 (n,) from Qdrant's own answers: 1 + the number of hits that score strictly higher than the positive.

    Asks for the first hundred, and for more only where no positive is among them.

    Raises:
        EvaluationError: a positive is not found in the whole gallery.
    """
    ranks = np.zeros(len(task.queries.ids), dtype=np.int64)
    waiting = np.arange(len(ranks))
    limit = FIRST_LIMIT
    while len(waiting):
        limit = min(limit, len(task.gallery.ids))
        at_once = max(1, QUERIES_PER_BLOCK * FIRST_LIMIT // limit)  # so many hits lie in memory
        for start in range(0, len(waiting), at_once):
            rows = waiting[start : start + at_once]
            answers = index.query(
                task.gallery.collection,
                task.queries.vectors[rows],
                limit,
                where=task.gallery.where,
                exact=exact,
                payload=False,
            )
            for row, hits in zip(rows, answers, strict=True):
                positives = set(task.gallery.ids[task.positives_of(row)].tolist())
                best = next((hit.score for hit in hits if hit.id in positives), None)
                if best is not None:
                    ranks[row] = 1 + sum(hit.score > best for hit in hits if hit.id not in positives)
            progress(int(np.count_nonzero(ranks[rows])))
        waiting = waiting[ranks[waiting] == 0]
        if len(waiting) and limit == len(task.gallery.ids):
            raise EvaluationError(
                f"query {task.queries.ids[waiting[0]]} of {task.name}: none of its positives came back from "
                f"{task.gallery.collection}; was the collection changed meanwhile? Run it again"
            )
        limit *= WIDENING
    return ranks


def agreement(task: Task, oracle: OracleRanks, exact: Ranks) -> Agreement:
    """Compares Qdrant's exact ranks with the oracle's."""
    differ = exact != oracle.ranks
    explained = differ & (exact >= oracle.lowest) & (exact <= oracle.highest)
    return Agreement(len(exact), int(explained.sum()), task.queries.ids[differ & ~explained])
