from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eval.compare import Comparison, compare, compare_folders
from eval.differences import Difference
from eval.fingerprint import differences
from eval.metrics import METRICS
from eval.report.comparison import as_json, table
from eval.runs import QueryResult, Run, RunMetrics, read_run, write_run
from search.errors import EvaluationError

NAMES = tuple(metric.name for metric in METRICS)
LABELS = tuple(metric.label for metric in METRICS)
COMPARISONS = 2 * len(METRICS)
METRICS_FILE = {"split": "test", "captions_per_image": 2, "images": 4, "captions": 8, "dataset": "coco"}


def result(direction: str, query: int, image_id: int, rank: int, text: str | None = None) -> QueryResult:
    return QueryResult(
        direction=direction,
        query=query,
        image_id=image_id,
        text=text or f"text of {query}",
        rank=rank,
        pessimistic_rank=rank,
        score=0.25,
        positive=1,
        recorded={metric.recorded: 1 / rank for metric in METRICS if metric.recorded},
        served_rank=None,
        top=(),
    )


def results(of_images: Sequence[int], of_captions: Sequence[int]) -> list[QueryResult]:
    """Ranks of images 100, 101, ... and of their captions 0, 1, ..., as many for each image."""
    each = len(of_captions) // len(of_images)
    return [result("image-to-text", 100 + i, 100 + i, rank) for i, rank in enumerate(of_images)] + [
        result("text-to-image", i, 100 + i // each, rank) for i, rank in enumerate(of_captions)
    ]


def written(folder: Path, ranked: list[QueryResult], **metrics: Any) -> Run:
    fields = {**METRICS_FILE, "model": f"model-{folder.name}", **metrics}
    write_run(folder, RunMetrics.model_validate(fields), ranked)
    return read_run(folder)


@pytest.fixture
def small(tmp_path: Path) -> tuple[Run, Run]:
    a = written(
        tmp_path / "a",
        results([1, 4, 20, 100], [1, 2, 3, 4, 10, 20, 30, 40]),
        fingerprint={"seed": 0, "encoder": {"dtype": "float32", "prompt": None}},
    )
    b = written(
        tmp_path / "b",
        results([1, 8, 2, 10], [1, 1, 3, 8, 5, 10, 30, 80]),
        fingerprint={"seed": 0, "encoder": {"dtype": "bfloat16"}, "new": True},
    )
    return a, b


def difference(found: Comparison, direction: str, metric: str) -> Difference:
    (of,) = [one for one in found.directions if one.name == direction]
    (wanted,) = [one for one in of.differences if one.metric.name == metric]
    return wanted


def test_by_hand(small: tuple[Run, Run]) -> None:
    found = compare(*small, resamples=200, randomisations=4000)
    values = {
        ("image-to-text", "recall@1"): (25, 25),
        ("image-to-text", "recall@5"): (50, 50),
        ("image-to-text", "recall@10"): (50, 100),
        ("image-to-text", "median_rank"): (12, 5),
        ("image-to-text", "mean_rank"): (125 / 4, 21 / 4),
        ("image-to-text", "mean_average_precision"): (25 * 1.31, 25 * 1.725),
        ("text-to-image", "recall@1"): (12.5, 25),
        ("text-to-image", "recall@10"): (62.5, 75),
        ("text-to-image", "median_rank"): (7, 6.5),
        ("text-to-image", "mean_rank"): (110 / 8, 138 / 8),
    }
    for (direction, metric), (in_a, in_b) in values.items():
        one = difference(found, direction, metric)
        assert (one.a, one.b, one.difference) == pytest.approx((in_a, in_b, in_b - in_a)), (direction, metric)
        assert one.interval[0] <= one.difference <= one.interval[1]
    assert [one.metric for one in found.directions[1].differences] == METRICS
    # Only two images gain in recall@10: of the 16 ways to swap, the 8 that leave both or swap both differ as much.
    assert difference(found, "image-to-text", "recall@10").p == pytest.approx(0.5, abs=0.04)
    # The ranks change by 0, +4, -18 and -90, by -104 in all: as much or more wherever -18 and -90 keep the same sign.
    assert difference(found, "image-to-text", "mean_rank").p == pytest.approx(0.5, abs=0.04)
    assert difference(found, "image-to-text", "recall@1").p == 1


def test_the_queries_that_changed_most(small: tuple[Run, Run]) -> None:
    images, captions = compare(*small, changed=2, resamples=10, randomisations=10).directions
    assert [(one.query, one.rank_a, one.rank_b) for one in images.improved] == [(102, 20, 2), (103, 100, 10)]
    assert [(change.query, change.text) for change in images.worsened] == [(101, "text of 101")]
    # Captions 1, 4 and 5 all halve their rank, 3 and 7 double theirs: the lower ids come first.
    assert [change.query for change in captions.improved] == [1, 4]
    assert [(change.query, change.image_id) for change in captions.worsened] == [(3, 101), (7, 103)]


def test_a_run_beside_itself(small: tuple[Run, Run]) -> None:
    found = compare(small[0], small[0], resamples=50, randomisations=50)
    for direction in found.directions:
        for one in direction.differences:
            assert (one.difference, one.interval, one.p, one.p_holm, one.better) == (0, (0, 0), 1, 1, None)
        assert direction.improved == direction.worsened == ()
    assert "no recorded setting differs" in table(found)


def test_the_order_in_the_files_does_not_matter(small: tuple[Run, Run], tmp_path: Path) -> None:
    a, b = small
    backwards = written(tmp_path / "backwards", b.results[::-1])
    forwards = compare(a, b, resamples=50, randomisations=50)
    assert compare(a, backwards, resamples=50, randomisations=50).directions == forwards.directions


def test_an_obvious_difference_is_found_and_no_other(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    of_images, of_captions = rng.integers(1, 40, 60), rng.integers(1, 40, 300)
    noise = rng.permutation(of_images)  # as good on the whole, image by image different
    folders = tmp_path / "worse", tmp_path / "better"
    for folder, images, captions in zip(folders, (of_images, noise), (3 * of_captions, of_captions), strict=True):
        write_run(folder, RunMetrics.model_validate(METRICS_FILE), results(images.tolist(), captions.tolist()))
    found = compare_folders(*folders, resamples=400, randomisations=1000)
    for metric in NAMES:
        if metric != "recall@1":  # three times a rank is never 1; its share is small
            one = difference(found, "text-to-image", metric)
            assert one.p == 1 / 1001
            assert one.p_holm <= COMPARISONS / 1001 + 1e-12
            assert one.better == "B"
            assert not one.interval[0] <= 0 <= one.interval[1]
        other = difference(found, "image-to-text", metric)
        assert other.p > 0.05
        assert other.better is None
    swapped = compare_folders(*folders[::-1], resamples=400, randomisations=1000)
    assert difference(swapped, "text-to-image", "mean_rank").better == "A"


def test_the_table_says_what_was_compared(small: tuple[Run, Run]) -> None:
    lines = table(compare(*small, resamples=100, randomisations=300)).splitlines()
    assert lines[0].split() == ["A", str(small[0].folder), "model", "model-a,", "dataset", "coco"]
    assert lines[1].split() == ["B", str(small[1].folder), "model", "model-b,", "dataset", "coco"]
    assert [line for line in lines if line.startswith("differs")] == [
        "differs: encoder.dtype: float32 in A, bfloat16 in B",
        "differs: new: not recorded in A, True in B",
    ]
    rows = [line for line in lines if line.startswith(LABELS)]
    assert len(rows) == 2 * len(NAMES)
    assert rows[0].split()[:4] == ["recall@1", "25.00", "25.00", "+0.00"]
    heading = next(line for line in lines if "p (Holm)" in line)
    for column in ("  A", "  B", "B - A", " p", "p (Holm)"):
        assert {row[heading.index(column) + len(column)] for row in rows} == {" "}  # no number runs past its heading
    assert "       102      20       2  text of 102" in lines
    assert any(f"{COMPARISONS} comparisons" in line for line in lines)
    assert max(map(len, lines[4:-2])) <= 80


def test_no_caption_breaks_the_table(tmp_path: Path) -> None:
    evil = "two\nlines \x1b[31mred " + 80 * "long"
    runs = [
        written(tmp_path / name, [result("text-to-image", 1, 2, rank, evil)]) for name, rank in (("one", 1), ("two", 9))
    ]
    printed = table(compare(*runs, resamples=10, randomisations=10))
    assert "\x1b" not in printed
    (line,) = [line for line in printed.splitlines() if "two lines" in line]
    assert line.endswith("…")
    assert len(line) <= 80


def test_json_holds_what_the_table_shows(small: tuple[Run, Run]) -> None:
    found = compare(*small, resamples=100, randomisations=300)
    read = json.loads(json.dumps(as_json(found), allow_nan=False))
    assert read["a"] == {"folder": str(small[0].folder), "model": "model-a", "dataset": "coco"}
    assert read["settings"]["encoder.dtype"] == {"a": "float32", "b": "bfloat16"}
    assert (read["resamples"], read["randomisations"], read["comparisons"]) == (100, 300, COMPARISONS)
    one = difference(found, "text-to-image", "mean_rank")
    assert read["text-to-image"]["mean_rank"] == {
        "a": one.a,
        "b": one.b,
        "difference": one.difference,
        "interval": list(one.interval),
        "p": one.p,
        "p_holm": one.p_holm,
        "better": one.better,
    }
    assert read["image-to-text"]["improved"][0]["query"] == 102


BOTH = results([1, 2], [1, 2, 3, 4])
REFUSED: dict[str, tuple[dict[str, Any], list[QueryResult], str]] = {
    "another split": ({"split": "val"}, BOTH, "split is test in .*/a and val in .*/b"),
    "all captions": ({"captions_per_image": "all"}, BOTH, "captions_per_image is 2 in .* and all in"),
    "a larger gallery": ({"images": 5}, BOTH, "images is 4 in .* and 5 in"),
    "one query less": ({}, BOTH[:-1], "1 text-to-image queries are in .*/a alone, the first is 3"),
    "one query more": ({}, [*BOTH, result("image-to-text", 9, 9, 1)], "1 image-to-text queries are in .*/b alone"),
    "one direction": ({}, BOTH[2:], "2 image-to-text queries are in .*/a alone, the first is 100"),
    "another caption": (
        {},
        [*BOTH[:-1], result("text-to-image", 3, 101, 4, "a cat")],
        "text of the .* query 3 is .*a cat",
    ),
    "another image": ({}, [*BOTH[:-1], result("text-to-image", 3, 100, 4)], "image_id of the .* query 3 is 101 in"),
    "a query twice": ({}, [*BOTH, BOTH[-1]], "/b ranks the text-to-image query 3 twice: make it again"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_runs_that_are_not_of_the_same_queries(case: str, tmp_path: Path) -> None:
    metrics, other, message = REFUSED[case]
    written(tmp_path / "a", BOTH)
    written(tmp_path / "b", other, **metrics)
    with pytest.raises(EvaluationError, match=message) as refused:
        compare_folders(tmp_path / "a", tmp_path / "b", resamples=10, randomisations=10)
    assert "\n" not in str(refused.value)


def test_runs_without_queries(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="hold no queries"):
        compare(written(tmp_path / "a", []), written(tmp_path / "b", []))
    with pytest.raises(EvaluationError, match="holds no run"):
        compare_folders(tmp_path / "a", tmp_path / "nowhere")


def test_another_name_of_the_data_set_and_other_photo_folders_may_be_compared(tmp_path: Path) -> None:
    """Two models live side by side under two names of one data set."""
    a = written(tmp_path / "a", BOTH)
    moved = [result(one.direction, one.query, one.image_id, one.rank, "/elsewhere.jpg") for one in BOTH[:2]]
    b = written(tmp_path / "b", moved + BOTH[2:], dataset="coco-large")
    assert "dataset coco-large" in table(compare(a, b, resamples=10, randomisations=10))
    prints = [
        {"collections": {f"{name}_images": {"m": 16}, f"{name}_captions": {"m": m}}}
        for name, m in (("coco", 16), ("coco-large", 32))
    ]
    assert list(differences(prints)) == [("collections.captions.m", [16, 32])]


def test_intervals_of_a_difference_hold_none_where_there_is_none(tmp_path: Path) -> None:
    """100 pairs of equally good runs, 60 images each: about 5% of the intervals leave out 0."""
    rng = np.random.default_rng(8)
    metrics = RunMetrics.model_validate(METRICS_FILE)
    left_out = dict.fromkeys(NAMES, 0)
    for _ in range(100):
        quality = np.repeat(rng.standard_normal(60), 2)
        runs = [
            Run(
                tmp_path,
                metrics,
                results([1] * 60, np.ceil(np.exp(1.5 + 0.6 * z)).astype(int).tolist()),
            )
            for z in quality + rng.standard_normal((2, 120))
        ]
        found = compare(*runs, resamples=150, randomisations=9)
        for metric in NAMES:
            low, high = difference(found, "text-to-image", metric).interval
            left_out[metric] += not low <= 0 <= high
    for metric, times in left_out.items():
        assert times <= 0.12 * 100, metric
        assert times > 0 or metric == "median_rank", metric
