"""Copying between indexes: nothing changed, nothing lost, taken up again, and never mixed with another model's."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import Call, everywhere, ingest_options, one_line_error
from hypothesis import given
from hypothesis import strategies as st
from points import caption, image, unit

from ingest.transfer.copy import Comparison, Point, copy_collection, point_checksum, prepare
from search.errors import IndexFailure, SpecMismatch
from search.index import Batch, CollectionSpec, Index, Points, Tuning
from search.index.edge.index import EdgeIndex
from search.index.relay.wire import PackedBatch
from search.records import Caption, Image, Vectors
from search.settings import settings_of

MakeSpec = Callable[..., CollectionSpec]


@pytest.fixture
def embedded(tmp_path: Path) -> Iterator[EdgeIndex]:
    """An index to copy from, or back to."""
    index = EdgeIndex(tmp_path / "embedded")
    yield index
    index.close()


def stored(index: Index, collection: str) -> dict[int, tuple[Image | Caption, Vectors]]:
    found: dict[int, tuple[Image | Caption, Vectors]] = {}
    for batch in index.scan(collection, vectors=True):
        assert batch.vectors is not None
        found |= {record.id: (record, vector) for record, vector in zip(batch.records, batch.vectors, strict=True)}
    return found


def fill(index: Index, spec: CollectionSpec, count: int) -> None:
    index.create(spec)
    index.upsert(spec.collection, Points([image(number) for number in range(count)], unit(count, spec.dim)))


def test_there_and_back(index: Index, embedded: EdgeIndex, make_spec: MakeSpec, tmp_path: Path) -> None:
    spec = make_spec(dim=24)
    fill(embedded, spec, 2300)
    assert prepare(embedded, index, [spec.collection], None) == []
    there = copy_collection(embedded, index, spec.collection)
    assert (there.written, there.already_there, there.comparison.same) == (2300, 0, 2300)
    assert index.spec(spec.collection) == spec

    back = EdgeIndex(tmp_path / "back")
    prepare(index, back, [spec.collection], None)
    copied = copy_collection(index, back, spec.collection)
    # The embedded engine keeps unit vectors as they are; Qdrant's local mode, which the stand-ins are, does not.
    assert copied.comparison.inexact == 0
    assert copied.comparison.source_checksum == copied.comparison.target_checksum
    expected, found = stored(embedded, spec.collection), stored(back, spec.collection)
    back.close()
    assert found.keys() == expected.keys()
    for number, (record, vector) in expected.items():
        assert found[number][0] == record
        np.testing.assert_allclose(found[number][1], vector, atol=1e-7)


def test_between_folders_every_bit_is_kept(embedded: EdgeIndex, make_spec: MakeSpec, tmp_path: Path) -> None:
    spec = make_spec(kind="captions", dim=3)
    embedded.create(spec)
    texts = ['ünïcödé 🐶 " \\ \u2028', "\x00 and \x7f", ""]
    records = [caption(number, number % 10, text=texts[number % 3]) for number in range(30)]
    vectors = unit(30, 3) * np.float32(1.0000005)  # not quite of unit length
    embedded.upsert(spec.collection, Points(records, vectors))
    other = EdgeIndex(tmp_path / "other")
    prepare(embedded, other, [spec.collection], None)
    copied = copy_collection(embedded, other, spec.collection)
    assert copied.comparison.source_checksum == copied.comparison.target_checksum
    expected, found = stored(embedded, spec.collection), stored(other, spec.collection)
    assert {number: (record, vector.tobytes()) for number, (record, vector) in found.items()} == {
        number: (record, vector.tobytes()) for number, (record, vector) in expected.items()
    }
    other.close()


def test_only_what_is_missing_or_different_is_written(
    index: Index, embedded: EdgeIndex, make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make_spec(dim=8)
    fill(embedded, spec, 1200)
    prepare(embedded, index, [spec.collection], None)
    some = [number for number in range(1200) if number % 3]
    index.upsert(spec.collection, Points([image(number) for number in some], unit(1200, 8)[some]))
    index.upsert(spec.collection, Points([image(4, captions=("another",))], unit(1200, 8)[[4]]))
    index.upsert(spec.collection, Points([image(7)], -unit(1200, 8)[[7]]))
    index.upsert(spec.collection, Points([image(5000), image(5001)], unit(2, 8)))

    writes: list[int] = []
    upsert = index.upsert

    def counting(collection: str, points: Points) -> None:
        writes.extend(record.id for record in points.records)
        upsert(collection, points)

    monkeypatch.setattr(index, "upsert", counting)
    copied = copy_collection(embedded, index, spec.collection)
    assert sorted(writes) == sorted({*range(0, 1200, 3), 4, 7})
    assert (copied.written, copied.already_there, copied.comparison.extra) == (402, 798, 2)
    assert index.count(spec.collection) == 1202

    writes.clear()
    again = copy_collection(embedded, index, spec.collection)
    assert (again.written, again.already_there, again.comparison.extra) == (0, 1200, 2)
    assert not writes


def test_what_users_added_is_copied_and_stays(index: Index, embedded: EdgeIndex, make_spec: MakeSpec) -> None:
    spec = make_spec()
    fill(embedded, spec, 4)
    prepare(embedded, index, [spec.collection], None)
    copy_collection(embedded, index, spec.collection)
    vectors, note = unit(4), {"note": {"by": ["ann", None]}, "empty": None, "seen": 3}
    index.upsert(spec.collection, Points([replace(image(1), extra={"target": 1}), image(2)], vectors[1:3]))
    embedded.upsert(spec.collection, Points([replace(image(number), extra=note) for number in (1, 2)], vectors[1:3]))
    index.upsert(spec.collection, Points([replace(image(3), extra={"target": 1})], vectors[3:]))

    copied = copy_collection(embedded, index, spec.collection)

    assert (copied.written, copied.already_there) == (2, 2)
    assert copied.comparison.source_checksum == copied.comparison.target_checksum or copied.comparison.inexact
    records = index.retrieve(spec.collection, [0, 1, 2, 3]).records
    assert [record.extra for record in records] == [None, {**note, "target": 1}, note, {"target": 1}]
    packed = PackedBatch.of(Batch(records)).model_dump_json()
    assert PackedBatch.model_validate_json(packed).unpack().records[1].extra == {**note, "target": 1}


def test_a_target_that_does_not_keep_what_it_is_given(
    index: Index, embedded: EdgeIndex, make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make_spec()
    fill(embedded, spec, 9)
    prepare(embedded, index, [spec.collection], None)
    upsert = index.upsert
    monkeypatch.setattr(
        index, "upsert", lambda name, points: upsert(name, Points(points.records[1:], -points.vectors[1:]))
    )
    with pytest.raises(IndexFailure, match="1 points are missing, 8 differ"):
        copy_collection(embedded, index, spec.collection)


def test_another_model_is_refused_before_anything_is_written(
    index: Index, embedded: EdgeIndex, make_spec: MakeSpec
) -> None:
    for kind in ("captions", "images"):
        fill(embedded, make_spec(kind=kind, dim=4), 0)
    other = make_spec(weights="c" * 64, model="another-clip")
    fill(index, other, 2)
    names = [make_spec(kind="captions").collection, other.collection]
    with pytest.raises(SpecMismatch, match="another-clip"):
        prepare(embedded, index, names, None)
    assert names[0] not in index.collections()


def test_how_the_target_is_built(embedded: EdgeIndex, make_spec: MakeSpec, tmp_path: Path) -> None:
    spec = make_spec()
    embedded.create(spec, Tuning(quantization="int8", on_disk=True))
    other = EdgeIndex(tmp_path / "other")
    prepare(embedded, other, [spec.collection], None)
    settings = other.info(spec.collection).settings
    assert (settings["quantization"], settings["on_disk"]) == ("int8", True)
    warnings = prepare(embedded, other, [spec.collection], Tuning(quantization="binary", on_disk=True))
    assert len(warnings) == 1
    assert "keeps it, not binary as requested" in warnings[0]
    other.close()


KILLED = """
import os, signal, sys
import ingest.transfer.copy
from ingest.__main__ import main
from search.index.edge.index import EdgeIndex
ingest.transfer.copy.POINTS_PER_WRITE = 50
upsert, left = EdgeIndex.upsert, int(sys.argv.pop(1))
def until_killed(self, collection, points):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    upsert(self, collection, points)
EdgeIndex.upsert = until_killed
main()
"""


@pytest.mark.parametrize("writes", [0, 1, 7])
def test_killed_and_taken_up_again(
    call: Call, embedded: EdgeIndex, make_spec: MakeSpec, tmp_path: Path, writes: int
) -> None:
    spec = make_spec()
    fill(embedded, spec, 500)
    embedded.close()
    command = ["copy", "--from", str(embedded.path), "--to", str(tmp_path / "other"), "--json"]
    killed = subprocess.run([sys.executable, "-c", KILLED, str(writes), *command], capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    code, out, _ = call("ingest", *command)
    assert code == 0
    (copied,) = json.loads(out)
    assert (copied["written"], copied["already_there"]) == (500 - 50 * writes, 50 * writes)
    assert copied["source_checksum"] == copied["target_checksum"]


@everywhere
def test_the_command(call: Call, photo_set: Path, clip_folder: Path, place: list[str]) -> None:
    assert call("ingest", *ingest_options(photo_set, clip_folder, place))[0] == 0
    where, dataset = place[1], place[3]
    code, out, err = call("ingest", "copy", "--from", where, "--to", "other")
    assert code == 0
    assert f"{dataset}_images: 12 points (12 copied now, 0 were there already)" in out
    assert out.count("verified to the last bit") == 2
    assert f"copying {dataset}_images: 100%" in err
    asked = ["search", "text", "a photo of noise", "--to", "both", "--json", "--exact", "--dataset", dataset]
    answers = [call(*asked, *options)[1].splitlines() for options in (place[:2], ["--path", "other"])]
    ids = [[(json.loads(line)["kind"], json.loads(line)["image_id"]) for line in lines] for lines in answers]
    assert ids[0] == ids[1]
    assert len(ids[0]) == 20

    assert call("ingest", "drop", "--yes", *place)[0] == 0
    code, out, _ = call("ingest", "copy", "--from", "other", "--to", where, "--dataset", dataset, "--json")
    assert code == 0
    assert [(each["collection"], each["points"], each["written"]) for each in json.loads(out)] == [
        (f"{dataset}_captions", 60, 60),
        (f"{dataset}_images", 12, 12),
    ]


def test_calls_that_make_no_sense(call: Call, embedded: EdgeIndex, make_spec: MakeSpec) -> None:
    fill(embedded, make_spec(), 3)
    embedded.close()
    where = ["copy", "--from", embedded.path, "--to"]
    assert "are the same index" in one_line_error(call("ingest", *where, f"{embedded.path}/../embedded"))
    assert "no collection absent_images" in one_line_error(call("ingest", *where, "other", "--dataset", "absent"))
    assert "no collections in nothing" in one_line_error(call("ingest", "copy", "--from", "nothing", "--to", "other"))
    assert "need a Qdrant server" in one_line_error(call("ingest", *where, "other", "--shards", 2))
    assert not Path("nothing").exists()
    assert call("ingest", "copy", "--from", "x")[0] == 2
    with_holder = EdgeIndex(embedded.path)
    with_holder.count(make_spec().collection)
    assert "open in another process" in one_line_error(call("ingest", *where, "other"))
    with_holder.close()


def test_each_end_has_a_key_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QDRANT_API_KEY", "both")
    monkeypatch.setenv("QDRANT_API_KEY_TO", "target")
    monkeypatch.setenv("QDRANT_GRPC_PORT_FROM", "7000")
    source, target = settings_of("http://a:1", "FROM"), settings_of("https://b", "TO")
    assert (source.qdrant_url, source.qdrant_grpc_port) == ("http://a:1", 7000)
    assert source.qdrant_api_key == "both"
    assert (target.qdrant_url, target.qdrant_grpc_port) == ("https://b", None)
    assert target.qdrant_api_key == "target"
    monkeypatch.setenv("QDRANT_URL", "http://elsewhere")
    folder = settings_of("a/folder", "FROM")
    assert (folder.qdrant_url, folder.index_path) == (None, Path("a/folder"))


@given(st.lists(st.integers(0, 2**62), unique=True, min_size=1, max_size=20), st.randoms())
def test_checksums_depend_on_every_point_and_on_no_order(ids: list[int], dice: object) -> None:
    vectors = unit(len(ids))
    points: list[Point] = [(caption(number), vector) for number, vector in zip(ids, vectors, strict=True)]

    def total(points: list[Point]) -> int:
        found = Comparison()
        for point in points:
            found.add(point, None)
        return found.source_checksum

    shuffled = points.copy()
    dice.shuffle(shuffled)  # type: ignore[attr-defined]
    assert total(shuffled) == total(points)
    assert total(points[1:]) != total(points)
    changed = points[0][1].copy()
    changed[0] = np.nextafter(changed[0], np.float32(2))
    assert total([(points[0][0], changed), *points[1:]]) != total(points)
    assert total([(caption(ids[0], text="a cat."), points[0][1]), *points[1:]]) != total(points)


def test_a_checksum_by_hand() -> None:
    """So that other software can compute it: blake2b of id, sorted JSON and float32, little-endian."""
    payload = b'{"caption_id":10,"image_id":1,"position":0,"split":"test","text":"a cat"}'
    ten, one_and_zero = b"\x0a" + bytes(7), b"\x00\x00\x80\x3f" + bytes(4)
    expected = hashlib.blake2b(ten + payload + one_and_zero, digest_size=16).digest()
    assert point_checksum(caption(10), np.array([1, 0], np.float32)) == int.from_bytes(expected, "little")
