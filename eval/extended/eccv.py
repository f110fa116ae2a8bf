"""COCO's test split judged by more positives than its own captions: CxC and ECCV Caption.

Many "misses" on COCO are right answers that were never annotated. Crisscrossed Captions (Parekh et al., EACL 2021) and
ECCV Caption (Chun et al., ECCV 2022) had people judge more pairs. Both are in the package `eccv-caption` (the extra
`eccv`).
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain

import numpy as np

from eval.metrics import MAP_AT_R, R_PRECISION, RECALLS, Ranking, pessimistic_scores, scores
from eval.protocol import Evaluation, Side, Task
from eval.ranks.oracle import oracle_ranks

ExtendedScores = dict[str, dict[str, dict[str, float | None]]]
"""Judge -> direction -> metric, in percent; the judges are "cxc" and "eccv", and, for directions in which ties make a
difference, "cxc_pessimistic" and "eccv_pessimistic", with every tie lost."""

TEST_IMAGES = 5000  # of COCO's 5K test split

ECCV = (MAP_AT_R, R_PRECISION, RECALLS[0])

Positives = Mapping[int, Sequence[int]]


def extended_scores(evaluation: Evaluation) -> ExtendedScores | None:
    """Return CxC's recall@1, @5, @10 and ECCV's map_at_r, r_precision and recall@1, as `eccv-caption` defines them.

    Its own figures depend on the order in which it is given tied items: they are between ours and the pessimistic ones.
    None if the package is not installed, or the images and captions are not those of COCO's 5K test split.
    """
    if len(evaluation.image_to_text.queries.ids) != TEST_IMAGES:  # loading the judges takes half a second
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # it recommends a faster JSON reader
            from eccv_caption import Metrics
    except ImportError:
        return None
    judges = Metrics()
    if not _is_coco_test(evaluation, judges.coco_gts):
        return None
    by_judge: ExtendedScores = {}
    for judge, positives, metrics in (("cxc", judges.cxc_gts, RECALLS), ("eccv", judges.eccv_gts, ECCV)):
        for task, short in zip(evaluation.tasks, ("i2t", "t2i"), strict=True):
            ranking = _ranking(task, positives[short])
            by_judge.setdefault(judge, {})[task.name] = scores(ranking, metrics)
            if worst := pessimistic_scores(ranking, metrics):
                by_judge.setdefault(f"{judge}_pessimistic", {})[task.name] = worst
    return by_judge


def _is_coco_test(evaluation: Evaluation, original: Mapping[str, Positives]) -> bool:
    return set(evaluation.image_to_text.queries.ids.tolist()) == original["i2t"].keys() and (
        set(evaluation.text_to_image.queries.ids.tolist()) >= original["t2i"].keys()
    )


def _ranking(task: Task, positives: Positives) -> Ranking:
    """Return the oracle's ranks of a judge's positives; a few are sixth captions, which the gallery may lack."""
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
    totals = np.array([len(positives[query]) for query in queries], dtype=np.int64)
    return oracle_ranks(judged).ranking_of(totals)
