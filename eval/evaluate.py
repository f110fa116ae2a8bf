"""One evaluation, from the index to its report.

From `python -m eval run` to a printed row:

    eval/__main__.py         run()                the options (options.py) become a `Plan`
    eval/ground_truth.py     read_ground_truth()  queries, gallery and positives become an `Evaluation` (protocol.py)
    eval/evaluate.py         evaluate()           every ranker ranks all queries (ranks/rankers.py): a `Ranking` each
    eval/metrics.py          scores()             a `Ranking` becomes scores, one for each record of `METRICS`
    eval/report/report.py    Report.metrics()     scores, losses, intervals (stats.py) become `RunMetrics` (runs.py)
    eval/report/text.py      table()              the row; page.py shows the same in HTML, runs.py writes metrics.json

The blocks beside the rankers are each made by one module: folds, CxC and ECCV Caption, MTEB's scores and recall by
caption length in eval/extended/; losses against the oracle in differences.py; scores that are corrected for hubness in
eval/hubness/; captions as evidence for photos in eval/captioned/.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from eval.captioned.block import captioned_block
from eval.differences import losses
from eval.extended.eccv import extended_scores
from eval.extended.folds import fold_metrics
from eval.extended.lengths import by_caption_length
from eval.extended.mteb import as_mteb_counts
from eval.fingerprint import fingerprint
from eval.hubness.block import CorrectedBlock, corrected_block
from eval.hubness.ranks import correction_of
from eval.progress import query_bar
from eval.protocol import IMAGE_TO_TEXT, TEXT_TO_IMAGE, Evaluation
from eval.ranks.hnsw_check import Used
from eval.ranks.oracle import OracleRanks, oracle_ranks
from eval.ranks.rankers import (
    EXACT,
    ORACLE,
    SERVED,
    Ranker,
    answered_by,
    check_copies,
    exact_ranker,
    hnsw_rankers,
    oracle_ranker,
    quantized_rankers,
    served_ranker,
    writable,
)
from eval.report.report import Report
from eval.runs import CaptionedMetrics
from eval.stats import RESAMPLES, intervals
from search.index import Index, Quantization, ReadIndex
from search.ranking.hubness import Correction


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure besides the oracle.

    engines: "qdrant-exact", "qdrant-served", both or neither.
    efs: widths of HNSW beams; "qdrant-served" is then measured too, to compare them with.
    quantizations: each is measured on a copy of the galleries.
    folds: the number of parts into which the images are divided, 0 for none, None for five if there are 5,000 images.
    resamples: the number of bootstrap resamples for the intervals.
    hubness: the alpha of corrected scores, 0 for none, None for the stored one.
    evidence: the weight of captions in the task "captioned gallery, leave one out", None to leave it out.
    """

    engines: tuple[str, ...] = (EXACT, SERVED)
    efs: tuple[int, ...] = ()
    quantizations: tuple[Quantization, ...] = ()
    folds: int | None = None
    resamples: int = RESAMPLES
    hubness: float | None = None
    evidence: float | None = None


