"""Replace files atomically: a reader, or the next run after a kill, sees either the old or the new content."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(file: Path, *, sync: bool = True, mode: int = 0o666) -> Iterator[Path]:
    """Yield an empty file to fill, which replaces `file` at the end of the block; delete it after an error.

    Args:
        sync: whether to wait until the content is on the disk, so that it survives a power failure.
        mode: the permissions of the new file, before the umask is applied.
    """
    partial = file.with_name(f"{file.name}.partial")
    partial.unlink(missing_ok=True)  # left by a killed run
    partial.touch(mode, exist_ok=False)
    try:
        yield partial
        if sync:
            with partial.open("r+b") as stream:
                os.fsync(stream.fileno())
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)


def target_of(file: Path) -> Path:
    """Return where a link leads, so that the file there is replaced and not the link.

    Raises:
        OSError: it leads to a folder or a device.
    """
    target = Path(os.path.realpath(file))
    if target.exists() and not target.is_file():
        raise OSError(errno.EINVAL, "it is not a regular file", str(file))
    return target


def replace_file(file: Path, text: str) -> None:
    """Replace the content of `file` by `text`, in UTF-8."""
    with replacing(file) as partial:
        partial.write_text(text, encoding="utf-8")
