"""Our scores against `eccv-caption`, an independent implementation, on the real ids of the Karpathy test split."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from conftest import plain_spec

from eval.extended.eccv import extended_scores
from eval.extended.folds import fold_metrics
from eval.protocol import Evaluation, Side, both_tasks
from eval.ranks.oracle import oracle_ranks
from search.index import Where

pytest.importorskip("eccv_caption")

Matrix = npt.NDArray[np.float32]
KEPT = 300  # of a ranked list: enough for every R
KEPT_FOR_FOLDS = 6000  # the whole gallery of images, and so many captions that every fold has ten


def real_ids() -> tuple[list[int], list[int], dict[int, int]]:
    """The 5,000 image ids and 25,000 caption ids in the order of the annotation file, and the image of each caption."""
    data = resources.files("eccv_caption") / "data"
    image_of = {
        int(caption): int(images[0])
        for caption, images in json.loads((data / "original_caption_to_image.json").read_text()).items()
    }
    with resources.as_file(data / "coco_test_ids.npy") as file:
        captions = np.load(file).tolist()
    return list(dict.fromkeys(image_of[caption] for caption in captions)), captions, image_of


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


def ranked(
    queries: Matrix, gallery: Matrix, query_ids: list[int], gallery_ids: list[int], kept: int = KEPT
) -> dict[int, list[int]]:
    ids, kept = np.array(gallery_ids), min(kept, len(gallery_ids) - 1)
    lists = {}
    for start in range(0, len(queries), 500):
        scores = queries[start : start + 500].astype(np.float64) @ gallery.T.astype(np.float64)
        best = np.argpartition(-scores, kept, axis=1)[:, :kept]
        order = np.take_along_axis(best, np.argsort(-np.take_along_axis(scores, best, 1), axis=1), 1)
        lists.update(dict(zip(query_ids[start : start + 500], ids[order].tolist(), strict=True)))
    return lists


def evaluation(images: Matrix, captions: Matrix, ids: tuple[list[int], list[int]], image_of: Any) -> Evaluation:
    to_text, to_image = both_tasks(
        Side("images", np.array(ids[0]), images, Where()),
        Side("captions", np.array(ids[1]), captions, Where()),
        image_of,
    )
    return Evaluation(plain_spec(), ("test",), 5, to_text, to_image, image_of, [], [], 0, ())


@pytest.mark.parametrize("kind", ["structured", pytest.param("random", marks=pytest.mark.slow)])
def test_scores(kind: str) -> None:
    from eccv_caption import Metrics

    image_ids, caption_ids, image_of = real_ids()
    assert (len(image_ids), len(caption_ids)) == (5000, 25_000)
    row = {image_id: number for number, image_id in enumerate(image_ids)}
    image_row = np.array([row[image_of[caption]] for caption in caption_ids])
    images, captions = vectors(kind, image_row)
    ours = evaluation(images, captions, (image_ids, caption_ids), image_row)

    judge = Metrics()
    theirs: dict[str, Any] = judge.compute_all_metrics(
        ranked(images, captions, image_ids, caption_ids),
        ranked(captions, images, caption_ids, image_ids),
        target_metrics=("coco_5k_recalls", "cxc_recalls", "eccv_map_at_r", "eccv_rprecision", "eccv_r1"),
        Ks=(1, 5, 10),
        verbose=False,
    )
    more = extended_scores(ours)
    assert more is not None
    for task, name in zip(ours.tasks, ("i2t", "t2i"), strict=True):
        ranks = oracle_ranks(task).ranks
        for k in (1, 5, 10):
            assert np.mean(ranks <= k) == pytest.approx(theirs[f"coco_5k_r{k}"][name], abs=1e-9)
            assert more["cxc"][task.name][f"recall@{k}"] == pytest.approx(100 * theirs[f"cxc_r{k}"][name], abs=1e-7)
        for metric, their_name in (("map_at_r", "map_at_r"), ("r_precision", "rprecision"), ("recall@1", "r1")):
            assert more["eccv"][task.name][metric] == pytest.approx(100 * theirs[f"eccv_{their_name}"][name], abs=1e-7)
        assert (np.mean(ranks <= 1) > 0.05) == (kind == "structured")


@pytest.mark.slow
def test_the_average_of_five_folds() -> None:
    from eccv_caption import Metrics

    image_ids, caption_ids, image_of = real_ids()
    row = {image_id: number for number, image_id in enumerate(image_ids)}
    image_row = np.array([row[image_of[caption]] for caption in caption_ids])
    images, captions = vectors("structured", image_row)
    folds = fold_metrics(evaluation(images, captions, (image_ids, caption_ids), image_row))
    assert folds is not None
    theirs: dict[str, Any] = Metrics().compute_all_metrics(
        ranked(images, captions, image_ids, caption_ids, KEPT_FOR_FOLDS),
        ranked(captions, images, caption_ids, image_ids, KEPT_FOR_FOLDS),
        target_metrics=("coco_1k_recalls",),
        Ks=(1, 5, 10),
        verbose=False,
    )
    for direction, name in (("image-to-text", "i2t"), ("text-to-image", "t2i")):
        for k in (1, 5, 10):
            found = folds.scores[direction][f"recall@{k}"]
            assert found == pytest.approx(100 * theirs[f"coco_1k_r{k}"][name], abs=1e-7)
