"""Measure how many requests a second `python -m search serve` answers, and how many texts
`python -m search batch` answers, beside the engine and the HTTP layer alone."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from eval.bench import vectors
from eval.bench.measure import measure
from eval.bench.overhead import IMAGES, cache_of, seconds_of, serving

CAPTIONS_PER_IMAGE = 5
PHOTOS = 64  # files, which the images share
PAGE = 36  # results, as many as the page shows
TEXTS = 10_000  # lines of a batch
WARM_UP_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Load:
    """What one kind of request at one number of connections measured; the times are milliseconds of one request.

    `refused`: the number of answers with another status than 200, which do not count as answers.
    """

    request: str
    connections: int
    per_second: float
    p50_ms: float
    p99_ms: float
    refused: int


@dataclass(frozen=True, slots=True)
class Round:
    """The engine alone (one thread that queries for the images of a page), a batch, and all loads, measured in turn.

    The batch is a whole command, its start included, which answers `TEXTS` lines with ten hits each.
    """

    engine_per_second: float
    batch_per_second: float
    loads: list[Load]


Request = Callable[[int], bytes]


def measure_serve(model: str, connections: Sequence[int], seconds: float, rounds: int) -> list[Round]:
    """Measure on an index of `IMAGES` images and their captions with random vectors, served on the CPU.

    The client shares the processors with the server.

    Raises:
        CocoSearchError: the model does not exist, or the server does not start.
    """
    measured = []
    with TemporaryDirectory(prefix="bench-") as folder:
        measure(_make_index, (folder, model))
        for _ in range(rounds):
            engine = measure(_engine, folder).result
            with serving(folder) as address:
                loads = [
                    asyncio.run(_load(address, name, request, count, seconds))
                    for name, request in _requests(address).items()
                    for count in connections
                ]
            batch = _batch(folder)  # after the page, which has cached the text tower
            measured.append(Round(engine, batch, loads))
    return measured


def table(model: str, rounds: Sequence[Round]) -> str:
    """Return a table of medians over the rounds, with each rate divided by those of the engine and of `/healthz`."""

    def median(values: Sequence[float]) -> float:
        return float(np.median(values))

    engine = median([each.engine_per_second for each in rounds])
    batch = median([each.batch_per_second for each in rounds])
    loads = [[each.loads[row] for each in rounds] for row in range(len(rounds[0].loads))]
    rates = {(load[0].request, load[0].connections): median([each.per_second for each in load]) for load in loads}
    lines = [
        f"{IMAGES:,} images, {IMAGES * CAPTIONS_PER_IMAGE:,} captions, model {model}, {len(rounds)} rounds; medians",
        f"the engine alone answers {engine:,.0f} queries a second",
        f"python -m search batch answers {batch:,.0f} texts a second, {batch / engine:.2f} of the engine",
        f"{'request':<10}{'connections':>12}{'a second':>10}{'p50':>10}{'p99':>10}{'refused':>9}"
        f"{'/ engine':>10}{'/ healthz':>10}",
    ]
    for load in loads:
        request, connections = load[0].request, load[0].connections
        rate = rates[request, connections]
        lines.append(
            f"{request:<10}{connections:>12}{rate:>10,.0f}"
            f"{median([each.p50_ms for each in load]):>7.1f} ms{median([each.p99_ms for each in load]):>7.0f} ms"
            f"{sum(each.refused for each in load):>9}"
            f"{rate / engine:>10.2f}{rate / (rates['healthz', connections] or 1):>10.2f}"
        )
    return "\n".join(lines)


def as_json(rounds: Sequence[Round]) -> list[dict[str, Any]]:
    return [asdict(each) for each in rounds]


def _requests(address: str) -> dict[str, Request]:
    """Return for each kind of request its bytes, by a running number."""
    host = urlsplit(address).netloc

    def get(path: str) -> bytes:
        return f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()

    def search(part: dict[str, object]) -> bytes:
        body = json.dumps({"parts": [part], "k": PAGE}).encode()
        head = f"POST /api/search HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body

    return {
        "healthz": lambda _: get("/healthz"),
        "text": lambda number: search({"text": _sentence(number, 0)}),
        "image id": lambda number: search({"image_id": number % IMAGES}),
        "picture": lambda number: get(f"/pictures/{number % IMAGES}?size=360"),
    }


async def _load(address: str, name: str, request: Request, connections: int, seconds: float) -> Load:
    start = time.perf_counter() + WARM_UP_SECONDS
    numbers = iter(range(10**9))
    answers: list[tuple[float, bool]] = []  # seconds, and whether the status was 200

    async def client() -> None:
        to = urlsplit(address)
        reader, writer = await asyncio.open_connection(to.hostname, to.port)
        while (began := time.perf_counter()) < start + seconds:
            writer.write(request(next(numbers)))
            head = await reader.readuntil(b"\r\n\r\n")
            length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
            await reader.readexactly(int(length))
            end = time.perf_counter()
            if start <= end < start + seconds:
                answers.append((end - began, head.startswith(b"HTTP/1.1 200 ")))
        writer.close()
        await writer.wait_closed()

    await asyncio.gather(*(client() for _ in range(connections)))
    times = [1000 * duration for duration, good in answers if good]
    p50, p99 = np.quantile(times, [0.5, 0.99]).tolist() if times else (np.nan, np.nan)
    return Load(name, connections, len(times) / seconds, p50, p99, len(answers) - len(times))


def _engine(folder: str) -> float:
    """Return the queries a second of one thread."""
    from search.index import SearchParams
    from search.index.edge.index import EdgeIndex

    index = EdgeIndex(Path(folder))
    queries = vectors.images(200, index.spec("bench_images").dim)
    index.query("bench_images", queries[:5], PAGE)
    start = time.perf_counter()
    for query in queries:
        index.query("bench_images", query[np.newaxis], PAGE, SearchParams(payload=False))
    seconds = time.perf_counter() - start
    index.close()
    return len(queries) / seconds


def _batch(folder: str) -> float:
    """Return how many texts a second a whole command answers, its start included."""
    file = Path(folder) / "texts.txt"
    file.write_text("".join(f"{_sentence(number, 0)}\n" for number in range(TEXTS)))
    command = [sys.executable, "-m", "search", "batch", str(file), "--path", folder, "--device", "cpu"]
    return TEXTS / seconds_of(command, cache_of(folder))


def _make_index(job: tuple[str, str]) -> None:
    from PIL import Image as Photo

    from eval.bench.ingest import empty_annotations
    from ingest.annotations import Chosen
    from ingest.specs import collection_specs
    from search.encoder.clip import ClipEncoder
    from search.index import Points
    from search.index.edge.index import EdgeIndex
    from search.records import Caption, Image

    folder, model = Path(job[0]), job[1]
    noise = np.random.default_rng(0)
    for number in range(PHOTOS):
        pixels = noise.integers(0, 256, (60, 80, 3), dtype=np.uint8)
        Photo.fromarray(pixels).resize((640, 480)).save(folder / f"{number}.jpg", quality=90)
    encoder = ClipEncoder(model, device="cpu")
    texts = [tuple(_sentence(image, position) for position in range(CAPTIONS_PER_IMAGE)) for image in range(IMAGES)]
    images = [Image(row, "test", row, f"{row % PHOTOS}.jpg", None, texts[row]) for row in range(IMAGES)]
    captions = [
        Caption(row * CAPTIONS_PER_IMAGE + position, row, "test", position, text, None)
        for row in range(IMAGES)
        for position, text in enumerate(texts[row])
    ]
    image_vectors = vectors.images(IMAGES, encoder.dim)
    caption_vectors = vectors.captions_of(image_vectors, np.repeat(np.arange(IMAGES), CAPTIONS_PER_IMAGE))
    specs = collection_specs(empty_annotations(images), Chosen(images, captions), folder, encoder, "bench")
    index = EdgeIndex(folder)
    for spec, points in zip(specs, (Points(images, image_vectors), Points(captions, caption_vectors)), strict=True):
        index.create(spec)
        for first in range(0, len(points), 1000):
            index.upsert(spec.collection, points.only(range(first, min(first + 1000, len(points)))))
        index.optimize(spec.collection)
    index.close()


def _sentence(number: int, position: int) -> str:
    return f"A man riding wave number {number} on top of a surfboard, seen {position} times."
