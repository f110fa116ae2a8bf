"""Tables for papers, and more than two runs side by side."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from conftest import Call
from test_compare import METRICS_FILE, results

from eval.compare import compare_all
from eval.metrics import METRICS
from eval.report.comparison import all_as_json, rows, table_of_all
from eval.report.export import Scored, render
from eval.runs import Run, RunMetrics, write_run

RECALL_SUM = METRICS[-1]
BEFORE = Path(__file__).parent / "run-0.1.0"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    """A bad, a good and a slightly worse than good run of 60 images with 5 captions each."""
    rng = np.random.default_rng(5)
    images, captions = rng.integers(1, 20, 60), rng.integers(1, 20, 300)
    found = []
    for name, times in (("bad_4", 4), ("good", 1), ("fair", 1)):
        of_images, of_captions = times * images, times * captions
        of_captions[:3] += 12 * (name == "fair")
        ranked = results(of_images.tolist(), of_captions.tolist())
        intervals = {way: {"recall@5": (10.0, 30.0)} for way in ("image-to-text", "text-to-image")}
        metrics = RunMetrics.model_validate({**METRICS_FILE, "images": 60, "captions": 300, "intervals": intervals})
        folder = tmp_path_factory.mktemp("runs") / name
        write_run(folder, metrics, ranked)
        found.append(Run(folder, metrics, ranked))
    return found


def test_three_runs(runs: list[Run]) -> None:
    found = compare_all(runs, resamples=100, randomisations=100)
    assert found.comparisons == 3 * 2 * len(METRICS)
    smallest = sum(
        difference.p == 1 / (1 + pair.randomisations)
        for pair in found.pairs.values()
        for direction in pair.directions
        for difference in direction.differences
    )
    assert smallest > 4
    for pair in found.pairs.values():  # one family: the smallest p of all is adjusted for all
        for direction in pair.directions:
            for difference in direction.differences:
                assert difference.p_holm >= min(1, (found.comparisons - smallest + 1) * difference.p) - 1e-12
    names = [row.name[0] for row in rows(found, RECALL_SUM)]
    assert names == ["B", "C", "A"]
    better = {letter: found.better_than(letter)["text-to-image"].get("recall@5", "") for letter in "ABC"}
    assert better == {"A": "", "B": "A", "C": "A"}
    table = table_of_all(found, RECALL_SUM)
    best = next(line for line in table.splitlines() if line.startswith("B") and " A" in line)
    assert best.split()[1].endswith("good")
    as_json = json.loads(json.dumps(all_as_json(found, RECALL_SUM)))
    assert list(as_json["runs"]) == names
    assert [(pair["a"], pair["b"]) for pair in as_json["pairs"]] == [("A", "B"), ("A", "C"), ("B", "C")]


def test_the_formats_hold_the_same(call: Call, runs: list[Run]) -> None:
    folders = [run.folder for run in runs]

    def printed(style: str) -> str:
        code, out, err = call("eval", "compare", *folders, "--resamples", 100, "--format", style, "--sort", "mean_rank")
        assert code == 0, err
        return out

    latex, markdown = printed("latex"), printed("markdown")
    table = list(csv.DictReader(io.StringIO(printed("csv"))))
    assert [row["name"][0] for row in table] == ["B", "C", "A"]
    assert set(METRIC_COLUMNS) <= set(table[0])
    for row in table:
        recall = float(row["image-to-text recall@5"])
        letters = row["image-to-text recall@5 better than"]
        assert (row["image-to-text recall@5 low"], row["image-to-text recall@5 high"]) == ("10.0", "30.0")
        marked = rf"{recall:.2f}\textsuperscript{{{letters}}}" if letters else f"{recall:.2f}"
        (line,) = [line for line in latex.splitlines() if line.startswith(row["name"][0] + " ")]
        assert f" {marked} &" in line
        assert line.endswith(rf"& {float(row['rsum']):.2f} \\")
        marked = f"{recall:.2f}<sup>{letters}</sup>" if letters else f"{recall:.2f}"
        assert f"| {marked} (10.0\N{EN DASH}30.0) |" in markdown
    assert r"bad\_4" in latex
    assert all(rule in latex for rule in (r"\toprule", r"\midrule", r"\bottomrule", "{\\scriptsize 10.0--30.0}"))
    cells = {line.count("&") for line in latex.splitlines() if line.endswith(r"\\") and "multicolumn" not in line}
    assert len(cells) == 1
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in markdown.splitlines() if line.startswith("|")}) == 1


METRIC_COLUMNS = [f"{way} {metric.name}" for way in ("image-to-text", "text-to-image") for metric in METRICS]


def test_odd_names_and_unknown_scores() -> None:
    odd = Scored("a|b_c & 50% <x>", {"image-to-text": {"recall@1": None}})
    assert r"a$|$b\_c \& 50\% $<$x$>$ & -- & --" in render([odd], "latex", "")
    assert r"| a\|b\_c & 50% \<x\> | - | - |" in render([odd], "markdown", "").replace("\N{EN DASH}", "-")
    (row,) = csv.DictReader(io.StringIO(render([odd], "csv", "")))
    assert (row["name"], row["image-to-text recall@1"], row["rsum"]) == (odd.name, "", "")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([BEFORE], "2 to 26 runs"),
        ([BEFORE] * 27, "2 to 26 runs"),
        ([BEFORE, BEFORE, "--sort", "magic"], "choose one of recall@1, "),
        ([BEFORE, BEFORE, "--json", "--format", "csv"], "choose one of them"),
        ([BEFORE, BEFORE, "--format", "html"], "html"),
    ],
)
def test_wrong_usage_of_compare(call: Call, options: list[object], message: str) -> None:
    code, out, err = call("eval", "compare", *options)
    assert (code, out) == (2, "")
    assert message in " ".join(err.replace("│", " ").split())


def test_a_run_in_a_format(call: Call, tmp_path: Path) -> None:
    from conftest import plain_spec
    from test_replay import related, store

    from search.index.edge.index import EdgeIndex

    index = EdgeIndex(tmp_path)
    store(index, plain_spec, *related(20, 5, 16, noise=2.0))
    index.close()
    code, out, err = call("eval", "run", "--path", tmp_path, "--resamples", 100, "--format", "csv")
    assert code == 0, err
    oracle, exact, served = csv.DictReader(io.StringIO(out))
    assert [row["name"] for row in (oracle, exact, served)] == ["oracle", "qdrant-exact", "qdrant-served"]
    low, high = (float(oracle[f"text-to-image recall@1 {end}"]) for end in ("low", "high"))
    assert low <= float(oracle["text-to-image recall@1"]) <= high
    assert (exact["text-to-image recall@1 low"], served["image-to-text mean_average_precision"]) == ("", "")
    assert 0 < float(served["rsum"]) <= 600
