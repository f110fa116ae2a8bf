"""The corrected scores of a run: of text-to-image alone, each beside the plain score of the same ranker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from eval.differences import Difference, adjusted, differences
from eval.histogram import log_bins
from eval.hubness.ranks import Corrected, FirstTen, by_index, by_oracle, occurrences, overlap, skewness
from eval.metrics import Ranking, Ranks, scores
from eval.progress import Progress
from eval.protocol import TEXT_TO_IMAGE, Evaluation, Ids
from eval.ranks.oracle import OracleRanks
from eval.ranks.rankers import EXACT, ORACLE, SERVED
from eval.runs import CorrectedMetrics, LossMetrics, RankerMetrics
from search.index import ReadIndex
from search.ranking.hubness import Correction

ABOUT = {
    ORACLE: "exact arithmetic on the stored vectors and numbers",
    EXACT: "the first 10 hits of `search --exact`",
    SERVED: "the first 10 hits of `search`",
}


@dataclass(frozen=True, slots=True)
class CorrectedBlock:
    """The corrected rankings by the name of their ranker, and how they differ from the plain ones of that ranker.

    `answers` int64 (images,): in how many first tens each image is, by the oracle, plain and corrected.
    """

    correction: Correction
    rankings: Mapping[str, Corrected]
    differences: Mapping[str, list[Difference]]
    answers: Mapping[str, Ids]
    overlaps: Mapping[str, float]

    @property
    def ranks(self) -> Ranks:
        return self.rankings[ORACLE].ranking.ranks

    def metrics(self, evaluation: Evaluation) -> CorrectedMetrics:
        stored = evaluation.spec.hubness
        assert stored is not None
        columns = [
            RankerMetrics(
                name=name,
                about=ABOUT[name],
                scores={TEXT_TO_IMAGE: scores(found.ranking)},
                overlap_at_10={TEXT_TO_IMAGE: self.overlaps[name]} if name in self.overlaps else None,
            )
            for name, found in self.rankings.items()
        ]
        return CorrectedMetrics(
            alpha=self.correction.alpha,
            k=stored.k,
            references=stored.count,
            references_sha256=stored.sha256,
            columns=columns,
            significance={name: tested(found) for name, found in self.differences.items()},
            skewness={name: skewness(counts) for name, counts in self.answers.items()},
            answers={name: log_bins(counts, 0, int(counts.max())) for name, counts in self.answers.items()},
        )


def corrected_block(
    index: ReadIndex,
    evaluation: Evaluation,
    correction: Correction,
    plain: Mapping[str, Ranking],
    oracle: OracleRanks,
    *,
    resamples: int,
    progress: Progress,
) -> CorrectedBlock:
    """Rank by corrected scores as the rankers of `plain` do; `progress` counts the queries of each.

    `plain` are rankings of text-to-image by the name of their ranker: ORACLE, and perhaps EXACT and SERVED. `oracle`
    are the ranks behind the first.
    """
    task = evaluation.text_to_image
    rankings = {
        name: by_oracle(task, evaluation.hubness, correction.alpha, progress)
        if name == ORACLE
        else by_index(index, task, correction, exact=name == EXACT, progress=progress)
        for name in plain
    }
    found = {  # each is a family of its own: the rankers only repeat each other
        name: adjusted([differences(plain[name], corrected.ranking, evaluation.image_of, resamples=resamples)])[0]
        for name, corrected in rankings.items()
    }
    best = {"plain": FirstTen(*oracle.first_ten), "corrected": rankings[ORACLE].first}
    return CorrectedBlock(
        correction=correction,
        rankings=rankings,
        differences=found,
        answers={name: occurrences(first, evaluation.images) for name, first in best.items()},
        overlaps={
            name: overlap(corrected.first, rankings[ORACLE].first, evaluation.spec.dim)
            for name, corrected in rankings.items()
            if name != ORACLE
        },
    )


def tested(found: Sequence[Difference]) -> dict[str, LossMetrics]:
    """Return differences as metrics.json holds them, by metric."""
    return {
        each.metric.name: LossMetrics(difference=each.difference, interval=each.interval, p=each.p, p_holm=each.p_holm)
        for each in found
    }
