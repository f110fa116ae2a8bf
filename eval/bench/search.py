"""Measure the time of one query: the embedded engine compared with qdrant-client's local mode, and a page of results
that is corrected for hubness compared with a plain one."""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from eval.bench import corrected
from eval.bench.corrected import WARM_UP
from eval.bench.measure import Measured, in_turn, peak_mib
from eval.bench.synthetic import fill, query_vectors, space_for, specification
from search.index import Index, SearchParams
from search.records import Vectors

LIMIT = 10


@dataclass(frozen=True, slots=True)
class Job:
    """A collection of `points` points, and the number of queries; `exact` scans it."""

    points: int
    dim: int
    queries: int
    exact: bool


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds per query: median, 95th percentile, and median without payloads.

    `indexed`: the vectors in the HNSW index. `found`: the share of the ten exact hits among the ten hits.
    `peak_mib`: the peak memory until then. `pages`: the time of a page of results, measured afterwards for the embedded
    engine alone.
    """

    median_ms: float
    p95_ms: float
    bare_ms: float
    fill_seconds: float
    build_seconds: float
    indexed: int
    found: float
    peak_mib: float
    pages: corrected.Pages | None = None


def compare(job: Job, rounds: int) -> dict[str, list[Measured[Latency]]]:
    """Measure both engines, in turn."""
    return in_turn((embedded, local_mode), job, rounds)


def embedded(job: Job) -> Latency:
    """Measure Qdrant Edge in a folder."""
    from search.index.edge.index import EdgeIndex

    with space_for(job.points, job.dim) as folder, closing(EdgeIndex(folder)) as index:
        latency = _measure(index, job)
        collection, queries = specification(job.points, job.dim, "images").collection, _queries(job)
        pages = corrected.measure_pages(index, collection, job.points, queries, LIMIT, exact=job.exact)
        return replace(latency, pages=pages)


def local_mode(job: Job) -> Latency:
    """Measure `QdrantClient(":memory:")`: numpy, always exact."""
    from qdrant_client import QdrantClient

    from search.index.server.connection import Connection
    from search.index.server.index import ServerIndex

    warnings.filterwarnings("ignore", message="Local mode|Payload indexes have no effect")
    connection = Connection(QdrantClient(":memory:"), ":memory:", "local mode")
    with closing(ServerIndex(connection)) as index:
        return _measure(index, replace(job, exact=True))


def _measure(index: Index, job: Job) -> Latency:
    spec = specification(job.points, job.dim, "images")
    fill_seconds = fill(index, spec, job.points)
    start = time.perf_counter()
    index.optimize(spec.collection)
    build_seconds = time.perf_counter() - start
    times, bare, found = [], [], []
    for number, vector in enumerate(_queries(job)):
        start = time.perf_counter()
        [hits] = index.query(spec.collection, vector[np.newaxis], LIMIT, SearchParams(exact=job.exact))
        middle = time.perf_counter()
        [best] = index.query(spec.collection, vector[np.newaxis], LIMIT, SearchParams(exact=job.exact, payload=False))
        end = time.perf_counter()
        if number >= WARM_UP:
            if not job.exact:
                [best] = index.query(
                    spec.collection, vector[np.newaxis], LIMIT, SearchParams(exact=True, payload=False)
                )
            times.append(1000 * (middle - start))
            bare.append(1000 * (end - middle))
            found.append(len({hit.id for hit in hits} & {hit.id for hit in best}) / len(best))
    indexed = index.info(spec.collection).indexed_vectors
    return Latency(
        median_ms=statistics.median(times),
        p95_ms=float(np.quantile(times, 0.95)),
        bare_ms=statistics.median(bare),
        fill_seconds=fill_seconds,
        build_seconds=build_seconds,
        indexed=indexed,
        found=statistics.mean(found),
        peak_mib=peak_mib(),
    )


def _queries(job: Job) -> Vectors:
    return query_vectors(job.queries + WARM_UP, job.points, job.dim)


def as_json(job: Job, measured: Mapping[str, Sequence[Measured[Latency]]]) -> dict[str, Any]:
    return {
        **asdict(job),
        **{name: [asdict(each.result) for each in runs] for name, runs in measured.items()},
    }


def table(job: Job, measured: Mapping[str, Sequence[Measured[Latency]]]) -> str:
    """Return a table of medians over the rounds, with each time divided by the embedded engine's."""
    ours = measured["embedded"]
    way = "exact" if job.exact else "HNSW" if ours[0].result.indexed else "HNSW requested, but too few points: a scan"
    lines = [
        f"{job.points:,} points of {job.dim} dimensions, {way}; {job.queries} queries one at a time, "
        f"{LIMIT} hits; {len(ours)} rounds",
        f"{'':<12}{'median ms':>10}{'p95 ms':>9}{'no payload':>12}{'this / embedded':>17}{'found':>8}{'fill s':>8}"
        f"{'build s':>9}{'peak MiB':>10}",
    ]
    for name, runs in measured.items():
        median = _median(runs, lambda latency: latency.median_ms)
        ratio = statistics.median(
            other.result.median_ms / own.result.median_ms for other, own in zip(runs, ours, strict=True)
        )
        lines.append(
            f"{name:<12}{median:>10.2f}{_median(runs, lambda latency: latency.p95_ms):>9.2f}"
            f"{_median(runs, lambda latency: latency.bare_ms):>12.2f}{ratio:>17.1f}"
            f"{_median(runs, lambda latency: 100 * latency.found):>7.1f}%"
            f"{_median(runs, lambda latency: latency.fill_seconds):>8.1f}"
            f"{_median(runs, lambda latency: latency.build_seconds):>9.1f}"
            f"{_median(runs, lambda latency: latency.peak_mib):>10.0f}"
        )
    whole, bare = (_median(ours, each) for each in (lambda latency: latency.median_ms, lambda latency: latency.bare_ms))
    lines.append(f"the search takes {100 * bare / whole:.0f}% of the embedded engine's time, payloads the rest")
    if pages := [each.result.pages for each in ours if each.result.pages]:
        lines.append(corrected.row(pages))
    return "\n".join(lines)


def _median(runs: Sequence[Measured[Latency]], of: Callable[[Latency], float]) -> float:
    return statistics.median(of(each.result) for each in runs)
