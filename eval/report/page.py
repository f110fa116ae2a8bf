"""The evaluation as one HTML file: scores, plots, published figures, a gallery of misses, and the fingerprint."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from eval.metrics import CUTOFFS, METRICS, RECALLS, label
from eval.protocol import DIRECTIONS
from eval.report import plots, tables
from eval.report.misses import PER_GROUP, Photos, Records, gallery
from eval.runs import TOP, CorrectedMetrics, LengthMetrics, QueryResult, RunMetrics
from search.sheet import OpenPhoto

CURVE_TO = 100  # the largest k of the recall curve
MARKED = (*CUTOFFS, CURVE_TO)
AGAINST_SPEED = RECALLS[-1].name
TEMPLATE = "page.html.j2"


@dataclass(frozen=True, slots=True)
class Figure:
    """One heading with plots, each with its own: a direction, or a direction and a metric."""

    anchor: str
    title: str
    about: str
    plots: list[tuple[str, Markup]]


def report_page(
    metrics: RunMetrics,
    results: Sequence[QueryResult],
    records: Records,
    open_photo: OpenPhoto,
    *,
    per_group: int = PER_GROUP,
) -> str:
    """Return the whole page, with the photos inside it; it fetches nothing.

    `metrics` must hold at least the headline's scores, `images` and `captions`. `results` are the queries of both
    directions. `records` looks up images and captions for the gallery of misses, `per_group` of each kind. A photo that
    cannot be opened is replaced by the reason.
    """
    by_direction = {way: [result for result in results if result.direction == way] for way in DIRECTIONS}
    photos = Photos(open_photo)
    keep = metrics.captions_per_image if isinstance(metrics.captions_per_image, int) else None
    galleries = [gallery(way, found, records, photos, keep, per_group) for way, found in by_direction.items() if found]
    return template(TEMPLATE).render(
        metrics=metrics,
        model=Path(metrics.model or "model").name,
        directions=DIRECTIONS,
        headline=[metric.name for metric in METRICS if metric.headline],
        interval=tables.interval,
        rankers=tables.rankers_of(metrics),
        scores=(scores := tables.scores(metrics)),
        censored=tables.NOT_RANKED if scores.censored else "",
        more_scores=tables.more_scores(metrics),
        against_exact=tables.against_exact(metrics),
        corrected=tables.corrected(metrics),
        published=tables.published(metrics),
        other_counts=tables.other_counts(metrics),
        figures=_figures(metrics, by_direction),
        galleries=galleries,
        photos=photos.used,
        fingerprint=list(_flat(metrics.fingerprint)),
    )


def template(name: str) -> jinja2.Template:
    """Return a template of this folder."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.ChainableUndefined,  # values that a run did not measure are left out
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": tables.number, "named": label, "cosine": tables.cosine}
    return environment.get_template(name)


def rank_bins(ranks: Sequence[int], gallery: int) -> list[tuple[int, int, int]]:
    """Return (first rank, last rank, count) of bins that end at 1, 2, 5, 10, 20, ... and at the gallery's size."""
    ends = [digit * 10**power for power in range(len(str(gallery))) for digit in (1, 2, 5)]
    ends = [end for end in ends if end < gallery] + [gallery]
    starts = [1] + [end + 1 for end in ends[:-1]]
    return [(low, high, sum(low <= rank <= high for rank in ranks)) for low, high in zip(starts, ends, strict=True)]


def _figures(metrics: RunMetrics, by_direction: Mapping[str, Sequence[QueryResult]]) -> list[Figure]:
    galleries = {"image-to-text": metrics.captions or 0, "text-to-image": metrics.images or 0}
    measured = {way: results for way, results in by_direction.items() if results}
    figures = []
    if measured:
        figures.append(
            Figure(
                "curve",
                "Recall at every k",
                "The share of queries with a right item among the first k, by exact ranks; dashed, where it was asked "
                f"for, by the index as served, which gave its first {TOP}.",
                [(way, _recall_curve(way, results, galleries[way])) for way, results in measured.items()],
            )
        )
        bins = {
            way: rank_bins([result.rank for result in results], galleries[way]) for way, results in measured.items()
        }
        longest = max(100 * count / len(measured[way]) for way, rows in bins.items() for *_, count in rows)
        figures.append(
            Figure(
                "ranks",
                "Where the right item ranked",
                "Queries by the exact rank of their best right item, in bins that grow like a logarithm.",
                [(way, _rank_bars(way, rows, longest)) for way, rows in bins.items()],
            )
        )
    if metrics.caption_lengths:
        figures.append(_by_length(metrics.caption_lengths))
    if (speed := _speed(metrics)) is not None:
        figures.append(speed)
    if metrics.corrected:
        figures.append(_hubs(metrics.corrected))
    return figures


