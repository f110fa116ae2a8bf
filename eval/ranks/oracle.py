"""The oracle: exact ranks from the stored vectors, by a matrix product in memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from eval.metrics import PositiveRanks, Ranking, Ranks
from eval.protocol import Ids, Task
from search.records import Vectors

QUERIES_PER_TILE = 256
ITEMS_PER_TILE = 4096  # so that a tile of scores stays in the processor's cache
PAIRS_PER_BLOCK = 16_384  # of near ties, scored again in float64

ROUNDING = 1e-5
"""Scores of unit vectors this close may be ordered either way by float32 arithmetic (its error stays under 1e-6 for
hundreds of dimensions; the margin is for engines that sum in another order)."""

Scores = npt.NDArray[np.float64]


@dataclass(frozen=True)
class OracleRanks:
    """What the oracle knows of each positive of a task, in the order of `task.positives`, all (pairs,).

    `scores` float64: its cosine similarity to its query. `higher` and `tied` int64: how many items of the gallery score
    strictly higher than it, and exactly as high (itself not counted). `near`: how many others score within `ROUNDING`,
    of which `near_higher` are among the `higher`.
    """

    task: Task
    scores: Scores
    higher: Ids
    tied: Ids
    near: Ids
    near_higher: Ids

    @cached_property
    def best(self) -> Ids:
        """int64 (n,): the place in `task.positives` of each query's best positive, the first of equal ones."""
        return self._descending[self.task.starts[:-1]]

    @property
    def ranks(self) -> Ranks:
        """int64 (n,): 1 + the number of items that score strictly higher than the best positive."""
        return np.asarray(1 + self.higher[self.best])

    @property
    def pessimistic(self) -> Ranks:
        """int64 (n,): 1 + the number of items, other than itself, that score at least as high as the best positive."""
        return np.asarray(self.ranks + self.tied[self.best])

    @property
    def lowest(self) -> Ranks:
        """int64 (n,): the smallest rank that rounding in float32 could make of it."""
        return np.asarray(self.ranks - self.near_higher[self.best])

    @property
    def highest(self) -> Ranks:
        """int64 (n,): the largest rank that rounding in float32 could make of it."""
        return np.asarray(self.lowest + self.near[self.best])

    @cached_property
    def positive_ranks(self) -> Ranks:
        """int64 (pairs,): the ranks of all positives, of each query ascending, ties between them broken by their order.

        The i-th positive has rank i + the number of strictly higher items that are no positives.
        """
        starts = np.repeat(self.task.starts[:-1], np.diff(self.task.starts))
        scores, place = self.scores[self._descending], np.arange(len(self.scores))
        first_of_its_score = np.ones(len(scores), dtype=bool)
        first_of_its_score[1:] = (np.diff(scores) != 0) | (np.diff(starts) != 0)
        positives_above = np.maximum.accumulate(np.where(first_of_its_score, place, 0)) - starts
        rivals = self.higher[self._descending] - positives_above
        return np.asarray(place - starts + 1 + rivals)

    @cached_property
    def ranking(self) -> Ranking:
        """What metrics are computed from: every rank of every positive is known."""
        starts = self.task.starts
        return Ranking(self.ranks, positives=PositiveRanks(self.positive_ranks, starts, np.diff(starts)))

    @cached_property
    def _descending(self) -> Ids:
        """The pairs, ordered by query, then by score, best first."""
        return np.lexsort((-self.scores, np.repeat(np.arange(len(self.task.starts) - 1), np.diff(self.task.starts))))


