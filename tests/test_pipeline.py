"""What is embedded again and what is not, what users added to points, and inputs without a usable vector."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import qdrant_edge
from conftest import write_photo_set

from ingest.annotations import read_annotations
from ingest.pipeline import ingest
from ingest.progress import building_clock
from ingest.specs import collection_specs
from ingest.stages.run import RunOptions
from ingest.summary import Summary
from search.encoder.clip import ClipEncoder
from search.encoder.images import PendingVectors
from search.errors import IndexFailure
from search.index import Points, Where
from search.index.edge.index import EdgeIndex
from search.records import Caption, Image, Vectors

NOTE = {"note": {"by": "ann", "tags": ["tail", None, 2]}}
COLLECTIONS = ("coco_images", "coco_captions")
ODD_COLOUR, ODD_TEXT = (115, 167, 217), "Nobody can read this."


class WatchedEncoder(ClipEncoder):
    """Counts what it encodes; gives NaN for one photo and one text, always or only in half precision."""

    def __init__(self, model: Path, dtype: str, *, odd_in_float32: bool) -> None:
        self.photos = self.texts = 0
        self.odd_in_float32 = odd_in_float32
        super().__init__(str(model), device="cpu", dtype=dtype, batch_size=4)

    @property
    def _is_odd_now(self) -> bool:
        return self.odd_in_float32 or not str(self.model.dtype).endswith("float32")

    def start(self, photos: Any) -> PendingVectors:
        import torch

        self.photos += len(photos)
        vectors = super().start(photos).vectors()
        for row, photo in enumerate(photos):
            if tuple(np.asarray(photo)[0, 0]) == ODD_COLOUR and self._is_odd_now:
                vectors[row] = np.nan
        return PendingVectors([torch.from_numpy(vectors)])

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        self.texts += len(texts)
        return super().encode_texts(texts)

    def _embed_texts(self, texts: list[str]) -> Any:
        vectors = super()._embed_texts(texts)
        for row, text in enumerate(texts):
            if text == ODD_TEXT and self._is_odd_now:
                vectors[row] = np.nan
        return vectors


class Job:
    """A photo set that can be changed, and its ingestion into an embedded index."""

    def __init__(self, folder: Path, encoder: WatchedEncoder) -> None:
        self.annotations = write_photo_set(folder, photos=6) / "dataset_coco.json"
        self.images = folder / "images"
        self.index = EdgeIndex(folder / "index")
        self.encoder = encoder

    def change(self, edit: Callable[[list[dict[str, Any]]], object]) -> None:
        content = json.loads(self.annotations.read_text())
        edit(content["images"])
        self.annotations.write_text(json.dumps(content))

    def run(self, *, force: bool = False) -> tuple[int, int, int, int]:
        """Photos and captions embedded, photos and captions updated."""
        summary = self.summary = Summary()
        self.encoder.photos = self.encoder.texts = 0
        read = read_annotations(self.annotations, self.images)
        chosen = read.select(["all"])
        specs = collection_specs(read, chosen, self.images, self.encoder, "coco")
        ingest(self.index, specs, chosen, [self.encoder], RunOptions(2, force=force), summary)
        if not summary.failures and self.encoder.odd_in_float32:  # nothing was tried twice
            assert (self.encoder.photos, self.encoder.texts) == (summary.images.embedded, summary.captions.embedded)
        return summary.images.embedded, summary.captions.embedded, summary.images.updated, summary.captions.updated

    def stored(self, collection: str) -> tuple[list[Image | Caption], Vectors]:
        batches = list(self.index.scan(collection, vectors=True))
        vectors = [batch.vectors for batch in batches if batch.vectors is not None]
        return [record for batch in batches for record in batch.records], np.concatenate(vectors)


@pytest.fixture(scope="module")
def encoder(clip_folder: Path) -> WatchedEncoder:
    return WatchedEncoder(clip_folder, "float32", odd_in_float32=True)


@pytest.fixture
def job(tmp_path: Path, encoder: WatchedEncoder) -> Iterator[Job]:
    made = Job(tmp_path, encoder)
    yield made
    made.index.close()


def test_nothing_is_embedded_again_whose_content_is_unchanged(job: Job) -> None:
    assert job.run() == (6, 30, 0, 0)
    for collection in COLLECTIONS:
        records, vectors = job.stored(collection)
        job.index.upsert(collection, Points([replace(record, extra=NOTE) for record in records], vectors))
    before = {collection: job.stored(collection)[1] for collection in COLLECTIONS}

    def check() -> None:
        """The next run has nothing to do, and nothing but what was asked for has changed."""
        assert job.run() == (0, 0, 0, 0)
        for collection in COLLECTIONS:
            records, vectors = job.stored(collection)
            assert all(record.extra == NOTE and not record.stale for record in records)
            np.testing.assert_allclose(vectors, before[collection], atol=1e-5)

    def rename_folder(entries: list[dict[str, Any]]) -> None:
        (job.images / "val2014").rename(job.images / "pictures")
        for entry in entries:
            entry["filepath"] = "pictures"

    def rename_photo(entries: list[dict[str, Any]]) -> None:
        (job.images / "pictures" / entries[0]["filename"]).rename(job.images / "pictures/other.jpg")
        entries[0]["filename"] = "other.jpg"

    job.change(lambda entries: entries.reverse())
    assert job.run() == (0, 0, 6, 0)
    check()
    job.change(rename_folder)
    assert job.run() == (0, 0, 6, 30)
    assert all("url" not in record.payload() for collection in COLLECTIONS for record in job.stored(collection)[0])
    check()
    job.change(rename_photo)
    assert job.run() == (0, 0, 1, 0)
    check()
    job.change(lambda entries: [entry.update(split="dev") for entry in entries])
    assert job.run() == (0, 0, 6, 30)
    for collection in COLLECTIONS:
        assert set(job.index.spec(collection).splits) == {"dev"}
        assert job.index.count(collection, where=Where(splits=("dev",))) == job.index.count(collection)
    check()
    for file in list((job.images / "pictures").iterdir()):  # the same photos, with new times
        os.utime(file, ns=(1, 1))
    assert job.run() == (0, 0, 0, 0)
    assert all(isinstance(record, Image) and record.photo and record.photo.modified == 1
               for record in job.stored("coco_images")[0])  # fmt: skip
    check()

    job.change(lambda entries: entries[2]["sentences"][1].update(raw="Corrected."))
    assert job.run() == (0, 1, 1, 0)
    before["coco_captions"] = job.stored("coco_captions")[1]
    [corrected] = [record for record in job.stored("coco_captions")[0]
                   if isinstance(record, Caption) and record.text == "Corrected."]  # fmt: skip
    assert corrected.position == 1
    check()

    job.run(force=True)
    assert (job.encoder.photos, job.encoder.texts) == (6, 30)
    check()


def test_another_photo_of_the_same_size_and_time_is_embedded(job: Job) -> None:
    first, second = (job.images / "val2014" / f"COCO_val2014_{number:012d}.bmp" for number in (100, 101))
    for file, colour in ((first, "red"), (second, "blue")):
        PIL.Image.new("RGB", (64, 48), colour).save(file)
        os.utime(file, ns=(10**18, 10**18))

    def name_them(entries: list[dict[str, Any]], names: Sequence[str]) -> None:
        for entry, name in zip(entries, names, strict=False):
            entry["filename"] = name

    job.change(lambda entries: name_them(entries, [first.name, second.name]))
    job.run()
    job.change(lambda entries: name_them(entries, [second.name, first.name]))
    assert job.run()[:2] == (2, 0)
    other = job.images.parent / "elsewhere"
    shutil.copytree(job.images, other)
    shutil.copy2(first, other / "val2014" / second.name)
    job.images = other
    assert job.run()[:2] == (1, 0)


def test_points_without_a_hash_are_embedded_once_more(job: Job) -> None:
    job.run()
    records, vectors = job.stored("coco_images")
    old = [replace(record, photo=None) for record in records[:2] if isinstance(record, Image)]
    job.index.upsert("coco_images", Points(old, vectors[:2]))
    assert job.run() == (2, 0, 0, 0)
    assert job.run() == (0, 0, 0, 0)


@pytest.mark.parametrize("fatal", [1, 2, 3])
def test_a_vector_is_never_taken_for_that_of_other_content(
    job: Job, monkeypatch: pytest.MonkeyPatch, fatal: int
) -> None:
    """A run ends between two of the writes that replace a point; then the content is as it was before."""
    job.run()
    before = {collection: job.stored(collection) for collection in COLLECTIONS}
    writes = 0

    def counted(method: str) -> None:
        real = getattr(EdgeIndex, method)

        def write(self: EdgeIndex, collection: str, written: Any) -> None:
            nonlocal writes
            writes += 1
            if writes == fatal:
                raise IndexFailure("killed")
            real(self, collection, written)

        monkeypatch.setattr(EdgeIndex, method, write)

    files = sorted((job.images / "val2014").iterdir())
    content, times = files[0].read_bytes(), files[0].stat()
    shutil.copyfile(files[2], files[0])
    for method in ("set_payload", "set_vectors"):
        counted(method)
    with pytest.raises(IndexFailure, match="killed"):
        job.run()
    monkeypatch.undo()
    files[0].write_bytes(content)
    os.utime(files[0], ns=(times.st_atime_ns, times.st_mtime_ns))

    assert job.run()[0] == (fatal > 1)
    for collection in COLLECTIONS:
        records, vectors = job.stored(collection)
        assert records == before[collection][0]
        np.testing.assert_allclose(vectors, before[collection][1], atol=1e-5)


def test_a_note_typed_while_its_point_is_replaced_stays(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    job.run()
    real = EdgeIndex.set_vectors

    def set_vectors(self: EdgeIndex, collection: str, points: Points) -> None:
        note = qdrant_edge.UpdateOperation.set_payload([points.records[0].id], NOTE)
        self._shard(collection).update(note)
        real(self, collection, points)

    monkeypatch.setattr(EdgeIndex, "set_vectors", set_vectors)
    file = min((job.images / "val2014").iterdir())
    PIL.Image.new("RGB", (60, 60), "red").save(file)
    job.change(lambda entries: entries[1]["sentences"][0].update(raw="Another text."))
    assert job.run() == (1, 1, 1, 0)
    assert job.stored("coco_images")[0][0].extra == NOTE
    [caption] = [record for record in job.stored("coco_captions")[0] if record.extra]
    assert isinstance(caption, Caption)
    assert caption.text == "Another text."


def make_odd(job: Job) -> None:
    PIL.Image.new("RGB", (64, 64), ODD_COLOUR).save(min((job.images / "val2014").iterdir()), "PNG")
    job.change(lambda entries: entries[1]["sentences"][2].update(raw=ODD_TEXT))


def test_what_the_model_gives_no_vector_for_is_listed(job: Job) -> None:
    make_odd(job)
    assert job.run() == (5, 29, 0, 0)
    photo, caption = [failure.as_json() for failure in job.summary.failures]
    assert (photo["image_id"], photo["stage"], photo["file"]) == (
        100,
        "encode",
        "val2014/COCO_val2014_000000000100.jpg",
    )
    assert (caption["image_id"], caption["caption_id"], caption["stage"]) == (101, 12, "encode")
    assert "caption_id" not in photo
    assert job.run() == (0, 0, 0, 0)
    assert len(job.summary.failures) == 2


def test_what_only_half_precision_has_no_vector_for_is_embedded(tmp_path: Path, clip_folder: Path) -> None:
    job = Job(tmp_path, WatchedEncoder(clip_folder, "bfloat16", odd_in_float32=False))
    make_odd(job)
    assert job.run() == (6, 30, 0, 0)
    assert job.encoder.dtype == str(job.encoder.model.dtype).removeprefix("torch.") == "bfloat16"
    [vector] = [v for record, v in zip(*job.stored("coco_captions"), strict=True) if record.id == 12]
    expected = ClipEncoder(str(clip_folder), device="cpu").encode_texts([ODD_TEXT])[0]
    assert vector @ expected > 0.99
    job.index.close()


def test_building_an_index_shows_the_time_and_the_vectors(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with building_clock("coco_images", 123_287) as report:  # an index that is built already is found to be so at once
        report(1)
    assert capfd.readouterr().err == ""
    monkeypatch.setattr("ingest.progress.ANNOUNCE_AFTER", 0)
    with building_clock("coco_images", 123_287) as report:
        report(20_000)
        time.sleep(0.1)
    lines = capfd.readouterr().err.replace("\r", "\n")
    assert "building the index of coco_images, 123,287 points: 00:00" in lines
    assert "20,000 vectors indexed" in lines
