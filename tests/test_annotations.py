"""COCO's own caption files, and what all formats share."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from ingest.annotations import name_of, read_annotations
from search.errors import AnnotationError
from search.index import collection_name

CAPTIONS: dict[str, Any] = {
    "info": {"description": "COCO 2017 Dataset"},
    "images": [
        {
            "license": 2,
            "file_name": "000000000139.jpg",
            "coco_url": "http://images.cocodataset.org/val2017/000000000139.jpg",
            "height": 426,
            "width": 640,
            "date_captured": "2013-11-21 01:34:01",
            "id": 139,
        },
        {"file_name": "mine.jpg", "coco_url": "http://example.org/val2017/mine.jpg", "id": 7},
    ],
    "licenses": [],
    "annotations": [
        {"image_id": 7, "id": 3, "caption": "Mine."},
        {"image_id": 139, "id": 1, "caption": "A room. "},
        {"image_id": 139, "id": 2, "caption": "A woman in a room."},
    ],
}


def written(folder: Path, content: object) -> Path:
    file = folder / "captions_val2017.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return file


@pytest.mark.parametrize("keys", [list(CAPTIONS), list(reversed(CAPTIONS))])
@pytest.mark.parametrize("indent", [None, 1])
def test_cocos_own_captions(tmp_path: Path, keys: list[str], indent: int | None) -> None:
    file = written(tmp_path, json.dumps({key: CAPTIONS[key] for key in keys}, indent=indent))
    read = read_annotations(file, tmp_path)
    assert (read.dataset, read.format) == ("captions_val2017", "coco")
    room, mine = read.images
    assert (room.id, room.split, room.file, room.order) == (139, "val2017", "000000000139.jpg", 0)
    assert room.url == "http://images.cocodataset.org/val2017/000000000139.jpg"
    assert room.captions == ("A room.", "A woman in a room.")
    assert (mine.id, mine.split, mine.url) == (7, "captions_val2017", None)
    assert [(each.id, each.image_id, each.position) for each in read.captions] == [(1, 139, 0), (2, 139, 1), (3, 7, 0)]
    assert {each.url for each in read.captions if each.image_id == 139} == {room.url}


@pytest.mark.parametrize(("photo", "file"), [("000000000139.jpg", ""), ("val2017/000000000139.jpg", "val2017/")])
def test_photos_lie_in_the_folder_or_in_the_one_of_their_address(tmp_path: Path, photo: str, file: str) -> None:
    (tmp_path / photo).parent.mkdir(exist_ok=True)
    (tmp_path / photo).touch()
    read = read_annotations(written(tmp_path, CAPTIONS), tmp_path)
    assert [image.file for image in read.images] == [f"{file}000000000139.jpg", "mine.jpg"]


def test_faults_of_single_entries_are_listed(tmp_path: Path) -> None:
    content = deepcopy(CAPTIONS)
    content["images"] += [{"id": 8}, {"id": 9, "file_name": "../9.jpg"}]
    content["annotations"] += [
        {"image_id": 139, "id": 4, "caption": " "},
        {"image_id": 139, "id": "5", "caption": "A text."},
        {"image_id": 9, "id": 6, "caption": "It goes with its image."},
        {"image_id": 11, "id": 7, "caption": "Of nothing."},
        None,
    ]
    read = read_annotations(written(tmp_path, content), tmp_path)
    assert len(read.images) == 2
    assert len(read.captions) == 3
    assert [(entry.kind, entry.image_id, entry.caption_id, entry.reason) for entry in read.unusable] == [
        ("images", 8, None, "images[2].file_name: Field required"),
        ("images", 9, None, "images[3].file_name: '../9.jpg' leads out of the photo folder"),
        ("captions", 139, 4, "annotations[3].caption: the caption is empty"),
        ("captions", 139, None, "annotations[4].id: Input should be a valid integer"),
        ("captions", 11, 7, "annotations[6].image_id: no image has the id 11"),
        ("captions", None, None, "annotations[7]: Input should be an object"),
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"annotations": [{"image_id": 139, "id": 1, "bbox": [0, 0, 1, 1]}]}, "use captions_.*json, not the file of"),
        ({"images": []}, "no usable image"),
        ({"images": {}}, "`images` is not a list"),
        ({"images": [CAPTIONS["images"][0]] * 2}, "139 occurs twice"),
        ({"annotations": [CAPTIONS["annotations"][0], {"image_id": 139, "id": 3, "caption": "x"}]}, "the same id, 3"),
    ],
)
def test_files_without_use(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(AnnotationError, match=message) as error:
        read_annotations(written(tmp_path, CAPTIONS | change), tmp_path)
    assert "captions_val2017.json" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_of_photos_alone(tmp_path: Path) -> None:
    content = {key: value for key, value in CAPTIONS.items() if key != "annotations"}
    read = read_annotations(written(tmp_path, content), tmp_path)
    assert (len(read.images), len(read.captions)) == (2, 0)


@pytest.mark.parametrize("content", ['{"images": [', '{"annotations": [}', '{"file_name": NaN', "[" * 100_000])
def test_broken_json(tmp_path: Path, content: str) -> None:
    with pytest.raises(AnnotationError, match=r"captions_val2017\.json") as error:
        read_annotations(written(tmp_path, content), tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("captions_val2017.json", "captions_val2017"),
        ("Meine Fotos 2019", "Meine-Fotos-2019"),
        ("été.csv", "ete"),
        ("照片", "photos"),
        (".hidden", "hidden"),
        ("a" * 150, "a" * 100),
        ("x" * 5000, "x" * 100),
        ("old.trial-1.csv", "old-trial-1"),
        ("/", "photos"),
    ],
)
def test_a_data_set_is_named_after_its_source(path: str, name: str) -> None:
    assert name_of(Path(path)) == name
    assert collection_name(name, "images") == f"{name}_images"


def test_a_folder_keeps_what_is_after_a_dot(tmp_path: Path) -> None:
    (tmp_path / "v1.2").mkdir()
    assert name_of(tmp_path / "v1.2") == "v1.2"
