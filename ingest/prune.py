"""Find the stored points that their source no longer lists, and remove them.

A point is gone if its id is in none of the entries, and, for a source that is a folder, if its photo no longer exists
either. A photo that a file still names, but that is missing or cannot be read, is a failure and not gone, and neither
is what belongs to a broken entry.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ingest.annotations import Annotations, Unusable
from ingest.failures import count_of
from ingest.specs import count_ids, source_of
from ingest.summary import Summary
from search.errors import AnnotationError, IndexFailure
from search.index import CollectionSpec, Index, ReadIndex, Where
from search.index.sources import others
from search.records import Caption, Image
from search.text import read_path

IDS_PER_REQUEST = 5000


@dataclass(frozen=True, slots=True)
class Gone:
    """The stored images and captions that the source no longer lists."""

    images: list[Image] = field(default_factory=list)
    captions: list[Caption] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.images or self.captions)

    def __str__(self) -> str:
        """Return how many they are, such as "3 photos and 15 captions"."""
        counts = (len(self.images), "photo"), (len(self.captions), "caption")
        return " and ".join(count_of(count, kind) for count, kind in counts if count)


def check_prunable(annotations: Annotations, stored: CollectionSpec | None, splits: Sequence[str]) -> None:
    """Check that the points that are gone can be determined.

    Raises:
        AnnotationError: a broken entry of these splits has neither an id nor a file that can be read.
        IndexFailure: the stored collection was filled from other sources too.
    """
    if stored is not None and (besides := others(stored.sources, source_of(annotations))):
        raise IndexFailure(
            f"--prune: {stored.dataset} was filled from other sources too ({', '.join(map(str, besides))}), and what "
            "only they hold would be removed: leave out --prune"
        )
    for entry in annotations.skipped(splits):
        if _is_unknown(entry):
            raise AnnotationError(
                f"--prune: {annotations.file}: {entry.reason}; its photo cannot be identified, so it would count "
                "as gone: correct the entry, or leave out --prune"
            )


def find_gone(
    index: ReadIndex,
    specs: tuple[CollectionSpec, CollectionSpec],
    annotations: Annotations,
    splits: Sequence[str],
) -> Gone:
    """Return the stored points of some splits ("all" means every split) that are gone.

    Return an empty `Gone` if an entry cannot be identified, or the collection has other sources (see `check_prunable`).
    """
    (of_images, of_captions), existing = specs, index.collections()
    stored = index.spec(of_images.collection) if of_images.collection in existing else None
    current = source_of(annotations)
    if stored is None or any(map(_is_unknown, annotations.skipped(splits))):
        return Gone()
    if others(stored.sources, current) or others(of_images.sources, current):
        return Gone()
    where = Where(splits=None if "all" in splits else tuple(splits))
    listed = _Listed(annotations, of_images.photo_folder)
    images: list[Image] = []
    kept = set(listed.broken_images)
    for image in _others(index, of_images.collection, [image.id for image in annotations.images], where):
        if isinstance(image, Image):
            if listed.is_gone(image):
                images.append(image)
            else:
                kept.add(image.id)
    if of_captions.collection not in existing:
        return Gone(images)
    ids = [*(caption.id for caption in annotations.captions), *listed.broken_captions]
    unlisted = _others(index, of_captions.collection, ids, where)
    return Gone(images, [each for each in unlisted if isinstance(each, Caption) and each.image_id not in kept])


def prune(index: Index, specs: tuple[CollectionSpec, CollectionSpec], gone: Gone, summary: Summary) -> None:
    """Delete what is gone, captions first. If this is interrupted, the rest is still gone for the next run."""
    of_images, of_captions = specs
    for spec, records, tally in (
        (of_captions, gone.captions, summary.captions),
        (of_images, gone.images, summary.images),
    ):
        for start in range(0, len(records), IDS_PER_REQUEST):
            part = [record.id for record in records[start : start + IDS_PER_REQUEST]]
            with summary.timed("prune"):
                index.delete(spec.collection, part)
            tally.pruned += len(part)


def _is_unknown(entry: Unusable) -> bool:
    """Return whether no stored point can be recognised as that of a broken entry."""
    return entry.image_id is None and entry.caption_id is None and not entry.file


class _Listed:
    """What a source lists, apart from its usable entries: photos that exist, and broken entries."""

    def __init__(self, annotations: Annotations, photos: Path) -> None:
        self._photos = photos if annotations.format == "folder" else None
        unusable = annotations.unusable
        self._broken_files = {entry.file for entry in unusable if entry.image_id is None and entry.file}
        named = {image.id for image in annotations.images if image.file in self._broken_files}
        # If the id of a broken caption is not known, or the photo is broken, it may be any caption of the photo.
        whole = [entry for entry in unusable if entry.caption_id is None]
        self.broken_images = named | {entry.image_id for entry in whole if entry.image_id is not None}
        self.broken_captions = {entry.caption_id for entry in unusable if entry.caption_id is not None}
        self._empty: dict[str, bool] = {}

    def is_gone(self, image: Image) -> bool:
        """Return whether an image whose id is in no usable entry is gone."""
        if image.id in self.broken_images or image.file in self._broken_files:
            return False
        if image.file.partition("/")[2] in self._broken_files:  # COCO's JSON has no folders, such as val2017
            return False
        return self._photos is None or self._is_absent(os.path.join(self._photos, read_path(image.file)))  # noqa: PTH118

    def _is_absent(self, path: str) -> bool:
        """Return whether a file does not exist, which is not certain in a folder that is empty or cannot be read.

        The file system of an empty folder may not be mounted.
        """
        try:
            os.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            return not self._is_empty(os.path.dirname(path))  # noqa: PTH120
        except OSError:
            pass
        return False

    def _is_empty(self, folder: str) -> bool:
        if folder not in self._empty:
            try:
                with os.scandir(folder) as entries:
                    self._empty[folder] = next(entries, None) is None
            except FileNotFoundError:
                self._empty[folder] = False
            except OSError:
                self._empty[folder] = True
        return self._empty[folder]


def _others(index: ReadIndex, collection: str, ids: Sequence[int], where: Where) -> Iterator[Image | Caption]:
    """Yield the stored records whose ids are not among `ids`, after counting whether there are any."""
    if index.count(collection, where=where) == count_ids(index, collection, ids, where.splits):
        return
    known = set(ids)
    for batch in index.scan(collection, where=where):
        yield from (record for record in batch.records if record.id not in known)