def _recall_curve(way: str, results: Sequence[QueryResult], gallery: int) -> Markup:
    def line(name: str, kind: str, ranks: Sequence[int], last: int, below: bool) -> plots.Line:
        share = 100 / len(results)
        points = [(float(k), share * sum(rank <= k for rank in ranks)) for k in range(1, last + 1)]
        return plots.Line(name, kind, points, sorted({k for k in (*MARKED, last) if k <= last}), below)

    lines = [line("exact", "exact", [result.rank for result in results], min(CURVE_TO, gallery), below=False)]
    served = [result.served_rank for result in results if result.served_rank is not None]
    if served:
        lines.append(line("as served", "served", served, min(TOP, gallery), below=True))
    return plots.curves(f"curve-{way}", f"Recall at k, {way}", lines, "k")


def _rank_bars(way: str, bins: Sequence[tuple[int, int, int]], longest: float) -> Markup:
    queries = sum(count for *_, count in bins)
    rows = []
    for low, high, count in bins:
        label = _span(low, high)
        share = 100 * count / queries
        rows.append(plots.Bar(label, share, f"{share:.1f} %", f"rank {label}: {count:,} queries, {share:.2f} %"))
    return plots.bars(f"ranks-{way}", f"Ranks, {way}", rows, longest)


def _span(low: int, high: int) -> str:
    return f"{low:,}" if low == high else f"{low:,}\N{EN DASH}{high:,}"


def _by_length(groups: Sequence[LengthMetrics]) -> Figure:
    """Return the first and the last of `RECALLS` for each group of captions, with intervals."""

    def row(group: LengthMetrics, metric: str) -> plots.Range:
        words = _span(group.shortest, group.longest)
        value, (low, high) = group.scores[metric] or 0, group.intervals[metric]
        detail = f"{words} words, {group.queries:,} captions: {value:.1f} % ({low:.1f} to {high:.1f})"
        return plots.Range(f"{words} words", value, low, high, f"{value:.1f} % of {group.queries:,}", detail)

    panels = []
    for metric in (RECALLS[0].name, RECALLS[-1].name):
        rows = [row(group, metric) for group in groups]
        drawn = plots.ranges(f"length-{metric}", f"{metric} by caption length", rows, max(row.high for row in rows))
        panels.append((f"text-to-image, {metric}", drawn))
    about = "text-to-image recall of captions of similar length, with 95 % intervals and the number of captions."
    return Figure("length", "Recall by caption length", about, panels)


def _hubs(corrected: CorrectedMetrics) -> Figure:
    """Return how many images are in how many first tens, before and after the correction."""
    longest = max(images for bins in corrected.answers.values() for *_, images in bins)

    def drawn(name: str) -> Markup:
        rows = []
        for low, high, images in corrected.answers[name]:
            queries = _span(low, high)
            detail = f"{images:,} images are in the first ten of {queries} captions"
            rows.append(plots.Bar(queries, images, f"{images:,}", detail))
        return plots.bars(f"hubs-{name}", f"Captions answered by an image, {name}", rows, longest)

    panels = [(f"{name}, skewness {corrected.skewness[name]:.2f}", drawn(name)) for name in ("plain", "corrected")]
    about = (
        "Images by the number of captions that have them among their first ten, by exact scores. Hubs answer very many "
        "captions, and leave none for others; a correction brings both nearer to the middle."
    )
    return Figure("hubs", "How many captions each image answers", about, panels)


def _speed(metrics: RunMetrics) -> Figure | None:
    """Return recall against latency, or else against queries per second, if at least two rankers have it."""
    for cost, axis in (("latency_ms", "milliseconds a query"), ("queries_per_second", "queries a second")):
        panels = []
        for way in DIRECTIONS:
            dots = [
                plots.Dot(ranker.name, speed, score)
                for ranker in tables.rankers_of(metrics)
                if (speed := (getattr(ranker, cost) or {}).get(way))
                and (score := ranker.scores.get(way, {}).get(AGAINST_SPEED)) is not None
            ]
            if len(dots) > 1:
                panels.append((way, plots.scatter(f"speed-{way}", f"Speed, {way}", dots, axis, AGAINST_SPEED)))
        if panels:
            better = "left" if cost == "latency_ms" else "right"
            about = f"Better is up and to the {better}. The recall axis does not begin at zero."
            return Figure("speed", "Recall against speed", about, panels)
    return None


def _flat(block: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    """Yield nested settings as (dotted name, text)."""
    for key, value in block.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{key}.")
        else:
            values = value if isinstance(value, list) else [value]
            yield f"{above}{key}", ", ".join("none" if item is None else str(item) for item in values) or "none"
