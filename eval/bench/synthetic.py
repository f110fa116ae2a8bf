"""Build an index of synthetic points, with payloads as long as COCO's."""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from eval.bench import vectors
from search.errors import CocoSearchError
from search.index import CollectionSpec, Index, Points, SplitSize, Tuning
from search.records import Caption, Image, Kind, Vectors

BYTES_BESIDES_VECTOR = 4000  # of a point on disk: payload, its indexes, graph; 1,000 were measured for a caption
VECTORS_ON_DISK = 4  # copies: in the log, in segments, and in the segments that replace them during a build
SPARE_BYTES = 2**30
VOCABULARY = 27_000  # distinct words in COCO's captions
PHOTOS = "http://images.cocodataset.org"


def specification(points: int, dim: int, kind: Kind, dataset: str = "bench") -> CollectionSpec:
    """Return the specification of a collection of `points` points."""
    return CollectionSpec(
        dataset=dataset,
        kind=kind,
        dim=dim,
        model="synthetic",
        weights="0" * 64,
        dtype="float32",
        decode="full",
        annotations="0" * 64,
        photos="/photos",
        splits={"test": SplitSize(images=points, captions=points, images_in_file=points)},
        version="0",
    )


def fill(
    index: Index,
    spec: CollectionSpec,
    points: int,
    tuning: Tuning | None = None,
) -> float:
    """Create the collection and write `points` points as `ingest run` does; `index.optimize` builds the index.

    Returns:
        The seconds spent writing, without the time to generate vectors.
    """
    index.create(spec, tuning)
    index.defer_indexing(spec.collection)
    record = _image if spec.kind == "images" else _caption
    seconds, first = 0.0, 0
    for block in vectors.image_blocks(points, spec.dim):
        batch = Points([record(first + row) for row in range(len(block))], block)
        start = time.perf_counter()
        index.upsert(spec.collection, batch)
        seconds += time.perf_counter() - start
        first += len(block)
    return seconds


def query_vectors(count: int, points: int, dim: int) -> Vectors:
    """Return queries, float32 (count, dim): captions of random images among the first."""
    images = next(vectors.image_blocks(points, dim))
    return vectors.captions_of(images, np.random.default_rng(1).integers(0, len(images), count))


def bytes_on_disk(points: int, dim: int) -> int:
    """Return a generous estimate of the disk space that an index takes while it is built."""
    return points * (VECTORS_ON_DISK * 4 * dim + BYTES_BESIDES_VECTOR)


@contextmanager
def space_for(points: int, dim: int, parent: Path | None = None) -> Iterator[Path]:
    """Yield a temporary folder, after checking that the disk has space for the index.

    The engine maps its files into memory, so a full disk would kill the process.

    Raises:
        CocoSearchError: the disk has not enough space.
    """
    with TemporaryDirectory(prefix="bench-", dir=parent) as folder:
        needed, free = bytes_on_disk(points, dim) + SPARE_BYTES, shutil.disk_usage(folder).free
        if free < needed:
            raise CocoSearchError(
                f"{points:,} points of {dim} dimensions may take {needed / 2**30:.1f} GiB, but {free / 2**30:.1f} are "
                f"free on the disk of {folder}: set TMPDIR to a folder with more space, or measure fewer"
            )
        yield Path(folder)


def _image(number: int) -> Image:
    name = f"val2014/COCO_val2014_{number:012d}.jpg"
    captions = tuple(_sentence(number, position) for position in range(5))
    return Image(number, "test", number, name, f"{PHOTOS}/{name}", captions)


def _caption(number: int) -> Caption:
    image, position = divmod(number, 5)
    url = f"{PHOTOS}/val2014/COCO_val2014_{image:012d}.jpg"
    return Caption(number, image, "test", position, _sentence(image, position), url)


def _sentence(image: int, position: int) -> str:
    """Return ten words, a few frequent and most rare (log-uniform, close to Zipf's law), since text indexes grow with
    the vocabulary."""
    chance = random.Random(5 * image + position)
    return " ".join(f"w{int(VOCABULARY ** chance.random())}" for _ in range(10))
