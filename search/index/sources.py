"""The sources that a collection was filled from: annotation files, and folders of photos."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

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

    def is_same(self, other: Source) -> bool:
        """Return whether this is the other source, which may have been edited, and moved by now.

        Karpathy's files are one source: parts of them, and corrected ones, have the same ids.
        """
        if self.format != other.format:
            return False
        moved = not os.path.exists(read_path(self.path))  # noqa: PTH110 - unlike Path.exists, it raises nothing
        return self.format == KARPATHY or self.path == other.path or moved


OF_OLDER_VERSIONS = (Source(format=KARPATHY, path=""),)


def joined(stored: Sequence[Source], new: Sequence[Source]) -> tuple[Source, ...]:
    """Return the sources of a collection after points from new ones have been added to it."""
    others = [source for source in stored or OF_OLDER_VERSIONS if not any(source.is_same(each) for each in new)]
    return (*others, *new)
