"""Differences between two rankings of the same queries, with intervals and p-values.

The queries are compared one by one: the interval of a difference comes from resampling the same images for both
rankings, its p-value from swapping the rankings image by image (`eval.stats`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from eval.metrics import METRICS, Average, Floats, Metric, Ranking
from eval.stats import (
    RANDOMISATIONS,
    RESAMPLES,
    Ids,
    Interval,
    columns,
    holm,
    image_numbers,
    per_query,
    percentile_interval,
    resample,
    swap_p_values,
)

SIGNIFICANT = 0.05


@dataclass(frozen=True, slots=True)
class Difference:
    """One metric in two rankings (percent, or a rank): B - A, its 95 % interval and p-value.

    `p_holm` is the p-value adjusted for all comparisons, of which one in twenty would appear to differ by chance.
    """

    metric: Metric
    a: float
    b: float
    difference: float
    interval: Interval
    p: float
    p_holm: float

    @property
    def better(self) -> str | None:
        """A or B, if the adjusted p is under 0.05."""
        if self.p_holm >= SIGNIFICANT or not self.difference:
            return None
        return "B" if (self.difference < 0) == (self.metric.better == "lower") else "A"


def differences(
    a: Ranking,
    b: Ranking,
    image_of: Ids,
    *,
    resamples: int = RESAMPLES,
    randomisations: int = RANDOMISATIONS,
    seed: int = 0,
) -> list[Difference]:
    """Return the difference of every metric that both rankings know for each query; `p_holm` is not adjusted yet.

    `image_of` int64 (n,) is the image that each query is or belongs to, by any number.
    """
    image_of = image_numbers(image_of, len(a.ranks))
    means, medians = (_of_both(a, b, average) for average in ("mean", "median"))
    by_query = columns((in_b - in_a for in_a, in_b in means.values()), len(image_of))
    drawn = resample(
        by_query, [of for both in medians.values() for of in both], image_of, resamples=resamples, seed=seed
    )
    p_means, p_medians = swap_p_values(
        by_query, list(medians.values()), image_of, randomisations=randomisations, seed=seed
    )
    found = {}
    for column, (metric, (in_a, in_b)) in enumerate(means.items()):
        difference, p = float(by_query[:, column].mean()), float(p_means[column])
        interval = percentile_interval(drawn.means[:, column], difference)
        found[metric] = Difference(metric, float(in_a.mean()), float(in_b.mean()), difference, interval, p, p)
    for column, (metric, (in_a, in_b)) in enumerate(medians.items()):
        at_a, at_b, p = float(np.median(in_a)), float(np.median(in_b)), float(p_medians[column])
        resampled = drawn.medians[:, 2 * column + 1] - drawn.medians[:, 2 * column]
        interval = percentile_interval(resampled, at_b - at_a)
        found[metric] = Difference(metric, at_a, at_b, at_b - at_a, interval, p, p)
    return [found[metric] for metric in METRICS if metric in found]


def adjusted(families: Sequence[Sequence[Difference]]) -> list[list[Difference]]:
    """Return the same differences, `p_holm` adjusted for their number in all."""
    p_values = iter(holm([difference.p for family in families for difference in family]))
    return [[replace(difference, p_holm=next(p_values)) for difference in family] for family in families]


def losses(
    oracle: Mapping[str, Ranking],
    others: Mapping[str, Mapping[str, Ranking]],
    image_of: Mapping[str, Ids],
    resamples: int,
) -> dict[str, dict[str, list[Difference]]]:
    """Return how the scores of other rankers, given by name, differ from the oracle's, by ranker and direction.

    Compare only scores that the first hits show for every query. Rankings, and `image_of`, the image of each query, are
    by direction. All p-values are adjusted together.
    """
    found = {
        (name, way): differences(oracle[way], ranking, image_of[way], resamples=resamples)
        for name, rankings in others.items()
        for way, ranking in rankings.items()
    }
    by_ranker: dict[str, dict[str, list[Difference]]] = {}
    for (name, way), of_direction in zip(found, adjusted(list(found.values())), strict=True):
        by_ranker.setdefault(name, {})[way] = of_direction
    return by_ranker


def _of_both(a: Ranking, b: Ranking, average: Average) -> dict[Metric, tuple[Floats, Floats]]:
    """Return the values of each query in A and in B, of the metrics that both know for every query."""
    of_a, of_b = (per_query(ranking, average) for ranking in (a, b))
    both = {metric: (values, of_b[metric]) for metric, values in of_a.items() if metric in of_b}
    return {metric: pair for metric, pair in both.items() if np.isfinite(pair).all()}
