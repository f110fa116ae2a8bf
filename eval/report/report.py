"""The results of a run: everything that metrics.json holds, and the result of each query.

`evaluate` makes a `Report`, whose scores are computed here; `text.py` and `page.py` show it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import takewhile
from typing import Any

import numpy as np

from eval.differences import Difference
from eval.extended.eccv import ExtendedScores
from eval.hubness.block import CorrectedBlock, tested
from eval.metrics import METRICS, NOT_FOUND, PROPORTIONS, Floats, Metric, Ranking, pessimistic_scores, rsum, scores
from eval.protocol import TEXT_TO_IMAGE, Evaluation
from eval.ranks.hnsw_check import REASONS
from eval.ranks.oracle import OracleRanks, overlaps
from eval.ranks.rankers import EXACT, SERVED, Ranker
from eval.ranks.replay import Agreement, agreement
from eval.report.published import compare_with_published, gallery_warnings
from eval.runs import (
    PERCENTILES,
    CaptionedMetrics,
    FoldMetrics,
    LengthMetrics,
    MtebMetrics,
    QueryResult,
    RankerMetrics,
    RunMetrics,
    Scores,
    TopHit,
)
from eval.stats import Interval

DIGITS = 9  # of a score in ranks.jsonl, so that near ties can be told apart


@dataclass(frozen=True, slots=True)
class Report:
    """The results of one run: the oracle's ranks by direction, every ranker, and intervals of the headline's scores.

    `headline` is the oracle, since the ranks of every other ranker depend on how that ranker rounds. `others` are in
    the order of the table.
    """

    evaluation: Evaluation
    oracle: dict[str, OracleRanks]
    headline: Ranker
    others: list[Ranker]
    intervals: dict[str, dict[str, Interval]]
    losses: dict[str, dict[str, list[Difference]]]
    folds: FoldMetrics | None
    extended: ExtendedScores | None
    mteb: MtebMetrics | None
    corrected: CorrectedBlock | None
    captioned: CaptionedMetrics | None
    lengths: list[LengthMetrics]
    fingerprint: dict[str, Any]

    @property
    def rankers(self) -> list[Ranker]:
        return [self.headline, *self.others]

    def agreements(self) -> dict[str, Agreement]:
        """Return how Qdrant's exact ranks compare with the oracle's, by direction; empty if they were not measured."""
        exact = self._named(EXACT)
        return {name: agreement(self.oracle[name], exact.ranks(name)) for name in exact.rankings} if exact else {}

    def scores(self, ranker: Ranker) -> dict[str, Scores]:
        """Return one ranker's scores by direction, of the metrics for which its rankings have what they need."""
        return {direction: scores(ranking) for direction, ranking in ranker.rankings.items()}

    def loss(self, ranker: Ranker) -> dict[str, Scores]:
        """Return the difference of a ranker's scores from the headline's."""
        headline = self.scores(self.headline)
        return {
            direction: {name: _difference(value, headline[direction][name]) for name, value in scores.items()}
            for direction, scores in self.scores(ranker).items()
        }

    def pessimistic(self, ranker: Ranker, metrics: Iterable[Metric] = METRICS) -> dict[str, Scores]:
        """Return the scores if every tie is lost, and the number of queries with ties, by the directions that have any.

        Those of a ranker whose answers were not all fetched are not known.
        """
        worst = {way: pessimistic_scores(ranking, metrics) for way, ranking in ranker.rankings.items()}
        return {way: {"queries": ranker.rankings[way].tied, **scores} for way, scores in worst.items() if scores}

    def metrics(self) -> RunMetrics:
        """Return everything that metrics.json holds, from which the table and the page are made."""
        evaluation, headline = self.evaluation, self.scores(self.headline)
        return RunMetrics(
            scores=headline,
            rsum=rsum(headline),
            engine=self.headline.name,
            engine_version=self.fingerprint["engine"],
            oracle=headline,  # metrics.json has both, since the headline of older files may be another ranker's
            columns=[self._of_ranker(ranker) for ranker in self.rankers],
            loss={ranker.name: self.loss(ranker) for ranker in self.rankers if ranker.replays is not None},
            significance={
                name: {way: tested(differences) for way, differences in by_direction.items()}
                for name, by_direction in self.losses.items()
            },
            intervals=self.intervals,
            pessimistic=self.pessimistic(self.headline, (*METRICS, *PROPORTIONS)),
            proportion={way: scores(found.ranking, PROPORTIONS) for way, found in self.oracle.items()},
            folds=self.folds,
            extended=self.extended,
            mteb=self.mteb,
            caption_lengths=self.lengths,
            corrected=self.corrected.metrics(evaluation) if self.corrected else None,
            captioned=self.captioned,
            published=compare_with_published(evaluation, headline, self.intervals),
            agreement={way: found.counts() for way, found in self.agreements().items()},
            images=evaluation.images,
            captions=evaluation.captions,
            captions_per_image=evaluation.captions_per_image or "all",
            split="+".join(evaluation.splits),
            dataset=evaluation.spec.dataset,
            model=evaluation.spec.model,
            date=datetime.now(UTC).isoformat(timespec="seconds"),
            fingerprint=self.fingerprint,
            notes=[*evaluation.notes, *gallery_warnings(evaluation), *self.notes()],
        )

    def _of_ranker(self, ranker: Ranker) -> RankerMetrics:
        replays = ranker.replays or {}
        return RankerMetrics(
            name=ranker.name,
            about=ranker.about,
            same_ranks_as=self._same_ranks_as(ranker),
            scores=self.scores(ranker),
            pessimistic=self.pessimistic(ranker),
            queries_per_second={way: found.queries_per_second for way, found in replays.items()} or None,
            latency_ms={way: float(np.median(found.latencies_ms)) for way, found in replays.items()} or None,
            latency_percentiles_ms={way: _percentiles(found.latencies_ms) for way, found in replays.items()} or None,
            overlap_at_10={
                way: float(100 * overlaps(self.oracle[way], found.top_ids).mean()) for way, found in replays.items()
            }
            or None,
            bytes_per_vector=ranker.bytes_per_vector,
            used=ranker.used,
        )

    def _same_ranks_as(self, ranker: Ranker) -> str:
        """Return the name of the first ranker whose ranks are those of a later one, in ties too; "" if none is."""
        for earlier in takewhile(lambda other: other is not ranker, self.rankers):
            if all(_same(earlier.rankings[way], ranking) for way, ranking in ranker.rankings.items()):
                return earlier.name
        return ""

    def notes(self) -> list[str]:
        """Return what a reader of the rankers' scores must know."""
        notes = []
        for ranker in self.rankers:
            for answered, reason in REASONS.items():
                if where := [direction for direction, by in (ranker.used or {}).items() if by == answered]:
                    more = "; --ef 64 measures HNSW on a copy that must use it" if ranker.name == SERVED else ""
                    notes.append(f"{ranker.name}, {' and '.join(where)}: {reason}{more}")
            notes += _too_few_hits(ranker)
        stored = self.evaluation.spec.hubness
        if stored and stored.complete and stored.alpha is None and self.corrected is None:
            notes.append(
                "images have numbers for hubness: give --hubness ALPHA, or store an alpha, to measure their effect"
            )
        if self.evaluation.truncated:
            notes.append(f"captions longer than the model reads, and cut: {self.evaluation.truncated:,}")
        return notes

    def results(self) -> Iterator[QueryResult]:
        """Yield the result of every query, image-to-text first, in the order of the annotation file."""
        evaluation = self.evaluation
        served, exact = self._named(SERVED), self._named(EXACT)
        in_settings = [ranker for ranker in self.others if ranker.name not in (EXACT, SERVED)]
        image_ids = evaluation.image_to_text.queries.ids
        for task, texts, images in (
            (evaluation.image_to_text, evaluation.files, image_ids),
            (evaluation.text_to_image, evaluation.texts, image_ids[evaluation.image_of]),
        ):
            oracle = self.oracle[task.name]
            best, ranks, pessimistic = oracle.best, oracle.ranks, oracle.pessimistic
            by_exact = exact.replays[task.name] if exact and exact.replays else None
            top_rows, top_scores = oracle.first_ten
            corrected = self.corrected.ranks if self.corrected and task.name == TEXT_TO_IMAGE else None
            of_settings = {ranker.name: ranker.ranks(task.name).tolist() for ranker in in_settings}
            recorded = {
                metric.recorded: values
                for metric in METRICS
                if metric.recorded and (values := metric.values(oracle.ranking)) is not None
            }
            for row, query in enumerate(task.queries.ids.tolist()):
                positives = set(task.gallery.ids[task.positives_of(row)].tolist())
                yield QueryResult(
                    direction=task.name,
                    query=query,
                    image_id=int(images[row]),
                    text=texts[row],
                    rank=int(ranks[row]),
                    pessimistic_rank=int(pessimistic[row]),
                    exact_rank=int(by_exact.ranks[row]) if by_exact else None,
                    exact_pessimistic_rank=int(by_exact.pessimistic[row]) if by_exact else None,
                    corrected_rank=int(corrected[row]) if corrected is not None else None,
                    score=round(float(oracle.scores[best[row]]), DIGITS),
                    positive=int(task.gallery.ids[task.positives[best[row]]]),
                    recorded={name: round(float(values[row]), 6) for name, values in recorded.items()},
                    served_rank=_if_found(int(served.ranks(task.name)[row])) if served else None,
                    ranks={name: _if_found(of_queries[row]) for name, of_queries in of_settings.items()},
                    top=tuple(
                        TopHit(item, round(score, DIGITS), item in positives)
                        for item, score in zip(
                            task.gallery.ids[top_rows[row]].tolist(), top_scores[row].tolist(), strict=True
                        )
                    ),
                )

    def _named(self, name: str) -> Ranker | None:
        return next((ranker for ranker in self.rankers if ranker.name == name), None)


def _same(ranking: Ranking, other: Ranking) -> bool:
    """Return whether all ranks are the same, also if every tie is lost."""
    worst, other_worst = (each.pessimistic or each for each in (ranking, other))
    return np.array_equal(ranking.ranks, other.ranks) and np.array_equal(worst.ranks, other_worst.ranks)


def _too_few_hits(ranker: Ranker) -> list[str]:
    depth = next((ranking.depth for ranking in ranker.rankings.values()), None)
    short = [metric.name for metric in METRICS if metric.depth is not None and metric.exceeds(depth)]
    unknown = f"cannot be known from the first {depth} hits, unless they hold a positive of every query"
    return [f"{ranker.name}: {', '.join(short)} {unknown}"] if short else []


def _percentiles(values: Floats) -> dict[str, float]:
    return {name: float(np.percentile(values, share)) for name, share in PERCENTILES.items()}


def _if_found(rank: int) -> int | None:
    return None if rank == NOT_FOUND else rank


def _difference(value: float | None, other: float | None) -> float | None:
    return None if value is None or other is None else value - other
