"""Decide whether a query is corrected for hubness, and refuse numbers that do not belong together.

`python -m ingest hubness` stores the numbers, and says what they are; `search/ranking/pages.py` ranks by them.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from search.errors import QueryError
from search.index import HubnessSpec, ReadIndex

MARGIN = 1e-12  # of scores: images that could tie are read too
FRESH_SECONDS = 10.0  # how long the state of the collection is remembered: another process may change it on a server


@dataclass(frozen=True, slots=True)
class Correction:
    """Subtract `alpha` times the number of an image from its cosine; no number is below `smallest`."""

    alpha: float
    smallest: float

    def highest(self, cosine: float) -> float:
        """Return the highest score that an image with at most this cosine can have."""
        return self.score(cosine, self.smallest)

    def score(self, cosine: float, number: float) -> float:
        return cosine - self.alpha * number

    def rivals(self, cosine: float, score: float) -> float:
        """Return the highest number with which an image of at most this cosine can have at least this score."""
        return (cosine - score + MARGIN) / self.alpha


class Corrections:
    """The corrections of the queries to one collection of images."""

    def __init__(self, index: ReadIndex, collection: str) -> None:
        self._index, self._collection = index, collection
        self._stored: HubnessSpec | None = None
        self._points = 0
        self._read_at = float("-inf")

    def of(self, alpha: float | None) -> Correction | None:
        """Return the correction by `alpha` (None: the stored one), or None if scores are not corrected.

        Raises:
            QueryError: `alpha` is given and no numbers are stored, or not every image has one.
            CollectionMissing: the collection does not exist.
        """
        if alpha == 0:
            return None
        if time.monotonic() - self._read_at > FRESH_SECONDS:
            self._stored = self._index.spec(self._collection).hubness
            self._points = self._index.count(self._collection) if self._stored else 0
            self._read_at = time.monotonic()
        stored = self._stored
        if stored is None:
            if alpha is None:
                return None
            raise QueryError(
                f"the images of {self._collection} have no numbers to correct scores by: "
                "run `python -m ingest hubness --references FILE|SPLIT` first"
            )
        used = stored.alpha if alpha is None else alpha
        if not used:
            return None
        check_complete(self._collection, stored, self._points)
        return Correction(used, stored.smallest)


def check_complete(collection: str, stored: HubnessSpec, points: int) -> None:
    """Raise QueryError unless each of the `points` images of a collection has a number of the same measurement."""
    if stored.complete and points <= stored.points:
        return
    missing = f"{points - stored.points:,} of {points:,}" if points > stored.points else "some"
    raise QueryError(
        f"{missing} images of {collection} have no number to correct their scores by, or one of an earlier "
        "measurement: run `python -m ingest hubness` again, or search with --hubness 0"
    )