def oracle_ranks(task: Task, progress: Callable[[int], object] = int) -> OracleRanks:
    """Count, for every positive, the items that score higher.

    A float32 matrix product, in tiles, finds the order; items within `ROUNDING` of the positive's score are scored
    again in float64, row by row, so that equal vectors tie exactly. Memory beyond the vectors: one tile.
    `progress` is called with the number of queries done since the last call.
    """
    queries, gallery, starts = task.queries.vectors, task.gallery.vectors, task.starts
    owner = np.repeat(np.arange(len(queries)), np.diff(starts))
    scores = _dots(queries, gallery, owner, task.positives)
    higher, tied, near, near_higher = (np.zeros(len(owner), dtype=np.int64) for _ in range(4))
    for first in range(0, len(queries), QUERIES_PER_TILE):
        last = min(first + QUERIES_PER_TILE, len(queries))
        per_query = np.diff(starts[first : last + 1])
        for column in range(0, len(gallery), ITEMS_PER_TILE):
            tile = queries[first:last] @ gallery[column : column + ITEMS_PER_TILE].T
            for nth in range(per_query.max()):  # the nth positive of every query that has so many
                rows = np.flatnonzero(per_query > nth)
                pairs = starts[first + rows] + nth
                some = tile if len(rows) == len(tile) else tile[rows]
                threshold = scores[pairs, np.newaxis]
                above = some > (threshold + ROUNDING).astype(np.float32)
                close = (some >= (threshold - ROUNDING).astype(np.float32)) ^ above
                higher[pairs] += [np.count_nonzero(row) for row in above]
                row, item = np.divmod(np.flatnonzero(close), close.shape[1])  # much faster than np.nonzero
                item += column
                other = item != task.positives[pairs[row]]
                row, item = row[other], item[other]
                exact = _dots(queries, gallery, first + rows[row], item)
                for counts, found in (
                    (near, row),
                    (near_higher, row[exact > scores[pairs[row]]]),
                    (tied, row[exact == scores[pairs[row]]]),
                ):
                    counts[pairs] += np.bincount(found, minlength=len(rows))
        progress(last - first)
    return OracleRanks(task, scores, higher + near_higher, tied, near, near_higher)


def first_hits(task: Task, k: int) -> tuple[Ids, Scores]:
    """Return gallery rows int64 (n, k) and scores float64 (n, k) of the `k` best items of each query, best first.

    In float32; all items if the gallery is smaller than `k`.
    """
    queries, gallery = task.queries.vectors, task.gallery.vectors
    k = min(k, len(gallery))
    best_rows, best_scores = np.empty((len(queries), k), dtype=np.int64), np.empty((len(queries), k))
    for first in range(0, len(queries), QUERIES_PER_TILE):
        block = queries[first : first + QUERIES_PER_TILE]
        rows = np.empty((len(block), 0), dtype=np.int64)
        scores = np.empty((len(block), 0), dtype=np.float32)
        for column in range(0, len(gallery), ITEMS_PER_TILE):
            tile = block @ gallery[column : column + ITEMS_PER_TILE].T
            scores = np.concatenate((scores, tile), axis=1)
            rows = np.concatenate(
                (rows, np.broadcast_to(np.arange(column, column + tile.shape[1]), tile.shape)), axis=1
            )
            if scores.shape[1] > k:
                best = np.argpartition(-scores, k - 1, axis=1)[:, :k]
                scores, rows = np.take_along_axis(scores, best, 1), np.take_along_axis(rows, best, 1)
        order = np.argsort(-scores, axis=1, kind="stable")
        best_rows[first : first + len(block)] = np.take_along_axis(rows, order, 1)
        best_scores[first : first + len(block)] = np.take_along_axis(scores, order, 1)
    return best_rows, best_scores


def _dots(queries: Vectors, gallery: Vectors, query_rows: Ids, gallery_rows: Ids) -> Scores:
    """Return dot products in float64 of chosen pairs; the same two rows give the same bits wherever they occur."""
    out = np.empty(len(query_rows))
    for start in range(0, len(out), PAIRS_PER_BLOCK):
        pairs = slice(start, start + PAIRS_PER_BLOCK)
        left = queries[query_rows[pairs]].astype(np.float64)
        out[pairs] = np.einsum("ij,ij->i", left, gallery[gallery_rows[pairs]].astype(np.float64))
    return out
