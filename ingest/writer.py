"""Write into one collection: new points, new vectors of existing points, and payloads alone."""

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
WRITES_IN_FLIGHT = 4

R = TypeVar("R", Image, Caption)


class Writer:
    """A context manager that writes points in threads of its own, and waits for the last of them on exit."""

    def __init__(self, index: Index, spec: CollectionSpec, tally: Tally, summary: Summary) -> None:
        self._index, self._collection, self._tally, self._summary = index, spec.collection, tally, summary
        self._pool = ThreadPoolExecutor(index.streams, thread_name_prefix="upsert")
        self._counting = Lock()
        self._in_flight: deque[Future[None]] = deque()
        self._replaced: set[int] = set()  # ids of points that exist and will get another vector

    def look_up(
        self, records: Sequence[R], if_current: Callable[[R, Image | Caption], R | None], *, force: bool
    ) -> set[int]:
        """Return the ids of the records whose stored vector is current, after updating the payloads that changed.

        `if_current` takes a record and the stored one; it returns the record to store beside the vector, or None if the
        vector was made from other content. With `force`, no vector is current.
        """
        current: set[int] = set()
        updated = 0
        with self._summary.timed("look up"):
            for start in range(0, len(records), POINTS_PER_LOOK_UP):
                by_id = {record.id: record for record in records[start : start + POINTS_PER_LOOK_UP]}
                changed: list[R] = []
                for stored in self._index.retrieve(self._collection, list(by_id)).records:
                    kept = None if force or stored.stale else if_current(by_id[stored.id], stored)
                    if kept is None:
                        self._replaced.add(stored.id)
                        continue
                    current.add(stored.id)
                    if kept.fields() != stored.fields():  # with a file's new time, a photo is read only once more
                        changed.append(kept)
                    updated += kept != stored
                if changed:
                    self._index.set_payload(self._collection, changed)
                self._tally.updated = updated
        self._tally.already_there = len(current) - self._tally.updated
        return current

    def is_new(self, record: Image | Caption) -> bool:
        """Return whether the collection lacked this record, which is not current, when `look_up` read it."""
        return record.id not in self._replaced

    def copy(self, points: Points) -> None:
        """Write new points whose vectors were copied from others."""
        self._index.upsert(self._collection, points)
        self._tally.updated += len(points)

    def put(self, points: Points) -> None:
        """Queue points, after waiting if too many are queued. Raises the error of an earlier write."""
        with self._summary.waiting("writer"):
            while len(self._in_flight) >= WRITES_IN_FLIGHT:
                self._in_flight.popleft().result()
        if len(points):
            self._in_flight.append(self._pool.submit(self._write, points))

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
        """Replace the vectors of existing points, and keep the fields that users add, even while this runs.

        That takes three writes. The new payload comes first, marked as stale, and the mark goes last: if a run is
        killed in between, the next one embeds the point again, so a vector never passes for that of another input.
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
            for write in self._in_flight:
                write.result()
