from __future__ import annotations

from collections.abc import Callable
from itertools import chain

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.metrics import average_precision
from eval.protocol import Side, Task
from eval.ranks.oracle import OracleRanks, first_hits, oracle_ranks, overlaps
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


def scores_by_hand(of: Task) -> npt.NDArray[np.object_]:
    """Exact dot products of the float32 vectors (n, gallery), as whole numbers of 2**-200."""

    def whole(vectors: Matrix) -> npt.NDArray[np.object_]:
        return np.array([[int(value * 2.0**100) for value in row] for row in vectors.tolist()], dtype=object)

    assert max(map(np.max, (of.queries.vectors, of.gallery.vectors))) < 2
    return np.asarray(whole(of.queries.vectors) @ whole(of.gallery.vectors).T)


def ranks_by_hand(of: Task, *, ties_lost: bool) -> list[list[int]]:
    """The places of each query's positives in a full ranking, before or after the negatives that tie with them."""
    ranks = []
    for number, scores in enumerate(scores_by_hand(of)):
        positives = set(of.positives_of(number).tolist())
        order = sorted(range(len(scores)), key=lambda row: (-scores[row], (row in positives) == ties_lost))
        ranks.append([place for place, row in enumerate(order, start=1) if row in positives])
    return ranks


def by_hand(of: Task) -> list[int]:
    return [ranks[0] for ranks in ranks_by_hand(of, ties_lost=False)]


def precision_by_hand(ranks: list[list[int]]) -> list[float]:
    return [float(np.mean([seen / rank for seen, rank in enumerate(of, start=1)])) for of in ranks]


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


Rng = np.random.Generator


def anything(rng: Rng, count: int, dim: int) -> Matrix:
    return unit(rng.normal(size=(count, dim)))


def twins(rng: Rng, count: int, dim: int) -> Matrix:
    """Captions with one text."""
    return anything(rng, count, dim)[rng.integers(0, 1 + count // 3, count)]


def all_the_same(rng: Rng, count: int, dim: int) -> Matrix:
    return np.repeat(anything(rng, 1, dim), count, axis=0)


def an_ulp_apart(rng: Rng, count: int, dim: int) -> Matrix:
    """float32 scores them alike, or in the wrong order."""
    items = np.repeat(anything(rng, 1, dim), count, axis=0)
    steps = rng.integers(-1, 2, items.shape)
    return np.where(steps, np.nextafter(items, np.where(steps > 0, np.float32(2), np.float32(-2))), items)


def grid(rng: Rng, count: int, dim: int) -> Matrix:
    """Many different vectors with one exact score."""
    return np.asarray(rng.integers(-2, 3, (count, dim)) / 4, dtype=np.float32)


def shuffled(rng: Rng, count: int, dim: int) -> Matrix:
    """The same numbers in another order: to a query of equal numbers their exact scores tie, rounded ones do not."""
    return np.array([rng.permutation(row) for row in all_the_same(rng, count, dim)])


@settings(max_examples=60)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 8),
    st.integers(1, 40),
    st.integers(2, 24),
    st.sampled_from([anything, twins, all_the_same, an_ulp_apart, grid, shuffled]),
    st.sampled_from([1, 3, 1000]),
)
def test_ranks_are_those_of_exact_arithmetic(
    seed: int, queries: int, gallery: int, dim: int, items: Callable[[Rng, int, int], Matrix], tile: int
) -> None:
    rng = np.random.default_rng(seed)
    positives = [
        rng.choice(gallery, size=rng.integers(1, min(6, gallery) + 1), replace=False).tolist() for _ in range(queries)
    ]
    asked = np.concatenate([items(rng, queries, dim), np.full((1, dim), dim**-0.5, dtype=np.float32)])
    of = task(asked, items(rng, gallery, dim), [*positives, positives[0]])
    with pytest.MonkeyPatch.context() as patch:
        for name in ("QUERIES_PER_TILE", "ITEMS_PER_TILE", "PAIRS_PER_BLOCK"):
            patch.setattr(f"eval.ranks.oracle.{name}", tile)
        found = oracle_ranks(of)
        rows, hits = first_hits(of, 7)
    best, worst = ranks_by_hand(of, ties_lost=False), ranks_by_hand(of, ties_lost=True)
    assert found.ranks.tolist() == [ranks[0] for ranks in best]
    assert found.pessimistic.tolist() == [ranks[0] for ranks in worst]
    assert found.positive_ranks.tolist() == [*chain(*best)]
    assert found.pessimistic_positive_ranks.tolist() == [*chain(*worst)]
    assert found.ranking.tied == sum(a != b for a, b in zip(best, worst, strict=True))
    assert found.ranking.pessimistic
    for ranking, ranks in ((found.ranking, best), (found.ranking.pessimistic, worst)):
        assert ranking.positives is not None
        assert average_precision(ranking.positives) == pytest.approx(precision_by_hand(ranks), abs=1e-12)
    assert (found.lowest <= found.ranks).all()
    assert (found.pessimistic <= found.highest).all()
    assert rows.shape == (len(asked), min(7, gallery))
    for row, scores in enumerate(scores_by_hand(of) / 2**200):
        assert hits[row] == pytest.approx(sorted(scores, reverse=True)[: len(hits[row])])
        assert hits[row] == pytest.approx(scores[rows[row]])


def test_ties_across_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """300 captions with three sentences, others, and last a caption 1e-7 from each sentence."""
    monkeypatch.setattr("eval.ranks.oracle.ITEMS_PER_TILE", 64)
    rng = np.random.default_rng(0)
    texts = anything(rng, 3, 512)
    gallery = np.concatenate([texts[np.arange(300) % 3], anything(rng, 300, 512), texts * np.float32(1 - 1e-7)])
    found = oracle_ranks(task(texts, gallery, [[n, n + 150, n + 297] for n in range(3)]))
    assert (found.ranks.tolist(), found.pessimistic.tolist()) == ([1] * 3, [98] * 3)
    found = oracle_ranks(task(texts, gallery, [[600 + n] for n in range(3)]))
    assert found.ranks.tolist() == found.pessimistic.tolist() == [101] * 3


def test_a_tie_with_another_positive_is_no_loss() -> None:
    """An image with the same sentence twice, ranked first: any order of the two finds a positive in first place."""
    gallery = unit(np.array([[1, 0], [1, 0], [0, 1], [0, 1]]))
    found = oracle_ranks(task(unit(np.array([[1.0, 0], [0, 1]])), gallery, [[0, 1], [2]]))
    assert found.ranks.tolist() == [1, 1]
    assert found.pessimistic.tolist() == [1, 2]
    assert found.ranking.tied == 1


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


def test_overlap_by_hand() -> None:
    """Rows 3 to 12 are the ten best; 20 is the same vector as the tenth, 13 the next best."""
    angles = np.linspace(0.1, 1.5, 30)
    gallery = unit(np.stack([np.cos(angles), np.sin(angles)], axis=1))[np.r_[29, 28, 27, 0:10, 10:27]]
    gallery[20] = gallery[12]
    oracle = oracle_ranks(task(np.array([[1, 0]] * 3, dtype=np.float32), gallery, [[3]] * 3))
    best = list(range(3, 13))
    answers = [best, [*best[:-1], 20], [*best[:7], 13, 20, -1]]
    assert overlaps(oracle, np.array(answers)).tolist() == [1, 1, 0.8]


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
