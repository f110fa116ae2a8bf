"""Asking the index: a text, an image or a stored id in, hits out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from PIL import Image

from search.encoder import ClipEncoder, Encoder
from search.errors import PhotoError, QueryError, SettingsError
from search.index import MAX_ID, CollectionSpec, Index, Vectors, Where, collection_name, open_index
from search.pixels import open_image, open_photo
from search.records import Hit, Kind
from search.records import Image as ImageRecord
from search.settings import Settings


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
        index: Index,
        dataset: str | None = None,
        *,
        encoder: Callable[[CollectionSpec], Encoder] | None = None,
    ) -> None:
        self.index = index
        self.dataset = dataset or only_dataset(index)
        self._make_encoder = encoder or encoder_for

    @classmethod
    def open(cls, settings: Settings | None = None, dataset: str | None = None) -> Self:
        """A searcher on the index that the settings, by default those of the environment, name."""
        return cls(open_index(settings or Settings()), dataset)

    def text(self, text: str, k: int = 10, *, to: Kind = "images", where: Where | None = None) -> list[Hit]:
        """The `k` images or captions nearest to a text, best first.

        Raises:
            QueryError: the text is empty or no text, or the split is not there.
            SpecMismatch: the encoder is not the model that made the collection.
        """
        if not text.strip():
            raise QueryError("the text to search for is empty")
        if not text.isprintable() and any(0xD800 <= ord(char) <= 0xDFFF for char in text):
            raise QueryError("the text to search for is not valid UTF-8")
        self._check(k, to, where)
        return self._nearest(self.encoder.encode_texts([text])[0], k, to, where)

    def image(
        self, image: Image.Image | Path, k: int = 10, *, to: Kind = "images", where: Where | None = None
    ) -> list[Hit]:
        """The `k` images or captions nearest to a picture, best first.

        Raises:
            PhotoError: the file is no picture that can be opened.
            SpecMismatch: the encoder is not the model that made the collection.
        """
        self._check(k, to, where)
        try:
            opened = open_image(image) if isinstance(image, Path) else image
        except PhotoError as error:
            raise PhotoError(f"{image}: {error}") from error
        return self._nearest(self.encoder.encode_images([opened])[0], k, to, where)

    def image_id(self, image_id: int, k: int = 10, *, to: Kind = "images", where: Where | None = None) -> list[Hit]:
        """The `k` images or captions nearest to a stored image, best first, without the image itself.

        Raises:
            QueryError: no image of this id is stored.
        """
        if not 0 <= image_id < MAX_ID:
            raise QueryError(f"{image_id} is no image id")
        self._check(k, to, where)
        stored = self.index.retrieve(self.collection("images"), [image_id], vectors=True)
        if stored.vectors is None or not len(stored.vectors):
            raise QueryError(f"no image {image_id} in {self.collection('images')} (a file is given as ./{image_id})")
        where = where or Where()
        if to == "images":
            where = replace(where, not_ids=(*(where.not_ids or ()), image_id))
        return self._nearest(stored.vectors[0], k, to, where)

    def photo(self, image_id: int, folder: Path | None = None) -> Image.Image:
        """The photo of a stored image, from `folder`, by default the remembered one.

        Raises:
            PhotoError: it cannot be opened, or no image of this id is stored.
        """
        found = self.index.retrieve(self.collection("images"), [image_id]).records
        if not found or not isinstance(found[0], ImageRecord):
            raise PhotoError(f"image {image_id} is not in {self.collection('images')}")
        return open_photo(folder or Path(self._spec.photos), found[0].file)

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

    def _check(self, k: int, to: Kind, where: Where | None) -> None:
        """Refuses what cannot be answered before a model is loaded for it."""
        if k < 1:
            raise QueryError(f"k is {k}: ask for at least one result")
        known = self.index.spec(self.collection(to)).splits
        if where and (strange := [split for split in where.splits or () if split not in known]):
            raise QueryError(f"{self.collection(to)} has no split {strange[0]!r}; it has {', '.join(known)}")

    def _nearest(self, vector: Vectors, k: int, to: Kind, where: Where | None) -> list[Hit]:
        return self.index.query(self.collection(to), vector[np.newaxis], k, where=where)[0]


def encoder_for(spec: CollectionSpec, model: str | None = None, device: str = "auto") -> ClipEncoder:
    """The encoder that made a collection, or `model`, refused unless its weights are the same.

    Raises:
        EncoderError: it cannot be loaded.
        SpecMismatch: it is another model.
    """
    encoder = ClipEncoder(model or spec.model, device=device, prompt=spec.prompt)
    spec.check_weights(encoder.name, encoder.weights)
    return encoder


def only_dataset(index: Index) -> str:
    """The data set of an index that holds one; `coco` where it holds none, or several and `coco` among them.

    Raises:
        SettingsError: it holds several, and none is called `coco`.
    """
    datasets = sorted({name.rpartition("_")[0] for name in index.collections()})
    if len(datasets) == 1:
        return datasets[0]
    if datasets and "coco" not in datasets:
        raise SettingsError(f"{index.place} holds the data sets {', '.join(datasets)}: choose one with --dataset NAME")
    return "coco"
