"""Measure the first page of a query, plain and corrected for hubness, in alternation."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

import numpy as np

from eval.bench.vectors import captions_of, image_blocks
from search.index import Index
from search.query import Options
from search.records import Vectors
from search.searcher import Searcher

ALPHA = 0.75
REFERENCES = 1000
WARM_UP = 5  # queries that are not counted


@dataclass(frozen=True, slots=True)
class Pages:
    """Median milliseconds that a page takes, by the clock and of processor time, and medians of the differences."""

    plain_ms: float
    corrected_ms: float
    difference_ms: float
    plain_cpu_ms: float
    corrected_cpu_ms: float
    difference_cpu_ms: float


def measure_pages(index: Index, collection: str, points: int, queries: Vectors, k: int, *, exact: bool) -> Pages:
    """Store numbers with the images of an index, and read the first `k` results of each query both ways.

    `points` is the number of images, made by `image_blocks`; `queries` are float32 (n, dim).
    """
    from ingest.hubness import measure, store
    from ingest.references import References

    images = next(image_blocks(points, queries.shape[1]))
    rows = np.random.default_rng(2).integers(0, len(images), REFERENCES)
    references = References([f"reference {row}" for row in range(REFERENCES)], captions_of(images, rows, seed=2), 0)
    store(index, collection, references, measure(index, collection, references.vectors, 128))

    searcher = Searcher(index, collection.removesuffix("_images"))
    times = np.empty((len(queries), 2, 2))  # plain and corrected, by the clock and of the process
    for number, query in enumerate(queries):
        for way in (0, 1) if number % 2 else (1, 0):
            options = Options(k=k, exact=exact, hubness=ALPHA if way else 0)
            clock, process = time.perf_counter(), time.process_time()
            searcher.search_vector(query, options)
            times[number, way] = time.perf_counter() - clock, time.process_time() - process
    (plain, plain_cpu), (corrected, corrected_cpu) = 1000 * np.median(times[WARM_UP:], axis=0)
    differences = 1000 * np.median(times[WARM_UP:, 1] - times[WARM_UP:, 0], axis=0)
    return Pages(plain, corrected, differences[0], plain_cpu, corrected_cpu, differences[1])


def row(measured: list[Pages]) -> str:
    """Return a line of medians over the rounds."""
    pages = Pages(*(statistics.median(getattr(each, name) for each in measured) for name in Pages.__slots__))
    return (
        f"a page: {pages.plain_ms:.2f} ms plain, {pages.corrected_ms:.2f} ms corrected for hubness "
        f"({pages.difference_ms:+.2f}); of processor time {pages.plain_cpu_ms:.2f} and {pages.corrected_cpu_ms:.2f} ms "
        f"({pages.difference_cpu_ms:+.2f})"
    )
