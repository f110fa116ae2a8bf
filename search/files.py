"""Replace files atomically: a reader, or the next run after a kill, finds the old content or the new one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(file: Path, *, sync: bool = True, mode: int = 0o666) -> Iterator[Path]:
    """Yield an empty file to fill, which replaces `file` at the end of the block; an error deletes it instead.

    Args:
        sync: whether to wait until the content is on the disk, so that a power failure cannot lose it.
        mode: the permissions of the new file, less those that the umask takes away.
    """
    partial = file.with_name(f"{file.name}.partial")
    partial.unlink(missing_ok=True)  # of a run that was killed
    partial.touch(mode, exist_ok=False)
    try:
        yield partial
        if sync:
            with partial.open("r+b") as stream:
                os.fsync(stream.fileno())
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)


def replace_file(file: Path, text: str) -> None:
    """Write `text` as UTF-8 into `file`, replaced as a whole."""
    with replacing(file) as partial:
        partial.write_text(text, encoding="utf-8")
