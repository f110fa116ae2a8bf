"""List the pictures and the texts below a folder, by their names alone."""

from __future__ import annotations

import os
from collections import deque
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path, PurePosixPath

from PIL import Image

from search.photos import LINK_LEADS_OUT
from search.photos.decode import FORMATS
from search.text import spell_path

TEXT = ".txt"
OTHER_DECODERS = (".avif", ".heic", ".heif", ".hif")  # of formats that are not among Pillow's, or not in every Pillow


@dataclass(slots=True)
class Listing:
    """What is below a folder, as paths relative to it, spelled as `spell_path` does.

    `pictures` are in the order of their paths; `texts` are the text files by their paths without `.txt`; `failures` are
    the folders that could not be read, each with the reason.
    """

    pictures: list[str] = field(default_factory=list)
    texts: dict[str, str] = field(default_factory=dict)
    failures: list[tuple[str, str]] = field(default_factory=list)


@cache
def picture_suffixes() -> frozenset[str]:
    """Return the suffixes, in lower case, of files that are taken for pictures."""
    known = Image.registered_extensions()
    return frozenset({suffix for suffix, name in known.items() if name in FORMATS}).union(OTHER_DECODERS)


def list_folder(folder: Path, *, follow_links: bool = False) -> Listing:
    """List the pictures and the texts below a folder, without those whose name, or a folder's, begins with a dot.

    A linked folder is read only with `follow_links`, and only once: not if it is also below the folder itself. Without
    it, a link that leads out is a failure. Linked files are listed; opening them follows the same rule.
    """
    listing, names, links = Listing(), list[PurePosixPath](), deque[PurePosixPath]()
    pending, seen = [PurePosixPath()], set[tuple[int, int]]()
    while pending or (follow_links and links):
        path = pending.pop() if pending else links.popleft()
        try:
            status = (folder / path).stat()
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(folder / path) as entries:
                visible = sorted((entry for entry in entries if entry.name[0] != "."), key=lambda entry: entry.name)
        except OSError as error:
            listing.failures.append((spell_path(path), f"cannot read this folder: {error.strerror}"))
            continue
        for entry in visible:
            if not _is_folder(entry):
                names.append(path / entry.name)
            elif entry.is_symlink():
                links.append(path / entry.name)
            else:
                pending.append(path / entry.name)
    for link in [] if follow_links else links:
        if not Path(os.path.realpath(folder / link)).is_relative_to(os.path.realpath(folder)):
            listing.failures.append((spell_path(link), LINK_LEADS_OUT))
    for name in sorted(names):
        suffix = name.suffix.lower()
        if suffix in picture_suffixes():
            listing.pictures.append(spell_path(name))
        elif suffix == TEXT:
            listing.texts[spell_path(name.with_suffix(""))] = spell_path(name)
    listing.failures.sort()
    return listing


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Return whether the entry is a folder, or a link to one; a link in a circle is a file that cannot be opened."""
    try:
        return entry.is_dir()
    except OSError:
        return False
