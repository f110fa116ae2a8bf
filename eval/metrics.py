"""Retrieval metrics as pure functions on ranks; ranks count from 1 and belong to the best-ranked positive."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Ranks = npt.NDArray[np.int64]

CUTOFFS = (1, 5, 10)


def recall_at_k(ranks: Ranks, k: int) -> float:
    """The share of queries, in percent, with a positive among the first `k`.

    This is Recall@k as the image-text retrieval literature reports it (Karpathy and Fei-Fei, CVPR 2015): a hit rate.
    Elsewhere recall is the share of all positives found, which with five captions cannot pass 20% at k = 1.
    """
    return float(100 * np.mean(ranks <= k))


def median_rank(ranks: Ranks) -> float:
    """The median of the ranks; between two middle ones, their mean."""
    return float(np.median(ranks))


def mean_rank(ranks: Ranks) -> float:
    """The arithmetic mean of the ranks."""
    return float(np.mean(ranks))


def summarise(ranks: Ranks) -> dict[str, float]:
    """recall@1, recall@5, recall@10 in percent, median_rank and mean_rank.

    Raises:
        ValueError: there are no ranks, or one is below 1.
    """
    if not len(ranks) or ranks.min() < 1:
        raise ValueError("ranks count from 1, and there must be at least one")
    recalls = {f"recall@{k}": recall_at_k(ranks, k) for k in CUTOFFS}
    return {**recalls, "median_rank": median_rank(ranks), "mean_rank": mean_rank(ranks)}
