from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.metrics import mean_rank, median_rank, recall_at_k, summarise


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
    assert 1 <= median_rank(of) <= max(values)
    assert min(values) <= mean_rank(of) <= max(values)
