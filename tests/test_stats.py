from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.metrics import METRICS, Ranking
from eval.metrics import scores as scores_of
from eval.stats import draws, holm, intervals, resample, share_interval, swap_p_values

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

QUERIES = st.lists(st.tuples(st.integers(1, 50), st.integers(0, 5)), min_size=1, max_size=40)  # (rank, image)


def ints(values: Any) -> Ints:
    return np.array(values, dtype=np.int64)


def floats(values: Ints) -> Floats:
    return values.astype(np.float64)


def single(ranks: Ints) -> Ranking:
    """A ranking of queries with one positive each."""
    return Ranking(ranks, recorded={"average_precision": 1 / ranks})


def lognormal_ranks(rng: np.random.Generator, images: int, within: float) -> tuple[Ints, Ints]:
    """Ranks of 5 or 6 captions for each image, alike within an image by the correlation `within`, and their images."""
    image_of = np.repeat(np.arange(images), rng.integers(5, 7, images))
    of_image, own = rng.standard_normal(images)[image_of], rng.standard_normal(len(image_of))
    z = math.sqrt(within) * of_image + math.sqrt(1 - within) * own
    return np.ceil(np.exp(1.3 + 1.2 * z)).astype(np.int64), image_of


@given(QUERIES, st.integers(0, 3))
def test_resamples_are_those_of_images_repeated(queries: list[tuple[int, int]], seed: int) -> None:
    """Against arrays in which every query of an image really stands as often as its image was drawn."""
    ranks, images = ints([rank for rank, _ in queries]), ints([image for _, image in queries])
    image_of = np.unique(images, return_inverse=True)[1].astype(np.int64)
    found = resample(
        (ranks[:, np.newaxis] ** 2).astype(np.float64),
        [floats(ranks), floats(2 * ranks)],
        image_of,
        resamples=20,
        seed=seed,
    )
    (_, counts), *more = draws(np.random.default_rng(seed), 20, image_of.max() + 1)
    assert not more
    for row, times in enumerate(counts):
        assert times.sum() == len(times)
        literally = np.repeat(ranks, times[image_of])
        assert found.means[row, 0] == pytest.approx(np.mean(literally**2))
        assert found.medians[row].tolist() == [np.median(literally), 2 * np.median(literally)]


def test_blocks_join_without_a_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    ranks, image_of = lognormal_ranks(np.random.default_rng(0), 20, 0.5)
    monkeypatch.setattr("eval.stats.CELLS_PER_BLOCK", 7 * 20)
    blocks = list(draws(np.random.default_rng(1), 50, 20))
    found = resample(ranks[:, np.newaxis].astype(np.float64), [floats(ranks)], image_of, resamples=50, seed=1)
    assert [(block.start, block.stop) for block, _ in blocks] == [(n, min(n + 7, 50)) for n in range(0, 50, 7)]
    for block, counts in blocks:
        expected = [np.mean(np.repeat(ranks, times[image_of])) for times in counts]
        assert found.means[block, 0] == pytest.approx(np.array(expected))


@given(QUERIES, st.randoms(use_true_random=False))
@settings(max_examples=50)
def test_intervals_hold_the_score_whatever_the_order_of_the_queries(
    queries: list[tuple[int, int]], random: Any
) -> None:
    def of(ranked: list[tuple[int, int]]) -> dict[str, tuple[float, float]]:
        ranks = ints([rank for rank, _ in ranked])
        return intervals(single(ranks), ints([image for _, image in ranked]), resamples=100)

    found = of(queries)
    expected = scores_of(single(ints([rank for rank, _ in queries])))
    assert found.keys() == expected.keys()
    for name, (low, high) in found.items():
        assert low - 1e-9 <= (expected[name] or 0) <= high + 1e-9
        metric = next(metric for metric in METRICS if metric.name == name)
        ends = (1, 50) if metric.unit == "rank" else (0, 100 * metric.most)
        assert ends[0] - 1e-9 <= low <= high <= ends[1] + 1e-9
    shuffled = list(queries)
    random.shuffle(shuffled)
    again = of(shuffled)
    assert all(again[name] == pytest.approx(found[name]) for name in found)


