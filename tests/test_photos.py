from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from conftest import Call, ingest_options, write_photo_set
from hypothesis import given
from hypothesis import strategies as st

from ingest.photos import PhotoReader, Recipe, WorkerDied
from ingest.pipeline import part_of
from search.errors import PhotoError, SettingsError
from search.pixels import Preparation, open_photo
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


def test_without_a_preparation_photos_come_as_opened(folder: Path) -> None:
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


def test_a_killed_worker_is_said(folder: Path) -> None:
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
    parts = [part_of((images, captions), f"{which}/{machines}") for which in range(1, machines + 1)]
    assert sorted(image.id for part, _ in parts for image in part) == sorted(ids)
    for some_images, some_captions in parts:
        assert [caption.image_id for caption in some_captions] == [image.id for image in some_images]
    sizes = [len(part) for part, _ in parts]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("shard", ["0/2", "3/2", "2", "a/b", "1/0", "-1/2", ""])
def test_shards_that_make_no_sense(shard: str) -> None:
    with pytest.raises(SettingsError, match="such as 2/8"):
        part_of(([], []), shard)


def strange_photos(folder: Path) -> dict[str, str | None]:
    """Turns the photos of a set into everything that turns up in practice; file name -> part of the reason, or None."""
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


def test_any_input_is_embedded_or_recorded(call: Call, tmp_path: Path, clip_folder: Path, place: list[str]) -> None:
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


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission(folder: Path) -> None:
    file = files_of(folder)[0]
    (folder / file).chmod(0)
    with pytest.raises(PhotoError, match="Permission denied"):
        open_photo(folder, file)
