"""`python -m eval tune`: recommended search parameters, checked by brute force."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from conftest import Call, one_line_error, plain_spec
from points import caption, image, unit
from test_replay import related, store

from eval import tune
from search.index import CollectionSpec, Points, Quantization, SearchParams, Tuning, open_for_writing
from search.index.edge.index import EdgeIndex
from search.records import Vectors
from search.settings import load_settings

IMAGES, CAPTIONS, DIM = 2000, 600, 32
TARGET = 0.95  # the worst of the coarse graphs that were seen reaches 0.968


@contextmanager
def coarse_index(folder: Path, quantization: Quantization, *, captions: bool = True) -> Iterator[EdgeIndex]:
    """Yield an index of random vectors, in graphs with so few links that HNSW misses much."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("search.index.edge.config.M", 3)
        index = EdgeIndex(folder)
        tuning = Tuning(quantization=quantization, index_everything=True)
        sides = {"images": Points([image(number) for number in range(IMAGES)], unit(IMAGES, DIM))}
        if captions:
            sides["captions"] = Points([caption(number) for number in range(CAPTIONS)], unit(CAPTIONS, DIM, seed=1))
        for kind, points in sides.items():
            spec = plain_spec(dim=DIM, kind=kind)
            index.create(spec, tuning)
            index.upsert(spec.collection, points)
            index.optimize(spec.collection)
    yield index
    index.close()


def overlap(index: EdgeIndex, queries: Vectors, gallery: Vectors, params: SearchParams) -> float:
    """Return overlap@10 with the ten nearest by a matrix product."""
    nearest = np.argsort(-(queries @ gallery.T), axis=1)[:, :10]
    answers = index.query("coco_images", queries, 10, params)
    pairs = zip(answers, nearest.tolist(), strict=True)
    return float(np.mean([len({hit.id for hit in hits} & set(ids)) / 10 for hits, ids in pairs]))


@pytest.mark.parametrize("quantization", ["binary", pytest.param("none", marks=pytest.mark.slow)])
def test_the_recommendation_holds(call: Call, tmp_path: Path, quantization: Quantization) -> None:
    options = ["--target", TARGET, "--path", tmp_path]
    with coarse_index(tmp_path, quantization):
        pass
    code, out, err = call("eval", "tune", *options, "--direction", "text-to-image", "--json")
    assert code == 0, err
    (found,) = (value for value in json.loads(out).values() if isinstance(value, dict))
    best, curve = found["recommended"], found["curve"]
    assert (found["used"], found["queries"], found["points"]) == ("hnsw", 500, IMAGES)
    assert len(curve) <= 8
    assert best in curve
    assert best["interval"][0] <= best["overlap"] <= best["interval"][1]
    index = EdgeIndex(tmp_path)
    gallery = unit(IMAGES, DIM)
    queries = index.retrieve("coco_captions", list(range(CAPTIONS)), vectors=True).vectors
    assert queries is not None

    def measured(probe: dict[str, float]) -> float:
        params = SearchParams(ef=int(probe["ef"]), oversampling=probe["oversampling"] or 1)
        return overlap(index, queries, gallery, params)

    for probe in curve:  # by all captions, of which the command took a sample
        assert measured(probe) == pytest.approx(probe["overlap"], abs=0.01)
    smaller = [probe for probe in curve if probe["ef"] < best["ef"]]
    assert best["overlap"] >= TARGET > max(probe["overlap"] for probe in smaller)
    if quantization == "none":  # the smallest of all, within a few percent
        assert {probe["oversampling"] for probe in curve} == {None}
        assert max(probe["ef"] for probe in smaller) >= 0.95 * best["ef"]
    else:
        cheaper = [p for p in curve if p["ef"] == best["ef"] and p["oversampling"] < best["oversampling"]]
        assert cheaper
        assert all(probe["overlap"] < TARGET for probe in cheaper)
    assert index.collections() == ["coco_captions", "coco_images"]
    index.close()


def test_what_cannot_be_reached(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a collection without captions, whose own vectors are the queries."""
    monkeypatch.setattr(tune, "WIDEST", 12)
    with coarse_index(tmp_path, "none", captions=False):
        pass
    code, out, err = call("eval", "tune", "--target", 1, "--path", tmp_path)
    assert code == 0, err
    assert out.startswith("image-to-image: 500 queries of coco_images")
    assert "100.00% was not reached: the best is ef=12, with " in out
    assert "recommended" not in out
    wrong = call("eval", "tune", "--direction", "text-to-image", "--path", tmp_path)
    assert "coco_captions" in one_line_error(wrong)


def test_a_scan_gets_no_recommendation(call: Call, place: list[str], make_spec: Callable[..., CollectionSpec]) -> None:
    url = place[1] if place[0] == "--url" else None
    index = open_for_writing(load_settings(None if url else Path(place[1]), url))
    store(index, make_spec, *related(40, 5, 16, noise=2.0))
    index.close()
    code, out, err = call("eval", "tune", *place)
    assert code == 0, err
    assert out.count("ef has no effect here: a full scan answered") == 2
    assert "recommended" not in out
    found = json.loads(call("eval", "tune", "--json", *place)[1])
    for direction in ("image-to-text", "text-to-image"):
        assert (found[direction]["used"], found[direction]["recommended"], found[direction]["curve"]) == (
            "scan",
            None,
            [],
        )


def test_equal_hits_count_as_each_other() -> None:
    """The tenth place can go to any of several equal hits."""
    from search.records import Hit

    exact = [[Hit(1, 0.9, None), Hit(2, 0.5, None)]]
    assert tune.overlaps([[Hit(1, 0.9, None), Hit(3, 0.5, None)]], exact).tolist() == [1]
    assert tune.overlaps([[Hit(1, 0.9, None), Hit(3, 0.4, None)]], exact).tolist() == [0.5]
    assert tune.overlaps([[]], exact).tolist() == [0]
