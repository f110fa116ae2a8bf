"""The two sides of an evaluation, the two directions over them, and their division into equal parts."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from search.errors import EvaluationError
from search.index import CollectionSpec, Where
from search.records import Vectors

Ids = npt.NDArray[np.int64]

IMAGE_TO_TEXT, TEXT_TO_IMAGE = DIRECTIONS = ("image-to-text", "text-to-image")
FIRST_CAPTIONS = 5  # of each image, as the literature reports it; a few images have six or seven


@dataclass(frozen=True, slots=True)
class Side:
    """The evaluated points of one collection: `ids` int64 (n,), `vectors` float32 (n, dim), and their filter."""

    collection: str
    ids: Ids
    vectors: Vectors
    where: Where


@dataclass(frozen=True, slots=True)
class Task:
    """One direction: every query ranks the whole gallery.

    The positives of query i are the gallery rows `positives[starts[i]:starts[i + 1]]`; each query has at least one.
    """

    name: str
    queries: Side
    gallery: Side
    positives: Ids
    starts: Ids

    def positives_of(self, query: int) -> Ids:
        return self.positives[self.starts[query] : self.starts[query + 1]]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Both directions over the same images and captions.

    Images are in the order of the annotation file. `image_of` int64 (captions,) is the row of each caption's image;
    `texts` are the captions, `files` the images' files; `truncated` counts captions cut at the model's limit.
    `of_coco` is whether the annotation file calls all images MS COCO's. `hubness` float64 (images,) are the numbers
    that `ingest hubness` stored, NaN for none; it may be empty.
    """

    spec: CollectionSpec
    splits: tuple[str, ...]
    captions_per_image: int | None
    image_to_text: Task
    text_to_image: Task
    image_of: Ids
    files: list[str]
    texts: list[str]
    truncated: int
    notes: tuple[str, ...]
    of_coco: bool = False
    hubness: npt.NDArray[np.float64] = field(default_factory=lambda: np.empty(0))

    @property
    def images(self) -> int:
        return len(self.image_to_text.queries.ids)

    @property
    def captions(self) -> int:
        return len(self.text_to_image.queries.ids)

    @property
    def queries(self) -> int:
        """The number of queries of both directions."""
        return self.images + self.captions

    @property
    def tasks(self) -> tuple[Task, Task]:
        return self.image_to_text, self.text_to_image

    def folds(self, count: int) -> list[tuple[Task, Task]]:
        """Return both directions over `count` equal parts of the images, in the order of the annotation file.

        Queries and gallery are both limited to the part, as in the five 1K folds of the literature.

        Raises:
            EvaluationError: the images cannot be divided into `count` equal parts.
        """
        if count < 2 or self.images % count:
            raise EvaluationError(f"{self.images:,} images do not make {count} equal folds")
        size = self.images // count
        return [self._part(first, first + size) for first in range(0, self.images, size)]

    def _part(self, first: int, last: int) -> tuple[Task, Task]:
        images, captions = self.image_to_text.queries, self.text_to_image.queries
        rows = np.flatnonzero((self.image_of >= first) & (self.image_of < last))
        return both_tasks(
            Side(images.collection, images.ids[first:last], images.vectors[first:last], images.where),
            Side(captions.collection, captions.ids[rows], captions.vectors[rows], captions.where),
            self.image_of[rows] - first,
        )


def both_tasks(images: Side, captions: Side, image_of: Ids) -> tuple[Task, Task]:
    """Return image-to-text and text-to-image; `image_of` int64 (captions,) is the row of each caption's image."""
    per_image = np.bincount(image_of, minlength=len(images.ids))
    return (
        Task(
            name=IMAGE_TO_TEXT,
            queries=images,
            gallery=captions,
            positives=np.argsort(image_of, kind="stable").astype(np.int64),
            starts=np.concatenate(([0], np.cumsum(per_image))).astype(np.int64),
        ),
        Task(
            name=TEXT_TO_IMAGE,
            queries=captions,
            gallery=images,
            positives=image_of,
            starts=np.arange(len(captions.ids) + 1, dtype=np.int64),
        ),
    )
