"""Points to write, and points that were read: records with their vectors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from search.errors import IndexFailure, InvalidPoints, QueryError
from search.records import HUBNESS, Caption, Hit, Image, Vectors, record_of

Scored = tuple[int, float]
"""The id of a point and its score."""
MAX_ID = 2**63  # payloads contain ids too, and their integers are signed


@dataclass(frozen=True, slots=True)
class Points:
    """Records and their vectors, float32 (n, dim), ready to be stored under `record.id`.

    Raises:
        InvalidPoints: the shapes do not match, an id is not between 0 and 2^63, or a vector is NaN, infinite or zero
            (which the embedded engine would store and rank at random).
    """

    records: Sequence[Image | Caption]
    vectors: Vectors

    def __post_init__(self) -> None:
        if self.vectors.ndim != 2 or len(self.vectors) != len(self.records):
            raise InvalidPoints(f"{len(self.records)} records with vectors of shape {self.vectors.shape}")
        for record, good in zip(self.records, usable(self.vectors), strict=True):
            if not 0 <= record.id < MAX_ID:
                raise InvalidPoints(f"id {record.id} is not between 0 and 2^63")
            if not good:
                raise InvalidPoints(f"the vector of {record.id} is NaN, infinite or zero: it has no direction")

    def __len__(self) -> int:
        return len(self.records)

    def only(self, rows: Sequence[int]) -> Points:
        """Return the points at these rows."""
        return Points([self.records[row] for row in rows], self.vectors[list(rows)])


def check_id(value: int, kind: str) -> None:
    """Refuse an id that no image or caption (`kind`) can have. Raises QueryError."""
    if not 0 <= value < MAX_ID:
        raise QueryError(f"{value} is not a valid {kind} id")


def usable(vectors: Vectors) -> npt.NDArray[np.bool_]:
    """Return, as bool (n,), which rows of float32 (n, dim) have a direction: are not NaN, infinite or zero."""
    lengths = np.linalg.norm(vectors, axis=1)
    good: npt.NDArray[np.bool_] = np.isfinite(lengths) & (lengths > 0)
    return good


@dataclass(frozen=True, slots=True)
class Batch:
    """Stored points: records and, if requested, their vectors, float32 (n, dim)."""

    records: list[Image | Caption]
    vectors: Vectors | None = None

    def vectors_by_id(self) -> dict[int, Vectors]:
        """Return the vectors, float32 (dim,), by the ids of their points; none if they were not requested."""
        rows = [] if self.vectors is None else list(self.vectors)
        return {record.id: vector for record, vector in zip(self.records, rows, strict=bool(rows))}


class StoredPoint(Protocol):
    """A point as the clients of both engines return it."""

    @property
    def id(self) -> Any: ...
    @property
    def payload(self) -> Any: ...
    @property
    def vector(self) -> Any: ...


class ScoredPoint(StoredPoint, Protocol):
    """A result of a query as the clients of both engines return it."""

    @property
    def score(self) -> float: ...


def batch_of(points: Sequence[StoredPoint], vectors: bool) -> Batch:
    """Convert stored points to records and, with `vectors`, their vectors."""
    records = [record_of(point.payload or {}) for point in points]
    return Batch(records, np.array([point.vector for point in points], dtype=np.float32) if vectors else None)


def hits_of(points: Sequence[ScoredPoint], *, per_image: bool = False) -> list[Hit]:
    """Convert scored points to hits; those without a payload have no record. `per_image` is that of SearchParams."""
    payloads = {id_of(point): point.payload for point in points}
    scored = scored_of(points)
    if per_image:
        scored = best_of_images(scored, lambda id_: (payloads[id_] or {}).get("image_id"))
    return [Hit(id_, score, record_of(payloads[id_]) if payloads[id_] else None) for id_, score in scored]


def scored_of(points: Sequence[ScoredPoint]) -> list[Scored]:
    """Return the ids and the scores of points; ids are checked by what reads the payloads (`id_of`)."""
    return [(point.id, point.score) for point in points]


def corrected_hits(
    scored: Sequence[Scored], numbers: Mapping[int, float | None], alpha: float, keep: int | None = None
) -> list[Hit]:
    """Convert scored images to hits without records, with `alpha` times their `numbers` subtracted; best first.

    `scored` are in the order of their cosines. `keep` is that of SearchParams.

    Raises:
        IndexFailure: an image has no number.
    """
    ranked = []
    for id_, cosine in scored:
        number = numbers[id_]
        if number is None:
            raise IndexFailure(
                f"image {id_} has no number to correct its score by: run `python -m ingest hubness` again"
            )
        ranked.append((alpha * number - cosine, id_, cosine))
    lowest = ranked[-1:]
    ranked.sort()
    if keep is not None and keep < len(ranked):
        ranked[keep:] = lowest
    return [Hit(id_, 0.0 - negative, None, (), None, cosine) for negative, id_, cosine in ranked]  # not -0.0


def number_of(point: StoredPoint) -> float | None:
    """Return the number `hubness` in the payload of an image, or None if it has none."""
    number = (point.payload or {}).get(HUBNESS)
    return number if isinstance(number, int | float) else None


def best_of_images(scored: Sequence[Scored], image_of: Callable[[int], int | None]) -> list[Scored]:
    """Return the best point of each image, the one with the lowest id if several are; `scored` are best first."""
    best: dict[int | None, Scored] = {}
    for each in scored:
        image = image_of(each[0])
        rival = best.setdefault(image, each)
        if rival[1] == each[1] and each[0] < rival[0]:
            best[image] = each
    return list(best.values())


def id_of(point: StoredPoint) -> int:
    """Return the id of a point.

    Raises:
        IndexFailure: the id is not an integer, as all of this project's are.
    """
    if not isinstance(point.id, int):
        raise IndexFailure(f"point {point.id} has no integer id: something else wrote into this collection")
    return point.id
