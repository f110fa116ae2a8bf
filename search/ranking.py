"""From a ranking to results: what is too far down is cut off, groups and near-duplicates become one result, pages.

A ranking is in order of scores, ties in order of ids. Whether a hit is a result of its own depends only on the hits
above it, so the results of a page do not depend on how far down the ranking was read: pages continue each other.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from search.index import Vectors
from search.query import Options
from search.records import Caption, Hit


def cut(hits: Sequence[Hit], options: Options, typical: float) -> list[Hit]:
    """The beginning of a ranking that scores high enough; `typical` is the mean score of the whole collection.

    Scores of one model mean little to another (CLIP gives 0.15 to what has nothing to do with a text, and 0.3 to what
    fits), so the cut-off is a place between the typical score and the best; the best result itself is never cut off.
    """
    if not hits:
        return []
    least = -np.inf if options.min_score is None else options.min_score
    if options.cutoff is not None:
        best = hits[0].score
        least = max(least, min(best, typical + options.cutoff * (best - typical)))
    return [hit for hit in hits if hit.score >= least]


def group_by_image(hits: Sequence[Hit]) -> list[Hit]:
    """One hit for each image: its best caption, with its other captions in `also`."""
    groups: dict[int, list[Hit]] = {}
    for hit in hits:
        groups.setdefault(hit.image_id, []).append(hit)
    return [_one(group) for group in groups.values()]


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
    directions: list[Vectors] = []
    for hit in hits:
        vector = stored.get(hit.image_id)
        if vector is not None:
            near = [leader for leader, other in zip(leaders, directions, strict=True) if other @ vector >= same]
            if near:
                groups[near[0]].append(hit)
                continue
            leaders.append(len(groups))
            directions.append(vector)
        groups.append([hit])
    return [_one(group) for group in groups]


def _one(group: Sequence[Hit]) -> Hit:
    first, *others = group
    also = [*first.also, *(hit for other in others for hit in (replace(other, also=()), *other.also))]
    return replace(first, also=tuple(also))
