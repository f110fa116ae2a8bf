"""The correction for hubness: pages and scores against float64 arithmetic on the stored vectors."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Call, ingest_options, one_line_error, plain_spec, write_photo_set
from hubs import ALPHA, COUNT, DIM, Floats, MakeSpec, described, numbered, numbers_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from points import image, unit

from eval.hubness.ranks import by_index, by_oracle, overlap
from eval.protocol import Side, both_tasks
from search import Caption, Hit, Options, Part, Searcher, Where
from search.encoder.clip import ClipEncoder
from search.errors import IndexFailure, QueryError
from search.index import Index, Points, SearchParams, Tuning
from search.index.edge.index import EdgeIndex
from search.ranking.hubness import Correction
from search.ranking.pages import PageRequest, Pages
from search.records import Image, Vectors


def test_an_index_corrects_the_nearest(index: Index, make_spec: MakeSpec) -> None:
    vectors, numbers = numbered(index, make_spec)
    collection = make_spec().collection
    [nearest] = index.query(collection, vectors[5:6], 10, SearchParams(exact=True))
    [hits] = index.query(collection, vectors[5:6], 10, SearchParams(exact=True, hubness=ALPHA))
    assert {hit.id for hit in hits} == {hit.id for hit in nearest}
    cosines = {hit.id: hit.score for hit in nearest}
    for hit in hits:
        assert (hit.cosine, hit.record) == (cosines[hit.id], None)
        assert hit.score == hit.cosine - ALPHA * numbers[hit.id]
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    stored = index.retrieve(collection, [5]).records[0]
    assert stored == image(5, captions=("number 5",))
    assert stored.fields()["hubness"] == numbers[5]

    index.set_fields(collection, {5: {"hubness": None, "note": "mine"}})
    [changed] = index.retrieve(collection, [5]).records
    assert (changed.extra, "hubness" in changed.payload()) == ({"note": "mine"}, False)
    with pytest.raises(IndexFailure, match=r"image 5 has no number .*: run `python -m ingest hubness` again"):
        index.query(collection, vectors[5:6], 10, SearchParams(exact=True, hubness=ALPHA))


def by_hand(vectors: Vectors, numbers: Floats, direction: Vectors, alpha: float, asked: Options) -> list[int]:
    """Return all results in order: those that pass, by corrected score, equal ones by id."""
    cosines = vectors.astype(np.float64) @ direction.astype(np.float64)
    splits = asked.where.splits if asked.where else None
    words = asked.where.contains.split() if asked.where and asked.where.contains else []
    most = asked.where.max_hubness if asked.where else None
    passed = [
        number
        for number in range(COUNT)
        if (splits is None or ("test" if number % 3 else "val") in splits)
        and all(word in ("number", str(number)) for word in words)
        and (asked.min_score is None or cosines[number] >= asked.min_score)
        and (most is None or numbers[number] <= most)
    ]
    return sorted(passed, key=lambda number: (-round(float(cosines[number] - alpha * numbers[number]), 9), number))


@pytest.mark.parametrize("prefetch", [4, 25, 100])
def test_pages_are_those_of_float64(
    index: Index, make_spec: MakeSpec, dataset: str, monkeypatch: pytest.MonkeyPatch, prefetch: int
) -> None:
    """However few hits are read at first, and however deep the page."""
    monkeypatch.setattr("search.ranking.pages.PREFETCH", prefetch)
    monkeypatch.setattr("search.ranking.pages.SPARE", 1)
    vectors, numbers = numbered(index, make_spec, alpha=ALPHA)
    searcher = Searcher(index, dataset)
    options = st.builds(
        Options,
        k=st.integers(1, 9),
        offset=st.integers(0, COUNT),
        min_score=st.none() | st.sampled_from([0.0, 0.3]),
        where=st.sampled_from(
            [
                None,
                Where(splits=("val",)),
                Where(contains="number"),
                Where(contains="number 7"),
                Where(max_hubness=float(np.median(numbers))),
            ]
        ),
        exact=st.booleans(),
        hubness=st.sampled_from([None, 0.0, 0.1, 3.0, 10.0]),
    )

    @settings(max_examples=20, suppress_health_check=list(HealthCheck))
    @given(options, st.integers(0, 2**32 - 1))
    def check(asked: Options, seed: int) -> None:
        [direction] = unit(1, DIM, seed)
        alpha = ALPHA if asked.hubness is None else asked.hubness
        expected = by_hand(vectors, numbers, direction, alpha, asked)
        hits = searcher.search_vector(direction, asked)
        found = [hit.id for hit in hits]
        wanted = expected[asked.offset : asked.offset + asked.k]
        if found != wanted:  # float32 cosines of the engine may swap what is nearly equal
            scores = vectors.astype(np.float64) @ direction - alpha * numbers
            np.testing.assert_allclose(scores[found], scores[wanted], atol=1e-6)
        for hit in hits:
            assert isinstance(hit.record, Image)
            assert hit.score == pytest.approx(hit.cosine - alpha * numbers[hit.id], abs=1e-12)

    check()


@pytest.mark.parametrize("exact", [True, False])
def test_deep_pages_are_the_whole_ranking(tmp_path: Path, exact: bool) -> None:
    index = EdgeIndex(tmp_path)
    count = 400
    vectors, numbers = unit(count, DIM), np.random.default_rng(1).normal(0.2, 0.15, count)
    spec = plain_spec(dim=DIM)
    index.create(spec)
    images = [replace(image(each), hubness=float(numbers[each])) for each in range(count)]
    index.upsert(spec.collection, Points(images, vectors))
    index.set_spec(replace(spec, hubness=described(numbers, alpha=ALPHA)))
    [direction] = unit(1, DIM, seed=6)
    searcher = Searcher(index, "coco")
    found = [
        hit.id
        for offset in range(0, count, 10)
        for hit in searcher.search_vector(direction, Options(k=10, offset=offset, exact=exact))
    ]
    scores = vectors.astype(np.float64) @ direction - ALPHA * numbers
    assert found == np.argsort(-scores).tolist()
    index.close()


def test_corrected_tens_are_the_oracles(tmp_path: Path) -> None:
    """The numbers are spread so widely that some tens take more than one query; HNSW may miss a few hits."""
    count, dim = 800, 32
    index = EdgeIndex(tmp_path)
    vectors, numbers = unit(count, dim), np.random.default_rng(1).normal(0.2, 0.1, count)
    spec = plain_spec(dim=dim)
    index.create(spec, Tuning(index_everything=True))
    images = [replace(image(each), hubness=float(numbers[each])) for each in range(count)]
    index.upsert(spec.collection, Points(images, vectors))
    index.set_spec(replace(spec, hubness=described(numbers, alpha=ALPHA)))
    index.optimize(spec.collection)
    queries = Side("coco_captions", np.arange(100), unit(100, dim, seed=2), Where())
    gallery = Side(spec.collection, np.arange(count), vectors, Where())
    _, task = both_tasks(gallery, queries, np.arange(100))
    oracle = by_oracle(task, numbers, ALPHA, int).first
    correction = Correction(ALPHA, float(numbers.min()))
    exact, served = (by_index(index, task, correction, exact=each).first for each in (True, False))
    assert overlap(exact, oracle, dim) == 100
    assert overlap(served, oracle, dim) > 95
    index.close()


def test_what_a_cut_off_and_a_fold_mean(tmp_path: Path) -> None:
    """Both are about cosines; the order of what is left is that of corrected scores."""
    index = EdgeIndex(tmp_path)
    vectors, numbers = numbered(index, plain_spec, alpha=ALPHA)
    searcher = Searcher(index, "coco")
    plain = searcher.search_vector(vectors[3], Options(k=COUNT, cutoff=0.5, hubness=0))
    corrected = searcher.search_vector(vectors[3], Options(k=COUNT, cutoff=0.5))
    assert {hit.id for hit in plain} == {hit.id for hit in corrected}
    assert [hit.id for hit in plain] != [hit.id for hit in corrected]
    [folded] = [hit for hit in searcher.search_vector(vectors[20], Options(k=COUNT, fold=0.999)) if hit.id == 20]
    assert [(other.id, other.record) for other in folded.also] == [(21, index.retrieve("coco_images", [21]).records[0])]
    pictures = searcher.search([Part(image_id=3)], Options(k=3))
    assert [hit.uncorrected for hit in pictures] == [None] * 3  # the numbers are about captions
    assert searcher.search([Part(image_id=3)], Options(k=1, hubness=ALPHA))[0].uncorrected is not None
    assert [hit.score for hit in pictures] == sorted((hit.score for hit in pictures), reverse=True)
    assert numbers[pictures[0].id] != 0
    index.close()


def test_pages_that_are_read_together_are_those_read_alone(tmp_path: Path) -> None:
    index = EdgeIndex(tmp_path)
    vectors, numbers = numbered(index, plain_spec, alpha=ALPHA)
    pages, correction = Pages(index, "coco"), Correction(ALPHA, float(numbers.min()))
    options = [Options(k=3), Options(k=9), Options(k=9, cutoff=0.5), Options(k=9, min_score=0.3), Options(fold=0.9)]
    requests = [PageRequest(vectors[3], "images", each, correction=correction) for each in options]
    assert pages.read(requests) == [page for each in requests for page in pages.read([each])]
    index.close()


def test_a_mixture_is_refused(tmp_path: Path) -> None:
    index = EdgeIndex(tmp_path)
    vectors, numbers = numbered(index, plain_spec, alpha=ALPHA)
    again = r"run `python -m ingest hubness` again, or .* --hubness 0"

    def search(hubness: float | None) -> list[Hit]:
        return Searcher(index, "coco").search_vector(vectors[3], Options(hubness=hubness))

    index.upsert("coco_images", Points([image(COUNT)], unit(1, DIM)))
    with pytest.raises(QueryError, match="1 of 61 images .*" + again):
        search(None)
    assert search(0)
    spec = index.spec("coco_images")
    index.set_spec(replace(spec, hubness=described(numbers, points=COUNT + 1, complete=False)))
    assert search(None)  # no alpha is stored
    with pytest.raises(QueryError, match=again):
        search(0.5)
    index.set_spec(replace(spec, hubness=None))
    assert search(None)
    with pytest.raises(QueryError, match=r"have no numbers .*: run `python -m ingest hubness --references"):
        search(0.5)
    index.close()


def make(call: Call, tmp_path: Path, photos: Path, clip_folder: Path, *more: str) -> tuple[int, str, str]:
    return call("ingest", *ingest_options(photos, clip_folder, ["--path", str(tmp_path / "index")]), *more)


def test_from_references_to_a_page_and_a_report(call: Call, tmp_path: Path, clip_folder: Path) -> None:
    photos = write_photo_set(tmp_path / "photos", photos=12)
    entries = json.loads((photos / "dataset_coco.json").read_text())
    val = [sentence["raw"] for entry in entries["images"] if entry["split"] == "val" for sentence in entry["sentences"]]
    assert make(call, tmp_path, photos, clip_folder, "--split", "test")[0] == 0
    path = ["--path", tmp_path / "index"]
    lines = [f"a photo of {number} dogs" for number in range(40)]
    leaks = ["PHOTO 3, in words: sentence 2", "photo 0 in words sentence 0 "]
    (tmp_path / "references.txt").write_text("\n".join([*lines, "", *leaks]) + "\n", encoding="utf-8")
    options = ["hubness", "--references", tmp_path / "references.txt", "--k", 7, *path]

    code, out, err = call("ingest", *options, "--alpha", ALPHA, "--json")
    assert code == 0, err
    told = json.loads(out)
    assert (told["count"], told["dropped"], told["k"], told["points"], told["alpha"]) == (40, 2, 7, 8, ALPHA)
    encoded = ClipEncoder(str(clip_folder), device="cpu").encode_texts(lines).astype(np.float64)
    index = EdgeIndex(tmp_path / "index")
    batch = index.retrieve("coco_images", list(range(100, 108)), vectors=True)
    index.close()
    assert batch.vectors is not None
    cosines = np.sort(batch.vectors.astype(np.float64) @ encoded.T, axis=1)[:, -7:]
    first = numbers_of(tmp_path / "index")
    assert list(first.values()) == pytest.approx(cosines.mean(axis=1).tolist(), abs=1e-6)
    assert told["smallest"] == min(filter(None, first.values()))

    # `search` uses the stored alpha; `eval run` reports it in a block of its own.
    found = [json.loads(line) for line in call("search", "text", "a dog", "--json", *path)[1].splitlines()]
    assert all(hit["score"] == pytest.approx(hit["cosine"] - ALPHA * hit["hubness"], abs=2e-6) for hit in found)
    plain = json.loads(call("search", "text", "a dog", "--json", "-k", 1, "--hubness", 0, *path)[1])
    assert plain["score"] == plain["cosine"]
    with_block = evaluated(call, tmp_path, *path)
    without = evaluated(call, tmp_path, "--hubness", 0, *path)
    assert "corrected" not in without
    for key in ("image-to-text", "text-to-image", "columns"):
        same = [with_block[key], without[key]]
        assert without_times(same[0]) == without_times(same[1])
    check_ranks(tmp_path, with_block)

    # Running it again changes nothing, and neither does ingesting the same photos; new ones need a number.
    assert call("ingest", *options)[0] == 0
    code, _, err = make(call, tmp_path, photos, clip_folder, "--split", "test")
    assert numbers_of(tmp_path / "index") == first
    assert "ingest hubness" not in err
    _, _, err = make(call, tmp_path, photos, clip_folder)
    assert "warning: images of coco_images have no number" in err
    assert "run `python -m ingest hubness` again" in one_line_error(call("search", "text", "a dog", *path))
    assert "run `python -m ingest hubness` again" in one_line_error(call("eval", "run", *path))
    assert call("search", "text", "a dog", "--hubness", 0, *path)[0] == 0

    # References that are captions of the index are refused as queries, whatever their file was called.
    (tmp_path / "references.txt").write_text("\n".join([*lines, val[0].upper()]))
    assert json.loads(call("ingest", *options, "--json")[1])["dropped"] == 1
    code, out, err = call("eval", "tune", "--hubness", "--json", *path)
    assert code == 0, err
    curve = json.loads(out)
    assert (curve["split"], curve["captions"], curve["curve"][0]["alpha"], curve["curve"][0]["gain"]) == (
        "val",
        20,
        0,
        0,
    )
    assert "text-to-image: 20 captions" in call("eval", "tune", "--hubness", *path)[1]


def evaluated(call: Call, tmp_path: Path, *options: object) -> Any:
    code, out, err = call("eval", "run", "--resamples", 100, "--out", tmp_path / "run", "--json", *options)
    assert code == 0, err
    if "--hubness" not in options:
        page = (tmp_path / "run/report.html").read_text()
        assert "Corrected for hubness with alpha 0.7" in page
        assert "How many captions each image answers" in page
        (tmp_path / "ranks.jsonl").write_text((tmp_path / "run/ranks.jsonl").read_text())
    return json.loads(out)


def without_times(value: Any) -> Any:
    if isinstance(value, list):
        return [without_times(each) for each in value]
    if isinstance(value, dict):
        times = ("queries_per_second", "latency_ms", "latency_percentiles_ms")
        return {key: without_times(each) for key, each in value.items() if key not in times}
    return value


def check_ranks(tmp_path: Path, told: Any) -> None:
    """Compare each corrected rank with float64 arithmetic."""
    index = EdgeIndex(tmp_path / "index")
    [images], [captions] = (list(index.scan(f"coco_{kind}", vectors=True)) for kind in ("images", "captions"))
    index.close()
    assert images.vectors is not None
    assert captions.vectors is not None
    numbers = np.array([each.hubness for each in images.records if isinstance(each, Image)], dtype=np.float64)
    scores = captions.vectors.astype(np.float64) @ images.vectors.T.astype(np.float64) - ALPHA * numbers
    rows = {each.id: row for row, each in enumerate(images.records)}
    expected = {
        caption.id: 1 + int((scores[row] > scores[row, rows[caption.image_id]]).sum())
        for row, caption in enumerate(captions.records)
        if isinstance(caption, Caption)
    }
    lines = [json.loads(line) for line in (tmp_path / "ranks.jsonl").read_text().splitlines()]
    assert {line["query"]: line["corrected_rank"] for line in lines if line["direction"] == "text-to-image"} == expected
    recalls = {column["name"]: column["text-to-image"]["recall@5"] for column in told["corrected"]["columns"]}
    hits = 100 * float(np.mean([rank <= 5 for rank in expected.values()]))
    assert recalls == pytest.approx({"oracle": hits, "qdrant-exact": hits, "qdrant-served": hits})
    answered = told["corrected"]["answers"]["corrected"]
    assert sum(images for *_, images in answered) == len(rows)


def test_what_is_kept_between_queries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More hits are read at first, and all numbers are read at once; the results are still those of float64."""
    monkeypatch.setattr("search.index.edge.records.NUMBERS_ONE_BY_ONE", 500)
    index = EdgeIndex(tmp_path)
    count, dim = 3000, 32
    vectors, numbers = unit(count, dim, seed=5), np.random.default_rng(4).normal(0.3, 0.08, count)
    spec = plain_spec(dim=dim)
    index.create(spec)
    images = [replace(image(each), hubness=float(numbers[each])) for each in range(count)]
    index.upsert(spec.collection, Points(images, vectors))
    index.set_spec(replace(spec, hubness=described(numbers, alpha=1.0)))
    asked: list[int] = []
    query = EdgeIndex.query

    def counted(self: EdgeIndex, *arguments: Any) -> list[list[Hit]]:
        if arguments[0] == spec.collection:
            asked.append(arguments[2])
        return query(self, *arguments)

    monkeypatch.setattr(EdgeIndex, "query", counted)
    searcher = Searcher(index, "coco")
    for number, direction in enumerate(unit(20, dim, seed=6)):
        if number == 10:
            numbers[7] = numbers[8] = 0.1
            index.set_fields(spec.collection, {each: {"hubness": 0.1} for each in (7, 8)})
        hits = searcher.search_vector(direction, Options(k=10, exact=True))
        scores = vectors.astype(np.float64) @ direction - numbers
        assert [hit.id for hit in hits] == np.argsort(-scores)[:10].tolist()
    assert asked[0] == 100
    assert max(asked) <= 1600
    assert asked[-1] > 100
    assert len(asked) < 60
    index.close()


