"""Rank photos for each caption by the photos, by their other captions, and by both.

A query's own caption is not evidence, nor is the same sentence as a caption of any other photo.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from eval.captioned.words import WordIndex
from eval.extended.mteb import sentence
from eval.hubness.ranks import complete, ranks_of, score_blocks
from eval.metrics import Floats, Ranking
from eval.protocol import Evaluation, Ids, Task
from search.errors import EvaluationError
from search.index import CosineSpec, ReadIndex
from search.ranking.cosines import measure_cosines
from search.ranking.evidence import Evidence
from search.records import Kind


@dataclass(frozen=True, slots=True)
class Block:
    """Scores of some queries with all images, float64 (rows, images); of captions -inf for an image with no other."""

    rows: slice
    photos: Floats
    captions: Floats
    words: Floats | None


def read_cosines(index: ReadIndex, evaluation: Evaluation) -> dict[Kind, CosineSpec]:
    """Return the stored means and standard deviations, or measure those of an older index as `search` does.

    Raises:
        EvaluationError: there are no captions to compare.
    """
    kinds: dict[Kind, str] = {
        "images": evaluation.text_to_image.gallery.collection,
        "captions": evaluation.text_to_image.queries.collection,
    }
    stored = {kind: cosines for kind, name in kinds.items() if (cosines := index.spec(name).cosines) is not None}
    found = stored if len(stored) == len(kinds) else measure_cosines(index, evaluation.spec.dataset)
    if len(found) < len(kinds):
        raise EvaluationError(f"{evaluation.spec.dataset} holds no captions of several photos, which evidence needs")
    return found


def blocks(evaluation: Evaluation, *, words: bool) -> Iterator[Block]:
    """Yield the scores of all captions as queries: cosines in float64 and, with `words`, BM25."""
    to_images, to_captions = evaluation.text_to_image, _between_captions(evaluation)
    sentences = np.unique([sentence(text) for text in evaluation.texts], return_inverse=True)[1].reshape(-1)
    word_index = WordIndex(evaluation.texts) if words else None
    width = max(evaluation.images, evaluation.captions)
    both = zip(score_blocks(to_images, width), score_blocks(to_captions, width), strict=True)
    for (rows, of_photos), (_, of_captions) in both:
        same = sentences[rows, np.newaxis] == sentences

        def best(scores: Floats, same: npt.NDArray[np.bool_] = same) -> Floats:
            return best_of_images(np.where(same, -np.inf, scores), evaluation.image_of, evaluation.images)

        of_words = best(word_index.scores(evaluation.texts[rows])) if word_index else None
        yield Block(rows, of_photos, best(of_captions), of_words)


def best_of_images(scores: Floats, image_of: Ids, images: int) -> Floats:
    """Return the highest of the scores (rows, captions) of each image, (rows, images); -inf for one without any."""
    order = np.argsort(image_of, kind="stable")
    described, starts = np.unique(image_of[order], return_index=True)
    best = np.full((len(scores), images), -np.inf)
    best[:, described] = np.maximum.reduceat(scores[:, order], starts, axis=1)
    return best


def fuse(block: Block, evidence: Evidence) -> Floats:
    """Return the scores of `search --evidence`, float64 (rows, images)."""
    described = np.isfinite(block.captions)
    photos = (block.photos - evidence.images.mean) / evidence.images.std
    captions = (np.where(described, block.captions, 0) - evidence.captions.mean) / evidence.captions.std
    both = (1 - evidence.weight) * photos + evidence.weight * captions
    return np.where(described, both, photos)


class RanksByBlock:
    """The ranks of the queries by one way to score, filled block by block."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._best, self._worst = (np.empty(len(task.queries.ids), dtype=np.int64) for _ in range(2))

    def add(self, rows: slice, scores: Floats) -> None:
        self._best[rows], self._worst[rows] = ranks_of(scores, self._task.positives[rows])

    def ranking(self) -> Ranking:
        return complete(self._best, self._worst, self._task.starts)


def _between_captions(evaluation: Evaluation) -> Task:
    captions = evaluation.text_to_image.queries
    every = np.arange(len(captions.ids), dtype=np.int64)
    return Task("text-to-text", captions, captions, every, np.arange(len(every) + 1, dtype=np.int64))
