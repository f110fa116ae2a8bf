"""Asking the index: a text, an image or a stored id in, hits out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import numpy as np
from PIL import Image

from search import ranking
from search.encoder import Encoder
from search.encoder.clip import ClipEncoder
from search.encoder.images import Pixels
from search.errors import CocoSearchError, CollectionMissing, PhotoError, QueryError, SettingsError
from search.index import TRIAL, Batch, CollectionSpec, ReadIndex, SearchParams, Where, collection_name, open_index
from search.photos import as_rgb, one_at_a_time, open_image, open_photo
from search.query import Options, Part, brief, combine, named_images
from search.records import Caption, Hit, Kind, Vectors
from search.records import Image as ImageRecord
from search.settings import Settings
from search.words import Words

CAPTIONS_PER_IMAGE = 10  # more than most images have
PIXELS_AT_ONCE = 16_000_000  # of pictures that wait to be encoded
SPARE = 10  # hits read beyond a page, so that it seldom takes a second look


class Searcher:
    """Searches one data set of an index with the model that made it.

    The model is loaded at the first query that needs it; a search by id needs none.

    Args:
        index: the index; closed by `close()`, or at the end of a `with` block.
        dataset: which one; may be left out where the index holds a single one.
        encoder: makes the encoder from the specification of a collection. By default the remembered model is loaded.

    Raises:
        CollectionMissing: the index holds no such data set.
    """

    def __init__(
        self,
        index: ReadIndex,
        dataset: str | None = None,
        *,
        encoder: Callable[[CollectionSpec], Encoder] | None = None,
    ) -> None:
        self.index = index
        self.dataset = dataset or only_dataset(index)
        self._make_encoder = encoder or encoder_for
        self._middles: dict[Kind, Vectors] = {}  # the mean vector of each collection

    @classmethod
    def open(cls, settings: Settings | None = None, dataset: str | None = None) -> Self:
        """A searcher on the index that the settings, by default those of the environment, name."""
        return cls(open_index(settings or Settings()), dataset)

    def search(self, parts: Sequence[Part], options: Options | None = None) -> list[Hit]:
        """What is nearest to the weighted sum of the parts, best first; of both kinds, the images come first.

        Stored images that the query names are not among the images found.

        Raises:
            QueryError: the query cannot be asked: no parts, parts that cancel each other out, a split or an id that is
                not there.
            PhotoError: a picture cannot be opened.
            SpecMismatch: the encoder is not the model that made the collection.
        """
        options = options or Options()
        self.check(options)
        [vector] = self.encode([parts])
        if isinstance(vector, CocoSearchError):
            raise vector
        return self.search_vector(vector, options, leave_out=named_images(parts))

    def text(self, text: str, k: int = 10, *, to: Kind = "images", where: Where | None = None) -> list[Hit]:
        """The `k` images or captions nearest to a text, best first: `search` with one part, and its errors."""
        return self.search([Part(text=text)], Options(k=k, to=to, where=where))

    def image(
        self, image: Image.Image | Path, k: int = 10, *, to: Kind = "images", where: Where | None = None
    ) -> list[Hit]:
        """The `k` images or captions nearest to a picture, best first: `search` with one part, and its errors."""
        return self.search([Part(image=image)], Options(k=k, to=to, where=where))

    def image_id(self, image_id: int, k: int = 10, *, to: Kind = "images", where: Where | None = None) -> list[Hit]:
        """The `k` images or captions nearest to a stored image, best first, without the image itself: `search` with one
        part, and its errors; needs no model."""
        return self.search([Part(image_id=image_id)], Options(k=k, to=to, where=where))

    def encode(self, queries: Sequence[Sequence[Part]]) -> list[Vectors | CocoSearchError]:
        """Return the direction of each query, float32 (dim,) of unit length, or why it has none, so that one wrong
        query spoils no batch. All texts are encoded in one call; of the pictures one is decoded at a time.

        Raises:
            CocoSearchError: the model cannot be used, or the index cannot be read.
        """
        stored = self._stored_vectors(queries)
        pictures = _Pictures(self)
        ready = [self._inputs(parts, stored, pictures) for parts in queries]
        texts = [each for found in ready if isinstance(found, list) for each in found if isinstance(each, str)]
        of_texts = iter(self.encoder.encode_texts(texts) if texts else ())
        of_pictures = pictures.vectors()

        def vector(each: str | int | Vectors) -> Vectors:
            if isinstance(each, str):
                return next(of_texts)
            return of_pictures[each] if isinstance(each, int) else each

        answers: list[Vectors | CocoSearchError] = []
        for parts, found in zip(queries, ready, strict=True):
            if isinstance(found, CocoSearchError):
                answers.append(found)
                continue
            vectors = np.stack([vector(each) for each in found])
            unusable = [part for part, row in zip(parts, vectors, strict=True) if np.isnan(row).any()]
            if unusable:
                answers.append(QueryError(f"the model gives no usable vector for {brief(unusable[0])}"))
                continue
            try:
                answers.append(combine(vectors, [part.weight for part in parts]))
            except QueryError as error:
                answers.append(error)
        return answers

    def prepare(self, image: Image.Image | BinaryIO | Path) -> Pixels | Image.Image:
        """Return what the model needs of a picture, made as `ingest run` makes it: a part of a query may be it.

        Files are prepared by `one_at_a_time`. What is returned is small, unless the model has no `preparation`: then it
        is the picture itself.

        Raises:
            PhotoError: it cannot be opened.
        """
        if isinstance(image, Image.Image):
            return self._prepared(as_rgb(image))
        preparation = self.encoder.preparation if self._spec.decode == "scaled" else None
        at_least = min(preparation.shape[:2]) if preparation else None
        return one_at_a_time(lambda: self._prepared(open_image(image, at_least=at_least)))

    def _prepared(self, image: Image.Image) -> Pixels | Image.Image:
        preparation = self.encoder.preparation  # only now: what cannot be opened needs no model
        return image if preparation is None else preparation.apply(image)

    def search_vector(self, vector: Vectors, options: Options, *, leave_out: Sequence[int] = ()) -> list[Hit]:
        """What is nearest to a direction, float32 (dim,) of unit length, without the images `leave_out`.

        Raises:
            QueryError: the split is not there.
        """
        self.check(options)
        return [hit for kind in options.kinds for hit in self._results(vector, kind, options, tuple(leave_out))]

    def photo(self, image_id: int, folder: Path | None = None) -> Image.Image:
        """The photo of a stored image, from `folder`, by default the remembered one.

        Raises:
            PhotoError: it cannot be opened, or no image of this id is stored.
        """
        found = self.index.retrieve(self.collection("images"), [image_id]).records
        if not found or not isinstance(found[0], ImageRecord):
            raise PhotoError(f"image {image_id} is not in {self.collection('images')}")
        spec = self._spec
        return open_photo(folder or spec.photo_folder, found[0].file, follow_links=spec.follow_links)

    @cached_property
    def encoder(self) -> Encoder:
        """The model that made this data set, loaded at the first use."""
        return self._make_encoder(self._spec)

    @cached_property
    def _spec(self) -> CollectionSpec:
        return self.index.spec(self.collection("images"))

    def collection(self, kind: Kind) -> str:
        return collection_name(self.dataset, kind)

    def close(self) -> None:
        self.index.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def check(self, options: Options) -> None:
        """Refuses what cannot be answered, before a model is loaded for it.

        Raises:
            QueryError: the split is not there.
            CollectionMissing: the data set is not there.
        """
        for kind in options.kinds:
            known = self.index.spec(self.collection(kind)).splits
            splits = options.where.splits if options.where else None
            if strange := [split for split in splits or () if split not in known]:
                raise QueryError(f"{self.collection(kind)} has no split {strange[0]!r}; it has {', '.join(known)}")

    def _results(self, vector: Vectors, kind: Kind, options: Options, leave_out: tuple[int, ...]) -> list[Hit]:
        """One page of one kind; reads the ranking until the page is full."""
        where = options.where or Where()
        if kind == "images" and leave_out:
            where = replace(where, not_ids=(*(where.not_ids or ()), *leave_out))
        grouped = kind == "captions" and options.group
        end = options.offset + options.k
        depth = end + SPARE
        while True:
            hits, whole = self._ranking(vector, kind, depth, where, exact=options.exact)
            least = self._least_score(vector, kind, options, hits)
            kept = [hit for hit in hits if hit.score >= least]
            results = self._folded(ranking.best_of_images(kept) if grouped else kept, options)
            if whole or len(results) >= end or len(kept) < len(hits):
                break
            depth *= 4
        page = results[options.offset : end]
        if kind == "images":
            return self._with_nearest_caption(vector, page)
        return self._with_captions(vector, page, where, least) if grouped and page else page

    def _folded(self, results: list[Hit], options: Options) -> list[Hit]:
        if options.fold is None:
            return results
        if results and results[0].kind == "captions" and not options.group:
            return ranking.fold_same_words(results)
        return ranking.fold_photos(results, self._image_vectors, options.fold)

    def _with_captions(self, vector: Vectors, page: list[Hit], where: Where, least: float) -> list[Hit]:
        """Results that stand for images, with all captions of these that score at least `least`."""
        images = tuple({each.image_id for hit in page for each in (hit, *hit.also)})
        depth, whole = CAPTIONS_PER_IMAGE * len(images), False
        while not whole:
            mine = replace(where, image_ids=images)
            captions, whole = self._ranking(vector, "captions", depth, mine, exact=True)
            depth *= 4
        return ranking.with_captions(page, [hit for hit in captions if hit.score >= least])

    def _with_nearest_caption(self, vector: Vectors, page: list[Hit]) -> list[Hit]:
        """Images, each with that of its captions which is nearest to the query, of whichever split or words."""
        written = {hit.id: hit.record.captions for hit in page if isinstance(hit.record, ImageRecord)}
        to_choose = tuple(image_id for image_id, captions in written.items() if len(captions) > 1)
        chosen = {image_id: captions[0] for image_id, captions in written.items() if captions}
        if to_choose:
            limit = sum(len(written[image_id]) for image_id in to_choose)
            try:
                params = SearchParams(exact=True, where=Where(image_ids=to_choose))
                [found] = self.index.query(self.collection("captions"), vector[np.newaxis], limit, params)
            except CollectionMissing:
                found = []
            ranked = sorted(found, key=lambda hit: (-hit.score, hit.id))
            best = [hit.record for hit in ranking.best_of_images(ranked)]
            chosen |= {record.image_id: record.text for record in best if isinstance(record, Caption)}
        return [replace(hit, caption=chosen.get(hit.id)) for hit in page]

    def _ranking(self, vector: Vectors, kind: Kind, depth: int, where: Where, *, exact: bool) -> tuple[list[Hit], bool]:
        """Return the first `depth` hits or fewer, in order of scores, ties in order of ids; and whether that is all."""
        words = None if where.words is None else Words.parse(where.words)
        if words is not None:
            where = replace(where, words=words.indexed or None)
        params = SearchParams(exact=exact, where=where)
        [hits] = self.index.query(self.collection(kind), vector[np.newaxis], depth, params)
        whole = len(hits) < depth
        if not whole:  # of the hits that score like the last one, others may lie beyond it
            hits = [hit for hit in hits if hit.score > hits[-1].score]
        if words is not None:
            hits = [hit for hit in hits if words.match(hit.record)]
        return sorted(hits, key=lambda hit: (-hit.score, hit.id)), whole

    def _least_score(self, vector: Vectors, kind: Kind, options: Options, hits: Sequence[Hit]) -> float:
        if not hits:
            return -np.inf
        typical = 0.0 if options.cutoff is None else self._typical(vector, kind)
        return ranking.least_score(hits[0].score, typical, options.min_score, options.cutoff)

    def _typical(self, vector: Vectors, kind: Kind) -> float:
        """The mean score of a collection, estimated on its first thousand points."""
        if kind not in self._middles:
            batch = next(self.index.scan(self.collection(kind), vectors=True), None)
            if batch is None or batch.vectors is None:
                return 0.0
            self._middles[kind] = batch.vectors.mean(axis=0)
        return float(self._middles[kind] @ vector)

    def _image_vectors(self, ids: list[int]) -> dict[int, Vectors]:
        stored = self.index.retrieve(self.collection("images"), ids, vectors=True)
        return {record.id: vector for record, vector in zip(stored.records, _rows(stored), strict=True)}

    def _stored_vectors(self, queries: Sequence[Sequence[Part]]) -> dict[Kind, dict[int, Vectors]]:
        """The vectors of the images and captions that the queries name."""
        parts = [part for query in queries for part in query]
        ids: dict[Kind, list[int]] = {
            "images": [part.image_id for part in parts if part.image_id is not None],
            "captions": [part.caption_id for part in parts if part.caption_id is not None],
        }
        found: dict[Kind, dict[int, Vectors]] = {}
        for kind, named in ids.items():
            stored = self.index.retrieve(self.collection(kind), named, vectors=True) if named else Batch([])
            found[kind] = {record.id: vector for record, vector in zip(stored.records, _rows(stored), strict=True)}
        return found

    def _inputs(
        self, parts: Sequence[Part], stored: dict[Kind, dict[int, Vectors]], pictures: _Pictures
    ) -> list[str | int | Vectors] | CocoSearchError:
        """Return for each part its text, the number of its picture, or its stored vector; or why the query cannot be
        asked."""
        if not parts:
            return QueryError("the query has no parts")
        inputs: list[str | int | Vectors] = []
        for part in parts:
            if part.text is not None:
                inputs.append(part.text)
            elif part.image is not None:
                try:
                    inputs.append(pictures.add(part.image))
                except PhotoError as error:
                    return PhotoError(f"{part.image}: {error}") if isinstance(part.image, Path) else error
            elif part.image_id is not None:
                if part.image_id not in stored["images"]:
                    hint = f"(a file is given as ./{part.image_id})"
                    return QueryError(f"no image {part.image_id} in {self.collection('images')} {hint}")
                inputs.append(stored["images"][part.image_id])
            elif part.caption_id is not None:
                if part.caption_id not in stored["captions"]:
                    return QueryError(f"no caption {part.caption_id} in {self.collection('captions')}")
                inputs.append(stored["captions"][part.caption_id])
        return inputs


class _Pictures:
    """Encodes pictures in groups: as many as together have `PIXELS_AT_ONCE`, or one."""

    def __init__(self, searcher: Searcher) -> None:
        self._searcher = searcher
        self._waiting: list[Pixels | Image.Image] = []
        self._vectors: list[Vectors] = []

    def add(self, image: Path | Image.Image | Pixels) -> int:
        """Return the number of the picture. Raises PhotoError if it cannot be opened."""
        picture = image if isinstance(image, np.ndarray) else self._searcher.prepare(image)
        if sum(map(_area, self._waiting)) + _area(picture) > PIXELS_AT_ONCE:
            self._encode()
        self._waiting.append(picture)
        return len(self._vectors) + len(self._waiting) - 1

    def vectors(self) -> list[Vectors]:
        """Return the vectors float32 (dim,) of all pictures."""
        self._encode()
        return self._vectors

    def _encode(self) -> None:
        arrays = [each for each in self._waiting if isinstance(each, np.ndarray)]
        images = [each for each in self._waiting if isinstance(each, Image.Image)]
        assert not (arrays and images)  # a model has a preparation, or not
        if self._waiting:
            self._vectors += list(self._searcher.encoder.encode_images(np.stack(arrays) if arrays else images))
        self._waiting.clear()


def _area(picture: Pixels | Image.Image) -> int:
    return picture.size // 3 if isinstance(picture, np.ndarray) else picture.width * picture.height


def _rows(batch: Batch) -> list[Vectors]:
    return [] if batch.vectors is None else list(batch.vectors)


def encoder_for(spec: CollectionSpec, model: str | None = None, device: str = "auto") -> ClipEncoder:
    """The encoder that made a collection, or `model`, refused unless its weights are the same.

    Raises:
        EncoderError: it cannot be loaded.
        SpecMismatch: it is another model, or the texts of the collection were not padded as it needs.
    """
    encoder = ClipEncoder(model or spec.model, device=device, prompt=spec.prompt, dim=spec.dim, padding=spec.padding)
    spec.check_weights(encoder.name, encoder.weights)
    spec.check_padding(encoder.padding)
    return encoder


def only_dataset(index: ReadIndex) -> str:
    """The data set of an index that holds one; `coco` where it holds none, or several and `coco` among them.

    Raises:
        SettingsError: it holds several, and none is called `coco`.
    """
    datasets = sorted({name.rpartition("_")[0] for name in index.collections() if TRIAL not in name})
    if len(datasets) == 1:
        return datasets[0]
    if datasets and "coco" not in datasets:
        raise SettingsError(f"{index.place} holds the data sets {', '.join(datasets)}: choose one with --dataset NAME")
    return "coco"
