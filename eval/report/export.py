"""Tables for a paper: LaTeX (booktabs), Markdown or CSV; and HTML for a notebook.

`render` makes one of the scores of rankers, or of runs; `copies` makes them of any table of the page.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from itertools import accumulate, pairwise, zip_longest
from typing import Literal

from eval.metrics import METRICS, RECALL_SUM, Metric, in_table, rsum
from eval.protocol import DIRECTIONS
from eval.report.tables import ABSENT, MINUS, Cell, Row, Table, number, rankers_of
from eval.runs import RunMetrics, Scores
from eval.stats import Interval
from search.index import short_model_name

Format = Literal["latex", "markdown", "csv"]

_LATEX = {
    "\N{EN DASH}": "--",
    MINUS: "$-$",
    "\N{GREEK CAPITAL LETTER DELTA}": r"$\Delta$",
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
    return f"{short_model_name(metrics.model)} on {metrics.dataset}, split {metrics.split}: {counts}."


def render(rows: Sequence[Scored], style: Format, caption: str) -> str:
    """Return the table, without a newline at the end; CSV has full precision, every metric, and no caption.

    A score that is not known is a dash, in CSV an empty field. RSUM is the last column.
    """
    return _csv(rows) if style == "csv" else _STYLES[style](_table(rows, caption))


def as_html(rows: Sequence[Scored], caption: str) -> str:
    """Return the table of `render` as a part of an HTML page."""
    return _html(_table(rows, caption))


def copies(table: Table) -> dict[Format, str]:
    """Return a table of the page in every format, without a newline at the end; the numbers of CSV are not rounded."""
    return {"latex": _latex(table), "markdown": _markdown(table), "csv": _csv_of_table(table)}


def _table(rows: Sequence[Scored], caption: str) -> Table:
    """Return the scores as a table: both directions and RSUM in one row, intervals in small type."""

    shown = in_table("main")

    def cell(row: Scored, way: str, metric: Metric) -> Cell:
        value, ends = row.scores.get(way, {}).get(metric.name), row.intervals.get(way, {}).get(metric.name)
        below = "{:.1f}\N{EN DASH}{:.1f}".format(*ends) if ends else ""
        return Cell(_text(value, metric.digits), below, mark=row.better_than.get(way, {}).get(metric.name, ""))

    def cells(row: Scored) -> tuple[Cell, ...]:
        scores = (cell(row, way, metric) for way in DIRECTIONS for metric in shown)
        return (*scores, Cell(_text(rsum(row.scores), RECALL_SUM.digits)))

    head = (*(metric.label for _ in DIRECTIONS for metric in shown), "RSUM")
    spans = tuple((way, len(shown)) for way in DIRECTIONS)
    return Table(caption, head, (("", tuple(Row(row.name, cells(row)) for row in rows)),), spans)


def _latex(table: Table) -> str:
    columns = len(table.head)
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_escaped(table.caption)}}}",
        rf"\begin{{tabular}}{{l{'r' * columns}}}",
        r"\toprule",
    ]
    if table.spans:
        spans = [rf"\multicolumn{{{count}}}{{c}}{{{_escaped(title)}}}" for title, count in table.spans]
        rest = [""] * (columns - sum(count for _, count in table.spans))
        lines.append(" & ".join(["", *spans, *rest]) + r" \\")
        ends = list(accumulate((count for _, count in table.spans), initial=1))
        lines.append(" ".join(rf"\cmidrule(lr){{{first + 1}-{last}}}" for first, last in pairwise(ends)))
    lines.append(" & ".join(["", *map(_escaped, table.head)]) + r" \\")
    for title, rows in table.groups:
        lines.append(r"\midrule")
        if title:
            lines.append(rf"\multicolumn{{{columns + 1}}}{{l}}{{{_escaped(title)}}} \\")
        for row in rows:
            lines.append(" & ".join([_escaped(_name(row)), *map(_latex_cell, row.cells)]) + r" \\")
            small = [rf"{{\scriptsize {_escaped(cell.below)}}}" if cell.below else "" for cell in row.cells]
            if any(small):
                lines.append(" & ".join(["", *small]).strip() + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}"])


def _latex_cell(cell: Cell) -> str:
    return _escaped(cell.text) + (rf"\textsuperscript{{{_escaped(cell.mark)}}}" if cell.mark else "")


def _markdown(table: Table) -> str:
    head = ["", *_heads(table)]
    lines = [_escaped_markdown(table.caption), "", _piped(map(_escaped_markdown, head))]
    lines.append(_piped(["---", *["---:"] * len(table.head)]))
    for title, rows in table.groups:
        if title:
            lines.append(_piped([f"**{_escaped_markdown(title)}**", *[""] * len(table.head)]))
        lines += [_piped([_escaped_markdown(_name(row)), *map(_markdown_cell, row.cells)]) for row in rows]
    return "\n".join(lines)


def _markdown_cell(cell: Cell) -> str:
    mark = f"<sup>{_escaped_markdown(cell.mark)}</sup>" if cell.mark else ""
    return _escaped_markdown(cell.text) + mark + (f" ({_escaped_markdown(cell.below)})" if cell.below else "")


def _html(table: Table) -> str:
    def cell(tag: str, text: str, span: int = 1, below: str = "") -> str:
        small = f"<br><small>{escape(below)}</small>" if below else ""
        return f"<{tag}{f' colspan={span}' if span > 1 else ''}>{escape(text)}{small}</{tag}>"

    def line(cells: Iterable[str]) -> str:
        return f"<tr>{''.join(cells)}</tr>"

    lines = ["<table>", cell("caption", table.caption), "<thead>"]
    if table.spans:
        lines.append(line([cell("th", ""), *(cell("th", title, count) for title, count in table.spans)]))
    lines += [line(cell("th", text) for text in ("", *table.head)), "</thead>", "<tbody>"]
    for title, rows in table.groups:
        lines += [line([cell("th", title, 1 + len(table.head))])] if title else []
        for row in rows:
            marked = (cell("td", each.text + each.mark, below=each.below) for each in row.cells)
            lines.append(line([cell("th", row.name, below=row.below), *marked]))
    return "\n".join([*lines, "</tbody>", "</table>"])


def _piped(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _csv_of_table(table: Table) -> str:
    """Return a row for each row of the table, and a column of its own for the small type of each that has any."""
    rows = [(title, row) for title, rows in table.groups for row in rows]
    small = [any(row.cells[place].below for _, row in rows) for place in range(len(table.head))]
    head = [*(["group"] if any(title for title, _ in rows) else []), "name"]
    for name, has_small in zip(_heads(table), small, strict=True):
        head += [name, f"{name}, small"] if has_small else [name]
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(head)
    for title, row in rows:
        line: list[object] = [title, _name(row)] if "group" in head else [_name(row)]
        for cell, has_small in zip(row.cells, small, strict=True):
            plain = "" if cell.text == ABSENT else cell.text
            line.append(plain if cell.value is None else cell.value)
            line += [cell.below.replace(MINUS, "-")] if has_small else []
        writer.writerow(line)
    return stream.getvalue().removesuffix("\n")


def _heads(table: Table) -> list[str]:
    """Return the heads of the columns, each below a span after its title."""
    above = [title for title, count in table.spans for _ in range(count)]
    return [" ".join(filter(None, pair)) for pair in zip_longest(above, table.head, fillvalue="")]


def _name(row: Row) -> str:
    return f"{row.name} ({row.below})" if row.below else row.name


def _csv(rows: Sequence[Scored]) -> str:
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


_STYLES: dict[Format, Callable[[Table], str]] = {"latex": _latex, "markdown": _markdown}


def _text(value: float | None, digits: int) -> str:
    return ABSENT if value is None else f"{value:.{digits}f}"


def _escaped(text: str) -> str:
    return "".join(_LATEX.get(char, char) for char in text)


def _escaped_markdown(text: str) -> str:
    return re.sub(r"([\\`*_{}\[\]<>|~])", r"\\\1", text)
