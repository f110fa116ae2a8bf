"""Define a query: its weighted parts, the options of the answer, and the sum of the parts."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from search.errors import QueryError, TextError
from search.index import Where, check_id
from search.records import KINDS, MAX_HUBNESS, Kind, Vectors, Wanted
from search.text import check_text

if TYPE_CHECKING:
    from PIL import Image

    from search.encoder.images import Pixels

MAX_DEPTH = 100_000  # results: a page further down would be a scan, not a search
HALFWAY = 0.5
"""A value for `Options.cutoff`."""
SAME_PHOTO = 0.95
"""A value for `Options.fold`: the cosine above which two photos look the same."""
EVIDENCE_WEIGHT = 0.75
"""A value for `Options.evidence`; docs/evaluation.md shows the curve from which it was chosen."""
BRIEF_LENGTH = 60  # characters
MIN_SUM_LENGTH = 1e-3  # a sum of unit vectors shorter than this is rounding, not a direction


@dataclass(frozen=True, slots=True)
class Part:
    """One ingredient of a query.

    Give exactly one of: a `text`; an `image` (the path of a file, an opened picture, or the result of
    `Searcher.prepare`); the `image_id` of a stored image; the `caption_id` of a stored caption; a `vector`, float32
    (dim,), of any length above zero. A part with a negative `weight` is subtracted.

    Raises:
        QueryError: none or several of them are given, the text is empty or not valid Unicode, the vector or the weight
            is not finite.
    """

    text: str | None = None
    image: Path | str | Image.Image | Pixels | None = None
    image_id: int | None = None
    caption_id: int | None = None
    weight: float = 1.0
    vector: Vectors | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if isinstance(self.image, str):
            object.__setattr__(self, "image", Path(self.image))
        ingredients = [self.text, self.image, self.image_id, self.caption_id, self.vector]
        if sum(value is not None for value in ingredients) != 1:
            raise QueryError("a part of a query is one of: a text, an image, an image id, a caption id, a vector")
        if not math.isfinite(self.weight):
            raise QueryError(f"the weight {self.weight} is not a finite number")
        if self.text is not None and not self.text.strip():
            raise QueryError("the text to search for is empty")
        if self.text is not None:
            _check_text(self.text)
        if self.image_id is not None:
            check_id(self.image_id, "image")
        if self.caption_id is not None:
            check_id(self.caption_id, "caption")
        if self.vector is not None and not (np.isfinite(self.vector).all() and np.any(self.vector)):
            raise QueryError("the vector to search for is zero or not finite")

    def __str__(self) -> str:
        if self.text is not None:
            return self.text
        if self.image is not None:
            return f"image {self.image}" if isinstance(self.image, Path) else "a picture"
        if self.vector is not None:
            return "a vector"
        return f"caption {self.caption_id}" if self.image_id is None else f"image {self.image_id}"


@dataclass(frozen=True, slots=True)
class Options:
    """The options of an answer. With `to="both"` they apply to the images and to the captions separately.

    `k`: the number of results after the first `offset`. `where`: the filter. `min_score`: the lowest cosine of a
    result. `cutoff` (0 to 1, such as `HALFWAY`): drop the tail, below this fraction of the way from the mean score of
    the collection to the best score. `group`: one result for all captions of an image. `fold` (a cosine, such as
    `SAME_PHOTO`): one result for near-duplicate photos, and for captions in the same words. `exact`: compare with every
    vector instead of using HNSW. `hubness`: how many times the number `hubness` of an image is subtracted from its
    cosine (0: not at all; None: as is stored with the collection). `evidence` (above 0, at most 1): the weight of a
    photo's best caption in the score of the photo (`search/ranking/evidence.py`), for texts; the ranking of
    captions does not change. With either, `min_score`, `cutoff` and `fold` still apply to the cosines of the photos.

    Raises:
        QueryError: a number is out of its range, the filter is not valid (see `Where.check`), or both `hubness` and
            `evidence` are given.
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
    hubness: float | None = None
    evidence: float | None = None

    def __post_init__(self) -> None:
        if self.k < 1:
            raise QueryError(f"k is {self.k}: ask for at least one result")
        if self.offset < 0:
            raise QueryError(f"the offset is {self.offset}: the first result has offset 0")
        if self.offset + self.k > MAX_DEPTH:
            raise QueryError(f"only the first {MAX_DEPTH:,} results can be read, not {self.k:,} after {self.offset:,}")
        if self.to not in ("images", "captions", "both"):
            raise QueryError(f"{self.to!r} cannot be searched: give images, captions or both")
        for name, value in (("min_score", self.min_score), ("cutoff", self.cutoff), ("fold", self.fold)):
            least = -1 if name == "min_score" else 0
            if value is not None and not least <= value <= 1:
                raise QueryError(f"{name} is {value}: it must be between {least} and 1")
        if self.hubness is not None and not 0 <= self.hubness <= MAX_HUBNESS:
            raise QueryError(f"hubness is {self.hubness}: it must be between 0 and {MAX_HUBNESS}")
        if self.evidence is not None and not 0 < self.evidence <= 1:
            raise QueryError(f"the weight of captions as evidence is {self.evidence}: it must be above 0 and at most 1")
        if self.evidence is not None and self.hubness:
            raise QueryError("scores with captions as evidence are not corrected for hubness: give only one of the two")
        if self.where is not None:
            self.where.check()

    @property
    def kinds(self) -> tuple[Kind, ...]:
        return KINDS if self.to == "both" else (self.to,)

    def updated(self, values: Mapping[str, Any]) -> Options:
        """Return these options with the given values, named after fields of `Options` and `Where`, in place of theirs.

        None stands for an option's default, or for no filter. Every form of a query (command line, JSON lines, web
        API) is read by this method, and a name that is in neither class is a TypeError, so that no option or filter is
        dropped silently.
        """
        defaults = {each.name: each.default for each in fields(Options)}
        values = {name: defaults.get(name) if value is None else value for name, value in values.items()}
        conditions = {each.name: values.pop(each.name) for each in fields(Where) if each.name in values}
        conditions = {name: tuple(value) if isinstance(value, list) else value for name, value in conditions.items()}
        where = replace(self.where or Where(), **conditions) if conditions else self.where
        return replace(self, where=where, **values)


