"""The commands as people use them: from photos to scores, and every error a newcomer meets."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import shutil
import socket
import sys
from pathlib import Path

import pytest
from clip_factory import save_random_clip
from conftest import Call, everywhere, ingest_options, one_line_error, write_photo_set


@everywhere
def test_from_photos_to_scores(call: Call, photo_set: Path, clip_folder: Path, place: list[str]) -> None:
    code, out, err = call("ingest", *ingest_options(photo_set, clip_folder, place), "-v")
    assert code == 0
    assert re.search(r"_images: 12 points \(12 embedded now, 0 were there already\)", out)
    assert re.search(r"_captions: 60 points \(60 embedded now, 0 were there already\)", out)
    assert "encode images" in out
    assert "images/s" in err
    *_, sentence, next_command = [line for line in out.splitlines() if not line.startswith("dashboard: ")]
    assert re.fullmatch(r"embedded 12 photos and 60 captions in [\d.]+ seconds: [\d.]+ photos/s", sentence)
    assert call("search", *shlex.split(next_command.removeprefix("next: python -m search ")))[0] == 0
    assert ("/dashboard#/collections/" in out) == ("--url" in place)
    assert "encode images" not in call("ingest", *ingest_options(photo_set, clip_folder, place))[1]
    assert not Path("failures.jsonl").exists()

    code, out, _ = call("ingest", "status", *place)
    assert code == 0
    assert str(clip_folder) in out
    assert "points           60" in out
    assert "test 8, val 4" in out

    code, out, _ = call("search", "text", "a photo of noise", "-k", 3, *place)
    assert code == 0
    assert len(out.splitlines()) == 4
    assert out.count(" in words, sentence ") == 3
    code, out, _ = call("search", "text", "a photo of noise", "-k", 3, "--files", *place)
    assert [Path(line.strip()).is_file() for line in out.splitlines()[2::2]] == [True] * 3

    code, out, _ = call("search", "text", "a photo of noise", "-k", 3, "--json", "--split", "val", *place)
    hits = [json.loads(line) for line in out.splitlines()]
    assert [hit["rank"] for hit in hits] == [1, 2, 3]
    assert {hit["split"] for hit in hits} == {"val"}
    assert {"score", "kind", "image_id", "file", "captions", "url"} <= hits[0].keys()
    scores = [hit["score"] for hit in hits]
    assert scores == sorted(scores, reverse=True)

    photo = next((photo_set / "images/val2014").glob("*105.jpg"))
    code, out, _ = call("search", "image", photo, "--to", "images", "--json", "-k", 1, *place)
    assert json.loads(out)["image_id"] == 105
    assert json.loads(out)["score"] == pytest.approx(1, abs=1e-4)
    code, out, _ = call("search", "image", 105, "--to", "images", "--json", *place)
    assert 105 not in [json.loads(line)["image_id"] for line in out.splitlines()]
    code, out, _ = call("search", "image", 105, "--json", "-k", 60, *place)
    assert len(out.splitlines()) == 60
    assert {json.loads(line)["kind"] for line in out.splitlines()} == {"caption"}

    code, out, _ = call("eval", "run", "--json", *place)
    scores_of_test = json.loads(out)
    assert code == 0
    assert (scores_of_test["images"], scores_of_test["captions"], scores_of_test["split"]) == (8, 40, "test")
    for direction in ("image-to-text", "text-to-image"):
        assert scores_of_test[direction] == scores_of_test["oracle"][direction]
        assert scores_of_test[direction].keys() >= {"recall@1", "recall@5", "recall@10", "median_rank", "mean_rank"}
    code, out, _ = call("eval", "run", "--split", "all", "--captions", "all", *place)
    assert code == 0
    assert "12 images, 60 captions (all of each image)" in out
    assert re.search(r"^image-to-text\n  oracle( +[\d.]+){5}$", out, re.M)


@everywhere
def test_running_again_embeds_only_what_changed(
    call: Call, tmp_path: Path, clip_folder: Path, place: list[str]
) -> None:
    photos = write_photo_set(tmp_path / "photos", photos=6)
    options = [*ingest_options(photos, clip_folder, place), "--json"]
    call("ingest", *options, "--split", "test")
    _, out, _ = call("ingest", *options)
    assert json.loads(out)["images"] == {"embedded": 2, "updated": 0, "already_there": 4, "gone": 0, "pruned": 0}
    _, out, _ = call("ingest", *options)
    summary = json.loads(out)
    assert summary["images"] == {"embedded": 0, "updated": 0, "already_there": 6, "gone": 0, "pruned": 0}
    assert summary["captions"] == {"embedded": 0, "updated": 0, "already_there": 30, "gone": 0, "pruned": 0}

    annotations = photos / "dataset_coco.json"
    annotations.write_text(annotations.read_text().replace("Photo 2 in words, sentence 3.", "Something else."))
    _, out, _ = call("ingest", *options)
    summary = json.loads(out)
    assert summary["captions"] == {"embedded": 1, "updated": 0, "already_there": 29, "gone": 0, "pruned": 0}
    assert summary["images"] == {"embedded": 0, "updated": 1, "already_there": 5, "gone": 0, "pruned": 0}
    _, out, _ = call("search", "text", "Something else.", "--to", "captions", "-k", 1, "--json", *place)
    assert json.loads(out)["text"] == "Something else."


def test_unreadable_photos_are_counted_and_listed(
    call: Call, tmp_path: Path, clip_folder: Path, place: list[str]
) -> None:
    photos = write_photo_set(tmp_path / "photos", photos=6)
    files = sorted((photos / "images/val2014").glob("*.jpg"))
    files[0].unlink()
    whole = files[1].read_bytes()
    files[1].write_bytes(whole[: len(whole) // 2])
    files[2].write_text("no picture")

    code, out, err = call("ingest", *ingest_options(photos, clip_folder, place))
    assert code == 3
    assert "3 photos could not be read" in err
    assert "_images: 3 points" in out
    assert files[1].name in err
    listed = [json.loads(line) for line in Path("failures.jsonl").read_text().splitlines()]
    assert [entry["file"] for entry in listed] == [f"val2014/{file.name}" for file in files[:3]]
    assert [entry["image_id"] for entry in listed] == [100, 101, 102]
    assert listed[0]["reason"] == "no such file"
    assert {entry["stage"] for entry in listed} == {"open"}

    assert "split test lacks 3 of 4 images" in one_line_error(call("eval", "run", *place))

    write_photo_set(tmp_path / "mended", photos=6)
    shutil.copytree(tmp_path / "mended/images", photos / "images", dirs_exist_ok=True)
    code, out, _ = call("ingest", *ingest_options(photos, clip_folder, place))
    assert code == 0
    assert "6 points (3 embedded now, 3 were there already)" in out
    assert call("eval", "run", *place)[0] == 0


def test_several_devices_share_the_work(call: Call, photo_set: Path, clip_folder: Path, tmp_path: Path) -> None:
    found = []
    for devices in ("cpu", "cpu,cpu,cpu"):
        place = ["--path", str(tmp_path / devices)]
        options = ingest_options(photo_set, clip_folder, place)
        code, out, _ = call("ingest", *options, "--devices", devices, "--batch-size", 2, "--json")
        assert code == 0
        assert json.loads(out)["images"]["embedded"] == 12
        found.append(call("search", "image", 103, "--json", "-k", 60, *place)[1])
    assert found[0] == found[1]


@everywhere
def test_several_machines_fill_one_index(call: Call, photo_set: Path, clip_folder: Path, place: list[str]) -> None:
    options = [*ingest_options(photo_set, clip_folder, place), "--json"]
    for which in ("1/3", "3/3"):
        summary = json.loads(call("ingest", *options, "--shard", which)[1])
        assert (summary["images"]["embedded"], summary["captions"]["embedded"]) == (4, 20)
    assert "lacks" in one_line_error(call("eval", "run", *place))
    assert json.loads(call("ingest", *options, "--shard", "2/3")[1])["images"]["embedded"] == 4
    images = json.loads(call("ingest", *options)[1])["images"]
    assert images == {"embedded": 0, "updated": 0, "already_there": 12, "gone": 0, "pruned": 0}
    assert call("eval", "run", *place)[0] == 0


def test_how_the_collections_are_built(call: Call, photo_set: Path, clip_folder: Path, place: list[str]) -> None:
    options = [*ingest_options(photo_set, clip_folder, place), "--limit", 2]
    code, _, err = call("ingest", *options, "--quantization", "int8", "--on-disk")
    assert code == 0
    assert "warning" not in err
    assert "quantization int8, on_disk True" in call("ingest", "status", *place)[1]
    stored = json.loads(call("ingest", "status", "--json", *place)[1])
    assert [(each["settings"]["quantization"], each["settings"]["on_disk"]) for each in stored] == [("int8", True)] * 2

    assert "warning" not in call("ingest", *options)[2]  # nothing asked: as it is
    code, _, err = call("ingest", *options, "--quantization", "binary", "--on-disk")
    assert code == 0
    assert err.count("exists with quantization int8 and keeps it, not binary as requested") == 2


def test_shards_need_a_server(call: Call, photo_set: Path, clip_folder: Path, tmp_path: Path) -> None:
    place = ["--path", str(tmp_path / "index")]
    for option in ("--shards", "--replicas"):
        error = one_line_error(call("ingest", *ingest_options(photo_set, clip_folder, place), option, 2))
        assert "need a Qdrant server (--url)" in error


def test_a_moved_model_and_moved_photos_are_no_matter(
    call: Call, tmp_path: Path, clip_folder: Path, place: list[str]
) -> None:
    photos = write_photo_set(tmp_path / "photos", photos=6)
    model = shutil.copytree(clip_folder, tmp_path / "here")
    assert call("ingest", *ingest_options(photos, model, place))[0] == 0
    model.rename(tmp_path / "there")
    assert call("search", "text", "noise", *place)[0] == 0  # its text tower is in the cache
    photo = next((photos / "images").rglob("*.jpg"))
    error = one_line_error(call("search", "image", photo, *place))
    assert str(model) in error
    assert "--model" in error
    assert call("search", "image", photo, "--model", tmp_path / "there", *place)[0] == 0


def test_paths_are_remembered_as_absolute_ones(
    call: Call, photo_set: Path, clip_folder: Path, place: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(photo_set)
    options = ["--annotations", "dataset_coco.json", "--images", "images", "--model", os.path.relpath(clip_folder)]
    assert call("ingest", "run", *options, "--limit", 2, *place)[0] == 0
    remembered = json.loads(call("ingest", "status", "--json", *place)[1])[0]
    assert remembered["photos"] == str(photo_set / "images")
    assert remembered["model"] == str(clip_folder)


def test_the_limit_is_said_beside_the_scores(call: Call, photo_set: Path, clip_folder: Path, place: list[str]) -> None:
    call("ingest", *ingest_options(photo_set, clip_folder, place), "--split", "test", "--limit", 5)
    code, out, _ = call("eval", "run", *place)
    assert code == 0
    assert "5 of its 8 images were ingested" in out


def test_another_model_is_refused(
    call: Call, tmp_path: Path, photo_set: Path, clip_folder: Path, place: list[str]
) -> None:
    call("ingest", *ingest_options(photo_set, clip_folder, place))
    other = save_random_clip(tmp_path / "other", seed=3)
    for command in (
        ("ingest", *ingest_options(photo_set, other, place)),
        ("search", "text", "noise", "--model", other, *place),
    ):
        error = one_line_error(call(*command))
        assert str(clip_folder) in error
        assert str(other) in error
        assert "--dataset" in error


def test_two_data_sets_side_by_side(call: Call, photo_set: Path, clip_folder: Path, tmp_path: Path) -> None:
    place = ["--path", str(tmp_path / "index")]
    for name in ("first", "second"):
        call("ingest", *ingest_options(photo_set, clip_folder, place), "--dataset", name)
    error = one_line_error(call("search", "text", "noise", *place))
    assert "first, second" in error
    assert call("search", "text", "noise", "--dataset", "second", *place)[0] == 0
    _, out, _ = call("ingest", "status", "--json", *place)
    assert [entry["collection"] for entry in json.loads(out)] == [
        "first_captions", "first_images", "second_captions", "second_images",
    ]  # fmt: skip


def test_a_wrong_photo_folder_is_noticed_before_anything_else(
    call: Call, photo_set: Path, clip_folder: Path, tmp_path: Path
) -> None:
    options = ingest_options(photo_set, clip_folder, [])
    options[options.index("--images") + 1] = str(photo_set / "images/val2014")
    assert "none of the 12 photos exists" in one_line_error(call("ingest", *options))
    assert not (tmp_path / "index").exists()


def test_an_empty_collection_binds_nobody(call: Call, tmp_path: Path, clip_folder: Path, place: list[str]) -> None:
    photos = write_photo_set(tmp_path / "photos", photos=2)
    files = list((photos / "images/val2014").glob("*.jpg"))
    good = files[0].read_bytes()
    for file in files:
        file.write_text("no picture")
    assert "none of the 2 photos" in one_line_error(call("ingest", *ingest_options(photos, clip_folder, place)))
    files[0].write_bytes(good)
    other = save_random_clip(tmp_path / "other", seed=3)
    assert call("ingest", *ingest_options(photos, other, place))[0] == 3
    assert "holds vectors of" in one_line_error(call("ingest", *ingest_options(photos, clip_folder, place)))


def test_drop_asks_first(call: Call, photo_set: Path, clip_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    call("ingest", *ingest_options(photo_set, clip_folder, []))
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    code, out, _ = call("ingest", "drop", "--dataset", "coco")
    assert code == 1
    assert "delete coco_captions (60 points) and coco_images (12 points) from" in out
    assert call("search", "image", 100)[0] == 0
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))  # one answer for both collections
    assert "60 points deleted" in call("ingest", "drop", "--dataset", "coco")[1]
    assert "no collections yet" in call("ingest", "status")[1]
    assert "no collection" in one_line_error(call("ingest", "drop", "--dataset", "coco", "--yes"))


def test_the_embedded_index_is_the_default(call: Call, photo_set: Path, clip_folder: Path) -> None:
    call("ingest", *ingest_options(photo_set, clip_folder, []))
    assert sorted(file.name for file in Path("index").glob("*.json")) == ["coco_captions.json", "coco_images.json"]
    assert call("search", "image", 100)[0] == 0


ANNOTATIONS = ["run", "--annotations", "absent.json", "--images", "."]


def test_files_that_are_not_there(call: Call, photo_set: Path) -> None:
    assert "absent.json: No such file" in one_line_error(call("ingest", *ANNOTATIONS))
    Path("wrong.json").write_text('{"images": 3}')
    error = one_line_error(call("ingest", "run", "--annotations", "wrong.json", "--images", "."))
    assert "wrong.json: " in error
    good = photo_set / "dataset_coco.json"
    error = one_line_error(call("ingest", "run", "--annotations", good, "--images", "absent"))
    assert "no photo folder absent" in error
    error = one_line_error(call("ingest", "run", "--annotations", good, "--images", ".", "--split", "dev"))
    assert "no split 'dev'; it has test (8 images), val (4 images)" in error


def test_a_model_that_cannot_be_had(call: Call, photo_set: Path) -> None:
    options = ["--annotations", photo_set / "dataset_coco.json", "--images", photo_set / "images"]
    error = one_line_error(call("ingest", "run", *options))
    assert "clip-ViT-B-32" in error
    assert "--model PATH" in error
    assert "no model folder ./absent" in one_line_error(call("ingest", "run", *options, "--model", "./absent"))


def test_an_empty_index(call: Call) -> None:
    for command in (("search", "text", "a dog"), ("search", "image", 42), ("eval", "run")):
        assert "run `python -m ingest run`" in one_line_error(call(*command, "--path", "nothing"))
    assert not Path("nothing").exists()
    assert "no collection absent_captions" in one_line_error(call("ingest", "status", "--dataset", "absent"))
    code, out, _ = call("ingest", "status", "--path", "nothing")
    assert code == 0
    assert "no collections yet" in out


def test_queries_that_cannot_be_asked(call: Call, photo_set: Path, clip_folder: Path, place: list[str]) -> None:
    call("ingest", *ingest_options(photo_set, clip_folder, place))
    assert "no image 424242" in one_line_error(call("search", "image", 424242, *place))
    assert "is not a valid image id" in one_line_error(call("search", "image", 10**30, *place))
    assert "absent.jpg: no such file" in one_line_error(call("search", "image", "absent.jpg", *place))
    assert "empty" in one_line_error(call("search", "text", " ", *place))
    assert "not valid UTF-8" in one_line_error(call("search", "text", "caf\udce9", *place))
    assert call("search", "text", "noise", "-k", 10**20, *place)[0] == 2
    assert "no split 'dev'" in one_line_error(call("search", "text", "noise", "--split", "dev", *place))
    assert "no split 'dev'" in one_line_error(call("eval", "run", "--split", "dev", *place))


UNUSED = [  # a command line, at whose end is the option that has no effect
    "ingest run --images . --yes",
    "ingest download --jobs 3",
    *(f"ingest hubness --alpha 1 --{option}" for option in ("k 3", "count 9", "seed 1", "device cpu", "model x")),
    *(f"ingest import a.parquet --{option}" for option in ("add", "split val", "images .", "annotations x")),
    "ingest import a.parquet --model-name x",
    "search text noise --json --files",
    "search text noise --json --images .",
    "search text noise --group",
    "search image 100 --hubness 0.5",
    "search text noise --to captions --evidence captions",
    *(f"eval run --{option}" for option in ("force", "images .", "trec-depth 5", "engine exact --engine none")),
    "eval tune --split val",
    "eval tune --hubness --target 0.9",
    "eval tune --evidence --direction both",
    "eval compare a b --sort recall@1",
    "eval compare a b --format csv --changed 5",
    "eval compare a b --dataset coco",
]


def test_no_option_is_ignored(call: Call, photo_set: Path, clip_folder: Path) -> None:
    call("ingest", *ingest_options(photo_set, clip_folder, []))
    for line in UNUSED:
        words = line.split()
        code, _, err = call(*words)
        assert code == 2, (line, err)
        assert next(word for word in reversed(words) if word.startswith("--")) in err.splitlines()[-1]


def test_a_server_that_is_not_there(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    for command in (("search", "text", "a dog"), ("eval", "run"), ("ingest", "status")):
        error = one_line_error(call(*command, "--url", url))
        assert f"no Qdrant server answers at {url}" in error
        assert "docker compose up" in error
    monkeypatch.setenv("QDRANT_URL", url)
    assert url in one_line_error(call("ingest", "status"))


def test_settings_that_make_no_sense(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "not both" in one_line_error(call("ingest", "status", "--path", "a", "--url", "http://b"))
    Path("a").touch()
    assert "a is a file: give the folder of an index" in one_line_error(call("ingest", "status", "--path", "a"))
    ports = ("http://localhost:99999", "http://localhost:abc", "http://localhost:0")
    for wrong in (*ports, "localhost:6333", "ftp://localhost", "http://[::1:6333", "http://[db]:6333"):
        assert "not an address" in one_line_error(call("ingest", "status", "--url", wrong))
    assert "--dataset" in one_line_error(call("search", "text", "a dog", "--dataset", "../etc"))
    two = "http://127.0.0.1:1, http://127.0.0.1:2"
    assert "no Qdrant server answers" in one_line_error(call("ingest", "status", "--url", two))
    assert "127.0.0.1" in one_line_error(call("ingest", "backup", "x.tar.gz", "--url", two))
    monkeypatch.setenv("QDRANT_GRPC_PORT", "many")
    assert "QDRANT_GRPC_PORT" in one_line_error(call("ingest", "status"))


def test_paths_whose_bytes_are_not_utf8(
    call: Call, photo_set: Path, clip_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = tmp_path / os.fsdecode(b"fotos-\xe9t\xe9")
    shutil.copytree(photo_set, odd)
    place = ["--path", str(tmp_path / "index")]
    monkeypatch.setattr(sys, "orig_argv", ["python", str(odd)])
    assert call("ingest", *ingest_options(odd, clip_folder, place))[0] == 0
    code, out, err = call("ingest", *ingest_options(odd, clip_folder, place))
    assert code == 0, err
    assert "(0 embedded now, 12 were there already)" in out
    assert call("search", "image", 101, "--to", "images", "--html", odd / "found.html", *place)[0] == 0
    assert (odd / "found.html").read_text(encoding="utf-8").count("data:image/jpeg") >= 10
    status = json.loads(call("ingest", "status", "--json", *place)[1])
    assert status[0]["photos"] == (odd / "images").as_uri()
    assert "absent" in one_line_error(call("search", "image", odd / "absent.jpg", *place))
    assert "not valid UTF-8" in one_line_error(call("ingest", "status", "--path", odd / "index"))
    absent = ["--annotations", odd / "absent.json", "--images", odd]
    assert "absent.json" in one_line_error(call("ingest", "run", *absent, *place))
