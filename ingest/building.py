"""Build the HNSW index of a collection, and show how long it takes."""

from __future__ import annotations

from contextlib import nullcontext

from ingest.progress import building_clock
from search.index import Index

ANNOUNCE_FROM = 5000  # points; indexing more takes seconds


def build_index(index: Index, collection: str, written: int = 0) -> None:
    """Build the index; `written` is the number of points whose vectors or payloads were written since it was built.

    The embedded engine moves points that are written again out of the HNSW index, but still reports them as indexed.
    """
    info = index.info(collection)
    is_long = max(written, info.points - info.indexed_vectors) > ANNOUNCE_FROM
    with building_clock(collection, info.points) if is_long else nullcontext() as report:
        index.optimize(collection, report)
