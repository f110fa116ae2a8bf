"""Images with numbers `hubness`, for tests of the correction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from points import image, unit

from search.index import CollectionSpec, HubnessSpec, Index, Points, SplitSize
from search.index.edge.index import EdgeIndex
from search.records import Image, Vectors

MakeSpec = Callable[..., CollectionSpec]
Floats = npt.NDArray[np.float64]
COUNT, DIM = 60, 8
ALPHA = 0.7


def described(numbers: Floats, **changes: Any) -> HubnessSpec:
    plain = HubnessSpec(
        k=1, points=len(numbers), smallest=float(numbers.min()), count=1, dropped=0, sha256="", sentences=""
    )
    return replace(plain, **changes)


def numbered(index: Index, make_spec: MakeSpec, **changes: object) -> tuple[Vectors, Floats]:
    """Store images of wide hubness, every third one in val; pairs of them have equal vectors."""
    vectors, numbers = unit(COUNT, DIM), np.random.default_rng(1).normal(0.2, 0.15, COUNT).round(6)
    vectors[1::10], numbers[1::10] = vectors[::10], numbers[::10]
    sizes = {split: SplitSize(images=COUNT, captions=0, images_in_file=COUNT) for split in ("test", "val")}
    spec = make_spec(dim=DIM, splits=sizes)
    index.create(spec)
    images = [image(number, "test" if number % 3 else "val", captions=(f"number {number}",)) for number in range(COUNT)]
    index.upsert(spec.collection, Points(images, vectors))
    index.set_fields(spec.collection, {number: {"hubness": float(numbers[number])} for number in range(COUNT)})
    index.set_spec(replace(spec, hubness=described(numbers, **changes)))
    return vectors, numbers


def numbers_of(folder: Path) -> dict[int, float | None]:
    index = EdgeIndex(folder)
    records = [each for batch in index.scan("coco_images") for each in batch.records if isinstance(each, Image)]
    index.close()
    return {each.id: each.hubness for each in records}
