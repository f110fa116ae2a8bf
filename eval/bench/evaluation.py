"""Measure the time for exact ranks, compared with the usual method and eccv-caption, and for their intervals."""

from __future__ import annotations

import json
import statistics
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import resources, util
from typing import Any

import numpy as np

from eval.bench import vectors
from eval.bench.measure import Measured, in_turn, median_peak
from eval.metrics import CUTOFFS, Ranks
from eval.protocol import Ids, Side, Task, both_tasks
from eval.ranks.oracle import oracle_ranks
from eval.stats import intervals
from search.errors import EvaluationError
from search.index import Where
from search.records import Vectors

COCO = (5000, 5)  # images, and captions of each, that eccv-caption evaluates
RESAMPLES = 1000
QUERIES_PER_BLOCK = 500
ROUNDING = 0.05  # percent of queries whose rank may differ, since two products may sum in different orders


@dataclass(frozen=True, slots=True)
class Job:
    """The shape of the vectors, which are the same for all contestants."""

    images: int
    captions_per_image: int
    dim: int


@dataclass(frozen=True, slots=True)
class Result:
    """Seconds, and recall@1, 5 and 10 in percent: image-to-text, then text-to-image. The intervals have no recall."""

    seconds: float
    recalls: tuple[float, ...]


def contestants(job: Job) -> list[Callable[[Job], Result]]:
    """Return the contestants; eccv-caption is one if it is installed and the numbers are those that it evaluates."""
    known = (job.images, job.captions_per_image) == COCO and util.find_spec("eccv_caption")
    return [oracle, full_matrix, *([eccv_caption] if known else []), bootstrap]


def compare(job: Job, rounds: int) -> dict[str, list[Measured[Result]]]:
    """Measure every contestant, in turn.

    Raises:
        EvaluationError: two contestants find different recalls.
        CocoSearchError: a contestant failed.
    """
    measured = in_turn(contestants(job), job, rounds)
    ours = measured["oracle"][0].result.recalls
    for name, runs in measured.items():
        theirs = runs[0].result.recalls
        if theirs and not np.allclose(ours, theirs, rtol=0, atol=ROUNDING):
            raise EvaluationError(
                f"the oracle finds recalls of {ours} percent, {name} of {theirs}: one of them is wrong"
            )
    return measured


def as_json(measured: Mapping[str, Sequence[Measured[Result]]]) -> dict[str, Any]:
    return {
        name: [{**asdict(each.result), "peak_mib": each.peak_mib} for each in runs] for name, runs in measured.items()
    }


def table(job: Job, measured: Mapping[str, Sequence[Measured[Result]]]) -> str:
    """Return a table of medians, with each contestant's time divided by the oracle's."""
    ours = measured["oracle"]
    recalls = ours[0].result.recalls
    lines = [
        f"{job.images:,} images, {job.images * job.captions_per_image:,} captions of {job.dim} dimensions, both "
        f"directions; {len(ours)} rounds in turn; medians",
        f"recall@1 {recalls[0]:.1f}% image-to-text, {recalls[len(CUTOFFS)]:.1f}% text-to-image, for all of them",
        f"{'':<16}{'seconds':>10}{'peak MiB':>10}{'this / oracle':>15}",
    ]
    for name, runs in measured.items():
        ratios = [this.result.seconds / oracles.result.seconds for this, oracles in zip(runs, ours, strict=True)]
        seconds = statistics.median(each.result.seconds for each in runs)
        ratio = f"{statistics.median(ratios):.2f}" if runs[0].result.recalls else ""
        lines.append(f"{name:<16}{seconds:>10.2f}{median_peak(runs):>10.0f}{ratio:>15}")
    first = ", ".join(map(str, CUTOFFS))
    notes = {
        "full_matrix": "all scores at once, and an argsort of each row",
        "eccv_caption": f"recall@{first} only, from lists of the first {max(CUTOFFS)}; making them is included",
        "bootstrap": f"the intervals of both directions, {RESAMPLES:,} resamples of existing ranks",
    }
    return "\n".join(lines + [f"{name}: {note}" for name, note in notes.items() if name in measured])


