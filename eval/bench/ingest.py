"""Measure how fast photos and captions are ingested, compared with the plain encode loop and with single stages."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.bench.measure import Measured, in_turn, median_peak
from search.errors import CocoSearchError


@dataclass(frozen=True, slots=True)
class Job:
    """The files, model, device and dtype, which are the same for all contestants."""

    folder: str
    files: tuple[str, ...]
    model: str
    device: str
    dtype: str
    batch_size: int | None
    workers: int


def compare(job: Job, rounds: int) -> dict[str, list[Measured[float]]]:
    """Measure the inputs per second of every contestant, in turn.

    Raises:
        CocoSearchError: the model does not exist, or a contestant failed.
    """
    from search.encoder.hub import locate

    locate(job.model)  # raises for a wrong name before processes are started
    return in_turn((pipeline, plain_loop, forward_alone, decoding_alone, captions), job, rounds)


def as_json(measured: Mapping[str, Sequence[Measured[float]]]) -> dict[str, Any]:
    return {
        name: [{"name": name, "rate": each.result, "peak_mib": each.peak_mib} for each in runs]
        for name, runs in measured.items()
    }


def table(job: Job, measured: Mapping[str, Sequence[Measured[float]]]) -> str:
    """Return a table of medians, with the pipeline's rate divided by each of the others."""
    rounds = len(measured["pipeline"])
    lines = [
        f"{len(job.files):,} photos, {rounds} rounds in turn; model {job.model}; {job.workers} readers; medians",
        f"{'':<18}{'a second':>10}{'peak MiB':>10}{'pipeline / this':>17}",
    ]
    for name, runs in measured.items():
        ratios = [ours.result / other.result for ours, other in zip(measured["pipeline"], runs, strict=True)]
        ratio = f"{statistics.median(ratios):.2f}" if name != "captions" else ""
        rate = statistics.median(each.result for each in runs)
        lines.append(f"{name:<18}{rate:>10.1f}{median_peak(runs):>10.0f}{ratio:>17}")
    return "\n".join(lines)


def pipeline(job: Job) -> float:
    """Return photos per second of the pipeline of `python -m ingest run`, without building the HNSW index."""
    from ingest.annotations import Chosen
    from ingest.pipeline import ingest
    from ingest.specs import collection_specs
    from ingest.stages.run import RunOptions
    from ingest.summary import Summary
    from search.index.edge.index import EdgeIndex
    from search.records import Image

    encoder = _encoder(job)
    images = [Image(number, "test", number, file, None, ("",)) for number, file in enumerate(job.files)]
    with tempfile.TemporaryDirectory() as folder:
        index = EdgeIndex(Path(folder))
        specs = collection_specs(empty_annotations(images), Chosen(images, []), Path(job.folder), encoder, "bench")
        summary = Summary()
        start = time.perf_counter()
        ingest(index, specs, Chosen(images, []), [encoder], RunOptions(job.workers), summary)
        seconds = time.perf_counter() - start - summary.busy["build the index"]
        index.close()
    if summary.failures:
        raise CocoSearchError(f"{summary.failures[0].file}: {summary.failures[0].reason}")
    return len(images) / seconds


def plain_loop(job: Job) -> float:
    """Return photos per second of `SentenceTransformer.encode` on opened images, as its documentation shows it."""
    import PIL.Image
    from sentence_transformers import SentenceTransformer

    from search.encoder.device import choose_device, choose_dtype
    from search.encoder.hub import locate

    device = choose_device(job.device)
    source, options = locate(job.model), {"backend": "pil"}
    model = SentenceTransformer(source.name, revision=source.revision, device=str(device), processor_kwargs=options)
    model.to(choose_dtype(job.dtype, device))
    paths = [Path(job.folder) / file for file in job.files]
    model.encode([PIL.Image.open(paths[0])])
    start = time.perf_counter()
    for first in range(0, len(paths), 32):
        model.encode([PIL.Image.open(path) for path in paths[first : first + 32]], batch_size=32)
    return len(paths) / (time.perf_counter() - start)


def forward_alone(job: Job) -> float:
    """Return photos per second of the model on prepared photos: the limit for an infinitely fast reader."""
    import numpy as np

    encoder = _encoder(job)
    if encoder.preparation is None:
        raise CocoSearchError(
            f"{encoder.name} has its own preparation of photos, so its forward pass cannot be measured alone"
        )
    shape = (encoder.batch_size, *encoder.preparation.shape)
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    encoder.start(pixels).vectors()
    passes = -(-len(job.files) // len(pixels))
    start = time.perf_counter()
    pending = encoder.start(pixels)
    for _ in range(passes - 1):
        following = encoder.start(pixels)
        pending.vectors()
        pending = following
    pending.vectors()
    return passes * len(pixels) / (time.perf_counter() - start)


def decoding_alone(job: Job) -> float:
    """Return photos per second read, decoded and resized, without a model."""
    from ingest.photos import PhotoReader, Recipe

    encoder = _encoder(job)
    size, processes = encoder.batch_size, "cuda" in encoder.device
    recipe = Recipe(Path(job.folder), encoder.preparation)
    batches = [job.files[first : first + size] for first in range(0, len(job.files), size)]
    with PhotoReader(recipe, workers=job.workers, processes=processes, batch_size=size) as reader:
        start = time.perf_counter()
        for _ in reader.batches(batches):
            pass
        return len(job.files) / (time.perf_counter() - start)


def captions(job: Job) -> float:
    """Return captions per second, of the usual length in COCO."""
    encoder = _encoder(job)
    texts = [f"A man riding wave number {number} on top of a surfboard." for number in range(len(job.files))]
    encoder.encode_texts(texts[:8])
    start = time.perf_counter()
    for first in range(0, len(texts), encoder.texts_at_once):
        encoder.encode_texts(texts[first : first + encoder.texts_at_once])
    return len(texts) / (time.perf_counter() - start)


def _encoder(job: Job) -> Any:
    from search.encoder.clip import ClipEncoder

    return ClipEncoder(job.model, device=job.device, dtype=job.dtype, batch_size=job.batch_size)


def empty_annotations(images: Sequence[Any]) -> Any:
    """Return annotations of these images, without captions."""
    from ingest.annotations import Annotations

    return Annotations(Path("bench"), "bench", "bench", "", tuple(images), ())
