"""Search and evaluation in a notebook: what is returned shows itself, and is a list, or an object, all the same."""

from __future__ import annotations

import copy
import json
import os
import pickle
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import numpy.typing as npt
import pytest
from conftest import Call, plain_spec, write_photo_set
from nbclient import NotebookClient
from running_web import make_index
from test_replay import related, store

from eval import Embeddings, measure
from eval.evaluate import Plan
from ingest.demo.tour import DATASET, MODEL, draw
from search import Caption, Hit, Hits, Image, Options, Part, Searcher
from search.errors import EvaluationError
from search.hits import SHOWN
from search.index import Points, open_for_writing
from search.index.edge.index import EdgeIndex
from search.records import KINDS
from search.settings import Settings

NOTEBOOK = Path(__file__).resolve().parents[1] / "docs/notebook.ipynb"


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photo_set(tmp_path_factory.mktemp("photos"), photos=60)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, photos: Path, clip_folder: Path) -> Path:
    return make_index(tmp_path_factory.mktemp("index"), photos, clip_folder)


def test_hits_are_a_list_that_shows_itself(folder: Path, photos: Path) -> None:
    with Searcher.open(Settings(index_path=folder)) as searcher:
        hits = searcher.image_id(100, k=3)
        captions = searcher.image_id(100, k=2, to="captions")
        assert captions._repr_html_().count("data:image/jpeg") == 2
    assert isinstance(hits, list)
    assert hits == list(hits) == pickle.loads(pickle.dumps(hits)) == copy.deepcopy(hits)
    assert [each["rank"] for each in json.loads(json.dumps(hits.as_json()))] == [1, 2, 3]
    assert isinstance(hits[:2], Hits)
    assert isinstance(hits[0], Hit)
    assert len({*hits, *hits[:2]}) == 3
    assert [each["rank"] for each in hits[1:].as_json()] == [2, 3]
    shown = hits[:2]._repr_html_()  # the index is closed
    assert shown.count("data:image/jpeg") == 2
    assert f"1 · {hits[0].score:.3f} · image {hits[0].image_id}" in shown
    assert f"3 · {hits[2].score:.3f} · image {hits[2].image_id}" in hits[2:]._repr_html_()

    record = hits[0].record
    assert isinstance(record, Image)
    file = photos / "images" / record.file
    content = file.read_bytes()
    file.unlink()
    try:
        assert "no such file" in hits._repr_html_()
        assert hits._repr_html_().count("data:image/jpeg") == 2
    finally:
        file.write_bytes(content)


def test_hits_show_their_photos_after_a_server_is_closed(
    local_grpc_server: tuple[int, int], photos: Path, dataset: str
) -> None:
    http_port, grpc_port = local_grpc_server
    settings = Settings(qdrant_url=f"http://127.0.0.1:{http_port}", qdrant_grpc_port=grpc_port)
    file = next((photos / "images").rglob("*.jpg"))
    spec = plain_spec(dataset=dataset, photos=str(file.parent))
    image = Image(id=1, split="test", order=0, file=file.name, url=None, captions=())
    caption = Caption(id=1, image_id=1, split="test", position=0, text="a dog", url=None)
    index = open_for_writing(settings)
    for record in (image, caption):
        of_kind = replace(spec, kind="images" if record is image else "captions")
        index.create(of_kind)
        index.upsert(of_kind.collection, Points([record], np.eye(1, 4, dtype=np.float32)))
    with Searcher(index, dataset) as searcher:
        images, captions = (searcher.search([Part(caption_id=1)], Options(to=kind)) for kind in KINDS)
    assert "data:image/jpeg" in images._repr_html_()
    assert "is closed" in captions._repr_html_()


def test_a_contact_sheet_is_bounded_and_escapes_text() -> None:
    record = Image(id=1, split="test", order=0, file="1.jpg", url=None, captions=())
    hits = Hits([Hit(1, 0.5, record, caption="<script>alert(1)</script>")] * 10_000)
    shown = hits._repr_html_()
    assert shown.count("<li") == SHOWN
    assert "and 9,950 more" in shown
    assert "<script>" not in shown
    assert "nothing found" in Hits()._repr_html_()


