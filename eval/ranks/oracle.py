"""The oracle: ranks as exact arithmetic on the stored float32 vectors gives them.

Two scores tie if their exact dot products are equal, and then only. float32 scores of different vectors can be equal or
in the wrong order; an engine that scores in float32 reports ranks that are too good, or too bad, by such pairs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from eval.metrics import PositiveRanks, Ranking, Ranks
from eval.progress import Progress, no_progress
from eval.protocol import Ids, Task
from eval.runs import TOP
from search.records import Vectors

QUERIES_PER_TILE = 256
ITEMS_PER_TILE = 4096  # a tile of scores fits into the processor's cache
PAIRS_PER_BLOCK = 16_384  # near ties scored again at a time
SCORES_PER_BLOCK = 1 << 23  # of `first_hits`, 32 MiB of float32

Scores = npt.NDArray[np.float64]
Signs = npt.NDArray[np.int8]


def rounding(dim: int) -> float:
    """Return how far a float32 dot product of two unit vectors may be from the exact one.

    Summing n products loses at most n * 2**-24 in any order (Higham, Accuracy and Stability of Numerical Algorithms,
    section 3.1), and half of that if the sum is kept in two parts or more, as every vectorised engine does: then scores
    further apart than this are ordered correctly. The constant covers thresholds and queries that are rounded too.
    """
    return (dim + 16) * 2.0**-24


@dataclass(frozen=True)
class OracleRanks:
    """Exact counts for each positive of a task, in the order of `task.positives`, all (pairs,).

    A negative is an item that is not a positive of the query. `scores` float64: the cosine similarity of the positive
    to its query. `higher` and `tied` int64: how many negatives score strictly higher, and exactly as high. `near`: how
    many negatives score within `rounding` of it, of which `near_higher` are among the `higher`.
    """

    task: Task
    scores: Scores
    higher: Ids
    tied: Ids
    near: Ids
    near_higher: Ids

    @cached_property
    def best(self) -> Ids:
        """int64 (n,): the index into `task.positives` of each query's best positive, the first of equal ones."""
        return np.lexsort((-self.scores, self.higher, self._query))[self.task.starts[:-1]]

    @property
    def ranks(self) -> Ranks:
        """int64 (n,): 1 + the number of items that score strictly higher than the best positive."""
        return np.asarray(1 + self.higher[self.best])

    @property
    def pessimistic(self) -> Ranks:
        """int64 (n,): 1 + the number of negatives that score at least as high as the best positive."""
        return np.asarray(self.ranks + self.tied[self.best])

    @property
    def lowest(self) -> Ranks:
        """int64 (n,): the smallest rank that float32 rounding can lead to."""
        return np.asarray(self.ranks - self.near_higher[self.best])

    @property
    def highest(self) -> Ranks:
        """int64 (n,): the largest rank that float32 rounding can lead to."""
        return np.asarray(self.lowest + self.near[self.best])

    @property
    def positive_ranks(self) -> Ranks:
        """int64 (pairs,): the ranks of all positives, of each query ascending; positives come first in every tie."""
        return self._all_ranks(self.higher)

    @property
    def pessimistic_positive_ranks(self) -> Ranks:
        """int64 (pairs,): the ranks of all positives, of each query ascending; negatives come first in every tie."""
        return self._all_ranks(self.higher + self.tied)

    @cached_property
    def first_ten(self) -> tuple[Ids, Scores]:
        """The ten best items of each query, as `first_hits` returns them."""
        return first_hits(self.task, TOP)

    @cached_property
    def ranking(self) -> Ranking:
        """The ranks from which metrics are computed, those of all positives and with every tie lost among them."""
        return self.ranking_of(np.diff(self.task.starts))

    def ranking_of(self, totals: Ids) -> Ranking:
        """Return `ranking`, if query i has `totals[i]` positives, some of which the gallery may lack."""
        starts = self.task.starts
        worst = PositiveRanks(self.pessimistic_positive_ranks, starts, totals)
        return Ranking(
            self.ranks,
            positives=PositiveRanks(self.positive_ranks, starts, totals),
            pessimistic=Ranking(self.pessimistic, positives=worst),
        )

    @cached_property
    def _query(self) -> Ids:
        """int64 (pairs,): the query of each pair."""
        return np.repeat(np.arange(len(self.task.starts) - 1), np.diff(self.task.starts))

    def _all_ranks(self, negatives_above: Ids) -> Ranks:
        """Return the ranks: the i-th positive of a query, i from 1, has rank i + the number of negatives above it."""
        above = negatives_above[np.lexsort((negatives_above, self._query))]
        return np.asarray(above + np.arange(len(above)) - self.task.starts[self._query] + 1)


