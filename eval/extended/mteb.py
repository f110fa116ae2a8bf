"""The evaluation as MTEB's tasks MSCOCOI2TRetrieval and MSCOCOT2IRetrieval count it.

Their data comes from M-BEIR (Wei et al., ECCV 2024), which merges captions that are the same sentence: of the 25,000
captions of the Karpathy test split 24,809 sentences remain, which make 24,989 pairs with the images. A sentence has all
images with that caption as positives. Recall is the share of a query's positives that are found, and the main score is
nDCG@10.
"""

from __future__ import annotations

import numpy as np

from eval.metrics import MTEB, pessimistic_scores, scores
from eval.protocol import FIRST_CAPTIONS, Evaluation, Ids, Side, Task
from eval.ranks.oracle import oracle_ranks
from eval.runs import MtebMetrics, Scores


def as_mteb_counts(evaluation: Evaluation) -> MtebMetrics | None:
    """Return MTEB's scores of both directions, by the oracle; None if not the first five captions are evaluated.

    A merged sentence has the vector of its first caption. With every tie lost the scores are `pessimistic`, for the
    directions in which that makes a difference.
    """
    if evaluation.captions_per_image != FIRST_CAPTIONS:
        return None
    tasks = merged_tasks(evaluation)
    best: dict[str, Scores] = {}
    worst: dict[str, Scores] = {}
    for task in tasks:
        ranking = oracle_ranks(task).ranking
        best[task.name] = {**scores(ranking, MTEB)}
        if lost := pessimistic_scores(ranking, MTEB):
            worst[task.name] = {**lost}
    _, to_image = tasks
    return MtebMetrics(
        sentences=len(to_image.queries.ids), pairs=len(to_image.positives), scores=best, pessimistic=worst
    )


def merged_tasks(evaluation: Evaluation) -> tuple[Task, Task]:
    """Return image-to-text and text-to-image with equal sentences merged.

    The sentences are in the order of their first captions, image by image.
    """
    to_text, to_image = evaluation.tasks
    captions, in_order = to_text.gallery, to_text.positives
    number_of: dict[str, int] = {}
    sentence_of = np.array([number_of.setdefault(sentence(evaluation.texts[row]), len(number_of)) for row in in_order])
    first = in_order[np.unique(sentence_of, return_index=True)[1]]
    sentences, images = np.unique(np.stack([sentence_of, evaluation.image_of[in_order]]), axis=1).astype(np.int64)
    by_image = np.lexsort((sentences, images))
    merged = Side(captions.collection, captions.ids[first], captions.vectors[first], captions.where)
    return (
        Task(to_text.name, to_text.queries, merged, sentences[by_image], _starts(images, evaluation.images)),
        Task(to_image.name, merged, to_image.gallery, images, _starts(sentences, len(first))),
    )


def sentence(text: str) -> str:
    """Return the form of a caption by which M-BEIR tells sentences apart."""
    return text.lower().strip().rstrip(".").strip()


def _starts(queries: Ids, count: int) -> Ids:
    return np.concatenate(([0], np.cumsum(np.bincount(queries, minlength=count)))).astype(np.int64)