def arrays(images: int = 40) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(images, 16))
    image_of = np.repeat(np.arange(images), 2)
    return vectors, vectors[image_of] + rng.normal(size=(2 * images, 16)), image_of


def test_arrays_are_measured_as_an_index_is(tmp_path: Path) -> None:
    index = EdgeIndex(tmp_path / "index")
    store(index, plain_spec, *related(60, 6, 16, noise=2.0))
    of_index = measure(index, split="all", captions_per_image=None)
    assert [ranker.name for ranker in of_index.columns] == ["oracle", "qdrant-exact", "qdrant-served"]
    image_ids = [i for batch in index.scan("coco_images") for i in (r.id for r in batch.records)]
    row = {image_id: place for place, image_id in enumerate(image_ids)}
    batches = list(index.scan("coco_captions", vectors=True))
    image_of = [row[record.image_id] for batch in batches for record in batch.records]
    images = np.concatenate([batch.vectors for batch in index.scan("coco_images", vectors=True)])
    captions = np.concatenate([batch.vectors for batch in batches])
    of_arrays = measure(Embeddings(images * 3, captions.tolist(), image_of, model="mine"))
    assert of_arrays.scores == of_index.scores
    assert of_arrays.intervals.keys() == of_index.intervals.keys()
    assert (of_arrays.images, of_arrays.captions, of_arrays.model) == (60, 360, "mine")
    for metrics in (of_index, of_arrays):
        shown = metrics._repr_html_()
        assert "<th>oracle</th>" in shown
        assert f"{metrics.scores['text-to-image']['recall@1']:.2f}" in shown
    index.close()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"captions": np.ones((80, 8))}, "images have 16 dimensions, captions 8"),
        ({"image_of": np.zeros(80)}, "image_of must hold one row number for each of the 80 captions, not float64"),
        ({"image_of": np.zeros(3, dtype=int)}, "image_of must hold one row number"),
        ({"image_of": np.full(80, 40)}, "image_of holds 40, and the rows of the images are 0 to 39"),
        ({"image_of": np.zeros(80, dtype=int)}, "39 images have no caption, such as row 1"),
        ({"images": np.full((40, 16), np.nan)}, "row 0 of the images is not a usable vector"),
        ({"images": np.zeros((0, 16))}, "images must have the shape"),
        ({"texts": ["a dog"]}, "1 texts of 80 captions"),
        ({"captions": [[1.0, 2.0], [3.0]]}, "captions must be an array of numbers"),
        ({"images": [["a dog"]]}, "images must be an array of numbers"),
        ({"image_of": [[0], [1, 2]]}, "image_of must be an array of numbers"),
    ],
)
def test_arrays_that_do_not_fit_together(change: dict[str, Any], reason: str) -> None:
    given = dict(zip(("images", "captions", "image_of"), arrays(), strict=True))
    with pytest.raises(EvaluationError, match=re.escape(reason)):
        measure(Embeddings(**{**given, **change}))


def test_texts_add_the_scores_by_length() -> None:
    images, captions, image_of = arrays()
    texts = ["a dog", "a dog on a long white beach"] * 40
    metrics = measure(Embeddings(images, captions, image_of, texts=texts), plan=Plan(resamples=100))
    assert sum(group.queries for group in metrics.caption_lengths) == 80
    assert measure(Embeddings(images, captions, image_of), plan=Plan(resamples=100)).caption_lengths == []


def test_the_notebook_runs(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Embed what the first cell embeds: its own process then need not import PyTorch.
    source = ["--annotations", draw(tmp_path / "demo", 40), "--images", tmp_path / "demo/images", "--model", MODEL]
    assert call("ingest", "run", *source, "--dataset", DATASET, "--path", tmp_path / "demo-index")[0] == 0
    root = str(NOTEBOOK.parents[1])
    monkeypatch.setenv("PYTHONPATH", root)
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    notebook = nbformat.read(NOTEBOOK, as_version=4)  # type: ignore[no-untyped-call]
    client = NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}})
    client.execute(env={**os.environ})
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    pages = [output.data["text/html"] for output in outputs if "text/html" in output.get("data", {})]
    assert any("data:image/jpeg" in page for page in pages)
    assert any("<th>qdrant-exact</th>" in page for page in pages)
    assert not [output for output in outputs if output.output_type == "error"]
