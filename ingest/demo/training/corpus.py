"""The training data of the tiny CLIP: scenes at its own small size, and their captions."""

from __future__ import annotations

import multiprocessing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ingest.demo.scenes.captions import captions, glimpse
from ingest.demo.scenes.drawing import paint
from ingest.demo.scenes.world import Scene, Split, stream
from search.files import replacing

CHUNK = 500


@dataclass(frozen=True)
class Corpus:
    """Pictures and words of n scenes.

    `pixels`: uint8 (n, side, side, 3); `texts`: the five captions of each scene; `glimpses`: a few words that fit it.
    """

    scenes: list[Scene]
    pixels: NDArray[np.uint8]
    texts: list[list[str]]
    glimpses: list[str]


def shrink(image: Image.Image, side: int) -> Image.Image:
    """Return the picture as the tiny CLIP's processor scales it: squeezed into a square, without cropping."""
    return image.resize((side, side), Image.Resampling.BICUBIC)


def _draw(job: tuple[list[Scene], int]) -> NDArray[np.uint8]:
    scenes, side = job
    # At this small size, smooth edges make no difference, and they take most of the time.
    return np.stack([np.asarray(shrink(paint(scene, supersample=1), side)) for scene in scenes])


def corpus(folder: Path, split: Split, count: int, side: int, seed: int, workers: int) -> Corpus:
    """Return the first scenes of a split; `workers` processes draw their pictures, which are cached in `folder`."""
    scenes = list(stream(seed, {split: count}))
    file = folder / f"{split}-{count}-{side}-{seed}.npy"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        jobs = [(scenes[at : at + CHUNK], side) for at in range(0, count, CHUNK)]
        with replacing(file, sync=False) as partial, multiprocessing.get_context("spawn").Pool(workers) as pool:
            pixels = np.lib.format.open_memmap(partial, "w+", np.uint8, (count, side, side, 3))
            for place, drawn in enumerate(pool.imap(_draw, jobs)):
                pixels[place * CHUNK : place * CHUNK + len(drawn)] = drawn
            pixels.flush()
    return describe(scenes, np.load(file, mmap_mode="c"))  # torch warns of arrays that cannot be written to


def describe(scenes: list[Scene], pixels: NDArray[np.uint8]) -> Corpus:
    """Return the corpus of scenes whose pictures are `pixels`."""
    return Corpus(scenes, pixels, [captions(scene) for scene in scenes], [glimpse(scene) for scene in scenes])
