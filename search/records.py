"""Stored images and captions, as frozen dataclasses, and search hits.

A record and its Qdrant payload hold the same facts: `payload()` and `record_of()` are inverses. People read payloads in
the Qdrant dashboard, so the names in them are part of the design. Fields that users add to a payload, such as a note
typed in the dashboard, are kept in `extra`, which is ignored in comparisons.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

from search.errors import IndexFailure

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Vectors: TypeAlias = "npt.NDArray[np.float32]"  # a string, so that `--help` does not import numpy
"""float32 (n, dim) or, for a single vector, (dim,); of unit length unless stated otherwise."""
Kind = Literal["images", "captions"]
KINDS: tuple[Kind, ...] = ("images", "captions")
Wanted = Literal["images", "captions", "both"]

COCO_PHOTOS = "http://images.cocodataset.org/"  # above the folders of its photos


@dataclass(frozen=True, slots=True)
class PhotoMark:
    """The photo file that was embedded: its size in bytes, modification time in nanoseconds, and a hash of its content.

    The time is ignored in comparisons: a copy of a file is the same photo.
    """

    bytes: int
    modified: int = field(compare=False)
    blake2b: str

    def fields(self) -> dict[str, Any]:
        return {"bytes": self.bytes, "modified": self.modified, "blake2b": self.blake2b}


HUBNESS = "hubness"
"""The name of the payload field of an image that the ranking is corrected by."""
MAX_HUBNESS = 10  # the largest alpha, which multiplies it

MARK_NAMES = frozenset(field.name for field in fields(PhotoMark))


class _Record:
    """The payload of images and captions; `NAMES` are the fields that this project writes, users added all others."""

    __slots__ = ()
    NAMES: ClassVar[frozenset[str]]
    extra: Mapping[str, Any] | None

    def fields(self) -> dict[str, Any]:
        """Return this project's part of the payload."""
        raise NotImplementedError

    def payload(self) -> dict[str, Any]:
        """Return the whole payload, with the fields that users added."""
        return {**(self.extra or {}), **self.fields()}

    def changes(self) -> dict[str, Any]:
        """Return what to merge into a stored payload: this project's fields, None for each field to delete."""
        return {**dict.fromkeys(self.NAMES), **self.fields()}


@dataclass(frozen=True, slots=True)
class Image(_Record):
    """One photo of the data set.

    `order` is its 0-based position in the annotation file, `file` its path relative to the photo folder, `url` its
    official address if it has one, `captions` all of its captions in the order of the annotation file, and `photo` the
    file that the stored vector was made from. If `stale`, the vector is being replaced and may still be that of the
    previous content. `hubness` is the mean cosine of its nearest reference captions (`python -m ingest hubness`), which
    belongs to the stored vector. It is ignored in comparisons, as is `extra`, the fields of the payload that users
    added.
    """

    NAMES = frozenset(("image_id", "split", "order", "file", "captions", "url", "photo", "stale", HUBNESS))

    id: int
    split: str
    order: int
    file: str
    url: str | None
    captions: tuple[str, ...]
    photo: PhotoMark | None = None
    stale: bool = False
    hubness: float | None = field(default=None, compare=False)
    extra: Mapping[str, Any] | None = field(default=None, compare=False)

    @property
    def image_id(self) -> int:
        return self.id

    def fields(self) -> dict[str, Any]:
        return {
            "image_id": self.id,
            "split": self.split,
            "order": self.order,
            "file": self.file,
            "captions": list(self.captions),
            **({"url": self.url} if self.url else {}),
            **({"photo": self.photo.fields()} if self.photo else {}),
            **({"stale": True} if self.stale else {}),
            **({HUBNESS: self.hubness} if self.hubness is not None else {}),
        }


