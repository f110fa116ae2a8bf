"""Captions as evidence for photos, against float64 arithmetic on the stored vectors."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import numpy.typing as npt
import pytest
from conftest import Call, ingest_options, plain_spec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from points import image, unit

from eval.captioned.ranks import RanksByBlock, blocks, fuse, read_cosines
from eval.extended.mteb import sentence
from eval.protocol import Evaluation, Side, both_tasks
from search import Caption, Options, Part, Searcher, Where
from search.errors import QueryError
from search.index import CollectionSpec, CosineSpec, Index, Points, SplitSize
from search.index.edge.index import EdgeIndex
from search.ranking.cosines import measure_cosines, store_cosines
from search.ranking.evidence import Evidence
from search.records import Image, Kind, Vectors

MakeSpec = Callable[..., CollectionSpec]
Floats = npt.NDArray[np.float64]
COUNT, DIM, MANY = 40, 8, 13  # photo 3 has MANY captions, more than are read at first; every fifth has none
NAMES: tuple[Kind, ...] = ("images", "captions")


@dataclass(frozen=True)
class Stored:
    images: Vectors
    captions: Vectors
    image_of: npt.NDArray[np.int64]


def split_of(image_id: int) -> str:
    return "test" if image_id % 3 else "val"


def filled(index: Index, make_spec: MakeSpec) -> Stored:
    """Store photos and captions; some photos, with their captions, have equal vectors."""
    image_of = np.array([each for each in range(COUNT) for _ in range(MANY if each == 3 else min(each % 5, 3))])
    images, captions = unit(COUNT, DIM), unit(len(image_of), DIM, 1)
    images[21] = images[6]
    captions[image_of == 21] = captions[image_of == 6]
    sizes = {each: SplitSize(images=COUNT, captions=0, images_in_file=COUNT) for each in ("test", "val")}
    for kind in NAMES:
        index.create(make_spec(kind=kind, dim=DIM, splits=sizes))
    texts = [f"number {image_id} sentence {1000 + number}" for number, image_id in enumerate(image_of)]
    records = [
        Image(
            each,
            split_of(each),
            each,
            f"{each}.jpg",
            None,
            tuple(text for text, of in zip(texts, image_of, strict=True) if of == each),
        )
        for each in range(COUNT)
    ]
    index.upsert(make_spec().collection, Points(records, images))
    sentences = [
        Caption(1000 + number, int(of), split_of(int(of)), 0, texts[number], None) for number, of in enumerate(image_of)
    ]
    index.upsert(make_spec(kind="captions").collection, Points(sentences, captions))
    return Stored(images, captions, image_of)


def by_hand(stored: Stored, index: Index, dataset: str, direction: Vectors, weight: float) -> tuple[Floats, Floats]:
    """Return the score and the cosine of every photo, by the definition."""
    moments = measure_cosines(index, dataset)
    at = direction.astype(np.float64)
    cosines, of_captions = stored.images.astype(np.float64) @ at, stored.captions.astype(np.float64) @ at
    scores = (cosines - moments["images"].mean) / moments["images"].std
    for each in np.unique(stored.image_of):
        best = of_captions[stored.image_of == each].max()
        z = (best - moments["captions"].mean) / moments["captions"].std
        scores[each] = (1 - weight) * scores[each] + weight * z
    return scores, cosines


@pytest.mark.parametrize("prefetch", [3, 100])
def test_pages_are_those_of_float64(
    index: Index, make_spec: MakeSpec, dataset: str, monkeypatch: pytest.MonkeyPatch, prefetch: int
) -> None:
    """Rank by rank, however few photos and captions are read at first, and however deep the page."""
    monkeypatch.setattr("search.ranking.pages.PREFETCH", prefetch)
    monkeypatch.setattr("search.ranking.pages.SPARE", 1)
    monkeypatch.setattr("search.ranking.evidence.CAPTIONS_PER_IMAGE", 1)
    stored, searcher = filled(index, make_spec), Searcher(index, dataset)
    options = st.builds(
        Options,
        k=st.integers(1, 9),
        offset=st.integers(0, COUNT),
        min_score=st.none() | st.sampled_from([0.0, 0.3]),
        where=st.sampled_from(
            [
                None,
                Where(splits=("val",)),
                Where(image_ids=tuple(range(0, COUNT, 2)), not_ids=(4, 6)),
                Where(contains="sentence"),
                Where(contains="number 7"),
            ]
        ),
        exact=st.booleans(),
        evidence=st.sampled_from([0.1, 0.5, 1.0]),
    )

    @settings(max_examples=20, suppress_health_check=list(HealthCheck))
    @given(options, st.integers(0, 2**32 - 1))
    def check(asked: Options, seed: int) -> None:
        [direction] = unit(1, DIM, seed)
        assert asked.evidence
        scores, cosines = by_hand(stored, index, dataset, direction, asked.evidence)
        where, described = asked.where or Where(), set(stored.image_of.tolist())
        passed = [
            each
            for each in range(COUNT)
            if (where.splits is None or split_of(each) in where.splits)
            and (where.image_ids is None or each in where.image_ids)
            and each not in (where.not_ids or ())
            and (where.contains is None or (each in described and (where.contains == "sentence" or each == 7)))
            and (asked.min_score is None or cosines[each] >= asked.min_score)
        ]
        ranked = sorted(passed, key=lambda each: (-round(float(scores[each]), 6), each))
        wanted = ranked[asked.offset : asked.offset + asked.k]
        hits = searcher.search_vector(direction, asked)
        found = [hit.id for hit in hits]
        if found != wanted:  # float32 cosines of the engine may swap what is nearly equal
            np.testing.assert_allclose(scores[found], scores[wanted], atol=1e-5)
        for hit in hits:
            assert isinstance(hit.record, Image)
            assert (hit.score, hit.cosine) == pytest.approx((scores[hit.id], cosines[hit.id]), abs=1e-5)
            assert (hit.evidence is None) == (hit.id not in described)
            assert hit.caption in (hit.record.captions or [None])

    check()


def test_what_is_shown_and_refused(tmp_path: Path) -> None:
    index = EdgeIndex(tmp_path)
    stored = filled(index, plain_spec)
    searcher = Searcher(index, "coco")
    [hit] = searcher.search_vector(stored.captions[5], Options(k=1, evidence=0.9))
    assert (hit.id, hit.evidence and hit.evidence.id) == (stored.image_of[5], 1005)
    assert hit.caption == f"number {hit.id} sentence 1005"
    equal = [
        hit for hit in searcher.search_vector(stored.images[6], Options(k=COUNT, evidence=0.5)) if hit.id in (6, 21)
    ]
    assert [(hit.id, hit.score) for hit in equal] == [(6, equal[0].score), (21, equal[0].score)]
    [folded] = [
        hit for hit in searcher.search_vector(stored.images[6], Options(k=COUNT, evidence=0.5, fold=0.999)) if hit.also
    ]
    assert (folded.id, [other.id for other in folded.also]) == (6, [21])
    with pytest.raises(QueryError, match="give only one of the two"):
        Options(evidence=0.5, hubness=0.5)
    for weight in (0.0, -1.0, 1.1, float("nan")):
        with pytest.raises(QueryError, match="must be above 0 and at most 1"):
            Options(evidence=weight)
    with pytest.raises(QueryError, match="leave the pictures out"):
        searcher.search([Part(image_id=3)], Options(evidence=0.5))
    index.drop("coco_captions")
    with pytest.raises(QueryError, match="coco does not hold captions of several photos"):
        Searcher(index, "coco").search_vector(stored.images[6], Options(evidence=0.5))
    index.close()


def test_stored_and_measured_cosines_are_the_same(index: Index, make_spec: MakeSpec, dataset: str) -> None:
    stored = filled(index, make_spec)
    measured = measure_cosines(index, dataset)
    captions = stored.captions.astype(np.float64)
    other = stored.image_of[:, np.newaxis] != np.arange(COUNT)[np.newaxis, sorted(set(stored.image_of))]
    cosines = (captions @ stored.images[sorted(set(stored.image_of))].astype(np.float64).T)[other]
    assert (measured["images"].mean, measured["images"].std, measured["images"].pairs) == pytest.approx(
        (cosines.mean(), cosines.std(), cosines.size)
    )
    before = Searcher(index, dataset).search_vector(stored.images[0], Options(evidence=0.5))
    store_cosines(index, dataset, changed=False)
    for kind, expected in measured.items():
        found = index.spec(f"{dataset}_{kind}").cosines
        assert found is not None
        assert asdict(found) == pytest.approx(asdict(expected), rel=1e-6)
    after = Searcher(index, dataset).search_vector(stored.images[0], Options(evidence=0.5))
    assert [hit.id for hit in after] == [hit.id for hit in before]


def test_photos_alone_are_measured_once(
    index: Index, make_spec: MakeSpec, dataset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make_spec(dim=DIM)
    index.create(spec)
    index.upsert(spec.collection, Points([image(number) for number in range(3)], unit(3, DIM)))
    measured = Mock(side_effect=measure_cosines)
    monkeypatch.setattr("search.ranking.cosines.measure_cosines", measured)
    searcher = Searcher(index, dataset)
    for _ in range(2):
        with pytest.raises(QueryError):
            searcher.search_vector(unit(1, DIM)[0], Options(evidence=0.5))
    assert measured.call_count == 1


def test_from_ingestion_to_a_page(call: Call, tmp_path: Path, photo_set: Path, clip_folder: Path) -> None:
    path = ["--path", str(tmp_path / "index")]
    assert call("ingest", *ingest_options(photo_set, clip_folder, path))[0] == 0
    index = EdgeIndex(tmp_path / "index")
    assert index.spec("coco_captions").cosines == measure_cosines(index, "coco")["captions"]
    index.close()
    ask = ["search", "text", "a dog", *path]

    def found(*options: object) -> list[dict[str, object]]:
        return [json.loads(line) for line in call(*ask, "--json", *options)[1].splitlines()]

    first, second = (
        found("--evidence", "captions", "-k", 3),
        found("--evidence", "captions=0.75", "-k", 3, "--offset", 3),
    )
    assert [*first, *second] == found("--evidence", "captions", "-k", 6)
    assert all(hit["caption"] in hit["captions"] and hit["caption_cosine"] for hit in first)  # type: ignore[operator]
    assert "caption_cosine" not in found()[0]
    assert "caption's" in call(*ask, "--evidence", "captions")[1]
    for wrong in ("words", "captions=", "captions=x", "captions=2"):
        code, _, err = call(*ask, "--evidence", wrong)
        assert (code, "give captions, or captions=WEIGHT" in err) == (2, True)
    lines = [{"parts": [{"text": "a dog"}], "k": 3, "evidence": value} for value in (0.75, "captions")]
    (tmp_path / "queries.jsonl").write_text("\n".join(map(json.dumps, lines)))
    answers = [json.loads(line) for line in call("search", "batch", tmp_path / "queries.jsonl", *path)[1].splitlines()]
    assert [answer["hits"] for answer in answers] == [first, first]
    switched_off = [{"text": "a dog", "k": 3, "evidence": None, "splits": None}, {"image_id": 100, "evidence": None}]
    (tmp_path / "queries.jsonl").write_text("\n".join(map(json.dumps, [*switched_off, {"image_id": 100}])))
    default = ["--evidence", "captions", "--split", "test"]
    code, printed, _ = call("search", "batch", tmp_path / "queries.jsonl", *default, *path)
    plain, pictured, refused = map(json.loads, printed.splitlines())
    assert code == 3
    assert plain["hits"] == found("-k", 3)
    assert pictured["hits"]
    assert "only for texts" in refused["error"]

    out = tmp_path / "run"
    code, printed, err = call("eval", "run", *path, "--engine", "none", "--evidence", "captions", "--out", out)
    assert code == 0, err
    assert "captioned gallery, leave one out" in printed
    assert "Captioned gallery, leave one out" in (out / "report.html").read_text()
    task = json.loads((out / "metrics.json").read_text())["captioned"]
    assert task["weight"] == 0.75
    assert [row["name"] for row in task["columns"]] == ["photo only", "captions only", "both", "captions by words"]
    plain = json.loads(call("eval", "run", *path, "--engine", "none", "--json")[1])
    assert "captioned" not in plain
    assert task["columns"][0]["text-to-image"] == pytest.approx(plain["text-to-image"])
    curve = json.loads(call("eval", "tune", "--evidence", "--json", *path)[1])
    assert (curve["split"], curve["curve"][0]["weight"], curve["curve"][-1]["weight"]) == ("val", 0, 1)


def evaluated(vectors: Stored, texts: list[str]) -> Evaluation:
    """Return an evaluation of these photos and captions, without an index."""
    ids = np.arange(len(vectors.images)), np.arange(len(vectors.captions))
    images = Side("coco_images", ids[0], vectors.images, Where())
    captions = Side("coco_captions", ids[1], vectors.captions, Where())
    to_text, to_image = both_tasks(images, captions, vectors.image_of)
    return Evaluation(plain_spec(dim=DIM), ("test",), None, to_text, to_image, vectors.image_of, [], texts, 0, ())


def test_a_query_is_no_evidence_for_itself() -> None:
    """Nor are its copies, of whatever photo: without leaks, captions at random find their photos by chance."""
    count = 300
    image_of = np.repeat(np.arange(count), 3)
    texts = [f"A sentence {number}" for number in range(len(image_of))]
    vectors = unit(len(image_of), 64, 1)
    vectors[1::3], texts[1::3] = vectors[::3], [f"  {text.lower()} . " for text in texts[::3]]  # copies
    evaluation = evaluated(Stored(unit(count, 64), vectors, image_of), texts)
    ranks = {name: RanksByBlock(evaluation.text_to_image) for name in ("captions", "words", "both")}
    cosines: dict[Kind, CosineSpec] = {kind: CosineSpec(mean=0, std=1, pairs=1, seed=0, points=1) for kind in NAMES}
    for block in blocks(evaluation, words=True):
        assert block.words is not None
        ranks["captions"].add(block.rows, block.captions)
        ranks["words"].add(block.rows, block.words)
        ranks["both"].add(block.rows, fuse(block, Evidence(0.75, cosines["images"], cosines["captions"])))
    for of in ranks.values():
        assert of is ranks["words"] or np.mean(of.ranking().ranks <= 10) < 0.12
    words = ranks["words"].ranking()
    assert words.pessimistic is not None
    assert np.mean(words.pessimistic.ranks <= 10) < 0.12  # they share the word "sentence" with all others
    assert sentence(texts[1]) == sentence(texts[0])


def test_the_task_is_that_of_float64(tmp_path: Path) -> None:
    """And its photos have the scores of `search --evidence` where no caption is left out."""
    index = EdgeIndex(tmp_path)
    stored = filled(index, plain_spec)
    texts = [f"sentence {number}" for number in range(len(stored.captions))]
    texts[4] = texts[0].upper() + "."
    evaluation = evaluated(stored, texts)
    cosines = read_cosines(index, evaluation)
    evidence = Evidence(0.4, cosines["images"], cosines["captions"])
    [block] = blocks(evaluation, words=False)
    fused = fuse(block, evidence)
    for query, direction in enumerate(stored.captions):
        other = [text.lower().rstrip(".") != texts[query].lower().rstrip(".") for text in texts]
        others = Stored(stored.images, stored.captions[other], stored.image_of[other])
        np.testing.assert_allclose(fused[query], by_hand(others, index, "coco", direction, 0.4)[0], atol=1e-9)
    index.close()
