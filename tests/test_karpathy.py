from __future__ import annotations

import json
import re
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from conftest import KARPATHY_TEST, SAMPLE, needs
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.annotations import Annotations, read_annotations
from search.errors import AnnotationError
from search.records import Caption, Image, record_of

COCO: dict[str, Any] = {
    "dataset": "coco",
    "images": [
        {
            "filepath": "val2014",
            "filename": "COCO_val2014_000000000042.jpg",
            "cocoid": 42,
            "imgid": 0,
            "split": "test",
            "sentids": [7, 8],
            "sentences": [
                {"tokens": ["a", "dog"], "raw": "A dog. ", "imgid": 0, "sentid": 7},
                {"tokens": ["a", "shoe"], "raw": "A shoe.", "imgid": 0, "sentid": 8},
            ],
        },
        {
            "filepath": "train2014",
            "filename": "COCO_train2014_000000000009.jpg",
            "cocoid": 9,
            "imgid": 1,
            "split": "train",
            "sentids": [9],
            "sentences": [{"tokens": ["food"], "raw": "Food.", "imgid": 1, "sentid": 9}],
        },
    ],
}


def read(file: Path) -> Annotations:
    return read_annotations(file, file.parent)


def written(folder: Path, content: Any) -> Path:
    file = folder / "dataset.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return file


def test_coco_becomes_records(tmp_path: Path) -> None:
    found = read(written(tmp_path, COCO))
    url = "http://images.cocodataset.org/val2014/COCO_val2014_000000000042.jpg"
    assert found.dataset == "coco"
    assert found.images[0] == Image(
        id=42,
        split="test",
        order=0,
        file="val2014/COCO_val2014_000000000042.jpg",
        url=url,
        captions=("A dog.", "A shoe."),
    )
    assert found.captions[1] == Caption(id=8, image_id=42, split="test", position=1, text="A shoe.", url=url)
    assert found.splits() == {"test": 1, "train": 1}


def test_flickr_has_neither_folders_nor_coco_ids_nor_addresses(tmp_path: Path) -> None:
    flickr = deepcopy(COCO) | {"dataset": "flickr8k"}
    for entry in flickr["images"]:
        del entry["filepath"], entry["cocoid"]
    found = read(written(tmp_path, flickr))
    assert [image.id for image in found.images] == [0, 1]
    assert found.images[0].file == "COCO_val2014_000000000042.jpg"
    assert found.images[0].url is None


def test_a_copy_under_another_name_gets_no_official_address(tmp_path: Path) -> None:
    assert read(written(tmp_path, COCO | {"dataset": "mine"})).images[0].url is None


def test_select(tmp_path: Path) -> None:
    found = read(written(tmp_path, COCO))
    assert found.select(["all"]) == (list(found.images), list(found.captions))
    images, captions = found.select(["train"])
    assert ([image.id for image in images], [caption.id for caption in captions]) == ([9], [9])
    images, captions = found.select(["test", "train"], limit=1)
    assert ([image.id for image in images], [caption.id for caption in captions]) == ([42], [7, 8])
    with pytest.raises(AnnotationError, match=r"no split 'valid'; it has test \(1 images\), train"):
        found.select(["valid"])


def change(*place: Any, to: Any = None) -> Callable[[Any], None]:
    def apply(content: Any) -> None:
        for part in place[:-1]:
            content = content[part]
        if to is None:
            del content[place[-1]]
        else:
            content[place[-1]] = to

    return apply


