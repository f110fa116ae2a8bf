"""Exporting to Parquet and importing it again: readable by pyarrow alone, to the bit, and all or nothing."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import Call, one_line_error, plain_spec
from hypothesis import given, settings
from hypothesis import strategies as st
from points import caption, image, unit
from test_copy import stored

from ingest.transfer.load import exported, load
from ingest.transfer.parquet import ParquetCollection, export_collection
from search.errors import IndexFailure
from search.index import Batch, CollectionSpec, Index, Points, ReadIndex
from search.index.edge.index import EdgeIndex
from search.records import Caption, Image, PhotoMark, Vectors

MakeSpec = Callable[..., CollectionSpec]
ODD = 'ünïcödé 🐶 " \\ \u2028 \x00 \x7f'


@pytest.fixture
def other(tmp_path: Path) -> Iterator[EdgeIndex]:
    with closing(EdgeIndex(tmp_path / "other")) as index:
        yield index


def fill(index: Index, spec: CollectionSpec, records: list[Image] | list[Caption]) -> Vectors:
    vectors = unit(len(records), spec.dim)
    index.create(spec)
    index.upsert(spec.collection, Points(records, vectors))
    return vectors


def everything(index: Index, collection: str) -> dict[int, tuple[dict[str, Any], bytes]]:
    return {
        number: (record.payload(), vector.tobytes()) for number, (record, vector) in stored(index, collection).items()
    }


def test_there_and_back(index: Index, other: EdgeIndex, make_spec: MakeSpec, tmp_path: Path) -> None:
    mark = PhotoMark(2**40, 1_795_665_387_193_347_855, "f3fa")
    noted = {"note": {"by": ["ann", None, 0.1]}, "empty": None, "id": 2**62, "vector": [1], "extra": ODD}
    specs = make_spec(dim=24, photos="file:///%FF"), make_spec(dim=24, kind="captions", prompt="a photo of {}")
    images = [
        image(1),
        replace(image(2**53 + 1), photo=mark, url=None, extra=noted),
        replace(image(7, captions=()), stale=True),
    ]
    captions = [caption(10), replace(caption(2**62, text=ODD), truncated=True, stale=True, extra={"seen": True})]
    fill(index, specs[0], images)
    fill(index, specs[1], captions)
    files = [tmp_path / f"{spec.collection}.parquet" for spec in specs]
    assert [export_collection(index, spec.collection, file) for spec, file in zip(specs, files, strict=True)] == [3, 2]

    warnings, loaded = load(other, exported(files, None), None)
    assert (warnings, [(each.written, each.comparison.inexact) for each in loaded]) == ([], [(3, 0), (2, 0)])
    for spec in specs:
        assert other.spec(spec.collection) == index.spec(spec.collection)
        assert everything(other, spec.collection) == everything(index, spec.collection)
    _, loaded = load(other, exported(files, None), None)
    assert [(each.written, each.already_there) for each in loaded] == [(0, 3), (0, 2)]


def test_other_software_reads_it(other: EdgeIndex, make_spec: MakeSpec, tmp_path: Path) -> None:
    spec = make_spec(dim=5)
    vectors = fill(other, spec, [replace(image(number), hubness=0.25, extra={"note": "é"}) for number in range(2300)])
    file = tmp_path / "images.parquet"
    export_collection(other, spec.collection, file)
    table = pq.read_table(file)
    assert table.schema.field("vector").type == pa.list_(pa.float32(), 5)
    assert table["vector"].combine_chunks().flatten().to_numpy().tobytes() == vectors.tobytes()
    assert table["id"].to_pylist() == list(range(2300))
    assert table.drop_columns(["vector"]).to_pylist()[3] == {
        "id": 3,
        "split": "test",
        "order": 3,
        "file": "val2014/3.jpg",
        "captions": ["a dog", "a brown dog"],
        "url": "http://images.cocodataset.org/val2014/3.jpg",
        "photo": None,
        "stale": False,
        "hubness": 0.25,
        "extra": '{"note": "é"}',
    }
    described = json.loads(pq.read_metadata(file).metadata[b"coco_search"])
    assert (described["model"], described["weights"], described["dim"]) == ("some-clip", "a" * 64, 5)


odd_texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
odd_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(odd_texts, inner, max_size=3),
    max_leaves=6,
)
added = st.dictionaries(odd_texts, odd_values | odd_texts, max_size=4).map(
    lambda fields: {name: value for name, value in fields.items() if name not in Image.NAMES | Caption.NAMES} or None
)
bits = st.floats(-1, 1, width=32, allow_subnormal=True)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(odd_texts, odd_texts, st.none() | odd_texts.filter(bool), added, bits, bits), max_size=4))
def test_any_payload_survives(rows: list[tuple[str, str, str | None, dict[str, Any] | None, float, float]]) -> None:
    """Without an engine, which is slow and has opinions of its own: what is scanned is what is read back."""
    spec = plain_spec(dataset="t", kind="captions", dim=3)
    records = [
        Caption(number, 2**62, split, number, text, url, bool(number % 2), extra=extra)
        for number, (split, text, url, extra, _, _) in enumerate(rows)
    ]
    vectors = np.array([(one, other, 1) for *_, one, other in rows], np.float32).reshape(-1, 3)
    index = cast("ReadIndex", _Scanned(spec, Points(records, vectors)))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "t.parquet"
        assert export_collection(index, spec.collection, file) == len(rows)
        read = ParquetCollection(file)
        points = list(read.points())
    assert read.spec == spec
    assert [record.payload() for each in points for record in each.records] == [each.payload() for each in records]
    assert b"".join(each.vectors.tobytes() for each in points) == vectors.tobytes()


class _Scanned:
    """As much of an index as `export_collection` reads."""

    place = "here"

    def __init__(self, spec: CollectionSpec, points: Points) -> None:
        self._spec, self._points = spec, points

    def spec(self, _: str) -> CollectionSpec:
        return self._spec

    def count(self, _: str) -> int:
        return len(self._points)

    def scan(self, _: str, *, vectors: bool) -> Iterator[Batch]:
        if vectors and len(self._points):
            yield Batch(list(self._points.records), self._points.vectors)


KILLED = """
import os, signal, sys
import ingest.transfer.copy, ingest.transfer.parquet
from ingest.__main__ import main
from search.index.edge.index import EdgeIndex
ingest.transfer.copy.POINTS_PER_WRITE = 50
ingest.transfer.parquet.ROW_GROUP_ROWS = 1000
left = int(sys.argv.pop(1))
def until_killed(call):
    def counting(*arguments):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*arguments)
    return counting