def evaluate(index: ReadIndex | None, evaluation: Evaluation, plan: Plan, copies_in: Index | None = None) -> Report:
    """Rank all queries by every ranker of the plan; without an index, by the oracle alone.

    `copies_in` is the same index, opened for writing. Quantised galleries are copies, and so are those for `plan.efs`
    if HNSW does not serve the collections themselves.

    Raises:
        IndexFailure: the plan needs copies, and the index refuses to create them.
        EvaluationError: the plan needs copies, and `copies_in` is None; the images cannot be divided into the folds;
            Qdrant returns no positive of a query in its whole answer; scores are to be corrected for hubness by
            numbers that are missing, or were measured with captions that are evaluated; or there are no captions of
            several photos for the evidence.
    """
    correction = answered = None
    if index is not None:
        correction = correction_of(index, evaluation, plan.hubness)
        answered = answered_by(index, evaluation) if plan.efs else None
        if plan.quantizations or (answered and set(answered.values()) != {"hnsw"}):
            check_copies(writable(copies_in), evaluation)  # before the exact replay, which may take an hour
    folds = fold_metrics(evaluation, plan.folds)
    with query_bar(ORACLE, evaluation.queries) as bar:
        oracle = {task.name: oracle_ranks(task, bar.update) for task in evaluation.tasks}
    headline = oracle_ranker(oracle)
    others: list[Ranker] = []
    corrected = captioned = None
    if index is not None:
        others = _qdrant_rankers(index, evaluation, oracle, plan, answered, copies_in)
        if correction is not None:
            best = oracle[TEXT_TO_IMAGE]
            corrected = _corrected(index, evaluation, correction, [headline, *others], best, plan.resamples)
        if plan.evidence is not None:
            captioned = _captioned(index, evaluation, plan.evidence, plan.resamples)
    image_of = {IMAGE_TO_TEXT: np.arange(evaluation.images), TEXT_TO_IMAGE: evaluation.image_of}
    return Report(
        evaluation=evaluation,
        oracle=oracle,
        headline=headline,
        others=others,
        intervals={
            name: intervals(ranking, image_of[name], resamples=plan.resamples)
            for name, ranking in headline.rankings.items()
        },
        losses=losses(
            headline.rankings,
            {ranker.name: ranker.rankings for ranker in others if ranker.name != EXACT},
            image_of,
            plan.resamples,
        ),
        folds=folds,
        extended=extended_scores(evaluation),
        mteb=as_mteb_counts(evaluation),
        corrected=corrected,
        captioned=captioned,
        lengths=by_caption_length(evaluation, headline.rankings[TEXT_TO_IMAGE], plan.resamples),
        fingerprint=fingerprint(evaluation, index),
    )


def _qdrant_rankers(
    index: ReadIndex,
    evaluation: Evaluation,
    oracle: dict[str, OracleRanks],
    plan: Plan,
    answered: dict[str, Used] | None,
    copies_in: Index | None,
) -> list[Ranker]:
    """Return the rankers of Qdrant that the plan names; `answered` is what answers a query of each collection."""
    rankers = []
    if EXACT in plan.engines:
        with query_bar(EXACT, evaluation.queries) as bar:
            rankers.append(exact_ranker(index, oracle, bar.update))
    if SERVED in plan.engines or plan.efs:
        with query_bar(SERVED, evaluation.queries) as bar:
            served = served_ranker(index, evaluation, bar.update, answered)
            rankers.append(served)
        if plan.efs:
            with query_bar("hnsw", len(plan.efs) * evaluation.queries) as bar:
                rankers += hnsw_rankers(index, copies_in, evaluation, served.used or {}, plan.efs, bar.update)
    for quantization in plan.quantizations:
        with query_bar(quantization, 2 * evaluation.queries) as bar:
            rankers += quantized_rankers(writable(copies_in), evaluation, quantization, bar.update)
    return rankers


def _corrected(
    index: ReadIndex,
    evaluation: Evaluation,
    correction: Correction,
    rankers: Sequence[Ranker],
    oracle: OracleRanks,
    resamples: int,
) -> CorrectedBlock:
    """Return the scores of the oracle, of "qdrant-exact" and of "qdrant-served", corrected for hubness."""
    plain = {
        ranker.name: ranker.rankings[TEXT_TO_IMAGE] for ranker in rankers if ranker.name in (ORACLE, EXACT, SERVED)
    }
    with query_bar("corrected", len(plain) * evaluation.captions) as bar:
        return corrected_block(index, evaluation, correction, plain, oracle, resamples=resamples, progress=bar.update)


def _captioned(index: ReadIndex, evaluation: Evaluation, weight: float, resamples: int) -> CaptionedMetrics:
    """Return the scores with captions as evidence for photos."""
    with query_bar("captioned", evaluation.captions) as bar:
        return captioned_block(index, evaluation, weight, resamples=resamples, progress=bar.update)
