"""Render the demo's data set: captioned scenes in the layout of MS COCO with Karpathy's `dataset_coco.json`."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from ingest.demo.scenes.captions import captions, words
from ingest.demo.scenes.drawing import paint
from ingest.demo.scenes.world import Scene, Split, stream
from search.files import replace_file, replacing
from search.processes import processors

ANNOTATIONS = "dataset_coco.json"
DATASET = "scenes"
OTHERS = 30
VERSION = 1  # increment it if a change makes a scene look different, so that old pictures are drawn again
FOLDERS: dict[Split, str] = {"train": "train2014", "restval": "val2014", "val": "val2014", "test": "val2014"}
PICTURES_PER_JOB = 16


def render(
    directory: Path,
    images: int = 300,
    seed: int = 0,
    *,
    others: int = OTHERS,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Draw a test split of `images` scenes, and `others` of each of the other splits, with five captions each.

    The same arguments give the same annotations to the byte on every machine. Existing pictures are kept, so a second
    call completes a render that was killed; the annotation file is written last.

    Args:
        workers: the number of processes (default: one per processor, at most 8).
        progress: called with the number of pictures drawn and their total.

    Returns:
        The path of the annotation file in `directory`; the pictures are in its `images/val2014` and `images/train2014`.

    Raises:
        ValueError: a number of scenes is negative.
        OSError: a file cannot be written.
    """
    scenes = list(stream(seed, {"test": images, "val": others, "restval": others, "train": others}))
    folder = directory / "images"
    for name in sorted(set(FOLDERS.values())):
        (folder / name).mkdir(parents=True, exist_ok=True)
    missing = [scene for scene in scenes if not _is_drawn(folder / picture(scene), scene)]
    done = len(scenes) - len(missing)
    jobs = [(scene, folder / picture(scene)) for scene in missing]
    for count in _draw_all(jobs, workers or min(8, processors())):
        done += count
        if progress is not None:
            progress(done, len(scenes))
    annotations = directory / ANNOTATIONS
    content = {"images": [_entry(scene, order) for order, scene in enumerate(scenes)], "dataset": DATASET}
    replace_file(annotations, json.dumps(content))
    return annotations


def picture(scene: Scene) -> Path:
    """Return the path of a scene's picture in the folder of images: `val2014/COCO_val2014_000000000042.jpg`."""
    folder = FOLDERS[scene.split]
    return Path(folder) / f"COCO_{folder}_{scene.number:012d}.jpg"


def _entry(scene: Scene, order: int) -> dict[str, Any]:
    """Return one entry of the annotation file, with Karpathy's keys."""
    sentences = [
        {"tokens": words(text), "raw": text, "imgid": order, "sentid": scene.number * 10 + position}
        for position, text in enumerate(captions(scene))
    ]
    return {
        "filepath": FOLDERS[scene.split],
        "sentids": [sentence["sentid"] for sentence in sentences],
        "filename": picture(scene).name,
        "imgid": order,
        "split": scene.split,
        "sentences": sentences,
        "cocoid": scene.number,
    }


def _mark(scene: Scene) -> bytes:
    """Return the JPEG comment that identifies the scene of a picture, so that a picture of another one is not kept."""
    return hashlib.blake2b(f"{VERSION} {scene!r}".encode(), digest_size=16).hexdigest().encode()


def _is_drawn(path: Path, scene: Scene) -> bool:
    try:
        with Image.open(path) as image:
            return image.info.get("comment") == _mark(scene)
    except (FileNotFoundError, UnidentifiedImageError):
        return False


def _draw_all(jobs: list[tuple[Scene, Path]], workers: int) -> Iterable[int]:
    """Draw in parallel if that is faster; yield the number of pictures drawn each time."""
    groups = [jobs[at : at + PICTURES_PER_JOB] for at in range(0, len(jobs), PICTURES_PER_JOB)]
    if workers < 2 or len(jobs) < 100:  # starting a process takes longer than drawing a few pictures
        yield from map(_draw, groups)
        return
    with multiprocessing.get_context("spawn").Pool(workers) as pool:  # a fork would copy locks that threads hold
        yield from pool.imap_unordered(_draw, groups)


def _draw(jobs: list[tuple[Scene, Path]]) -> int:
    for scene, path in jobs:
        with replacing(path, sync=False) as partial:
            paint(scene).save(partial, "JPEG", quality=88, comment=_mark(scene))
    return len(jobs)
