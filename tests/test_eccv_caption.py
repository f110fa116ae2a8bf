"""Our recalls against `eccv-caption`, an independent implementation, on the real ids of the Karpathy test split."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from eval.metrics import recall_at_k
from eval.protocol import Side, Task
from eval.replay import oracle_ranks
from search.index import Where

eccv_caption = pytest.importorskip("eccv_caption")

Matrix = npt.NDArray[np.float32]
KEPT = 50  # of a ranked list: enough for recall@10


def real_ids() -> tuple[list[int], list[int], dict[int, int]]:
    """The 5,000 image ids, the 25,000 caption ids, and the image of each caption, as eccv-caption ships them."""
    text = (resources.files("eccv_caption") / "data/original_caption_to_image.json").read_text()
    image_of = {int(caption): int(images[0]) for caption, images in json.loads(text).items()}
    return sorted(set(image_of.values())), sorted(image_of), image_of


def vectors(kind: str, image_row: npt.NDArray[np.int64], dim: int = 64) -> tuple[Matrix, Matrix]:
    rng = np.random.default_rng(7)
    images = rng.normal(size=(5000, dim))
    if kind == "random":
        captions = rng.normal(size=(25_000, dim))
    else:  # captions around their image, in clusters: a retrieval task of realistic difficulty
        images = images + 3 * rng.normal(size=(80, dim))[rng.integers(0, 80, 5000)]
        captions = images[image_row] + 2.5 * rng.normal(size=(25_000, dim))
    return (
        (images / np.linalg.norm(images, axis=1, keepdims=True)).astype(np.float32),
        (captions / np.linalg.norm(captions, axis=1, keepdims=True)).astype(np.float32),
    )


def ranked(queries: Matrix, gallery: Matrix, query_ids: list[int], gallery_ids: list[int]) -> dict[int, list[int]]:
    ids = np.array(gallery_ids)
    lists = {}
    for start in range(0, len(queries), 500):
        scores = queries[start : start + 500].astype(np.float64) @ gallery.T.astype(np.float64)
        best = np.argpartition(-scores, KEPT, axis=1)[:, :KEPT]
        order = np.take_along_axis(best, np.argsort(-np.take_along_axis(scores, best, 1), axis=1), 1)
        lists.update(dict(zip(query_ids[start : start + 500], ids[order].tolist(), strict=True)))
    return lists


@pytest.mark.parametrize("kind", ["random", "structured"])
def test_5k_recalls(kind: str) -> None:
    image_ids, caption_ids, image_of = real_ids()
    assert (len(image_ids), len(caption_ids)) == (5000, 25_000)
    row = {image_id: number for number, image_id in enumerate(image_ids)}
    image_row = np.array([row[image_of[caption]] for caption in caption_ids])
    images, captions = vectors(kind, image_row)
    image_side = Side("images", np.array(image_ids), images, Where())
    caption_side = Side("captions", np.array(caption_ids), captions, Where())
    to_text = Task(
        "image-to-text",
        image_side,
        caption_side,
        np.argsort(image_row, kind="stable"),
        np.concatenate(([0], np.cumsum(np.bincount(image_row)))),
    )
    to_image = Task("text-to-image", caption_side, image_side, image_row, np.arange(25_001))

    judge = eccv_caption.Metrics()
    theirs: dict[str, Any] = judge.compute_all_metrics(
        ranked(images, captions, image_ids, caption_ids),
        ranked(captions, images, caption_ids, image_ids),
        target_metrics=("coco_5k_recalls",),
        Ks=(1, 5, 10),
        verbose=False,
    )
    for of, name in ((to_text, "i2t"), (to_image, "t2i")):
        ranks = oracle_ranks(of).ranks
        for k in (1, 5, 10):
            assert recall_at_k(ranks, k) / 100 == pytest.approx(theirs[f"coco_5k_r{k}"][name], abs=1e-9)
        assert (recall_at_k(ranks, 1) > 5) == (kind == "structured")
