"""Measure how near texts are to photos, and to captions, that have nothing to do with them.

The mean and the standard deviation of these cosines make the two comparable: for CLIP, a text scores about 0.2 with any
photo, and 0.5 with any caption. They are properties of the model and the data set, not of a query: `ingest` stores them
once, and a Searcher measures those of an older index in the same way. Which points are drawn depends on their ids
alone, so both engines draw the same ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from hashlib import blake2b
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from search.errors import CollectionMissing
from search.index import CosineSpec, Index, ReadIndex, Where, collection_name
from search.records import KINDS, Caption, Image, Kind, Vectors

SAMPLE = 1000  # images, and captions of these
SEED = 0

T = TypeVar("T")


def measure_cosines(index: ReadIndex, dataset: str) -> dict[Kind, CosineSpec]:
    """Return the moments of the cosines of up to a thousand captions with images, and captions, of other photos.

    Empty if there are no captions of at least two photos to compare.

    Raises:
        CollectionMissing: the data set does not exist.
    """
    images, captions = collection_name(dataset, "images"), collection_name(dataset, "captions")
    stored = [each for batch in index.scan(images) for each in batch.records if isinstance(each, Image)]
    described = [image.id for image in stored if image.captions] or [image.id for image in stored]
    drawn = _draw(described, lambda image_id: image_id)
    photos = index.retrieve(images, drawn, vectors=True).vectors_by_id()
    try:
        batches = list(index.scan(captions, where=Where(image_ids=tuple(photos)), vectors=True)) if photos else []
        counts: dict[Kind, int] = {"images": len(stored), "captions": index.count(captions)}
    except CollectionMissing:
        return {}
    vectors = {each: vector for batch in batches for each, vector in batch.vectors_by_id().items()}
    texts = [each for batch in batches for each in batch.records if isinstance(each, Caption)]
    queries = _draw(texts, lambda caption: caption.id)
    if len({caption.image_id for caption in queries}) < 2:
        return {}
    own = np.array([caption.image_id for caption in queries])
    directions = np.stack([vectors[caption.id] for caption in queries])
    gallery: dict[Kind, tuple[Vectors, npt.NDArray[np.int64]]] = {
        "images": (np.stack(list(photos.values())), np.array(list(photos))),
        "captions": (directions, own),
    }
    return {
        kind: _moments(directions, items, own[:, np.newaxis] != of_items, counts[kind])
        for kind, (items, of_items) in gallery.items()
    }


def store_cosines(index: Index, dataset: str, *, changed: bool) -> None:
    """Store the cosines with the collections if `changed`, or if the stored ones were measured on other points."""
    names = {kind: collection_name(dataset, kind) for kind in KINDS}
    if not set(names.values()) <= set(index.collections()):
        return
    specs = {kind: index.spec(name) for kind, name in names.items()}
    if not changed and all(
        spec.cosines is not None and spec.cosines.points == index.count(names[kind]) for kind, spec in specs.items()
    ):
        return
    if not index.count(names["captions"]) and all(spec.cosines is None for spec in specs.values()):
        return  # there is nothing to compare
    measured = measure_cosines(index, dataset)
    for kind, spec in specs.items():
        if spec.cosines != measured.get(kind):
            index.set_spec(replace(spec, cosines=measured.get(kind)))


def _draw(items: Iterable[T], id_of: Callable[[T], int]) -> list[T]:
    """Return SAMPLE of the items, or all if there are fewer, in an order that depends on their ids alone."""
    return sorted(items, key=lambda item: blake2b(b"%d:%d" % (SEED, id_of(item)), digest_size=8).digest())[:SAMPLE]


def _moments(queries: Vectors, items: Vectors, unrelated: npt.NDArray[np.bool_], points: int) -> CosineSpec:
    """Return the moments of the cosines of the pairs that are `unrelated`, bool (queries, items)."""
    cosines = (queries.astype(np.float64) @ items.astype(np.float64).T)[unrelated]
    mean, spread = float(cosines.mean()), float(cosines.std())
    return CosineSpec(mean=mean, std=spread or 1.0, pairs=len(cosines), seed=SEED, points=points)
