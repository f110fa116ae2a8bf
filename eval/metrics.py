"""Retrieval metrics.

A metric is one `Metric` record. To add one, write its record here and add it to `METRICS`: the tables, metrics.json,
the intervals, `eval compare` and the page take everything they show from the records. Test it in tests/test_metrics.py
against a few ranks that can be scored by hand, and name it in docs/evaluation.md, where a test expects it.

Ranks count from 1. A rank is `NOT_FOUND` if it is unknown because only the first hits were fetched.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from eval.protocol import DIRECTIONS

Ranks = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

CUTOFFS = (1, 5, 10)
LABEL = 11  # characters, at most, that name a metric in a table on a terminal
NOT_FOUND = int(np.iinfo(np.int64).max)

Average = Literal["mean", "median"]
TableName = Literal["main", "second"]


@dataclass(frozen=True, slots=True)
class PositiveRanks:
    """The ranks of all positives of n queries.

    `ranks` int64 (pairs,): those of query i are `ranks[starts[i]:starts[i + 1]]`, ascending, at least one, without
    duplicates. `totals` int64 (n,): the number of positives of each query, including those that the gallery lacks.
    """

    ranks: Ranks
    starts: Ranks
    totals: Ranks

    def sums(self, values: npt.NDArray[np.bool_] | Floats) -> Floats:
        """Return the sum of `values` (pairs,) over the positives of each query, float64 (n,)."""
        return np.asarray(np.add.reduceat(values.astype(np.float64), self.starts[:-1]), dtype=np.float64)

    @property
    def precision(self) -> Floats:
        """The precision at each positive, float64 (pairs,): the number of positives down to it, divided by its rank."""
        number = np.arange(len(self.ranks)) - np.repeat(self.starts[:-1], np.diff(self.starts)) + 1
        return np.asarray(number / self.ranks, dtype=np.float64)

    @property
    def among_first_r(self) -> npt.NDArray[np.bool_]:
        """Whether each positive (pairs,) is among the first R hits of a query that has R positives."""
        return self.ranks <= np.repeat(self.totals, np.diff(self.starts))


@dataclass(frozen=True, slots=True)
class Ranking:
    """The known ranks of n queries, from which metrics are computed.

    `ranks` int64 (n,): the rank of each query's best positive, before any negative that ties with it. `depth`: how many
    hits of each query were fetched, None if every rank is known. `positives`: the ranks of all positives, if known.
    `pessimistic`: the same ranking with the negatives first in every tie, if known. `recorded`: values of metrics that
    a finished run stores because its file does not hold what they were computed from, each float64 (n,), by
    `Metric.recorded`.

    Raises:
        ValueError: there are no ranks, one is below 1, or one is `NOT_FOUND` although `depth` is None.
    """

    ranks: Ranks
    depth: int | None = None
    positives: PositiveRanks | None = None
    pessimistic: Ranking | None = None
    recorded: Mapping[str, Floats] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not len(self.ranks) or self.ranks.min() < 1:
            raise ValueError("ranks count from 1, and there must be at least one")
        if self.depth is None and self.ranks.max() == NOT_FOUND:
            raise ValueError("a rank is unknown: give the number of hits that were fetched as `depth`")
        for name, values in self.recorded.items():
            if len(values) != len(self.ranks):
                raise ValueError(f"{len(self.ranks)} ranks, but {len(values)} values of {name}")

    @property
    def tied(self) -> int:
        """The number of queries with a rank that depends on the order of equal scores."""
        worst = self.pessimistic
        if worst is None:
            return 0
        differ = self.ranks != worst.ranks
        if self.positives is not None and worst.positives is not None:
            differ |= self.positives.sums(self.positives.ranks != worst.positives.ranks) > 0
        return int(np.count_nonzero(differ))


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One way to score a ranking.

    name: the key in metrics.json.
    of: returns the value of each query, float64 or bool (n,), or None if the ranking lacks what the metric needs. A
        metric in percent returns shares from 0 to 1.
    depth: how many of the first hits the metric needs, None for all. If fewer were fetched, a query whose positive is
        not among them has no value, and the score is None if it depends on that query.
    unit, digits: the unit of the score, and the decimals that the tables show.
    better: whether a high or a low score is good.
    average: how the values of the queries become one score.
    recorded: for a metric that needs the ranks of all positives, the field of ranks.jsonl that stores the value of each
        query, from which `eval compare` computes the score.
    short: the name in the tables, if not `name` without underscores.
    headline: whether it is among the large numbers at the top of the page.
    table: the table that shows it: "main" for the five figures that the field reports, "second" for those below them,
        which are all in percent and which a terminal shows only for rankers that know all ranks. It shows five metrics
        side by side; a sixth begins another block.
    most: the largest value of one query, for a metric in percent.

    Raises:
        ValueError: the name in the tables is longer than `LABEL` characters, or `table` and `unit` do not fit together.
    """

    name: str
    of: Callable[[Ranking], npt.NDArray[np.bool_] | Floats | None]
    depth: int | None
    unit: Literal["percent", "rank"] = "percent"
    digits: int = 2
    better: Literal["higher", "lower"] = "higher"
    average: Average = "mean"
    recorded: str | None = None
    short: str = ""
    headline: bool = False
    table: TableName = "second"
    most: int = 1

    def __post_init__(self) -> None:
        if self.table == "second" and self.unit != "percent":
            raise ValueError(f"{self.name}: the second table is all in percent")
        if len(self.label) > LABEL:
            raise ValueError(f"{self.label!r} is too long for a table ({LABEL} characters): give the metric a `short`")

    @property
    def title(self) -> str:
        return self.name.replace("_", " ")

    @property
    def label(self) -> str:
        return self.short or self.title

    @property
    def scale(self) -> int:
        return 100 if self.unit == "percent" else 1

    def exceeds(self, depth: int | None) -> bool:
        """Return whether `depth` hits are too few to compute the value of a query whose positive is not among them."""
        return depth is not None and (self.depth is None or self.depth > depth)

    def values(self, ranking: Ranking) -> Floats | None:
        """Return the value of each query, float64 (n,), before scaling; None if the ranking lacks what it needs.

        The value of a query is minus or plus infinity, whichever is worse, if too few hits were fetched to know it.
        """
        recorded = ranking.recorded.get(self.recorded) if self.recorded else None
        of_queries = self.of(ranking) if recorded is None else recorded
        if of_queries is None:
            return None
        values = of_queries.astype(np.float64)
        if self.exceeds(ranking.depth):
            values[ranking.ranks == NOT_FOUND] = math.inf if self.better == "lower" else -math.inf
        return values

    def score(self, values: Floats) -> float | None:
        """Return the average of `values`, scaled; None if it depends on hits that were not fetched."""
        score = float(self.scale * (np.median(values) if self.average == "median" else np.mean(values)))
        return score if math.isfinite(score) else None


