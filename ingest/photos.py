"""Reads, decodes and prepares photos in parallel, ahead of the encoder, in bounded memory.

Threads share the encoder's process, which is right beside a CPU model; processes, for a GPU that is faster than one
interpreter can feed. Either way a batch of prepared photos lies in one of a few slots of memory that are used again and
again: a reader waits for a free slot, so memory does not grow with the number of photos.
"""

from __future__ import annotations

import contextlib
import io
import math
import multiprocessing
import shutil
import signal
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from types import TracebackType
from typing import Self, cast

import numpy as np
import PIL.Image

from search.encoder.images import Pixels, Preparation
from search.errors import PhotoError, WorkerDied
from search.photos import open_image, read_photo
from search.records import PhotoMark

SHARED_MEMORY = "/dev/shm"
PHOTOS_PER_JOB = 8  # what one worker prepares at a time


@dataclass(frozen=True, slots=True)
class Recipe:
    """How photos are read: from which folder, how prepared, whether JPEG may be scaled while it is decoded, and whether
    links may lead out of the folder.

    Without a preparation photos are opened, and the model's own processor does the rest.
    """

    folder: Path
    preparation: Preparation | None
    scaled_decode: bool = False
    follow_links: bool = False

    def read_alone(self, file: str) -> tuple[PhotoMark, Pixels | list[PIL.Image.Image]]:
        """Read one photo as a batch of its own: its mark, and what the encoder takes.

        Raises:
            PhotoError: it cannot be read.
        """
        pixels = np.empty((1, *self.preparation.shape), np.uint8) if self.preparation else None
        read = self.read(file, None if pixels is None else pixels[0])
        if isinstance(read.outcome, PhotoError):
            raise read.outcome
        return read.outcome, pixels if read.image is None and pixels is not None else [
            cast(PIL.Image.Image, read.image)
        ]

    def read(self, file: str, into: Pixels | None) -> _Read:
        """Read one photo; prepare it into a row of pixels if there is a preparation."""
        start = time.perf_counter()
        try:
            content, mark = read_photo(self.folder, file, follow_links=self.follow_links)
            read = time.perf_counter()
            side = min(self.preparation.shape[:2]) if self.preparation and self.scaled_decode else None
            image = open_image(io.BytesIO(content), at_least=side)
            decoded = time.perf_counter()
            if self.preparation is None or into is None:
                return _Read(mark, image, {"read": read - start, "decode": decoded - read})
            into[:] = self.preparation.apply(image)
        except PhotoError as error:
            return _Read(error, None, {"read": time.perf_counter() - start})
        resize = time.perf_counter() - decoded
        return _Read(mark, None, {"read": read - start, "decode": decoded - read, "resize": resize})


@dataclass(frozen=True, slots=True)
class _Read:
    """One photo as read: its mark or what is wrong, the picture where it was not prepared, seconds per stage."""

    outcome: PhotoMark | PhotoError
    image: PIL.Image.Image | None
    seconds: dict[str, float]


@dataclass(frozen=True, slots=True)
class ReadBatch:
    """A batch of photos, valid until the next one is asked for.

    `outcomes`: per file its mark, or what is wrong with it; `seconds`: what the workers spent per stage.
    """

    outcomes: list[PhotoMark | PhotoError]
    seconds: dict[str, float]
    _photos: Pixels | list[PIL.Image.Image | None]

    def rows(self, rows: list[int]) -> Pixels | list[PIL.Image.Image]:
        """The photos of some rows, which must have marks: uint8 (n, height, width, 3), or pictures as opened."""
        if isinstance(self._photos, list):
            return [photo for row in rows if (photo := self._photos[row]) is not None]
        return self._photos if len(rows) == len(self._photos) else self._photos[rows]