def test_a_page_is_proven_by_few_hits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An image that is near nothing must not make every query read the whole collection."""
    index = EdgeIndex(tmp_path)
    rng, count = np.random.default_rng(4), 3000
    vectors, numbers = unit(count, DIM, seed=5), rng.normal(0.3, 0.02, count)
    numbers[rng.integers(0, count, 5)] = -2.0
    spec = plain_spec(dim=DIM)
    index.create(spec)
    index.upsert(spec.collection, Points([image(number) for number in range(count)], vectors))
    index.set_fields(spec.collection, {number: {"hubness": float(numbers[number])} for number in range(count)})
    index.set_spec(replace(spec, hubness=described(numbers, alpha=1.0)))
    read: list[int] = []
    query = EdgeIndex.query

    def counted(self: EdgeIndex, *arguments: Any) -> list[list[Hit]]:
        answers = query(self, *arguments)
        read.append(sum(map(len, answers)))
        return answers

    monkeypatch.setattr(EdgeIndex, "query", counted)
    [direction] = unit(1, DIM, seed=6)
    hits = Searcher(index, "coco").search_vector(direction, Options(k=10, exact=True))
    scores = vectors.astype(np.float64) @ direction - numbers
    assert [hit.id for hit in hits] == np.argsort(-scores)[:10].tolist()
    assert sum(read) < 400
    index.close()
