"""The scores as aligned text for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from eval.metrics import METRICS, PROPORTIONS, Metric
from eval.protocol import DIRECTIONS
from eval.ranks.replay import Agreement
from eval.runs import RankerMetrics, RunMetrics, Scores


def table(metrics: RunMetrics, agreements: Mapping[str, Agreement]) -> str:
    """Return the table that the field prints, with the counts above it, intervals and losses in it, notes below it."""
    kept = "all" if metrics.captions_per_image == "all" else f"first {metrics.captions_per_image}"
    head = "".join(f"{metric.name:>12}" for metric in _in_table()) + f"{'queries/s':>10}{'ms':>7}{'bytes':>7}"
    lines = [
        f"{metrics.dataset}, split {metrics.split}: "
        f"{metrics.images:,} images, {metrics.captions:,} captions ({kept} of each image)",
        f"model {metrics.model}",
        "",
        f"{'':<30}{head}",
    ]
    for way in DIRECTIONS:
        for ranker in metrics.columns:
            lines += _rows(metrics, ranker, way)
    lines += ["", *_below(metrics), ""]
    lines += [f"{way}: {found}" for way, found in agreements.items()]
    lines += [f"{ranker.name}: {ranker.about}" for ranker in metrics.columns]
    lines += [line for row in metrics.published for line in row.verdict]
    return "\n".join([*lines, *(f"note: {note}" for note in metrics.notes)])


def number(value: float | None, digits: int, sign: str = "") -> str:
    """Return a score as text, a dash if it is unknown."""
    return "-" if value is None else f"{value:{sign},.{digits}f}"


def _in_table() -> list[Metric]:
    """Return the metrics of every row; those that need the ranks of all positives are in the lines below the table."""
    return [metric for metric in METRICS if metric.recorded is None]


def _rows(metrics: RunMetrics, ranker: RankerMetrics, way: str) -> Iterator[str]:
    row = "".join(f"{number(ranker.scores[way][metric.name], metric.digits):>12}" for metric in _in_table())
    if ranker.queries_per_second and ranker.latency_ms:
        row += f"{ranker.queries_per_second[way]:>10,.0f}{ranker.latency_ms[way]:>7.2f}{ranker.bytes_per_vector:>7,.0f}"
    yield f"{way:<15}{ranker.name:<15}{row}"
    if worst := ranker.pessimistic.get(way):
        yield f"{'':<15}{'  all ties lost':<15}" + "".join(
            f"{number(worst[metric.name], metric.digits):>12}" for metric in _in_table()
        )
    if ranker.name == metrics.engine:
        ends = (metrics.intervals[way][metric.name] for metric in _in_table())
        yield f"{'':<15}{'  95% interval':<15}" + "".join(f"{f'{low:.1f}-{high:.1f}':>12}" for low, high in ends)
    elif ranker.name in metrics.loss:
        loss = metrics.loss[ranker.name][way]
        yield f"{'':<15}{'  difference':<15}" + "".join(
            f"{number(loss[metric.name], 2, '+'):>12}" for metric in _in_table()
        )


def _below(metrics: RunMetrics) -> Iterator[str]:
    cutoffs = " / ".join(str(metric.depth) for metric in PROPORTIONS)
    for way, scores in metrics.scores.items():
        shares = f"share of all positives among the first {cutoffs}: {_listed(metrics.proportion[way], PROPORTIONS)}"
        yield f"{way}: {'; '.join([*_of_all_positives(scores), shares])}"
    for way, scores in metrics.pessimistic.items():
        parts = list(_of_all_positives(scores))
        lost = "; ".join([_listed(scores, _in_table()), *parts, f"shares {_listed(scores, PROPORTIONS)}"])
        yield f"{way}: ties touch {scores['queries']:,} queries; if every tie were lost: {lost}"
    if folds := metrics.folds:
        for way, scores in folds.scores.items():
            worst = folds.pessimistic.get(way)
            lost = f"; if every tie were lost: {_listed(worst, _in_table())}" if worst else ""
            averages = _listed(scores, _in_table())
            yield f"{way}: average of {folds.count} folds of {folds.images:,} images: {averages}{lost}"
    for judge, by_direction in (metrics.extended or {}).items():
        name = judge.replace("_pessimistic", " if every tie were lost")
        for way, scores in by_direction.items():
            yield f"{way}: {name}: " + ", ".join(f"{key} {number(value, 2)}" for key, value in scores.items())


def _of_all_positives(scores: Scores) -> Iterator[str]:
    for metric in METRICS:
        if metric.recorded is not None and metric.name in scores:
            yield f"{metric.title} {number(scores[metric.name], metric.digits)}"


def _listed(scores: Scores, metrics: Sequence[Metric]) -> str:
    return " / ".join(number(scores[metric.name], 2) for metric in metrics)
