"""Reads `dataset_coco.json` and its siblings for Flickr8k and Flickr30k, the Karpathy splits, and validates them.

Source: Karpathy and Fei-Fei, Deep Visual-Semantic Alignments for Generating Image Descriptions, CVPR 2015.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from search.errors import AnnotationError, TextError
from search.records import Caption, Image
from search.text import decode_text

OFFICIAL_FOLDERS = ("train2014", "val2014")


def _relative(path: str) -> str:
    if "\\" in path or "\0" in path or PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
        raise ValueError(f"{path!r} leads out of the photo folder")
    return path


def _text(value: object) -> object:
    if isinstance(value, str) and not value.strip():
        raise ValueError("the caption is empty")
    return value


_Id = Annotated[int, Field(ge=0, lt=2**63)]
_Name = Annotated[str, Field(min_length=1), AfterValidator(_relative)]


class _Entry(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore", str_strip_whitespace=True)


class _Sentence(_Entry):
    raw: Annotated[str, BeforeValidator(_text)]
    sentid: _Id


class _Photo(_Entry):
    filename: _Name
    filepath: Annotated[str, AfterValidator(_relative)] = ""
    imgid: _Id
    cocoid: _Id | None = None
    split: Annotated[str, Field(min_length=1)]
    sentences: Annotated[list[_Sentence], Field(min_length=1)]


class _File(_Entry):
    dataset: Annotated[str, Field(min_length=1)]
    images: Annotated[list[_Photo], Field(min_length=1)]


@dataclass(frozen=True, slots=True)
class Annotations:
    """A whole annotation file: its data set's name, its SHA-256, its images and captions in the order of the file."""

    file: Path
    dataset: str
    sha256: str
    images: tuple[Image, ...]
    captions: tuple[Caption, ...]

    def splits(self) -> Counter[str]:
        """How many images each split has."""
        return Counter(image.split for image in self.images)

    def select(self, splits: Sequence[str], limit: int | None = None) -> tuple[list[Image], list[Caption]]:
        """The images of some splits ("all" means every one), at most `limit`, and their captions.

        Raises:
            AnnotationError: a split that is not in the file.
        """
        known = self.splits()
        if missing := [split for split in splits if split not in known and split != "all"]:
            there = ", ".join(f"{name} ({count:,} images)" for name, count in known.items())
            raise AnnotationError(f"{self.file}: no split {missing[0]!r}; it has {there}")
        images = [image for image in self.images if "all" in splits or image.split in splits][:limit]
        chosen = {image.id for image in images}
        return images, [caption for caption in self.captions if caption.image_id in chosen]


def read_annotations(file: Path) -> Annotations:
    """Reads and validates an annotation file.

    Raises:
        AnnotationError: naming the file, the entry and the field that is wrong.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise AnnotationError(f"cannot read the annotations {file}: {error.strerror}") from error
    try:
        text = decode_text(content)
    except TextError as error:
        raise AnnotationError(f"{file}: {error}") from None
    try:
        parsed = _File.model_validate_json(text)
    except ValidationError as error:
        raise AnnotationError(f"{file}: {_explain(error)}") from None
    photos = parsed.images
    if 0 < sum(photo.cocoid is not None for photo in photos) < len(photos):
        bare = next(number for number, photo in enumerate(photos) if photo.cocoid is None)
        raise AnnotationError(f"{file}: images[{bare}].cocoid: missing, while other images have one")
    _refuse_twins(file, "images[{}]." + ("imgid" if photos[0].cocoid is None else "cocoid"), map(_id, photos))
    sentences = [sentence for photo in photos for sentence in photo.sentences]
    _refuse_twins(file, "the sentid of caption {}", (sentence.sentid for sentence in sentences))

    images, captions = [], []
    for order, photo in enumerate(photos):
        path = str(PurePosixPath(photo.filepath, photo.filename))
        official = parsed.dataset == "coco" and photo.filepath in OFFICIAL_FOLDERS
        url = f"http://images.cocodataset.org/{path}" if official else None
        texts = tuple(sentence.raw for sentence in photo.sentences)
        image = Image(id=_id(photo), split=photo.split, order=order, file=path, url=url, captions=texts)
        images.append(image)
        captions += [
            Caption(sentence.sentid, image.id, photo.split, position, sentence.raw, url)
            for position, sentence in enumerate(photo.sentences)
        ]
    return Annotations(file, parsed.dataset, hashlib.sha256(content).hexdigest(), tuple(images), tuple(captions))


def _id(photo: _Photo) -> int:
    return photo.imgid if photo.cocoid is None else photo.cocoid


def _refuse_twins(file: Path, field: str, ids: Iterable[int]) -> None:
    seen: dict[int, int] = {}
    for number, value in enumerate(ids):
        if value in seen:
            raise AnnotationError(
                f"{file}: {field.format(number)}: {value} occurs twice (first at {seen[value]}, counting from 0)"
            )
        seen[value] = number


def _explain(error: ValidationError) -> str:
    """The first complaint as "images[3].sentences[0].raw: the caption is empty", and how many more there are."""
    first: Any = error.errors()[0]
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"]).lstrip(".")
    message = first["msg"].removeprefix("Value error, ")
    more = f" (and {error.error_count() - 1:,} more)" if error.error_count() > 1 else ""
    if first["type"] in ("json_invalid", "model_type") and not place:
        return f"not an annotation file such as dataset_coco.json ({message})"
    return f"{place}: {message}{more}"