def over_positives(of: Callable[[PositiveRanks], Floats]) -> Callable[[Ranking], Floats | None]:
    """Return `Metric.of` for a function of the ranks of all positives."""
    return lambda ranking: None if ranking.positives is None else of(ranking.positives)


def recall(k: int) -> Metric:
    """Return Recall@k as the image-text retrieval literature reports it (Karpathy and Fei-Fei, CVPR 2015): a hit rate.

    It is the share of queries with a positive among the first k. In information retrieval, recall is the share of a
    query's positives that are found, which cannot exceed 20% at k = 1 with five captions: see `proportion`.
    """
    return Metric(
        name=f"recall@{k}", of=lambda ranking: ranking.ranks <= k, depth=k, headline=k in CUTOFFS, table="main"
    )


def proportion(k: int) -> Metric:
    """Return the mean share of a query's positives in the gallery that are among the first k."""
    return Metric(
        name=f"proportion@{k}",
        of=over_positives(lambda positives: positives.sums(positives.ranks <= k) / np.diff(positives.starts)),
        depth=k,
        short=f"first {k}",
    )


def average_precision(positives: PositiveRanks) -> Floats:
    """Return the mean of the precisions at a query's positives (Manning, Raghavan and Schütze 2008, section 8.4).

    float64 (n,), from 0 to 1.
    """
    return positives.sums(positives.precision) / np.diff(positives.starts)


def r_precision(positives: PositiveRanks) -> Floats:
    """Return the share of a query's R positives among its first R hits (Manning, Raghavan and Schütze 2008, ch. 8.4).

    float64 (n,), from 0 to 1.
    """
    return positives.sums(positives.among_first_r) / positives.totals


def map_at_r(positives: PositiveRanks) -> Floats:
    """Return average precision over a query's first R hits only (Musgrave, Belongie and Lim, ECCV 2020).

    float64 (n,), from 0 to 1.
    """
    return positives.sums(np.where(positives.among_first_r, positives.precision, 0)) / positives.totals


