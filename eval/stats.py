"""Confidence intervals of the scores by resampling images, and p-values of differences by swapping two runs.

The captions of one image are not independent of each other, so images are drawn with replacement (or swapped), each
with all its queries: the cluster bootstrap (Field and Welsh, JRSS B 69, 2007). The gallery stays as it is and every
query keeps its rank, so an interval is about other queries to a gallery of this size, not about another gallery or
another training.

Averages get BCa intervals (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 14). The median gets
plain percentiles, because a bias correction of so discrete a value did harm, and so do differences between two runs,
whose distribution is nearly symmetric. Measured on simulated lognormal ranks of 200 to 5,000 images, with correlated
captions: 95% intervals of recall and average precision, and of their differences, contained the true value in 93 to
97% of samples, simulation noise aside; those of the median, nearly always a whole number, in 96 to 100%. The mean rank
depends on its few worst queries: 93 to 97% from 1,000 images with a median of 4 or more, but 90 to 92% if most ranks
are 1 and the tail is long, 83 to 94% with 200 images, and 89 to 98% for its differences. No method that was tried did
well there: if a mean rank matters, read it with the median.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from eval.metrics import METRICS, Average, Floats, Metric, Ranking

Ids = npt.NDArray[np.int64]
Interval = tuple[float, float]

RESAMPLES = 2000
LEVEL = 0.95
RANDOMISATIONS = 10_000
OF_THE_MEDIAN = 2_000  # randomisations of the median at most: sorting makes them slower
CELLS_PER_BLOCK = 1 << 20  # of the matrix resamples x images, of which one block lies in memory
CELLS_IN_CACHE = 1 << 14  # of the matrix randomisations x queries, of which medians are taken at once
NO_SPREAD = 1e-12  # images closer to each other than this, relative to the values, differ by rounding only

_NORMAL = NormalDist()


@dataclass(frozen=True, slots=True)
class Resampled:
    """`means` float64 (resamples, columns) and `medians` float64 (resamples, arrays)."""

    means: Floats
    medians: Floats


def intervals(
    ranking: Ranking,
    image_of: Ids,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    level: float = LEVEL,
    metrics: Sequence[Metric] = METRICS,
) -> dict[str, Interval]:
    """Return the confidence interval of the ranking's score in each of `metrics`, by the metric's name.

    `image_of` int64 (n,) is the image that each query is or belongs to, by any number. Every interval contains the
    score itself. If all images have the same score in percent (such as 0 or 100 %, or if there is only one image),
    resampling shows no variation, and the interval follows from the number of images instead (see
    `unanimous_interval`). Ranks have no upper limit, so their interval is the one value. The order of the queries
    does not matter.

    Raises:
        ValueError: there is not one image for each query.
    """
    means, medians = per_query(ranking, "mean", metrics), per_query(ranking, "median", metrics)
    image_of = image_numbers(image_of, len(ranking.ranks))
    values = columns(means.values(), len(image_of))
    drawn = resample(values, list(medians.values()), image_of, resamples=resamples, seed=seed)
    totals, sizes = image_totals(values, image_of)
    by_name = {}
    for column, metric in enumerate(means):
        if metric.unit == "percent" and is_unanimous(totals[:, column], sizes):
            highest = float(metric.scale * metric.most)
            by_name[metric.name] = unanimous_interval(float(values[:, column].mean()), len(sizes), level, highest)
        else:
            by_name[metric.name] = bca_interval(drawn.means[:, column], totals[:, column], sizes, level)
    for column, (metric, of_queries) in enumerate(medians.items()):
        estimate = float(np.median(of_queries))
        by_name[metric.name] = percentile_interval(drawn.medians[:, column], estimate, level)
    return by_name


def per_query(ranking: Ranking, average: Average, metrics: Sequence[Metric] = METRICS) -> dict[Metric, Floats]:
    """Return the metrics with this average, and the value of each query, float64 (n,), in the metric's unit."""
    of_queries = {metric: metric.values(ranking) for metric in metrics if metric.average == average}
    return {metric: metric.scale * values for metric, values in of_queries.items() if values is not None}


def columns(arrays: Iterable[Floats], queries: int) -> Floats:
    """Return the arrays (n,) as the columns of one (n, columns), which may have none."""
    return np.concatenate([np.empty((queries, 0)), *(array[:, np.newaxis] for array in arrays)], axis=1)


def image_numbers(image_of: Ids, queries: int) -> Ids:
    """Return the images renumbered from 0 without gaps, int64 (n,).

    Raises:
        ValueError: there are no queries, or not one image for each.
    """
    if not queries or len(image_of) != queries:
        raise ValueError(f"{len(image_of)} images for {queries} queries; there must be one for each, and at least one")
    return np.unique(image_of, return_inverse=True)[1].reshape(-1).astype(np.int64)


