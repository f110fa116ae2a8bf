"""A folder of photos, with or without captions in text files, as a person has it."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path

import PIL.Image
import pytest
from conftest import Call, ingest_options, one_line_error

from ingest.annotations import Annotations, read_annotations
from ingest.annotations.listing import list_folder
from search.errors import AnnotationError
from search.index import open_index
from search.records import Caption, Image
from search.settings import Settings
from search.text import shown


def picture(file: Path | bytes, colour: int = 0) -> None:
    os.makedirs(os.path.dirname(file), exist_ok=True)  # noqa: PTH103, PTH120 - names that are not UTF-8
    with open(file, "wb") as stream:  # noqa: PTH123
        PIL.Image.new("RGB", (40, 30), (colour, 80, 200 - colour)).save(stream, "JPEG")


def files(read: Annotations) -> list[str]:
    return [image.file for image in read.images]


def failures(read: Annotations) -> dict[str, str]:
    return {entry.file: entry.reason for entry in read.unusable}


def test_every_picture_below_a_folder_in_the_order_of_paths(tmp_path: Path) -> None:
    for name in ("b.JPG", "a/z.jpeg", "a/b/c.png", "a b.webp", "new\nline.jpg", "é.tif", "i.heic"):
        picture(tmp_path / name)
    for name in (".hidden.jpg", "._b.jpg", ".git/x.jpg", "Thumbs.db", "notes.md", "x.jpg.bak", "a/y.mp4"):
        picture(tmp_path / name)
    picture(os.fsencode(tmp_path) + b"/caf\xe9.jpg")
    (tmp_path / "folder.jpg").mkdir()
    found = read_annotations(None, tmp_path)
    names = ["a b.webp", "a/b/c.png", "a/z.jpeg", "b.JPG", "file://caf%E9.jpg", "i.heic", "new\nline.jpg", "é.tif"]
    assert sorted(files(found)) == names
    assert files(found) == files(read_annotations(None, tmp_path))
    assert (found.captions, found.unusable, found.format) == ((), (), "folder")
    assert found.splits() == {found.dataset: 8}


def test_adding_a_photo_changes_no_other_id(tmp_path: Path) -> None:
    for name in ("b.jpg", "c/d.jpg"):
        picture(tmp_path / name)
    before = {image.file: image.id for image in read_annotations(None, tmp_path).images}
    picture(tmp_path / "a.jpg")
    after = {image.file: image.id for image in read_annotations(None, tmp_path).images}
    assert after == before | {"a.jpg": 8946717530374740}


def test_captions_in_text_files(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg", "b.png", "sub/c.d.jpg", "e.jpg", "f.jpg", "g.jpg", "h.jpg"):
        picture(tmp_path / name)
    (tmp_path / "a.txt").write_text("\ufeffA dog.\r\n\r\n A cat. \n")
    (tmp_path / "b.TXT").write_text("Two files.\rOld lines.")
    (tmp_path / "sub/c.d.txt").write_text("Below.")
    (tmp_path / "e.txt").write_bytes(b"\xe9\n")
    (tmp_path / "f.txt").write_text("\n")
    (tmp_path / "g.txt").write_text("x" * 2_000_000)
    (tmp_path / "README.txt").write_text("Not a caption.")
    found = read_annotations(None, tmp_path)
    assert {image.file: image.captions for image in found.images if image.captions} == {
        "a.jpg": ("A dog.", "A cat."),
        "b.jpg": ("Two files.", "Old lines."),
        "b.png": ("Two files.", "Old lines."),
        "sub/c.d.jpg": ("Below.",),
    }
    assert [caption.position for caption in found.captions] == [0, 1, 0, 1, 0, 1, 0]
    assert failures(found) == {
        "e.jpg": "e.txt: the text is not valid UTF-8",
        "f.jpg": "f.txt: it holds no caption",
        "g.jpg": "g.txt: a text file for captions has at most 1,000,000 bytes",
    }
    assert {entry.kind for entry in found.unusable} == {"captions"}


def test_text_files_in_a_folder_of_their_own(tmp_path: Path) -> None:
    picture(tmp_path / "photos/x/a.jpg")
    (tmp_path / "texts/x").mkdir(parents=True)
    with pytest.raises(AnnotationError, match=r"no text file in .*texts has the name of a picture in .*photos"):
        read_annotations(tmp_path / "texts", tmp_path / "photos")
    (tmp_path / "texts/x/a.txt").write_text("A dog.")
    found = read_annotations(tmp_path / "texts", tmp_path / "photos")
    assert (files(found), found.images[0].captions, found.dataset) == (["x/a.jpg"], ("A dog.",), "texts")


@pytest.mark.parametrize("follow", [False, True])
def test_links(tmp_path: Path, follow: bool) -> None:
    inside, outside = tmp_path / "in", tmp_path / "out"
    for name in (inside / "a.jpg", inside / "sub/b.jpg", outside / "c.jpg", outside / "deep/d.jpg"):
        picture(name)
    (inside / "sub/up").symlink_to("..")
    (inside / "also sub").symlink_to("sub")
    (inside / "self.jpg").symlink_to("self.jpg")
    (inside / "z.jpg").symlink_to("a.jpg")
    (inside / "away").symlink_to(outside)
    (inside / "away too").symlink_to(outside)
    (outside / "back").symlink_to(inside)
    found = read_annotations(None, inside, follow_links=follow)
    expected = ["a.jpg", "self.jpg", "sub/b.jpg", "z.jpg"]
    assert files(found) == (sorted([*expected, "away/c.jpg", "away/deep/d.jpg"]) if follow else expected)
    assert list(failures(found)) == ([] if follow else ["away", "away too"])


def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture(tmp_path / "a.jpg")
    picture(tmp_path / "locked/b.jpg")
    picture(tmp_path / "vanished/c.jpg")
    errors = {"locked": errno.EACCES, "vanished": errno.ENOENT}
    real = os.scandir

    def scandir(path: Path) -> object:
        if number := errors.get(path.name):
            raise OSError(number, os.strerror(number))
        return real(path)

    with monkeypatch.context() as patch:  # pytest deletes the folder before it undoes `monkeypatch`
        patch.setattr("os.scandir", scandir)
        found = read_annotations(None, tmp_path)
    assert files(found) == ["a.jpg"]
    assert failures(found) == {
        "locked": "cannot read this folder: Permission denied",
        "vanished": "cannot read this folder: No such file or directory",
    }


def test_paths_that_are_too_long_are_named(tmp_path: Path) -> None:
    folder = os.open(tmp_path, os.O_RDONLY)
    for _ in range(20):
        os.mkdir("d" * 220, dir_fd=folder)
        below = os.open("d" * 220, os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = below
    os.close(folder)
    picture(tmp_path / "a.jpg")
    listing = list_folder(tmp_path)
    assert listing.pictures == ["a.jpg"]
    assert [reason for _, reason in listing.failures] == ["cannot read this folder: File name too long"]


@pytest.mark.parametrize("content", ["missing", "empty", "a file", "x" * 5000])
def test_nothing_to_ingest_is_one_clear_line(tmp_path: Path, call: Call, content: str) -> None:
    folder = tmp_path / content
    if content == "empty":
        (folder / "sub").mkdir(parents=True)
        (folder / "sub/notes.txt").write_text("x")
    elif content == "a file":
        folder.write_text("x")
    error = one_line_error(call("ingest", "run", "--images", folder, "--path", tmp_path / "index"))
    assert "check --images" in error
    assert ("there is no picture in" if content == "empty" else "there is no folder") in error
    assert not (tmp_path / "index").exists()


def folder_options(folder: Path, clip_folder: Path, *more: object) -> list[str]:
    options = ["--images", folder, "--model", clip_folder, "--path", folder.parent / "index", *more]
    return ["run", *map(str, options), "--failures", str(folder.parent / "failures.jsonl")]


def stored(folder: Path, collection: str) -> list[Image | Caption]:
    index = open_index(Settings(index_path=folder / "index"))
    return [record for batch in index.scan(collection) for record in batch.records]


def test_a_folder_is_searched_copied_and_saved_like_any_other(tmp_path: Path, clip_folder: Path, call: Call) -> None:
    odd = os.fsencode(tmp_path) + b"/mine/caf\xe9.jpg"
    picture(odd)
    for number, name in enumerate(("a.jpg", "sub/new\nline.jpg")):
        picture(tmp_path / "mine" / name, number * 90)
    options = folder_options(tmp_path / "mine", clip_folder)
    code, out, err = call("ingest", *options)
    assert (code, out.splitlines()[0]) == (0, "mine_images: 3 points (3 embedded now, 0 were there already)"), err
    assert "mine: 3 photos, 0 captions in text files" in err
    code, out, _ = call("ingest", *options)
    assert (code, out.splitlines()[0]) == (0, "mine_images: 3 points (0 embedded now, 3 were there already)")

    place = ["--path", tmp_path / "index"]
    code, out, err = call("search", "text", "a dog", "--json", *place)
    hits = [json.loads(line) for line in out.splitlines()]
    assert sorted(hit["file"] for hit in hits) == ["a.jpg", "file://caf%E9.jpg", "sub/new\nline.jpg"], err
    assert call("search", "image", hits[0]["image_id"], "--html", tmp_path / "found.html", *place)[0] == 0
    assert (tmp_path / "found.html").read_text().count("data:image/jpeg") >= 3
    assert call("search", "text", "a dog", "--to", "captions", *place) == (0, "nothing found\n", "")
    Path("queries.txt").write_text('{"caption_id": 1}\na dog\n')
    code, answers, _ = call("search", "batch", "queries.txt", *place)
    wrong, right = map(json.loads, answers.splitlines())
    assert (code, wrong["error"], len(right["hits"])) == (3, "no caption 1 in mine_captions", 3)
    assert "mine has no captions" in one_line_error(call("eval", "run", *place))
    assert "mine has no captions" in one_line_error(call("eval", "run", "--split", "mine", *place))

    assert call("ingest", "copy", "--from", tmp_path / "index", "--to", tmp_path / "other")[0] == 0
    assert call("ingest", "backup", tmp_path / "saved.tar", "--dataset", "mine", *place)[0] == 0
    assert call("ingest", "drop", "--dataset", "mine", "--yes", *place)[0] == 0
    assert call("ingest", "restore", tmp_path / "saved.tar", *place)[0] == 0
    for again in (place, ["--path", tmp_path / "other"]):
        assert call("search", "text", "a dog", "--json", *again)[1] == out
        assert "mine_captions" in call("ingest", "status", *again)[1]


def test_captions_of_a_folder_without_a_test_split(tmp_path: Path, clip_folder: Path, call: Call) -> None:
    picture(tmp_path / "mine/a.jpg")
    (tmp_path / "mine/a.txt").write_text("A dog.\nA cat.")
    assert call("ingest", *folder_options(tmp_path / "mine", clip_folder))[0] == 0
    place = ["--path", tmp_path / "index"]
    error = one_line_error(call("eval", "run", *place))
    assert error == "error: mine_images has no split 'test': use --split mine, or --split all"
    assert call("eval", "run", "--split", "mine", *place)[0] == 0


def test_a_data_set_from_another_source_is_refused(
    tmp_path: Path, photo_set: Path, clip_folder: Path, call: Call
) -> None:
    place = ["--path", str(tmp_path / "index")]
    assert call("ingest", *ingest_options(photo_set, clip_folder, place), "--split", "test")[0] == 0
    before = stored(tmp_path, "coco_images")
    entries = [{"id": 100, "file_name": "COCO_val2014_000000000105.jpg"}]
    other = tmp_path / "captions_val2014.json"
    other.write_text(json.dumps({"images": entries, "annotations": [{"id": 1, "image_id": 100, "caption": "Other."}]}))
    images = photo_set / "images/val2014"
    options = ["run", "--annotations", other, "--images", images, "--dataset", "coco", "--model", clip_folder, *place]
    error = one_line_error(call("ingest", *options))
    assert "coco_images was filled from " in error
    assert "captions_val2014.json (coco) is another source: use another --dataset NAME, or --add" in error
    assert stored(tmp_path, "coco_images") == before

    code, _, err = call("ingest", *options, "--add")
    assert (code, "no longer in" in err) == (0, False)
    assert f"from now on, all are looked up in {images}" in err
    assert "other sources" in one_line_error(call("ingest", *options, "--prune", "--yes"))
    changed = {image.id: image.file for image in stored(tmp_path, "coco_images") if isinstance(image, Image)}
    assert (changed[100], len(changed)) == ("COCO_val2014_000000000105.jpg", len(before))
    assert call("ingest", *options)[0] == 0  # both are its sources now
    assert call("ingest", *ingest_options(photo_set, clip_folder, place), "--split", "test")[0] == 0


def test_a_source_may_change_or_move(tmp_path: Path, clip_folder: Path, call: Call) -> None:
    for name in ("mine/a.jpg", "mine/b.jpg", *(f"other/mine/{other}.jpg" for other in ("a", "b", "new"))):
        picture(tmp_path / name)
    table = tmp_path / "captions.csv"
    table.write_text("file,caption\na.jpg,A dog.\n")
    options = folder_options(tmp_path / "mine", clip_folder)
    assert call("ingest", *options)[0] == 0
    picture(tmp_path / "mine/new.jpg")
    assert call("ingest", *options)[0] == 0
    in_place = ["--path", tmp_path / "index", "--model", clip_folder, "--failures", tmp_path / "failures.jsonl"]
    error = one_line_error(call("ingest", "run", "--images", tmp_path / "other/mine", *in_place))
    assert f"mine_images was filled from {tmp_path}/mine (folder)" in error
    shutil.move(tmp_path / "mine", tmp_path / "moved")
    moved = ["--images", tmp_path / "moved", "--dataset", "mine"]
    code, out, _ = call("ingest", "run", *moved, *in_place)
    assert code == 0
    assert out.startswith("mine_images: 3 points (0 embedded now, 3 updated without embedding, 0 were there already)")

    with_table = ["run", "--annotations", table, "--images", tmp_path / "moved", *in_place]
    assert call("ingest", *with_table)[0] == 0
    table.write_text('file,caption\na.jpg,A dog.\nb.jpg,A cat.\nb.jpg,"broken\n')
    code, out, err = call("ingest", *with_table)
    assert code == 3
    assert out.splitlines()[0] == "captions_images: 2 points (1 embedded now, 1 were there already)"
    assert "line 4: not valid CSV" in err + out


def test_photo_urls_are_written_remembered_and_changed(
    tmp_path: Path, photo_set: Path, clip_folder: Path, call: Call
) -> None:
    place = ["--path", str(tmp_path / "index")]
    options = [*ingest_options(photo_set, clip_folder, place), "--split", "val"]
    assert call("ingest", *options)[0] == 0
    official = {record.id: record.url for record in stored(tmp_path, "coco_images") if isinstance(record, Image)}
    assert all(url and url.startswith("http://images.cocodataset.org/val2014/") for url in official.values())
    for more in (["--photo-url", "http://localhost:8080/my photos/".replace(" ", "%20")], []):
        code, out, _ = call("ingest", *options, *more)
        assert (code, "(0 embedded now" in out.splitlines()[0]) == (0, True)
        for collection in ("coco_images", "coco_captions"):
            for record in stored(tmp_path, collection):
                name = f"COCO_val2014_{record.image_id:012d}.jpg"
                assert record.url == f"http://localhost:8080/my%20photos/val2014/{name}"
    assert call("ingest", *options, "--photo-url", "")[0] == 0
    assert {each.id: each.url for each in stored(tmp_path, "coco_images") if isinstance(each, Image)} == official


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("a b.jpg", "https://e.org/p/a%20b.jpg"),
        ("é/#1?.jpg", "https://e.org/p/%C3%A9/%231%3F.jpg"),
        ("new\nline.jpg", "https://e.org/p/new%0Aline.jpg"),
        (os.fsdecode(b"caf\xe9.jpg"), "https://e.org/p/caf%E9.jpg"),
    ],
    ids=shown,
)
def test_photo_urls_are_encoded(tmp_path: Path, name: str, url: str) -> None:
    from ingest.selection import with_urls

    picture(tmp_path / name)
    read = read_annotations(None, tmp_path)
    assert with_urls(read.select(["all"]), "https://e.org/p/").images[0].url == url


@pytest.mark.parametrize(
    "base", ["ftp://e.org", "e.org/p", "http://", "http://e.org/?q=", "http://e.org:x", "http://é"]
)
def test_addresses_that_are_not_valid(tmp_path: Path, call: Call, base: str) -> None:
    code, _, err = call("ingest", "run", "--images", tmp_path, "--photo-url", base)
    assert code == 2
    assert "--photo-url" in err
