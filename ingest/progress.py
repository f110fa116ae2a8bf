"""Show progress on stderr: a bar of what is embedded, and a clock while an index is built."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread
from typing import NoReturn

from tqdm.auto import tqdm

ANNOUNCE_AFTER = 1  # seconds; an index that is up to date is found to be so in less
TICK_SECONDS, TICK_SECONDS_IN_LOGS = 1, 30  # between two lines while an index is built


@contextmanager
def building_clock(collection: str, points: int) -> Iterator[Callable[[int], None]]:
    """Show the elapsed time while an index is built, if that takes longer than ANNOUNCE_AFTER.

    Yield a function that takes the number of vectors in it so far.
    """
    clock = f"building the index of {collection}, {points:,} points: {{elapsed}}"
    indexed = 0
    done, start = Event(), time.time()

    def report(vectors: int) -> None:
        nonlocal indexed
        indexed = vectors

    def tick() -> None:
        if done.wait(ANNOUNCE_AFTER):
            return
        with tqdm(total=points, bar_format=clock) as bar:
            bar.start_t = start
            while True:
                is_over = done.is_set()
                if indexed:
                    bar.n, bar.bar_format = indexed, clock + ", {n:,} vectors indexed"
                bar.refresh()
                if is_over:
                    return
                done.wait(TICK_SECONDS if sys.stderr.isatty() else TICK_SECONDS_IN_LOGS)

    thread = Thread(target=tick, daemon=True)
    thread.start()
    try:
        yield report
    finally:
        done.set()
        thread.join()


def bar_of(total: int, unit: str) -> tqdm[NoReturn]:
    """Return a bar for `total` inputs, such as images; it is not shown if there are none."""
    return tqdm(total=total, unit=f" {unit}", desc=unit, disable=not total, dynamic_ncols=True)
