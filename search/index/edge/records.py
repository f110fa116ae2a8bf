"""Cache the records and numbers that queries read: converting payloads takes longer than searching."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Generic, TypeVar

from search.index.points import (
    Scored,
    ScoredPoint,
    StoredPoint,
    best_of_images,
    corrected_hits,
    id_of,
    number_of,
    scored_of,
)
from search.records import Caption, Hit, Image, record_of

MAX_RECORDS = 30_000  # about 15 MB of captions, or 40 MB of images
MAX_NUMBERS = 300_000  # about 40 MB
NUMBERS_ONE_BY_ONE = 5_000  # a command reads fewer; a process that answers many queries soon needs nearly all
Retrieve = Callable[[list[int]], Sequence[StoredPoint]]
T = TypeVar("T")


class RecordCache:
    """The records of one shard by the ids of their points (None: no payload), and the numbers `hubness` of images.

    No other process can change an open shard, so it is enough to call `clear` after each write. Safe to use from many
    threads.
    """

    def __init__(self) -> None:
        self._records = _Kept(_record, MAX_RECORDS)
        self._numbers = _Kept(number_of, MAX_NUMBERS)

    def clear(self) -> None:
        self._records.clear()
        self._numbers.clear()

    def hits(self, retrieve: Retrieve, results: Sequence[Sequence[ScoredPoint]], *, per_image: bool) -> list[list[Hit]]:
        """Convert the results of several queries to hits with records; `per_image` is that of SearchParams.

        `retrieve` returns points with payloads by their ids. A point that was deleted since the query is left out.
        """
        scored = [scored_of(points) for points in results]
        records = self._records.read(retrieve, {id_ for points in scored for id_, _ in points})

        def image_of(id_: int) -> int | None:
            record = records[id_]
            return record.image_id if record else None

        def hits_of(points: Sequence[Scored]) -> list[Hit]:
            points = [each for each in points if each[0] in records]
            kept = best_of_images(points, image_of) if per_image else points
            return [Hit(id_, score, records[id_]) for id_, score in kept]

        return [hits_of(points) for points in scored]

    def records(self, retrieve: Retrieve, ids: Sequence[int]) -> list[Image | Caption]:
        """Return the records of those of these points that exist, in the order of `ids`; `retrieve` is as in `hits`.

        Raises:
            IndexFailure: a point has no payload.
        """
        records = self._records.read(retrieve, set(ids))
        return [records[id_] or record_of({}) for id_ in ids if id_ in records]

    @property
    def needs_all_numbers(self) -> bool:
        """Whether so many numbers were read one by one that reading all of them takes less time."""
        return not self._numbers.is_whole and self._numbers.missed > NUMBERS_ONE_BY_ONE

    def read_all_numbers(self, points: Iterable[StoredPoint]) -> None:
        """Read the numbers of all points, which have NUMBER of their payloads."""
        self._numbers.fill(points)

    def corrected(
        self, retrieve: Retrieve, results: Sequence[Sequence[ScoredPoint]], alpha: float, keep: int | None
    ) -> list[list[Hit]]:
        """Convert results to hits as `corrected_hits` does; `retrieve` returns points with NUMBER of their payloads.

        An image that was deleted since the query is left out.
        """
        scored = [scored_of(points) for points in results]
        numbers = self._numbers.read(retrieve, {id_ for points in scored for id_, _ in points})
        stored = [[each for each in points if each[0] in numbers] for points in scored]
        return [corrected_hits(points, numbers, alpha, keep) for points in stored]


class _Kept(Generic[T]):
    """A cache of what `convert` makes of points, by their ids; it is emptied once it holds more than `most`.

    `missed` counts the points that it had to retrieve. `is_whole` is whether `fill` was called since `clear`; it stays
    true if the cache is emptied because of `most`, so that a larger collection is not read again and again.
    """

    def __init__(self, convert: Callable[[StoredPoint], T], most: int) -> None:
        self._convert, self._most = convert, most
        self.clear()

    def clear(self) -> None:
        self._kept: dict[int, T] = {}  # a thread that is reading continues with the previous dictionary
        self.missed, self.is_whole = 0, False

    def fill(self, points: Iterable[StoredPoint]) -> None:
        """Add the values of all points, if they are not too many."""
        self.is_whole, kept = True, self._kept
        for point in islice(points, self._most):
            kept[id_of(point)] = self._convert(point)

    def read(self, retrieve: Retrieve, ids: set[int]) -> dict[int, T]:
        """Return the values of those of these points that exist, by id; other points may be in it too."""
        kept = self._kept
        missing = [id_ for id_ in ids if id_ not in kept]  # `ids - kept.keys()` would look at all that is kept
        if missing:
            self.missed += len(missing)
            for point in retrieve(missing):
                kept[id_of(point)] = self._convert(point)
            if len(kept) > self._most:
                self._kept = {}
        return kept


def _record(point: StoredPoint) -> Image | Caption | None:
    return record_of(point.payload) if point.payload else None
