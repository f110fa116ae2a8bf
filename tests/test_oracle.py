from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.metrics import average_precision
from eval.protocol import Side, Task
from eval.ranks.oracle import OracleRanks, first_hits, oracle_ranks
from eval.ranks.replay import agreement
from search.index import Where

Matrix = npt.NDArray[np.float32]


def task(queries: Matrix, gallery: Matrix, positives: list[list[int]]) -> Task:
    return Task(
        name="a-to-b",
        queries=Side("a", np.arange(len(queries)), queries, Where()),
        gallery=Side("b", np.arange(len(gallery)), gallery, Where()),
        positives=np.array([row for rows in positives for row in rows], dtype=np.int64),
        starts=np.cumsum([0, *map(len, positives)]).astype(np.int64),
    )


def unit(matrix: npt.NDArray[np.float64]) -> Matrix:
    lengths = np.linalg.norm(matrix, axis=1, keepdims=True)
    return np.asarray(matrix / lengths, dtype=np.float32)


def scores_by_hand(of: Task) -> list[list[float]]:
    """`fsum` makes the dot product of two float32 vectors exact."""
    gallery = of.gallery.vectors.astype(float)
    return [[math.fsum(row) for row in (gallery * query).tolist()] for query in of.queries.vectors.astype(float)]


def by_hand(of: Task) -> list[int]:
    """The definition, word for word."""
    ranks = []
    for number, scores in enumerate(scores_by_hand(of)):
        best = max(scores[row] for row in of.positives_of(number))
        ranks.append(1 + sum(score > best for score in scores))
    return ranks


def pessimistic_by_hand(of: Task) -> list[int]:
    """The definition, word for word: 1 + others that score at least as high."""
    ranks = []
    for number, scores in enumerate(scores_by_hand(of)):
        best = max(of.positives_of(number), key=lambda row: scores[row])
        ranks.append(1 + sum(score >= scores[best] for row, score in enumerate(scores) if row != best))
    return ranks


def precision_by_hand(of: Task) -> list[float]:
    """Average precision by walking down a full ranking, a positive before what ties with it."""
    found = []
    for number, scores in enumerate(scores_by_hand(of)):
        positives = set(of.positives_of(number).tolist())
        order = sorted(range(len(scores)), key=lambda row: (-scores[row], row not in positives))
        seen, precisions = 0, []
        for place, row in enumerate(order, start=1):
            if row in positives:
                seen += 1
                precisions.append(seen / place)
        found.append(sum(precisions) / len(positives))
    return found


def precision(of: OracleRanks) -> npt.NDArray[np.float64]:
    assert of.ranking.positives is not None
    return average_precision(of.ranking.positives)


def test_ranks_by_hand() -> None:
    gallery = np.array([[1, 0], [0, 1], [0.6, 0.8], [-1, 0]], dtype=np.float32)
    queries = np.array([[1, 0], [1, 0], [0, 1]], dtype=np.float32)
    ranks = oracle_ranks(task(queries, gallery, [[0], [3, 1], [0, 2]])).ranks
    assert ranks.tolist() == [1, 3, 2]


def test_equal_scores_do_not_count_as_higher() -> None:
    gallery = np.array([[0.6, 0.8]] * 4 + [[1, 0]], dtype=np.float32)
    queries = np.array([[0.8, 0.6], [0.6, 0.8]], dtype=np.float32)
    found = oracle_ranks(task(queries, gallery, [[2], [3]]))
    assert found.ranks.tolist() == [1, 1] if queries[0] @ gallery[0] >= queries[0] @ gallery[4] else [2, 1]
    assert (found.highest - found.lowest).tolist() == [3, 3]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 60), st.integers(2, 32), st.booleans())
def test_ranks_are_those_of_the_definition(seed: int, queries: int, gallery: int, dim: int, twins: bool) -> None:
    rng = np.random.default_rng(seed)
    items = rng.normal(size=(gallery, dim))
    if twins:  # several items with one vector, as captions with one text
        items = items[rng.integers(0, gallery, gallery)]
    positives = [
        rng.choice(gallery, size=rng.integers(1, min(6, gallery) + 1), replace=False).tolist() for _ in range(queries)
    ]
    of = task(unit(rng.normal(size=(queries, dim))), unit(items), positives)
    found = oracle_ranks(of)
    assert found.ranks.tolist() == by_hand(of)
    assert found.pessimistic.tolist() == pessimistic_by_hand(of)
    assert precision(found) == pytest.approx(precision_by_hand(of), abs=1e-12)
    assert (found.lowest <= found.ranks).all()
    assert (found.ranks <= found.highest).all()
    rows, hits = first_hits(of, 7)
    assert rows.shape == (queries, min(7, gallery))
    for row, scores in enumerate(scores_by_hand(of)):
        assert hits[row] == pytest.approx(sorted(scores, reverse=True)[: len(rows[row])], abs=1e-6)
        assert [scores[item] for item in rows[row]] == pytest.approx(hits[row].tolist(), abs=1e-6)


def test_blocks_are_invisible(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    of = task(unit(rng.normal(size=(50, 8))), unit(rng.normal(size=(80, 8))), [[n, n + 20] for n in range(50)])
    whole, first = oracle_ranks(of), first_hits(of, 5)
    monkeypatch.setattr("eval.ranks.oracle.QUERIES_PER_TILE", 7)
    monkeypatch.setattr("eval.ranks.oracle.ITEMS_PER_TILE", 11)
    monkeypatch.setattr("eval.ranks.oracle.PAIRS_PER_BLOCK", 3)
    parts = oracle_ranks(of)
    for name in ("scores", "higher", "tied", "near", "near_higher", "positive_ranks"):
        assert getattr(parts, name).tolist() == getattr(whole, name).tolist(), name
    assert first_hits(of, 5)[0].tolist() == first[0].tolist()


def test_average_precision_by_hand() -> None:
    gallery = np.array([[1, 0], [0.8, 0.6], [0.6, 0.8], [0, 1], [-1, 0]], dtype=np.float32)
    found = oracle_ranks(task(np.array([[1, 0]], dtype=np.float32), gallery, [[3, 1]]))
    assert found.positive_ranks.tolist() == [2, 4]
    assert precision(found).tolist() == [(1 / 2 + 2 / 4) / 2]
    assert found.task.positives[found.best].tolist() == [1]
    assert found.scores[found.best] == pytest.approx(0.8)


def test_disagreement_is_told_from_rounding() -> None:
    rng = np.random.default_rng(0)
    of = task(unit(rng.normal(size=(20, 8))), unit(rng.normal(size=(30, 8))), [[n] for n in range(20)])
    oracle = oracle_ranks(of)
    wrong = oracle.ranks.copy()
    wrong[3] += 5
    found = agreement(oracle, wrong)
    assert found.unexplained.tolist() == [3]
    assert "WITHOUT EXPLANATION" in str(found)
    assert str(agreement(oracle, oracle.ranks)) == "all 20 ranks are the same"

    near = np.array([[1.0, 0], [1, 1e-4], [0, 1]])
    of = task(np.array([[1, 5e-5]], dtype=np.float32), unit(near), [[0]])
    oracle = oracle_ranks(of)
    swapped = 3 - oracle.ranks
    found = agreement(oracle, swapped)
    assert (found.rounding, len(found.unexplained)) == (1, 0)
    assert "rounding" in str(found)
