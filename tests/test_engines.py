"""The first results of every query are the same whichever engine answers: the embedded one, or a server."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import SERVER_URL
from hubs import described
from points import unit

from search import Caption, Hit, Image, Options, Searcher, Where
from search.index import CollectionSpec, Index, Points, open_for_writing
from search.settings import Settings, load_settings

IMAGES, DIM = 150, 16
TEXTS = ("A café on the beach", "two dogs and 3 cats", "a dog, well-known", "雪の中の犬", "snow")
WHERE = (
    None,
    Where(splits=("val",)),
    Where(image_ids=tuple(range(0, IMAGES, 7))),
    Where(contains="dog"),
    Where(contains="3 CATS"),
    Where(contains="犬", splits=("test",)),
)
OPTIONS: tuple[dict[str, Any], ...] = (
    {},
    {"min_score": 0.2},
    {"cutoff": 0.5},
    {"fold": 0.95},
    {"offset": 7, "fold": 0.9},
    {"hubness": 0.7},
    {"hubness": 0.7, "cutoff": 0.4, "fold": 0.95},
    {"evidence": 0.6},
)


def fill(index: Index, make_spec: Callable[..., CollectionSpec]) -> None:
    """Store images in groups of near-duplicates, with as many captions as there are TEXTS, and numbers of hubness."""
    noise = unit(IMAGES, DIM, 3)
    vectors = unit(IMAGES // 3, DIM, 1).repeat(3, axis=0) + 0.05 * noise
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    numbers = np.abs(noise[:, 0]).astype(np.float64)
    splits = ["val" if each % 4 == 0 else "test" for each in range(IMAGES)]
    images = [
        Image(each, splits[each], each, f"{each}.jpg", None, TEXTS, hubness=float(numbers[each]))
        for each in range(IMAGES)
    ]
    captions = [
        Caption(1000 + 5 * image.id + place, image.id, image.split, place, text, None)
        for image in images
        for place, text in enumerate(TEXTS[image.id % 2 :])
    ]
    sizes = {name: {"images": 1, "captions": 1, "images_in_file": 1} for name in ("val", "test")}
    spec = make_spec(dim=DIM, splits=sizes, hubness=described(numbers, points=IMAGES))
    index.create(spec)
    index.upsert(spec.collection, Points(images, vectors))
    of_captions = make_spec(kind="captions", dim=DIM, splits=sizes)
    index.create(of_captions)
    index.upsert(of_captions.collection, Points(captions, unit(len(captions), DIM, 2)))


def answers(settings: Settings, dataset: str, every: int) -> list[list[Hit]]:
    """Search with every filter and every set of options, but only with one in `every` of their combinations."""
    found = []
    with Searcher.open(settings, dataset) as searcher:
        for seed, where in enumerate(WHERE):
            for more in OPTIONS[seed % every :: every]:
                for to in ("images", "captions"):
                    asked = Options(to=to, where=where, exact=True, group="fold" in more, **more)
                    found.append(list(searcher.search_vector(unit(1, DIM, 100 + seed)[0], asked)))
    return found


@pytest.mark.parametrize("every", [2, pytest.param(1, marks=pytest.mark.slow)])
def test_the_first_results_are_the_same(
    request: pytest.FixtureRequest, tmp_path: Path, make_spec: Callable[..., CollectionSpec], dataset: str, every: int
) -> None:
    if SERVER_URL or shutil.which("qdrant"):
        server = request.getfixturevalue("qdrant_server")
    else:
        http_port, grpc_port = request.getfixturevalue("local_grpc_server")
        server = load_settings(url=f"http://127.0.0.1:{http_port}", qdrant_grpc_port=grpc_port)
    of_engines = []
    for settings in (load_settings(tmp_path / "index"), server):
        with closing(open_for_writing(settings)) as index:
            fill(index, make_spec)
        try:
            of_engines.append(answers(settings, dataset, every))
        finally:
            with closing(open_for_writing(settings)) as index:
                for kind in ("images", "captions"):
                    index.drop(f"{dataset}_{kind}")
    assert sum(map(len, of_engines[0])) > 400 / every
    for embedded, served in zip(*of_engines, strict=True):
        assert [(hit.id, hit.rank, [each.id for each in hit.also]) for hit in embedded] == [
            (hit.id, hit.rank, [each.id for each in hit.also]) for hit in served
        ]
        assert [hit.record for hit in embedded] == [hit.record for hit in served]
        assert [hit.score for hit in embedded] == pytest.approx([hit.score for hit in served], abs=1e-6)
