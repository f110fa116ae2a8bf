"""Turn photos and their captions, as the formats read them, into records with ids."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from search.errors import AnnotationError
from search.records import Caption, Image
from search.text import shown

ID_BITS = 53  # JavaScript, and so the dashboard, holds larger integers only approximately


@dataclass(slots=True)
class Photo:
    """A photo of some annotations, and its captions with their ids; without an id, it gets one made from its path."""

    file: str
    split: str
    id: int | None = None
    url: str | None = None
    captions: list[tuple[int | None, str]] = field(default_factory=list)


def records_of(source: Path, photos: Iterable[Photo]) -> tuple[tuple[Image, ...], tuple[Caption, ...]]:
    """Return the images and captions of some photos, in their order.

    Ids that are missing are made from the path of the photo and the position of the caption, so they are the same in
    every run, whatever else is added or removed.

    Raises:
        AnnotationError: two photos, or two captions, have the same id.
    """
    images: dict[int, Image] = {}
    captions: dict[int, Caption] = {}
    for order, photo in enumerate(photos):
        image_id = _id_from(photo.file) if photo.id is None else photo.id
        if image_id in images:
            raise AnnotationError(
                f"{source}: the photos {shown(images[image_id].file)} and {shown(photo.file)} have the same id, "
                f"{image_id}: {_remedy(photo.id, 'image_id')}"
            )
        texts = tuple(text for _, text in photo.captions)
        images[image_id] = Image(image_id, photo.split, order, photo.file, photo.url, texts)
        for position, (given, text) in enumerate(photo.captions):
            caption_id = _id_from(f"{position} {photo.file}") if given is None else given
            if caption_id in captions:
                first = images[captions[caption_id].image_id].file
                raise AnnotationError(
                    f"{source}: a caption of {shown(first)} and one of {shown(photo.file)} have the same id, "
                    f"{caption_id}: {_remedy(given, 'caption_id')}"
                )
            captions[caption_id] = Caption(caption_id, image_id, photo.split, position, text, photo.url)
    return tuple(images.values()), tuple(captions.values())


def _id_from(text: str) -> int:
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> (64 - ID_BITS)


def _remedy(given: int | None, column: str) -> str:
    if given is not None:
        return "each needs an id of its own"
    return f"it is made from their paths; rename one, or give ids in a column {column} of a table"
