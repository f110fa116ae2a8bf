"""Small records and vectors for tests of an index."""

from __future__ import annotations

import numpy as np

from search.index import CollectionSpec, Index, Points
from search.records import Caption, Image, Vectors


def image(number: int, split: str = "test", captions: tuple[str, ...] = ("a dog", "a brown dog")) -> Image:
    file = f"val2014/{number}.jpg"
    return Image(number, split, order=number, file=file, url=f"http://images.cocodataset.org/{file}", captions=captions)


def caption(number: int, position: int = 0, split: str = "test", text: str = "a cat") -> Caption:
    return Caption(number, image_id=number // 10, split=split, position=position, text=text, url=None)


def unit(count: int, dim: int = 4, seed: int = 0) -> Vectors:
    vectors = np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def fill(index: Index, spec: CollectionSpec, count: int, split: str = "test") -> Vectors:
    vectors = unit(count, spec.dim)
    index.upsert(spec.collection, Points([image(number, split) for number in range(count)], vectors))
    return vectors
