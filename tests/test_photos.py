from __future__ import annotations

import errno
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from conftest import Call, ingest_options, one_line_error, write_photo_set
from hypothesis import given
from hypothesis import strategies as st

from ingest.annotations import Chosen
from ingest.photos import PhotoReader, Recipe
from ingest.selection import part_of
from search.encoder.images import Preparation
from search.errors import IndexFailure, PhotoError, SettingsError, WorkerDied
from search.photos import current_mark, find_photo, open_photo, read_photo
from search.records import Caption, Image, PhotoMark

PREPARATION = Preparation(32, (32, 32), PIL.Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photo_set(tmp_path_factory.mktemp("photos"), photos=40) / "images"


def files_of(folder: Path) -> list[str]:
    return sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*.jpg"))


@pytest.mark.parametrize("processes", [False, True], ids=["threads", "processes"])
def test_photos_come_prepared_and_in_order(folder: Path, processes: bool) -> None:
    files = [*files_of(folder), "val2014/absent.jpg"]
    batches = [files[start : start + 10] for start in range(0, len(files), 10)]
    with PhotoReader(Recipe(folder, PREPARATION), workers=2, processes=processes, batch_size=10) as reader:
        seen = 0
        for batch, read in zip(batches, reader.batches(batches), strict=True):
            rows = [row for row, outcome in enumerate(read.outcomes) if isinstance(outcome, PhotoMark)]
            pixels = read.rows(rows)
            for row, prepared in zip(rows, pixels, strict=True):
                expected = PREPARATION.apply(open_photo(folder, batch[row]))
                np.testing.assert_array_equal(np.asarray(prepared), expected)
            seen += len(rows)
            assert set(read.seconds) <= {"read", "decode", "resize"}
        assert seen == len(files) - 1
        last = read.outcomes[-1]
        assert isinstance(last, PhotoError)
        assert str(last) == "no such file"


def test_without_a_preparation_photos_are_returned_as_opened(folder: Path) -> None:
    files = files_of(folder)[:5]
    with PhotoReader(Recipe(folder, None), workers=2, processes=True, batch_size=5) as reader:
        (read,) = reader.batches([files])
        pictures = read.rows([0, 3])
        for picture, file in zip(pictures, (files[0], files[3]), strict=True):
            assert isinstance(picture, PIL.Image.Image)
            assert picture.tobytes() == open_photo(folder, file).tobytes()


def test_memory_is_bounded_by_slots(folder: Path) -> None:
    files = files_of(folder)
    with PhotoReader(Recipe(folder, PREPARATION), workers=2, processes=False, batch_size=4) as reader:
        places = {
            np.asarray(read.rows([0, 1, 2, 3])).__array_interface__["data"][0]
            for read in reader.batches([files[start : start + 4] for start in range(0, len(files), 4)])
        }
    assert len(places) <= 4 < len(files) / 4


def test_a_killed_worker_is_reported(folder: Path) -> None:
    files = files_of(folder)
    batches = [files[start : start + 2] for start in range(0, len(files), 2)]
    with PhotoReader(Recipe(folder, PREPARATION), workers=1, processes=True, batch_size=2) as reader:
        coming = reader.batches(batches)
        next(coming)
        (worker,) = reader._pool._processes  # type: ignore[attr-defined]
        os.kill(worker, signal.SIGKILL)
        with pytest.raises(WorkerDied, match="run the same command again"):
            list(coming)


def test_a_scaled_decode_is_close(tmp_path: Path) -> None:
    smooth = PIL.Image.linear_gradient("L").resize((640, 480)).convert("RGB")
    smooth.save(tmp_path / "a.jpg", quality=95)
    prepared = []
    for scaled in (False, True):
        recipe = Recipe(tmp_path, Preparation(224, (224, 224), PIL.Image.Resampling.BICUBIC), scaled)
        into = np.zeros((224, 224, 3), np.uint8)
        recipe.read("a.jpg", into)
        prepared.append(into.astype(int))
    difference = np.abs(prepared[0] - prepared[1])
    assert difference.max() > 0
    assert difference.mean() < 2


@given(
    st.integers(1, 9),
    st.lists(st.integers(0, 2**40), unique=True, max_size=40),
)
def test_shards_are_a_partition(machines: int, ids: list[int]) -> None:
    images = [Image(image_id, "test", order, f"{image_id}.jpg", None, ("a",)) for order, image_id in enumerate(ids)]
    captions = [Caption(image.id, image.id, "test", 0, "a", None) for image in images]
    parts = [part_of(Chosen(images, captions), f"{which}/{machines}") for which in range(1, machines + 1)]
    assert sorted(image.id for part, _ in parts for image in part) == sorted(ids)
    for some_images, some_captions in parts:
        assert [caption.image_id for caption in some_captions] == [image.id for image in some_images]
    sizes = [len(part) for part, _ in parts]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("shard", ["0/2", "3/2", "2", "a/b", "1/0", "-1/2", ""])
def test_invalid_shards(shard: str) -> None:
    with pytest.raises(SettingsError, match="such as 2/8"):
        part_of(Chosen([], []), shard)


def strange_photos(folder: Path) -> dict[str, str | None]:
    """Turn photos of a set into all kinds of odd files; return part of the reason, or None, by file name."""
    directory = folder / "images/val2014"
    names = sorted(file.name for file in directory.glob("*.jpg"))
    whole = (directory / names[0]).read_bytes()
    grey = PIL.Image.linear_gradient("L")
    turned = PIL.Image.Exif()
    turned[0x0112] = 6

    def save(name: str, image: PIL.Image.Image, kind: str, **options: object) -> None:
        image.save(directory / name, kind, **options)

    (directory / names[1]).write_bytes(whole[: len(whole) // 2])
    (directory / names[2]).write_bytes(b"")
    (directory / names[3]).write_text("this is no picture")
    save(names[4], grey.convert("CMYK"), "JPEG")
    save(names[5], PIL.Image.fromarray(np.arange(64 * 64, dtype=np.uint16).reshape(64, 64)), "PNG")
    save(names[6], grey.convert("P"), "PNG", transparency=3)
    save(names[7], grey, "JPEG")
    save(names[8], grey.convert("P"), "GIF", save_all=True, append_images=[grey.convert("P").rotate(90)])
    save(names[9], grey.convert("RGB"), "JPEG", exif=turned)
    save(names[10], grey.resize((60, 1)), "JPEG")
    save(names[11], PIL.Image.new("1", (30_000, 30_000)), "PNG")
    (directory / names[12]).unlink()
    (directory / names[13]).unlink()
    (directory / names[13]).mkdir()
    (folder / "outside.jpg").write_bytes(whole)
    (directory / names[14]).unlink()
    (directory / names[14]).symlink_to(folder / "outside.jpg")
    (directory / names[15]).unlink()
    os.mkfifo(directory / names[15])
    (directory / names[16]).unlink()
    (directory / names[16]).symlink_to(names[16])
    reasons: dict[int, str] = {
        1: "truncated",
        2: "not a picture",
        3: "not a picture",
        11: "megapixels",
        12: "no such file",
        13: "a folder",
        14: "out of the photo folder",
        15: "not a file",
        16: "",
    }
    return {name: reasons.get(number) for number, name in enumerate(names)}


def test_any_input_is_embedded_or_listed_as_a_failure(
    call: Call, tmp_path: Path, clip_folder: Path, place: list[str]
) -> None:
    photos = write_photo_set(tmp_path / "photos", photos=20)
    reasons = strange_photos(photos)
    code, out, _ = call("ingest", *ingest_options(photos, clip_folder, place))
    assert code == 3
    listed = {
        Path(entry["file"]).name: entry["reason"]
        for entry in map(json.loads, Path("failures.jsonl").read_text().splitlines())
    }
    bad = {name: reason for name, reason in reasons.items() if reason is not None}
    assert listed.keys() == bad.keys()
    for name, reason in bad.items():
        assert reason in listed[name], name
    assert f"_images: {len(reasons) - len(bad)} points" in out
    assert "_captions: 100 points" in out


@pytest.mark.parametrize(
    "file",
    [
        "x" * 300 + ".jpg",
        "d/" * 2100 + "a.jpg",
        "a.jpg/b.jpg",
        "loop/b.jpg",
        "a\0.jpg",
        "\ud83d.jpg",
        ".",
        "../a.jpg",
        "/a",
    ],
    ids=["name", "path", "file as folder", "loop", "NUL", "surrogate", "folder", "above", "absolute"],
)
@pytest.mark.parametrize("follow_links", [False, True])
def test_paths_that_lead_to_no_photo(tmp_path: Path, file: str, follow_links: bool) -> None:
    (tmp_path / "a.jpg").touch()
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(PhotoError) as refusal:
        read_photo(tmp_path, file, follow_links=follow_links)
    str(refusal.value).encode()
    assert "\n" not in str(refusal.value)
    assert current_mark(tmp_path, file, PhotoMark(0, 0, ""), follow_links=follow_links) is None


def test_a_locked_folder_is_a_failure_of_its_photos(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # root may enter any folder, so the refusal is made up
    stat = os.stat

    def refuse(path: object, *args: object, **options: object) -> os.stat_result:
        if "locked" in str(path):
            raise PermissionError(errno.EACCES, "Permission denied")
        return stat(path, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "stat", refuse)
    with pytest.raises(PhotoError, match="Permission denied"):
        find_photo(folder, "locked/a.jpg")
    assert current_mark(folder, "locked/a.jpg", PhotoMark(1, 1, "")) is None


def test_broken_names_and_captions_anywhere_are_listed(
    call: Call, tmp_path: Path, clip_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = write_photo_set(tmp_path / "photos", photos=6)
    options = ingest_options(photos, clip_folder, ["--path", str(tmp_path / "index")])
    annotations = photos / "dataset_coco.json"
    content = json.loads(annotations.read_text())
    for place, name in ((0, "x" * 300 + ".jpg"), (6, "a.jpg/b.jpg"), (8, "\ud83d.jpg")):
        odd = {"filename": name, "cocoid": 900 + place, "imgid": 900, "split": "test"}
        odd["sentences"] = [{"raw": f"odd {place}", "sentid": 9000 + place}]
        content["images"].insert(place, odd)
    content["images"][1]["sentences"][0]["raw"] = " "
    content["images"][2]["sentences"] = [{"raw": "\ud83d", "sentid": 9999}]
    content["images"][7]["sentences"] = []
    annotations.write_text(json.dumps(content))
    Path("failures.jsonl").write_text(json.dumps({"file": "old.jpg", "image_id": 1, "stage": "open", "reason": "x"}))

    code, out, err = call("ingest", *options)

    assert code == 3
    assert "3 photos and 2 captions could not be read" in err
    listed = list(map(json.loads, Path("failures.jsonl").read_text().splitlines()))
    assert sorted((entry["image_id"], entry["stage"], entry.get("caption_id")) for entry in listed) == [
        (100, "annotations", 0), (101, "annotations", 9999), (900, "open", None), (906, "open", None),
        (908, "annotations", None),
    ]  # fmt: skip
    assert "_images: 6 points" in out
    assert "_captions: 21 points" in out
    code, out, _ = call("eval", "run", "--split", "val", "--json", *options[-2:])
    assert (code, json.loads(out)["images"]) == (0, 1)  # the other one has no captions

    content["images"] = [entry for entry in content["images"] if entry["cocoid"] < 900]
    content["images"][0]["sentences"][0]["raw"] = "mended"
    content["images"][1]["sentences"][0]["raw"] = "mended too"
    annotations.write_text(json.dumps(content))
    mine = tmp_path / "mine.jsonl"
    mine.write_text('{"file": "a", "text": "not a list of failures"}\n')
    empty = tmp_path / "empty"
    empty.touch()
    for file in (mine, empty):
        assert call("ingest", *options, "--failures", file)[0] == 0
        assert file.exists()
    assert call("ingest", *options)[0] == 0
    assert not Path("failures.jsonl").exists()

    min((photos / "images/val2014").iterdir()).unlink()
    monkeypatch.setattr("search.index.edge.index.EdgeIndex.optimize", raise_it(IndexFailure("lost")))
    assert call("ingest", *options, "--force")[0] == 1
    assert "no such file" in Path("failures.jsonl").read_text()
    monkeypatch.setattr("search.index.edge.index.EdgeIndex.optimize", raise_it(KeyboardInterrupt()))
    assert call("ingest", *options, "--force", "--failures", mine)[0] == 130
    assert mine.read_text().startswith('{"file": "a"')
    beside = tmp_path / "mine.jsonl.failures.jsonl"
    assert "no such file" in beside.read_text()
    shutil.copy(mine, beside)
    assert call("ingest", *options, "--force", "--failures", mine)[0] == 130
    assert beside.read_text() == mine.read_text()
    assert "no such file" in (tmp_path / "mine.jsonl.failures.jsonl.failures.jsonl").read_text()


def raise_it(error: BaseException) -> Callable[..., None]:
    def method(*_: object, **__: object) -> None:
        raise error

    return method


def test_links_out_of_the_folder_are_followed_on_request(call: Call, tmp_path: Path, clip_folder: Path) -> None:
    photos = write_photo_set(tmp_path / "photos", photos=6)
    (photos / "images/val2014").rename(tmp_path / "elsewhere")
    (photos / "images/val2014").symlink_to(tmp_path / "elsewhere")
    place = ["--path", str(tmp_path / "index")]
    options = ingest_options(photos, clip_folder, place)
    error = one_line_error(call("ingest", *options))
    assert "none of the 6 photos" in error
    assert "--follow-links" in error
    assert not (tmp_path / "index").exists()
    code, out, _ = call("ingest", *options, "--follow-links")
    assert (code, "_images: 6 points (6 embedded now" in out) == (0, True)
    assert "_images: 6 points (0 embedded now, 6 were there already)" in call("ingest", *options)[1]
    assert call("search", "image", 100, "--html", tmp_path / "sheet.html", *place)[0] == 0
    assert "--follow-links" in one_line_error(call("ingest", *options, "--no-follow-links"))


def test_the_folder_of_the_list_of_failures(call: Call, tmp_path: Path, photo_set: Path, clip_folder: Path) -> None:
    options = [*ingest_options(photo_set, clip_folder, ["--path", str(tmp_path / "index")]), "--limit", 1]
    listed = tmp_path / "new/lists/failures.jsonl"
    assert call("ingest", *options, "--failures", listed)[0] == 0
    assert listed.parent.is_dir()
    (tmp_path / "a file").touch()
    vectors = ["--image-vectors", "absent.npz", "--annotations", "absent.json", "--model-name", "clip"]
    for command in (["ingest", *options], ["ingest", "download"], ["ingest", "import", *vectors]):
        error = one_line_error(call(*command, "--failures", tmp_path / "a file/failures.jsonl"))
        assert error == f"error: --failures: cannot create {tmp_path / 'a file'}: it is not a folder"
    assert "is a folder: give the name of a file" in one_line_error(call("ingest", *options, "--failures", tmp_path))
    wrong = ["--images", tmp_path / "absent", "--failures", tmp_path / "absent/failures.jsonl"]
    assert "check --images" in one_line_error(call("ingest", "run", *wrong))
    assert not (tmp_path / "absent").exists()


def test_a_run_without_a_usable_photo_embeds_no_caption(call: Call, tmp_path: Path, clip_folder: Path) -> None:
    photos = write_photo_set(tmp_path / "photos", photos=6)
    for file in (photos / "images/val2014").iterdir():
        file.write_text("version https://git-lfs.github.com/spec/v1")
    place = ["--path", str(tmp_path / "index")]
    result = call("ingest", *ingest_options(photos, clip_folder, place))
    assert "none of the 6 photos can be used" in one_line_error(result)
    assert "not a picture" in one_line_error(result)
    assert "check these files and --images" in one_line_error(result)
    assert f"6 photos could not be read or embedded: see {Path('failures.jsonl').resolve()}\n" in result[2]
    assert result[2].count(".jpg: not a picture") == 5
    assert len(Path("failures.jsonl").read_text().splitlines()) == 6
    result = call("ingest", *ingest_options(photos, clip_folder, place), "--failures", "/dev/full")
    assert "none of the 6 photos can be used" in one_line_error(result)  # which a full disk does not hide
    assert "cannot write /dev/full: No space left on device; name another file with --failures\n6 photos" in result[2]
    alone = one_line_error(call("ingest", *ingest_options(photos, clip_folder, place), "--limit", "1"))
    assert "the only photo cannot be used" in alone
    assert '"points": 0' in call("ingest", "status", "--json", *place)[1]


def test_the_list_of_failures_is_about_the_last_run(call: Call, tmp_path: Path, clip_folder: Path) -> None:
    photos = write_photo_set(tmp_path / "photos", photos=3)
    options = ingest_options(photos, clip_folder, ["--path", "index"])
    listed = Path("failures.jsonl")
    listed.touch()
    away = (photos / "images/val2014").rename(tmp_path / "away")
    (photos / "images/val2014").symlink_to(away)
    code, _, err = call("ingest", *options)
    assert code == 1
    assert "--follow-links" in err
    assert [json.loads(line)["stage"] for line in listed.read_text().splitlines()] == ["open"] * 3
    assert "no-model" in one_line_error(call("ingest", *options, "--follow-links", "--model", "no-model"))
    assert listed.exists()  # nothing was read
    assert call("ingest", *options, "--follow-links")[0] == 0
    assert list(Path().glob("failures*")) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission(folder: Path) -> None:
    file = files_of(folder)[0]
    (folder / file).chmod(0)
    with pytest.raises(PhotoError, match="Permission denied"):
        open_photo(folder, file)
