"""Importing vectors that any model computed: what is usable is stored, everything else is named."""

from __future__ import annotations

import asyncio
import io
import json
import zipfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import Call, one_line_error
from hypothesis import given, settings
from hypothesis import strategies as st
from points import image, unit
from test_copy import stored

from ingest.transfer.vectors import Block, open_vectors
from search.errors import IndexFailure, QueryError
from search.index import Points
from search.index.edge.index import EdgeIndex
from search.query import Options, Part
from search.searcher import Searcher
from search.web.gallery import Gallery
from search.web.schemas import WebPart, WebQuery

DIM = 6
IMAGES, CAPTIONS = 4, 8
MODEL = ["--annotations", "photos.json", "--model-name", "EVA02-L"]


@pytest.fixture
def unit_vectors(tmp_path: Path) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Writes photos.json, with image ids from 100 and two captions each from 0, and returns vectors for all."""
    entries = [
        {
            "filename": f"{number}.jpg",
            "imgid": 100 + number,
            "split": "test" if number < 3 else "val",
            "sentences": [{"raw": f"Photo {number}, {text}.", "sentid": 2 * number + text} for text in range(2)],
        }
        for number in range(IMAGES)
    ]
    (tmp_path / "photos.json").write_text(json.dumps({"dataset": "mine", "images": entries}))
    return unit(IMAGES + CAPTIONS, DIM)


def save(name: str, ids: Any, vectors: Any, **arrays: Any) -> str:
    np.savez(name, ids=np.array(ids), vectors=vectors, **arrays)
    return name


def save_both(vectors: np.ndarray[Any, Any]) -> list[str]:
    images = save("images.npz", range(100, 100 + IMAGES), vectors[:IMAGES])
    return ["--image-vectors", images, "--caption-vectors", save("captions.npz", range(CAPTIONS), vectors[IMAGES:])]


def test_any_number_type_order_and_length(call: Call, unit_vectors: np.ndarray[Any, Any]) -> None:
    ids, vectors = [*range(100, 104)], unit_vectors[:IMAGES]
    longer = vectors.astype(np.float64) * [[1e-200], [3.0], [1e200], [0.1]]
    backwards = slice(None, None, -1)
    saved = {
        "plain.npz": (ids, vectors),
        "order.npz": (np.array(ids, np.uint16)[backwards], vectors[backwards]),
        "double.npz": (ids, longer),
        "columns.npz": (ids, np.asfortranarray(longer)),
        "swapped.npz": (np.array(ids, ">i8"), vectors.astype(">f4")),
        "half.npz": (ids, vectors.astype(np.float16)),
    }
    for name, (of_file, of_vectors) in saved.items():
        save(name, of_file, of_vectors)
    np.savez_compressed("other-names.npz", id=ids, vector=vectors, more=np.array([None]))
    fixed = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), DIM)
    pq.write_table(pa.table({"id": pa.array(ids, pa.uint32()), "vector": fixed, "x": ids}), "fixed.parquet")
    lists = pa.array(list(longer), pa.large_list(pa.float64()))
    pq.write_table(pa.table({"ids": ids, "vectors": lists}), "double.parquet", row_group_size=3)
    for name in [*saved, "other-names.npz", "fixed.parquet", "double.parquet"]:
        code, out, err = call("ingest", "import", "--image-vectors", name, *MODEL, "--path", name + ".index")
        assert code == 0, err
        assert "mine_images: 4 points (4 imported now, 0 were there already)" in out
        with closing(EdgeIndex(Path(name + ".index"))) as index:
            points = stored(index, "mine_images")
            assert list(points) == ids
            assert points[103][0].fields()["file"] == "3.jpg"
            exact = "half" not in name
            for row, point_id in enumerate(ids):
                np.testing.assert_allclose(points[point_id][1], vectors[row], atol=1e-7 if exact else 1e-3)
                if name in ("plain.npz", "order.npz", "fixed.parquet", "other-names.npz"):
                    assert points[point_id][1].tobytes() == vectors[row].tobytes()
            doubles = ("double.npz", "columns.npz", "double.parquet")
            dtype = "float16" if name == "half.npz" else "float64" if name in doubles else "float32"
            assert index.spec("mine_images").dtype == dtype


def test_what_cannot_be_imported_is_named(call: Call, unit_vectors: np.ndarray[Any, Any]) -> None:
    vectors = unit_vectors[:IMAGES].copy()
    vectors[1] = 0
    vectors[2, 3] = np.nan
    ragged: list[Any] = [each.tolist() for each in unit_vectors[IMAGES:]]
    ragged[0], ragged[1], ragged[2][1], ragged[3][0] = ragged[0][:2], None, None, float("inf")
    pq.write_table(pa.table({"id": [*range(7), 999], "vector": ragged}), "captions.parquet")
    files = ["--image-vectors", save("images.npz", [100, 101, 102, 77], vectors), "--caption-vectors"]
    code, out, err = call("ingest", "import", *files, "captions.parquet", *MODEL, "--json")
    assert code == 3
    assert [(each["collection"], each["points"]) for each in json.loads(out)["collections"]] == [
        ("mine_images", 1),
        ("mine_captions", 3),
    ]
    for line in (
        "4 photos and 6 captions could not be imported: see ",
        "  1 image: its id is not in the annotations",
        "  1 image: the vector is zero",
        "  1 image: the vector is NaN or infinite",
        "  1 image: it has no vector",
        "  1 caption: its id is not in the annotations",
        "  1 caption: the vector has 2 dimensions, not 6",
        "  1 caption: the vector has 0 dimensions, not 6",
        "  2 captions: the vector is NaN or infinite",
        "  1 caption: it has no vector",
    ):
        assert line in err, err
    listed = [json.loads(line) for line in Path("failures.jsonl").read_text().splitlines()]
    assert listed == json.loads(out)["failures"]
    assert {"file": "1.jpg", "image_id": 101, "stage": "vectors", "reason": "the vector is zero"} in listed
    assert {(each["file"], each.get("image_id"), each.get("caption_id")) for each in listed} >= {
        ("images.npz", 77, None),
        ("3.jpg", 103, None),
        ("captions.parquet", None, 999),
        ("3.jpg", 103, 7),
    }

    files = save_both(unit_vectors)
    code, out, _ = call("ingest", "import", *files, *MODEL, "--json")  # repaired, and imported again
    assert code == 0
    assert [each["written"] for each in json.loads(out)["collections"]] == [3, 5]
    assert not Path("failures.jsonl").exists()


def _npz(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def _parquet(**columns: Any) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


def _npy(array: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def _member(content: bytes) -> bytes:
    """A .npz file whose vectors are `content`, which may be anything."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("ids.npy", _npy(np.arange(100, 104)))
        archive.writestr("vectors.npy", content)
    return buffer.getvalue()


