"""The scores as aligned text for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from eval.metrics import METRICS, PROPORTIONS, RECALLS, Metric
from eval.protocol import DIRECTIONS
from eval.ranks.replay import Agreement
from eval.runs import MTEB_DIFFERS, LossMetrics, RankerMetrics, RunMetrics, Scores

MAIN, MORE = "main", "more"  # tables of metrics


def table(metrics: RunMetrics, agreements: Mapping[str, Agreement]) -> str:
    """Return the table as papers print it, with the counts above it, intervals and losses in it, and below it the
    other scores and notes."""
    kept = "all" if metrics.captions_per_image == "all" else f"first {metrics.captions_per_image}"
    lines = [
        f"{metrics.dataset}, split {metrics.split}: "
        f"{metrics.images:,} images, {metrics.captions:,} captions ({kept} of each image)",
        f"model {metrics.model}",
        "",
        *_table(metrics, MAIN, f"{'queries/s':>10}{'median ms':>10}{'bytes/vec':>10}"),
        "",
        *_table(metrics, MORE),
        "",
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


def _of(table: str) -> list[Metric]:
    return [metric for metric in METRICS if metric.table == table]


def _table(metrics: RunMetrics, table: str, costs: str = "") -> Iterator[str]:
    """Yield a row for each direction and ranker; `costs` is the head of what an answer costs, if that is to be shown.

    Tables other than the main one leave out rankers that fetched only the first hits.
    """
    shown = _of(table)
    yield f"{'':<30}" + "".join(f"{metric.short or metric.name:>12}" for metric in shown) + costs
    for way in DIRECTIONS:
        for ranker in metrics.columns:
            known = (metric for metric in shown if ranker.scores[way].get(metric.name) is not None)
            if table == MAIN or any(metric.depth is None for metric in known):
                yield from _rows(metrics, ranker, way, shown, costs=bool(costs))


def _rows(
    metrics: RunMetrics, ranker: RankerMetrics, way: str, shown: Sequence[Metric], *, costs: bool
) -> Iterator[str]:
    row = _cells(ranker.scores[way], shown)
    if costs and ranker.queries_per_second and ranker.latency_ms:
        row += (
            f"{ranker.queries_per_second[way]:>10,.0f}{ranker.latency_ms[way]:>10.2f}{ranker.bytes_per_vector:>10,.0f}"
        )
    yield f"{way:<15}{ranker.name:<15}{row}"
    if worst := ranker.pessimistic.get(way):
        yield f"{'':<15}{'  all ties lost':<15}{_cells(worst, shown)}"
    if ranker.name == metrics.engine:
        ends = (metrics.intervals[way][metric.name] for metric in shown)
        yield f"{'':<15}{'  95% interval':<15}" + "".join(f"{f'{low:.1f}-{high:.1f}':>12}" for low, high in ends)
    elif ranker.name in metrics.loss:
        yield f"{'':<15}{'  difference':<15}{_cells(metrics.loss[ranker.name][way], shown, sign='+')}"


def _against_exact(metrics: RunMetrics) -> Iterator[str]:
    """Yield a row for each direction and ranker that searches: hits found, times, and whether the loss is real."""
    rankers = [ranker for ranker in metrics.columns if ranker.overlap_at_10 and ranker.latency_percentiles_ms]
    if not rankers:
        return
    times = ("p50", "p95", "p99")
    yield (
        f"{'against exact search':<30}{'overlap@10':>12}"
        + "".join(f"{f'{time} ms':>9}" for time in times)
        + "".join(f"{metric.name:>18}" for metric in RECALLS)
    )
    for way in DIRECTIONS:
        for ranker in rankers:
            overlap, latency = (ranker.overlap_at_10 or {})[way], (ranker.latency_percentiles_ms or {})[way]
            losses = metrics.significance.get(ranker.name, {}).get(way, {})
            tested = [losses[metric.name] for metric in RECALLS if metric.name in losses]
            yield f"{way:<15}{ranker.name:<15}{overlap:>12.2f}" + "".join(
                [*(f"{latency[time]:>9.2f}" for time in times), *(f"{found.difference:>+18.2f}" for found in tested)]
            )
            if any(any(found.interval) for found in tested):
                ends = (f"{found.interval[0]:+.2f} to {found.interval[1]:+.2f}" for found in tested)
                yield f"{'':<15}{'  95% interval':<54}" + "".join(f"{end:>18}" for end in ends)
                yield f"{'':<15}{'  p (Holm)':<54}" + "".join(f"{found.p_holm:>18.4f}" for found in tested)
    yield ""


def _corrected(metrics: RunMetrics) -> Iterator[str]:
    """Yield the scores that are corrected for hubness: a row for each ranker, and how it differs from its plain row."""
    found = metrics.corrected
    if found is None:
        return
    shown = _of(MAIN)
    measured = f"mean of the {found.k} nearest of {found.references:,} references"
    yield f"corrected for hubness: alpha {found.alpha:g}, {measured}"
    yield f"{'':<30}" + "".join(f"{metric.short or metric.name:>18}" for metric in shown) + f"{'overlap@10':>12}"
    for ranker in found.columns:
        for way, of_way in ranker.scores.items():
            cells = "".join(f"{number(of_way.get(metric.name), metric.digits):>18}" for metric in shown)
            overlap = number((ranker.overlap_at_10 or {}).get(way), 2)
            yield f"{way:<15}{ranker.name:<15}{cells}{overlap:>12}"
        gains = [found.significance[ranker.name].get(metric.name) for metric in shown]
        rows = [_tested(gain) if gain else ["-"] * 4 for gain in gains]
        for name, row in zip(("difference", "95% interval", "p", "p (Holm)"), zip(*rows, strict=True), strict=True):
            yield f"{'':<15}  {name:<13}" + "".join(f"{cell:>18}" for cell in row)
    before, after = found.skewness["plain"], found.skewness["corrected"]
    yield f"skewness of how many first tens hold an image: {before:.2f} plain, {after:.2f} corrected"
    yield ""


def _captioned(metrics: RunMetrics) -> Iterator[str]:
    """Yield the scores with captions as evidence, and how the rows differ."""
    found = metrics.captioned
    if found is None:
        return
    shown = _of(MAIN)

    def row(name: str, cells: Iterable[str]) -> str:
        return f"{name:<34}" + "".join(f"{cell:>18}" for cell in cells)

    yield f"captioned gallery, leave one out (not to be compared with published figures): weight {found.weight:g}"
    yield row("", (metric.short or metric.name for metric in shown))
    for ranker in found.columns:
        for of_way in ranker.scores.values():
            yield row(ranker.name, (number(of_way.get(metric.name), metric.digits) for metric in shown))
        for worst in ranker.pessimistic.values():
            yield row("  all ties lost", (number(worst.get(metric.name), metric.digits) for metric in shown))
    for pair, tested in found.significance.items():
        columns = [_tested(tested[metric.name]) if metric.name in tested else ["-"] * 4 for metric in shown]
        names = (pair, "  95% interval", "  p", "  p (Holm)")
        yield from (row(name, cells) for name, cells in zip(names, zip(*columns, strict=True), strict=True))
    yield ""


def _tested(found: LossMetrics) -> list[str]:
    interval = "{:+.2f} to {:+.2f}".format(*found.interval)
    return [f"{found.difference:+.2f}", interval, f"{found.p:.4f}", f"{found.p_holm:.4f}"]


def _cells(scores: Scores, shown: Sequence[Metric], sign: str = "") -> str:
    digits = (2 if sign else metric.digits for metric in shown)
    return "".join(
        f"{number(scores.get(metric.name), places, sign):>12}" for metric, places in zip(shown, digits, strict=True)
    )


def _below(metrics: RunMetrics) -> Iterator[str]:
    cutoffs = " / ".join(str(metric.depth) for metric in PROPORTIONS)
    if metrics.rsum is not None:
        yield f"RSUM {metrics.rsum:.2f}: {', '.join(metric.name for metric in RECALLS)} of both directions"
    for way, shares in metrics.proportion.items():
        yield f"{way}: share of all positives among the first {cutoffs}: {_listed(shares, PROPORTIONS)}"
    for way, scores in metrics.pessimistic.items():
        lost = f"{_listed(scores, _of(MAIN))}; shares {_listed(scores, PROPORTIONS)}"
        yield f"{way}: ties affect {scores['queries']:,} queries; if every tie were lost: {lost}"
    if folds := metrics.folds:
        for way, scores in folds.scores.items():
            worst = folds.pessimistic.get(way)
            lost = f"; if every tie were lost: {_listed(worst, _of(MAIN))}" if worst else ""
            averages = _listed(scores, _of(MAIN))
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
    return " / ".join(number(scores[metric.name], 2) for metric in metrics)
