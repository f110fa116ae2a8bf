"""The TREC files of a run, read by ir_measures (trec_eval's own code)."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import ir_measures
import numpy as np
import pytest
from conftest import Call, plain_spec
from ir_measures import RR, R, Success, nDCG
from test_replay import related, store

from eval.trec import decreasing
from search.index.edge.index import EdgeIndex

MEASURES = {
    "recall@1": Success @ 1,
    "recall@5": Success @ 5,
    "recall@10": Success @ 10,
    "mrr": RR,
    "ndcg@10": nDCG @ 10,
}


@pytest.fixture(scope="module")
def hard_index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """240 images, many of them equal or an ulp apart: ties, which a tool would break by ids, and near ties."""
    folder = tmp_path_factory.mktemp("hard")
    images, captions = related(240, 5, 32, noise=2.0)
    images[60:120] = images[:60]
    steps = np.random.default_rng(1).integers(0, 2, (40, 32))
    images[120:160] = np.where(steps, np.nextafter(images[:1], np.float32(2)), images[:1])
    captions[::7] = captions[0]
    index = EdgeIndex(folder)
    store(index, plain_spec, images, captions)
    index.close()
    return folder


@pytest.mark.parametrize("depth", [100, 0])
def test_other_tools_get_our_scores(call: Call, hard_index: Path, tmp_path: Path, depth: int) -> None:
    options = ["--engine", "none", "--resamples", 100, *(["--trec-depth", 0] if not depth else [])]
    code, out, err = call("eval", "run", "--path", hard_index, "--out", tmp_path, "--json", *options)
    assert code == 0, err
    metrics = json.loads(out)
    assert metrics["pessimistic"]
    for direction, gallery in (("image-to-text", 600), ("text-to-image", 120)):
        qrels = list(ir_measures.read_trec_qrels(str(tmp_path / f"{direction}.qrels.txt")))
        run = list(ir_measures.read_trec_run(str(tmp_path / f"{direction}.run.txt")))
        assert len(run) == (depth or gallery) * len({entry.query_id for entry in qrels})
        for hit, following in pairwise(run):
            assert hit.query_id != following.query_id or np.float32(hit.score) > np.float32(following.score)
        scores = ir_measures.calc_aggregate([*MEASURES.values(), R @ 10], qrels, run)
        for name, measure in MEASURES.items():
            unknown = 1 / (depth + 1) if name == "mrr" and depth else 0  # a positive below the last hit counts nothing
            assert scores[measure] == pytest.approx(metrics[direction][name] / 100, abs=unknown + 1e-9), name
        assert scores[R @ 10] == pytest.approx(metrics["proportion"][direction]["proportion@10"] / 100)


def test_equal_scores_become_different_in_float32() -> None:
    scores = np.array([[0.5, 0.5, 0.5 - 1e-12, 0.25, 0, 0, -0.5, -0.5], [1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3]])
    strict = decreasing(scores)
    assert (np.diff(strict) < 0).all()
    assert strict == pytest.approx(scores, abs=1e-6)
    assert [float(f"{score:.9g}") for score in strict[0].tolist()] == pytest.approx(strict[0].tolist(), rel=1e-9)
