"""What can be asked: the parts of a query, what is wanted of the answer, and the sum of the parts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from search.encoder.images import Pixels
from search.errors import QueryError, TextError
from search.index import MAX_ID, Where
from search.records import Kind, Vectors, Wanted
from search.text import check_text
from search.words import Words

DEEPEST = 100_000  # a page further down would be a scan, not a search
HALFWAY = 0.5
"""For `Options.cutoff`."""
SAME_PHOTO = 0.95
"""Cosine of two stored images from which they are shown as one, where `Options.fold` asks for it."""
LONGEST_BRIEF = 60  # letters
SHORTEST_SUM = 1e-3  # a sum of unit vectors this short is rounding, not a direction


@dataclass(frozen=True, slots=True)
class Part:
    """One ingredient of a query: exactly one of a text, a picture (a file, an opened one, or what `Searcher.prepare`
    made of one), the id of a stored image, the id of a stored caption. A negative `weight` takes away.

    Raises:
        QueryError: none or several of them are given, the text is empty or not valid Unicode, or the weight is not
            finite.
    """

    text: str | None = None
    image: Path | Image.Image | Pixels | None = None
    image_id: int | None = None
    caption_id: int | None = None
    weight: float = 1.0

    def __post_init__(self) -> None:
        given = [self.text, self.image, self.image_id, self.caption_id]
        if sum(value is not None for value in given) != 1:
            raise QueryError("a part of a query is one of: a text, an image, an image id, a caption id")
        if not math.isfinite(self.weight):
            raise QueryError(f"a weight of {self.weight} cannot be used")
        if self.text is not None and not self.text.strip():
            raise QueryError("the text to search for is empty")
        if self.text is not None:
            _check(self.text)
        if self.image_id is not None and not 0 <= self.image_id < MAX_ID:
            raise QueryError(f"{self.image_id} is no image id")
        if self.caption_id is not None and not 0 <= self.caption_id < MAX_ID:
            raise QueryError(f"{self.caption_id} is no caption id")

    def __str__(self) -> str:
        if self.text is not None:
            return self.text
        if self.image is not None:
            return f"image {self.image}" if isinstance(self.image, Path) else "a picture"
        return f"caption {self.caption_id}" if self.image_id is None else f"image {self.image_id}"


@dataclass(frozen=True, slots=True)
class Options:
    """What is wanted of the answer. With `to="both"` all of it holds for the images and for the captions separately.

    `k` results from `offset` on; only what `where` lets through and scores at least `min_score` (a cosine).
    `cutoff` (0 to 1, such as `HALFWAY`) also drops the tail below that point of the way from what anything scores, the
    mean over the collection, up to the best result. `group` makes one result of the captions of one image. `fold` (a
    cosine, such as `SAME_PHOTO`) makes one result of near-duplicate photos, and of captions in the same words. `exact`
    compares with every vector instead of using HNSW.

    Raises:
        QueryError: a number is out of its range, or the words of `where` hold no letter and no digit.
    """

    k: int = 10
    offset: int = 0
    to: Wanted = "images"
    where: Where | None = None
    min_score: float | None = None
    cutoff: float | None = None
    group: bool = False
    fold: float | None = None
    exact: bool = False

    def __post_init__(self) -> None:
        if self.k < 1:
            raise QueryError(f"k is {self.k}: ask for at least one result")
        if self.offset < 0:
            raise QueryError(f"the offset is {self.offset}: the first result has offset 0")
        if self.offset + self.k > DEEPEST:
            raise QueryError(f"only the first {DEEPEST:,} results can be had, not {self.k:,} after {self.offset:,}")
        if self.to not in ("images", "captions", "both"):
            raise QueryError(f"{self.to!r} cannot be searched: images, captions or both can")
        for name, value in (("min_score", self.min_score), ("cutoff", self.cutoff), ("fold", self.fold)):
            least = -1 if name == "min_score" else 0
            if value is not None and not least <= value <= 1:
                raise QueryError(f"{name} is {value}: it must lie between {least} and 1")
        if self.where is not None and self.where.words is not None:
            Words.parse(self.where.words)
        for image_id in (self.where and self.where.image_ids) or ():
            if not 0 <= image_id < MAX_ID:
                raise QueryError(f"{image_id} is not a valid image id")

    @property
    def kinds(self) -> tuple[Kind, ...]:
        return ("images", "captions") if self.to == "both" else (self.to,)


def _check(text: str) -> None:
    try:
        check_text(text)
    except TextError as error:
        raise QueryError(str(error)) from None


def named_images(parts: Sequence[Part]) -> tuple[int, ...]:
    """The stored images that a query names; it does not find these."""
    return tuple(part.image_id for part in parts if part.image_id is not None)


def brief(part: Part) -> str:
    """Return a part of a query in one short line, for messages."""
    line = " ".join(str(part).split())
    return line if len(line) <= LONGEST_BRIEF else line[:LONGEST_BRIEF] + "…"


def describe(parts: Sequence[Part]) -> str:
    """The query as a person reads it: `a beach + image 42 - 0.5 people`."""
    words = ""
    for part in parts:
        sign = "- " if part.weight < 0 else "+ "
        size = "" if abs(part.weight) == 1 else f"{abs(part.weight):g} "
        words += (" " if words else "") + (sign if words or part.weight < 0 else "") + size + str(part)
    return words


def combine(vectors: Vectors, weights: Sequence[float]) -> Vectors:
    """Return the weighted sum of unit vectors (n, dim), as a unit vector (dim,), float32.

    Raises:
        QueryError: the parts cancel each other out.
    """
    largest = max(map(abs, weights)) or 1.0
    total = (np.asarray(weights, dtype=np.float64) / largest) @ vectors.astype(np.float64)
    length = float(np.linalg.norm(total))
    if length <= SHORTEST_SUM:
        raise QueryError("the parts of the query cancel each other out: change a weight")
    return np.asarray(total / length, dtype=np.float32)
