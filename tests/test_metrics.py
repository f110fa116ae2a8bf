from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.metrics import (
    NOT_FOUND,
    average_precision,
    map_at_r,
    mean_rank,
    median_rank,
    proportion_at_k,
    r_precision,
    recall_at_k,
    summarise,
)


def ranks(*values: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.array(values, dtype=np.int64)


def test_by_hand() -> None:
    found = summarise(ranks(1, 3, 5, 6, 10, 11, 100, 1))
    assert found == {
        "recall@1": 100 * 2 / 8,
        "recall@5": 100 * 4 / 8,
        "recall@10": 100 * 6 / 8,
        "median_rank": 5.5,
        "mean_rank": 137 / 8,
    }


def test_single_measures() -> None:
    assert recall_at_k(ranks(1, 2, 3), 2) == pytest.approx(200 / 3)
    assert median_rank(ranks(9, 1, 4)) == 4
    assert mean_rank(ranks(1, 2)) == 1.5


@pytest.mark.parametrize("bad", [(), (0,), (1, -1)])
def test_what_cannot_be_ranks(bad: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="count from 1"):
        summarise(ranks(*bad))


@given(st.lists(st.integers(1, 1000), min_size=1))
def test_recall_grows_with_k_and_ends_at_everything(values: list[int]) -> None:
    of = ranks(*values)
    curve = [recall_at_k(of, k) for k in range(1, max(values) + 1)]
    assert curve == sorted(curve)
    assert curve[-1] == 100
    assert 1 <= (median_rank(of) or 0) <= max(values)
    assert min(values) <= (mean_rank(of) or 0) <= max(values)


def test_what_was_not_found_is_never_filled_in() -> None:
    found = summarise(ranks(1, 2, NOT_FOUND, 3, NOT_FOUND))
    assert found == {
        "recall@1": 20,
        "recall@5": 60,
        "recall@10": 60,
        "median_rank": 3,
        "mean_rank": None,
    }
    assert summarise(ranks(1, NOT_FOUND))["median_rank"] is None  # the mean of 1 and what nobody knows


def test_measures_over_all_positives_by_hand() -> None:
    """Positives of two queries at ranks 1, 3, 6, and at 2; a judge knows a fourth of the first, not in the gallery."""
    positive_ranks, starts, positives = ranks(1, 3, 6, 2), ranks(0, 3, 4), ranks(4, 1)
    assert proportion_at_k(positive_ranks, starts, 1) == pytest.approx(100 * (1 / 3 + 0) / 2)
    assert proportion_at_k(positive_ranks, starts, 5) == pytest.approx(100 * (2 / 3 + 1) / 2)
    assert average_precision(positive_ranks, starts) == pytest.approx([(1 / 1 + 2 / 3 + 3 / 6) / 3, 1 / 2])
    assert r_precision(positive_ranks, starts, positives) == pytest.approx([2 / 4, 0])
    assert map_at_r(positive_ranks, starts, positives) == pytest.approx([(1 / 1 + 2 / 3) / 4, 0])
