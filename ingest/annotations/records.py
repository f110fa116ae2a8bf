"""What annotations hold: images and captions, and the entries that cannot be used."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from search.errors import AnnotationError
from search.records import Caption, Image, Kind


class Chosen(NamedTuple):
    """Images, and captions of these images."""

    images: Sequence[Image]
    captions: Sequence[Caption]


@dataclass(frozen=True, slots=True)
class Unusable:
    """An entry or a caption of an annotation file that is skipped.

    `image_id`, `split` and `caption_id` are None if they cannot be read; `order` is the entry's 0-based place.
    """

    order: int
    kind: Kind
    file: str
    image_id: int | None
    split: str | None
    caption_id: int | None
    reason: str


@dataclass(frozen=True, slots=True)
class Annotations:
    """The images and captions that a source lists, in its order, and the broken entries and captions that are skipped.

    `file` is the annotation file or folder, and `format` the name of its format; `dataset` names the data set, and
    `sha256` is that of the file, or of everything that a folder contributes.
    """

    file: Path
    format: str
    dataset: str
    sha256: str
    images: tuple[Image, ...]
    captions: tuple[Caption, ...]
    unusable: tuple[Unusable, ...] = ()

    def splits(self) -> Counter[str]:
        """Return the number of images of each split, without those that are skipped."""
        return Counter(image.split for image in self.images)

    def skipped(self, splits: Sequence[str], limit: int | None = None) -> list[Unusable]:
        """Return what is skipped among the entries that `select` examines, and those whose split cannot be read."""
        chosen, _ = self.select(splits, limit)
        last = chosen[-1].order if chosen and len(chosen) == limit else sys.maxsize
        known = set(self.splits()) if "all" in splits else set(splits)
        return [
            entry
            for entry in self.unusable
            if entry.order <= last and ("all" in splits or entry.split is None or entry.split in known)
        ]

    def select(self, splits: Sequence[str], limit: int | None = None) -> Chosen:
        """Return the first `limit` images of some splits ("all" means every split), and their captions.

        Raises:
            AnnotationError: a split that is not in the file.
        """
        known = self.splits()
        if missing := [split for split in splits if split not in known and split != "all"]:
            existing = ", ".join(f"{name} ({count:,} images)" for name, count in known.items())
            raise AnnotationError(f"{self.file}: no split {missing[0]!r}; it has {existing}")
        images = [image for image in self.images if "all" in splits or image.split in splits][:limit]
        chosen = {image.id for image in images}
        return Chosen(images, [caption for caption in self.captions if caption.image_id in chosen])
