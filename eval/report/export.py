"""The scores of rankers, or of runs, as one table for a paper: LaTeX (booktabs), Markdown or CSV."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from eval.metrics import METRICS, RECALL_SUM, Metric, rsum
from eval.protocol import DIRECTIONS
from eval.report.tables import number, rankers_of
from eval.runs import RunMetrics, Scores
from eval.stats import Interval

Format = Literal["latex", "markdown", "csv"]
MAIN = [metric for metric in METRICS if metric.table == "main"]

_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{char: f"\\{char}" for char in "&%$#_{}"},
    **{char: f"${char}$" for char in "<>|"},
}


@dataclass(frozen=True, slots=True)
class Scored:
    """A row: scores by direction, those of their intervals that are known, and the names of rows it is better than."""

    name: str
    scores: Mapping[str, Scores]
    intervals: Mapping[str, Mapping[str, Interval]] = field(default_factory=dict)
    better_than: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


def of_run(metrics: RunMetrics) -> list[Scored]:
    """Return a row for each ranker of a run; the headline's has intervals."""
    return [
        Scored(ranker.name, ranker.scores, metrics.intervals if ranker.name == metrics.engine else {})
        for ranker in rankers_of(metrics)
    ]


def caption(metrics: RunMetrics) -> str:
    """Return one sentence about the evaluation, such as a caption for `of_run`."""
    counts = f"{number(metrics.images)} images, {number(metrics.captions)} captions"
    return f"{metrics.model} on {metrics.dataset}, split {metrics.split}: {counts}."


def render(rows: Sequence[Scored], style: Format, caption: str) -> str:
    """Return the table, without a newline at the end; CSV has full precision, every metric, and no caption.

    A score that is not known is a dash, in CSV an empty field. RSUM is the last column.
    """
    return _STYLES[style](rows, caption)


def _latex(rows: Sequence[Scored], caption: str) -> str:
    count = len(MAIN)
    spans = " & ".join(rf"\multicolumn{{{count}}}{{c}}{{{way}}}" for way in DIRECTIONS)
    rules = " ".join(
        rf"\cmidrule(lr){{{place * count + 2}-{place * count + count + 1}}}" for place in range(len(DIRECTIONS))
    )
    head = " & ".join(_escaped(metric.title) for _ in DIRECTIONS for metric in MAIN)
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_escaped(caption)}}}",
        rf"\begin{{tabular}}{{l{'r' * (len(DIRECTIONS) * count + 1)}}}",
        r"\toprule",
        rf" & {spans} & \\",
        rules,
        rf" & {head} & RSUM \\",
        r"\midrule",
    ]
    for row in rows:
        cells = [_latex_score(row, way, metric) for way in DIRECTIONS for metric in MAIN]
        lines.append(
            " & ".join([_escaped(row.name), *cells, _text(rsum(row.scores), RECALL_SUM.digits, "--")]) + r" \\"
        )
        ends = [_ends(row, way, metric, "--") for way in DIRECTIONS for metric in MAIN]
        if any(ends):
            small = (rf"{{\scriptsize {end}}}" if end else "" for end in ends)
            lines.append(" & ".join(["", *small, ""]).strip() + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}"])


def _latex_score(row: Scored, way: str, metric: Metric) -> str:
    text, better_than = _score(row, way, metric, "--"), row.better_than.get(way, {}).get(metric.name)
    return rf"{text}\textsuperscript{{{_escaped(better_than)}}}" if better_than else text


def _markdown(rows: Sequence[Scored], caption: str) -> str:
    head = ["", *(f"{way} {metric.title}" for way in DIRECTIONS for metric in MAIN), "RSUM"]
    lines = [_escaped_markdown(caption), "", _piped(head), _piped(["---", *["---:"] * (len(head) - 1)])]
    for row in rows:
        cells = []
        for way in DIRECTIONS:
            for metric in MAIN:
                better_than, ends = row.better_than.get(way, {}).get(metric.name), _ends(row, way, metric)
                mark = f"<sup>{_escaped_markdown(better_than)}</sup>" if better_than else ""
                cells.append(_score(row, way, metric) + mark + (f" ({ends})" if ends else ""))
        lines.append(_piped([_escaped_markdown(row.name), *cells, _text(rsum(row.scores), RECALL_SUM.digits)]))
    return "\n".join(lines)


def _piped(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _csv(rows: Sequence[Scored], _caption: str) -> str:
    def columns(row: Scored) -> Iterator[tuple[str, object]]:
        yield "name", row.name
        for way in DIRECTIONS:
            for metric in METRICS:
                name = f"{way} {metric.name}"
                low, high = row.intervals.get(way, {}).get(metric.name, (None, None))
                yield name, row.scores.get(way, {}).get(metric.name)
                yield f"{name} low", low
                yield f"{name} high", high
                if any(other.better_than for other in rows):
                    yield f"{name} better than", row.better_than.get(way, {}).get(metric.name)
        yield "rsum", rsum(row.scores)

    stream = io.StringIO()
    table = [dict(columns(row)) for row in rows]
    writer = csv.DictWriter(stream, list(table[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    return stream.getvalue().removesuffix("\n")


_STYLES: dict[Format, Callable[[Sequence[Scored], str], str]] = {"latex": _latex, "markdown": _markdown, "csv": _csv}


def _score(row: Scored, way: str, metric: Metric, dash: str = "\N{EN DASH}") -> str:
    return _text(row.scores.get(way, {}).get(metric.name), metric.digits, dash)


def _text(value: float | None, digits: int, dash: str = "\N{EN DASH}") -> str:
    return dash if value is None else f"{value:.{digits}f}"


def _ends(row: Scored, way: str, metric: Metric, dash: str = "\N{EN DASH}") -> str:
    bounds = row.intervals.get(way, {}).get(metric.name)
    return f"{bounds[0]:.1f}{dash}{bounds[1]:.1f}" if bounds else ""


def _escaped(text: str) -> str:
    return "".join(_LATEX.get(char, char) for char in text)


def _escaped_markdown(text: str) -> str:
    return re.sub(r"([\\`*_{}\[\]<>|~])", r"\\\1", text)
