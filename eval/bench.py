"""`python -m eval bench`: speed and memory beside the alternatives, in one run, as ratios.

Machines differ and drift, so what counts is the ratio between two things measured in turn on the same inputs. Each
measurement runs in a process of its own, whose peak memory it is.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Annotated, Any

import typer

from search import command
from search.command import JsonOption
from search.errors import CocoSearchError

app = command.application("Measure speed and memory beside the alternatives.")


@dataclass(frozen=True, slots=True)
class Job:
    """What the contestants get: the same files, model, device and number type."""

    folder: str
    files: tuple[str, ...]
    model: str
    device: str
    dtype: str
    batch_size: int | None
    workers: int


@dataclass(frozen=True, slots=True)
class Measured:
    """One measurement: inputs a second, and the largest resident memory in MiB."""

    name: str
    rate: float
    peak_mib: float


@app.callback()
def callback() -> None:
    """Keeps `ingest` a command of its own while it is the only one."""


@app.command()
def ingest(
    images: Annotated[Path, typer.Option(help="A folder of photos; searched for .jpg files, repeated if need be")],
    model: Annotated[str, typer.Option(help="A sentence-transformers model, name or folder")] = "clip-ViT-B-32",
    count: Annotated[int, typer.Option(min=1, help="How many photos each contestant gets")] = 300,
    rounds: Annotated[int, typer.Option(min=1, help="How often each is measured, in turn")] = 3,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda:0 or mps")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32, float16 or bfloat16")] = "auto",
    batch_size: Annotated[int | None, typer.Option(min=1, help="Photos per forward pass")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Readers of photos (default: one per processor)")] = None,
    as_json: JsonOption = False,
) -> None:
    """Our pipeline, the plain encode loop, the forward pass alone, decoding alone, and captions, on the same inputs."""
    found = sorted(file.relative_to(images).as_posix() for file in images.rglob("*.jpg"))
    if not found:
        raise CocoSearchError(f"no .jpg files below {images}")
    from search.encoder import locate

    locate(model)  # a wrong name shows before processes are started
    files = tuple(islice(cycle(found), count))
    readers = workers or os.cpu_count() or 1
    job = Job(str(images), files, model, device, dtype, batch_size, readers)
    contestants = (pipeline, plain_loop, forward_alone, decoding_alone, captions)
    measured = [measure(contestant, job) for _ in range(rounds) for contestant in contestants]
    by_name = {
        contestant.__name__: [each for each in measured if each.name == contestant.__name__]
        for contestant in contestants
    }
    if as_json:
        typer.echo(json.dumps({name: [asdict(each) for each in runs] for name, runs in by_name.items()}, indent=1))
        return
    typer.echo(f"{count:,} photos, {rounds} rounds in turn; model {model}; {readers} readers; medians")
    typer.echo(f"{'':<18}{'a second':>10}{'peak MiB':>10}{'pipeline / this':>17}")
    for name, runs in by_name.items():
        ratios = [ours.rate / other.rate for ours, other in zip(by_name["pipeline"], runs, strict=True)]
        ratio = f"{statistics.median(ratios):.2f}" if name != "captions" else ""
        peak = statistics.median(each.peak_mib for each in runs)
        typer.echo(f"{name:<18}{statistics.median(each.rate for each in runs):>10.1f}{peak:>10.0f}{ratio:>17}")


def measure(contestant: Callable[[Job], float], job: Job) -> Measured:
    """Runs a contestant, which returns inputs a second, in a process of its own.

    Raises:
        CocoSearchError: it failed there.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_measure_in_child, args=(contestant, job, sender))
    process.start()
    sender.close()
    try:
        rate, peak = receiver.recv()
    except EOFError:
        raise CocoSearchError(f"{contestant.__name__} failed: see above") from None
    finally:
        process.join()
    return Measured(contestant.__name__, rate, peak)


def _measure_in_child(contestant: Callable[[Job], float], job: Job, sender: Any) -> None:
    rate = contestant(job)
    sender.send((rate, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))


def pipeline(job: Job) -> float:
    """Photos a second through `python -m ingest run`'s own pipeline into an embedded index, the HNSW build left out."""
    from ingest.pipeline import Plan, collection_specs, ingest
    from ingest.summary import Summary
    from search.index.edge import EdgeIndex
    from search.records import Image

    encoder = _encoder(job)
    images = [Image(number, "test", number, file, None, ("",)) for number, file in enumerate(job.files)]
    with tempfile.TemporaryDirectory() as folder:
        index = EdgeIndex(Path(folder))
        specs = collection_specs(_annotations(images), (images, []), Path(job.folder), encoder, "bench")
        plan = Plan(job.workers, "cuda" in encoder.device)
        summary = Summary()
        start = time.perf_counter()
        ingest(index, specs, (images, []), [encoder], plan, summary)
        seconds = time.perf_counter() - start - summary.busy["build the index"]
        index.close()
    if summary.failures:
        raise CocoSearchError(f"{summary.failures[0].file}: {summary.failures[0].reason}")
    return len(images) / seconds


def plain_loop(job: Job) -> float:
    """Photos a second through `SentenceTransformer.encode` over opened images, as its documentation shows it."""
    import PIL.Image
    from sentence_transformers import SentenceTransformer

    from search.encoder import choose_device, choose_dtype, locate

    device = choose_device(job.device)
    model = SentenceTransformer(locate(job.model).name, device=str(device), processor_kwargs={"backend": "pil"})
    model.to(choose_dtype(job.dtype, device))
    paths = [Path(job.folder) / file for file in job.files]
    model.encode([PIL.Image.open(paths[0])])
    start = time.perf_counter()
    for first in range(0, len(paths), 32):
        model.encode([PIL.Image.open(path) for path in paths[first : first + 32]], batch_size=32)
    return len(paths) / (time.perf_counter() - start)


def forward_alone(job: Job) -> float:
    """Photos a second through the model, prepared beforehand: what an endlessly fast reader would give."""
    import numpy as np

    encoder = _encoder(job)
    if encoder.preparation is None:
        raise CocoSearchError(
            f"{encoder.name} prepares photos in a way of its own: its forward pass cannot be fed alone"
        )
    shape = (encoder.batch_size, *encoder.preparation.shape)
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    encoder.start(pixels).vectors()
    passes = -(-len(job.files) // len(pixels))
    start = time.perf_counter()
    waiting = encoder.start(pixels)
    for _ in range(passes - 1):
        following = encoder.start(pixels)
        waiting.vectors()
        waiting = following
    waiting.vectors()
    return passes * len(pixels) / (time.perf_counter() - start)


def decoding_alone(job: Job) -> float:
    """Photos a second read, decoded and resized, with no model to wait for."""
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
    """Captions a second, of COCO's usual length."""
    encoder = _encoder(job)
    texts = [f"A man riding wave number {number} on top of a surfboard." for number in range(len(job.files))]
    encoder.encode_texts(texts[:8])
    start = time.perf_counter()
    for first in range(0, len(texts), encoder.texts_at_once):
        encoder.encode_texts(texts[first : first + encoder.texts_at_once])
    return len(texts) / (time.perf_counter() - start)


def _encoder(job: Job) -> Any:
    from search.encoder import ClipEncoder

    return ClipEncoder(job.model, device=job.device, dtype=job.dtype, batch_size=job.batch_size)


def _annotations(images: Sequence[Any]) -> Any:
    from ingest.karpathy import Annotations

    return Annotations(Path("bench"), "bench", "", tuple(images), ())
