"""How long one query takes: the embedded engine beside qdrant-client's local mode, and the command beside its model."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from eval.bench.filling import fill, questions, room_for, specification
from eval.bench.measure import Measured, in_turn, measure, median_peak
from search.errors import CocoSearchError
from search.index import Index

LIMIT = 10
WARM_UP = 5  # queries that are not counted
QUESTION = "a dog on a beach"
BARE = """
import sys, torch
from sentence_transformers import SentenceTransformer
SentenceTransformer(sys.argv[1], device="cpu").encode([sys.argv[2]])
"""


@dataclass(frozen=True, slots=True)
class Job:
    """A collection of so many points, and how many queries it is asked; `exact` scans it."""

    points: int
    dim: int
    queries: int
    exact: bool


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds a query, at the median and at the 95th percentile, and at the median without payloads.

    `indexed`: vectors that HNSW knows. `found`: of the exact ten best, the share among the ten that came.
    """

    median_ms: float
    p95_ms: float
    bare_ms: float
    fill_seconds: float
    build_seconds: float
    indexed: int
    found: float


@dataclass(frozen=True, slots=True)
class Start:
    """Seconds until `search text` has answered, and until sentence-transformers alone has encoded the same text."""

    command: float
    bare: float


def compare(job: Job, rounds: int) -> dict[str, list[Measured[Latency]]]:
    """Both engines, in turn."""
    return in_turn((embedded, local_mode), job, rounds)


def embedded(job: Job) -> Latency:
    """Qdrant Edge in a folder."""
    from search.index.edge import EdgeIndex

    with room_for(job.points, job.dim) as folder:
        return _ask(EdgeIndex(folder), job)


def local_mode(job: Job) -> Latency:
    """`QdrantClient(":memory:")`: numpy, always exact."""
    from qdrant_client import QdrantClient

    from search.index.server import ServerIndex

    warnings.filterwarnings("ignore", message="Local mode|Payload indexes have no effect")
    return _ask(ServerIndex(QdrantClient(":memory:"), ":memory:", "local mode"), replace(job, exact=True))


def _ask(index: Index, job: Job) -> Latency:
    spec = specification(job.points, job.dim, "images")
    fill_seconds = fill(index, spec, job.points)
    start = time.perf_counter()
    index.optimize(spec.collection)
    build_seconds = time.perf_counter() - start
    asked = questions(job.queries + WARM_UP, job.points, job.dim)
    times, bare, found = [], [], []
    for number, question in enumerate(asked):
        start = time.perf_counter()
        [hits] = index.query(spec.collection, question[np.newaxis], LIMIT, exact=job.exact)
        middle = time.perf_counter()
        [best] = index.query(spec.collection, question[np.newaxis], LIMIT, exact=job.exact, payload=False)
        end = time.perf_counter()
        if number >= WARM_UP:
            if not job.exact:
                [best] = index.query(spec.collection, question[np.newaxis], LIMIT, exact=True, payload=False)
            times.append(1000 * (middle - start))
            bare.append(1000 * (end - middle))
            found.append(len({hit.id for hit in hits} & {hit.id for hit in best}) / len(best))
    indexed = index.info(spec.collection).indexed_vectors
    index.close()
    return Latency(
        median_ms=statistics.median(times),
        p95_ms=float(np.quantile(times, 0.95)),
        bare_ms=statistics.median(bare),
        fill_seconds=fill_seconds,
        build_seconds=build_seconds,
        indexed=indexed,
        found=statistics.mean(found),
    )


def cold_starts(model: str, rounds: int) -> list[Start]:
    """`python -m search text` on an index of three images, and the model alone, in turn, in processes of their own.

    Raises:
        CocoSearchError: there is no such model, or one of the two failed.
    """
    with TemporaryDirectory() as folder:
        name = measure(_three_images, (folder, model)).found
        command = [sys.executable, "-m", "search", "text", QUESTION, "--path", folder, "--device", "cpu"]
        bare = [sys.executable, "-c", BARE, name, QUESTION]
        return [Start(_seconds(command), _seconds(bare)) for _ in range(rounds)]


