"""The folder of the embedded index as files: held shut while they are read or replaced."""

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
def held(path: Path, collections: Sequence[str]) -> Iterator[list[CollectionInfo]]:
    """Closed shards, complete on the disk, which no other process can open meanwhile; gives how they are.

    Raises:
        CollectionMissing: there is no such collection.
        IndexBusy: another process has one of them open.
    """
    with closing(EdgeIndex(path)) as index:
        infos = [index.info(collection) for collection in collections]
    with shut(path, collections):
        yield infos


@contextmanager
def shut(path: Path, collections: Sequence[str]) -> Iterator[None]:
    """No other process opens these shards meanwhile; they are not opened here either, so they may be damaged or absent.

    Raises:
        IndexBusy: another process has one of them open.
    """
    with ExitStack() as locks:
        for collection in collections:
            if (path / collection / LOCKED).is_dir():
                locks.enter_context(locked(path / collection / LOCKED))
        yield


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """An exclusive lock on a folder, without waiting for it.

    Raises:
        IndexBusy: somebody else has it.
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