@pytest.mark.parametrize(
    ("break_it", "complaint"),
    [
        (change("images"), r"images: Field required"),
        (change("dataset"), r"dataset: Field required"),
        (change("images", to=[]), r"images: .*at least 1 item"),
        (change("images", to={}), r"images: .*list"),
        (change("images", 1, "cocoid", to=42), r"images\[1\]\.cocoid: 42 occurs twice"),
        (change("images", 1, "sentences", 0, "sentid", to=7), r"sentid of caption 2: 7 occurs twice"),
    ],
)
def test_what_is_wrong_with_the_whole_file_is_named(
    tmp_path: Path, break_it: Callable[[Any], None], complaint: str
) -> None:
    content = deepcopy(COCO)
    break_it(content)
    file = written(tmp_path, content)
    with pytest.raises(AnnotationError, match=complaint) as refusal:
        read(file)
    assert str(refusal.value).startswith(str(file))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("break_it", "image_id", "reason"),
    [
        (change("images", 1, "split"), 9, r"images\[1\]\.split: Field required"),
        (change("images", 1, "split", to=""), 9, r"images\[1\]\.split: "),
        (change("images", 1, "cocoid", to="nine"), None, r"images\[1\]\.cocoid: .*integer"),
        (change("images", 1, "cocoid", to=True), None, r"images\[1\]\.cocoid: .*integer"),
        (change("images", 1, "cocoid", to=-9), None, r"images\[1\]\.cocoid: "),
        (change("images", 1, "cocoid"), 1, r"images\[1\]\.cocoid: missing, while other images have one"),
        (change("images", 1, "filename", to="../../etc/passwd"), 9, r"images\[1\]\.filename: .*leads out of the photo"),
        (change("images", 1, "filename", to="/etc/passwd"), 9, r"images\[1\]\.filename: .*leads out"),
        (change("images", 1, "filename", to="a\\..\\b.jpg"), 9, r"images\[1\]\.filename: .*has a backslash"),
        (change("images", 1, "filename", to=""), 9, r"images\[1\]\.filename: "),
        (change("images", 1, "filename", to="a\0.jpg"), 9, r"images\[1\]\.filename: .*NUL"),
        (change("images", 1, "filename", to="a\ud83d.jpg"), 9, r"images\[1\]\.filename: .*surrogate"),
        (change("images", 1, "filename", to=None), 9, r"images\[1\]\.filename: "),
        (change("images", 1, "filepath", to=".."), 9, r"images\[1\]\.filepath: .*leads out"),
        (change("images", 1, to=7), None, r"images\[1\]: "),
    ],
)
def test_a_broken_entry_is_listed_and_skipped(
    tmp_path: Path, break_it: Callable[[Any], None], image_id: int | None, reason: str
) -> None:
    content = deepcopy(COCO)
    break_it(content)
    found = read(written(tmp_path, content))
    assert [image.id for image in found.images] == [42]
    assert [caption.id for caption in found.captions] == [7, 8]
    [entry] = found.unusable
    assert (entry.kind, entry.image_id, entry.order) == ("images", image_id, 1)
    assert re.search(reason, entry.reason)


@pytest.mark.parametrize(
    ("break_it", "caption_id", "reason"),
    [
        (change("raw", to="  \n"), 7, "the caption is empty"),
        (change("raw", to=5), 7, "string"),
        (change("raw", to="half \ud83d"), 7, "surrogate"),
        (change("raw", to="a\0b"), 7, "NUL"),
        (change("raw"), 7, "Field required"),
        (change("sentid"), None, "Field required"),
        (change("sentid", to=2**63), None, "less than"),
    ],
)
def test_a_broken_caption_is_listed_and_skipped(
    tmp_path: Path, break_it: Callable[[Any], None], caption_id: int | None, reason: str
) -> None:
    content = deepcopy(COCO)
    break_it(content["images"][0]["sentences"][0])
    found = read(written(tmp_path, content))
    assert found.images[0].captions == ("A shoe.",)
    assert [(caption.id, caption.position) for caption in found.captions] == [(8, 0), (9, 0)]
    [caption] = found.unusable
    assert (caption.kind, caption.image_id, caption.caption_id) == ("captions", 42, caption_id)
    assert caption.reason.startswith("images[0].sentences[0]")
    assert reason in caption.reason
    assert found.skipped(["test"]) == found.skipped(["all"]) == [caption]
    assert found.skipped(["train"]) == []