def _three_images(job: tuple[str, str]) -> str:
    """Makes the index in a folder; the name by which sentence-transformers knows the model."""
    from eval.bench.ingest import empty_annotations
    from ingest.pipeline import collection_specs
    from search.encoder import ClipEncoder, locate
    from search.index import Points
    from search.index.edge import EdgeIndex
    from search.records import Image

    folder, model = job
    encoder = ClipEncoder(model, device="cpu")
    images = [Image(number, "test", number, f"{number}.jpg", None, (QUESTION,)) for number in range(3)]
    specs = collection_specs(empty_annotations(images), (images, []), Path(folder), encoder, "bench")
    index = EdgeIndex(Path(folder))
    for spec in specs:
        index.create(spec)
    index.upsert(specs[0].collection, Points(images, encoder.encode_texts([QUESTION, "a zebra", "a train"])))
    index.close()
    return locate(model).name


def _seconds(command: Sequence[str]) -> float:
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = done.stderr.strip().splitlines()
        raise CocoSearchError(f"{' '.join(command[1:4])} failed: {reason[-1] if reason else done.returncode}")
    return time.perf_counter() - start


def as_json(
    engines: Sequence[tuple[Job, dict[str, list[Measured[Latency]]]]], starts: Sequence[Start]
) -> dict[str, Any]:
    return {
        "engines": [
            {
                **asdict(job),
                **{
                    name: [{**asdict(each.found), "peak_mib": each.peak_mib} for each in runs]
                    for name, runs in measured.items()
                },
            }
            for job, measured in engines
        ],
        "cold_start": [asdict(start) for start in starts],
    }


def engines_table(job: Job, measured: dict[str, list[Measured[Latency]]]) -> str:
    """Medians of the rounds, and how much longer each takes than the embedded engine."""
    ours = measured["embedded"]
    way = "exact" if job.exact else "HNSW" if ours[0].found.indexed else "HNSW asked for, but too few: a scan"
    lines = [
        f"{job.points:,} points of {job.dim} dimensions, {way}; {job.queries} queries one at a time, "
        f"{LIMIT} hits; {len(ours)} rounds",
        f"{'':<12}{'median ms':>10}{'p95 ms':>9}{'no payload':>12}{'this / embedded':>17}{'found':>8}{'fill s':>8}"
        f"{'build s':>9}{'peak MiB':>10}",
    ]
    for name, runs in measured.items():
        median = _median(runs, lambda found: found.median_ms)
        ratio = statistics.median(
            this.found.median_ms / mine.found.median_ms for this, mine in zip(runs, ours, strict=True)
        )
        lines.append(
            f"{name:<12}{median:>10.2f}{_median(runs, lambda found: found.p95_ms):>9.2f}"
            f"{_median(runs, lambda found: found.bare_ms):>12.2f}{ratio:>17.1f}"
            f"{_median(runs, lambda found: 100 * found.found):>7.1f}%"
            f"{_median(runs, lambda found: found.fill_seconds):>8.1f}"
            f"{_median(runs, lambda found: found.build_seconds):>9.1f}{median_peak(runs):>10.0f}"
        )
    whole, bare = (_median(ours, each) for each in (lambda found: found.median_ms, lambda found: found.bare_ms))
    lines.append(f"of the embedded engine's time {100 * bare / whole:.0f}% is the search, the rest payloads")
    return "\n".join(lines)


def start_table(model: str, starts: Sequence[Start]) -> str:
    """Medians, and what the command adds to its model."""
    command = statistics.median(start.command for start in starts)
    bare = statistics.median(start.bare for start in starts)
    ratio = statistics.median(start.command / start.bare for start in starts)
    return "\n".join(
        [
            f"cold start with {model}, {len(starts)} rounds in turn",
            f"python -m search text                  {command:>7.2f} s",
            f"importing and loading the model alone  {bare:>7.2f} s",
            f"the command / the model alone          {ratio:>7.2f}",
        ]
    )


def _median(runs: Sequence[Measured[Latency]], of: Callable[[Latency], float]) -> float:
    return statistics.median(of(each.found) for each in runs)
