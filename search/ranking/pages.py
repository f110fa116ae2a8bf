"""Read one page of the ranking of a collection: as deep as filters, cut-off, groups and folds require."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import chain
from typing import Self

import numpy as np

from search.errors import CollectionMissing
from search.index import ReadIndex, SearchParams, Where, Words, collection_name
from search.query import Options
from search.ranking import folding
from search.ranking.evidence import CAPTIONS_PER_IMAGE, Evidence, EvidenceReader
from search.ranking.hubness import Correction
from search.records import Caption, Hit, Image, Kind, Vectors

HITS_AT_ONCE = 20_000  # of all queries that are sent to the engine together
SPARE = 10  # hits read beyond a page, so that it seldom takes a second query
PREFETCH = 100  # hits to read first if scores are not cosines; they nearly always settle the first ten
MOST_PREFETCH = 1600  # `Pages` raises it to at most this


@dataclass(frozen=True, slots=True)
class PageRequest:
    """A page to read: the results of one kind nearest to `vector`, float32 (dim,), without the images `leave_out`.

    With a `correction` or `evidence` (a request has at most one of them), results are sorted by scores other than
    cosines; their cosines still decide what is cut off. `prefetch`, which `Pages` sets, is the least number of hits
    to read first for a correction.
    """

    vector: Vectors
    kind: Kind
    options: Options
    leave_out: tuple[int, ...] = ()
    correction: Correction | None = None
    evidence: Evidence | None = None
    prefetch: int = 0

    @property
    def where(self) -> Where:
        where = self.options.where or Where()
        if self.kind == "images" and self.leave_out:
            return replace(where, not_ids=(*(where.not_ids or ()), *self.leave_out))
        return where

    @property
    def end(self) -> int:
        return self.options.offset + self.options.k

    @property
    def depth(self) -> int:
        """How many hits to read at first."""
        return max(self.end + SPARE, PREFETCH, self.prefetch) if self.rescored else self.end + SPARE

    @property
    def keep(self) -> int | None:
        """How many of the hits that are read first for a corrected page the engine returns; None: all.

        Words that are compared with records, cut-offs and folds may need any of them.
        """
        options = self.options
        drops = any(each is not None for each in (options.min_score, options.cutoff, options.fold))
        if self.correction is None or drops or self.where.divided()[1].are_compared:
            return None
        return self.end + SPARE

    @property
    def rescored(self) -> bool:
        """Whether scores are not cosines; hits are then read without records."""
        return self.correction is not None or self.evidence is not None


@dataclass(frozen=True, slots=True)
class ReadHits:
    """The hits of highest cosine, in order of scores, ties in order of ids.

    Of all other points, no cosine is above `cosine`, and no score above `score`; both are -inf if there are none. With
    a correction, images with small numbers may have been read further down (see `joined`): every other point has either
    a score of at most `settled`, or a cosine of at most `rival` and passes the filter of the last query.
    """

    hits: list[Hit]
    cosine: float
    score: float
    rival: float = -math.inf
    settled: float = -math.inf

    @classmethod
    def of(cls, hits: Sequence[Hit], depth: int, correction: Correction | None = None, keep: int | None = None) -> Self:
        """Convert the answer to a query for `depth` hits; `keep` is that of SearchParams."""
        cut = keep is not None and keep < len(hits)
        lowest = min(hit.cosine for hit in hits) if cut or len(hits) == depth else -math.inf
        highest = correction.highest(lowest) if correction else lowest
        if not cut:
            return cls(_in_order(hits), lowest, highest, lowest)
        kept = list(hits[:keep])
        return cls(kept, math.inf, max(highest, kept[-1].score), lowest, kept[-1].score)

    def joined(self, more: Self, most: float, correction: Correction) -> Self:
        """Return this ranking with the hits of `more`, a query for images whose numbers are at most `most`."""
        hits = {hit.id: hit for hit in (*self.hits, *more.hits)}
        settled = max(self.settled, more.settled, correction.score(self.rival, most))
        return replace(
            self,
            hits=_in_order(list(hits.values())),
            score=max(settled, more.score),
            rival=more.rival,
            settled=settled,
        )

    @property
    def highest(self) -> float:
        """The highest cosine, also of a photo that was read and has no score yet (with evidence)."""
        return max([self.cosine, *(hit.cosine for hit in self.hits)])

    @property
    def whole(self) -> bool:
        return self.cosine == -math.inf

    def known(self, least: float) -> list[Hit]:
        """Return the hits of at least this cosine, down to where one that was not read could come before them."""
        kept = [hit for hit in self.hits if hit.cosine >= least]
        return kept if self.cosine < least else [hit for hit in kept if hit.score > self.score]


class Pages:
    """The pages of one data set."""

    def __init__(self, index: ReadIndex, dataset: str) -> None:
        self._index = index
        self._dataset = dataset
        self._means: dict[Kind, Vectors] = {}
        self._evidence = EvidenceReader(index, dataset)
        self._prefetch = PREFETCH  # of corrected queries

    def read(self, requests: Sequence[PageRequest]) -> list[list[Hit]]:
        """Return the page of each request; the engine answers those with equal parameters together."""
        requests = [
            replace(each, prefetch=self._prefetch) if each.correction and each.options.fold is None else each
            for each in requests
        ]
        groups: dict[tuple[object, ...], list[int]] = {}
        for number, request in enumerate(requests):
            key = (
                request.kind,
                request.depth,
                repr(request.where),
                request.options.exact,
                request.correction,
                request.keep,
                request.evidence and (request.evidence, request.end),
            )
            groups.setdefault(key, []).append(number)
        pages: dict[int, list[Hit]] = {}
        for numbers in groups.values():
            at_once = max(1, HITS_AT_ONCE // requests[numbers[0]].depth)
            for start in range(0, len(numbers), at_once):
                part = numbers[start : start + at_once]
                pages |= zip(part, self._similar([requests[each] for each in part]), strict=True)
        return [pages[number] for number in range(len(requests))]

    def count(self, kind: Kind, options: Options, leave_out: tuple[int, ...] = ()) -> int | None:
        """Return how many points of a kind pass the filter; None if it has words that the index does not look up."""
        where = PageRequest(np.empty(0, np.float32), kind, options, leave_out).where
        where, words = where.divided()
        if words.are_compared:
            return None
        try:
            return self._index.count(self._collection(kind), where=where)
        except CollectionMissing:
            if kind == "images":
                raise
            return 0

    def _similar(self, requests: Sequence[PageRequest]) -> list[list[Hit]]:
        """Return the pages of requests that are equal in what `read` compares."""
        vectors = np.stack([request.vector for request in requests])
        rankings = self._read_hits(vectors, requests[0], requests[0].depth)
        pages = [self._page(request, first) for request, first in zip(requests, rankings, strict=True)]
        if requests[0].evidence:
            _add_evidence(pages)
        elif requests[0].kind == "images":
            self._add_nearest_captions(vectors, pages)
        return pages

    def _page(self, request: PageRequest, read: ReadHits) -> list[Hit]:
        """Return a page, given the ranking down to its depth, which is read deeper until the page is full.

        So consecutive pages continue the same ranking.
        """
        vector, kind, options = request.vector, request.kind, request.options
        depth, alone = request.depth, request.correction is not None
        grouped = kind == "captions" and options.group
        while True:
            least = self._least_cosine(vector, kind, options, read.highest)
            kept = read.known(least)
            results = self._folded(folding.best_of_images(kept) if grouped else kept, options)
            if read.whole or len(results) >= request.end or read.cosine < least:
                break
            rivals = self._with_rivals(request, read, depth, least) if request.correction else None
            alone = False
            depth *= 2 if request.rescored else 4
            [read] = [rivals] if rivals else self._read_hits(vector[np.newaxis], request, depth)
        if alone:
            self._prefetch = max(PREFETCH, self._prefetch * 15 // 16)
        page = results[options.offset : request.end]
        if request.rescored:
            return self._with_records(page)
        return self._with_captions(vector, page, request, least) if grouped and page else page

    def _with_rivals(self, request: PageRequest, read: ReadHits, depth: int, least: float) -> ReadHits | None:
        """Return the ranking with the images that could still come before the end of the page.

        Their numbers are small: a query that is filtered by the number finds them, while one for the highest cosines
        alone would have to be very deep. Return None if such a query cannot complete the page, because the images that
        were read do not fill it, or not without images that an earlier such query has not covered.
        """
        correction = request.correction
        assert correction
        filling = self._folded([hit for hit in read.hits if hit.cosine >= least], request.options)[: request.end]
        if len(filling) < request.end or filling[-1].score <= read.settled:
            return None
        most = correction.rivals(read.rival, filling[-1].score)
        limit = request.where.max_hubness
        where = replace(request.where, max_hubness=most if limit is None else min(most, limit))
        small = replace(request.options, where=where, exact=True)  # HNSW misses hits that pass a narrow filter
        [more] = self._read_hits(request.vector[np.newaxis], replace(request, options=small), depth)
        if more.rival > -math.inf:  # more rivals than a page: reading more hits at first takes less time
            self._prefetch = min(MOST_PREFETCH, 2 * request.depth)
        return read.joined(more, most, correction)

    def _read_hits(self, vectors: Vectors, request: PageRequest, depth: int) -> list[ReadHits]:
        """Return at most the first `depth` hits of each row of `vectors` (n, dim), as `request` asks for them."""
        where, words = request.where.divided()
        rankings = self._query(vectors, request, depth, where)
        return [self._with_words(each, words) for each in rankings] if words.are_compared else rankings

    def _query(self, vectors: Vectors, request: PageRequest, depth: int, where: Where) -> list[ReadHits]:
        exact, correction, evidence = request.options.exact, request.correction, request.evidence
        if evidence:
            enough = request.end if depth == request.depth else None
            candidates = self._evidence.read(vectors, where, depth, evidence, exact=exact, enough=enough)
            return [ReadHits(_in_order(each.hits), each.cosine, each.score) for each in candidates]
        keep = request.keep and request.keep * depth // request.depth
        alpha = correction.alpha if correction else 0.0
        params = SearchParams(exact=exact, where=where, hubness=alpha, keep=keep)
        try:
            answers = self._index.query(self._collection(request.kind), vectors, depth, params)
        except CollectionMissing:
            if request.kind == "images":
                raise
            answers = [[] for _ in vectors]  # a data set may consist of photos alone
        return [ReadHits.of(hits, depth, correction, keep) for hits in answers]

    def _with_words(self, read: ReadHits, words: Words) -> ReadHits:
        with_records = all(hit.record for hit in read.hits)
        hits = read.hits if with_records else self._with_records(read.hits)
        return replace(read, hits=[hit for hit in hits if words.match(hit.record)])

    def _with_records(self, hits: Sequence[Hit]) -> list[Hit]:
        """Return images with their records, and without those that were deleted a moment ago."""
        ids = list(dict.fromkeys(each.id for hit in hits for each in (hit, *hit.also)))
        records = {each.id: each for each in self._index.retrieve(self._collection("images"), ids).records}

        def stored(some: Sequence[Hit]) -> list[Hit]:
            kept = [hit for hit in some if hit.id in records]
            for hit in kept:
                hit.record, hit.also = records[hit.id], tuple(stored(hit.also))
            return kept

        return stored(hits)

    def _folded(self, results: list[Hit], options: Options) -> list[Hit]:
        if options.fold is None:
            return results
        if results and results[0].kind == "captions" and not options.group:
            return folding.fold_same_words(results)
        return folding.fold_photos(results, self._image_vectors, options.fold)

    def _image_vectors(self, ids: list[int]) -> dict[int, Vectors]:
        return self._index.retrieve(self._collection("images"), ids, vectors=True).vectors_by_id()

    def _with_captions(self, vector: Vectors, page: list[Hit], request: PageRequest, least: float) -> list[Hit]:
        """Return results that stand for images, with all captions of these images whose cosine is at least `least`."""
        images = tuple({each.image_id for hit in page for each in (hit, *hit.also)})
        of_images = replace(request.options, where=replace(request.where, image_ids=images), exact=True)
        depth, whole = CAPTIONS_PER_IMAGE * len(images), False
        while not whole:
            [captions] = self._read_hits(vector[np.newaxis], replace(request, options=of_images), depth)
            depth, whole = 4 * depth, captions.whole
        return folding.with_captions(page, [hit for hit in captions.hits if hit.cosine >= least])

    def _add_nearest_captions(self, vectors: Vectors, pages: list[list[Hit]]) -> None:
        """Set the caption of each image to the one that is nearest to the page's query, whatever the filter.

        All captions of the images are compared, with one call of the engine for all pages.
        """
        captions = [{hit.id: hit.record.captions for hit in page if isinstance(hit.record, Image)} for page in pages]
        several = [tuple(id_ for id_, texts in of_page.items() if len(texts) > 1) for of_page in captions]
        rows = [row for row, ids in enumerate(several) if ids]
        nearest = [{id_: texts[0] for id_, texts in of_page.items() if texts} for of_page in captions]
        if rows:
            limit = max(sum(len(captions[row][id_]) for id_ in several[row]) for row in rows)
            where = tuple(Where(image_ids=several[row]) for row in rows)
            params = SearchParams(exact=True, each_where=where, per_image=True)
            with suppress(CollectionMissing):
                answers = self._index.query(self._collection("captions"), vectors[rows], limit, params)
                for row, hits in zip(rows, answers, strict=True):
                    nearest[row] |= {hit.image_id: hit.record.text for hit in hits if isinstance(hit.record, Caption)}
        for page, texts in zip(pages, nearest, strict=True):
            for hit in page:
                hit.caption = texts.get(hit.id)

    def _least_cosine(self, vector: Vectors, kind: Kind, options: Options, highest: float) -> float:
        """Return the lowest cosine of a result, given the highest one."""
        typical = self._typical(vector, kind) if options.cutoff is not None and highest > -math.inf else 0.0
        return folding.least_score(highest, typical, options.min_score, options.cutoff)

    def _typical(self, vector: Vectors, kind: Kind) -> float:
        """Return the mean score of a collection, estimated on its first thousand points."""
        if kind not in self._means:
            batch = next(self._index.scan(self._collection(kind), vectors=True), None)
            if batch is None or batch.vectors is None:
                return 0.0
            self._means[kind] = batch.vectors.mean(axis=0)
        return float(self._means[kind] @ vector)

    def _collection(self, kind: Kind) -> str:
        return collection_name(self._dataset, kind)


def _in_order(hits: Sequence[Hit]) -> list[Hit]:
    return sorted(hits, key=lambda hit: (-hit.score, hit.id))


def _add_evidence(pages: Sequence[Sequence[Hit]]) -> None:
    """Set the caption of each image to the one that was evidence for it, which is the nearest one."""
    for hit in chain.from_iterable(pages):
        record = hit.evidence.record if hit.evidence else None
        hit.caption = record.text if isinstance(record, Caption) else None
