"""Recognise renamed photos, and captions of another id but the same text, and copy their vectors."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from search.errors import PhotoError
from search.index import Points, ReadIndex
from search.photos import find_photo, read_photo
from search.records import Caption, Image, PhotoMark

R = TypeVar("R", Image, Caption)

COPIED_AT_ONCE = 1000


def renamed_images(
    gone: Collection[Image], new: Sequence[Image], folder: Path, *, follow_links: bool
) -> Iterator[tuple[Image, int]]:
    """Yield the new images whose photo has the content of one that is gone, with their marks, and the id of that one.

    A photo is read only if one that is gone has the same size.
    """
    by_mark = {image.photo: image for image in gone if image.photo is not None and not image.stale}
    sizes = {mark.bytes for mark in by_mark}
    for image in new if sizes else ():
        mark = _mark(folder, image.file, sizes, follow_links=follow_links)
        if mark is not None and (old := by_mark.get(mark)) is not None:
            yield replace(image, photo=mark, hubness=old.hubness, extra=old.extra), old.id


def same_captions(gone: Collection[Caption], new: Sequence[Caption]) -> Iterator[tuple[Caption, int]]:
    """Yield the new captions that have the text of one that is gone, and the id of that one."""
    by_text = {caption.text: caption for caption in gone if not caption.stale}
    for caption in new:
        if (old := by_text.get(caption.text)) is not None:
            yield replace(caption, truncated=old.truncated, extra=old.extra), old.id


def copy_vectors(
    index: ReadIndex, collection: str, pairs: Iterator[tuple[R, int]], write: Callable[[Points], None]
) -> set[int]:
    """Write the records with the vectors of the stored points of these ids, and return the ids that were written."""
    every, copied = list(pairs), set[int]()
    for start in range(0, len(every), COPIED_AT_ONCE):
        some = every[start : start + COPIED_AT_ONCE]
        vectors = index.retrieve(collection, [old for _, old in some], vectors=True).vectors_by_id()
        found = [(record, vectors[old]) for record, old in some if old in vectors]
        if found:
            write(Points([record for record, _ in found], np.stack([vector for _, vector in found])))
            copied |= {record.id for record, _ in found}
    return copied


def _mark(folder: Path, file: str, sizes: set[int], *, follow_links: bool) -> PhotoMark | None:
    """Return the mark of a photo that can be read and has one of these sizes, in bytes."""
    try:
        if find_photo(folder, file, follow_links=follow_links).stat().st_size not in sizes:
            return None
        return read_photo(folder, file, follow_links=follow_links)[1]
    except (OSError, PhotoError):  # embedding it reports the reason
        return None