def test_an_independent_judge_of_the_skewed_mean() -> None:
    """scipy 1.17's `bootstrap(method="BCa", n_resamples=200_000)` of these gives 11.1 to 11.2 and 99.6 to 100.7.

    Its percentile interval is 6.1 to 79.4.
    """
    found = intervals(Ranking(ints([1, 1, 2, 3, 5, 8, 13, 40, 90, 200])), np.arange(10), resamples=20_000)
    assert found["mean_rank"] == pytest.approx((11.15, 100.1), rel=0.03)


def test_one_seed_one_answer() -> None:
    ranks, image_of = lognormal_ranks(np.random.default_rng(0), 50, 0.5)
    assert intervals(Ranking(ranks), image_of, seed=4) == intervals(Ranking(ranks), image_of, seed=4)
    assert intervals(Ranking(ranks), image_of, seed=4) != intervals(Ranking(ranks), image_of, seed=5)
    assert "mean_average_precision" not in intervals(Ranking(ranks), image_of)


def test_sixteen_times_the_images_make_a_quarter_of_the_width() -> None:
    few, many = (
        intervals(Ranking(ranks), image_of)
        for ranks, image_of in (lognormal_ranks(np.random.default_rng(6), images, 0.3) for images in (200, 3200))
    )
    for name in ("recall@1", "recall@5", "mean_rank"):
        ratio = (few[name][1] - few[name][0]) / (many[name][1] - many[name][0])
        assert 3 < ratio < 5.5, name


def test_all_or_nothing_is_not_certainty() -> None:
    """Of 100 images none hits: Clopper and Pearson's upper end for 0 of 100 is 3.62%."""
    image_of = np.repeat(np.arange(100), 5)
    never = intervals(Ranking(np.full(500, 99), recorded={"average_precision": np.full(500, 0.01)}), image_of)
    assert never["recall@10"] == pytest.approx((0, 100 * (1 - 0.025 ** (1 / 100))))
    assert never["recall@10"][1] == pytest.approx(3.62, abs=0.01)
    assert never["mean_average_precision"] == pytest.approx((0.99 * (1 - 0.0362), 1 + 0.0362 * 99), abs=0.05)
    assert never["median_rank"] == never["mean_rank"] == (99.0, 99.0)
    always = intervals(single(np.ones(500, dtype=np.int64)), image_of)
    assert always["recall@1"] == pytest.approx((100 - 3.62, 100), abs=0.01)


def test_one_image_says_next_to_nothing() -> None:
    found = intervals(Ranking(ints([1, 7, 8, 9, 3])), np.zeros(5, dtype=np.int64))
    assert found["recall@1"] == pytest.approx((20 * 0.025, 20 * 0.025 + 97.5))
    assert found["median_rank"] == (7.0, 7.0)


