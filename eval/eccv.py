"""COCO's test split judged by more positives than its own captions: CxC and ECCV Caption.

Many "misses" on COCO are right answers that nobody wrote down. Crisscrossed Captions (Parekh et al., EACL 2021) and
ECCV Caption (Chun et al., ECCV 2022) had people look. Both come with the package `eccv-caption` (the extra `eccv`).
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain

import numpy as np

from eval.metrics import CUTOFFS, Ranks, map_at_r, r_precision, recall_at_k
from eval.protocol import Evaluation, Ids, Side, Task
from eval.ranks.oracle import oracle_ranks

MoreScores = dict[str, dict[str, dict[str, float]]]
"""Judge ("cxc", "eccv") -> direction -> metric, in percent."""

Positives = Mapping[int, Sequence[int]]


def judged_by_more(evaluation: Evaluation) -> MoreScores | None:
    """CxC's recall@1, @5, @10 and ECCV's map_at_r, r_precision and recall@1, as `eccv-caption` defines them.

    None where the package is not installed, or the images and captions are not those of COCO's 5K test split.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that a faster JSON reader could be installed
            from eccv_caption import Metrics
    except ImportError:
        return None
    judges = Metrics()
    if not _is_coco_test(evaluation, judges.coco_gts):
        return None
    scores: MoreScores = {"cxc": {}, "eccv": {}}
    for task, short in zip(evaluation.tasks, ("i2t", "t2i"), strict=True):
        ranked, starts, _ = _ranks(task, judges.cxc_gts[short])
        best = ranked[starts[:-1]]
        scores["cxc"][task.name] = {f"recall@{k}": recall_at_k(best, k) for k in CUTOFFS}
        ranked, starts, positives = _ranks(task, judges.eccv_gts[short])
        scores["eccv"][task.name] = {
            "map_at_r": float(100 * map_at_r(ranked, starts, positives).mean()),
            "r_precision": float(100 * r_precision(ranked, starts, positives).mean()),
            "recall@1": recall_at_k(ranked[starts[:-1]], 1),
        }
    return scores


def _is_coco_test(evaluation: Evaluation, original: Mapping[str, Positives]) -> bool:
    return set(evaluation.image_to_text.queries.ids.tolist()) == original["i2t"].keys() and (
        set(evaluation.text_to_image.queries.ids.tolist()) >= original["t2i"].keys()
    )


def _ranks(task: Task, positives: Positives) -> tuple[Ranks, Ids, Ids]:
    """The ranks of a judge's positives (pairs,), their starts, and how many positives each query has: a few of those
    are sixth captions, which the gallery may not hold."""
    row_of = {int(item): row for row, item in enumerate(task.gallery.ids)}
    query_row = {int(query): row for row, query in enumerate(task.queries.ids)}
    queries = sorted(positives)
    rows = [[row_of[item] for item in positives[query] if item in row_of] for query in queries]
    chosen = [query_row[query] for query in queries]
    judged = replace(
        task,
        queries=Side(
            task.queries.collection, task.queries.ids[chosen], task.queries.vectors[chosen], task.queries.where
        ),
        positives=np.fromiter(chain.from_iterable(rows), dtype=np.int64),
        starts=np.cumsum([0, *map(len, rows)]).astype(np.int64),
    )
    counts = np.array([len(positives[query]) for query in queries], dtype=np.int64)
    return oracle_ranks(judged).positive_ranks, judged.starts, counts
