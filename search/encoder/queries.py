"""Turn queries into vectors: encode texts and pictures, look up stored points, and add up the parts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypeAlias

import numpy as np

from search.encoder import Encoder, Truncation
from search.encoder.lazy import LazyEncoder
from search.errors import CocoSearchError, CollectionMissing, NotFound, PhotoError, QueryError
from search.index import CollectionSpec, ReadIndex, collection_name
from search.outcomes import map_values
from search.query import Part, brief, combine
from search.records import Kind, Vectors

if TYPE_CHECKING:
    from PIL import Image

    from search.encoder.images import Pixels

LENGTH_TOLERANCE = 1e-3  # of a unit vector in float32
PIXELS_AT_ONCE = 16_000_000  # of pictures that wait to be encoded

Stored = dict[Kind, dict[int, Vectors]]
Input: TypeAlias = "str | int | Vectors"
"""What gives the vector of a part: a text, the number of a picture, or the vector itself."""


class QueryEncoder:
    """Encodes the queries of one data set.

    The model is loaded at the first query that needs it: stored points and vectors need none.
    """

    def __init__(self, index: ReadIndex, dataset: str, make_encoder: Callable[[CollectionSpec], Encoder]) -> None:
        self._index = index
        self._dataset = dataset
        self._make_encoder = make_encoder
        self._model: Encoder | None = None

    @cached_property
    def spec(self) -> CollectionSpec:
        return self._index.spec(collection_name(self._dataset, "images"))

    @property
    def model(self) -> Encoder:
        """The encoder. Raises QueryError if the vectors were imported."""
        if self._model is None:
            self.spec.check_queryable()
            self._model = self._make_encoder(self.spec)
        return self._model

    def encode(self, queries: Sequence[Sequence[Part]]) -> list[Vectors | CocoSearchError]:
        """Return the direction of each query, float32 (dim,) of unit length, or the error of that query alone.

        All texts are encoded in one call; pictures are decoded one at a time.

        Raises:
            CocoSearchError: the model cannot be used, or the index cannot be read.
        """
        stored = self._stored_vectors([part for parts in queries for part in parts])
        pictures = _Pictures(self)
        inputs = [self._inputs(parts, stored, pictures) for parts in queries]
        return map_values(inputs, lambda valid: self._directions(valid, pictures.vectors()))

    def expect(self, queries: Sequence[Sequence[Part]]) -> None:
        """Begin to encode the texts of the next queries, if another process can do that in the meantime."""
        texts = [part.text for parts in queries for part in parts if part.text is not None]
        if texts and isinstance(self._model, LazyEncoder):  # not `self.model`, which may raise what concerns only them
            self._model.expect_texts(texts)

    def truncations(self, queries: Sequence[Sequence[Part]]) -> list[dict[int, Truncation]]:
        """Return for each query how much the model reads of its longer texts, by the 0-based number of their part."""
        texts = list(dict.fromkeys(part.text for parts in queries for part in parts if part.text is not None))
        of_text = dict(zip(texts, self.model.truncations(texts), strict=True)) if texts else {}
        return [
            {
                number: truncation
                for number, part in enumerate(parts)
                if part.text is not None and (truncation := of_text[part.text]) is not None
            }
            for parts in queries
        ]

    def prepare(self, image: Image.Image | BinaryIO | Path) -> Pixels | Image.Image:
        """Return what the model needs of a picture, as `Searcher.prepare` describes. Raises PhotoError."""
        from PIL import Image  # not above: a text needs no photo library, which takes 0.05 s to import

        from search.photos import as_rgb, one_at_a_time, open_image

        if isinstance(image, Image.Image):
            return self._prepared(as_rgb(image))
        preparation = self.model.preparation if self.spec.decode == "scaled" else None
        at_least = min(preparation.shape[:2]) if preparation else None
        return one_at_a_time(lambda: self._prepared(open_image(image, at_least=at_least)))

    def _prepared(self, image: Image.Image) -> Pixels | Image.Image:
        preparation = self.model.preparation  # only now: a file that cannot be opened needs no model
        return image if preparation is None else preparation.apply(image)

    def _stored_vectors(self, parts: Sequence[Part]) -> Stored:
        """Return the vectors of the stored images and captions that the parts name."""
        ids: dict[Kind, list[int]] = {
            "images": [part.image_id for part in parts if part.image_id is not None],
            "captions": [part.caption_id for part in parts if part.caption_id is not None],
        }
        return {kind: self._vectors_of(kind, named) for kind, named in ids.items() if named}

    def _vectors_of(self, kind: Kind, ids: Sequence[int]) -> dict[int, Vectors]:
        try:
            return self._index.retrieve(collection_name(self._dataset, kind), ids, vectors=True).vectors_by_id()
        except CollectionMissing:
            if collection_name(self._dataset, "images") not in self._index.collections():
                raise
            return {}  # a data set may consist of photos alone

    def _inputs(
        self, parts: Sequence[Part], stored: Stored, pictures: _Pictures
    ) -> list[tuple[Part, Input]] | CocoSearchError:
        """Return the parts of a query with the input of each, or the error of the query."""
        if not parts:
            return QueryError("the query has no parts")
        try:
            return [(part, self._input(part, stored, pictures)) for part in parts]
        except (QueryError, PhotoError) as error:
            return error

    def _directions(
        self, queries: Sequence[Sequence[tuple[Part, Input]]], pictures: Sequence[Vectors]
    ) -> list[Vectors | CocoSearchError]:
        """Encode the texts, and return the direction of each query, or its error."""
        texts = list(dict.fromkeys(each for inputs in queries for _, each in inputs if isinstance(each, str)))
        vectors = self.model.encode_texts(texts) if texts else ()
        of_text: dict[str, Vectors] = dict(zip(texts, vectors, strict=True))

        def vector(each: Input) -> Vectors:
            if isinstance(each, str):
                return of_text[each]
            return pictures[each] if isinstance(each, int) else each

        return [_direction([part for part, _ in inputs], [vector(each) for _, each in inputs]) for inputs in queries]

    def _input(self, part: Part, stored: Stored, pictures: _Pictures) -> Input:
        if part.text is not None:
            self.spec.check_queryable()
            return part.text
        if part.vector is not None:
            return self._unit(part.vector)
        if part.image_id is not None:
            return self._stored_vector(stored, "images", part.image_id)
        if part.caption_id is not None:
            return self._stored_vector(stored, "captions", part.caption_id)
        assert part.image is not None
        assert not isinstance(part.image, str)  # a Part makes it a path
        try:
            return pictures.add(part.image)
        except PhotoError as error:
            raise PhotoError(f"{part.image}: {error}" if isinstance(part.image, Path) else str(error)) from error

    def _stored_vector(self, stored: Stored, kind: Kind, point_id: int) -> Vectors:
        if point_id not in stored[kind]:
            raise NotFound(f"no {kind.removesuffix('s')} {point_id} in {collection_name(self._dataset, kind)}")
        return stored[kind][point_id]

    def check_direction(self, vector: Vectors) -> None:
        """Refuse a vector that is not of shape (dim,) and unit length. Raises QueryError."""
        self._check_shape(vector)
        length = float(np.linalg.norm(vector.astype(np.float64)))
        if not abs(length - 1) <= LENGTH_TOLERANCE:  # nor if it is NaN
            raise QueryError(f"the vector to search for has the length {length:g}, not 1: give it as Part(vector=...)")

    def _check_shape(self, vector: Vectors) -> None:
        if vector.shape != (self.spec.dim,):
            raise QueryError(f"the vector to search for has the shape {vector.shape}, not ({self.spec.dim},)")

    def _unit(self, vector: Vectors) -> Vectors:
        self._check_shape(vector)
        return np.asarray(vector / np.linalg.norm(vector.astype(np.float64)), dtype=np.float32)


def _direction(parts: Sequence[Part], vectors: Sequence[Vectors]) -> Vectors | CocoSearchError:
    """Return the weighted sum of a query's parts, float32 (dim,) of unit length, or the error of the query."""
    unusable = [part for part, vector in zip(parts, vectors, strict=True) if np.isnan(vector).any()]
    if unusable:
        return QueryError(f"the model gives no usable vector for {brief(unusable[0])}")
    try:
        return combine(np.stack(vectors), [part.weight for part in parts])
    except QueryError as error:
        return error


class _Pictures:
    """Encodes pictures in batches of at most `PIXELS_AT_ONCE` pixels, or of one picture that is larger."""

    def __init__(self, queries: QueryEncoder) -> None:
        self._queries = queries
        self._waiting: list[Pixels | Image.Image] = []
        self._vectors: list[Vectors] = []

    def add(self, image: Path | Image.Image | Pixels) -> int:
        """Return the number of the picture. Raises PhotoError if it cannot be opened."""
        picture = image if isinstance(image, np.ndarray) else self._queries.prepare(image)
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
        images = [each for each in self._waiting if not isinstance(each, np.ndarray)]
        assert not (arrays and images)  # a model has a preparation, or not
        if self._waiting:
            self._vectors += list(self._queries.model.encode_images(np.stack(arrays) if arrays else images))
        self._waiting.clear()


def _area(picture: Pixels | Image.Image) -> int:
    return picture.size // 3 if isinstance(picture, np.ndarray) else picture.width * picture.height
