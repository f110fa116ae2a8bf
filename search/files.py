"""Replace files atomically: a reader, or whoever comes after a kill, finds the old content or the new one."""

from __future__ import annotations

import os
from pathlib import Path


def replace_file(file: Path, text: str) -> None:
    """Write `text` as UTF-8 into `file`, which is replaced once all of it is on the disk."""
    partial = file.with_name(f"{file.name}.partial")
    with partial.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    partial.replace(file)
