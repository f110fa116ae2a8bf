from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Call, ingest_options, one_line_error, write_photo_set

from search.encoder import clip
from search.errors import IndexFailure
from search.index.edge.index import EdgeIndex
from search.records import Caption, Image, Vectors

Summary = dict[str, Any]


def change(photos: Path, edit: Callable[[list[dict[str, Any]]], object]) -> None:
    file = photos / "dataset_coco.json"
    content = json.loads(file.read_text())
    edit(content["images"])
    file.write_text(json.dumps(content))


def result(call: Call, options: Sequence[object]) -> tuple[Summary, str]:
    code, out, err = call("ingest", *options, "--json")
    assert code in (0, 3), err
    return json.loads(out), err


def counts(summary: Summary, field: str) -> tuple[int, int]:
    return summary["images"][field], summary["captions"][field]


def points(summary: Summary) -> list[int]:
    return [collection["points"] for collection in summary["collections"].values()]


def stored(index: Path, collection: str) -> dict[int, tuple[Image | Caption, Vectors]]:
    opened = EdgeIndex(index)
    batches = list(opened.scan(collection, vectors=True)) if collection in opened.collections() else []
    opened.close()
    vectors = [vector for batch in batches if batch.vectors is not None for vector in batch.vectors]
    records = [record for batch in batches for record in batch.records]
    return {record.id: (record, vector) for record, vector in zip(records, vectors, strict=True)}


@pytest.mark.parametrize("place", ["embedded", "grpc"], indirect=True)
def test_what_a_file_no_longer_lists_is_removed(
    call: Call, tmp_path: Path, clip_folder: Path, place: list[str]
) -> None:
    photos = write_photo_set(tmp_path / "set", photos=6)  # 100 to 103 are the test split, 104 and 105 are val
    options = ingest_options(photos, clip_folder, place)
    assert call("ingest", *options)[0] == 0

    def edit(entries: list[dict[str, Any]]) -> None:
        del entries[5], entries[0]
        del entries[0]["sentences"][4]

    change(photos, edit)
    (photos / "images/val2014/COCO_val2014_000000000102.jpg").unlink()  # a failure; it is still listed
    summary, err = result(call, options)
    assert "2 photos and 11 captions of " in err
    assert "add --prune to remove them" in err
    assert (counts(summary, "gone"), counts(summary, "pruned"), points(summary)) == ((2, 11), (0, 0), [6, 30])

    assert "limit" not in result(call, [*options, "--limit", 1])[1]
    for more in (["--limit", 1], ["--shard", "1/2"]):
        assert call("ingest", *options, "--prune", *more)[0] == 2
    refused = one_line_error(call("ingest", *options, "--split", "test", "--prune"))
    assert "1 photo and 6 captions of " in refused
    assert "add --yes" in refused
    summary, _ = result(call, [*options, "--split", "test", "--prune", "--yes"])
    assert (counts(summary, "pruned"), points(summary)) == ((1, 6), [5, 24])
    summary, _ = result(call, [*options, "--prune", "--yes"])
    assert (counts(summary, "pruned"), points(summary)) == ((1, 5), [4, 19])
    summary, err = result(call, [*options, "--prune"])  # there is nothing to ask about
    assert (counts(summary, "gone"), points(summary)) == ((0, 0), [4, 19])
    shutil.rmtree(photos / "images")
    one_line_error(call("ingest", *options, "--prune", "--yes"))
    (photos / "images").mkdir()
    one_line_error(call("ingest", *options, "--prune", "--yes"))


def test_what_belongs_to_a_broken_entry_stays(call: Call, tmp_path: Path, clip_folder: Path) -> None:
    photos = write_photo_set(tmp_path / "set", photos=6)
    options = ingest_options(photos, clip_folder, ["--path", str(tmp_path / "index")])
    assert call("ingest", *options)[0] == 0

    def damage(entries: list[dict[str, Any]]) -> None:
        entries[0]["split"] = 7  # the id can be read
        entries[1]["cocoid"] = "none"  # only the file can
        entries[2]["sentences"][1]["raw"] = ""
        entries[3]["sentences"] = "none"
        entries[4]["sentences"][0] = None
        del entries[5]

    change(photos, damage)
    summary, _ = result(call, [*options, "--prune", "--yes"])
    assert (counts(summary, "pruned"), points(summary)) == ((1, 5), [5, 25])
    change(photos, lambda entries: entries.append({"split": "test"}))  # it could be any of them
    assert "images[5]" in one_line_error(call("ingest", *options, "--prune", "--yes"))
    assert "are no longer in" not in result(call, options)[1]


