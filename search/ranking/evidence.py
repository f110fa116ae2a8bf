"""Rank photos by their own cosine and that of their best caption: captions as evidence.

The score of a photo is (1 - w) * z(photo) + w * z(caption), where z is a cosine less the mean, divided by the standard
deviation, of unrelated cosines of that kind (`search/ranking/cosines.py`). A photo without captions has z(photo) alone.

The nearest photos and the nearest captions are read, and the half that a candidate lacks is fetched by its id, so that
no photo is ranked by half of its evidence. What was not read is bounded as in Fagin's threshold algorithm: its photo is
no nearer than the last photo, and its captions are no nearer than the last caption.
"""

from __future__ import annotations

import heapq
import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile

from search.errors import CollectionMissing, QueryError
from search.index import CosineSpec, ReadIndex, SearchParams, Where, collection_name
from search.ranking.hubness import FRESH_SECONDS
from search.records import KINDS, Hit, Kind, Vectors

CAPTIONS_PER_IMAGE = 10  # more than most images have


@dataclass(frozen=True, slots=True)
class Evidence:
    """The formula that combines two cosines into one score; `weight` is that of the caption."""

    weight: float
    images: CosineSpec
    captions: CosineSpec

    def score(self, image: float, caption: float | None) -> float:
        """Return the score of a photo from its cosine and that of its best caption (None: it has no captions)."""
        of_image = (image - self.images.mean) / self.images.std
        if caption is None:
            return of_image
        return (1 - self.weight) * of_image + self.weight * (caption - self.captions.mean) / self.captions.std

    def highest(self, image: float, caption: float) -> float:
        """Return the highest score of a photo whose cosine is at most `image` and whose captions' at most `caption`."""
        with_captions = -math.inf if -math.inf in (image, caption) else self.score(image, caption)
        return max(with_captions, self.score(image, None))


class Evidences:
    """Makes the `Evidence` of the queries to one data set from what is stored with it."""

    def __init__(self, index: ReadIndex, dataset: str) -> None:
        self._index, self._dataset = index, dataset
        self._stored: dict[Kind, CosineSpec] = {}
        self._measured: dict[Kind, CosineSpec] | None = None
        self._read_at = float("-inf")

    def of(self, weight: float) -> Evidence:
        """Return the evidence of this weight; measure the cosines if the index is older than this software.

        Raises:
            QueryError: the data set has no captions to compare.
            CollectionMissing: the data set does not exist.
        """
        if time.monotonic() - self._read_at > FRESH_SECONDS:
            self._stored = self._read()
            if not self._measured:  # captions may have been added
                self._measured = None
            self._read_at = time.monotonic()
        cosines = self._stored
        if len(cosines) < 2:
            if self._measured is None:
                from search.ranking.cosines import measure_cosines  # not above: seldom needed, and imports hashlib

                self._measured = measure_cosines(self._index, self._dataset)
            cosines = self._measured
        if len(cosines) < 2:
            raise QueryError(
                f"{self._dataset} does not hold captions of several photos, which evidence needs: "
                "search without evidence"
            )
        return Evidence(weight, cosines["images"], cosines["captions"])

    def _read(self) -> dict[Kind, CosineSpec]:
        stored: dict[Kind, CosineSpec] = {}
        for kind in KINDS:
            try:
                spec = self._index.spec(collection_name(self._dataset, kind))
            except CollectionMissing:
                if kind == "images":
                    raise
                return {}
            if spec.cosines is not None:
                stored[kind] = spec.cosines
        return stored


@dataclass(frozen=True, slots=True)
class Candidates:
    """Photos with both of their cosines, without records, in no order.

    No other photo has a cosine above `cosine`, or a score above `score`; -inf if there are no others.
    """

    hits: list[Hit]
    cosine: float
    score: float


class EvidenceReader:
    """Reads candidates of one data set."""

    def __init__(self, index: ReadIndex, dataset: str) -> None:
        self._index = index
        self._images, self._captions = (collection_name(dataset, kind) for kind in KINDS)

    def read(
        self, vectors: Vectors, where: Where, depth: int, evidence: Evidence, *, exact: bool, enough: int | None
    ) -> list[Candidates]:
        """Return candidates for each row of `vectors` (n, dim), from the nearest `depth` photos and captions.

        `where` is the filter of the photos; any of their captions is evidence. A photo of which only one half
        was read is a candidate only if it may be among the first `enough` (None: all are).
        """
        params = SearchParams(exact=exact, where=where, payload=False)
        images = self._index.query(self._images, vectors, depth, params)
        # A caption is in the split of its photo. `_add_images` decides about the other conditions.
        of_captions = Where(splits=where.splits, image_ids=_ids(where))
        params = SearchParams(exact=exact, where=of_captions, per_image=True)
        captions = self._index.query(self._captions, vectors, depth, params)
        rows = [
            _Row(evidence, images_of_row, captions_of_row, whole=len(images_of_row) < depth)
            for images_of_row, captions_of_row in zip(images, captions, strict=True)
        ]
        self._add_images(vectors, rows, where, enough)
        self._add_captions(vectors, rows, enough)
        return [row.candidates() for row in rows]

    def _add_images(self, vectors: Vectors, rows: Sequence[_Row], where: Where, enough: int | None) -> None:
        """Add the cosines of photos whose captions are near; those that `where` excludes get none."""
        ids = {number: wanted for number, row in enumerate(rows) if (wanted := row.without_cosine(enough))}
        if ids:
            each_where = tuple(replace(where, ids=wanted) for wanted in ids.values())
            params = SearchParams(exact=True, payload=False, each_where=each_where)
            answers = self._index.query(self._images, vectors[list(ids)], max(map(len, ids.values())), params)
            for number, hits in zip(ids, answers, strict=True):
                rows[number].add_cosines(ids[number], hits)

    def _add_captions(self, vectors: Vectors, rows: Sequence[_Row], enough: int | None) -> None:
        """Add the best captions of near photos; all of a photo's captions are compared, however many it has."""
        ids = {number: wanted for number, row in enumerate(rows) if (wanted := row.without_caption(enough))}
        limit = CAPTIONS_PER_IMAGE * max(map(len, ids.values()), default=0)
        while ids:
            each_where = tuple(Where(image_ids=wanted) for wanted in ids.values())
            params = SearchParams(exact=True, each_where=each_where, per_image=True)
            answers = self._index.query(self._captions, vectors[list(ids)], limit, params)
            left: dict[int, tuple[int, ...]] = {}
            limit = 0
            for (number, wanted), hits in zip(ids.items(), answers, strict=True):
                rows[number].add_captions(wanted, hits)
                missing = tuple(id_ for id_ in wanted if id_ not in rows[number].captions)
                if missing and (count := self._index.count(self._captions, where=Where(image_ids=missing))):
                    left[number], limit = missing, max(limit, count)
            ids = left


