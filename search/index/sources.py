"""The sources that a collection was filled from: annotation files, and folders of photos."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath

from search.text import read_path

KARPATHY = "karpathy"


@dataclass(frozen=True, kw_only=True)
class Source:
    """An annotation file or a folder: the name of its format, and its path, spelled as `spell_path` does."""

    format: str
    path: str

    def __str__(self) -> str:
        """Return the path, and the format for people."""
        return f"{self.path} ({self.format})" if self.path else "an annotation file of Karpathy's"

    def is_same(self, other: Source, *, alone: bool) -> bool:
        """Return whether this is the other source, which may have been edited, and moved by now.

        What no longer exists may have been moved, and renamed if it is the only source of a collection (`alone`).
        Karpathy's files are one source: parts of them, and corrected ones, have the same ids.
        """
        if self.format != other.format:
            return False
        if self.format == KARPATHY or self.path == other.path:
            return True
        moved = not os.path.exists(read_path(self.path))  # noqa: PTH110 - unlike Path.exists, it raises nothing
        return moved and (alone or PurePath(self.path).name == PurePath(other.path).name)


OF_OLDER_VERSIONS = (Source(format=KARPATHY, path=""),)


def others(stored: Sequence[Source], source: Source) -> list[Source]:
    """Return the sources of a collection that are not this one."""
    every = stored or OF_OLDER_VERSIONS
    if source in every and source.format != KARPATHY:  # then no other one has been moved there
        return [each for each in every if each != source]
    return [each for each in every if not each.is_same(source, alone=len(every) == 1)]


def joined(stored: Sequence[Source], new: Sequence[Source]) -> tuple[Source, ...]:
    """Return the sources of a collection after points from new ones have been added to it."""
    every = stored or OF_OLDER_VERSIONS
    return (*(each for each in every if all(each in others(every, source) for source in new)), *new)