def refuse(*_: object) -> None:
    raise AssertionError("the model was loaded")


def test_a_renamed_photo_keeps_its_vector(
    call: Call, tmp_path: Path, clip_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, index = write_photo_set(tmp_path / "set", photos=6) / "images", tmp_path / "index"
    first, second, third, fourth = sorted((folder / "val2014").iterdir())[:4]
    first.with_suffix(".txt").write_text("A dog.\nA cat.\n")
    options = ["run", "--images", folder, "--model", clip_folder, "--path", index, "--dataset", "mine"]
    assert call("ingest", *options)[0] == 0
    before = stored(index, "mine_images")
    captions = stored(index, "mine_captions")
    assert (len(before), len(captions)) == (6, 2)

    monkeypatch.setattr(clip, "_load", refuse)
    (folder / "album").mkdir()
    first.rename(folder / "album/dog.jpg")
    first.with_suffix(".txt").rename(folder / "album/dog.txt")
    second.unlink()
    summary, err = result(call, options)
    assert "2 photos and 2 captions of mine" in err
    assert (counts(summary, "embedded"), counts(summary, "updated")) == ((0, 0), (5, 2))  # four have other places
    after = stored(index, "mine_images")
    [moved] = after.keys() - before.keys()
    by_name = {Path(record.file).name: record.id for record, _ in before.values() if isinstance(record, Image)}
    old = by_name[first.name]
    assert np.array_equal(after[moved][1], before[old][1])

    fails = 0

    def delete(self: EdgeIndex, collection: str, ids: Sequence[int]) -> None:
        nonlocal fails
        fails += 1
        if fails == 2:
            raise IndexFailure("killed")
        real(self, collection, ids)

    real = EdgeIndex.delete
    monkeypatch.setattr(EdgeIndex, "delete", delete)
    assert "killed" in one_line_error(call("ingest", *options, "--prune", "--yes"))
    summary, _ = result(call, [*options, "--prune", "--yes"])
    assert (counts(summary, "pruned"), points(summary)) == ((2, 0), [5, 2])
    assert {record.payload()["text"] for record, _ in stored(index, "mine_captions").values()} == {"A dog.", "A cat."}
    assert stored(index, "mine_images").keys() == after.keys() - {old, by_name[second.name]}

    shutil.move(third, tmp_path)  # a folder that is empty may not be mounted
    other = folder / "album"
    for file in list(other.iterdir()):
        shutil.move(file, tmp_path)
    fourth.write_bytes(b"")  # unreadable, but there
    summary, _ = result(call, [*options, "--prune", "--yes"])
    assert (counts(summary, "pruned"), points(summary)) == ((1, 0), [4, 2])
    other.rmdir()
    summary, _ = result(call, [*options, "--prune", "--yes"])
    assert (counts(summary, "pruned"), points(summary)) == ((1, 2), [3, 0])
    for file in (folder / "val2014").iterdir():
        file.unlink()
    assert "no picture" in one_line_error(call("ingest", *options, "--prune", "--yes"))


def test_a_source_that_is_missing_loses_nothing(call: Call, tmp_path: Path, clip_folder: Path) -> None:
    photos = write_photo_set(tmp_path / "photos", photos=4) / "images/val2014"
    names = sorted(file.name for file in photos.iterdir())
    tables = [tmp_path / "a.csv", tmp_path / "b.csv"]
    for table, (first, second) in zip(tables, (names[:2], names[2:]), strict=True):
        table.write_text(f"file,caption\n{first},A dog.\n{second},A cat.\n")
    place = ["--images", photos, "--dataset", "mine", "--model", clip_folder, "--path", tmp_path / "index"]
    of_first, of_second = (["run", "--annotations", table, *place] for table in tables)
    result(call, of_first)
    tables[0].rename(tmp_path / "unmounted")
    summary, err = result(call, [*of_second, "--add"])
    assert (points(summary), "no longer in" in err) == ([4, 4], False)

    for _ in range(2):
        summary, err = result(call, of_second)
        assert (points(summary), "no longer in" in err) == ([4, 4], False)
        assert "filled from other sources too" in one_line_error(call("ingest", *of_second, "--prune", "--yes"))
    (tmp_path / "moved").mkdir()
    tables[0] = (tmp_path / "unmounted").rename(tmp_path / "moved/a.csv")
    assert points(result(call, ["run", "--annotations", tables[0], *place])[0]) == [4, 4]
    specs = json.loads(call("ingest", "status", "--json", "--path", tmp_path / "index")[1])
    assert [len(spec["sources"]) for spec in specs] == [2, 2]
