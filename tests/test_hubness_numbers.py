"""The numbers `hubness`: how they are measured, from which references, written and copied."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import Call, one_line_error, plain_spec
from hubs import ALPHA, COUNT, DIM, MakeSpec, numbered, numbers_of
from points import image, unit

from eval.ranks.hnsw_check import used
from ingest.hubness import measure, store
from ingest.references import References
from ingest.transfer.copy import copy_collection, prepare
from search import Caption, Options, Searcher
from search.errors import QueryError
from search.index import Index, Points, SplitSize, Tuning
from search.index.edge.index import EdgeIndex
from search.records import Image


def test_numbers_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three images, and references at cosines 1, 0.8 and 0.6 of the first one."""
    monkeypatch.setattr("ingest.hubness.CELLS", 6)  # two images at a time
    index = EdgeIndex(tmp_path)
    spec = plain_spec(dim=2)
    index.create(spec)
    directions = np.array([[1, 0], [0, 1], [-1, 0]], dtype=np.float32)
    index.upsert("coco_images", Points([image(number) for number in (1, 2, 3)], directions))
    references = np.array([[0.6, 0.8], [1, 0], [0.8, 0.6]], dtype=np.float32)
    numbers = measure(index, "coco_images", references, 2)
    assert numbers.ids == [1, 2, 3]
    assert numbers.values == pytest.approx([0.9, 0.7, -0.7], abs=1e-6)
    assert measure(index, "coco_images", references, 9).k == 3

    stored = store(index, "coco_images", References(["a", "b", "c"], references, 4), numbers)
    assert index.spec("coco_images").hubness == stored
    assert (stored.points, stored.dropped, stored.complete) == (3, 4, True)
    assert stored.smallest == numbers.values[2]

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(EdgeIndex, "set_fields", killed)
        with pytest.raises(KeyboardInterrupt):
            store(index, "coco_images", References(["d"], references[:1], 0), numbers)
    now = index.spec("coco_images").hubness
    assert now is not None
    assert not now.complete
    index.close()


def test_the_hnsw_index_is_built_again(tmp_path: Path) -> None:
    """Writing the numbers moves all points out of it."""
    index = EdgeIndex(tmp_path)
    spec, vectors = plain_spec(dim=DIM), unit(300, DIM)
    index.create(spec, Tuning(index_everything=True))
    index.upsert(spec.collection, Points([image(each) for each in range(300)], vectors))
    index.optimize(spec.collection)
    references = References(["a dog"], unit(1, DIM, seed=1), 0)
    store(index, spec.collection, references, measure(index, spec.collection, references.vectors, 1))
    assert used(index, spec.collection, unit(20, DIM, seed=2)) == "hnsw"
    index.close()


def test_captions_of_a_split_as_references(call: Call, tmp_path: Path) -> None:
    """Nothing is encoded, and references with the same words as a caption of test are dropped."""
    index = EdgeIndex(tmp_path)
    sizes = {split: SplitSize(images=1, captions=3, images_in_file=1) for split in ("test", "train")}
    texts = {"test": ("A dog.", "two cats", "snow"), "train": ("a  DOG", "grass", "sky")}
    for kind in ("images", "captions"):
        index.create(plain_spec(kind=kind, splits=sizes))
    pictures = [image(number, split, texts[split]) for number, split in enumerate(texts)]
    index.upsert("coco_images", Points(pictures, unit(2)))
    said = [
        Caption(10 * each.id + place, each.id, each.split, place, text, None)
        for each in pictures
        for place, text in enumerate(each.captions)
    ]
    vectors = unit(6, seed=3)
    index.upsert("coco_captions", Points(said, vectors))
    index.close()
    code, out, err = call("ingest", "hubness", "--references", "train", "--path", tmp_path, "--json")
    assert code == 0, err
    assert (json.loads(out)["count"], json.loads(out)["dropped"]) == (2, 1)
    expected = (unit(2).astype(np.float64) @ vectors[4:].T.astype(np.float64)).mean(axis=1)
    assert list(numbers_of(tmp_path).values()) == pytest.approx(expected.tolist(), abs=1e-6)
    refused = one_line_error(call("eval", "run", "--split", "train", "--hubness", 0.5, "--path", tmp_path))
    assert "2 of 3 captions of split train are among the references" in refused
    for source, reason in (
        ("test", "all 3 are captions of val or test"),
        ("nowhere", "no such file, and no such split"),
    ):
        assert reason in one_line_error(call("ingest", "hubness", "--references", source, "--path", tmp_path))
    assert call("ingest", "hubness", "--path", tmp_path)[0] == 2


