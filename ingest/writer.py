"""Write into one collection: new points, points of which the vector changes, and payloads alone."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from threading import Lock
from types import TracebackType
from typing import Self, TypeVar

from ingest.summary import Summary, Tally
from search.index import CollectionSpec, Index, Points
from search.records import Caption, Image

POINTS_PER_LOOK_UP = 1000
WRITES_UNDER_WAY = 4

R = TypeVar("R", Image, Caption)


class Writer:
    """Writes in threads of its own, a few batches behind; a context manager that waits for the last of them."""

    def __init__(self, index: Index, spec: CollectionSpec, tally: Tally, summary: Summary) -> None:
        self._index, self._collection, self._tally, self._summary = index, spec.collection, tally, summary
        self._pool = ThreadPoolExecutor(index.streams, thread_name_prefix="upsert")
        self._counting = Lock()
        self._under_way: deque[Future[None]] = deque()
        self._replaced: set[int] = set()  # ids of points that exist and will get another vector

    def look_up(
        self, records: Sequence[R], if_current: Callable[[R, Image | Caption], R | None], *, force: bool
    ) -> set[int]:
        """Return the ids of the records whose stored vector stays, after writing the payloads of those that changed.

        `if_current` gives the record as it is to be stored beside its vector, or None if that is of other content.
        With `force` no vector stays.
        """
        current: set[int] = set()
        updated = 0
        with self._summary.timed("look up"):
            for start in range(0, len(records), POINTS_PER_LOOK_UP):
                some = {record.id: record for record in records[start : start + POINTS_PER_LOOK_UP]}
                changed: list[R] = []
                for stored in self._index.retrieve(self._collection, list(some)).records:
                    kept = None if force or stored.stale else if_current(some[stored.id], stored)
                    if kept is None:
                        self._replaced.add(stored.id)
                        continue
                    current.add(stored.id)
                    if kept.fields() != stored.fields():  # also another time of the same photo: it is read only once
                        changed.append(kept)
                    updated += kept != stored
                if changed:
                    self._index.set_payload(self._collection, changed)
                self._tally.updated = updated
        self._tally.already_there = len(current) - self._tally.updated
        return current

    def put(self, points: Points) -> None:
        """Queue points, or wait while too many are queued. Raises what an earlier write raised."""
        with self._summary.waiting("writer"):
            while len(self._under_way) >= WRITES_UNDER_WAY:
                self._under_way.popleft().result()
        if len(points):
            self._under_way.append(self._pool.submit(self._write, points))

    def _write(self, points: Points) -> None:
        start = time.perf_counter()
        rows: dict[bool, list[int]] = {False: [], True: []}
        for row, record in enumerate(points.records):
            rows[record.id in self._replaced].append(row)
        if rows[False]:
            self._index.upsert(self._collection, points.only(rows[False]))
        if rows[True]:
            self._replace(points.only(rows[True]))
        with self._counting:
            self._tally.embedded += len(points)
            self._summary.worked({"upsert": time.perf_counter() - start})

    def _replace(self, points: Points) -> None:
        """Write points that exist without touching the fields that users added, even while this runs.

        That takes three writes. The new payload comes first, marked as stale; whoever is killed before the mark is
        removed embeds the point again. So no vector is ever taken for that of another photo or text.
        """
        self._index.set_payload(self._collection, [replace(record, stale=True) for record in points.records])
        self._index.set_vectors(self._collection, points)
        self._index.set_payload(self._collection, points.records)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=True)
        if error is None:
            for write in self._under_way:
                write.result()
