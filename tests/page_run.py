"""A small run, made by hand, whose report is known; and a reader of pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html.parser import HTMLParser
from typing import Any

import PIL.Image

from eval.runs import QueryResult, TopHit
from search.errors import PhotoError
from search.records import Caption, Image

HOSTILE = '<img src=x onerror="alert(1)"></p><script>alert(1)</script> & "quoted" {{ 7 * 7 }}'
HEBREW = "\u202eכלב על החוף"
TEXTS = {1: ("a dog", "one dog"), 2: (HOSTILE, "a cat"), 3: (HEBREW, "a beach"), 4: ("a kite", "two kites")}
IMAGES = {number: Image(number, "test", number, f"val/{number}.jpg", None, TEXTS[number]) for number in TEXTS}
CAPTIONS = {
    10 * number + place: Caption(10 * number + place, number, "test", place, text, None)
    for number, texts in TEXTS.items()
    for place, text in enumerate(texts)
}


def records(kind: str, ids: Sequence[int]) -> Mapping[int, Image | Caption]:
    known: Mapping[int, Image | Caption] = IMAGES if kind == "images" else CAPTIONS
    return {number: known[number] for number in ids if number in known}


def photo(image_id: int) -> PIL.Image.Image:
    if image_id == 4:
        raise PhotoError("no such file")
    return PIL.Image.new("RGB", (640, 480), (40 * image_id, 90, 120))


def by_caption(query: int, rank: int, served: int | None = None) -> QueryResult:
    """text-to-image: the images 1, 2, ... score 0.9, 0.8, ..., but the expected one stands at its rank."""
    own = query // 10
    others = [number for number in IMAGES if number != own]
    order = [*others[: rank - 1], own, *others[rank - 1 :]]
    top = tuple(TopHit(number, 0.9 - place / 10, number == own) for place, number in enumerate(order))
    score = 0.9 - (rank - 1) / 10
    text = CAPTIONS[query].text
    return QueryResult("text-to-image", query, own, text, rank, rank, score, own, {}, served, top)


def by_photo(query: int, rank: int, served: int | None = None) -> QueryResult:
    """image-to-text: likewise, with captions."""
    best = 10 * query
    others = [number for number in CAPTIONS if number // 10 != query]
    order = [*others[: rank - 1], best, *others[rank - 1 :]]
    top = tuple(TopHit(number, 0.9 - place / 10, number == best) for place, number in enumerate(order))
    score = 0.9 - (rank - 1) / 10
    return QueryResult("image-to-text", query, query, f"val/{query}.jpg", rank, rank, score, best, {}, served, top)


# text-to-image: ranks 1 1 1 1 2 2 3 4 of 4 images; image-to-text: ranks 1 2 3 6 of 8 captions.
RESULTS = [by_caption(query, rank, rank) for query, rank in zip(CAPTIONS, (1, 1, 2, 3, 2, 4, 1, 1), strict=True)]
RESULTS += [by_photo(query, rank, rank if rank < 6 else None) for query, rank in zip(IMAGES, (1, 2, 3, 6), strict=True)]
I2T = {"recall@1": 25.0, "recall@5": 75.0, "recall@10": 100.0, "median_rank": 2.5, "mean_rank": 3.0}
T2I = {"recall@1": 50.0, "recall@5": 100.0, "recall@10": 100.0, "median_rank": 1.5, "mean_rank": 1.875}
LEAST: dict[str, Any] = {"image-to-text": I2T, "text-to-image": T2I, "images": 4, "captions": 8}
SERVED = {"recall@1": 25.0, "recall@5": 74.0, "recall@10": 75.0, "median_rank": 3.0, "mean_rank": None}
FULL: dict[str, Any] = {
    **LEAST,
    "engine": "qdrant-exact",
    "engine_version": "qdrant-edge 0.9.0",
    "columns": [
        {"name": "oracle", "about": "a product", "image-to-text": I2T, "text-to-image": T2I},
        {
            "name": "qdrant-exact",
            "about": "every vector",
            "image-to-text": {**I2T, "mean_average_precision": 51.25},
            "text-to-image": T2I,
            "latency_ms": {"image-to-text": 4.0, "text-to-image": 2.0},
            "queries_per_second": {"image-to-text": 250.0, "text-to-image": 1234.0},
            "bytes_per_vector": 2048,
            "used": {"image-to-text": "scan", "text-to-image": "scan"},
        },
        {
            "name": "qdrant-served",
            "about": "as asked",
            "image-to-text": SERVED,
            "text-to-image": T2I,
            "latency_ms": {"image-to-text": 0.5, "text-to-image": 0.25},
            "queries_per_second": None,
            "bytes_per_vector": None,
            "used": {"image-to-text": "hnsw", "text-to-image": "indistinguishable from a scan"},
        },
    ],
    "loss": {"qdrant-served": {"image-to-text": {"recall@1": 0.0, "recall@10": -25.0}}},
    "intervals": {"image-to-text": {"recall@1": [0.0, 67.5]}},
    "pessimistic": {"text-to-image": {"queries": 1, "recall@1": 37.5}},
    "proportion": {"image-to-text": {"proportion@1": 12.5}},
    "caption_lengths": [
        {
            "shortest": shortest,
            "longest": longest,
            "queries": 4,
            "images": 3,
            "scores": {"recall@1": 25.0, "recall@5": 100.0, "recall@10": 100.0},
            "intervals": {"recall@1": [5.0, 50.0], "recall@5": [60.0, 100.0], "recall@10": [60.0, 100.0]},
        }
        for shortest, longest in ((2, 2), (3, 11))
    ],
    "folds": {"count": 2, "images": 1000, "image-to-text": I2T, "text-to-image": T2I},
    "extended": {"cxc": {"image-to-text": {"recall@1": 26.5}}, "eccv": {"text-to-image": {"map_at_r": 33.25}}},
    "published": [
        {
            "name": "OpenAI ViT-B/32",
            "source": "a <paper>",
            "image-to-text": {"recall@1": 50.1, "recall@5": 75.0, "recall@10": 83.5},
            "text-to-image": {"recall@1": 30.4},
            "same_model": True,
            "verdict": ["recall@1: 25.1 points below"],
        }
    ],
    "agreement": {
        "image-to-text": {"queries": 4, "differ_by_rounding": 0, "differ_unexplained": 0},
        "text-to-image": {"queries": 8, "differ_by_rounding": 1, "differ_unexplained": 2},
    },
    "fingerprint": {"model": "m", "revision": None, "versions": {"torch": "2.13.0"}, "splits": ["test", "val"]},
    "captions_per_image": 2,
    "split": "test",
    "dataset": "coco",
    "model": "/srv/models/<tiny>/model",
    "date": "2026-11-06T04:30:00+00:00",
    "rsum": 450.0,
    "notes": ["4 of 5,000 images"],
}


class Reader(HTMLParser):
    """A page's elements, its visible text, and its tables as rows of cells."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.rows: list[list[str]] = []
        self.text = ""
        self._style = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {key: value or "" for key, value in attrs}))
        self._style = tag in {"style", "script"}
        if tag == "tr":
            self.rows.append([])
        elif tag in {"td", "th"}:
            self.rows[-1].append("")
        elif tag == "small" and self.rows:
            self.handle_data(" ")

    def handle_endtag(self, tag: str) -> None:
        if tag == "table":
            self.rows.append([])  # what follows is no cell

    def handle_data(self, data: str) -> None:
        if not self._style:
            self.text += data
            if self.rows and self.rows[-1]:
                self.rows[-1][-1] += data.removesuffix("\n")

    def row(self, name: str) -> list[list[str]]:
        return [row[1:] for row in self.rows if row and row[0].startswith(name)]

    def all(self, name: str) -> list[dict[str, str]]:
        return [attributes for tag, attributes in self.elements if tag == name]
