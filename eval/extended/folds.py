"""The scores on equal parts of the images: COCO's 5K test split is also reported as the average of five times 1K."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from eval.metrics import Ranking, scores
from eval.protocol import Evaluation
from eval.ranks.oracle import oracle_ranks
from eval.runs import FoldMetrics, Scores

FOLDED_IMAGES, FOLDS = 5000, 5


def fold_metrics(evaluation: Evaluation, count: int | None = None) -> FoldMetrics | None:
    """Return the mean of each score over equal parts of the images, by the oracle; None if there are no parts.

    Only scores that need no other ranks than those of the best positives are computed.
    """
    if count is None:
        count = FOLDS if evaluation.images == FOLDED_IMAGES else 0
    if not count:
        return None
    rankings: dict[str, list[Ranking]] = {task.name: [] for task in evaluation.tasks}
    for tasks in evaluation.folds(count):
        for task in tasks:
            ranked = oracle_ranks(task)
            rankings[task.name].append(Ranking(ranked.ranks, pessimistic=Ranking(ranked.pessimistic)))
    return FoldMetrics(
        count=count,
        images=evaluation.images // count,
        scores={way: _average(folds) for way, folds in rankings.items()},
        pessimistic={
            way: _average([fold.pessimistic for fold in folds if fold.pessimistic])
            for way, folds in rankings.items()
            if any(fold.tied for fold in folds)
        },
    )


def _average(folds: Sequence[Ranking]) -> Scores:
    """Return the mean of each score over the folds, None if it is unknown for one of them."""
    of_folds = [scores(fold) for fold in folds]
    return {name: _mean([fold[name] for fold in of_folds]) for name in of_folds[0]}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if len(known) == len(values) else None
