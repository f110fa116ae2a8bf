"""Lock the shards of an embedded index while their files are copied or replaced."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from search.errors import IndexBusy
from search.index.edge.index import EdgeIndex
from search.index.protocol import CollectionInfo

LOCKED = "wal"  # the engine's own lock: flock on the folder of the write-ahead log (qdrant-edge 0.9)


@contextmanager
def flush_and_lock(path: Path, collections: Sequence[str]) -> Iterator[list[CollectionInfo]]:
    """Write shards to disk, then hold them closed and locked; yields their CollectionInfo.

    Raises:
        CollectionMissing: one of the collections does not exist.
        IndexBusy: another process has one of them open.
    """
    with closing(EdgeIndex(path)) as index:
        infos = [index.info(collection) for collection in collections]
    with lock_shards(path, collections):
        yield infos


@contextmanager
def lock_shards(path: Path, collections: Sequence[str]) -> Iterator[None]:
    """Hold shards locked, so that no process can open them. They are not opened here: they may be damaged or missing.

    Raises:
        IndexBusy: another process has one of them open.
    """
    with ExitStack() as locks:
        for collection in collections:
            if (path / collection / LOCKED).is_dir():
                locks.enter_context(lock_folder(path / collection / LOCKED))
        yield


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Hold an exclusive lock on a folder, without waiting for it.

    Raises:
        IndexBusy: another process holds it.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise IndexBusy(f"{folder} is open in another process: wait for it or stop it") from None
        yield
    finally:
        os.close(descriptor)