def ndcg(k: int) -> Metric:
    """Return nDCG@k with gain 1 for every positive (Järvelin and Kekäläinen, ACM TOIS 20, 2002).

    As in trec_eval, a positive at rank r counts 1 / log2(r + 1), and the sum is divided by that of a ranking with all
    positives first.
    """

    def of(positives: PositiveRanks) -> Floats:
        gains = np.where(positives.ranks <= k, 1 / np.log2(positives.ranks + 1.0), 0)
        ideal = np.cumsum(1 / np.log2(np.arange(2.0, k + 2)))
        return np.asarray(positives.sums(gains) / ideal[np.minimum(positives.totals, k) - 1])

    return Metric(name=f"ndcg@{k}", of=over_positives(of), depth=k, recorded=f"ndcg@{k}", short=f"nDCG@{k}")


def rsum(scores: Mapping[str, Mapping[str, float | None]]) -> float | None:
    """Return the sum of recall@1, @5 and @10 over both directions, at most 600; None if one is not known.

    Papers on image-text retrieval report it since VSE++ (Faghri et al., BMVC 2018), whose code selects models by it.
    `RECALL_SUM` is the part of one direction.
    """
    recalls = [scores.get(way, {}).get(metric.name) for way in DIRECTIONS for metric in RECALLS]
    known = [value for value in recalls if value is not None]
    return sum(known) if len(known) == len(recalls) else None


RECALLS = tuple(map(recall, CUTOFFS))
MEDIAN_RANK = Metric(
    name="median_rank",
    of=lambda ranking: ranking.ranks.astype(np.float64),
    depth=None,
    unit="rank",
    digits=1,
    better="lower",
    average="median",
    headline=True,
    table="main",
)
MEAN_RANK = Metric(
    name="mean_rank",
    of=lambda ranking: ranking.ranks.astype(np.float64),
    depth=None,
    unit="rank",
    better="lower",
    table="main",
)
MEAN_AVERAGE_PRECISION = Metric(
    name="mean_average_precision",
    of=over_positives(average_precision),
    depth=None,
    recorded="average_precision",
    short="mAP",
)
# Of the best positive (Voorhees, TREC-8, 1999).
MEAN_RECIPROCAL_RANK = Metric(name="mrr", of=lambda ranking: 1 / ranking.ranks, depth=None, short="MRR")
NDCG_AT_10 = ndcg(10)
R_PRECISION = Metric(
    name="r_precision",
    of=over_positives(r_precision),
    depth=None,
    recorded="r_precision",
    short="R-precision",
)
RECALL_SUM = Metric(
    name="recall_sum",
    of=lambda ranking: np.sum([ranking.ranks <= k for k in CUTOFFS], axis=0).astype(np.float64),
    depth=max(CUTOFFS),
    short="recall sum",
    most=len(CUTOFFS),
)

METRICS: list[Metric] = [
    *RECALLS,
    MEDIAN_RANK,
    MEAN_RANK,
    MEAN_AVERAGE_PRECISION,
    NDCG_AT_10,
    MEAN_RECIPROCAL_RANK,
    R_PRECISION,
    RECALL_SUM,
]
"""The scores of a run, in the order in which they are shown."""


def in_table(name: TableName) -> list[Metric]:
    """Return the metrics that a table shows, in order."""
    return [metric for metric in METRICS if metric.table == name]


PROPORTIONS = tuple(map(proportion, CUTOFFS))
MTEB = (
    replace(NDCG_AT_10, name="ndcg_at_10"),
    *(replace(share, name=f"recall_at_{share.depth}", short=f"recall@{share.depth}") for share in PROPORTIONS),
)
"""The scores of MTEB's retrieval tasks, by its names for them; its recall is the share of a query's positives."""
MAP_AT_R = Metric(name="map_at_r", of=over_positives(map_at_r), depth=None, short="mAP@R")


def scores(ranking: Ranking, metrics: Iterable[Metric] = METRICS) -> dict[str, float | None]:
    """Return the scores by the metric's name, without metrics for which the ranking lacks what they need.

    A score is None if too few hits were fetched to know it.
    """
    of_queries = ((metric, metric.values(ranking)) for metric in metrics)
    return {metric.name: metric.score(values) for metric, values in of_queries if values is not None}


def pessimistic_scores(ranking: Ranking, metrics: Iterable[Metric] = METRICS) -> dict[str, float | None]:
    """Return the scores if every tie is lost; empty if ties make no difference, or are not known."""
    return scores(ranking.pessimistic, metrics) if ranking.pessimistic is not None and ranking.tied else {}


def label(name: str) -> str:
    """Return the label of the metric of this name, for the page; a name without a record, without underscores."""
    known = (*METRICS, *PROPORTIONS, *MTEB, MAP_AT_R)
    return next((metric.label for metric in known if metric.name == name), name.replace("_", " "))
