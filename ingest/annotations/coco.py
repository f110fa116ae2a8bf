"""Read COCO's own caption files, such as `captions_val2017.json`.

Ids are COCO's. The split of a photo with an official address is the folder of that address, such as `val2017`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ingest.annotations.fields import CaptionText, Id, PhotoPath, id_or_none
from ingest.annotations.photos import Photo, records_of
from ingest.annotations.records import Annotations, Unusable
from ingest.annotations.source import Source
from search.errors import AnnotationError, TextError
from search.text import decode_text
from search.validation import first_problem

NAME = "coco"
PHOTOS_TRIED = 100

_OFFICIAL = re.compile(r"http://images\.cocodataset\.org/(?P<folder>[a-z]+\d{4})/[\w.-]+\.jpg", re.ASCII)


class _Entry(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore", str_strip_whitespace=True)


class _Image(_Entry):
    id: Id
    file_name: Annotated[PhotoPath, Field(min_length=1)]
    coco_url: str | None = None


class _Annotation(_Entry):
    id: Id
    image_id: Id
    caption: CaptionText


def fits(start: bytes) -> bool:
    """Return whether a JSON file that starts like this is COCO's own, not Karpathy's."""
    if not start.startswith(b"{") or b'"sentences"' in start:
        return False
    return any(key in start for key in (b'"file_name"', b'"image_id"', b'"annotations"'))


def read(source: Source) -> Annotations:
    """Read a file with `images` and, unless it is one of photos alone, `annotations`.

    Raises:
        AnnotationError: it is not such a file, has no usable image, has annotations but no caption, or an id twice.
    """
    content = source.stream.read()
    entries, annotations = _parse(source.file, content)
    unusable: list[Unusable] = []
    photos = _read_images(source, entries, unusable)
    if not photos:
        reason = unusable[0].reason if unusable else "`images` is empty"
        raise AnnotationError(f"{source.file}: it has no usable image: {reason}")
    _add_captions(photos, annotations, unusable)
    if annotations and not any(photo.captions for photo in photos.values()):
        raise AnnotationError(
            f"{source.file}: none of its annotations is a caption of its images ({unusable[-1].reason}): "
            "use captions_*.json, not the file of instances or keypoints"
        )
    images, captions = records_of(source.file, photos.values())
    digest = hashlib.sha256(content).hexdigest()
    return Annotations(source.file, NAME, source.name, digest, images, captions, tuple(unusable))


def _parse(file: Path, content: bytes) -> tuple[list[Any], list[Any]]:
    try:
        parsed = json.loads(decode_text(content))
    except (ValueError, RecursionError, TextError) as error:
        raise AnnotationError(f"{file}: not valid JSON: {error}") from None
    lists = parsed.get("images"), parsed.get("annotations", [])
    if not isinstance(lists[0], list) or not isinstance(lists[1], list):
        field = "annotations" if isinstance(lists[0], list) else "images"
        raise AnnotationError(f"{file}: not an annotation file such as captions_val2017.json: `{field}` is not a list")
    return lists


def _read_images(source: Source, entries: Iterable[object], unusable: list[Unusable]) -> dict[int, Photo]:
    """Return the usable photos by id; the others are added to `unusable`."""
    photos: dict[int, Photo] = {}
    folders: dict[str, list[Photo]] = {}
    for order, entry in enumerate(entries):
        try:
            image = _Image.model_validate(entry)
        except ValidationError as error:
            unusable.append(_unusable_image(len(photos), entry, _reason(f"images[{order}]", error)))
            continue
        if image.id in photos:
            raise AnnotationError(f"{source.file}: images[{order}].id: {image.id} occurs twice")
        official = _OFFICIAL.fullmatch(image.coco_url or "")
        folder = official["folder"] if official else source.name
        photo = Photo(image.file_name, folder, image.id, image.coco_url if official else None)
        photos[image.id] = photo
        if official:
            folders.setdefault(folder, []).append(photo)
    for folder, group in folders.items():
        if _is_in(source.photos / folder, group) and not _is_in(source.photos, group):
            for photo in group:
                photo.file = f"{folder}/{photo.file}"
    return photos


def _is_in(folder: Path, photos: Iterable[Photo]) -> bool:
    """Return whether the folder has one of the first photos."""
    return any((folder / photo.file).is_file() for photo in islice(photos, PHOTOS_TRIED))


def _add_captions(photos: dict[int, Photo], annotations: Iterable[object], unusable: list[Unusable]) -> None:
    """Add the captions to their photos; those that cannot be used are added to `unusable`."""
    without_photo = {entry.image_id for entry in unusable}
    orders = {image_id: order for order, image_id in enumerate(photos)}
    for number, entry in enumerate(annotations):
        try:
            caption = _Annotation.model_validate(entry)
            if caption.image_id in photos:
                photos[caption.image_id].captions.append((caption.id, caption.caption))
                continue
            if caption.image_id in without_photo:  # which is a failure with all of its captions
                continue
            reason = f"annotations[{number}].image_id: no image has the id {caption.image_id}"
        except ValidationError as error:
            reason = _reason(f"annotations[{number}]", error)
        fields = entry if isinstance(entry, dict) else {}
        image_id = id_or_none(fields.get("image_id"))
        photo = photos.get(image_id) if image_id is not None else None
        unusable.append(
            Unusable(
                orders[image_id] if photo and image_id is not None else 0,
                "captions",
                photo.file if photo else "",
                image_id,
                photo.split if photo else None,
                id_or_none(fields.get("id")),
                reason,
            )
        )


def _unusable_image(order: int, entry: object, reason: str) -> Unusable:
    fields = entry if isinstance(entry, dict) else {}
    name = fields.get("file_name")
    file = name if isinstance(name, str) else ""
    return Unusable(order, "images", file, id_or_none(fields.get("id")), None, None, reason)


def _reason(place: str, error: ValidationError) -> str:
    problem = first_problem(error)
    return ".".join(filter(None, (place, problem.place))) + f": {problem.message}"
