"""Generate vectors that are as hard to search as a model's: images around topics, captions around their image."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from eval.protocol import Ids
from search.records import Vectors

ROWS_PER_BLOCK = 1000
TOPICS = 80
OWN = 0.7  # length of the random vector that is added to the topic's unit vector for an image
NOISE = 6.3  # length of the random vector that is added to the image's vector for a caption; see `captions_of`


def images(count: int, dim: int, seed: int = 0) -> Vectors:
    """Return unit vectors, float32 (count, dim)."""
    out = np.empty((count, dim), dtype=np.float32)
    first = 0
    for block in image_blocks(count, dim, seed):
        out[first : first + len(block)] = block
        first += len(block)
    return out


def image_blocks(count: int, dim: int, seed: int = 0) -> Iterator[Vectors]:
    """Yield the rows of `images` in blocks of up to `ROWS_PER_BLOCK`, so that memory does not grow with `count`."""
    topics = _unit(np.random.default_rng((seed, 0)).standard_normal((TOPICS, dim), dtype=np.float32))
    for number, first in enumerate(range(0, count, ROWS_PER_BLOCK)):
        rng = np.random.default_rng((seed, 1, number))
        rows = min(ROWS_PER_BLOCK, count - first)
        own = _unit(rng.standard_normal((rows, dim), dtype=np.float32))
        yield _unit(topics[rng.integers(0, TOPICS, rows)] + np.float32(OWN) * own)


def captions_of(image_vectors: Vectors, image_of: Ids, seed: int = 0) -> Vectors:
    """Return unit vectors near those of their images, float32 (captions, dim); `image_of`, int64 (captions,), are rows.

    With 5,000 images of five captions each in 512 dimensions, 3 captions in 10 rank their own image first.
    """
    out = np.empty((len(image_of), image_vectors.shape[1]), dtype=np.float32)
    for number, first in enumerate(range(0, len(image_of), ROWS_PER_BLOCK)):
        rows = image_of[first : first + ROWS_PER_BLOCK]
        noise = np.random.default_rng((seed, 2, number)).standard_normal((len(rows), out.shape[1]), dtype=np.float32)
        out[first : first + len(rows)] = _unit(image_vectors[rows] + np.float32(NOISE) * _unit(noise))
    return out


def _unit(vectors: Vectors) -> Vectors:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), dtype=np.float32)
