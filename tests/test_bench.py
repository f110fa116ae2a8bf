"""The bench commands, end to end on small sizes: times are the machine's, but what is compared must be equal."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import Call, one_line_error

from eval.bench import evaluation, vectors
from eval.bench.measure import Measured, measure
from search.errors import CocoSearchError, EvaluationError


def hundred_mebibytes(fill: int) -> int:
    return int(np.full(100 * 2**20, fill, dtype=np.uint8)[-1])


def broken(_: int) -> int:
    raise ValueError("on purpose")


def test_a_contestant_has_a_process_and_a_peak_of_its_own() -> None:
    ours = np.ones(400 * 2**20, dtype=np.uint8)  # which the contestant must not be charged with
    found = measure(hundred_mebibytes, 7)
    assert ours[-1] == 1
    assert (found.name, found.found) == ("hundred_mebibytes", 7)
    assert 100 < found.peak_mib < 400


def test_a_contestant_that_fails_is_named(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(CocoSearchError, match="broken failed"):
        measure(broken, 0)
    assert "on purpose" in capfd.readouterr().err


def test_vectors_are_the_same_in_every_process_and_in_blocks() -> None:
    whole = vectors.images(2500, 16)
    assert np.array_equal(np.concatenate(list(vectors.image_blocks(2500, 16))), whole)
    assert np.linalg.norm(whole, axis=1) == pytest.approx(1, abs=1e-5)
    assert not np.array_equal(vectors.images(2500, 16, seed=1), whole)
    near = vectors.captions_of(whole, np.arange(2500))
    assert (near * whole).sum(axis=1).mean() > 5 * abs((near * whole[::-1]).sum(axis=1).mean())


@pytest.mark.slow
def test_ingest(call: Call, photo_set: Path, clip_folder: Path) -> None:
    options = ["--images", photo_set / "images", "--model", clip_folder, "--count", 4, "--rounds", 1, "--device", "cpu"]
    code, out, err = call("eval", "bench", "ingest", *options, "--json")
    assert code == 0, err
    found = json.loads(out)
    assert list(found) == ["pipeline", "plain_loop", "forward_alone", "decoding_alone", "captions"]
    assert all(set(run) == {"name", "rate", "peak_mib"} and run["rate"] > 0 for [run] in found.values())


def test_ingest_says_what_it_lacks(call: Call, photo_set: Path, tmp_path: Path) -> None:
    assert "no .jpg files" in one_line_error(call("eval", "bench", "ingest", "--images", tmp_path))
    images = photo_set / "images"
    assert "nowhere" in one_line_error(call("eval", "bench", "ingest", "--images", images, "--model", "./nowhere"))


def test_eval(call: Call) -> None:
    small = ["--images", 60, "--captions-per-image", 3, "--dim", 16, "--rounds", 2]
    code, out, err = call("eval", "bench", "eval", *small)
    assert code == 0, err
    assert out.startswith("60 images, 180 captions of 16 dimensions")
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines()}
    assert rows["oracle"][2] == "1.00"
    assert len(rows["full_matrix"]) == 3
    assert "eccv_caption" not in rows  # which knows COCO's test split and no other

    code, out, err = call("eval", "bench", "eval", *small, "--json")
    assert code == 0, err
    found = json.loads(out)
    assert [len(runs) for runs in found.values()] == [2, 2, 2]
    assert found["oracle"][0]["recalls"] == pytest.approx(found["full_matrix"][1]["recalls"])
    assert all(run["peak_mib"] > 10 for runs in found.values() for run in runs)


def test_eccv_caption_finds_the_same_recalls() -> None:
    pytest.importorskip("eccv_caption")
    job = evaluation.Job(5000, 5, 32)
    assert evaluation.eccv_caption in evaluation.contestants(job)
    assert evaluation.eccv_caption(job).recalls == pytest.approx(evaluation.oracle(job).recalls, abs=1e-6)


def test_contestants_that_disagree_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = {
        name: [Measured(name, evaluation.Found(1.0, recalls), 100.0)]
        for name, recalls in {"oracle": (30.0, 60.0), "full_matrix": (30.0, 60.2), "bootstrap": ()}.items()
    }
    monkeypatch.setattr(evaluation, "in_turn", lambda *_: wrong)
    with pytest.raises(EvaluationError, match="full_matrix"):
        evaluation.compare(evaluation.Job(1, 1, 2), 1)
