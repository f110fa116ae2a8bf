"""Keep the records that queries have read: converting payloads takes longer than searching."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from search.index.points import Scored, ScoredPoint, StoredPoint, best_of_images, id_of
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
        scored = [[(point.id, point.score) for point in points] for points in results]
        records = self._read(retrieve, {id_ for points in scored for id_, _ in points})

        def image_of(id_: int) -> int | None:
            record = records[id_]
            return record.image_id if record else None

        def hits_of(points: Sequence[Scored]) -> list[Hit]:
            points = [each for each in points if each[0] in records]
            kept = best_of_images(points, image_of) if per_image else points
            return [Hit(id_, score, records[id_]) for id_, score in kept]

        return [hits_of(points) for points in scored]

    def _read(self, retrieve: Retrieve, ids: set[int]) -> dict[int, Image | Caption | None]:
        """Return the records of those of the points that exist, and of others."""
        records = self._records
        missing = list(ids - records.keys())
        if missing:
            for point in retrieve(missing):
                records[id_of(point)] = record_of(point.payload) if point.payload else None
            if len(records) > MAX_RECORDS:
                self.clear()
        return records
