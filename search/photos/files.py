"""Find and read the files of a photo folder, and detect whether one has changed since it was embedded."""

from __future__ import annotations

import hashlib
import os
import stat
import time
import unicodedata
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path, PurePath, PurePosixPath

from search.errors import PhotoError
from search.records import PhotoMark
from search.text import read_path, shown

MAX_BYTES = 200_000_000
SETTLED_NANOSECONDS = 2 * 10**9  # modification times are not coarser on any file system
NO_FILE = "no such file"
LINK_LEADS_OUT = "a link in the path leads out of the photo folder"


def _spelled(folder: Path, file: str) -> Path:
    """Return the path of `file` in `folder`, which need not exist.

    If the name does not exist, use one that differs only in Unicode normalisation: files copied from a Mac may have
    decomposed (NFD) names.
    """
    path = folder / file
    if file.isascii() or os.path.lexists(path):
        return path
    return next(_spellings(folder, PurePosixPath(file).parts), path)


def _spellings(folder: Path, parts: Sequence[str]) -> Iterator[Path]:
    """Yield the existing paths in `folder` whose names equal `parts` after normalisation."""
    if not parts:
        yield folder
        return
    try:
        modified = folder.stat().st_mtime_ns
        # A folder that has just changed may change again without a new modification time.
        read = _names if time.time_ns() - modified > SETTLED_NANOSECONDS else _names.__wrapped__
        names = read(folder, modified).get(unicodedata.normalize("NFC", parts[0]), [])
    except OSError:
        return
    for name in names:
        yield from _spellings(folder / name, parts[1:])


@lru_cache(maxsize=16)
def _names(folder: Path, modified: int) -> dict[str, list[str]]:  # noqa: ARG001
    """Return the names in a folder by their normal form; `modified` (its time of change) is part of the cache key."""
    names: dict[str, list[str]] = {}
    for name in sorted(entry.name for entry in folder.iterdir()):
        names.setdefault(unicodedata.normalize("NFC", name), []).append(name)
    return names


def find_photo(folder: Path, file: str, *, follow_links: bool = False) -> Path:
    """Return the path of the photo `file` (a relative path) in `folder`, with any Unicode normalisation of its name.

    `file` is spelled as `spell_path` does.

    Raises:
        PhotoError: the file does not exist, cannot be reached, or its path leads out of the folder. With
            `follow_links`, links may lead out.
    """
    try:
        file = str(read_path(file))
        path = _spelled(folder, file)
        if PurePath(file).is_absolute() or ".." in PurePath(file).parts:
            raise PhotoError("the path leads out of the photo folder")
        if not follow_links and not path.resolve().is_relative_to(folder.resolve()):
            raise PhotoError(LINK_LEADS_OUT)
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise PhotoError(NO_FILE) from None
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: links in a circle
        raise PhotoError(getattr(error, "strerror", None) or shown(str(error))) from error
    if not stat.S_ISREG(mode):
        raise PhotoError("not a file" if not stat.S_ISDIR(mode) else "a folder, not a file")
    return path


def read_photo(folder: Path, file: str, *, follow_links: bool = False) -> tuple[bytes, PhotoMark]:
    """Return the bytes of the photo `file` in `folder`, found by `find_photo`, and the mark that identifies them.

    Raises:
        PhotoError: it cannot be found or read, or is larger than 200 MB.
    """
    path = find_photo(folder, file, follow_links=follow_links)
    try:
        status = path.stat()
        if status.st_size > MAX_BYTES:
            raise PhotoError(f"{status.st_size:,} bytes: the limit is {MAX_BYTES:,}")
        content = path.read_bytes()
    except OSError as error:
        raise PhotoError(error.strerror or str(error)) from error
    digest = hashlib.blake2b(content, digest_size=16).hexdigest()
    return content, PhotoMark(len(content), status.st_mtime_ns, digest)


def current_mark(
    folder: Path, file: str, mark: PhotoMark, *, same_place: bool = True, follow_links: bool = False
) -> PhotoMark | None:
    """Return the present mark of the photo if its content is still that of `mark`, else None.

    The file is read only if its size is the same, and either its modification time differs, or it is not at the
    `same_place` as when the mark was made: other files may have the same size and time.
    """
    try:
        status = find_photo(folder, file, follow_links=follow_links).stat()
        if status.st_size != mark.bytes:
            return None
        if same_place and status.st_mtime_ns == mark.modified:
            return mark
        current = read_photo(folder, file, follow_links=follow_links)[1]
    except (OSError, PhotoError):
        return None
    return current if current.blake2b == mark.blake2b else None
