"""The evaluation as one HTML file: scores, plots, published figures, a gallery of misses, and the fingerprint."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, get_args

import jinja2
import numpy as np
from markupsafe import Markup

from eval.histogram import log_bins
from eval.metrics import CUTOFFS, METRICS, RECALLS, label
from eval.protocol import DIRECTIONS, IMAGE_TO_TEXT, TEXT_TO_IMAGE
from eval.report import export, plots, tables
from eval.report.misses import PER_GROUP, Photos, Records, gallery
from eval.runs import TOP, CorrectedMetrics, LengthMetrics, QueryResult, RunMetrics
from search.index import short_model_name
from search.sheet import OpenPhoto

CURVE_TO = 100  # the largest k of the recall curve
MARKED = (*CUTOFFS, CURVE_TO)
AGAINST_SPEED = RECALLS[-1].name
TEMPLATE, SCRIPT, PLOT_STYLE = "page.html.j2", "copy.js", "plot.css"
FOLDER = Path(__file__).parent
STYLE_NAMES = {"latex": "LaTeX", "markdown": "Markdown", "csv": "CSV"}
LIGHT = {  # the colours of the page; those of a dark one are in page.css.j2
    "paper": "#fff",
    "ink": "#1b1d21",
    "soft": "#5b616c",
    "line": "#e3e5e9",
    "tint": "#f5f6f8",
    "first": "#1d5fc2",
    "second": "#b04a12",
    "good": "#17713b",
    "bad": "#b3261e",
}


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
) -> str:
    """Return the whole page, with the photos inside it; it fetches nothing.

    `metrics` must hold at least the headline's scores, `images` and `captions`. `results` are the queries of both
    directions. `records` looks up images and captions for the gallery of misses. A photo that cannot be opened is
    replaced by the reason.
    """
    by_direction = {way: [result for result in results if result.direction == way] for way in DIRECTIONS}
    photos = Photos(open_photo)
    keep = metrics.captions_per_image if isinstance(metrics.captions_per_image, int) else None
    galleries = [gallery(way, found, records, photos, keep) for way, found in by_direction.items() if found]
    return template(TEMPLATE).render(
        metrics=metrics,
        model=short_model_name(metrics.model or "model"),
        when=_when(metrics),
        script=Markup((FOLDER / SCRIPT).read_text(encoding="utf-8")),
        directions=DIRECTIONS,
        headline=[metric.name for metric in METRICS if metric.headline],
        interval=tables.interval,
        rankers=tables.rankers_of(metrics),
        scores=(scores := tables.scores(metrics)),
        scores_copies=scores_copies(metrics),
        censored=tables.NOT_RANKED if scores.censored else "",
        second_scores=tables.second_scores(metrics),
        against_exact=tables.against_exact(metrics),
        corrected=tables.corrected(metrics),
        captioned=tables.captioned(metrics),
        published=tables.published(metrics),
        other_counts=tables.other_counts(metrics),
        figures=_figures(metrics, by_direction),
        galleries=galleries,
        first_shown=PER_GROUP,
        photos=photos.used,
        fingerprint=list(_flat(metrics.fingerprint)),
    )


def template(name: str) -> jinja2.Template:
    """Return a template of this folder."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=jinja2.ChainableUndefined,  # values that a run did not measure are left out
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": tables.number,
        "named": label,
        "cosine": tables.cosine,
        "copies": export.copies,
        "style_name": STYLE_NAMES.__getitem__,
        "plot_name": plots.name_of,
        "as_file": _svg_file,
        "csp_hash": _csp_hash,
    }
    environment.globals["light"] = LIGHT
    return environment.get_template(name)


def scores_copies(metrics: RunMetrics) -> dict[export.Format, str]:
    """Return the table of the rankers in each format, as `eval run --format` prints it."""
    rows, caption = export.of_run(metrics), export.caption(metrics)
    return {style: export.render(rows, style, caption) for style in get_args(export.Format)}


def _when(metrics: RunMetrics) -> str:
    split = f"split {metrics.split or 'unknown'}"
    if not metrics.date:
        return split
    date = datetime.fromisoformat(metrics.date)
    return f"{split}, {date.day} {date:%B %Y}"


def _svg_file(plot: Markup) -> str:
    """Return a plot as an SVG file with the colours of a light page, in a `data:` address."""
    style = (FOLDER / PLOT_STYLE).read_text(encoding="utf-8")
    literal = re.sub(r"var\(--(\w+)\)", lambda match: LIGHT[match[1]], style)
    return f"data:image/svg+xml;base64,{base64.b64encode(plots.standalone(plot, literal).encode()).decode()}"


def _csp_hash(script: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}"


def _figures(metrics: RunMetrics, by_direction: Mapping[str, Sequence[QueryResult]]) -> list[Figure]:
    galleries = {IMAGE_TO_TEXT: metrics.captions or 0, TEXT_TO_IMAGE: metrics.images or 0}
    measured = {way: results for way, results in by_direction.items() if results}
    figures = []
    if measured:
        figures.append(
            Figure(
                "curve",
                "Recall at every k",
                "The share of queries with a right item among the first k, by exact ranks; dashed, if it was measured, "
                f"among the first {TOP} hits of the index as served.",
                [(way, _recall_curve(way, results, galleries[way])) for way, results in measured.items()],
            )
        )
        bars = {
            way: _rank_bars([result.rank for result in results], galleries[way]) for way, results in measured.items()
        }
        scale = plots.Scale.of([bar for of_way in bars.values() for bar in of_way])
        figures.append(
            Figure(
                "ranks",
                "Where the right item ranked",
                "Queries by the exact rank of their best right item, in bins that grow like a logarithm.",
                [(way, plots.bars(f"ranks-{way}", f"Ranks, {way}", rows, scale)) for way, rows in bars.items()],
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


def _rank_bars(ranks: Sequence[int], gallery: int) -> list[plots.Bar]:
    rows = []
    for low, high, count in log_bins(np.array(ranks, dtype=np.int64), 1, gallery):
        label, share = _span(low, high), 100 * count / len(ranks)
        rows.append(plots.Bar(label, share, f"{share:.1f} %", f"rank {label}: {count:,} queries, {share:.2f} %"))
    return rows


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
        drawn = plots.ranges(f"length-{metric}", f"{metric} by caption length", rows)
        panels.append((f"{TEXT_TO_IMAGE}, {metric}", drawn))
    about = "text-to-image recall of captions of similar length, with 95 % intervals and the number of captions."
    return Figure("length", "Recall by caption length", about, panels)


def _hubs(corrected: CorrectedMetrics) -> Figure:
    """Return how many images are in how many first tens, before and after the correction."""
    bars = {
        name: [
            plots.Bar(
                label := _span(low, high), images, f"{images:,}", f"{images:,} images are among {label} first tens"
            )
            for low, high, images in bins
        ]
        for name, bins in corrected.answers.items()
    }
    scale = plots.Scale.of([bar for rows in bars.values() for bar in rows])
    panels = [
        (
            f"{name}, skewness {corrected.skewness[name]:.2f}",
            plots.bars(f"hubs-{name}", f"Captions answered by an image, {name}", rows, scale),
        )
        for name, rows in bars.items()
    ]
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