def test_arrays_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="2 ranks, but 1 values of average_precision"):
        Ranking(ints([1, 2]), recorded={"average_precision": np.ones(1)})
    with pytest.raises(ValueError, match="1 images for 2 queries"):
        intervals(Ranking(ints([1, 2])), ints([0]))


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """200 images drawn 200 times; by chance alone the share has a standard deviation of 1.5%."""
    rng = np.random.default_rng(11)
    many, _ = lognormal_ranks(rng, 100_000, 0.6)
    truth = {name: value or 0.0 for name, value in scores_of(single(many)).items()}
    held = dict.fromkeys(truth, 0)
    without_clusters = 0
    for seed in range(200):
        ranks, image_of = lognormal_ranks(rng, 200, 0.6)
        found = intervals(single(ranks), image_of, resamples=250, seed=seed)
        for name, (low, high) in found.items():
            held[name] += low <= truth[name] <= high
        low, high = intervals(Ranking(ranks), np.arange(len(ranks)), resamples=100, seed=seed)["recall@5"]
        without_clusters += low <= truth["recall@5"] <= high
    for name, times in held.items():
        assert times / 200 > 0.9, name
        assert times / 200 <= (1 if name == "median_rank" else 0.985), name
    assert without_clusters / 200 < 0.85  # what taking captions for independent would do


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1, 1]
    assert holm([]) == []


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(0, 3)), min_size=1, max_size=12))
@settings(max_examples=12)
def test_swaps_agree_with_all_swaps_there_are(queries: list[tuple[int, int, int]]) -> None:
    a, b, images = (ints(column) for column in zip(*queries, strict=True))
    image_of = np.unique(images, return_inverse=True)[1].astype(np.int64)
    differences = (b - a)[:, np.newaxis].astype(np.float64)
    (p_mean,), (p_median,) = swap_p_values(differences, [(floats(a), floats(b))], image_of, randomisations=2000)
    as_large = np.zeros(2)
    observed = abs(b.mean() - a.mean()), abs(np.median(b) - np.median(a))
    everything = list(itertools.product((False, True), repeat=int(image_of.max()) + 1))
    for swap in everything:
        swapped = np.array(swap)[image_of]
        left, right = np.where(swapped, b, a), np.where(swapped, a, b)
        found = abs(right.mean() - left.mean()), abs(np.median(right) - np.median(left))
        as_large += np.array(found) >= np.array(observed) - 1e-9
    # Five standard deviations of 2,000 swaps.
    assert [p_mean, p_median] == pytest.approx(as_large / len(everything), abs=0.056)


def test_p_values_are_uniform_where_nothing_differs() -> None:
    """40 images with captions that differ together: about 5% of p under 0.05; more, if images are taken apart."""
    rng = np.random.default_rng(3)
    p_values: list[float] = []
    taken_apart: list[float] = []
    image_of = np.repeat(np.arange(40), 5)
    for seed in range(300):
        quality = rng.standard_normal(40)[image_of]
        a, b = (
            np.ceil(np.exp(1.5 + quality + 0.8 * rng.standard_normal(40)[image_of] + 0.3 * rng.standard_normal(200)))
            for _ in "ab"
        )
        differences = np.log(b / a)[:, np.newaxis]
        p_values.append(float(swap_p_values(differences, [], image_of, randomisations=199, seed=seed)[0][0]))
        alone = np.arange(200)
        taken_apart.append(float(swap_p_values(differences, [], alone, randomisations=99, seed=seed)[0][0]))
    under = {level: float(np.mean(np.array(p_values) <= level)) for level in (0.05, 0.25, 0.5, 0.75)}
    for level, share in under.items():
        assert share == pytest.approx(level, abs=4 * math.sqrt(level * (1 - level) / 300)), level
    assert np.mean(np.array(taken_apart) <= 0.05) > 0.15


def test_the_interval_of_a_share_is_clopper_and_pearsons_for_many_items() -> None:
    assert share_interval(3, 6, 10**6) == pytest.approx((11.81, 88.19), abs=0.01)
    assert share_interval(3, 50, 10**6) == pytest.approx((1.25, 16.55), abs=0.01)
    assert share_interval(0, 50, 10**6) == pytest.approx((0, 7.11), abs=0.01)


@given(st.integers(1, 200), st.data())
def test_the_interval_of_a_share_holds_what_was_seen(total: int, data: st.DataObject) -> None:
    drawn = data.draw(st.integers(1, total))
    found = data.draw(st.integers(0, drawn))
    low, high = share_interval(found, drawn, total)
    assert 100 * found / total <= low + 1e-9
    assert high <= 100 * (total - drawn + found) / total + 1e-9
    assert low - 1e-9 <= 100 * found / drawn <= high + 1e-9
    if drawn == total:
        assert low == high == 100 * found / total


def test_the_interval_of_a_share_covers_the_truth() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for among in rng.integers(0, 301, 400):
        low, high = share_interval(int(rng.hypergeometric(among, 300 - among, 50)), 50, 300)
        covered += low <= 100 * among / 300 <= high
    assert covered >= 0.95 * 400
