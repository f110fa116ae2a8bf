"""The gallery of misses: a choice of them, each with its query, the expected item, the hits, and their photos."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from eval.protocol import IMAGE_TO_TEXT
from eval.report.tables import Cell, Row, Table
from eval.runs import QueryResult
from eval.stats import share_interval
from search.errors import PhotoError
from search.records import Caption, Image, Kind
from search.sheet import OpenPhoto, Thumbnail, Thumbnails

SAMPLE, PER_GROUP = 50, 6  # of the random sample, and of the other groups
RETURNED = 5  # hits shown of each query
SIDE, QUALITY = 200, 60  # of the photos inside the page: the seven hundred of a full gallery take about 6 MB
GONE = "no longer in the index"
GROUPS = (
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
    that a share seen in it estimates the share among all (`share_interval`); it is in order of rank. `confident` are
    those whose first hit scores highest above the best positive, `furthest` those with the worst ranks; both leave out
    queries of an earlier group.
    """

    queries: int
    misses: int
    sample: tuple[QueryResult, ...]
    confident: tuple[QueryResult, ...]
    furthest: tuple[QueryResult, ...]


def margin(result: QueryResult) -> float:
    """Return how much higher (cosine) the first hit scores than the best positive, rounded as in ranks.jsonl."""
    return result.top[0].score - result.score


def choose(
    results: Sequence[QueryResult], per_group: int = PER_GROUP, seed: int = 0, *, sample_size: int = SAMPLE
) -> Misses:
    """Return the misses to show of one direction's `results`, in whatever order they are.

    The sample is drawn by a hash of the query's id: a query that two runs miss tends to be in the sample of both, so
    that their pages can be read side by side.
    """
    misses = [result for result in results if result.rank > 1]
    shown: set[int] = set()

    def first(count: int, key: Callable[[QueryResult], Any]) -> tuple[QueryResult, ...]:
        remaining = (result for result in misses if result.query not in shown)
        chosen = sorted(remaining, key=lambda result: (key(result), result.query))[:count]
        shown.update(result.query for result in chosen)
        return tuple(chosen)

    sample = first(sample_size, lambda result: blake2b(f"{seed}:{result.query}".encode()).digest())
    confident = first(per_group, lambda result: -margin(result))
    furthest = first(per_group, lambda result: -result.rank)
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
    if any(result.direction == IMAGE_TO_TEXT for result in results):
        captions = records("captions", sorted(hits | {result.positive for result in results}))
        images |= {caption.image_id for caption in captions.values()}
    else:
        images |= hits
    known = records("images", sorted(images))

    def returned(result: QueryResult) -> tuple[Returned, ...]:
        shown = []
        for place, hit in enumerate(result.top[:RETURNED], start=1):
            record = captions.get(hit.id) if result.direction == IMAGE_TO_TEXT else known.get(hit.id)
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
    """Misses of one kind, a sentence about the kind, and for a sample the shares that a count in it stands for."""

    title: str
    about: str
    exhibits: list[Exhibit]
    shares: Table | None = None


@dataclass(frozen=True, slots=True)
class Gallery:
    """The misses of one direction: their number, that of the queries, and those shown."""

    direction: str
    queries: int
    misses: int
    groups: list[Group]


def gallery(way: str, results: Sequence[QueryResult], records: Records, photos: Photos, keep: int | None) -> Gallery:
    """Return the gallery of one direction; `keep` is the number of evaluated captions of each image, None for all."""
    chosen = choose(results)
    groups = [
        Group(title, about, exhibits(found, records, photos, keep))
        for kind, title, about in GROUPS
        if (found := getattr(chosen, kind))
    ]
    if chosen.sample:
        groups.insert(0, _sample(chosen, exhibits(chosen.sample, records, photos, keep)))
    return Gallery(way, chosen.queries, chosen.misses, groups)


def _sample(chosen: Misses, exhibits: list[Exhibit]) -> Group:
    drawn, total = len(exhibits), chosen.misses
    judge = "Count the first hits that are really right answers, and you know how much of the missing recall"
    if drawn == total:
        return Group(f"All {total:,} misses", f"{judge} is the data set's doing.", exhibits)
    third = drawn // 3
    low, high = share_interval(third, drawn, total)
    about = (
        f"Drawn without looking at scores, so it stands for all misses. {judge}, about, is the data set's doing: "
        f"{third} of {drawn} would mean {low:.1f} to {high:.1f} % of all misses, with 95 % confidence."
    )
    return Group(f"A random sample of {drawn} of all {total:,} misses", about, exhibits, shares_table(chosen))


def shares_table(chosen: Misses) -> Table:
    """Return for each count that a reader may find in the sample its share of all misses, with the 95% interval, and
    what recall@1 would be if these misses counted as hits."""
    drawn, hits = len(chosen.sample), chosen.queries - chosen.misses

    def row(found: int) -> Row:
        shares = (100 * found / drawn, *share_interval(found, drawn, chosen.misses))
        share, low, high = shares
        recall, least, most = ((100 * hits + each * chosen.misses) / chosen.queries for each in shares)
        return Row(
            f"{found} of {drawn}",
            (
                Cell(f"{share:.1f}", f"{low:.1f}\N{EN DASH}{high:.1f}", value=share),
                Cell(f"{recall:.1f}", f"{least:.1f}\N{EN DASH}{most:.1f}", value=recall),
            ),
        )

    rows = tuple(row(found) for found in range(drawn + 1))
    head = ("share of all misses", "recall@1, if they counted as hits")
    return Table("Right answers found in the sample: percent, and 95 % interval", head, (("", rows),))
