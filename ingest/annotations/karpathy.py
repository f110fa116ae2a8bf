"""Read and validate annotation files of the Karpathy splits: `dataset_coco.json`, and those for Flickr8k and Flickr30k.

Source: Karpathy and Fei-Fei, Deep Visual-Semantic Alignments for Generating Image Descriptions, CVPR 2015.
"""

from __future__ import annotations

import codecs
import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from ingest.annotations.fields import CaptionText, Id, PhotoPath, check_split, id_or_none
from ingest.annotations.records import Annotations, Unusable
from ingest.annotations.source import Source
from search.errors import AnnotationError, TextError
from search.index.sources import KARPATHY
from search.records import COCO_PHOTOS, Caption, Image
from search.text import decode_text
from search.validation import Problem, first_problem, problem_of

NAME = KARPATHY
OFFICIAL_FOLDERS = ("train2014", "val2014")


class _Entry(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore", str_strip_whitespace=True)


class _Sentence(_Entry):
    raw: CaptionText
    sentid: Id


class _Photo(_Entry):
    filename: Annotated[PhotoPath, Field(min_length=1)]
    filepath: PhotoPath = ""
    imgid: Id | None = None
    cocoid: Id | None = None
    split: Annotated[str, Field(min_length=1), AfterValidator(check_split)]
    sentences: list[_Sentence]

    @property
    def id(self) -> int | None:
        return self.imgid if self.cocoid is None else self.cocoid


class _File(_Entry):
    dataset: Annotated[str, Field(min_length=1)]
    images: Annotated[list[_Photo], Field(min_length=1)]


def fits(start: bytes) -> bool:
    """Return whether a file that starts like this is JSON, if no other format fits; `read` explains what is wrong."""
    return start.startswith((b"{", b"["))


def read(source: Source) -> Annotations:
    """Read and validate an annotation file.

    A broken caption, or a broken entry with all of its captions, is skipped and listed in `unusable`. Positions count
    the captions that are left.

    Raises:
        AnnotationError: it is not an annotation file, uses an id twice, or has no usable image.
    """
    file, content = source.file, source.stream.read()
    dataset, photos, unusable = _parse(file, content.removeprefix(codecs.BOM_UTF8))
    _refuse_duplicates(file, "images[{}]." + ("cocoid" if photos[0][1].cocoid is not None else "imgid"), _ids(photos))
    sentences = [sentence for _, photo in photos for sentence in photo.sentences]
    _refuse_duplicates(file, "the sentid of caption {}", enumerate(sentence.sentid for sentence in sentences))

    images, captions = [], []
    for order, photo in photos:
        path = str(PurePosixPath(photo.filepath, photo.filename))
        official = dataset == "coco" and photo.filepath in OFFICIAL_FOLDERS
        url = f"{COCO_PHOTOS}{path}" if official else None
        texts = tuple(sentence.raw for sentence in photo.sentences)
        assert photo.id is not None
        image = Image(id=photo.id, split=photo.split, order=order, file=path, url=url, captions=texts)
        images.append(image)
        captions += [
            Caption(sentence.sentid, image.id, photo.split, position, sentence.raw, url)
            for position, sentence in enumerate(photo.sentences)
        ]
    digest = hashlib.sha256(content).hexdigest()
    return Annotations(file, NAME, dataset, digest, tuple(images), tuple(captions), tuple(unusable))


_Photos = list[tuple[int, _Photo]]
"""Entries, each with its 0-based place in the file."""


def _parse(file: Path, content: bytes) -> tuple[str, _Photos, list[Unusable]]:
    """Return the data set's name, the usable entries, and what is skipped.

    A valid file is parsed once; only a file with faults is parsed again, to remove them.
    """
    unusable: list[Unusable] = []
    try:
        parsed = _File.model_validate_json(content)
        photos = list(enumerate(parsed.images))
    except ValidationError as error:
        parsed, photos = _parse_without_faults(file, content, error, unusable)
    with_cocoid = [photo.cocoid is not None for _, photo in photos]
    id_field = "cocoid" if any(with_cocoid) else "imgid"
    for order, photo in photos:
        if getattr(photo, id_field) is None:
            reason = "missing, while other images have one" if id_field == "cocoid" else "missing"
            unusable.append(_of_entry(order, photo.model_dump(), f"images[{order}].{id_field}: {reason}"))
    photos = [(order, photo) for order, photo in photos if getattr(photo, id_field) is not None]
    if not photos:
        raise AnnotationError(f"{file}: it has no usable image: {unusable[0].reason}")
    return parsed.dataset, photos, sorted(unusable, key=lambda entry: entry.order)


def _parse_without_faults(
    file: Path, content: bytes, error: ValidationError, unusable: list[Unusable]
) -> tuple[_File, _Photos]:
    """Parse the file without the broken entries and captions, which are added to `unusable`.

    Raises:
        AnnotationError: `error` is about something other than single entries, or none is left.
    """
    try:
        # Python's parser, unlike pydantic's, reads lone surrogates, so that their captions can be named.
        raw = json.loads(decode_text(content))
    except (ValueError, RecursionError, TextError) as unreadable:
        detail = unreadable if isinstance(unreadable, TextError) else _explain(error)
        raise AnnotationError(f"{file}: {detail}") from None
    try:
        parsed = _File.model_validate(raw)
        return parsed, list(enumerate(parsed.images))
    except ValidationError as still_wrong:
        broken = _remove_faults(file, raw, still_wrong, unusable)
    left = [order for order in range(len(raw["images"])) if order not in broken]
    if not left:
        raise AnnotationError(f"{file}: it has no usable image: {unusable[0].reason}")
    parsed = _File.model_validate({**raw, "images": [raw["images"][order] for order in left]})
    return parsed, list(zip(left, parsed.images, strict=True))


def _remove_faults(file: Path, raw: dict[str, Any], error: ValidationError, unusable: list[Unusable]) -> set[int]:
    """Remove broken captions from `raw`, add what is broken to `unusable`, and return the places of broken entries."""
    broken_entries: set[int] = set()
    broken_sentences: dict[int, set[int]] = {}
    for fault in error.errors(include_url=False, include_context=False, include_input=False):
        problem = problem_of(fault)
        match problem.steps:
            case ("images", int(order), "sentences", int(number), *_):
                numbers = broken_sentences.setdefault(order, set())
                if number not in numbers:
                    numbers.add(number)
                    unusable.append(_of_sentence(order, raw["images"][order], number, _describe(problem)))
            case ("images", int(order), "sentences"):  # the photo may still be good
                raw["images"][order]["sentences"] = []
                unusable.append(replace(_of_entry(order, raw["images"][order], _describe(problem)), kind="captions"))
            case ("images", int(order), *_):
                if order not in broken_entries:
                    broken_entries.add(order)
                    unusable.append(_of_entry(order, raw["images"][order], _describe(problem)))
            case _:
                raise AnnotationError(f"{file}: {_explain(error)}")
    unusable[:] = [entry for entry in unusable if entry.kind == "images" or entry.order not in broken_entries]
    for order, numbers in broken_sentences.items():
        sentences = raw["images"][order]["sentences"]
        raw["images"][order]["sentences"] = [each for number, each in enumerate(sentences) if number not in numbers]
    return broken_entries


def _of_entry(order: int, entry: object, reason: str) -> Unusable:
    fields = entry if isinstance(entry, dict) else {}
    names = [name for name in (fields.get("filepath"), fields.get("filename")) if isinstance(name, str) and name]
    image_id = id_or_none(fields.get("imgid") if fields.get("cocoid") is None else fields["cocoid"])
    split = fields.get("split")
    return Unusable(order, "images", "/".join(names), image_id, split if isinstance(split, str) else None, None, reason)


def _of_sentence(order: int, entry: dict[str, Any], number: int, reason: str) -> Unusable:
    sentence = entry["sentences"][number]
    caption_id = id_or_none(sentence.get("sentid")) if isinstance(sentence, dict) else None
    return replace(_of_entry(order, entry, reason), kind="captions", caption_id=caption_id)


def _ids(photos: _Photos) -> Iterator[tuple[int, int]]:
    return ((order, photo.id) for order, photo in photos if photo.id is not None)


def _refuse_duplicates(file: Path, field: str, ids: Iterable[tuple[int, int]]) -> None:
    seen: dict[int, int] = {}
    for number, value in ids:
        if value in seen:
            raise AnnotationError(
                f"{file}: {field.format(number)}: {value} occurs twice (first at {seen[value]}, counted from 0)"
            )
        seen[value] = number


def _explain(error: ValidationError) -> str:
    """Return the first problem as "images[3].sentences[0].raw: the caption is empty", and the number of others."""
    problem = first_problem(error)
    more = f" (and {error.error_count() - 1:,} more)" if error.error_count() > 1 else ""
    if not problem.steps:  # not JSON, or not an object
        return f"not an annotation file such as dataset_coco.json ({problem.message})"
    return f"{_describe(problem)}{more}"


def _describe(problem: Problem) -> str:
    place = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in problem.steps).lstrip(".")
    return f"{place}: {problem.message}"
