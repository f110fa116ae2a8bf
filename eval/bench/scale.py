"""Measure what an index costs as it grows: upload, build, queries, disk and memory at several sizes."""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

import numpy as np

from eval.bench.cost import TARGETS, Figure, Growth, Need, Sample, need
from eval.bench.measure import STATUS, measure
from eval.bench.synthetic import fill, query_vectors, space_for, specification
from search.cli.command import note
from search.index import Index, Quantization, SearchParams, Tuning, open_for_writing
from search.settings import load_settings

Engine = Literal["embedded", "server"]

LIMIT = 10
WARM_UP = 20
NOTES = (
    "Vectors and payloads are those of synthetic captions. '~': extrapolated, by the fit, to a size that was not",
    "measured. A node has its share of the vectors; upload, build and query times are those of one node, while all",
    "nodes work in parallel on machines like this one; no replicas or network. int8: the float32 vectors stay on disk.",
    "'exponent held': it looked smaller, because of fixed costs or other work on the machine; run nothing else.",
)


@dataclass(frozen=True, slots=True)
class Job:
    """A collection to measure, in a folder or on the server at `url`."""

    points: int
    dim: int
    queries: int
    quantization: Quantization
    url: str | None
    folder: str = ""
    dataset: str = "bench"

    @contextmanager
    def index(self) -> Iterator[Index]:
        with closing(open_for_writing(load_settings(None if self.url else Path(self.folder), self.url))) as index:
            yield index

    @property
    def engine(self) -> Engine:
        return "server" if self.url else "embedded"

    @property
    def collection(self) -> str:
        return specification(self.points, self.dim, "captions", self.dataset).collection


@dataclass(frozen=True, slots=True)
class BuildCost:
    upload_seconds: float
    build_seconds: float
    indexed: int
    disk_bytes: int | None


@dataclass(frozen=True, slots=True)
class QueryCost:
    median_ms: float
    p95_ms: float
    found: float
    memory_bytes: int | None


@dataclass(frozen=True, slots=True)
class Scale:
    """The measurements of one engine and quantization at all sizes, their growth, and what the targets would need."""

    engine: Engine
    quantization: Quantization
    samples: tuple[Sample, ...]
    growth: Growth
    needs: tuple[Need, ...]


def scale(job: Job, sizes: Sequence[int], rounds: int, node_memory_gib: float) -> Scale:
    """Measure every size, smallest first, in every round.

    Raises:
        EvaluationError: there are fewer than three sizes.
        CocoSearchError: the disk has not enough space for the largest size, or a measurement failed.
    """
    if not job.url:
        with space_for(max(sizes), job.dim):
            pass  # fail now, not after half an hour
    samples: dict[int, list[Sample]] = {points: [] for points in sorted(set(sizes))}
    for number in range(rounds):
        for points, of_size in samples.items():
            note(
                f"{points:,} points, {job.engine}, quantization {job.quantization}, round {number + 1} of {rounds} ..."
            )
            of_size.append(sample(replace(job, points=points)))
    fastest = [shortest_times(of_size) for of_size in samples.values()]
    growth = Growth.of(fastest)
    needs = tuple(need(name, vectors, growth, node_memory_gib) for name, vectors in TARGETS.items())
    return Scale(job.engine, job.quantization, tuple(fastest), growth, needs)


def sample(job: Job) -> Sample:
    """Measure one size. A second process runs the queries, so that its memory is what they take."""
    job = replace(job, dataset=f"bench-{uuid4().hex[:8]}")
    with space_for(0 if job.url else job.points, job.dim) as folder:
        job = replace(job, folder=str(folder))
        try:
            build_cost = measure(build, job).result
            query_cost = measure(query, job).result
        finally:
            if job.url:
                measure(drop, job)
    return Sample(points=job.points, **asdict(build_cost), **asdict(query_cost))


def shortest_times(samples: Sequence[Sample]) -> Sample:
    """Combine the shortest times of several rounds at one size: other work on the machine can only add to them."""
    times = ("upload_seconds", "build_seconds", "median_ms", "p95_ms")
    return replace(samples[0], **{name: min(getattr(each, name) for each in samples) for name in times})


def build(job: Job) -> BuildCost:
    """Upload the points, then build the index."""
    tuning = Tuning(quantization=job.quantization, on_disk=job.quantization != "none", index_everything=True)
    with job.index() as index:
        spec = specification(job.points, job.dim, "captions", job.dataset)
        upload_seconds = fill(index, spec, job.points, tuning)
        start = time.perf_counter()
        index.optimize(job.collection)  # on a server, turns indexing on again and waits for it
        build_seconds = time.perf_counter() - start
        indexed = index.info(job.collection).indexed_vectors
        return BuildCost(upload_seconds, build_seconds, indexed, index.disk_bytes(job.collection))


