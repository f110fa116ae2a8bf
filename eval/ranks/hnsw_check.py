"""Check by its answers whether HNSW or a full scan answers: the collection's own counters do not show it.

The engine scans a collection, or the part of it that a filter leaves, if that is smaller than `full_scan_threshold`,
and still counts every vector as indexed. The scores of such exact answers would be reported as those of HNSW.
"""

from __future__ import annotations

from typing import Literal, cast

import numpy as np

from eval.ranks.oracle import rounding
from search.index import ReadIndex, SearchParams, Where
from search.records import Vectors

Used = Literal["hnsw", "scan", "indistinguishable from a scan"]

REASONS: dict[Used, str] = {
    "scan": "a full scan answered; the collection is too small for Qdrant to build HNSW for it",
    "indistinguishable from a scan": "the answers cannot be told from a full scan's (below full_scan_threshold, "
    "a narrow filter, or so few points that HNSW misses nothing)",
}
"""Why answers are not known to be those of HNSW, for reports."""

PROBES = 200  # of each kind
SEED = 714_025  # unlike any gallery's: a stored point as direction would be found with any effort


def used(index: ReadIndex, collection: str, queries: Vectors, where: Where | None = None) -> Used:
    """Return how the engine answers queries that are not exact, under the filter `where`.

    "scan" if no vector is indexed. Otherwise up to 200 of `queries` (n, dim) and 200 random directions are sent with
    the least effort, a beam of one, on the float32 vectors (rounding in quantised ones would look like HNSW). HNSW
    misses the nearest point of some of them, which proves "hnsw" for at least a part of the collection: compare
    `indexed_vectors` with `points` for the whole. If every answer is exact, it is "indistinguishable from a scan": a
    scan, or a gallery of so few points that the graph leads to each of them.
    """
    if index.info(collection).indexed_vectors == 0:
        return "scan"
    probes = np.concatenate([_some(queries), _directions(queries.shape[1])])
    quick = index.query(collection, probes, 1, SearchParams(ef=1, quantized=False, payload=False, where=where))
    exact = index.query(collection, probes, 1, SearchParams(exact=True, payload=False, where=where))
    margin = rounding(queries.shape[1])
    for hits, best in zip(quick, exact, strict=True):
        if best and (not hits or best[0].score - hits[0].score > margin):
            return "hnsw"
    return "indistinguishable from a scan"


def _some(queries: Vectors) -> Vectors:
    rows = np.linspace(0, len(queries) - 1, min(PROBES, len(queries))).astype(np.int64)
    return queries[rows]


def _directions(dim: int) -> Vectors:
    directions = np.random.default_rng(SEED).normal(size=(PROBES, dim))
    return cast(Vectors, (directions / np.linalg.norm(directions, axis=1, keepdims=True)).astype(np.float32))
