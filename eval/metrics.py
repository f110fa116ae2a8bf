"""Retrieval metrics as pure functions on ranks; ranks count from 1 and belong to the best-ranked positive.

A rank that is not known, because an approximate answer was asked for its first few hits only, is `NOT_FOUND`.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Ranks = npt.NDArray[np.int64]

CUTOFFS = (1, 5, 10)
METRICS = ("recall@1", "recall@5", "recall@10", "median_rank", "mean_rank")
WITH_PRECISION = (*METRICS, "mean_average_precision")  # where the ranks of all positives are known
NOT_FOUND = int(np.iinfo(np.int64).max)


def recall_at_k(ranks: Ranks, k: int) -> float:
    """The share of queries, in percent, with a positive among the first `k`.

    This is Recall@k as the image-text retrieval literature reports it (Karpathy and Fei-Fei, CVPR 2015): a hit rate.
    Elsewhere recall is the share of all positives found, which with five captions cannot pass 20% at k = 1: see
    `proportion_at_k`.
    """
    return float(100 * np.mean(ranks <= k))


def median_rank(ranks: Ranks) -> float | None:
    """The median of the ranks; between two middle ones, their mean; None where it is not among the ranks found."""
    middle = np.sort(ranks)[[(len(ranks) - 1) // 2, len(ranks) // 2]]
    return None if middle[1] == NOT_FOUND else float(middle.mean())


def mean_rank(ranks: Ranks) -> float | None:
    """The arithmetic mean of the ranks; None where one was not found."""
    return None if ranks.max() == NOT_FOUND else float(np.mean(ranks))


def summarise(ranks: Ranks) -> dict[str, float | None]:
    """recall@1, recall@5, recall@10 in percent, median_rank and mean_rank.

    Raises:
        ValueError: there are no ranks, or one is below 1.
    """
    if not len(ranks) or ranks.min() < 1:
        raise ValueError("ranks count from 1, and there must be at least one")
    recalls = {f"recall@{k}": recall_at_k(ranks, k) for k in CUTOFFS}
    return {**recalls, "median_rank": median_rank(ranks), "mean_rank": mean_rank(ranks)}


def proportion_at_k(positive_ranks: Ranks, starts: Ranks, k: int) -> float:
    """The mean share, in percent, of a query's positives that are among its first `k`.

    `positive_ranks` (pairs,) are the ranks of all positives, those of query i at `starts[i]:starts[i + 1]`.
    """
    return float(100 * np.mean(_per_query(positive_ranks <= k, starts) / np.diff(starts)))


def average_precision(positive_ranks: Ranks, starts: Ranks) -> npt.NDArray[np.float64]:
    """Of each query, the mean of the precisions at its positives (Manning, Raghavan and Schütze 2008, section 8.4).

    `positive_ranks` (pairs,): of each query ascending, no rank twice, those of query i at `starts[i]:starts[i + 1]`.
    Returns float64 (n,), from 0 to 1.
    """
    return _per_query(_precision(positive_ranks, starts), starts) / np.diff(starts)


def r_precision(positive_ranks: Ranks, starts: Ranks, positives: Ranks) -> npt.NDArray[np.float64]:
    """Of each query, the share of its R positives that are among the first R; `positives` (n,) is R.

    R may count positives that the gallery does not hold. Returns float64 (n,), from 0 to 1.
    """
    among = positive_ranks <= np.repeat(positives, np.diff(starts))
    return _per_query(among, starts) / positives


def map_at_r(positive_ranks: Ranks, starts: Ranks, positives: Ranks) -> npt.NDArray[np.float64]:
    """Of each query, average precision over its first R hits only (Musgrave, Belongie and Lim, ECCV 2020).

    Arguments and result as of `r_precision`.
    """
    among = positive_ranks <= np.repeat(positives, np.diff(starts))
    return _per_query(np.where(among, _precision(positive_ranks, starts), 0), starts) / positives


def _precision(positive_ranks: Ranks, starts: Ranks) -> npt.NDArray[np.float64]:
    """The precision at each positive: how many positives up to it, over its rank."""
    number = np.arange(len(positive_ranks)) - np.repeat(starts[:-1], np.diff(starts)) + 1
    return np.asarray(number / positive_ranks, dtype=np.float64)


def _per_query(values: npt.NDArray[np.bool_] | npt.NDArray[np.float64], starts: Ranks) -> npt.NDArray[np.float64]:
    """Sums over each query's positives; each query has at least one."""
    return np.add.reduceat(values.astype(np.float64), starts[:-1])
