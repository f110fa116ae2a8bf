"""The scores as aligned text for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from eval.metrics import PROPORTIONS, RECALLS, Metric, TableName, in_table
from eval.protocol import DIRECTIONS
from eval.ranks.replay import Agreement
from eval.runs import MTEB_DIFFERS, PERCENTILES, LossMetrics, RankerMetrics, RunMetrics, Scores

WIDTH = 80  # columns of a table
NAME, CELL = 20, 12  # columns of a name, and of a score
SCORES = (WIDTH - NAME) // CELL  # of a row


def table(metrics: RunMetrics, agreements: Mapping[str, Agreement]) -> str:
    """Return the scores as papers print them, with the counts above, and intervals and losses below each row; then the
    other scores, the times, and notes. The tables fit 80 columns."""
    kept = "all" if metrics.captions_per_image == "all" else f"first {metrics.captions_per_image}"
    lines = [
        f"{metrics.dataset}, split {metrics.split}: "
        f"{metrics.images:,} images, {metrics.captions:,} captions ({kept} of each image)",
        f"model {metrics.model}",
        "",
        *_table(metrics, "main"),
        *_table(metrics, "second"),
        *_against_exact(metrics),
        *_corrected(metrics),
        *_captioned(metrics),
        *_below(metrics),
        "",
    ]
    lines += [f"{way}: {found}" for way, found in agreements.items()]
    lines += [f"{ranker.name}: {ranker.about}" for ranker in metrics.columns]
    lines += [line for row in metrics.published for line in row.verdict]
    return "\n".join([*lines, *(f"note: {note}" for note in metrics.notes)])


def number(value: float | None, digits: int, sign: str = "") -> str:
    """Return a score as text, a dash if it is unknown."""
    return "-" if value is None else f"{value:{sign},.{digits}f}"


def fitted(value: float, width: int, digits: int = 2, sign: str = "") -> str:
    """Return a number as text, with at most so many decimals, fewer if it would be longer than `width` characters."""
    texts = [f"{value:{sign}.{each}f}" for each in range(digits, -1, -1)]
    return next((text for text in texts if len(text) <= width), texts[-1])


def interval_of(ends: tuple[float, float]) -> str:
    """Return the interval of a difference as text of at most 18 characters."""
    return " to ".join(fitted(end, 7, sign="+") for end in ends)


def side_by_side(metrics: Sequence[Metric]) -> Iterator[Sequence[Metric]]:
    """Yield the metrics in groups, each of as many as fit beside each other in a table."""
    return (metrics[start : start + SCORES] for start in range(0, len(metrics), SCORES))


def _row(name: str, cells: Iterable[str]) -> str:
    return f"{name:<{NAME}}" + "".join(f"{cell:>{CELL}}" for cell in cells)


def _table(metrics: RunMetrics, table: TableName) -> Iterator[str]:
    """Yield the rows of the rankers, by direction; metrics that do not fit beside the others are in another table.

    Tables other than the main one leave out rankers that fetched only the first hits.
    """

    def ranks_all(scores: Scores) -> bool:
        return any(metric.depth is None and scores.get(metric.name) is not None for metric in in_table(table))

    for shown in side_by_side(in_table(table)):
        yield _row("", (metric.label for metric in shown))
        for way in DIRECTIONS:
            yield way
            for ranker in metrics.columns:
                if table == "main" or ranks_all(ranker.scores[way]):
                    yield from _rows(metrics, ranker, way, shown)
        yield ""


def _rows(metrics: RunMetrics, ranker: RankerMetrics, way: str, shown: Sequence[Metric]) -> Iterator[str]:
    if ranker.same_ranks_as and all(metric.name in ranker.scores[way] for metric in shown):
        yield f"{f'  {ranker.name}':<{NAME}}  as {ranker.same_ranks_as}: the same rank for every query"
        return
    yield _row(f"  {ranker.name}", _cells(ranker.scores[way], shown))
    if worst := ranker.pessimistic.get(way):
        yield _row("    all ties lost", _cells(worst, shown))
    if ranker.name == metrics.engine:
        ends = (metrics.intervals[way][metric.name] for metric in shown)
        yield _row("    95% interval", (f"{fitted(low, 5, 1)}-{fitted(high, 5, 1)}" for low, high in ends))
    elif ranker.name in metrics.loss:
        loss = metrics.loss[ranker.name][way]
        yield _row("    difference", (number(loss.get(metric.name), 2, "+") for metric in shown))


def _against_exact(metrics: RunMetrics) -> Iterator[str]:
    """Yield a row for each direction and ranker that searches: hits in common and costs; then a table for each loss."""
    rankers = [ranker for ranker in metrics.columns if ranker.overlap_at_10 and ranker.latency_percentiles_ms]
    if not rankers:
        return

    def row(name: str, overlap: str, times: Iterable[str], rate: str, size: str) -> str:
        return f"{name:<{NAME}}{overlap:>12}" + "".join(f"{time:>9}" for time in times) + f"{rate:>11}{size:>10}"

    yield "against exact search: hits in common (%), ms per query, bytes per vector"
    yield row("", "overlap@10", (f"{time} ms" for time in PERCENTILES), "queries/s", "bytes/vec")
    for way in DIRECTIONS:
        yield way
        for ranker in rankers:
            overlap, latency = (ranker.overlap_at_10 or {})[way], (ranker.latency_percentiles_ms or {})[way]
            rate, size = (ranker.queries_per_second or {}).get(way), ranker.bytes_per_vector
            times = (number(latency[time], 2) for time in PERCENTILES)
            yield row(f"  {ranker.name}", number(overlap, 2), times, number(rate, 0), number(size, 0))
    yield ""
    for name, by_direction in metrics.significance.items():
        for way, losses in by_direction.items():
            if any(any(loss.interval) for loss in losses.values()):
                yield from _tested(f"{way}, {name} against exact search", RECALLS, losses)


def _corrected(metrics: RunMetrics) -> Iterator[str]:
    """Yield the scores that are corrected for hubness, and how they differ from the plain scores of the same ranker."""
    found = metrics.corrected
    if found is None:
        return
    measured = f"mean of the {found.k} nearest of {found.references:,} references"
    yield f"corrected for hubness: alpha {found.alpha:g}, {measured}"
    for ranker in found.columns:
        for way, scores in ranker.scores.items():
            overlap = (ranker.overlap_at_10 or {}).get(way)
            title = f"{way}, {ranker.name}" + ("" if overlap is None else f" (overlap@10 {overlap:.2f})")
            yield from _tested(title, in_table("main"), found.significance[ranker.name], scores)
    before, after = found.skewness["plain"], found.skewness["corrected"]
    yield f"skewness of the number of first tens that hold an image: {before:.2f} plain, {after:.2f} corrected"
    yield ""


def _captioned(metrics: RunMetrics) -> Iterator[str]:
    """Yield the scores with captions as evidence, and how the rows differ."""
    found = metrics.captioned
    if found is None:
        return
    yield f"captioned gallery, leave one out (not comparable with papers): weight {found.weight:g}"
    for shown in side_by_side(in_table("main")):
        yield _row("", (metric.label for metric in shown))
        for ranker in found.columns:
            for scores in ranker.scores.values():
                yield _row(f"  {ranker.name}", _cells(scores, shown))
            for worst in ranker.pessimistic.values():
                yield _row("    all ties lost", _cells(worst, shown))
        yield ""
    for pair, tested in found.significance.items():
        yield from _tested(pair, in_table("main"), tested)


def _tested(
    title: str, shown: Sequence[Metric], tested: Mapping[str, LossMetrics], scores: Scores | None = None
) -> Iterator[str]:
    """Yield a row for each metric: its score, if there are any, and a difference with its interval and p-values."""

    def row(name: str, score: str, cells: Sequence[str]) -> str:
        widths = (12, 20, 9, 10)
        rest = "".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
        return f"{name:<{NAME}}" + (f"{score:>9}" if scores else "") + rest

    yield title
    yield row("", "score", ("difference", "95% interval", "p", "p (Holm)"))
    for metric in shown:
        found = tested.get(metric.name)
        interval = interval_of(found.interval) if found else ""
        cells = (f"{found.difference:+.2f}", interval, f"{found.p:.4f}", f"{found.p_holm:.4f}") if found else ("-",) * 4
        yield row(f"  {metric.label}", number((scores or {}).get(metric.name), metric.digits), cells)
    yield ""


def _cells(scores: Scores, shown: Sequence[Metric]) -> Iterator[str]:
    return (number(scores.get(metric.name), metric.digits) for metric in shown)


def _below(metrics: RunMetrics) -> Iterator[str]:
    main = in_table("main")
    cutoffs = " / ".join(str(metric.depth) for metric in PROPORTIONS)
    if metrics.rsum is not None:
        yield f"RSUM {metrics.rsum:.2f}: {', '.join(metric.name for metric in RECALLS)} of both directions"
    for way, shares in metrics.proportion.items():
        yield f"{way}: share of all positives among the first {cutoffs}: {_listed(shares, PROPORTIONS)}"
    for way, scores in metrics.pessimistic.items():
        lost = f"{_listed(scores, main)}; shares {_listed(scores, PROPORTIONS)}"
        yield f"{way}: ties affect {scores['queries']:,} queries; if every tie were lost: {lost}"
    if folds := metrics.folds:
        for way, scores in folds.scores.items():
            worst = folds.pessimistic.get(way)
            lost = f"; if every tie were lost: {_listed(worst, main)}" if worst else ""
            averages = _listed(scores, main)
            yield f"{way}: average of {folds.count} folds of {folds.images:,} images: {averages}{lost}"
    for judge, by_direction in (metrics.extended or {}).items():
        name = judge.replace("_pessimistic", " if every tie were lost")
        for way, scores in by_direction.items():
            yield f"{way}: {name}: {_named(scores)}"
    if mteb := metrics.mteb:
        yield ""
        yield f"As MTEB counts: {mteb.sentences:,} sentences, {mteb.pairs:,} pairs. {MTEB_DIFFERS}"
        for way, scores in mteb.scores.items():
            worst = mteb.pessimistic.get(way)
            yield f"{way}: {_named(scores)}" + (f"; if every tie were lost: {_named(worst)}" if worst else "")


def _named(scores: Scores) -> str:
    return ", ".join(f"{name} {number(value, 2)}" for name, value in scores.items())


def _listed(scores: Scores, metrics: Sequence[Metric]) -> str:
    return " / ".join(number(scores.get(metric.name), metric.digits) for metric in metrics)
