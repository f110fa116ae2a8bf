"""Runs on disk; `run-0.1.0` was written before the metrics were typed, by an evaluation of 4 images and 8 captions."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import PIL.Image
import pytest
from conftest import Call, one_line_error, plain_spec
from test_replay import related, store

from eval.report.page import report_page
from eval.runs import QueryResult, read_run, write_run
from search.errors import EvaluationError, PhotoError
from search.index.edge.index import EdgeIndex

BEFORE = Path(__file__).parent / "run-0.1.0"
FILES = ("metrics.json", "ranks.jsonl")


def no_photo(image_id: int) -> PIL.Image.Image:
    raise PhotoError(f"no photo of {image_id}")


def test_a_run_written_before_reads_and_writes_byte_for_byte(tmp_path: Path) -> None:
    run = read_run(BEFORE)
    write_run(tmp_path, run.metrics, run.results)
    for name in FILES:
        assert (tmp_path / name).read_bytes() == (BEFORE / name).read_bytes()
    assert run.metrics.scores["image-to-text"]["mean_rank"] == 1.5
    assert "hnsw ef=16" in report_page(run.metrics, run.results, lambda _kind, _ids: {}, no_photo)


def test_a_run_written_before_is_compared(call: Call) -> None:
    code, out, err = call("eval", "compare", BEFORE, BEFORE, "--resamples", 100)
    assert code == 0, err
    assert "text-to-image: 8 queries" in out
    assert re.search(r"^mAP +\d", out, re.MULTILINE)


def test_what_an_older_or_newer_run_holds_less_or_more(tmp_path: Path) -> None:
    """A run without average precisions is not compared by them; a field that is not known yet is kept."""
    metrics = json.loads((BEFORE / "metrics.json").read_text())
    (tmp_path / "metrics.json").write_text(json.dumps({"split": metrics["split"], "of_tomorrow": 1}))
    lines = [json.loads(line) for line in (BEFORE / "ranks.jsonl").read_text().splitlines()]
    for line in lines:
        del line["average_precision"]
        line["ndcg"] = 0.5
    (tmp_path / "ranks.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    run = read_run(tmp_path)
    assert (run.metrics.split, run.metrics.columns, run.metrics.images) == ("test", [], None)
    assert {name for result in run.results for name in result.recorded} == {"ndcg"}
    assert isinstance(run.results[0], QueryResult)


@pytest.mark.parametrize(
    ("metrics", "ranks"),
    [("{", ""), ("[]", ""), ('{"images": "many"}', ""), ("{}", "{}"), ("{}", '{"top": []}'), ("{}", "[]")],
)
def test_a_broken_run_is_said_in_one_line(call: Call, tmp_path: Path, metrics: str, ranks: str) -> None:
    (tmp_path / "metrics.json").write_text(metrics)
    (tmp_path / "ranks.jsonl").write_text(ranks)
    with pytest.raises(EvaluationError, match="broken run"):
        read_run(tmp_path)
    assert "broken run" in one_line_error(call("eval", "compare", tmp_path, tmp_path))


@pytest.mark.parametrize(
    ("field", "value"),
    [("rank", 0), ("rank", "a"), ("rank", None), ("rank", 1.5), ("rank", 10**20), ("score", "x"), ("positive", None)],
)
def test_a_broken_rank_is_said_in_one_line(tmp_path: Path, field: str, value: object) -> None:
    shutil.copytree(BEFORE, tmp_path / "run")
    ranks = tmp_path / "run/ranks.jsonl"
    first, *others = ranks.read_text().splitlines(keepends=True)
    ranks.write_text(json.dumps({**json.loads(first), field: value}) + "\n" + "".join(others))
    with pytest.raises(EvaluationError, match=r"holds a broken run \(ranks\.jsonl: "):
        read_run(tmp_path / "run")


def test_another_run_is_not_overwritten(call: Call, tmp_path: Path) -> None:
    index = EdgeIndex(tmp_path / "index")
    store(index, plain_spec, *related(20, 5, 16, noise=2.0))
    index.close()
    options = ["run", "--engine", "none", "--resamples", 100, "--path", tmp_path / "index", "--out", "out"]
    assert call("eval", *options)[0] == 0
    assert call("eval", *options)[0] == 0  # the same run again
    written = Path("out/metrics.json").read_bytes()
    error = one_line_error(call("eval", *options, "--split", "val"))
    assert "out holds another run: its split is test, not val" in error
    assert "--force" in error
    assert Path("out/metrics.json").read_bytes() == written
    assert call("eval", *options, "--split", "val", "--force")[0] == 0
    assert json.loads(Path("out/metrics.json").read_text())["split"] == "val"
    Path("out/metrics.json").write_text("{")
    assert "metrics.json is not of a run that can be read" in one_line_error(call("eval", *options))