class _Row:
    """What was read for one query: cosines and best captions by image, nearest first.

    `last_image` and `last_caption` are the lowest of the nearest: no other photo, or caption, is nearer. `scores` are
    those of the images of which both halves are known; `completed` are the images whose other half was looked up: if it
    is still missing, it does not exist.
    """

    def __init__(self, evidence: Evidence, images: Sequence[Hit], captions: Sequence[Hit], *, whole: bool) -> None:
        self.evidence = evidence
        self.cosines = {hit.id: hit.score for hit in images}
        self.captions = {hit.image_id: hit for hit in captions}
        self.last_image = -math.inf if whole else images[-1].score
        self.last_caption = captions[-1].score if captions else -math.inf
        self.completed: set[int] = set()
        self.scores: dict[int, float] = {}
        self._score(self.cosines.keys() & self.captions.keys())

    def without_cosine(self, enough: int | None) -> tuple[int, ...]:
        """Return the images with only a near caption that may be among the first `enough`; none if all were read."""
        if self.last_image == -math.inf:
            return ()
        least = self._least(enough)
        alone = (id_ for id_ in self.captions if id_ not in self.cosines)
        return tuple(takewhile(lambda id_: self._most(id_) >= least, alone))

    def without_caption(self, enough: int | None) -> tuple[int, ...]:
        """Return the images without a near caption that may be among the first `enough`."""
        least = self._least(enough)
        alone = (id_ for id_ in self.cosines if id_ not in self.captions)
        return tuple(takewhile(lambda id_: self._most(id_) >= least, alone))

    def add_cosines(self, requested: Sequence[int], hits: Sequence[Hit]) -> None:
        """Add the cosines of the images `requested`; those without a hit are not candidates."""
        self.completed.update(requested)
        self.cosines |= {hit.id: hit.score for hit in hits}
        self._score(hit.id for hit in hits)

    def add_captions(self, requested: Sequence[int], hits: Sequence[Hit]) -> None:
        """Add the best captions of the images `requested`; those without a hit have none, unless requested again.

        The scores of images without captions are added too, and replaced if a caption follows.
        """
        self.completed.update(requested)
        self.captions |= {hit.image_id: hit for hit in hits}
        self._score(requested)

    def candidates(self) -> Candidates:
        """Return the images of which both halves are known, and what bounds the others."""
        left = [id_ for id_ in self.cosines if id_ not in self.scores][:1]  # the nearest one
        cosine = max([self.last_image, *(self.cosines[id_] for id_ in left)])
        left += [id_ for id_ in self.captions if id_ not in self.cosines and id_ not in self.completed][:1]
        score = max([self.evidence.highest(self.last_image, self.last_caption), *map(self._most, left)])
        hits = [
            Hit(id_, score, uncorrected=self.cosines[id_], evidence=self.captions.get(id_))
            for id_, score in self.scores.items()
        ]
        return Candidates(hits, cosine, score)

    def _score(self, ids: Iterable[int]) -> None:
        for id_ in ids:
            caption = self.captions.get(id_)
            self.scores[id_] = self.evidence.score(self.cosines[id_], caption.score if caption else None)

    def _most(self, image: int) -> float:
        """Return the highest score that an image can have if only one half of it was read."""
        if image in self.cosines:
            return self.evidence.highest(self.cosines[image], self.last_caption)
        return (
            -math.inf
            if self.last_image == -math.inf
            else self.evidence.score(self.last_image, self.captions[image].score)
        )

    def _least(self, enough: int | None) -> float:
        """Return a score that at least `enough` images reach; -inf if fewer scores are known."""
        if enough is None or len(self.scores) < enough:
            return -math.inf
        return heapq.nlargest(enough, self.scores.values())[-1]


def _ids(where: Where) -> tuple[int, ...] | None:
    """Return the ids of the images that a filter is limited to; None if it names no ids."""
    if where.ids is None or where.image_ids is None:
        return where.ids if where.image_ids is None else where.image_ids
    return tuple(set(where.ids) & set(where.image_ids))
