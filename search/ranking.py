"""From a ranking to results: the tail is cut off, the captions of an image and near-duplicates become one result.

A ranking is in order of scores, ties in order of ids. Whether a hit is a result of its own depends only on the hits
above it, so the results of a page do not depend on how far down the ranking was read: pages continue each other. How
many near-duplicates further down are in `also` does depend on it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from search.records import Caption, Hit, Vectors


def least_score(best: float, typical: float, min_score: float | None, cutoff: float | None) -> float:
    """The score from which on hits are shown, given the best score and the mean score of the whole collection.

    Scores of one model mean little to another (CLIP gives 0.15 to what has nothing to do with a text, and 0.3 to what
    fits), so the cut-off is a place between the typical score and the best; the best itself is never cut off by it.
    """
    least = -math.inf if min_score is None else min_score
    return least if cutoff is None else max(least, min(best, typical + cutoff * (best - typical)))


def best_of_images(hits: Sequence[Hit]) -> list[Hit]:
    """The best caption of each image."""
    best: dict[int, Hit] = {}
    for hit in hits:
        best.setdefault(hit.image_id, hit)
    return list(best.values())


def with_captions(results: Sequence[Hit], captions: Sequence[Hit]) -> list[Hit]:
    """Results that stand for images, with all other `captions` of these images in `also`, best first."""
    return [
        replace(hit, also=tuple(other for other in captions if other.image_id in about and other.id != hit.id))
        for hit in results
        for about in [{each.image_id for each in (hit, *hit.also)}]
    ]


def fold_same_words(hits: Sequence[Hit]) -> list[Hit]:
    """One hit for each sentence; capitals, punctuation and spaces make no difference."""
    groups: dict[str, list[Hit]] = {}
    for hit in hits:
        text = hit.record.text if isinstance(hit.record, Caption) else ""
        groups.setdefault(" ".join(re.findall(r"\w+", text.casefold())) or text, []).append(hit)
    return [_one(group) for group in groups.values()]


def fold_photos(hits: Sequence[Hit], vectors: Callable[[list[int]], dict[int, Vectors]], same: float) -> list[Hit]:
    """Each hit goes to the first hit above it whose image has a cosine of at least `same` with its own.

    `vectors` gives the stored unit vectors (dim,) of those of the image ids that are stored.
    """
    stored = vectors([hit.image_id for hit in hits])
    groups: list[list[Hit]] = []
    leaders: list[int] = []  # places in `groups` of those whose image is stored
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
    return [_one(group) for group in groups]


def _one(group: Sequence[Hit]) -> Hit:
    return replace(group[0], also=tuple(group[1:]))
