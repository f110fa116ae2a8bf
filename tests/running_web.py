"""Run `python -m search serve` for tests, on a small index whose content the tests know."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np

from search.encoder.clip import ClipEncoder
from search.index.edge.index import EdgeIndex
from search.records import Caption, Vectors

HOSTILE = '</script><img src="/icon.svg" onerror="document.title=1">&amp; 100%'
PHOTOS = 60
PUBLIC = "https://photos.example.org"  # the address of the proxies in docs/web.md
LARGE_ID = 2**53 + 1  # JavaScript would round it; the id of the last photo


@dataclass(frozen=True)
class Web:
    """A running server, its index and photos, and the stored vectors, read before it was started."""

    address: str
    process: subprocess.Popen[bytes]
    index: Path
    photos: Path
    encoder: ClipEncoder
    images: dict[int, Vectors]
    captions: dict[int, tuple[Caption, Vectors]]

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.address, timeout=60)

    def nearest_images(self, vector: Vectors, without: tuple[int, ...] = ()) -> list[int]:
        """Return the image ids by descending cosine, from an exact product."""
        scores = {key: float(stored @ vector) for key, stored in self.images.items() if key not in without}
        return sorted(scores, key=lambda image_id: (-scores[image_id], image_id))


@contextmanager
def serving(index: Path, *options: str) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Run a server on a free port; yield its address and process, and stop it at the end if it still runs."""
    where = ["--path", str(index), "--port", "0", "--public-url", PUBLIC]
    command = [sys.executable, "-m", "search", "serve", *where, *options]
    with tempfile.TemporaryFile() as log, subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        try:
            line = b""
            for line in process.stderr:
                if b" is at http://" in line:
                    break
                log.write(line)
            else:
                log.seek(0)
                raise AssertionError(f"no server: {log.read().decode()}")
            yield line.decode().split(" is at ")[1].split()[0], process
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait(timeout=30)
            process.stderr.read()


def make_index(folder: Path, photo_set: Path, model: Path) -> Path:
    """Return an index of the photo set; one of its captions tries to be a script, and the last photo has `LARGE_ID`."""
    from ingest.__main__ import run
    from ingest.options import Embedding, NewCollections, Output, Selection

    annotations = json.loads((photo_set / "dataset_coco.json").read_text())
    annotations["images"][1]["sentences"][0]["raw"] = HOSTILE
    annotations["images"][-1]["cocoid"] = LARGE_ID
    (photo_set / "dataset_coco.json").write_text(json.dumps(annotations))
    output = Output(path=folder / "index")
    run(
        photo_set / "images",
        Selection(),
        Embedding(model=str(model)),
        NewCollections(),
        output,
        photo_set / "dataset_coco.json",
    )
    return folder / "index"


def stored(index: Path) -> tuple[dict[int, Vectors], dict[int, tuple[Caption, Vectors]]]:
    """Return the content of the two collections: vectors by image id, captions and vectors by caption id."""
    edge = EdgeIndex(index)
    images: dict[int, Vectors] = {}
    captions: dict[int, tuple[Caption, Vectors]] = {}
    for kind in ("images", "captions"):
        for batch in edge.scan(f"coco_{kind}", vectors=True):
            assert batch.vectors is not None
            for record, vector in zip(batch.records, np.asarray(batch.vectors), strict=True):
                if isinstance(record, Caption):
                    captions[record.id] = record, vector
                else:
                    images[record.id] = vector
    edge.close()
    return images, captions