def query(job: Job) -> QueryCost:
    """Run one query at a time, by HNSW.

    Memory is the growth of this process until the first answer: what the engine holds, without the pages that rescoring
    reads from the disk, which the system may reclaim.
    """
    queries = query_vectors(job.queries + WARM_UP, job.points, job.dim)[:, np.newaxis]
    with job.index() as index:
        before = resident_bytes()  # the engine's library is loaded, the collection is not
        times, answers = [], index.query(job.collection, queries[0], LIMIT)
        after = resident_bytes()
        for vector in queries[1:]:
            start = time.perf_counter()
            answers += index.query(job.collection, vector, LIMIT)
            times.append(1000 * (time.perf_counter() - start))
        shares = []
        for vector, hits in zip(queries, answers, strict=True):
            [best] = index.query(job.collection, vector, LIMIT, SearchParams(exact=True, payload=False))
            shares.append(len({hit.id for hit in hits} & {hit.id for hit in best}) / len(best))
    return QueryCost(
        statistics.median(times[-job.queries :]),
        float(np.quantile(times[-job.queries :], 0.95)),
        statistics.mean(shares),
        None if job.url or before is None or after is None else after - before,
    )


def drop(job: Job) -> None:
    with job.index() as index:
        index.drop(job.collection)


def resident_bytes() -> int | None:
    """Return the resident memory of this process, including mapped files; None if the system does not report it."""
    match = re.search(r"^VmRSS:\s+(\d+) kB$", STATUS.read_text(), re.M) if STATUS.exists() else None
    return 1024 * int(match[1]) if match else None


def as_json(scales: Sequence[Scale]) -> list[dict[str, Any]]:
    return [asdict(each) for each in scales]


def table(scales: Sequence[Scale], dim: int, node_memory_gib: float) -> str:
    """Return tables of the measurements, the fits, and what the targets would need."""
    lines = [
        f"{dim} dimensions, one process; bytes are per vector",
        f"{'engine':<16}{'points':>10}{'upload/s':>10}{'build s':>9}{'query ms':>10}{'p95 ms':>8}{'found':>8}"
        f"{'disk':>8}{'memory':>8}",
    ]
    for each in scales:
        for one in each.samples:
            disk, memory = (
                "-" if total is None else f"{total / one.points:.0f}" for total in (one.disk_bytes, one.memory_bytes)
            )
            lines.append(
                f"{_name(each)}{one.points:>10,}{one.points / one.upload_seconds:>10,.0f}{one.build_seconds:>9.1f}"
                f"{one.median_ms:>10.2f}{one.p95_ms:>8.2f}{100 * one.found:>7.1f}%{disk:>8}{memory:>8}"
            )
    lines += ["", "of n points"]
    for each in scales:
        for name, fit in each.growth.fits().items():
            lines.append(f"{_name(each)}{name.replace('_', ' '):<16}{fit or 'not measured'}")
    lines += [
        "",
        f"{'engine':<28}{'vectors':>13}{'memory GiB':>12}{'disk GiB':>11}{f'nodes of {node_memory_gib:g}':>13}"
        f"{'upload h':>10}{'build h':>10}{'query ms':>10}{'x largest':>11}",
    ]
    lines += [_need_line(_name(each), need) for each in scales for need in each.needs]
    return "\n".join([*lines, "", *NOTES])


def _need_line(name: str, need: Need) -> str:
    nodes = f"{'~' if need.memory_gib and need.memory_gib.basis == 'extrapolated' else ''}{need.nodes:,}"
    return (
        f"{name}{need.name:<12}{need.vectors:>13,}{_text(need.memory_gib):>12}{_text(need.disk_gib):>11}{nodes:>13}"
        f"{_text(need.upload_hours):>10}{_text(need.build_hours):>10}{_text(need.query_ms):>10}"
        f"{f'{need.build_hours.times:,.0f} x':>11}"
    )


def _name(scale: Scale) -> str:
    return f"{scale.engine:<10}{'plain' if scale.quantization == 'none' else scale.quantization:<6}"


def _text(figure: Figure | None) -> str:
    if figure is None:
        return "-"
    digits = 0 if figure.value >= 100 else 1 if figure.value >= 1 else 2
    return f"{'~' if figure.basis == 'extrapolated' else ''}{figure.value:,.{digits}f}"
