"""Check that the folder of an embedded index is writable and has enough disk space.

The engine maps its files into memory. If a page of one cannot be allocated, SIGBUS kills the process without a message,
so the space is checked before the engine is called. On a file system in memory (tmpfs), reading a hole of a file
allocates it, so even opening a shard takes space there.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from search.errors import IndexFailure

SPARE_BYTES = 128 * 2**20
_NOT_MAPPED = {"wal", "payload_storage"}  # folders of a shard whose files the engine does not map as a whole
_IN_MEMORY = {"tmpfs", "ramfs"}
_MOUNTS = Path("/proc/self/mountinfo")


def check_space(folder: Path, needed: int, doing: str) -> None:
    """Check that the file system of `folder` has `needed` free bytes; `doing` says what for.

    Raises:
        IndexFailure: it has fewer.
    """
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise IndexFailure(
            f"{doing} takes up to {needed / 2**20:,.0f} MiB on the disk of {folder}, which has {free / 2**20:,.0f} MiB "
            "left: free some space, then run the same command again; everything written so far is safe"
        )


def bytes_to_open(shard: Path) -> int:
    """Return the bytes that opening an existing shard may allocate."""
    return sum(size - allocated for size, allocated in _mapped(shard)) if _is_in_memory(shard) else 0


def bytes_to_build(shard: Path) -> int:
    """Return the bytes that building the HNSW index of a shard may allocate: all segments are rewritten."""
    allocated = sum(allocated for _, allocated in _mapped(shard))
    return allocated + SPARE_BYTES + bytes_to_open(shard) if _is_in_memory(shard) else allocated


def check_writable(folder: Path) -> None:
    """Check that this user may write to `folder`.

    Raises:
        IndexFailure: the folder is read-only.
    """
    if not os.access(folder, os.W_OK):
        raise read_only(folder)


def read_only(folder: Path) -> IndexFailure:
    """Return the error for a folder that this user cannot write to."""
    return IndexFailure(
        f"{folder} is read-only, and the embedded engine writes to its folder even to search: make it writable for "
        "this user, or copy the index folder to a writable place (cp -a --sparse=always) and give that with --path"
    )


def _mapped(shard: Path) -> Iterator[tuple[int, int]]:
    """Yield the size and the allocated bytes of each file that the engine maps as a whole."""
    for file in shard.rglob("*"):
        if not _NOT_MAPPED.intersection(file.relative_to(shard).parts) and file.is_file():
            status = file.stat()
            yield status.st_size, min(status.st_blocks * 512, status.st_size)


def _is_in_memory(folder: Path) -> bool:
    device = folder.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    try:
        mounts = _MOUNTS.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:  # no such file outside Linux, and no tmpfs either
        return False
    return any(mount.split()[2] == number and mount.partition(" - ")[2].split()[0] in _IN_MEMORY for mount in mounts)
