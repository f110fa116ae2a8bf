"""The scores as a table for people, as one JSON object for programs, and query by query."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from eval.eccv import MoreScores
from eval.metrics import METRICS, NOT_FOUND, PROPORTIONS, Metric, Ranking, scores
from eval.protocol import Evaluation
from eval.ranks.oracle import OracleRanks, first_hits
from eval.ranks.rankers import EXACT, SERVED, Column
from eval.ranks.replay import Agreement, agreement
from eval.report.published import compare_with_published
from eval.runs import TOP, QueryResult, TopHit

Metrics = dict[str, float | None]
Intervals = dict[str, dict[str, tuple[float, float]]]


@dataclass(frozen=True, slots=True)
class Folds:
    """The average over `count` parts of `images` images each: direction -> metric."""

    count: int
    images: int
    scores: dict[str, dict[str, float]]


@dataclass(frozen=True, slots=True)
class Report:
    """What one run found: the oracle's ranks by direction, every column, and what the headline's scores are worth."""

    evaluation: Evaluation
    oracle: dict[str, OracleRanks]
    columns: list[Column]
    headline: Column
    intervals: Intervals
    folds: Folds | None
    more: MoreScores | None
    fingerprint: dict[str, Any]

    def agreements(self) -> dict[str, Agreement]:
        """How Qdrant's exact ranks compare with the oracle's, where it was asked."""
        exact = next((column for column in self.columns if column.name == EXACT), None)
        return {name: agreement(self.oracle[name], exact.ranks(name)) for name in exact.rankings} if exact else {}

    def scores(self, column: Column) -> dict[str, Metrics]:
        """Direction -> metric of one column, for the metrics that its rankings can tell."""
        return {direction: scores(ranking) for direction, ranking in column.rankings.items()}

    def loss(self, column: Column) -> dict[str, Metrics]:
        """What a column's scores differ by from the headline's."""
        mine, best = self.scores(column), self.scores(self.headline)
        return {
            direction: {name: _difference(value, best[direction][name]) for name, value in scores.items()}
            for direction, scores in mine.items()
        }

    def pessimistic(self) -> dict[str, dict[str, Any]]:
        """Scores by pessimistic ranks, and how many queries' ranks differ, for directions where ties matter."""
        found = {}
        for direction, oracle in self.oracle.items():
            if queries := int(np.count_nonzero(oracle.pessimistic != oracle.ranks)):
                found[direction] = {"queries": queries, **scores(Ranking(oracle.pessimistic))}
        return found

    def as_json(self) -> dict[str, Any]:
        """The object of `metrics.json`; what each key holds is in the README."""
        evaluation, headline = self.evaluation, self.scores(self.headline)
        return {
            **headline,
            "engine": self.headline.name,
            "engine_version": self.fingerprint["engine"],
            "oracle": self.scores(self.columns[0]),
            "columns": [self._column_as_json(column) for column in self.columns],
            "loss": {column.name: self.loss(column) for column in self.columns if column.replays is not None},
            "intervals": {
                direction: {name: list(ends) for name, ends in found.items()}
                for direction, found in self.intervals.items()
            },
            "pessimistic": self.pessimistic(),
            "proportion": {direction: scores(found.ranking, PROPORTIONS) for direction, found in self.oracle.items()},
            "folds": {"count": self.folds.count, "images": self.folds.images, **self.folds.scores}
            if self.folds
            else None,
            "extended": self.more,
            "published": compare_with_published(evaluation, headline, self.intervals),
            "agreement": {
                direction: {
                    "queries": found.queries,
                    "differ_by_rounding": found.rounding,
                    "differ_unexplained": len(found.unexplained),
                }
                for direction, found in self.agreements().items()
            },
            "images": evaluation.images,
            "captions": evaluation.captions,
            "captions_per_image": evaluation.captions_per_image or "all",
            "split": "+".join(evaluation.splits),
            "dataset": evaluation.spec.dataset,
            "model": evaluation.spec.model,
            "fingerprint": self.fingerprint,
            "notes": [*evaluation.notes, *self.notes()],
        }

    def _column_as_json(self, column: Column) -> dict[str, Any]:
        replays = column.replays
        return {
            "name": column.name,
            "about": column.about,
            **self.scores(column),
            "queries_per_second": replays and {name: found.queries_per_second for name, found in replays.items()},
            "latency_ms": replays and {name: found.latency_ms for name, found in replays.items()},
            "bytes_per_vector": column.bytes_per_vector,
            "used": column.used,
        }

    def notes(self) -> list[str]:
        """What the columns do not say by themselves."""
        notes = []
        for column in self.columns:
            for answered, reason in _NOT_HNSW.items():
                if where := [direction for direction, by in (column.used or {}).items() if by == answered]:
                    more = "; --ef 64 measures HNSW on a copy that must use it" if column.name == SERVED else ""
                    notes.append(f"{column.name}, {' and '.join(where)}: {reason}{more}")
            notes += _too_few_hits(column)
        if self.evaluation.truncated:
            notes.append(f"captions longer than the model reads, and cut: {self.evaluation.truncated:,}")
        return notes

    def results(self) -> Iterator[QueryResult]:
        """Every query, image-to-text first, in the order of the annotation file."""
        evaluation = self.evaluation
        served = next((column for column in self.columns if column.name == SERVED), None)
        image_ids = evaluation.image_to_text.queries.ids
        for task, texts, images in (
            (evaluation.image_to_text, evaluation.files, image_ids),
            (evaluation.text_to_image, evaluation.texts, image_ids[evaluation.image_of]),
        ):
            oracle, ranks = self.oracle[task.name], self.headline.ranks(task.name)
            top_ids, top_scores = self._top(task.name)
            best, pessimistic = oracle.best, oracle.pessimistic
            recorded = {
                metric.recorded: values
                for metric in METRICS
                if metric.recorded and (values := metric.values(oracle.ranking)) is not None
            }
            for row, query in enumerate(task.queries.ids.tolist()):
                positives = set(task.gallery.ids[task.positives_of(row)].tolist())
                there = int(served.ranks(task.name)[row]) if served else NOT_FOUND
                yield QueryResult(
                    direction=task.name,
                    query=query,
                    image_id=int(images[row]),
                    text=texts[row],
                    rank=int(ranks[row]),
                    pessimistic_rank=int(pessimistic[row]),
                    score=round(float(oracle.scores[best[row]]), 6),
                    positive=int(task.gallery.ids[task.positives[best[row]]]),
                    recorded={name: round(float(values[row]), 6) for name, values in recorded.items()},
                    served_rank=None if there == NOT_FOUND else there,
                    top=tuple(
                        TopHit(item, round(score, 6), item in positives)
                        for item, score in zip(top_ids[row].tolist(), top_scores[row].tolist(), strict=True)
                        if item >= 0
                    ),
                )

    def _top(self, direction: str) -> tuple[Any, Any]:
        """Ids and scores (n, up to 10) of the first hits, by the headline's engine."""
        task = self.oracle[direction].task
        if self.headline.replays is not None:
            found = self.headline.replays[direction]
            return found.top_ids, found.top_scores
        rows, scores = first_hits(task, TOP)
        return task.gallery.ids[rows], scores

    def table(self) -> str:
        """The table that the field prints, with the counts above it, intervals and losses in it, and notes below."""
        evaluation = self.evaluation
        kept = "all" if evaluation.captions_per_image is None else f"first {evaluation.captions_per_image}"
        lines = [
            f"{evaluation.spec.dataset}, split {'+'.join(evaluation.splits)}: "
            f"{evaluation.images:,} images, {evaluation.captions:,} captions ({kept} of each image)",
            f"model {evaluation.spec.model}",
            "",
            f"{'':<30}"
            + "".join(f"{metric.name:>12}" for metric in _in_table())
            + f"{'queries/s':>10}{'ms':>7}{'bytes':>7}",
        ]
        for direction in self.oracle:
            for column in self.columns:
                lines += self._rows(direction, column)
        lines += ["", *self._more_lines(), ""]
        lines += [f"{direction}: {found}" for direction, found in self.agreements().items()]
        lines += [f"{column.name}: {column.about}" for column in self.columns]
        for row in compare_with_published(evaluation, self.scores(self.headline), self.intervals):
            lines += row["verdict"]
        return "\n".join([*lines, *(f"note: {note}" for note in (*evaluation.notes, *self.notes()))])

    def _rows(self, direction: str, column: Column) -> Iterator[str]:
        mine, found = self.scores(column)[direction], (column.replays or {}).get(direction)
        row = "".join(f"{_number(mine[metric.name], metric.digits):>12}" for metric in _in_table())
        if found is not None:
            row += f"{found.queries_per_second:>10,.0f}{found.latency_ms:>7.2f}{column.bytes_per_vector or 0:>7,.0f}"
        yield f"{direction:<15}{column.name:<15}{row}"
        if column is self.headline:
            ends = self.intervals[direction]
            yield f"{'':<15}{'  95% interval':<15}" + "".join(
                f"{'{:.1f}-{:.1f}'.format(*ends[metric.name]):>12}" for metric in _in_table()
            )
        elif column.replays is not None:
            loss = self.loss(column)[direction]
            yield f"{'':<15}{'  difference':<15}" + "".join(
                f"{_number(loss[metric.name], 2, '+'):>12}" for metric in _in_table()
            )

    def _more_lines(self) -> Iterator[str]:
        for direction, mine in self.scores(self.headline).items():
            below = [
                f"{metric.title} {_number(mine[metric.name], metric.digits)}"
                for metric in METRICS
                if metric not in _in_table() and metric.name in mine
            ]
            shares = " / ".join(
                _number(share, 2) for share in scores(self.oracle[direction].ranking, PROPORTIONS).values()
            )
            cutoffs = " / ".join(str(metric.depth) for metric in PROPORTIONS)
            below.append(f"share of all positives among the first {cutoffs}: {shares}")
            yield f"{direction}: {'; '.join(below)}"
        for direction, tied in self.pessimistic().items():
            yield (
                f"{direction}: ties touch {tied['queries']:,} queries; if every tie were lost: "
                + " / ".join(_number(tied[metric.name], 2) for metric in _in_table())
            )
        if self.folds:
            for direction, averages in self.folds.scores.items():
                yield (
                    f"{direction}: average of {self.folds.count} folds of {self.folds.images:,} images: "
                    + " / ".join(f"{averages[metric.name]:.2f}" for metric in _in_table())
                )
        for judge, by_direction in (self.more or {}).items():
            for direction, judged in by_direction.items():
                yield f"{direction}: {judge}: " + ", ".join(
                    f"{name} {_number(value, 2)}" for name, value in judged.items()
                )


_NOT_HNSW = {
    "scan": "a full scan answered; the collection is too small for Qdrant to build HNSW for it",
    "indistinguishable from a scan": "the answers cannot be told from a full scan's (below full_scan_threshold, "
    "a narrow filter, or so few points that HNSW misses nothing)",
}


def _too_few_hits(column: Column) -> list[str]:
    depth = next((ranking.depth for ranking in column.rankings.values()), None)
    short = [metric.name for metric in METRICS if metric.depth is not None and metric.exceeds(depth)]
    unknown = f"cannot be known from the first {depth} hits, unless they hold a positive of every query"
    return [f"{column.name}: {', '.join(short)} {unknown}"] if short else []


def _in_table() -> list[Metric]:
    """The metrics of every row; those that need the ranks of all positives are in the lines below the table."""
    return [metric for metric in METRICS if metric.recorded is None]


def _difference(value: float | None, other: float | None) -> float | None:
    return None if value is None or other is None else value - other


def _number(value: float | None, digits: int, sign: str = "") -> str:
    return "-" if value is None else f"{value:{sign},.{digits}f}"
