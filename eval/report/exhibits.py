"""A miss as the page shows it: what was asked, what was expected, what came back, each with its photo."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from eval.report.misses import margin
from eval.runs import QueryResult
from search.errors import PhotoError
from search.records import Caption, Image, Kind
from search.sheet import OpenPhoto, Thumbnail, Thumbnails

RETURNED = 5  # hits shown of each query
SIDE, QUALITY = 220, 72  # of the photos inside the page: the two hundred of a full gallery stay below 3 MB
GONE = "no longer in the index"

Records = Callable[[Kind, Sequence[int]], Mapping[int, Image | Caption]]
"""Looks up records in the index: "images" or "captions", and their ids; those that are not there are left out."""


@dataclass(frozen=True, slots=True)
class Photo:
    """A photo's place on the page: `small` is its copy, or None where it cannot be shown, and `lost` then says why."""

    image_id: int
    alt: str
    small: Thumbnail | None
    lost: str = ""


@dataclass(frozen=True, slots=True)
class Returned:
    """One of the first hits: 1-based place, cosine, whether it is a positive, its text, and its (image's) photo."""

    place: int
    score: float
    positive: bool
    text: str
    photo: Photo


@dataclass(frozen=True, slots=True)
class Exhibit:
    """One miss: `photo` is the query's own for image-to-text, the expected one for text-to-image.

    `margin` is how much higher (cosine) the first hit scores than the best positive; `expected` are the captions of the
    image as (text, whether it is the best-ranked one).
    """

    result: QueryResult
    margin: float
    photo: Photo
    expected: tuple[tuple[str, bool], ...]
    returned: tuple[Returned, ...]


class Photos:
    """The photos of one page, each embedded once: `used` by image id, in the order of their first use."""

    def __init__(self, open_photo: OpenPhoto) -> None:
        self._thumbnails = Thumbnails(open_photo, SIDE, QUALITY)
        self.used: dict[int, Thumbnail] = {}

    def of(self, image_id: int, record: Image | Caption | None) -> Photo:
        described = record.captions[0] if isinstance(record, Image) and record.captions else f"image {image_id}"
        try:
            self.used[image_id] = small = self._thumbnails.of(image_id)
        except PhotoError as error:
            return Photo(image_id, described, None, str(error))
        return Photo(image_id, described, small)


def exhibits(
    results: Sequence[QueryResult], records: Records, photos: Photos, captions_per_image: int | None = None
) -> list[Exhibit]:
    """What the page shows of some misses of one direction; of the expected captions only those that took part."""
    captions: Mapping[int, Image | Caption] = {}
    images = {result.image_id for result in results}
    hits = {hit.id for result in results for hit in result.top[:RETURNED]}
    if any(result.direction == "image-to-text" for result in results):
        captions = records("captions", sorted(hits | {result.positive for result in results}))
        images |= {caption.image_id for caption in captions.values()}
    else:
        images |= hits
    known = records("images", sorted(images))

    def returned(result: QueryResult) -> tuple[Returned, ...]:
        shown = []
        for place, hit in enumerate(result.top[:RETURNED], start=1):
            record = captions.get(hit.id) if result.direction == "image-to-text" else known.get(hit.id)
            photo = (
                photos.of(record.image_id, known.get(record.image_id)) if record else Photo(hit.id, GONE, None, GONE)
            )
            shown.append(Returned(place, hit.score, hit.positive, _text(record), photo))
        return tuple(shown)

    def expected(result: QueryResult) -> tuple[tuple[str, bool], ...]:
        image, best = known.get(result.image_id), captions.get(result.positive)
        position = best.position if isinstance(best, Caption) else None
        texts = image.captions[:captions_per_image] if isinstance(image, Image) else ()
        return tuple((text, number == position) for number, text in enumerate(texts))

    return [
        Exhibit(
            result,
            margin(result),
            photos.of(result.image_id, known.get(result.image_id)),
            expected(result),
            returned(result),
        )
        for result in results
    ]


def _text(record: Image | Caption | None) -> str:
    match record:
        case Caption(text=text):
            return text
        case Image(captions=captions, file=file):
            return captions[0] if captions else file
        case None:
            return GONE
