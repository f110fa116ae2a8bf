"""The gallery of misses: a choice of them, each with its query, the expected item, the hits, and their photos."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from eval.runs import QueryResult
from search.errors import PhotoError
from search.records import Caption, Image, Kind
from search.sheet import OpenPhoto, Thumbnail, Thumbnails

PER_GROUP = 6
RETURNED = 5  # hits shown of each query
SIDE, QUALITY = 220, 72  # of the photos inside the page: the two hundred of a full gallery take less than 3 MB
GONE = "no longer in the index"
GROUPS = (
    (
        "sample",
        "A random sample of all misses",
        "Drawn without looking at scores, so it stands for all misses: count the first hits that are really right "
        "answers, and you know about how much of the missing recall is the data set's doing.",
    ),
    (
        "confident",
        "Confident misses",
        "The first hit scores highest above the expected one: the model's strongest opinions, or wrong labels.",
    ),
    ("furthest", "Furthest away", "The worst ranks: the model does not see these at all."),
)

Records = Callable[[Kind, Sequence[int]], Mapping[int, Image | Caption]]
"""Looks up records in the index: "images" or "captions", and their ids; those that do not exist are left out."""


@dataclass(frozen=True, slots=True)
class Misses:
    """Misses of one direction: queries whose best positive ranks below the first place.

    `queries` and `misses` count all of them. No query is in two groups. `sample` is drawn at random from all misses, so
    that a share seen in it estimates the share among all; it is in order of rank. `confident` are those whose first hit
    scores highest above the best positive, `furthest` those with the worst ranks; both leave out queries of an earlier
    group.
    """

    queries: int
    misses: int
    sample: tuple[QueryResult, ...]
    confident: tuple[QueryResult, ...]
    furthest: tuple[QueryResult, ...]


def margin(result: QueryResult) -> float:
    """Return how much higher (cosine) the first hit scores than the best positive, rounded as in ranks.jsonl."""
    return result.top[0].score - result.score


def choose(results: Sequence[QueryResult], per_group: int = PER_GROUP, seed: int = 0) -> Misses:
    """Return the misses to show of one direction's `results`, in whatever order they are.

    The sample is drawn by a hash of the query's id: a query that two runs miss tends to be in the sample of both, so
    that their pages can be read side by side.
    """
    misses = [result for result in results if result.rank > 1]
    shown: set[int] = set()

    def first(key: Callable[[QueryResult], Any]) -> tuple[QueryResult, ...]:
        remaining = (result for result in misses if result.query not in shown)
        chosen = sorted(remaining, key=lambda result: (key(result), result.query))[:per_group]
        shown.update(result.query for result in chosen)
        return tuple(chosen)

    sample = first(lambda result: blake2b(f"{seed}:{result.query}".encode()).digest())
    confident = first(lambda result: -margin(result))
    furthest = first(lambda result: -result.rank)
    in_order = tuple(sorted(sample, key=lambda result: (result.rank, result.query)))
    return Misses(len(results), len(misses), in_order, confident, furthest)


@dataclass(frozen=True, slots=True)
class Photo:
    """A photo on the page: `small` is its thumbnail, None if the photo cannot be shown; `lost` is the reason."""

    image_id: int
    alt: str
    small: Thumbnail | None
    lost: str = ""


@dataclass(frozen=True, slots=True)
class Returned:
    """One of the first hits: its 1-based rank, cosine, whether it is a positive, its text, and its image's photo."""

    place: int
    score: float
    positive: bool
    text: str
    photo: Photo


@dataclass(frozen=True, slots=True)
class Exhibit:
    """One miss: `photo` is the query itself for image-to-text, the expected photo for text-to-image.

    `margin` is how much higher (cosine) the first hit scores than the best positive; `expected` are the captions of the
    image as (text, whether it is the best-ranked one).
    """

    result: QueryResult
    margin: float
    photo: Photo
    expected: tuple[tuple[str, bool], ...]
    returned: tuple[Returned, ...]


class Photos:
    """The photos of one page, each embedded once: `used` holds them by image id, in the order of their first use."""

    def __init__(self, open_photo: OpenPhoto) -> None:
        self._thumbnails = Thumbnails(open_photo, SIDE, QUALITY)
        self.used: dict[int, Thumbnail] = {}

    def of(self, image_id: int, record: Image | Caption | None) -> Photo:
        alt = record.captions[0] if isinstance(record, Image) and record.captions else f"image {image_id}"
        try:
            self.used[image_id] = small = self._thumbnails.of(image_id)
        except PhotoError as error:
            return Photo(image_id, alt, None, str(error))
        return Photo(image_id, alt, small)


def exhibits(
    results: Sequence[QueryResult], records: Records, photos: Photos, captions_per_image: int | None = None
) -> list[Exhibit]:
    """Return the misses of one direction as the page shows them, with the expected captions that were evaluated."""
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


@dataclass(frozen=True, slots=True)
class Group:
    """Misses of one kind, and a sentence about the kind."""

    title: str
    about: str
    exhibits: list[Exhibit]


@dataclass(frozen=True, slots=True)
class Gallery:
    """The misses of one direction: their number, that of the queries, and those shown."""

    direction: str
    queries: int
    misses: int
    groups: list[Group]


def gallery(
    way: str, results: Sequence[QueryResult], records: Records, photos: Photos, keep: int | None, per_group: int
) -> Gallery:
    """Return the gallery of one direction; `keep` is the number of evaluated captions of each image, None for all."""
    chosen = choose(results, per_group)
    groups = [
        Group(title, about, exhibits(found, records, photos, keep))
        for kind, title, about in GROUPS
        if (found := getattr(chosen, kind))
    ]
    return Gallery(way, chosen.queries, chosen.misses, groups)