@dataclass(frozen=True, slots=True)
class Caption(_Record):
    """One sentence about one photo.

    `position` is its 0-based position among that photo's captions. If `truncated`, the text was longer than the model
    reads. `stale` and `extra` are as in an Image.
    """

    NAMES = frozenset(("caption_id", "image_id", "split", "position", "text", "url", "truncated", "stale"))

    id: int
    image_id: int
    split: str
    position: int
    text: str
    url: str | None
    truncated: bool = False
    stale: bool = False
    extra: Mapping[str, Any] | None = field(default=None, compare=False)

    def fields(self) -> dict[str, Any]:
        return {
            "caption_id": self.id,
            "image_id": self.image_id,
            "split": self.split,
            "position": self.position,
            "text": self.text,
            **({"url": self.url} if self.url else {}),
            **({"truncated": True} if self.truncated else {}),
            **({"stale": True} if self.stale else {}),
        }


@dataclass(slots=True)  # a frozen one takes six times as long to make, and an answer has dozens
class Hit:
    """One search result.

    `score` is the cosine similarity, unless it was corrected for hubness, or captions were evidence: then `uncorrected`
    is the cosine, and `evidence` the caption that counted, with its own cosine (None: the photo has none). `record` is
    None if payloads were not requested; `also` holds the hits that this one represents: other captions of its image, or
    near-duplicates further down the list. A Searcher sets `caption` for an image: the caption nearest to the query, or
    the first one if none of its captions is in the index. It is None for a caption, for an image without captions, and
    within `also`. A Searcher also sets `rank`, the place among the results of its kind, from 1; it is 0 within `also`.
    """

    id: int
    score: float
    record: Image | Caption | None = None
    also: tuple[Hit, ...] = ()
    caption: str | None = None
    uncorrected: float | None = None
    evidence: Hit | None = None
    rank: int = field(default=0, compare=False)

    def __hash__(self) -> int:
        return hash(self.id)

    @property
    def cosine(self) -> float:
        return self.score if self.uncorrected is None else self.uncorrected

    @property
    def kind(self) -> Kind:
        return "captions" if isinstance(self.record, Caption) else "images"

    @property
    def image_id(self) -> int:
        """The id of this image, or of the image that this caption describes."""
        return self.record.image_id if self.record else self.id

    @property
    def text(self) -> str:
        """The words that stand for this hit: its caption, otherwise the photo's file, or the id without a record."""
        match self.record:
            case Image(file=file):
                return self.caption or file
            case Caption(text=text):
                return text
            case None:
                return str(self.id)


def record_of(payload: Mapping[str, Any]) -> Image | Caption:
    """Return the record that a payload describes.

    Raises:
        IndexFailure: the payload was not written by this project.
    """
    try:
        if "caption_id" in payload:
            return Caption(
                id=payload["caption_id"],
                image_id=payload["image_id"],
                split=payload["split"],
                position=payload["position"],
                text=payload["text"],
                url=payload.get("url"),
                truncated=bool(payload.get("truncated")),
                stale=bool(payload.get("stale")),
                extra=_extra(payload, Caption),
            )
        return Image(
            id=payload["image_id"],
            split=payload["split"],
            order=payload["order"],
            file=payload["file"],
            url=payload.get("url"),
            captions=tuple(payload["captions"]),
            photo=_mark(payload.get("photo")),
            stale=bool(payload.get("stale")),
            hubness=_number(payload.get(HUBNESS)),
            extra=_extra(payload, Image),
        )
    except (KeyError, TypeError) as missing:
        known = {key: payload[key] for key in ("caption_id", "image_id") if key in payload}
        raise IndexFailure(
            f"a stored point ({known or 'without ids'}) lacks {missing} in its payload: "
            "something else wrote into this collection; ingest it again under another --dataset"
        ) from None


def _mark(stored: object) -> PhotoMark | None:
    """Return the mark in a payload's `photo`, or None if it is incomplete, so that the photo is embedded again."""
    if not isinstance(stored, Mapping) or not stored.keys() >= MARK_NAMES:
        return None
    return PhotoMark(**{name: stored[name] for name in MARK_NAMES})


def _number(stored: object) -> float | None:
    """Return the number in a payload, or None if it is something else."""
    return float(stored) if isinstance(stored, int | float) and not isinstance(stored, bool) else None


def _extra(payload: Mapping[str, Any], kind: type[_Record]) -> Mapping[str, Any] | None:
    if payload.keys() <= kind.NAMES:  # nearly always; a page of results reads hundreds of records
        return None
    return {key: value for key, value in payload.items() if key not in kind.NAMES}