IDS, FOUR = np.arange(100, 104), np.eye(4, DIM, dtype=np.float32)
GOOD = _npz(ids=IDS, vectors=FOUR)
REFUSED = {
    "empty": (b"", "neither a Parquet file nor a .npz file"),
    "text": (b"100,0.1,0.2\n", "neither a Parquet file nor a .npz file"),
    "npy": (_npy(FOUR), r"without ids: save both with np.savez"),
    "truncated": (GOOD[:-30], "is damaged"),
    "flipped": (GOOD.replace(FOUR.tobytes(), (FOUR + 1).tobytes()), "is damaged: Bad CRC"),
    "no ids": (_npz(vectors=FOUR, other=IDS), r"no array ids \(it has vectors, other\)"),
    "objects": (_npz(ids=IDS, vectors=np.array([FOUR, None], object)), "holds Python objects"),
    "object ids": (_npz(ids=np.array([1, "a"], object), vectors=FOUR), "holds Python objects"),
    "float ids": (_npz(ids=IDS * 1.0, vectors=FOUR), r"ids has shape \(4,\) of float64"),
    "text ids": (_npz(ids=IDS.astype("U"), vectors=FOUR), r"should have \(n,\) of integers"),
    "two-dimensional ids": (_npz(ids=IDS[:, None], vectors=FOUR), r"ids has shape \(4, 1\)"),
    "negative ids": (_npz(ids=-IDS, vectors=FOUR), "must be between 0"),
    "huge ids": (_npz(ids=np.array([2**64 - 1] * 4, np.uint64), vectors=FOUR), "must be between 0"),
    "repeated ids": (_npz(ids=IDS // 2, vectors=FOUR), "2 ids occur more than once, first 50"),
    "one vector": (_npz(ids=IDS, vectors=FOUR[0]), r"vectors has shape \(6,\) of float32"),
    "integers": (_npz(ids=IDS, vectors=FOUR.astype(int)), r"should have \(n, dim\) of floats"),
    "no dimensions": (_npz(ids=IDS, vectors=FOUR[:, :0]), r"shape \(4, 0\)"),
    "other length": (_npz(ids=IDS, vectors=FOUR[:3]), "4 ids and 3 vectors"),
    "none": (_npz(ids=IDS[:0], vectors=FOUR[:0]), "not one of its 0 vectors"),
    "all zero": (_npz(ids=IDS, vectors=FOUR * 0), "not one of its 4 vectors can be used .*the vector is zero"),
    "all unknown": (_npz(ids=IDS + 500, vectors=FOUR), "not one of its 4 .*its id is not in the annotations"),
    "no header": (_member(b"\x93NUMPY\x01\x00"), "is damaged"),
    "short array": (_member(_npy(FOUR)[:-4]), "ends before its shape"),
    "long array": (_member(_npy(FOUR) + b"1234"), "is longer than its shape"),
    "Parquet ids": (_parquet(id=["a"], vector=[[1.0]]), "column id is string"),
    "Parquet null id": (_parquet(id=[1, None], vector=[[1.0], [1.0]]), "1 rows have no id"),
    "Parquet integers": (_parquet(id=[1], vector=[[1]]), "column vector is list"),
    "Parquet names": (_parquet(id=[1], embedding=[[1.0]]), r"no column vector \(it has id, embedding\)"),
    "Parquet truncated": (_parquet(id=[1], vector=[[1.0]])[:-9], "is damaged"),
    "Parquet nulls": (_parquet(id=[1], vector=pa.array([None], pa.list_(pa.float32()))), "have no dimensions"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_files_that_are_refused(call: Call, unit_vectors: np.ndarray[Any, Any], case: str) -> None:
    content, message = REFUSED[case]
    Path("file").write_bytes(content)
    result = call("ingest", "import", "--image-vectors", "file", *MODEL)
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(one_line_error(result))
    assert not Path("index").exists()
    assert len(unit_vectors) == IMAGES + CAPTIONS


def test_options_that_make_no_sense(call: Call, unit_vectors: np.ndarray[Any, Any]) -> None:
    images, captions = save("i.npz", IDS, FOUR), save("c.npz", range(4), unit_vectors[:4, :5])
    assert call("ingest", "import", "--image-vectors", images, "--annotations", "photos.json")[0] == 2
    assert call("ingest", "import", "--image-vectors", images, "--model-name", "x")[0] == 2
    assert call("ingest", "import", images, "--image-vectors", images, *MODEL)[0] == 2
    both = ["--image-vectors", images, "--caption-vectors", captions]
    assert "differ in dimension: 6 in i.npz, 5 in c.npz" in one_line_error(call("ingest", "import", *both, *MODEL))
    assert "--image-vectors" in one_line_error(call("ingest", "import", images))
    no_photos = [*MODEL, "--images", "absent"]
    assert "no photo folder absent" in one_line_error(call("ingest", "import", "--image-vectors", images, *no_photos))
    assert "No such file" in one_line_error(call("ingest", "import", "--image-vectors", "absent.npz", *MODEL))


def test_several_files_and_splits(call: Call, unit_vectors: np.ndarray[Any, Any]) -> None:
    parts = [save("0.npz", IDS[:2], unit_vectors[:2]), save("1.npz", IDS[2:], unit_vectors[2:4])]
    both = ["--image-vectors", parts[0], "--image-vectors", parts[1]]
    code, out, err = call("ingest", "import", *both, *MODEL, "--split", "test")
    assert code == 0, err  # the vector of another split is known, and ignored
    assert "3 points (3 imported now" in out
    code, out, err = call("ingest", "import", *both, *MODEL)
    assert code == 0, err
    assert "4 points (1 imported now, 3 were there already)" in out
    Path("photos.csv").write_text("file,caption\n0.jpg,A photo.\n")
    others = ["import", *both, "--annotations", "photos.csv", "--model-name", "EVA02-L", "--dataset", "mine"]
    assert "photos.csv (table) is another source: use another --dataset" in one_line_error(call("ingest", *others))
    twice = ["--image-vectors", parts[0], "--image-vectors", parts[0]]
    assert "2 ids occur more than once" in one_line_error(call("ingest", "import", *twice, *MODEL))


def test_a_collection_whose_model_is_not_known(call: Call, unit_vectors: np.ndarray[Any, Any], photo_set: Path) -> None:
    assert call("ingest", "import", *save_both(unit_vectors), *MODEL)[0] == 0
    unknown = "imported vectors of EVA02-L, a model that is not known here"

    code, out, _ = call("search", "image", 100, "--to", "images", "--json")
    assert code == 0
    cosines = unit_vectors[:IMAGES] @ unit_vectors[0]
    assert [json.loads(line)["image_id"] for line in out.splitlines()] == [
        100 + row for row in np.argsort(-cosines).tolist() if row
    ]
    photo = next((photo_set / "images").rglob("*.jpg"))
    for query in (["text", "a dog"], ["text", "a dog", "--model", "other"], ["image", photo]):
        assert unknown in one_line_error(call("search", *query))
    Path("queries").write_text('{"image_id": 101}\n' * 40 + "a dog\n")
    code, out, _ = call("search", "batch", "queries")
    assert code == 3
    assert ["error" in json.loads(line) for line in out.splitlines()] == [False] * 40 + [True]

    code, out, err = call("eval", "run", "--json", "--engine", "none", "--resamples", 100)
    assert code == 0, err
    assert json.loads(out)["model"] == "EVA02-L"
    assert "EVA02-L (6 dimensions, float32, imported)" in call("ingest", "status")[1]

    images = ["--annotations", photo_set / "dataset_coco.json", "--images", photo_set / "images"]
    run = ["run", *images, "--dataset", "mine"]
    assert unknown in one_line_error(call("ingest", *run))
    assert unknown in one_line_error(call("ingest", *run, "--model", "other"))
    other = ["import", *save_both(unit_vectors), *MODEL[:2], "--model-name", "another"]
    assert "use --model-name EVA02-L" in one_line_error(call("ingest", *other))

    for command in (["copy", "--from", "index", "--to", "copied"], ["backup", "b.tgz"]):
        assert call("ingest", *command)[0] == 0
    assert call("ingest", "restore", "b.tgz", "--path", "restored")[0] == 0
    for place in ("copied", "restored"):
        assert unknown in one_line_error(call("search", "text", "a dog", "--path", place))


def test_vectors_are_not_added_to_embedded_ones(
    call: Call, unit_vectors: np.ndarray[Any, Any], make_spec: Callable[..., Any]
) -> None:
    with closing(EdgeIndex(Path("index"))) as index:
        index.create(make_spec(dataset="mine", dim=DIM))
        index.upsert("mine_images", Points([image(100)], unit_vectors[:1]))
    files = save_both(unit_vectors)
    message = one_line_error(call("ingest", "import", *files, *MODEL))
    assert "mine_images holds vectors that some-clip embedded here" in message
    with closing(EdgeIndex(Path("index"))) as index:
        assert index.collections() == ["mine_images"]


@pytest.fixture
def gallery(call: Call, unit_vectors: np.ndarray[Any, Any]) -> Iterator[Gallery]:
    assert call("ingest", "import", *save_both(unit_vectors), *MODEL)[0] == 0
    gallery = Gallery(Searcher(EdgeIndex(Path("index"))))
    yield gallery
    gallery.close()


def test_the_page(gallery: Gallery, photo_set: Path) -> None:
    gallery.warm_up()
    assert (gallery.health().ready.texts, gallery.examples) == (False, [])
    by_id, by_text = WebQuery(parts=[WebPart(image_id=100)], k=2), WebQuery(parts=[WebPart(text="a dog")])
    assert len(json.loads(gallery.search(by_id, asyncio.run(gallery.encode(by_id))))["results"]) == 2
    with pytest.raises(QueryError, match="not known here"):
        gallery.search(by_text, asyncio.run(gallery.encode(by_text)))
    with pytest.raises(QueryError, match="not known here"):
        gallery.upload(next((photo_set / "images").rglob("*.jpg")).read_bytes())
    vector = Part(vector=np.ones(DIM, np.float32))
    assert len(gallery.searcher.search([vector], Options(k=3))) == 3


numbers = st.floats(width=32) | st.sampled_from([0.0, 1e-45, 3e38, -1e-30])


@settings(deadline=None, max_examples=60)
@given(st.lists(st.lists(numbers, min_size=3, max_size=3), min_size=1, max_size=6))
def test_a_vector_has_unit_length_or_a_fault(rows: list[list[float]]) -> None:
    exact = np.array(rows, np.float64)
    block = Block(np.arange(len(rows)), exact, np.full(len(rows), 3))
    vectors, faults = block.unit()
    assert vectors.dtype == np.float32
    for row, vector in enumerate(vectors):
        usable = bool(np.isfinite(exact[row]).all() and exact[row].any())
        assert (row in faults) != usable
        if usable:
            assert np.linalg.norm(vector.astype(np.float64)) == pytest.approx(1, abs=1e-6)
            largest = np.abs(exact[row]).max()
            np.testing.assert_allclose(
                vector * largest / np.abs(vector).max(), exact[row], rtol=1e-5, atol=largest * 1e-6
            )
        else:
            assert np.isnan(vector).all()
    again, _ = Block(block.ids, vectors, block.widths).unit()
    assert again.tobytes() == vectors.tobytes()  # to the bit


def test_a_file_is_read_in_blocks(tmp_path: Path) -> None:
    vectors = unit(2500, 3)
    save("v.npz", np.arange(2500), vectors)
    pq.write_table(pa.table({"id": np.arange(2500), "vector": list(vectors)}), "v.parquet")
    for name in ("v.npz", "v.parquet"):
        blocks = list(open_vectors(tmp_path / name).blocks())
        assert [len(block.ids) for block in blocks] == [1000, 1000, 500]
        assert np.concatenate([block.vectors for block in blocks]).tobytes() == vectors.tobytes()
        assert np.concatenate([block.ids for block in blocks]).tolist() == list(range(2500))
    sparse = [[1.0, 2.0] if row % 700 == 699 else None for row in range(2500)]  # far more nulls than vectors
    pq.write_table(pa.table({"id": np.arange(2500), "vector": sparse}), "sparse.parquet")
    assert open_vectors(tmp_path / "sparse.parquet").dim == 2
    (tmp_path / "v.npz").write_bytes((tmp_path / "v.npz").read_bytes()[:-2000])
    with pytest.raises(IndexFailure, match="is damaged"):
        open_vectors(tmp_path / "v.npz")
