"""Build the HNSW index of a collection, and show for how long that has been going on."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread

from tqdm.auto import tqdm

from search.index import Index

ANNOUNCE_FROM = 5000  # points; indexing more takes seconds
ANNOUNCE_AFTER = 1  # seconds; an index that is up to date is found to be so in less
TICK_SECONDS, TICK_SECONDS_IN_LOGS = 1, 30  # between two lines while an index is built


def build_index(index: Index, collection: str, written: int = 0) -> None:
    """Build the index; `written` is the number of points whose payloads were written since it was built.

    The embedded engine moves such points out of the HNSW index, although it reports them as indexed.
    """
    info = index.info(collection)
    shown = max(written, info.points - info.indexed_vectors) > ANNOUNCE_FROM
    with clock(collection, info.points, shown=shown) as report:
        index.optimize(collection, report)


@contextmanager
def clock(collection: str, points: int, *, shown: bool) -> Iterator[Callable[[int], None]]:
    """Show the elapsed time while an index is built, if that takes longer than ANNOUNCE_AFTER.

    Yield a function that takes the number of vectors in it so far.
    """
    line = f"building the index of {collection}, {points:,} points: {{elapsed}}"
    reported: list[int] = []
    done, start = Event(), time.time()

    def tick() -> None:
        if done.wait(ANNOUNCE_AFTER):
            return
        with tqdm(total=points, bar_format=line) as bar:
            bar.start_t = start
            while True:
                is_over = done.is_set()
                if reported:
                    bar.n, bar.bar_format = reported[-1], line + ", {n:,} vectors indexed"
                bar.refresh()
                if is_over:
                    return
                done.wait(TICK_SECONDS if sys.stderr.isatty() else TICK_SECONDS_IN_LOGS)

    thread = Thread(target=tick, daemon=True)
    if shown:
        thread.start()
    try:
        yield reported.append
    finally:
        done.set()
        if shown:
            thread.join()