def oracle(job: Job) -> Result:
    """Run `eval.ranks.oracle`: all ranks, with near ties resolved in float64."""
    tasks = _tasks(job)
    start = time.perf_counter()
    results = [oracle_ranks(task) for task in tasks]
    recalls = _recalls(*(result.ranks for result in results))
    return Result(time.perf_counter() - start, recalls)


def full_matrix(job: Job) -> Result:
    """Find all ranks as evaluation scripts have done since VSE++: every score in one matrix, every row sorted."""
    image_vectors, caption_vectors, image_of = _vectors(job)
    start = time.perf_counter()
    scores = image_vectors @ caption_vectors.T
    to_text = [1 + int(np.argmax(image_of[np.argsort(-row)] == image)) for image, row in enumerate(scores)]
    to_image = [1 + int(np.argmax(np.argsort(-row) == image)) for image, row in zip(image_of, scores.T, strict=True)]
    recalls = _recalls(np.array(to_text), np.array(to_image))
    return Result(time.perf_counter() - start, recalls)


def eccv_caption(job: Job) -> Result:
    """Compute COCO's recalls by eccv-caption from lists of the first ten, including the time to make the lists."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # it recommends ujson
        from eccv_caption import Metrics
    image_ids, caption_ids = _coco_ids()
    judge = Metrics()
    image_vectors, caption_vectors, _ = _vectors(job)
    start = time.perf_counter()
    metrics: dict[str, Any] = judge.compute_all_metrics(
        _first_ids(image_vectors, caption_vectors, image_ids, caption_ids),
        _first_ids(caption_vectors, image_vectors, caption_ids, image_ids),
        target_metrics=("coco_5k_recalls",),
        Ks=CUTOFFS,
        verbose=False,
    )
    seconds = time.perf_counter() - start
    return Result(seconds, tuple(100 * float(metrics[f"coco_5k_r{k}"][way]) for way in ("i2t", "t2i") for k in CUTOFFS))


def bootstrap(job: Job) -> Result:
    """Run `eval.stats.intervals` on the ranks of both directions, which are computed before the measurement."""
    tasks = _tasks(job)
    results = [oracle_ranks(task) for task in tasks]
    images = np.arange(job.images), tasks[1].positives
    start = time.perf_counter()
    for result, image_of in zip(results, images, strict=True):
        intervals(result.ranking, image_of, resamples=RESAMPLES)
    return Result(time.perf_counter() - start, ())


def _recalls(*of_directions: Ranks) -> tuple[float, ...]:
    return tuple(float(100 * np.mean(ranks <= k)) for ranks in of_directions for k in CUTOFFS)


def _vectors(job: Job) -> tuple[Vectors, Vectors, Ids]:
    """Return the vectors of images and captions, and the row of each caption's image."""
    image_of = np.repeat(np.arange(job.images), job.captions_per_image)
    image_vectors = vectors.images(job.images, job.dim)
    return image_vectors, vectors.captions_of(image_vectors, image_of), image_of


def _tasks(job: Job) -> tuple[Task, Task]:
    image_vectors, caption_vectors, image_of = _vectors(job)
    return both_tasks(
        Side("images", np.arange(len(image_vectors)), image_vectors, Where()),
        Side("captions", np.arange(len(caption_vectors)), caption_vectors, Where()),
        image_of,
    )


def _coco_ids() -> tuple[Ids, Ids]:
    """Return the ids of the images and captions of the Karpathy test split, five captions of each image, in order."""
    file = resources.files("eccv_caption") / "data" / "original_image_to_caption.json"
    captions_of = json.loads(file.read_text())
    return np.array(list(map(int, captions_of))), np.array([int(each) for ids in captions_of.values() for each in ids])


def _first_ids(queries: Vectors, gallery: Vectors, query_ids: Ids, gallery_ids: Ids) -> dict[int, list[int]]:
    """Return the ids of the ten best items of each query, best first."""
    kept, lists = max(CUTOFFS), dict[int, list[int]]()
    for start in range(0, len(queries), QUERIES_PER_BLOCK):
        block = slice(start, start + QUERIES_PER_BLOCK)
        scores = queries[block] @ gallery.T
        best = np.argpartition(-scores, kept, axis=1)[:, :kept]
        order = np.take_along_axis(best, np.argsort(-np.take_along_axis(scores, best, 1), axis=1), 1)
        lists.update(zip(query_ids[block].tolist(), gallery_ids[order].tolist(), strict=True))
    return lists