class PhotoReader:
    """Reads batches of photos ahead of whoever iterates over them; a context manager.

    Args:
        recipe: how photos are read.
        workers: how many threads or processes read.
        processes: processes rather than threads, where there is shared memory enough (a container may have little).
        batch_size: the largest batch.
    """

    def __init__(self, recipe: Recipe, *, workers: int, processes: bool, batch_size: int) -> None:
        self._recipe = recipe
        jobs_per_batch = -(-batch_size // PHOTOS_PER_JOB)
        # One batch is being encoded, one waits, and enough are under way to keep every worker busy.
        self._ahead = 2 + -(-workers // jobs_per_batch)
        shape = (self._ahead, batch_size, *(recipe.preparation.shape if recipe.preparation else ()))
        self._shared: SharedMemory | None = None
        self._slots: Pixels | None = None
        self._pool: Executor
        if recipe.preparation and processes and shutil.disk_usage(SHARED_MEMORY).free > 1.1 * math.prod(shape):
            self._shared = SharedMemory(create=True, size=math.prod(shape))
            self._slots = np.ndarray(shape, np.uint8, buffer=self._shared.buf)
            self._pool = ProcessPoolExecutor(
                workers,
                mp_context=multiprocessing.get_context("spawn"),  # a fork would carry the index's and torch's threads
                initializer=_start_worker,
                initargs=(recipe, self._shared.name, shape),
            )
        else:
            self._slots = np.empty(shape, np.uint8) if recipe.preparation else None
            self._pool = ThreadPoolExecutor(workers, thread_name_prefix="photos")

    def batches(self, batches: Sequence[Sequence[str]]) -> Iterator[ReadBatch]:
        """The batches in order.

        Raises:
            WorkerDied: a process ended; what was yielded before is good.
        """
        free = deque(range(self._ahead))
        under_way: deque[tuple[int, list[Future[list[_Read]]]]] = deque()
        coming = iter(batches)
        while True:
            # The slot of the batch that was yielded last is free again only now, when the caller is done with it.
            while free and (files := next(coming, None)) is not None:
                slot = free.popleft()
                under_way.append((slot, self._submit(slot, files)))
            if not under_way:
                return
            slot, jobs = under_way.popleft()
            try:
                done = [read for job in jobs for read in job.result()]
            except BrokenProcessPool:
                raise WorkerDied(
                    "a decoding process was killed (was there enough memory?): what is embedded so far is safe, "
                    "run the same command again, perhaps with fewer --workers"
                ) from None
            seconds: dict[str, float] = {}
            for read in done:
                for stage, spent in read.seconds.items():
                    seconds[stage] = seconds.get(stage, 0.0) + spent
            photos = [read.image for read in done] if self._slots is None else self._slots[slot, : len(done)]
            yield ReadBatch([read.outcome for read in done], seconds, photos)
            free.append(slot)

    def _submit(self, slot: int, files: Sequence[str]) -> list[Future[list[_Read]]]:
        jobs = []
        for start in range(0, len(files), PHOTOS_PER_JOB):
            some = files[start : start + PHOTOS_PER_JOB]
            if self._shared is not None:
                jobs.append(self._pool.submit(_read_in_worker, slot, start, some))
            else:
                into = None if self._slots is None else self._slots[slot, start:]
                jobs.append(self._pool.submit(_read, self._recipe, into, some))
        return jobs

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._slots = None
        if self._shared is not None:
            with contextlib.suppress(BufferError):  # the caller still holds the last batch: it goes with that
                self._shared.close()
            self._shared.unlink()


def _read(recipe: Recipe, into: Pixels | None, files: Sequence[str]) -> list[_Read]:
    return [recipe.read(file, None if into is None else into[row]) for row, file in enumerate(files)]


_worker: tuple[Recipe, SharedMemory, Pixels]


def _start_worker(recipe: Recipe, memory: str, shape: tuple[int, ...]) -> None:
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the main process, which then ends this one
    shared = SharedMemory(memory)
    _worker = recipe, shared, np.ndarray(shape, np.uint8, buffer=shared.buf)


def _read_in_worker(slot: int, start: int, files: Sequence[str]) -> list[_Read]:
    recipe, _, slots = _worker
    return _read(recipe, slots[slot, start:], files)
