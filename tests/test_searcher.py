"""Searches over every engine, against the ranking by hand of the vectors that were stored."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import PIL.Image
import pytest
from conftest import Call, ingest_options
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from search import Caption, Hit, Image, Options, Part, Searcher, Settings, Where
from search.errors import CocoSearchError, CollectionMissing, PhotoError, QueryError
from search.index import CollectionSpec, Index, Points
from search.index.edge.index import EdgeIndex
from search.photos import open_image
from search.records import Vectors

MakeSpec = Callable[..., CollectionSpec]
PHOTOS = 12
WORDS = ("A dog runs.", "a dog runs", "two cats", "snow", "snow")


def unit(vectors: npt.NDArray[np.floating]) -> Vectors:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), dtype=np.float32)


def filled(index: Index, make_spec: MakeSpec, dataset: str) -> tuple[Searcher, dict[str, Vectors]]:
    """12 photos, of which 3 and 9 are copies of 0, with 5 captions each, of which the last two are one vector."""
    noise = np.random.default_rng(7)
    vectors = {"images": unit(noise.normal(size=(PHOTOS, 4))), "captions": unit(noise.normal(size=(5 * PHOTOS, 4)))}
    vectors["images"][[3, 9]] = vectors["images"][0]
    vectors["captions"][4::5] = vectors["captions"][3::5]
    splits = ["test" if number < 8 else "val" for number in range(PHOTOS)]
    images = [Image(each, splits[each], each, f"{each}.jpg", None, WORDS) for each in range(PHOTOS)]
    captions = [
        Caption(100 + 5 * each.id + place, each.id, each.split, place, text, None)
        for each in images
        for place, text in enumerate(WORDS)
    ]
    names = {"test": {"images": 8, "captions": 40, "images_in_file": 8}}
    names["val"] = {"images": 4, "captions": 20, "images_in_file": 4}
    for kind, records in (("images", images), ("captions", captions)):
        spec = make_spec(kind=kind, splits=names)
        index.create(spec)
        index.upsert(spec.collection, Points(records, vectors[kind]))
    return Searcher(index, dataset), vectors


def ids(hits: list[Hit]) -> list[int]:
    return [hit.id for hit in hits]


def everyone(hits: list[Hit]) -> list[int]:
    return [each.id for hit in hits for each in (hit, *hit.also)]


options = st.builds(
    Options,
    k=st.integers(1, 9),
    to=st.sampled_from(["images", "captions"]),
    min_score=st.none() | st.floats(-1, 1),
    cutoff=st.none() | st.floats(0, 1),
    group=st.booleans(),
    fold=st.none() | st.floats(0.3, 1),
    where=st.none() | st.sampled_from([Where(splits=("test",)), Where(image_ids=(0, 3, 5, 9))]),
)
directions = st.integers(0, 2**32 - 1).map(lambda seed: unit(np.random.default_rng(seed).normal(size=(1, 4)))[0])


def test_pages_continue_each_other(index: Index, make_spec: MakeSpec, dataset: str) -> None:
    searcher, vectors = filled(index, make_spec, dataset)

    # This tests the searcher, not the engines, so the fastest engine gets the most examples.
    @settings(max_examples=60 if isinstance(index, EdgeIndex) else 20, suppress_health_check=list(HealthCheck))
    @given(options, directions)
    def check(asked: Options, direction: Vectors) -> None:
        whole = searcher.search_vector(direction, replace(asked, k=500))
        paged: list[Hit] = []
        while page := searcher.search_vector(direction, replace(asked, offset=len(paged))):
            assert len(page) <= asked.k
            paged += page
        assert ids(paged) == ids(whole)
        assert len(set(everyone(whole))) == len(everyone(whole))
        scores = [hit.score for hit in whole]
        assert scores == sorted(scores, reverse=True)
        for hit in whole:
            assert all(other.score <= hit.score for other in hit.also)
        # Nothing is lost: what scores high enough is a result, or one stands for it.
        stored = vectors[asked.to]
        likes = stored @ direction
        typical = float(stored.mean(axis=0) @ direction)
        plain = searcher.search_vector(direction, Options(k=500, to=asked.to, where=asked.where))
        best = max((hit.score for hit in plain), default=0.0)
        least = max(
            -2.0 if asked.min_score is None else asked.min_score,
            -2.0 if asked.cutoff is None else min(best, typical + asked.cutoff * (best - typical)),
        )
        clear = {hit.id for hit in plain if hit.score > least + 1e-5}
        assert clear <= set(everyone(whole)) <= {hit.id for hit in plain if hit.score >= least - 1e-5}
        assert best <= likes.max() + 1e-5

    check()


def test_what_folding_and_grouping_mean(index: Index, make_spec: MakeSpec, dataset: str) -> None:
    searcher, vectors = filled(index, make_spec, dataset)
    towards = vectors["images"][0]
    found = searcher.search_vector(towards, Options(k=3, fold=0.999))
    assert (found[0].id, ids(list(found[0].also))) == (0, [3, 9])
    assert not {3, 9} & set(ids(found[1:]))
    grouped = searcher.search_vector(towards, Options(k=PHOTOS, to="captions", group=True))
    assert sorted(hit.image_id for hit in grouped) == list(range(PHOTOS))
    assert [len(hit.also) for hit in grouped] == [4] * PHOTOS
    assert grouped[:2] == searcher.search_vector(towards, Options(k=2, to="captions", group=True))
    best = (vectors["captions"] @ towards).reshape(PHOTOS, 5).max(axis=1)
    assert [hit.image_id for hit in grouped] == np.argsort(-best).tolist()
    folded = searcher.search_vector(towards, Options(k=50, to="captions", fold=0.99))
    texts = sorted(hit.record.text.lower().strip(".") for hit in folded if isinstance(hit.record, Caption))
    assert texts == ["a dog runs", "snow", "two cats"]
    assert len(everyone(folded)) == 5 * PHOTOS


def test_both_kinds_in_turn(index: Index, make_spec: MakeSpec, dataset: str) -> None:
    searcher, vectors = filled(index, make_spec, dataset)
    wanted = Options(k=4, offset=1, to="both")
    hits = searcher.search_vector(vectors["captions"][0], wanted)
    assert [hit.kind for hit in hits] == ["images"] * 4 + ["captions"] * 4
    for kind, found in (("images", hits[:4]), ("captions", hits[4:])):
        assert found == searcher.search_vector(vectors["captions"][0], replace(wanted, to=kind))  # type: ignore[arg-type]


def test_images_come_with_the_caption_nearest_to_the_query(index: Index, make_spec: MakeSpec, dataset: str) -> None:
    searcher, vectors = filled(index, make_spec, dataset)
    towards = vectors["images"][5]
    scores = (vectors["captions"] @ towards).reshape(PHOTOS, 5)
    nearest = [WORDS[place] for place in scores.argmax(axis=1)]
    assert len(set(nearest)) > 2
    for asked in (
        Options(k=PHOTOS),
        Options(k=3, offset=2, fold=0.999, where=Where(splits=("test",), contains="cats")),
    ):
        hits = searcher.search_vector(towards, asked)
        assert [hit.caption for hit in hits] == [nearest[hit.id] for hit in hits]
    assert {hit.caption for hit in searcher.search_vector(towards, Options(to="captions"))} == {None}


def test_the_first_caption_where_no_captions_are_stored(index: Index, make_spec: MakeSpec, dataset: str) -> None:
    searcher, vectors = filled(index, make_spec, dataset)
    bare = Image(77, "test", 77, "77.jpg", None, ())
    index.upsert(searcher.collection("images"), Points([bare], vectors["images"][:1]))
    index.drop(searcher.collection("captions"))
    for _ in ("gone", "empty"):
        hits = searcher.search_vector(vectors["images"][0], Options(k=PHOTOS + 1))
        assert {hit.id: hit.caption for hit in hits} == {**dict.fromkeys(range(PHOTOS), WORDS[0]), 77: None}
        index.create(make_spec(kind="captions"))


def test_stored_parts_need_no_model(index: Index, make_spec: MakeSpec, dataset: str) -> None:
    searcher, vectors = filled(index, make_spec, dataset)
    parts = [Part(image_id=1), Part(image_id=2, weight=-0.5), Part(caption_id=110, weight=2)]
    wanted = unit((vectors["images"][1] - 0.5 * vectors["images"][2] + 2 * vectors["captions"][10])[np.newaxis])[0]
    [direction] = searcher.encode([parts])
    assert direction == pytest.approx(wanted, abs=1e-5)
    hits = searcher.search(parts, Options(k=PHOTOS))
    assert len(hits) == PHOTOS - 2
    assert not {1, 2} & set(ids(hits))
    ranked = np.argsort(-(vectors["images"] @ wanted), kind="stable").tolist()
    scores = [hit.score for hit in hits]
    assert scores == pytest.approx([float(vectors["images"][each] @ wanted) for each in ranked if each not in (1, 2)])
    assert searcher.image_id(1, 3, to="captions") == searcher.search([Part(image_id=1)], Options(k=3, to="captions"))
    assert ids(searcher.search([Part(image_id=1)], Options(where=Where(not_ids=(5,), splits=("test",))))).count(5) == 0


def test_many_queries_at_once_get_the_answers_that_each_gets_alone(
    index: Index, make_spec: MakeSpec, dataset: str
) -> None:
    searcher, _ = filled(index, make_spec, dataset)

    @settings(max_examples=15, suppress_health_check=list(HealthCheck))
    @given(st.lists(st.tuples(directions, options), min_size=1, max_size=40))
    def check(asked: list[tuple[Vectors, Options]]) -> None:
        queries = [([Part(vector=direction)], of_query) for direction, of_query in asked]
        together = searcher.search_many(queries)
        assert together == [searcher.search(parts, of_query) for parts, of_query in queries]  # to the last bit

    check()


def test_one_wrong_query_spoils_no_batch(index: Index, make_spec: MakeSpec, dataset: str) -> None:
    searcher, vectors = filled(index, make_spec, dataset)
    queries = [
        [Part(image_id=1)],
        [],
        [Part(image_id=77)],
        [Part(caption_id=77)],
        [Part(image=Path("absent.jpg"))],
        [Part(image_id=1), Part(image_id=1, weight=-1)],
        [Part(caption_id=100)],
    ]
    found = searcher.encode(queries)
    assert found[0] == pytest.approx(vectors["images"][1], abs=1e-6)
    assert found[6] == pytest.approx(vectors["captions"][0], abs=1e-6)
    said = ["no parts", "no image 77", "no caption 77", "absent.jpg: no such file", "cancel each other out"]
    for error, message in zip(found[1:6], said, strict=True):
        assert isinstance(error, CocoSearchError)
        assert message in str(error)
    with pytest.raises(PhotoError, match="no such file"):
        searcher.search(queries[4])
    with pytest.raises(PhotoError, match=r"absent\.jpg: no such file"):
        searcher.image("absent.jpg")
    with pytest.raises(QueryError, match="no parts"):
        searcher.search_vector(found[1], Options())
    assert not isinstance(found[0], CocoSearchError)
    for wrong in (found[0] * np.float32("nan"), found[0] * 0, found[0] * 1e30, found[0] * 1e-30):
        with pytest.raises(QueryError, match="the vector to search for has the length "):
            searcher.search_vector(wrong, Options())
    with pytest.raises(QueryError, match="the vector to search for has the shape "):
        searcher.search_vector(found[0][1:], Options())
    with pytest.raises(QueryError, match=r"`splits` is a string: give a tuple, \('test',\)"):
        searcher.search([Part(image_id=1)], Options(where=Where(splits="test")))  # type: ignore[arg-type]
    with pytest.raises(QueryError, match="no split 'dev'"):
        searcher.search(queries[0], Options(to="both", where=Where(splits=("dev",))))


def test_a_split_of_photos_without_captions(index: Index, make_spec: MakeSpec, dataset: str) -> None:
    searcher, _ = filled(index, make_spec, dataset)
    of_captions = index.spec(f"{dataset}_captions")
    index.delete(of_captions.collection, [each for each in range(100, 100 + 5 * PHOTOS) if each >= 140])
    index.set_spec(replace(of_captions, splits={"test": of_captions.splits["test"]}))
    val = Options(k=20, to="both", where=Where(splits=("val",)))
    assert ids(searcher.search([Part(image_id=0)], val)) == ids(
        searcher.search([Part(image_id=0)], replace(val, to="images"))
    )
    for to, message in (("captions", "has no split 'val', only test"), ("both", "have no split 'dev', only test, val")):
        unknown = Options(to=to, where=Where(splits=("val" if to == "captions" else "dev",)))  # type: ignore[arg-type]
        with pytest.raises(QueryError, match=message):
            searcher.search([Part(image_id=0)], unknown)
    index.drop(of_captions.collection)
    assert len(searcher.search([Part(image_id=0)], val)) == 4
    with pytest.raises(QueryError, match=r"has no split 'val'$"):
        searcher.check(replace(val, to="captions"))
    with pytest.raises(CollectionMissing):
        Searcher(index, f"{dataset}_absent").check(replace(val, to="captions"))


def test_texts_and_pictures_with_the_model(call: Call, photo_set: Path, clip_folder: Path) -> None:
    call("ingest", *ingest_options(photo_set, clip_folder, []))
    file = next((photo_set / "images/val2014").glob("*105.jpg"))
    with Searcher.open(Settings(index_path=Path("index"))) as searcher:
        text, picture = searcher.encoder.encode_texts(["noise"])[0], searcher.encode([[Part(image_id=105)]])[0]
        [mixed] = searcher.encode([[Part(image=file, weight=2), Part(text="noise", weight=-1)]])
        assert mixed == pytest.approx(unit((2 * np.asarray(picture) - text)[np.newaxis])[0], abs=1e-4)
        # An opened picture is the same as its file, and any mode will do.
        with PIL.Image.open(file) as opened:
            assert ids(searcher.image(opened, 3)) == ids(searcher.image(file, 3))
            assert len(searcher.image(opened.convert("RGBA"), 3)) == 3
        alone = [searcher.encode([[Part(text=word)]])[0] for word in ("one", "two")]
        for found, expected in zip(searcher.encode([[Part(text="one")], [Part(text="two")]]), alone, strict=True):
            assert found == pytest.approx(np.asarray(expected), abs=1e-5)


@pytest.mark.parametrize("decode", ["full", "scaled"])
def test_a_stored_photo_finds_itself_with_one_photo_decoded_at_a_time(
    decode: str, call: Call, photo_set: Path, clip_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ingest_options(photo_set, clip_folder, ["--path", str(tmp_path / "index")])
    assert call("ingest", *options, "--decode", decode, "--split", "test")[0] == 0
    decoded: list[weakref.ref[PIL.Image.Image]] = []

    def opened(source: Path, **options: int | None) -> PIL.Image.Image:
        assert not any(each() for each in decoded)
        image = open_image(source, **options)
        decoded.append(weakref.ref(image))
        return image

    monkeypatch.setattr("search.photos.open_image", opened)
    with Searcher.open(Settings(index_path=tmp_path / "index")) as searcher:
        stored = next(searcher.index.scan("coco_images", vectors=True))
        assert stored.vectors is not None
        files = [photo_set / "images" / each.file for each in stored.records if isinstance(each, Image)]
        found = searcher.encode([[Part(image=file)] for file in [*files, photo_set / "absent.jpg"]])
        assert isinstance(found.pop(), PhotoError)
        np.testing.assert_allclose(
            np.stack([each for each in found if isinstance(each, np.ndarray)]), stored.vectors, atol=1e-6
        )
        assert len(decoded) == len(files)
