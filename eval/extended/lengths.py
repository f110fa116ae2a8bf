"""text-to-image recall by the length of the caption."""

from __future__ import annotations

import numpy as np

from eval.metrics import RECALLS, Ranking, scores
from eval.protocol import Evaluation, Ids
from eval.runs import LengthMetrics
from eval.stats import RESAMPLES, intervals

LEAST_SHARE = 6  # a group holds at least a sixth of the captions; the last may hold half as many


def by_caption_length(evaluation: Evaluation, ranking: Ranking, resamples: int = RESAMPLES) -> list[LengthMetrics]:
    """Return text-to-image recall, with intervals, by groups of captions of similar length, shortest first.

    `ranking` is that of all captions. Lengths are in words, as separated by white space.
    """
    if not evaluation.texts:  # of arrays
        return []
    words = np.array([len(text.split()) for text in evaluation.texts], dtype=np.int64)
    groups = []
    for shortest, longest in length_groups(words):
        rows = np.flatnonzero((words >= shortest) & (words <= longest))
        of_group, image_of = Ranking(ranking.ranks[rows]), evaluation.image_of[rows]
        groups.append(
            LengthMetrics(
                shortest=shortest,
                longest=longest,
                queries=len(rows),
                images=len(np.unique(image_of)),
                scores={**scores(of_group, RECALLS)},
                intervals=intervals(of_group, image_of, resamples=resamples, metrics=RECALLS),
            )
        )
    return groups


def length_groups(words: Ids) -> list[tuple[int, int]]:
    """Return (shortest, longest) of groups of `words` (n,) that hold about as many captions each, if they can.

    All captions of one length are in one group.
    """
    lengths, counts = np.unique(words, return_counts=True)
    groups: list[tuple[int, int]] = []
    shortest, held = int(lengths[0]), 0
    for length, count in zip(lengths.tolist(), counts.tolist(), strict=True):
        shortest = shortest if held else length
        held += count
        if held * LEAST_SHARE >= len(words):
            groups.append((shortest, length))
            held = 0
    longest = int(lengths[-1])
    if held and (2 * held * LEAST_SHARE >= len(words) or not groups):
        groups.append((shortest, longest))
    return [*groups[:-1], (groups[-1][0], longest)]
