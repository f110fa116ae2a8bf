"""The page's tables: the numbers of metrics.json as text, side by side. What a run did not measure is left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eval.metrics import METRICS, Metric, label
from eval.protocol import DIRECTIONS

COSTS = {"latency_ms": "ms/query", "queries_per_second": "queries/s", "bytes_per_vector": "bytes/vector"}
NOT_RANKED, ABSENT = "not ranked", "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"


@dataclass(frozen=True, slots=True)
class Cell:
    """A number as text, and in small below it an interval or a loss; `kind` is a CSS class."""

    text: str
    below: str = ""
    kind: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """`below` is small text under the row's name; `strong` marks the row that matters."""

    name: str
    cells: tuple[Cell, ...]
    below: str = ""
    strong: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """`groups` are (title, rows), the title may be ""; `spans` is an upper head: (title, how many columns)."""

    caption: str
    head: tuple[str, ...]
    groups: tuple[tuple[str, tuple[Row, ...]], ...]
    spans: tuple[tuple[str, int], ...] = ()

    @property
    def censored(self) -> bool:
        return any(cell.text == NOT_RANKED for _, rows in self.groups for row in rows for cell in row.cells)


def number(value: Any, digits: int = 1) -> str:
    """A number with thousands separated, integers without decimals; None as a dash."""
    if value is None:
        return ABSENT
    return f"{value:,}" if isinstance(value, int) else f"{value:,.{digits}f}"


def cosine(value: float) -> str:
    return f"{value:.3f}".replace("-", MINUS)


def signed(value: float) -> str:
    """A difference with its sign, or "same"."""
    return "same" if value == 0 else f"{value:+.2f}".replace("-", MINUS)


def scores(metrics: Mapping[str, Any]) -> Table:
    """Every column of the run as a row, by direction; under the headline its interval, under the others their loss."""
    columns = columns_of(metrics)
    shown = [
        metric
        for metric in METRICS
        if any(metric.name in column.get(way, {}) for column in columns for way in DIRECTIONS)
    ]
    costs = [cost for cost in COSTS if any(column.get(cost) is not None for column in columns)]
    used = any(column.get("used") for column in columns)
    return Table(
        "Recall@k and mAP in percent; ranks count from 1",
        tuple(metric.label for metric in shown)
        + tuple(COSTS[cost] for cost in costs)
        + (("answered by",) if used else ()),
        tuple(
            (
                _title(metrics, way),
                tuple(
                    Row(
                        column["name"],
                        tuple(_score(metrics, column, way, metric) for metric in shown)
                        + tuple(_cost(column.get(cost), way) for cost in costs)
                        + ((Cell((column.get("used") or {}).get(way, ABSENT), kind="words"),) if used else ()),
                        strong=column["name"] == metrics.get("engine"),
                    )
                    for column in columns
                ),
            )
            for way in DIRECTIONS
        ),
    )


def columns_of(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The run's columns; the headline alone where it has none."""
    alone = {"name": metrics.get("engine", "this run"), **{way: metrics[way] for way in DIRECTIONS}}
    return list(metrics.get("columns") or [alone])


def published(metrics: Mapping[str, Any]) -> Table | None:
    """This run above the published figures, recall@k of both directions in one row."""
    others = metrics.get("published") or []
    if not others:
        return None
    shown = [
        metric.name
        for metric in METRICS
        if metric.unit == "percent"
        and any(metric.name in (other.get(way) or {}) for other in others for way in DIRECTIONS)
    ]

    def row(name: str, figures: Mapping[str, Any], below: str, strong: bool = False) -> Row:
        cells = (Cell(number((figures.get(way) or {}).get(metric))) for way in DIRECTIONS for metric in shown)
        return Row(name, tuple(cells), below, strong)

    rows = [row("this run", metrics, metrics.get("engine", ""), strong=True)]
    for other in others:
        same = "the same model" if other.get("same_model") else ""
        rows.append(row(other["name"], other, "; ".join(filter(None, (same, other.get("source", ""))))))
    spans = tuple((way, len(shown)) for way in DIRECTIONS)
    return Table("Recall@k in percent, as published", tuple(map(label, shown)) * 2, (("", tuple(rows)),), spans)


def other_counts(metrics: Mapping[str, Any]) -> list[tuple[Table, str]]:
    """Other ways to score the same ranks, each with a sentence about it."""
    folds = metrics.get("folds") or {}
    extended = metrics.get("extended") or {}
    tables = [
        (
            f"Mean of {folds.get('count')} folds of {number(folds.get('images'))} images",
            folds,
            "Smaller galleries are easier: these figures compare only with other figures on such folds.",
        ),
        ("CxC", extended.get("cxc"), "Positives extended by human judgements of similarity (Crisscrossed Captions)."),
        ("ECCV Caption", extended.get("eccv"), "Positives extended by machine and human verification (ECCV Caption)."),
        (
            "Share of all positives found, in percent",
            metrics.get("proportion"),
            "The literal proportion among the first k; with five captions an image it cannot exceed 20 at k = 1.",
        ),
        (
            "Ties counted against the run",
            metrics.get("pessimistic"),
            "Elsewhere an item that scores the same does not push the positive down; here it does. "
            "Only directions where it makes a difference.",
        ),
    ]
    return [(table, about) for caption, block, about in tables if block and (table := _by_direction(caption, block))]


def _by_direction(caption: str, block: Mapping[str, Any]) -> Table | None:
    ways = [way for way in DIRECTIONS if block.get(way)]
    keys = tuple(dict.fromkeys(key for way in ways for key in block[way]))
    rows = tuple(Row(way, tuple(Cell(number(block[way].get(key))) for key in keys)) for way in ways)
    return Table(caption, tuple(map(label, keys)), (("", rows),)) if rows else None


def _title(metrics: Mapping[str, Any], way: str) -> str:
    images, captions = (number(metrics.get(kind)) for kind in ("images", "captions"))
    if way == "image-to-text":
        return f"{way}: {images} photos, each asked for its captions among {captions}"
    return f"{way}: {captions} captions, each asked for its photo among {images}"


def _score(metrics: Mapping[str, Any], column: Mapping[str, Any], way: str, metric: Metric) -> Cell:
    measured = column.get(way) or {}
    if metric.name not in measured:
        return Cell(ABSENT)
    if measured[metric.name] is None:
        return Cell(NOT_RANKED, kind="words")
    text = number(float(measured[metric.name]), metric.digits)
    if column["name"] == metrics.get("engine"):
        return Cell(text, interval(metrics, way, metric.name))
    loss = ((metrics.get("loss") or {}).get(column["name"]) or {}).get(way, {}).get(metric.name)
    return Cell(text, "" if loss is None else signed(loss))


def interval(metrics: Mapping[str, Any], way: str, metric: str) -> str:
    """The headline's 95 % interval as text, "" where there is none."""
    bounds: Sequence[float] | None = ((metrics.get("intervals") or {}).get(way) or {}).get(metric)
    return f"{number(float(bounds[0]))}\N{EN DASH}{number(float(bounds[1]))}" if bounds else ""


def _cost(measured: Any, way: str) -> Cell:
    value = measured.get(way) if isinstance(measured, Mapping) else measured
    if value is None:
        return Cell(ABSENT)
    return Cell(number(value, 0 if value >= 100 else 2))
