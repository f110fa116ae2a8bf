"""Measure what the command and the page add to their model: the command's cold start, the page's answer."""

from __future__ import annotations

import http.client
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

from eval.bench import vectors
from eval.bench.measure import measure
from search.errors import CocoSearchError

IMAGES = 5000
LIMIT = 10
WARM_UP = 5
LOADING_SECONDS = 300
QUERY = "a dog on a beach"
BARE = """
import sys, torch
from sentence_transformers import SentenceTransformer
SentenceTransformer(sys.argv[1], device="cpu").encode([sys.argv[2]])
"""
FLOOR = "import numpy, qdrant_edge, tokenizers, typer"


@dataclass(frozen=True, slots=True)
class Start:
    """Seconds of whole processes, from a cold start.

    `command`: `search text` with the model's text tower in the user's cache; `served`: the same, while `search serve`
    has the index open; `model`: `search text` without a cache, which loads the whole model; `bare`:
    sentence-transformers alone, encoding the same text; `floor`: Python and the libraries that any query needs;
    `python`: Python alone.
    """

    command: float
    served: float
    model: float
    bare: float
    floor: float
    python: float


@dataclass(frozen=True, slots=True)
class Page:
    """Median milliseconds, one query at a time: the page's answer to a text, the model's encoding of a text alone, and
    the page's answer to a stored image, which needs no model."""

    text_ms: float
    encode_ms: float
    by_id_ms: float


@dataclass(frozen=True, slots=True)
class Overhead:
    """One measurement of each kind per round."""

    starts: list[Start]
    pages: list[Page]


def measure_overhead(model: str, queries: int, rounds: int) -> Overhead:
    """Measure on an index of `IMAGES` images with random vectors; all on the CPU, each in its own process, in turn.

    Raises:
        CocoSearchError: the model does not exist, or a process failed.
    """
    with TemporaryDirectory(prefix="bench-") as folder:
        name = measure(_make_index, (folder, model)).result
        starts, pages = [], []
        for _ in range(rounds):
            starts.append(_start(folder, name))
            pages.append(_page(folder, model, queries))
    return Overhead(starts, pages)


def table(model: str, overhead: Overhead) -> str:
    """Return a table of medians."""
    text, encode, by_id = (
        statistics.median(getattr(page, name) for page in overhead.pages)
        for name in ("text_ms", "encode_ms", "by_id_ms")
    )
    return "\n".join(
        [
            f"{IMAGES:,} images, model {model}, {len(overhead.starts)} rounds in turn; medians",
            *(_start_row(overhead.starts, name, label) for name, label in STARTS.items()),
            f"{'a text query to the page':<52}{text:>9.1f} ms",
            f"{'encoding it alone':<52}{encode:>9.1f} ms",
            f"{'a query by stored image (needs no model)':<52}{by_id:>9.1f} ms",
            f"encoding takes {100 * encode / text:.0f}% of the page's time for a text",
        ]
    )


STARTS = {
    "command": "python -m search text, cold start",
    "served": "the same, beside python -m search serve",
    "model": "the same without a cache: the whole model is loaded",
    "bare": "sentence-transformers alone, for the same text",
    "floor": "importing the libraries that any query needs",
    "python": "python -c pass",
}


def _start_row(starts: Sequence[Start], name: str, label: str) -> str:
    seconds = statistics.median(getattr(start, name) for start in starts)
    ratio = statistics.median(getattr(start, name) / start.bare for start in starts)
    return f"{label:<52}{seconds:>9.2f} s, {ratio:.2f} of sentence-transformers alone"


def _start(folder: str, model: str) -> Start:
    command = [sys.executable, "-m", "search", "text", QUERY, "--path", folder, "--device", "cpu"]
    seconds_of(command, cache_of(folder))  # writes the text tower, if no round before this one did
    with serving(folder):
        served = seconds_of(command, cache_of(folder))
    return Start(
        command=seconds_of(command, cache_of(folder)),
        served=served,
        model=seconds_of(command, os.devnull),
        bare=seconds_of([sys.executable, "-c", BARE, model, QUERY]),
        floor=seconds_of([sys.executable, "-c", FLOOR]),
        python=seconds_of([sys.executable, "-c", "pass"]),
    )


def cache_of(folder: str) -> str:
    return f"{folder}/cache"


