"""The rendered data set: what a newcomer finds on disk, and the promises about seeds and splits."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ingest.demo.scenes.captions import captions
from ingest.demo.scenes.drawing import THINGS, paint
from ingest.demo.scenes.render import render
from ingest.demo.scenes.world import KINDS, SETTINGS, SPLITS, compose, stream

IMAGES, OTHERS = 24, 4


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The annotation file of a small data set."""
    return render(tmp_path_factory.mktemp("scenes"), IMAGES, others=OTHERS)


@pytest.fixture(scope="module")
def described(rendered: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(rendered.read_text())
    return content


def picture_paths(annotations: Path, described: dict[str, Any]) -> list[Path]:
    return [annotations.parent / "images" / image["filepath"] / image["filename"] for image in described["images"]]


def test_writes_karpathys_layout(described: dict[str, Any]) -> None:
    assert described["dataset"] == "scenes"  # not "coco": nobody must make official addresses of these pictures
    for place, image in enumerate(described["images"]):
        assert set(image) == {"filepath", "sentids", "filename", "imgid", "split", "sentences", "cocoid"}
        assert image["imgid"] == place
        assert image["filepath"] == ("train2014" if image["split"] == "train" else "val2014")
        assert image["filename"] == f"COCO_{image['filepath']}_{image['cocoid']:012d}.jpg"
        assert image["sentids"] == [sentence["sentid"] for sentence in image["sentences"]]
        for sentence in image["sentences"]:
            assert set(sentence) == {"tokens", "raw", "imgid", "sentid"}
            assert sentence["imgid"] == place
            assert sentence["tokens"] == re.findall("[a-z0-9]+", sentence["raw"].lower())


def test_each_split_has_the_number_asked_for(described: dict[str, Any]) -> None:
    counts = Counter(image["split"] for image in described["images"])
    assert counts == {"test": IMAGES, "train": OTHERS, "val": OTHERS, "restval": OTHERS}


def test_ids_are_unique(described: dict[str, Any]) -> None:
    ids = [image["cocoid"] for image in described["images"]]
    sentence_ids = [sentid for image in described["images"] for sentid in image["sentids"]]
    assert len(set(ids)) == len(ids)
    assert len(set(sentence_ids)) == len(sentence_ids) == 5 * len(ids)


def test_every_picture_is_a_jpeg_of_ordinary_size(rendered: Path, described: dict[str, Any]) -> None:
    sizes = set()
    for path in picture_paths(rendered, described):
        with Image.open(path) as image:
            assert (image.format, image.mode) == ("JPEG", "RGB")
            sizes.add(image.size)
            assert image.reduce(8).getcolors(40) is None, f"{path} shows hardly anything"
    assert any(width > height for width, height in sizes)
    assert any(width < height for width, height in sizes)
    assert all(330 <= side <= 640 for size in sizes for side in size)


def test_the_five_captions_of_a_scene_differ(described: dict[str, Any]) -> None:
    for image in described["images"]:
        assert len({" ".join(sentence["tokens"]) for sentence in image["sentences"]}) == 5


def test_captions_are_correct_english() -> None:
    for number in range(400):
        for caption in captions(compose(5, number)):
            assert re.fullmatch(r"[A-Z][A-Za-z ,]+\.?", caption), caption
            assert not re.search(r"\b[Aa] (?!ufo|uni|one)[aeiou]|\b[Aa]n [^aeiou]|\b(\w+) \1\b| ,|  ", caption), caption


def test_every_kind_of_thing_and_setting_turns_up() -> None:
    scenes = [compose(0, number) for number in range(1500)]
    assert {thing.kind for scene in scenes for thing in scene.things} == set(KINDS) == set(THINGS)
    assert {(scene.setting, scene.mood) for scene in scenes} == {
        (name, mood) for name, setting in SETTINGS.items() for mood in setting.moods
    }


def test_the_picture_does_not_cut_things_off() -> None:
    for number in range(300):
        assert all(0.02 < thing.x < 0.98 and 0.1 < thing.y < 1.0 for thing in compose(2, number).things)


def test_same_seed_same_bytes(rendered: Path, tmp_path: Path) -> None:
    again = render(tmp_path, IMAGES, others=OTHERS, workers=1)
    assert again.read_bytes() == rendered.read_bytes()
    described = json.loads(again.read_text())
    for first, second in zip(picture_paths(rendered, described), picture_paths(again, described), strict=True):
        assert first.read_bytes() == second.read_bytes()


def test_scenes_are_the_ones_that_the_published_scores_are_about() -> None:
    scene = compose(0, 1)
    assert scene.content == "desert; rainbow; blue ball; blue rocket; purple car; white balloon"
    assert captions(scene)[:2] == [
        "Little blue rocket, white hot air balloon and purple car in the desert.",
        "A desert under a rainbow, with a white hot air balloon.",
    ]


def test_another_seed_gives_other_scenes() -> None:
    first = {scene.content for scene in stream(0, {"test": 200})}
    second = {scene.content for scene in stream(1, {"test": 200})}
    assert len(first & second) < 10


def test_no_scene_is_in_two_splits_or_twice_in_one() -> None:
    counts = dict.fromkeys(SPLITS, 300)
    scenes = [scene for seed in (0, 1) for scene in stream(seed, counts)]
    homes: dict[str, set[str]] = {}
    for scene in scenes:
        homes.setdefault(scene.content, set()).add(scene.split)
    assert all(len(splits) == 1 for splits in homes.values())
    assert len({scene.content for scene in scenes if scene.seed == 0}) == 4 * 300


def test_a_killed_render_is_completed(rendered: Path, tmp_path: Path) -> None:
    annotations = render(tmp_path, IMAGES, others=OTHERS)
    whole = json.loads(annotations.read_text())
    paths = picture_paths(annotations, whole)
    untouched = paths[3].stat().st_mtime_ns
    annotations.unlink()
    paths[0].unlink()
    paths[1].write_bytes(paths[1].read_bytes()[:20])
    render(tmp_path, IMAGES, others=OTHERS)
    assert annotations.read_bytes() == rendered.read_bytes()
    for path, good in zip(paths, picture_paths(rendered, whole), strict=True):
        assert path.read_bytes() == good.read_bytes()
    assert paths[3].stat().st_mtime_ns == untouched


def test_pictures_of_another_seed_are_drawn_again(tmp_path: Path) -> None:
    render(tmp_path, 6, seed=1, others=0)
    annotations = render(tmp_path, 6, seed=2, others=0)
    fresh = render(tmp_path / "fresh", 6, seed=2, others=0)
    described = json.loads(annotations.read_text())
    for path, good in zip(picture_paths(annotations, described), picture_paths(fresh, described), strict=True):
        assert path.read_bytes() == good.read_bytes()


def test_progress_counts_up_to_the_total(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    render(tmp_path, 20, others=1, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (23, 23)
    assert seen == sorted(seen)


def test_a_negative_number_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="fewer than 0"):
        render(tmp_path, -1)


def test_edges_are_smooth() -> None:
    scene = compose(0, 3)
    rough, smooth = (np.asarray(paint(scene, supersample)).reshape(-1, 3) for supersample in (1, 2))
    assert len(np.unique(smooth, axis=0)) > len(np.unique(rough, axis=0))
