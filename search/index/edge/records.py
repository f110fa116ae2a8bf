"""Keep the records that queries have read: converting payloads takes longer than searching."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from search.index.points import ScoredPoint, StoredPoint, best_of_images, id_of
from search.records import Caption, Hit, Image, record_of

MAX_RECORDS = 30_000  # about 15 MB of captions, or 40 MB of images
Retrieve = Callable[[list[int]], Sequence[StoredPoint]]


class RecordCache:
    """The records of one shard by the ids of their points, None for a point without a payload.

    No other process can change an open shard, so it is enough to call `clear` after each write. Safe to use from many
    threads.
    """

    def __init__(self) -> None:
        self._records: dict[int, Image | Caption | None] = {}

    def clear(self) -> None:
        self._records = {}  # a thread that is reading continues with the previous dictionary

    def hits(self, retrieve: Retrieve, results: Sequence[Sequence[ScoredPoint]], *, per_image: bool) -> list[list[Hit]]:
        """Convert the results of several queries to hits with records; `per_image` is that of SearchParams.

        `retrieve` returns points with payloads by their ids. A point that was deleted since the query is left out.
        """
        records = self._read(retrieve, {id_of(point) for points in results for point in points})

        def hits_of(points: Sequence[ScoredPoint]) -> list[Hit]:
            points = [point for point in points if point.id in records]
            if per_image:
                points = best_of_images(points, lambda point: getattr(records[point.id], "image_id", None))
            return [Hit(point.id, point.score, records[point.id]) for point in points]

        return [hits_of(points) for points in results]

    def _read(self, retrieve: Retrieve, ids: set[int]) -> dict[int, Image | Caption | None]:
        """Return the records of those of the points that exist, and of others."""
        records = self._records
        missing = [id_ for id_ in ids if id_ not in records]
        if missing:
            for point in retrieve(missing):
                records[id_of(point)] = record_of(point.payload) if point.payload else None
            if len(records) > MAX_RECORDS:
                self.clear()
        return records
