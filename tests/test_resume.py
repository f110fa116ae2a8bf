"""Ingestion killed, interrupted and taken up again: nothing is lost, nothing is done twice."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Call, ingest_options, write_photo_set

from search.index.edge.index import EdgeIndex
from search.records import Caption, Image, Vectors

PHOTOS = 48
# Children of this server start with everything heavy imported, so that a kill falls into the work, not the start.
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    ["sentence_transformers", "transformers.models.clip", "ingest.pipeline", "search.index.edge.index"]
)


def ingest_in_child(options: list[str], said: str) -> None:
    import torch

    from ingest.__main__ import main

    torch.set_num_threads(1)
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # the fork server may have inherited SIG_IGN
    sys.argv = ["ingest", *options]
    with Path(said).open("w") as stream, contextlib.redirect_stderr(stream), contextlib.redirect_stdout(stream):
        main()


def start(options: list[str], said: Path | str = os.devnull) -> BaseProcess:
    """Start `python -m ingest` in a session of its own; its output goes into the file `said`."""
    process = SERVER.Process(target=ingest_in_child, args=(options, str(said)), daemon=True)
    process.start()
    return process


@pytest.fixture
def one_thread() -> Iterator[None]:
    """The model is so small that threads would only wait for each other; and sums have one order, so equal bits."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def when_it_begins(path: Path) -> None:
    """Waits until the index is made, after the model is loaded."""
    while not (path / "coco_captions").exists():
        time.sleep(0.002)


def contents(path: Path) -> dict[str, dict[int, tuple[Image | Caption, bytes]]]:
    """Everything in an index: collection -> id -> record and the bytes of its vector."""
    index = EdgeIndex(path)
    found: dict[str, dict[int, tuple[Image | Caption, bytes]]] = {}
    for collection in index.collections():
        found[collection] = {}
        for batch in index.scan(collection, vectors=True):
            vectors: Vectors = np.empty(0, np.float32) if batch.vectors is None else batch.vectors
            for record, vector in zip(batch.records, vectors, strict=True):
                found[collection][record.id] = record, vector.tobytes()
    index.close()
    return found


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photo_set(tmp_path_factory.mktemp("photos"), photos=PHOTOS)


@pytest.mark.parametrize("kills", [2, pytest.param(25, marks=pytest.mark.slow)])
@pytest.mark.usefixtures("one_thread")
def test_killed_at_any_moment(call: Call, photos: Path, clip_folder: Path, tmp_path: Path, kills: int) -> None:
    def options(path: Path) -> list[str]:
        return [*ingest_options(photos, clip_folder, ["--path", str(path)]), "--batch-size", "2", "--json"]

    def run(path: Path) -> dict[str, Any]:
        code, out, err = call("ingest", *options(path))
        assert code == 0, err
        summary: dict[str, Any] = json.loads(out)
        return summary

    undisturbed = run(tmp_path / "undisturbed")
    embedding = sum(undisturbed["waits"].values())  # seconds
    expected = contents(tmp_path / "undisturbed")
    assert {name: len(points) for name, points in expected.items()} == {"coco_images": 48, "coco_captions": 240}

    dice = random.Random(0)
    in_the_middle = 0
    for number in range(kills):
        path = tmp_path / f"killed-{number}"
        process = start(options(path))
        if number:  # the first one is killed while it loads
            when_it_begins(path)
        time.sleep(dice.uniform(0, 1.2 * embedding))
        process.kill()
        process.join()
        survived = contents(path)
        for name, points in survived.items():
            assert points.items() <= expected[name].items()
        kept = {kind: len(survived.get(f"coco_{kind}", {})) for kind in ("images", "captions")}
        in_the_middle += 0 < sum(kept.values()) < 288

        summary = run(path)
        assert contents(path) == expected
        for kind, total in (("images", 48), ("captions", 240)):
            assert summary[kind] == {
                "embedded": total - kept[kind],
                "updated": 0,
                "already_there": kept[kind],
                "gone": 0,
                "pruned": 0,
            }
    assert in_the_middle >= kills // 5 - 1  # luck decides over single ones

    again = run(tmp_path / "undisturbed")
    assert again["images"]["embedded"] == again["captions"]["embedded"] == 0


def test_changed_photos_are_noticed_and_touched_ones_are_not(
    call: Call, tmp_path: Path, clip_folder: Path, place: list[str]
) -> None:
    photos = write_photo_set(tmp_path / "photos", photos=6)
    options = [*ingest_options(photos, clip_folder, place), "--json"]

    def embedded(*more: str) -> tuple[int, int]:
        code, out, _ = call("ingest", *options, *more)
        assert code == 0
        summary = json.loads(out)
        return summary["images"]["embedded"], summary["captions"]["embedded"]

    assert embedded() == (6, 30)
    assert embedded() == (0, 0)
    files = sorted((photos / "images/val2014").glob("*.jpg"))
    os.utime(files[0], ns=(1, 1))
    assert embedded() == (0, 0)
    shutil.copyfile(files[2], files[1])
    assert embedded() == (1, 0)
    assert embedded() == (0, 0)
    _, out, _ = call("search", "image", files[2], "--to", "images", "-k", 2, "--json", *place)
    assert [json.loads(line)["score"] for line in out.splitlines()] == pytest.approx([1, 1], abs=1e-4)
    assert embedded("--force") == (6, 30)


def test_control_c_stops_soon_and_says_how_to_go_on(photos: Path, clip_folder: Path, tmp_path: Path) -> None:
    options = [*ingest_options(photos, clip_folder, ["--path", str(tmp_path / "index")]), "--batch-size", "1"]
    stderr = tmp_path / "stderr"
    process = start(options, stderr)
    while not stderr.exists() or "images:" not in (said := stderr.read_text()) or " 0/48" in said.splitlines()[-1]:
        assert process.is_alive()
        time.sleep(0.002)
    assert process.pid
    os.killpg(process.pid, signal.SIGINT)
    process.join(timeout=10)
    said = stderr.read_text()
    assert process.exitcode == 130
    assert "interrupted: " in said
    assert "run the same command again to resume" in said
    assert "Traceback" not in said


def test_a_disk_that_is_full_ends_in_one_line(
    call: Call, photos: Path, clip_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ingest_options(photos, clip_folder, ["--path", str(tmp_path / "index")])
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("search.index.edge.index.shutil.disk_usage", lambda _: usage._replace(free=1000))
    code, _, err = call("ingest", *options)
    assert code == 1
    assert "free some space" in err
    assert "Traceback" not in err
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert call("ingest", *options)[0] == 0
