"""Read, decode and prepare photos in parallel, ahead of the encoder, in bounded memory.

Threads are enough beside a model on a CPU; a GPU is faster than one interpreter can feed, so it gets processes. Either
way, a batch of prepared photos lies in one of a few slots of memory that are reused. A reader waits for a free slot, so
memory does not grow with the number of photos.
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
PHOTOS_PER_JOB = 8  # that one worker prepares at a time


@dataclass(frozen=True, slots=True)
class Recipe:
    """How photos are read.

    `scaled_decode` lets JPEG be scaled while it is decoded; `follow_links` lets links lead out of `folder`. Without a
    `preparation`, photos are only opened, and the model's own processor does the rest.
    """

    folder: Path
    preparation: Preparation | None
    scaled_decode: bool = False
    follow_links: bool = False

    def read_alone(self, file: str) -> tuple[PhotoMark, Pixels | list[PIL.Image.Image]]:
        """Read one photo as a batch of its own; return its mark and the input of the encoder.

        Raises:
            PhotoError: it cannot be read.
        """
        pixels = np.empty((1, *self.preparation.shape), np.uint8) if self.preparation else None
        read = self.read(file, None if pixels is None else pixels[0])
        if isinstance(read.outcome, PhotoError):
            raise read.outcome
        if read.image is None:
            return read.outcome, cast(Pixels, pixels)
        return read.outcome, [read.image]

    def read(self, file: str, into: Pixels | None) -> _Read:
        """Read and decode one photo; if there is a preparation, write uint8 (height, width, 3) into `into`."""
        start = time.perf_counter()
        try:
            content, mark = read_photo(self.folder, file, follow_links=self.follow_links)
            was_read = time.perf_counter()
            side = min(self.preparation.shape[:2]) if self.preparation and self.scaled_decode else None
            image = open_image(io.BytesIO(content), at_least=side)
            was_decoded = time.perf_counter()
            if self.preparation is None or into is None:
                return _Read(mark, image, {"read": was_read - start, "decode": was_decoded - was_read})
            into[:] = self.preparation.apply(image)
        except PhotoError as error:
            return _Read(error, None, {"read": time.perf_counter() - start})
        seconds = {
            "read": was_read - start,
            "decode": was_decoded - was_read,
            "resize": time.perf_counter() - was_decoded,
        }
        return _Read(mark, None, seconds)


@dataclass(frozen=True, slots=True)
class _Read:
    """One photo as read: its mark or its error, the picture if it was not prepared, and the seconds of each stage."""

    outcome: PhotoMark | PhotoError
    image: PIL.Image.Image | None
    seconds: dict[str, float]


@dataclass(frozen=True, slots=True)
class ReadBatch:
    """A batch of photos, valid until the next one is requested.

    `outcomes`: the mark or the error of each file; `seconds`: the time that the workers spent in each stage.
    """

    outcomes: list[PhotoMark | PhotoError]
    seconds: dict[str, float]
    _photos: Pixels | list[PIL.Image.Image | None]

    def rows(self, rows: list[int]) -> Pixels | list[PIL.Image.Image]:
        """Return the photos of some rows, which must have marks: uint8 (n, height, width, 3), or pictures as opened."""
        if isinstance(self._photos, list):
            return [photo for row in rows if (photo := self._photos[row]) is not None]
        return self._photos if len(rows) == len(self._photos) else self._photos[rows]


class PhotoReader:
    """A context manager that reads batches of photos ahead of their use.

    Args:
        recipe: how photos are read.
        workers: the number of threads or processes.
        processes: use processes, if there is enough shared memory (a container may have little).
        batch_size: the largest batch.
    """

    def __init__(self, recipe: Recipe, *, workers: int, processes: bool, batch_size: int) -> None:
        self._recipe = recipe
        jobs_per_batch = -(-batch_size // PHOTOS_PER_JOB)
        # One batch is being encoded, one is ready, and enough are being read to keep every worker busy.
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
                mp_context=multiprocessing.get_context("spawn"),  # a fork would copy locks that torch's threads hold
                initializer=_start_worker,
                initargs=(recipe, self._shared.name, shape),
            )
        else:
            self._slots = np.empty(shape, np.uint8) if recipe.preparation else None
            self._pool = ThreadPoolExecutor(workers, thread_name_prefix="photos")

    def batches(self, batches: Sequence[Sequence[str]]) -> Iterator[ReadBatch]:
        """Yield the batches in order.

        Raises:
            WorkerDied: a process was killed; the batches yielded before are complete.
        """
        free = deque(range(self._ahead))
        in_flight: deque[tuple[int, list[Future[list[_Read]]]]] = deque()
        remaining = iter(batches)
        while True:
            # The slot of the batch yielded last becomes free only now that the caller is done with it.
            while free and (files := next(remaining, None)) is not None:
                slot = free.popleft()
                in_flight.append((slot, self._submit(slot, files)))
            if not in_flight:
                return
            slot, jobs = in_flight.popleft()
            try:
                reads = [read for job in jobs for read in job.result()]
            except BrokenProcessPool:
                raise WorkerDied(
                    "a decoding process was killed (out of memory?): everything embedded so far is stored; "
                    "run the same command again, perhaps with fewer --workers"
                ) from None
            seconds: dict[str, float] = {}
            for read in reads:
                for stage, spent in read.seconds.items():
                    seconds[stage] = seconds.get(stage, 0.0) + spent
            photos = [read.image for read in reads] if self._slots is None else self._slots[slot, : len(reads)]
            yield ReadBatch([read.outcome for read in reads], seconds, photos)
            free.append(slot)

    def _submit(self, slot: int, files: Sequence[str]) -> list[Future[list[_Read]]]:
        jobs = []
        for start in range(0, len(files), PHOTOS_PER_JOB):
            job_files = files[start : start + PHOTOS_PER_JOB]
            if self._shared is not None:
                jobs.append(self._pool.submit(_read_in_worker, slot, start, job_files))
            else:
                into = None if self._slots is None else self._slots[slot, start:]
                jobs.append(self._pool.submit(_read, self._recipe, into, job_files))
        return jobs

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._slots = None
        if self._shared is not None:
            with contextlib.suppress(BufferError):  # the caller still holds the last batch, whose release closes it
                self._shared.close()
            self._shared.unlink()


def _read(recipe: Recipe, into: Pixels | None, files: Sequence[str]) -> list[_Read]:
    return [recipe.read(file, None if into is None else into[row]) for row, file in enumerate(files)]


_worker: tuple[Recipe, SharedMemory, Pixels]


def _start_worker(recipe: Recipe, memory: str, shape: tuple[int, ...]) -> None:
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process handles Ctrl-C and then ends this one
    shared = SharedMemory(memory)
    _worker = recipe, shared, np.ndarray(shape, np.uint8, buffer=shared.buf)


def _read_in_worker(slot: int, start: int, files: Sequence[str]) -> list[_Read]:
    recipe, _, slots = _worker
    return _read(recipe, slots[slot, start:], files)