@pytest.mark.parametrize("sentences", [[], None, "text", [{"raw": " ", "sentid": 7}]])
def test_a_photo_without_captions_is_kept(tmp_path: Path, sentences: object) -> None:
    content = deepcopy(COCO)
    content["images"][0]["sentences"] = sentences
    found = read(written(tmp_path, content))
    assert [(image.id, image.captions) for image in found.images] == [(42, ()), (9, ("Food.",))]
    assert len(found.unusable) == (sentences != [])


def test_entries_keep_their_places_beside_broken_ones(tmp_path: Path) -> None:
    entries = [{"filename": f"{n}.jpg", "imgid": n, "split": "test", "sentences": []} for n in range(6)]
    entries[0]["split"] = entries[3]["filename"] = 5
    content = b"\xef\xbb\xbf" + json.dumps({"dataset": "mine", "images": entries}).encode()
    file = tmp_path / "bom.json"
    file.write_bytes(content)
    found = read(file)
    assert [(image.id, image.order) for image in found.images] == [(n, n) for n in (1, 2, 4, 5)]
    assert [(each.order, each.split) for each in found.unusable] == [(0, None), (3, "test")]
    assert [each.order for each in found.skipped(["test"], limit=2)] == [0]
    assert [each.order for each in found.skipped(["test"], limit=9)] == [0, 3]
    for entry in entries:
        entry["imgid"] = None
    with pytest.raises(AnnotationError, match=r"it has no usable image: images\[0\]"):
        read(written(tmp_path, {"dataset": "mine", "images": entries}))


@pytest.mark.parametrize("content", ["", "{", "[]", "3", '"text"', "null", "\x00\x01", "<html></html>"])
def test_what_is_no_annotation_file(tmp_path: Path, content: str) -> None:
    with pytest.raises(AnnotationError, match=r"dataset\.json: ") as refusal:
        read(written(tmp_path, content))
    assert "\n" not in str(refusal.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match="No such file"):
        read(tmp_path / "absent.json")


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=200)
@given(data=st.data())
def test_any_damage_is_refused_or_read(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Whatever JSON stands anywhere in the file: either records come out, or one line of explanation."""
    content = deepcopy(COCO)
    place: Any = content
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = data.draw(st.sampled_from(keys))
        inside = place[key]
        if isinstance(inside, dict | list) and inside and data.draw(st.booleans()):
            place = inside
            continue
        place[key] = data.draw(_json)
        break
    file = written(tmp_path_factory.mktemp("fuzz"), content)
    try:
        found = read(file)
    except AnnotationError as refusal:
        assert "\n" not in str(refusal)
    else:
        assert [record_of(image.payload()) for image in found.images] == list(found.images)
        assert [record_of(caption.payload()) for caption in found.captions] == list(found.captions)


@needs(KARPATHY_TEST)
def test_the_whole_test_split() -> None:
    found = read(KARPATHY_TEST)
    assert len(found.images) == 5000
    assert len(found.captions) == 25009
    assert len(found.select(["test"])[1]) == 25009
    assert sum(len(image.captions) > 5 for image in found.images) == 9


@needs(SAMPLE)
def test_every_sample_entry_has_its_photo() -> None:
    found = read(SAMPLE / "dataset_coco.json")
    assert len(found.images) == 301
    assert all((SAMPLE / "images" / image.file).is_file() for image in found.images)
    assert all(image.url and image.url.endswith(image.file) for image in found.images)


def test_a_file_with_a_mark_is_read_and_another_encoding_is_refused(photo_set: Path, tmp_path: Path) -> None:
    text = (photo_set / "dataset_coco.json").read_text()
    file = tmp_path / "dataset_coco.json"
    file.write_text(text, encoding="utf-8-sig")
    assert len(read(file).images) == 12
    for encoding in ("utf-16", "utf-16-le", "utf-32-be"):
        file.write_text(text, encoding=encoding)
        with pytest.raises(AnnotationError, match="UTF-16 or UTF-32: save it as UTF-8"):
            read(file)
