"""The contract of the index, for the embedded engine, the server adapter and, if available, a real server."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from points import caption, fill, image, unit
from qdrant_client import QdrantClient, models

from search.errors import CollectionMissing, IndexFailure, InvalidPoints, SpecMismatch
from search.index import CollectionSpec, Index, Points, SearchParams, SplitSize, Tuning, Where
from search.index.server.connection import Connection
from search.index.server.index import ServerIndex
from search.records import PhotoMark

MakeSpec = Callable[..., CollectionSpec]


def test_written_points_are_read_back(index: Index, make_spec: MakeSpec) -> None:
    spec = make_spec()
    assert index.create(spec) == []
    vectors = fill(index, spec, 5)

    batch = index.retrieve(spec.collection, [3, 1, 77], vectors=True)

    assert batch.records == [image(3), image(1)]
    assert batch.vectors is not None
    assert batch.vectors.dtype == np.float32
    np.testing.assert_allclose(batch.vectors, vectors[[3, 1]], atol=1e-6)
    assert index.retrieve(spec.collection, [3]).vectors is None
    assert index.count(spec.collection) == 5


def test_captions_are_read_back_as_captions(index: Index, make_spec: MakeSpec) -> None:
    spec = make_spec(kind="captions")
    index.create(spec)
    points = [caption(10, 0), caption(11, 1, text='quotes " and <b>tags</b> and ünïcödé 🐶')]
    index.upsert(spec.collection, Points(points, unit(2)))
    assert index.retrieve(spec.collection, [11, 10]).records == points[::-1]


def test_writing_twice_changes_nothing_and_new_values_replace_old_ones(index: Index, make_spec: MakeSpec) -> None:
    spec = make_spec()
    index.create(spec)
    fill(index, spec, 5)
    fill(index, spec, 5)
    assert index.count(spec.collection) == 5
    index.upsert(spec.collection, Points([image(2, captions=("new",))], unit(1, seed=9)))
    assert index.count(spec.collection) == 5
    again = index.retrieve(spec.collection, [2], vectors=True)
    assert again.records == [image(2, captions=("new",))]
    assert again.vectors is not None
    np.testing.assert_allclose(again.vectors, unit(1, seed=9), atol=1e-6)


NOTE: dict[str, object] = {
    "note": "look at the tail",
    "checked": {"by": ["ann", None, 1.5], "on": {"day": 3}},
    "seen": False,
}


def test_payloads_are_written_without_vectors_and_without_losing_what_users_added(
    index: Index, make_spec: MakeSpec
) -> None:
    spec = make_spec()
    index.create(spec)
    mark = PhotoMark(5, 2**60, "ab")
    stored = [replace(image(number), photo=mark, extra=NOTE) for number in range(600)]
    vectors = unit(600)
    index.upsert(spec.collection, Points(stored, vectors))
    index.optimize(spec.collection)

    moved = [replace(each, split="val", order=each.id + 5, url=None, photo=None, extra=None) for each in stored[::2]]
    index.set_payload(spec.collection, moved)

    now = index.retrieve(spec.collection, list(range(600)), vectors=True)
    assert now.vectors is not None
    np.testing.assert_allclose(now.vectors, vectors, atol=1e-6)
    assert now.records[::2] == moved
    assert now.records[1::2] == stored[1::2]
    for record in now.records:
        assert record.extra == NOTE
        assert record.payload() == {**record.fields(), **NOTE}
    assert index.count(spec.collection, where=Where(splits=("val",))) == 300
    [hits] = index.query(spec.collection, vectors[:1], 600, SearchParams(exact=True, where=Where(splits=("test",))))
    assert {hit.id for hit in hits} == set(range(1, 600, 2))


def test_vectors_are_written_without_payloads(index: Index, make_spec: MakeSpec) -> None:
    spec = make_spec(kind="captions")
    index.create(spec)
    records = [replace(caption(number, text=f"text {number}"), truncated=True, extra=NOTE) for number in (10, 11, 12)]
    vectors = unit(6)
    index.upsert(spec.collection, Points(records, vectors[:3]))
    index.set_vectors(spec.collection, Points([replace(each, text="not written") for each in records[1:]], vectors[4:]))
    now = index.retrieve(spec.collection, [10, 11, 12], vectors=True)
    assert now.vectors is not None
    np.testing.assert_allclose(now.vectors, vectors[[0, 4, 5]], atol=1e-6)
    assert now.records == records
    assert [record.extra for record in now.records] == [NOTE] * 3


def test_updates_create_no_points(index: Index, make_spec: MakeSpec) -> None:
    spec = make_spec()
    index.create(spec)
    fill(index, spec, 3)
    with pytest.raises((IndexFailure, KeyError), match="7"):  # KeyError: the client's local mode
        index.set_payload(spec.collection, [image(1), image(7)])
    with pytest.raises((IndexFailure, KeyError), match="7"):
        index.set_vectors(spec.collection, Points([image(1), image(7)], unit(2)))
    index.set_payload(spec.collection, [])
    assert index.count(spec.collection) == 3


def test_deleted_points_are_gone(index: Index, make_spec: MakeSpec) -> None:
    spec = make_spec()
    index.create(spec)
    vectors = fill(index, spec, 600)
    index.delete(spec.collection, [*range(500), 2**62])  # more than fits into a request, and one that does not exist
    index.delete(spec.collection, [])
    index.optimize(spec.collection)
    assert index.count(spec.collection) == 100
    assert index.retrieve(spec.collection, [0, 499]).records == []
    [hits] = index.query(spec.collection, vectors[:1], 600)
    assert {hit.id for hit in hits} == set(range(500, 600))
    assert [record.id for batch in index.scan(spec.collection) for record in batch.records] == list(range(500, 600))


def test_queries_rank_by_cosine(index: Index, make_spec: MakeSpec) -> None:
    spec = make_spec(dim=16)
    index.create(spec)
    vectors = fill(index, spec, 300)
    queries = unit(70, 16, seed=5) * 3  # length must not matter

    answers = index.query(spec.collection, queries, 7, SearchParams(exact=True))

    expected = queries @ vectors.T / 3
    assert len(answers) == 70
    for scores, hits in zip(expected, answers, strict=True):
        assert [hit.id for hit in hits] == np.argsort(-scores)[:7].tolist()
        np.testing.assert_allclose([hit.score for hit in hits], np.sort(scores)[::-1][:7], atol=1e-5)
    assert answers[0][0].record == image(answers[0][0].id)


def test_queries_page_and_omit_payloads(index: Index, make_spec: MakeSpec) -> None:
    spec = make_spec(dim=16)
    index.create(spec)
    fill(index, spec, 30)
    query = unit(1, 16, seed=5)
    whole = index.query(spec.collection, query, 10, SearchParams(exact=True, payload=False))[0]
    page = index.query(spec.collection, query, 4, SearchParams(exact=True, payload=False, offset=3))[0]
    assert [hit.id for hit in page] == [hit.id for hit in whole[3:7]]
    assert whole[0].record is None
    assert len(index.query(spec.collection, query, 1000, SearchParams(exact=True))[0]) == 30


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        (Where(), {10, 11, 20, 21}),
        (Where(splits=("test",)), {10, 11}),
        (Where(splits=("test", "val")), {10, 11, 20, 21}),
        (Where(ids=(11, 20, 99)), {11, 20}),
        (Where(not_ids=(11, 20, 99)), {10, 21}),
        (Where(image_ids=(1, 7)), {10, 11}),
        (Where(image_ids=(1, 2), ids=(11, 20), not_ids=(20,)), {11}),
        (Where(max_position=0), {10, 20}),
        (Where(contains="zebra"), {21}),
        (Where(splits=("val",), max_position=0), {20}),
        (Where(splits=("nowhere",)), set()),
    ],
)
def test_filters(index: Index, make_spec: MakeSpec, where: Where, expected: set[int]) -> None:
    spec = make_spec(kind="captions")
    index.create(spec)
    points = [
        caption(10, 0, "test", "a brown dog"),
        caption(11, 1, "test", "a bird"),
        caption(20, 0, "val", "a white dog"),
        caption(21, 1, "val", "a zebra on grass"),
    ]
    index.upsert(spec.collection, Points(points, unit(4)))
    found = index.query(spec.collection, unit(1, seed=3), 10, SearchParams(where=where, exact=True))[0]
    assert {hit.id for hit in found} == expected
    assert {record.id for batch in index.scan(spec.collection, where=where) for record in batch.records} == expected
    assert index.count(spec.collection, where=where) == len(expected)


def test_each_vector_can_have_its_own_filter(index: Index, make_spec: MakeSpec) -> None:
    spec = make_spec(kind="captions")
    index.create(spec)
    captions = [caption(number, number % 10) for number in range(40)]
    index.upsert(spec.collection, Points(captions, unit(40)))
    where = (Where(image_ids=(0, 2)), Where(image_ids=(3,)), Where(max_position=1))
    queries = unit(3, seed=5)
    for per_image in (False, True):
        together = index.query(
            spec.collection, queries, 40, SearchParams(exact=True, each_where=where, per_image=per_image)
        )
        for query, condition, hits in zip(queries, where, together, strict=True):
            alone = SearchParams(exact=True, where=condition, per_image=per_image)
            assert index.query(spec.collection, query[np.newaxis], 40, alone) == [hits]
    assert [{hit.image_id for hit in hits} for hits in together] == [{0, 2}, {3}, {0, 1, 2, 3}]


def test_queries_return_payloads_as_they_are_now(index: Index, make_spec: MakeSpec) -> None:
    spec = make_spec()
    index.create(spec)
    vectors = fill(index, spec, 5)
    query, params = vectors[2:3], SearchParams(exact=True)
    changes: tuple[Callable[[], None], ...] = (
        lambda: index.set_payload(spec.collection, [image(2, captions=("new",))]),
        lambda: index.upsert(spec.collection, Points([image(2, split="val")], query)),
        lambda: index.upsert(spec.collection, Points([replace(image(2), extra={"note": "x"})], query)),
    )
    for change in changes:
        before = index.query(spec.collection, query, 1, params)[0][0].record
        change()
        [after] = index.retrieve(spec.collection, [2]).records
        assert index.query(spec.collection, query, 1, params)[0][0].record == after
        assert (before, before and before.extra) != (after, after.extra)


def test_scan_gives_every_point_once_in_order(index: Index, make_spec: MakeSpec) -> None:
    spec = make_spec()
    index.create(spec)
    vectors = unit(2500)
    order = np.random.default_rng(1).permutation(2500)
    index.upsert(spec.collection, Points([image(int(number)) for number in order], vectors[order]))
    batches = list(index.scan(spec.collection, vectors=True))
    assert [record.id for batch in batches for record in batch.records] == list(range(2500))
    read = np.concatenate([batch.vectors for batch in batches if batch.vectors is not None])
    np.testing.assert_allclose(read, vectors, atol=1e-6)


def test_optimize_keeps_every_answer(index: Index, make_spec: MakeSpec) -> None:
    spec = make_spec(dim=8)
    index.create(spec)
    fill(index, spec, 200)
    before = index.query(spec.collection, unit(3, 8, seed=2), 5, SearchParams(exact=True))
    index.optimize(spec.collection)
    after = index.query(spec.collection, unit(3, 8, seed=2), 5, SearchParams(exact=True))
    assert [[hit.id for hit in hits] for hits in after] == [[hit.id for hit in hits] for hits in before]
    assert index.info(spec.collection).points == 200


def test_the_specification_is_stored(index: Index, make_spec: MakeSpec) -> None:
    spec = make_spec(prompt="a photo of {}", revision="abc")
    index.create(spec)
    assert index.spec(spec.collection) == spec
    info = index.info(spec.collection)
    assert (info.name, info.points, info.spec) == (spec.collection, 0, spec)
    assert spec.collection in index.collections()


SETTINGS = (
    "m", "ef_construct", "full_scan_threshold", "indexing_threshold",
    "quantization", "on_disk", "shards", "replicas", "segments",
)  # fmt: skip


@pytest.mark.parametrize("tuning", [None, Tuning(), Tuning("int8", on_disk=True), Tuning("binary")])
def test_answers_do_not_depend_on_the_tuning(index: Index, make_spec: MakeSpec, tuning: Tuning | None) -> None:
    spec = make_spec(dim=16)
    assert index.create(spec, tuning) == []
    vectors = fill(index, spec, 100)
    index.optimize(spec.collection)
    exact = index.query(spec.collection, vectors[:5], 3, SearchParams(exact=True))
    assert [hits[0].id for hits in exact] == [0, 1, 2, 3, 4]
    for params in (
        SearchParams(ef=4),
        SearchParams(ef=100),
        SearchParams(quantized=False),
        SearchParams(oversampling=40.0),
    ):
        answers = index.query(spec.collection, vectors[:5], 3, params)
        assert [len(hits) for hits in answers] == [3] * 5
        if params.ef != 4:
            np.testing.assert_allclose([hits[0].score for hits in answers], 1, atol=1e-2)
    assert len(index.query(spec.collection, vectors[:5], 3, SearchParams(rescore=False))) == 5


def test_settings_are_reported(index: Index, make_spec: MakeSpec) -> None:
    spec = make_spec()
    index.create(spec)
    info = index.info(spec.collection)
    assert tuple(info.settings) == SETTINGS
    assert info.settings["quantization"] == "none"
    assert info.settings["segments"] >= 1
    assert info.as_json()["settings"] == info.settings


def test_an_existing_collection_keeps_its_tuning_with_a_warning(index: Index, make_spec: MakeSpec) -> None:
    spec = make_spec()
    index.create(spec, Tuning())
    assert index.create(spec) == []
    assert index.create(spec, Tuning()) == []
    warnings = index.create(spec, Tuning("int8", on_disk=True))
    assert len(warnings) == 2
    assert "quantization none and keeps it, not int8 as requested" in warnings[0]
    assert "on_disk" in warnings[1]
    assert index.info(spec.collection).settings["quantization"] == "none"


def test_creating_again_is_harmless(index: Index, make_spec: MakeSpec) -> None:
    spec = make_spec()
    index.create(spec)
    fill(index, spec, 3)
    moved = make_spec(model="/elsewhere/some-clip", photos="/elsewhere/photos")
    assert index.create(moved) == []
    assert index.count(spec.collection) == 3
    assert index.spec(spec.collection).photos == "/elsewhere/photos"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"weights": "c" * 64, "model": "other-clip"}, ["some-clip", "other-clip", "--dataset"]),
        ({"dim": 5}, ["dimension", "4", "5"]),
        ({"prompt": "a photo of {}"}, ["prompt"]),
    ],
)
def test_another_model_is_refused(
    index: Index, make_spec: MakeSpec, change: dict[str, object], words: list[str]
) -> None:
    spec = make_spec()
    index.create(spec)
    with pytest.raises(SpecMismatch) as refusal:
        index.create(make_spec(**change))
    assert all(word in str(refusal.value) for word in words)
    assert index.spec(spec.collection) == spec


def test_a_specification_is_replaced_only_on_request(index: Index, make_spec: MakeSpec) -> None:
    index.create(make_spec())
    padded = make_spec(padding="max_length")
    with pytest.raises(SpecMismatch, match="padded to full length"):
        index.create(padded)
    assert index.create(padded, replace=True) == []
    assert index.spec(padded.collection) == padded


def test_another_dtype_is_a_warning(index: Index, make_spec: MakeSpec) -> None:
    index.create(make_spec())
    warnings = index.create(make_spec(dtype="bfloat16", decode="scaled"))
    assert len(warnings) == 2
    assert "bfloat16" in warnings[0]


def test_the_specification_can_be_replaced(index: Index, make_spec: MakeSpec) -> None:
    one = SplitSize(images=1, captions=5, images_in_file=1)
    index.create(make_spec(splits={"test": one, "val": one}))
    index.set_spec(make_spec(splits={"val": one}, follow_links=True))
    assert index.spec(make_spec().collection) == make_spec(splits={"val": one}, follow_links=True)


def test_a_missing_collection(index: Index, make_spec: MakeSpec) -> None:
    absent = make_spec().collection
    for ask in (
        lambda: index.count(absent),
        lambda: index.spec(absent),
        lambda: index.info(absent),
        lambda: index.retrieve(absent, [1]),
        lambda: list(index.scan(absent)),
        lambda: index.query(absent, unit(1), 3),
    ):
        with pytest.raises(CollectionMissing, match=absent):
            ask()
    assert absent not in index.collections()
    index.drop(absent)


def test_a_dropped_collection_is_gone(index: Index, make_spec: MakeSpec) -> None:
    spec = make_spec()
    index.create(spec)
    fill(index, spec, 3)
    index.drop(spec.collection)
    assert spec.collection not in index.collections()
    index.create(spec)
    assert index.count(spec.collection) == 0


def test_largest_ids(index: Index, make_spec: MakeSpec) -> None:
    spec = make_spec()
    index.create(spec)
    index.upsert(spec.collection, Points([image(0), image(2**63 - 1)], unit(2)))
    assert [record.id for batch in index.scan(spec.collection) for record in batch.records] == [0, 2**63 - 1]


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=40), min_size=1, max_size=5))
def test_any_text_survives(index: Index, make_spec: MakeSpec, texts: list[str]) -> None:
    spec = make_spec()
    index.create(spec)
    written = image(7, captions=tuple(texts))
    index.upsert(spec.collection, Points([written], unit(1)))
    assert index.retrieve(spec.collection, [7]).records == [written]


def test_creating_again_and_again_keeps_the_specification(index: Index, make_spec: MakeSpec) -> None:
    for revision in (None, "abc", None):  # a field that becomes None must not keep its old value
        index.create(make_spec(revision=revision))
        assert index.spec(make_spec().collection).revision == revision


def test_another_annotation_file_is_a_warning(index: Index, make_spec: MakeSpec) -> None:
    index.create(make_spec())
    assert "another annotation file" in index.create(make_spec(annotations="d" * 64))[0]


@pytest.mark.parametrize("bad", [np.nan, np.inf, 0.0])
def test_points_refuse_vectors_without_a_direction(bad: float) -> None:
    vectors = unit(2)
    vectors[1] = bad
    with pytest.raises(InvalidPoints, match="vector of 8"):
        Points([image(7), image(8)], vectors)


def test_points_refuse_shapes_that_do_not_match() -> None:
    with pytest.raises(InvalidPoints):
        Points([image(7)], unit(2))
    with pytest.raises(InvalidPoints, match="-1"):
        Points([image(-1)], unit(1))


def test_collections_of_other_software_are_not_touched(make_spec: MakeSpec) -> None:
    client = QdrantClient(":memory:")
    spec = make_spec()
    for name, metadata in ((spec.collection, None), ("docs", {"owner": "x"}), ("other_images", {"owner": "x"})):
        client.create_collection(
            name,
            vectors_config=models.VectorParams(size=4, distance=models.Distance.COSINE),
            metadata=metadata,
        )
    index = ServerIndex(Connection(client, ":memory:", "local"))
    assert index.collections() == []
    with pytest.raises(SpecMismatch, match="not written by coco-search"):
        index.create(spec)