def image_totals(values: Floats, image_of: Ids) -> tuple[Floats, Floats]:
    """Return sums over the queries of each image, (images, columns), and the number of its queries, (images,)."""
    sizes = np.bincount(image_of).astype(np.float64)
    return columns((np.bincount(image_of, column).astype(np.float64) for column in values.T), len(sizes)), sizes


def resample(values: Floats, others: Sequence[Floats], image_of: Ids, *, resamples: int, seed: int) -> Resampled:
    """Return means of the columns of `values` (n, columns) and medians of `others`, each (n,), in the same resamples.

    `image_of` numbers the images from 0 without gaps.
    """
    totals, sizes = image_totals(values, image_of)
    means = np.empty((resamples, values.shape[1]))
    medians = np.empty((resamples, len(others)))
    in_order = [_Sorted.of(array, image_of) for array in others]
    for block, counts in draws(np.random.default_rng(seed), resamples, len(sizes)):
        weights = counts.astype(np.float64)
        means[block] = (weights @ totals) / (weights @ sizes)[:, np.newaxis]
        for number, array in enumerate(in_order):
            medians[block, number] = array.medians(counts)
    return Resampled(means, medians)


def draws(rng: np.random.Generator, resamples: int, images: int) -> Iterator[tuple[slice, npt.NDArray[np.int64]]]:
    """Yield the slice of resamples, and how often each image is drawn in them, int64 (rows, images), block by block."""
    rows = max(1, CELLS_PER_BLOCK // images)
    for start in range(0, resamples, rows):
        block = slice(start, min(start + rows, resamples))
        many = block.stop - block.start
        drawn = rng.integers(0, images, (many, images)) + images * np.arange(many)[:, np.newaxis]
        yield block, np.bincount(drawn.ravel(), minlength=many * images).reshape(many, images)


@dataclass(frozen=True, slots=True)
class _Sorted:
    """Values of queries in ascending order, float64 (n,), and the image of each."""

    values: Floats
    image_of: Ids

    @classmethod
    def of(cls, values: Floats, image_of: Ids) -> _Sorted:
        order = np.argsort(values, kind="stable")
        return cls(values[order], image_of[order])

    def medians(self, counts: npt.NDArray[np.int64]) -> Floats:
        """Return `np.median` of the values with each image repeated as in `counts` (rows, images): float64 (rows,)."""
        medians = np.empty(len(counts))
        for row, times in enumerate(counts):
            reached = np.cumsum(times[self.image_of])
            middle = (reached[-1] - 1) // 2, reached[-1] // 2
            medians[row] = self.values[np.searchsorted(reached, middle, side="right")].mean()
        return medians


def bca_interval(resampled: Floats, totals: Floats, sizes: Floats, level: float = LEVEL) -> Interval:
    """Return the bias-corrected and accelerated interval of an average over queries, sum of `totals` / sum of `sizes`.

    `totals` and `sizes` are per image, `resampled` (resamples,) are the averages in the resamples. The acceleration
    comes from each image's influence on the average, total - average * size (Efron and Tibshirani 1993, formula 14.15,
    with influence for the jackknife).
    If all images agree, the interval is the one value.
    """
    estimate = float(totals.sum() / sizes.sum())
    if is_unanimous(totals, sizes):
        return estimate, estimate
    influence = totals - estimate * sizes
    acceleration = float((influence**3).sum() / (6 * (influence**2).sum() ** 1.5))
    # Discrete averages tie with the estimate often: half of the ties count as below.
    below = float(np.mean(resampled < estimate) + np.mean(resampled == estimate) / 2)
    half = 0.5 / len(resampled)
    bias = _NORMAL.inv_cdf(min(max(below, half), 1 - half))
    ends = []
    for share in ((1 - level) / 2, (1 + level) / 2):
        z = bias + _NORMAL.inv_cdf(share)
        ends.append(_NORMAL.cdf(bias + z / max(1 - acceleration * z, NO_SPREAD)))
    return _between(resampled, ends[0], ends[1], estimate)


def percentile_interval(resampled: Floats, estimate: float, level: float = LEVEL) -> Interval:
    """Return the middle `level` of the resampled values (Efron and Tibshirani 1993, chapter 13)."""
    return _between(resampled, (1 - level) / 2, (1 + level) / 2, estimate)


def _between(resampled: Floats, low: float, high: float, estimate: float) -> Interval:
    """Return the quantiles `low` and `high` of the resampled values, extended to contain the estimate.

    With few and skewed images it can be outside of them.
    """
    ends = np.quantile(resampled, (low, high), method="inverted_cdf")
    return min(float(ends[0]), estimate), max(float(ends[1]), estimate)


def is_unanimous(totals: Floats, sizes: Floats) -> bool:
    """Return whether all images have the same average, rounding aside."""
    averages = totals / sizes
    return bool(np.ptp(averages) <= NO_SPREAD * max(1.0, float(np.abs(averages).max())))


def unanimous_interval(estimate: float, images: int, level: float = LEVEL, highest: float = 100) -> Interval:
    """Return an interval in percent if every image has the same score, which a bootstrap would call certain.

    None of n images differs from the others, so (Clopper and Pearson, Biometrika 26, 1934) the share of images that
    differ is at most q = 1 - (alpha / 2)^(1/n), and their scores are between 0 and `highest`: 0 of 100 images give 0 to
    3.6 %.
    """
    unlike = 1 - math.pow((1 - level) / 2, 1 / images)
    return estimate * (1 - unlike), estimate * (1 - unlike) + highest * unlike


def share_interval(found: int, drawn: int, total: int, level: float = LEVEL) -> Interval:
    """Return the interval, in percent, of a share of `total` items, if `found` of `drawn` drawn at random belong to it.

    Exact, from the hypergeometric distribution: with many items it is Clopper and Pearson's; if all are drawn, it is
    the share itself.
    """

    def fewest(found: int) -> int:
        """Return the smallest number among all items with which so many or more are found often enough."""
        often_enough = range(found, total - drawn + found + 1)
        return often_enough[bisect_left(often_enough, (1 - level) / 2, key=lambda among: at_least(found, among))]

    def at_least(found: int, among: int) -> float:
        ways = (_log_ways(among, k) + _log_ways(total - among, drawn - k) for k in range(found, min(among, drawn) + 1))
        return math.fsum(math.exp(each - _log_ways(total, drawn)) for each in ways)

    return 100 * fewest(found) / total, 100 * (total - fewest(drawn - found)) / total


def _log_ways(items: int, chosen: int) -> float:
    """Return the logarithm of the number of ways to choose some of the items."""
    if not 0 <= chosen <= items:
        return -math.inf
    return math.lgamma(items + 1) - math.lgamma(chosen + 1) - math.lgamma(items - chosen + 1)


def swap_p_values(
    differences: Floats,
    others: Sequence[tuple[Floats, Floats]],
    image_of: Ids,
    *,
    randomisations: int = RANDOMISATIONS,
    seed: int = 0,
) -> tuple[Floats, Floats]:
    """Return two-sided p-values of paired randomisation tests, for means (columns,) and for medians (pairs,).

    `differences` float64 (n, columns) are B - A of each query, `others` the values in A and in B whose medians are
    compared, each (n,). If A and B were alike, swapping them for any image, with all its queries, would change nothing.
    p is the share of random swaps whose difference is at least as large, the observed one counted in (Smucker, Allan
    and Carterette, CIKM 2007), so it is never below 1 / (1 + randomisations). Medians are tested with the first
    `OF_THE_MEDIAN` swaps.
    """
    totals, _ = image_totals(differences, image_of)
    observed = np.abs(totals.sum(axis=0))
    least = observed - NO_SPREAD * np.abs(totals).sum(axis=0)
    least_medians = np.array([abs(np.median(b) - np.median(a)) for a, b in others])
    as_large, medians_as_large = np.zeros(totals.shape[1], dtype=np.int64), np.zeros(len(others), dtype=np.int64)
    for_medians = min(randomisations, OF_THE_MEDIAN)
    rows = max(1, CELLS_IN_CACHE // len(image_of))
    done = 0
    for swapped in _swaps(np.random.default_rng((seed, 1)), randomisations, len(totals)):
        sums = totals.sum(axis=0) - 2 * (swapped.astype(np.float64) @ totals)
        as_large += np.count_nonzero(np.abs(sums) >= least, axis=0)
        for first in range(0, min(len(swapped), for_medians - done), rows):
            swap = swapped[first : min(first + rows, for_medians - done)][:, image_of]
            for number, (a, b) in enumerate(others):
                change = np.median(np.where(swap, a, b), axis=1) - np.median(np.where(swap, b, a), axis=1)
                medians_as_large[number] += np.count_nonzero(np.abs(change) >= least_medians[number])
        done += len(swapped)
    return (1 + as_large) / (1 + randomisations), (1 + medians_as_large) / (1 + for_medians)


def _swaps(rng: np.random.Generator, randomisations: int, images: int) -> Iterator[npt.NDArray[np.bool_]]:
    """Yield which images are swapped, each with probability one half: (rows, images), a block of rows at a time."""
    rows = max(1, CELLS_PER_BLOCK // images)
    for start in range(0, randomisations, rows):
        yield rng.integers(0, 2, (min(rows, randomisations - start), images), dtype=np.int8).astype(np.bool_)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for their number, in order (Holm, Scandinavian Journal of Statistics 6, 1979)."""
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for done, place in enumerate(sorted(range(len(p_values)), key=lambda place: p_values[place])):
        largest = max(largest, min(1.0, (len(p_values) - done) * p_values[place]))
        adjusted[place] = largest
    return adjusted
