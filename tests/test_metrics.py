from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.metrics import (
    MAP_AT_R,
    MEAN_RANK,
    MEDIAN_RANK,
    METRICS,
    NOT_FOUND,
    R_PRECISION,
    Metric,
    PositiveRanks,
    Ranking,
    average_precision,
    map_at_r,
    ndcg,
    proportion,
    r_precision,
    recall,
    rsum,
    scores,
)


def ranks(*values: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.array(values, dtype=np.int64)


def score(metric: Metric, *values: int) -> float | None:
    return scores(Ranking(ranks(*values)), [metric])[metric.name]


def test_by_hand() -> None:
    assert scores(Ranking(ranks(1, 3, 5, 6, 10, 11, 100, 1))) == {
        "recall@1": 100 * 2 / 8,
        "recall@5": 100 * 4 / 8,
        "recall@10": 100 * 6 / 8,
        "median_rank": 5.5,
        "mean_rank": 137 / 8,
        "mrr": pytest.approx(100 / 8 * (2 + 1 / 3 + 1 / 5 + 1 / 6 + 1 / 10 + 1 / 11 + 1 / 100)),
        "recall_sum": 100 * 12 / 8,
    }
    assert score(recall(2), 1, 2, 3) == pytest.approx(200 / 3)
    assert score(MEDIAN_RANK, 9, 1, 4) == 4
    assert score(MEAN_RANK, 1, 2) == 1.5


@pytest.mark.parametrize("bad", [(), (0,), (1, -1)])
def test_what_cannot_be_ranks(bad: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="count from 1"):
        Ranking(ranks(*bad))


@given(st.lists(st.integers(1, 100), min_size=1))
@settings(max_examples=30)
def test_recall_grows_with_k_and_ends_at_everything(values: list[int]) -> None:
    curve = [score(recall(k), *values) or 0 for k in range(1, max(values) + 1)]
    assert curve == sorted(curve)
    assert curve[-1] == 100
    assert 1 <= (score(MEDIAN_RANK, *values) or 0) <= max(values)
    assert min(values) <= (score(MEAN_RANK, *values) or 0) <= max(values)


def test_what_was_not_found_is_never_filled_in() -> None:
    fetched = Ranking(ranks(1, 2, NOT_FOUND, 3, NOT_FOUND), depth=10)
    assert scores(fetched) == {
        "recall@1": 20,
        "recall@5": 60,
        "recall@10": 60,
        "median_rank": 3,
        "mean_rank": None,
        "mrr": None,
        "recall_sum": 140,
    }
    assert scores(Ranking(ranks(1, NOT_FOUND), depth=10))["median_rank"] is None  # the mean of 1 and an unknown rank
    with pytest.raises(ValueError, match="depth"):
        Ranking(ranks(1, NOT_FOUND))


def test_a_metric_that_needs_more_hits_than_were_fetched_is_unknown() -> None:
    """The positive that was not among the first ten may be at rank 11, or at 21."""
    reciprocal = Metric(name="mrr", of=lambda ranking: 1 / ranking.ranks, depth=None)
    metrics = [recall(20), reciprocal]
    assert scores(Ranking(ranks(1, 4, NOT_FOUND), depth=10), metrics) == {"recall@20": None, "mrr": None}
    assert scores(Ranking(ranks(1, 4, NOT_FOUND), depth=20), [recall(20)]) == {"recall@20": pytest.approx(200 / 3)}
    assert scores(Ranking(ranks(1, 4, 10), depth=10), metrics) == {"recall@20": 100, "mrr": pytest.approx(45)}


def test_measures_over_all_positives_by_hand() -> None:
    """Positives of two queries at ranks 1, 3, 6, and at 2; a judge knows a fourth of the first, not in the gallery."""
    positives = PositiveRanks(ranks(1, 3, 6, 2), starts=ranks(0, 3, 4), totals=ranks(4, 1))
    ranking = Ranking(ranks(1, 2), positives=positives)
    assert scores(ranking, [proportion(1), proportion(5)]) == {
        "proportion@1": pytest.approx(100 * (1 / 3 + 0) / 2),
        "proportion@5": pytest.approx(100 * (2 / 3 + 1) / 2),
    }
    assert average_precision(positives) == pytest.approx([(1 / 1 + 2 / 3 + 3 / 6) / 3, 1 / 2])
    assert r_precision(positives) == pytest.approx([2 / 4, 0])
    assert map_at_r(positives) == pytest.approx([(1 / 1 + 2 / 3) / 4, 0])
    # The first query finds ranks 1, 3 and 6 of four positives, the second has its only one at rank 2.
    first = (1 + 1 / math.log2(4) + 1 / math.log2(7)) / (1 + 1 / math.log2(3) + 1 / math.log2(4) + 1 / math.log2(5))
    assert scores(ranking)["ndcg@10"] == pytest.approx(100 * (first + 1 / math.log2(3)) / 2)
    assert scores(ranking, [ndcg(5)])["ndcg@5"] == pytest.approx(
        100 * (1.5 / (1 + 1 / math.log2(3) + 1 / math.log2(4) + 1 / math.log2(5)) + 1 / math.log2(3)) / 2
    )
    assert scores(ranking)["mean_average_precision"] == pytest.approx(100 * average_precision(positives).mean())
    assert scores(Ranking(ranks(1, 2)), [MAP_AT_R, R_PRECISION]) == {}  # nothing is known of the other positives


def test_rsum_is_that_of_both_directions() -> None:
    recalls = {"recall@1": 50.0, "recall@5": 75.0, "recall@10": 83.0, "mean_rank": 4.0}
    assert rsum({"image-to-text": recalls, "text-to-image": {**recalls, "recall@10": 80.0}}) == 413
    assert rsum({"image-to-text": recalls, "text-to-image": {**recalls, "recall@10": None}}) is None
    assert rsum({}) is None


def test_a_name_that_a_table_has_no_room_for_is_refused() -> None:
    with pytest.raises(ValueError, match="'precision at one' is too long"):
        Metric(name="precision_at_one", of=lambda ranking: ranking.ranks <= 1, depth=1)
    assert Metric(name="precision_at_one", of=lambda ranking: ranking.ranks <= 1, depth=1, short="P@1").label == "P@1"


def test_every_metric_can_be_compared() -> None:
    """Two runs are compared by what ranks.jsonl holds: the rank of the best positive, and what is recorded of all."""
    of_best = set(scores(Ranking(ranks(1))))
    assert all((metric.recorded is None) == (metric.name in of_best) for metric in METRICS)
