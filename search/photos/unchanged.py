"""Find out quickly which photos of a folder have not changed: by one look at each file, without reading it."""

from __future__ import annotations

import os
import stat
from pathlib import Path, PurePath

from search.photos.files import current_mark
from search.records import PhotoMark
from search.text import read_path


class PhotoFolder:
    """The photo folder as it is during one pass: the folders within it are resolved only once."""

    def __init__(self, folder: Path, *, follow_links: bool = False) -> None:
        self._folder, self._follow_links = folder, follow_links
        self._real = os.path.realpath(folder)
        self._inside: dict[str, bool] = {}

    def current_mark(self, file: str, mark: PhotoMark, *, same_place: bool) -> PhotoMark | None:
        """Return what `search.photos.current_mark` returns, which reads the file if its size and time leave doubt."""
        if same_place and self._is_unchanged(file, mark):
            return mark
        return current_mark(self._folder, file, mark, same_place=same_place, follow_links=self._follow_links)

    def _is_unchanged(self, file: str, mark: PhotoMark) -> bool:
        """Return whether it certainly is the file of that mark."""
        try:
            path = os.path.join(self._folder, read_path(file))  # noqa: PTH118 - several times as fast as pathlib
            status = os.lstat(path)
        except (OSError, ValueError):
            return False
        same = (status.st_size, status.st_mtime_ns) == (mark.bytes, mark.modified)
        return same and stat.S_ISREG(status.st_mode) and self._has_inside(os.path.dirname(path))  # noqa: PTH120

    def _has_inside(self, folder: str) -> bool:
        """Return whether a folder, on the way to a photo, lies within the photo folder."""
        if folder not in self._inside:
            real = PurePath(os.path.realpath(folder))
            self._inside[folder] = ".." not in PurePath(folder).parts and real.is_relative_to(self._real)
        return self._inside[folder]