EdgeIndex.upsert = until_killed(EdgeIndex.upsert)
ingest.transfer.parquet._to_arrow = until_killed(ingest.transfer.parquet._to_arrow)
main()
"""


def killed(calls: int, *command: object) -> None:
    words = [sys.executable, "-c", KILLED, str(calls), *map(str, command)]
    process = subprocess.run(words, capture_output=True, check=False)
    assert process.returncode == -signal.SIGKILL, process.stderr


def test_killed_and_repeated(call: Call, other: EdgeIndex, make_spec: MakeSpec, tmp_path: Path) -> None:
    spec = make_spec()
    fill(other, spec, [image(number) for number in range(2300)])
    expected = everything(other, spec.collection)
    other.close()
    export = ["export", "--path", other.path, "--out", "out"]
    killed(2, *export)
    assert [file.name for file in Path("out").iterdir()] == [f"{spec.collection}.parquet.partial"]
    assert call("ingest", *export)[0] == 0
    file = tmp_path / f"out/{spec.collection}.parquet"
    assert [each.name for each in file.parent.iterdir()] == [file.name]

    killed(1, "import", file, "--path", "new")
    code, out, err = call("ingest", "import", file, "--path", "new")
    assert code == 0, err
    first = 2300 - 1000  # the file is written in batches of a thousand points, each of which is compared at once
    assert "2,300 points (2,250 imported now, 50 were there already)" in out or f"({first:,} imported now" in out
    with closing(EdgeIndex(Path("new"))) as new:
        assert everything(new, spec.collection) == expected


def test_the_commands(call: Call, other: EdgeIndex, make_spec: MakeSpec) -> None:
    fill(other, make_spec(), [image(1), image(2)])
    fill(other, make_spec(kind="captions"), [caption(10)])
    other.close()
    export = ["export", "--path", other.path, "--out", "out/here"]
    code, out, _ = call("ingest", *export, "--json")
    assert code == 0
    captions, images = json.loads(out)
    assert (captions["points"], images["points"]) == (1, 2)
    assert images["bytes"] == Path(images["file"]).stat().st_size
    assert "exists: choose another --out, or replace it with --force" in one_line_error(call("ingest", *export))
    assert call("ingest", *export, "--force")[0] == 0

    files = captions["file"], images["file"]
    code, out, _ = call("ingest", "import", *files, "--path", "new", "--dataset", "renamed")
    assert code == 0
    assert "renamed_images: 2 points (2 imported now, 0 were there already)" in out
    assert out.count("verified to the last bit") == 2
    again = call("ingest", "import", files[1], files[1], "--path", "new")
    assert f"both hold {make_spec().collection}" in one_line_error(again)
    assert call("ingest", "import", "--path", "new")[0] == 2

    table = pq.read_table(files[1])
    pq.write_table(pa.concat_tables([table, table.slice(0, 1)]), "twice.parquet")
    error = one_line_error(call("ingest", "import", "twice.parquet", "--path", "third"))
    assert all(words in error for words in ("twice.parquet: the id ", " occurs more than once"))
    assert EdgeIndex(Path("third")).collections() == []


def _change(table: pa.Table, column: str, value: Any) -> pa.Table:
    place, values = table.schema.get_field_index(column), table[column].to_pylist()
    field = table.schema.field(column).with_nullable(True)
    return table.set_column(place, field, pa.array([value, *values[1:]], field.type))


BROKEN: dict[str, tuple[Callable[[pa.Table], pa.Table], str]] = {
    "no specification": (lambda table: table.replace_schema_metadata(None), "was not written by .* --image-vectors"),
    "odd specification": (lambda table: table.replace_schema_metadata({"coco_search": "{"}), "no valid specification"),
    "no column": (lambda table: table.drop_columns(["split"]), "column split is missing"),
    "new column": (lambda table: table.append_column("x", [[1, 2, 3]]), "column x is int64, and should be absent"),
    "other type": (lambda table: table.set_column(0, "id", table["id"].cast("int32")), "column id is int32"),
    "null": (lambda table: _change(table, "file", None), "column file has a null"),
    "NaN": (lambda table: _change(table, "vector", [math.nan] * 4), "NaN, infinite or zero"),
    "zero": (lambda table: _change(table, "vector", [0.0] * 4), "NaN, infinite or zero"),
    "negative id": (lambda table: _change(table, "id", -1), "id -1 is not between"),
    "not JSON": (lambda table: _change(table, "extra", "{"), "in or after row 0"),
    "not an object": (lambda table: _change(table, "extra", "[1]"), "not a JSON object"),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_a_changed_file_is_refused(other: EdgeIndex, make_spec: MakeSpec, tmp_path: Path, broken: str) -> None:
    spec = make_spec()
    fill(other, spec, [image(number) for number in range(3)])
    file = tmp_path / "images.parquet"
    export_collection(other, spec.collection, file)
    other.drop(spec.collection)
    change, message = BROKEN[broken]
    pq.write_table(change(pq.read_table(file)), file)

    def import_all() -> None:
        list(load(other, exported([file], None), None)[1])

    with pytest.raises(IndexFailure, match=message) as refused:
        import_all()
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("kept", [0, 3, 4, 1500, -1])
def test_a_truncated_file_is_refused(other: EdgeIndex, make_spec: MakeSpec, tmp_path: Path, kept: int) -> None:
    spec = make_spec()
    fill(other, spec, [image(number) for number in range(50)])
    file = tmp_path / "images.parquet"
    export_collection(other, spec.collection, file)
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(IndexFailure, match=r"is damaged|was not written") as refused:
        exported([file], None)
    assert "\n" not in str(refused.value)


def test_without_pyarrow(call: Call, other: EdgeIndex, make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(other, make_spec(), [image(1)])
    other.close()
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    message = one_line_error(call("ingest", "export", "--path", other.path, "--out", "out"))
    assert "pip install 'coco-search[parquet]'" in message
    assert not list(Path("out").iterdir())


def test_a_collection_that_changes_meanwhile(
    other: EdgeIndex, make_spec: MakeSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make_spec()
    fill(other, spec, [image(1), image(2)])
    counts = iter([2, 3])
    monkeypatch.setattr(other, "count", lambda _: next(counts))
    with pytest.raises(IndexFailure, match="is being written to"):
        export_collection(other, spec.collection, tmp_path / "images.parquet")
    assert not list(tmp_path.glob("*.parquet*"))