def oracle_ranks(task: Task, progress: Progress = no_progress) -> OracleRanks:
    """Count the negatives that score higher than each positive, and as high, as exact arithmetic orders them.

    A float32 matrix product, in tiles, orders all items but those within `rounding` of the positive's score, which are
    scored again (`_compare`). Memory beyond the vectors: one tile. `progress` is called with the number of queries done
    since the last call.
    """
    queries, gallery, starts = task.queries.vectors, task.gallery.vectors, task.starts
    owner = np.repeat(np.arange(len(queries)), np.diff(starts))
    scores, margin = _dots(queries, gallery, owner, task.positives), rounding(queries.shape[1])
    higher, tied, near, near_higher = (np.zeros(len(owner), dtype=np.int64) for _ in range(4))
    for first in range(0, len(queries), QUERIES_PER_TILE):
        last = min(first + QUERIES_PER_TILE, len(queries))
        per_query = np.diff(starts[first : last + 1])
        own = slice(starts[first], starts[last])
        for column in range(0, len(gallery), ITEMS_PER_TILE):
            tile = queries[first:last] @ gallery[column : column + ITEMS_PER_TILE].T
            place = task.positives[own] - column
            inside = (place >= 0) & (place < tile.shape[1])
            tile[owner[own][inside] - first, place[inside]] = -np.inf  # no positive is a rival
            for nth in range(per_query.max()):  # the nth positive of every query that has so many
                rows = np.flatnonzero(per_query > nth)
                pairs = starts[first + rows] + nth
                some = tile if len(rows) == len(tile) else tile[rows]
                threshold = scores[pairs, np.newaxis]
                above = some > (threshold + margin).astype(np.float32)
                close = (some >= (threshold - margin).astype(np.float32)) ^ above
                higher[pairs] += [np.count_nonzero(row) for row in above]
                row, item = np.divmod(np.flatnonzero(close), close.shape[1])  # much faster than np.nonzero
                signs = _compare(task, first + rows[row], item + column, pairs[row], scores)
                for counts, counted in ((near, row), (near_higher, row[signs > 0]), (tied, row[signs == 0])):
                    counts[pairs] += np.bincount(counted, minlength=len(rows))
        progress(last - first)
    return OracleRanks(task, scores, higher + near_higher, tied, near, near_higher)


