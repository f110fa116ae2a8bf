"""Turn a ranking into results: cut off the tail, merge the captions of an image, fold near-duplicates.

A ranking is sorted by score, ties by id. Whether a hit becomes a result depends only on the hits above it, so the
results of a page do not depend on how far down the ranking was read, and pages continue each other. How many
near-duplicates `also` holds does depend on it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from search.ranking.sentences import words_of
from search.records import Caption, Hit, Vectors


def least_score(best: float, typical: float, min_score: float | None, cutoff: float | None) -> float:
    """Return the lowest score of a result, given the best score and the mean score of the whole collection.

    Scores cannot be compared between models (CLIP scores 0.15 for photos unrelated to a text, and 0.3 for a match), so
    `cutoff` is a fraction of the way from the typical score to the best; it never drops the best itself.
    """
    least = -math.inf if min_score is None else min_score
    return least if cutoff is None else max(least, min(best, typical + cutoff * (best - typical)))


def best_of_images(hits: Sequence[Hit]) -> list[Hit]:
    """Return the best caption of each image."""
    best: dict[int, Hit] = {}
    for hit in hits:
        best.setdefault(hit.image_id, hit)
    return list(best.values())


def with_captions(results: Sequence[Hit], captions: Sequence[Hit]) -> list[Hit]:
    """Return results, each with all other `captions` of the images that it stands for in `also`, best first."""
    return [
        replace(hit, also=tuple(other for other in captions if other.image_id in image_ids and other.id != hit.id))
        for hit in results
        for image_ids in [{member.image_id for member in (hit, *hit.also)}]
    ]


def fold_same_words(hits: Sequence[Hit]) -> list[Hit]:
    """Return one hit for each sentence, ignoring case, punctuation and spaces."""
    groups: dict[str, list[Hit]] = {}
    for hit in hits:
        text = hit.record.text if isinstance(hit.record, Caption) else ""
        groups.setdefault(words_of(text), []).append(hit)
    return [_folded(group) for group in groups.values()]


def fold_photos(hits: Sequence[Hit], vectors: Callable[[list[int]], dict[int, Vectors]], same: float) -> list[Hit]:
    """Fold each hit into the first result above it whose image has a cosine of at least `same` with its own.

    `vectors` returns the unit vectors (dim,) of those image ids that are stored.
    """
    stored = vectors([hit.image_id for hit in hits])
    groups: list[list[Hit]] = []
    leaders: list[int] = []  # indices into `groups`, of the groups whose first image is stored
    directions = np.empty((len(hits), len(next(iter(stored.values()), ()))), dtype=np.float32)
    for hit in hits:
        vector = stored.get(hit.image_id)
        if vector is not None:
            near = np.flatnonzero(directions[: len(leaders)] @ vector >= same)
            if len(near):
                groups[leaders[near[0]]].append(hit)
                continue
            directions[len(leaders)] = vector
            leaders.append(len(groups))
        groups.append([hit])
    return [_folded(group) for group in groups]


def _folded(group: Sequence[Hit]) -> Hit:
    return replace(group[0], also=tuple(group[1:]))