def _check_text(text: str) -> None:
    try:
        check_text(text)
    except TextError as error:
        raise QueryError(str(error)) from None


def text_part(value: str, sign: int = 1) -> Part:
    """Parse a text, such as `a beach`, which may end in a weight: `a beach^0.5`. Raises QueryError."""
    text, weight = _weighted(value)
    return Part(text=text, weight=sign * weight)


def image_part(value: str, sign: int = 1) -> Part:
    """Parse the id of a stored image, such as `42`, or the path of a file; both may end in a weight: `42^0.5`.

    Raises:
        QueryError: there is neither, or an address on the web.
    """
    name, weight = _weighted(value)
    if not name:
        raise QueryError("the picture to search for is empty: give a file, or the id of a stored image")
    if name.startswith(("http://", "https://")):
        raise QueryError(f"{name}: no such file, and pictures on the web are not fetched: save it, and give the file")
    if re.fullmatch("[0-9]{1,100}", name):  # Python parses no integer of thousands of digits
        return Part(image_id=int(name), weight=sign * weight)
    return Part(image=Path(name), weight=sign * weight)


def _weighted(value: str) -> tuple[str, float]:
    match = re.fullmatch(r"(.*)\^(-?)(\d+(?:\.\d*)?|\.\d+)", value, re.DOTALL)
    if match and match[2]:
        raise QueryError(
            f"{value!r} ends in a negative weight: subtract with --minus, or in JSON with a `weight`; "
            "if it is not a weight, append ^1"
        )
    return (match[1], float(match[3])) if match else (value, 1.0)


def evidence_weight(value: str) -> float:
    """Parse `captions`, or `captions=0.4` with a weight, for `Options.evidence`. Raises QueryError."""
    what, equals, number = value.partition("=")
    try:
        weight = float(number) if equals else EVIDENCE_WEIGHT
    except ValueError:
        weight = math.nan
    if what == "captions" and 0 < weight <= 1:
        return weight
    raise QueryError(f"{value!r} is not valid evidence: give captions, or captions=WEIGHT, above 0 and at most 1")


def named_images(parts: Sequence[Part]) -> tuple[int, ...]:
    """Return the ids of the stored images that a query names; they are left out of its results."""
    return tuple(part.image_id for part in parts if part.image_id is not None)


def for_parts(options: Options, parts: Sequence[Part]) -> Options:
    """Return the options of a query, which is not corrected for hubness by default if it contains a picture.

    The numbers tell how near an image is to captions, not to other images.

    Raises:
        QueryError: it contains a picture, and captions are to be evidence.
    """
    has_picture = any(part.text is None and part.caption_id is None for part in parts)
    if has_picture and options.evidence is not None:
        raise QueryError("captions can be evidence only for texts: leave the pictures out, or the evidence")
    return replace(options, hubness=0.0) if has_picture and options.hubness is None else options


def brief(part: Part) -> str:
    """Return a part of a query in one short line, for messages."""
    line = " ".join(str(part).split())
    return line if len(line) <= BRIEF_LENGTH else line[:BRIEF_LENGTH] + "…"


def describe(parts: Sequence[Part]) -> str:
    """Return a query in words: `a beach + image 42 - 0.5 people`."""
    words = ""
    for part in parts:
        sign = "- " if part.weight < 0 else "+ "
        size = "" if abs(part.weight) == 1 else f"{abs(part.weight):g} "
        words += (" " if words else "") + (sign if words or part.weight < 0 else "") + size + str(part)
    return words


def describe_options(options: Options) -> str:
    """Return the options of an answer in words: `10 images, split test, exact search`."""
    kinds = {"images": "images", "captions": "captions", "both": "images and as many captions"}
    words = [
        f"at most {options.k:,} {kinds[options.to]}",
        f"after the first {options.offset:,}" if options.offset else "",
        str(options.where or ""),
        f"cosine at least {options.min_score:g}" if options.min_score is not None else "",
        f"cutoff {options.cutoff:g}" if options.cutoff is not None else "",
        "captions grouped by image" if options.group else "",
        f"near-duplicates folded from {options.fold:g}" if options.fold is not None else "",
        f"hubness {options.hubness:g}" if options.hubness is not None else "",
        f"captions as evidence with weight {options.evidence:g}" if options.evidence is not None else "",
        "exact search" if options.exact else "",
    ]
    return ", ".join(filter(None, words))


def combine(vectors: Vectors, weights: Sequence[float]) -> Vectors:
    """Return the weighted sum of unit vectors (n, dim), as a unit vector (dim,), float32.

    Raises:
        QueryError: the parts cancel each other out, or all weights are 0.
    """
    largest = max(map(abs, weights))
    if not largest:
        raise QueryError("no part of the query has a weight other than 0: change a weight")
    total = (np.asarray(weights, dtype=np.float64) / largest) @ vectors.astype(np.float64)
    length = float(np.linalg.norm(total))
    if length <= MIN_SUM_LENGTH:
        raise QueryError("the parts of the query cancel each other out: change a weight")
    return np.asarray(total / length, dtype=np.float32)