def seconds_of(command: Sequence[str], cache: str | None = None) -> float:
    """Return the seconds that a process takes, with `cache` as the user's cache."""
    environment = {**os.environ, **({"XDG_CACHE_HOME": cache} if cache else {})}
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise CocoSearchError(f"{' '.join(command[1:4])} failed: {_last_line(done.stderr) or done.returncode}")
    return time.perf_counter() - start


def _page(folder: str, model: str, queries: int) -> Page:
    texts = [_caption(number) for number in range(queries + WARM_UP)]
    with serving(folder) as address:
        connection = http.client.HTTPConnection(urlsplit(address).netloc)
        with closing(connection):
            text_ms = _median_ms(connection, [{"text": text} for text in texts])
            by_id_ms = _median_ms(connection, [{"image_id": number % IMAGES} for number in range(len(texts))])
    return Page(text_ms, measure(_encode, (folder, model, texts)).result, by_id_ms)


def _wait_until_ready(address: str) -> None:
    deadline = time.monotonic() + LOADING_SECONDS
    while time.monotonic() < deadline:
        with closing(http.client.HTTPConnection(urlsplit(address).netloc)) as connection:
            connection.request("GET", "/healthz")
            if json.load(connection.getresponse())["ready"]["pictures"]:
                return
        time.sleep(0.1)
    raise CocoSearchError(f"the page did not load its model in {LOADING_SECONDS} s")


@contextmanager
def serving(folder: str) -> Iterator[str]:
    """Run the page, and yield its address once the whole model is loaded."""
    command = [sys.executable, "-m", "search", "serve", "--path", folder, "--port", "0", "--device", "cpu"]
    environment = {**os.environ, "XDG_CACHE_HOME": cache_of(folder)}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        try:
            lines = []
            for line in process.stderr or ():
                lines.append(line)
                if match := re.search(r" is at (http://\S+)", line):
                    _wait_until_ready(match[1])
                    yield match[1]
                    return
            raise CocoSearchError(f"python -m search serve failed: {_last_line(''.join(lines)) or process.wait()}")
        finally:
            process.terminate()


def _median_ms(connection: http.client.HTTPConnection, parts: Sequence[dict[str, object]]) -> float:
    times = []
    for part in parts:
        body = json.dumps({"parts": [part], "k": LIMIT})
        start = time.perf_counter()
        connection.request("POST", "/api/search", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        content = answer.read()
        times.append(1000 * (time.perf_counter() - start))
        if answer.status != 200:
            raise CocoSearchError(f"the page answered {answer.status} to {part}: {content[:200]!r}")
    return statistics.median(times[WARM_UP:])


def _encode(job: tuple[str, str, Sequence[str]]) -> float:
    """Return the median milliseconds to encode one text, with the model's text tower if it has one."""
    from search.encoder.clip import ClipEncoder
    from search.encoder.lazy import cache_text_tower

    folder, model, texts = job
    os.environ["XDG_CACHE_HOME"] = cache_of(folder)
    encoder = ClipEncoder(model, device="cpu")
    tower = cache_text_tower(encoder)
    encode = tower.encode if tower else encoder.encode_texts
    times = []
    for text in texts:
        start = time.perf_counter()
        encode([text])
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times[WARM_UP:])


def _make_index(job: tuple[str, str]) -> str:
    """Fill the folder with an index, and return the model's name for sentence-transformers."""
    from eval.bench.ingest import empty_annotations
    from ingest.annotations import Chosen
    from ingest.specs import collection_specs
    from search.encoder.clip import ClipEncoder
    from search.encoder.hub import locate
    from search.index import Points
    from search.index.edge.index import EdgeIndex
    from search.records import Image

    folder, model = job
    encoder = ClipEncoder(model, device="cpu")
    images = [Image(number, "test", number, f"{number}.jpg", None, (_caption(number),)) for number in range(IMAGES)]
    specs = collection_specs(empty_annotations(images), Chosen(images, []), Path(folder), encoder, "bench")
    index = EdgeIndex(Path(folder))
    for spec in specs:
        index.create(spec)
    index.upsert(specs[0].collection, Points(images, vectors.images(IMAGES, encoder.dim)))
    index.close()
    return locate(model).name


def _caption(number: int) -> str:
    return f"A man riding wave number {number} on top of a surfboard."


def _last_line(output: str) -> str:
    return output.strip().rpartition("\n")[2]