KILLED = """
import os, signal, sys
import ingest.hubness
from ingest.__main__ import main
from search.index.edge.index import EdgeIndex
ingest.hubness.POINTS_PER_WRITE = 10
method, left = sys.argv.pop(1), int(sys.argv.pop(1))
original = getattr(EdgeIndex, method)
def until_killed(self, *arguments):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    original(self, *arguments)
setattr(EdgeIndex, method, until_killed)
main()
"""


@pytest.mark.parametrize(("method", "calls"), [("set_fields", 3), ("set_spec", 1)])
def test_killed_while_writing(call: Call, tmp_path: Path, method: str, calls: int) -> None:
    """After half of the numbers were written, or all of them: only the whole of one measurement is ever used."""
    index = EdgeIndex(tmp_path)
    vectors, _ = numbered(index, plain_spec, alpha=ALPHA)
    sizes = {"train": SplitSize(images=1, captions=2, images_in_file=1)}
    index.create(plain_spec(kind="captions", dim=DIM, splits=sizes))
    said = [Caption(each, 0, "train", each, f"caption {each}", None) for each in range(2)]
    index.upsert("coco_captions", Points(said, unit(2, DIM, seed=3)))
    index.close()
    command = ["hubness", "--references", "train", "--path", str(tmp_path), "--json"]
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, method, str(calls), *command], capture_output=True, check=False
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr

    index = EdgeIndex(tmp_path)
    searcher = Searcher(index, "coco")
    assert searcher.search_vector(vectors[3], Options(k=1, hubness=0))[0].id == 3
    with pytest.raises(QueryError, match=r"run `python -m ingest hubness` again"):
        searcher.search_vector(vectors[3], Options())
    index.close()
    code, out, err = call("ingest", *command)
    assert code == 0, err
    assert json.loads(out)["alpha"] == ALPHA
    expected = (vectors.astype(np.float64) @ unit(2, DIM, seed=3).T.astype(np.float64)).mean(axis=1)
    assert list(numbers_of(tmp_path).values()) == pytest.approx(expected.tolist(), abs=1e-6)


def test_imported_vectors_are_measured_by_stored_captions_alone(call: Call, tmp_path: Path) -> None:
    said = {"test": ["Un café, s'il vous plaît.", "Two dogs."], "train": ["UN  CAFE\u0301 s'il vous plaît!", "A cat."]}
    entries = [
        {
            "filename": f"{split}.jpg",
            "imgid": number,
            "split": split,
            "sentences": [{"raw": text, "sentid": 2 * number + place} for place, text in enumerate(said[split])],
        }
        for number, split in enumerate(said)
    ]
    (tmp_path / "photos.json").write_text(json.dumps({"dataset": "coco", "images": entries}))
    vectors = unit(6, DIM)
    files = [tmp_path / "images.npz", tmp_path / "captions.npz"]
    for file, rows in zip(files, (vectors[:2], vectors[2:]), strict=True):
        np.savez(file, ids=np.arange(len(rows)), vectors=rows)
    options = ["--annotations", tmp_path / "photos.json", "--model-name", "EVA02-L", "--path", tmp_path / "index"]
    done = call("ingest", "import", "--image-vectors", files[0], "--caption-vectors", files[1], *options)
    assert done[0] == 0, done

    hubness = ["ingest", "hubness", *options[-2:], "--json", "--references"]
    code, out, err = call(*hubness, "train")
    assert code == 0, err
    assert (json.loads(out)["count"], json.loads(out)["dropped"]) == (1, 1)
    expected = vectors[:2].astype(np.float64) @ vectors[5]
    assert list(numbers_of(tmp_path / "index").values()) == pytest.approx(expected.tolist(), abs=1e-6)
    (tmp_path / "references.txt").write_text("a dog\n")
    refused = one_line_error(call(*hubness, tmp_path / "references.txt"))
    assert "imported vectors of EVA02-L" in refused
    assert "--references SPLIT" in refused


def test_a_copy_keeps_the_numbers(index: Index, make_spec: MakeSpec, tmp_path: Path) -> None:
    _, numbers = numbered(index, make_spec, alpha=ALPHA)
    collection = make_spec().collection
    target = EdgeIndex(tmp_path / "copy")
    prepare(index, target, [collection], None)
    copy_collection(index, target, collection)
    assert target.spec(collection).hubness == index.spec(collection).hubness
    for batch in target.scan(collection):
        assert [each.hubness for each in batch.records if isinstance(each, Image)] == numbers.tolist()
    target.upsert(collection, Points([replace(image(COUNT), hubness=0.5)], unit(1, DIM)))
    copy_collection(index, target, collection)
    mixed = target.spec(collection).hubness
    assert mixed is not None
    assert not mixed.complete  # the image that only the target has was measured by other references
    target.close()