def first_hits(task: Task, k: int) -> tuple[Ids, Scores]:
    """Return gallery rows int64 (n, k) and float64 scores (n, k) of the `k` best items of each query, best first.

    Of equal scores the query's positives come first, then the order of the gallery. All items if the gallery is smaller
    than `k`.
    """
    queries, gallery, starts = task.queries.vectors, task.gallery.vectors, task.starts
    k = min(k, len(gallery))
    margin = 2 * rounding(queries.shape[1])
    best_rows, best_scores = np.empty((len(queries), k), dtype=np.int64), np.empty((len(queries), k))
    at_once = max(1, min(QUERIES_PER_TILE, SCORES_PER_BLOCK // len(gallery)))
    for first in range(0, len(queries), at_once):
        last = min(first + at_once, len(queries))
        scores = queries[first:last] @ gallery.T
        positive = np.zeros(scores.shape, dtype=np.bool_)
        per_query = np.diff(starts[first : last + 1])
        positive[np.repeat(np.arange(last - first), per_query), task.positives[starts[first] : starts[last]]] = True
        least = np.partition(scores, len(gallery) - k, axis=1)[:, len(gallery) - k, np.newaxis]
        row, item = np.divmod(np.flatnonzero(scores >= least - np.float32(margin)), len(gallery))
        exact = _dots(queries, gallery, first + row, item)
        order = np.lexsort((~positive[row, item], -exact, row))
        counts = np.bincount(row, minlength=last - first)
        chosen = order[(np.cumsum(counts) - counts)[:, np.newaxis] + np.arange(k)]
        best_rows[first:last], best_scores[first:last] = item[chosen], exact[chosen]
    return best_rows, best_scores


def overlaps(oracle: OracleRanks, ids: Ids) -> Scores:
    """Return the share of the ten best items of each query that are among `ids` (n, 10), float64 (n,) from 0 to 1.

    An item that scores exactly as high as the tenth counts: which of equal items come first means nothing. -1 stands
    for no item.
    """
    gallery = oracle.task.gallery
    order = np.argsort(gallery.ids)
    query, place = np.nonzero(ids >= 0)
    items = order[np.searchsorted(gallery.ids, ids[query, place], sorter=order)]
    best = oracle.first_ten[1]
    enough = _dots(oracle.task.queries.vectors, gallery.vectors, query, items) >= best[query, -1]
    return np.asarray(np.bincount(query, enough, minlength=len(ids)) / best.shape[1], dtype=np.float64)


def _compare(task: Task, query_rows: Ids, items: Ids, pairs: Ids, scores: Scores) -> Signs:
    """Return 1, 0 or -1 for each item that scores higher than, exactly as high as, or lower than a positive.

    The positive is `task.positives[pairs]`, of `scores[pairs]`. Products of float32 numbers are exact in float64; only
    their sum is rounded. If two sums are too close to tell, equal vectors tie, and others are summed exactly.
    """
    queries, gallery = task.queries.vectors, task.gallery.vectors
    doubt = queries.shape[1] * 2.0**-52  # two float64 sums of unit vectors may both be half of this off
    signs = np.empty(len(items), dtype=np.int8)
    for start in range(0, len(items), PAIRS_PER_BLOCK):
        block = slice(start, start + PAIRS_PER_BLOCK)
        query_row, item, pair = query_rows[block], items[block], pairs[block]
        difference = _dots(queries, gallery, query_row, item) - scores[pair]
        sign = np.sign(difference).astype(np.int8)
        unsure = np.flatnonzero(np.abs(difference) <= doubt)
        sign[unsure] = 0
        rivals, positives = gallery[item[unsure]], gallery[task.positives[pair[unsure]]]
        for place in np.flatnonzero((rivals != positives).any(axis=1)):
            query = queries[query_row[unsure[place]]].astype(np.float64)
            terms = np.concatenate((query * rivals[place], -query * positives[place]))
            sign[unsure[place]] = np.sign(math.fsum(terms.tolist()))  # fsum rounds once, so its sign is exact
        signs[block] = sign
    return signs


def _dots(queries: Vectors, gallery: Vectors, query_rows: Ids, gallery_rows: Ids) -> Scores:
    """Return dot products in float64 of chosen pairs, each summed by itself: equal vectors have equal scores."""
    out = np.empty(len(query_rows))
    for start in range(0, len(out), PAIRS_PER_BLOCK):
        pairs = slice(start, start + PAIRS_PER_BLOCK)
        left = queries[query_rows[pairs]].astype(np.float64)
        out[pairs] = np.einsum("ij,ij->i", left, gallery[gallery_rows[pairs]].astype(np.float64))
    return out
