"""Runs compared, as one JSON object and as aligned text for a terminal: two in detail, or more in one table."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import product
from typing import Any, get_args

from eval.compare import SAME, Comparison, Comparisons, Direction, brief
from eval.differences import SIGNIFICANT
from eval.metrics import LABEL, Metric, TableName, in_table, rsum
from eval.protocol import DIRECTIONS
from eval.report.export import Scored
from eval.report.text import WIDTH, fitted, interval_of, number, side_by_side
from eval.runs import Run
from eval.stats import OF_THE_MEDIAN
from search.cli.terminal import cut
from search.text import shown

SHORTEST_NAME = 12  # columns for a run, also if the letters of many runs make the table wider


def as_json(found: Comparison) -> dict[str, Any]:
    """Return one JSON object: both runs, their settings that differ, and every metric's difference by direction."""
    return {
        "a": _side(found.a),
        "b": _side(found.b),
        "settings": {name: {"a": in_a, "b": in_b} for name, (in_a, in_b) in found.settings},
        "resamples": found.resamples,
        "randomisations": found.randomisations,
        "randomisations_of_the_median": min(found.randomisations, OF_THE_MEDIAN),
        "comparisons": found.comparisons,
        **{direction.name: _direction_as_json(direction) for direction in found.directions},
    }


def table(found: Comparison) -> str:
    """Return the comparison as aligned text for a terminal."""
    of_directions = (line for direction in found.directions for line in _lines(direction))
    return "\n".join([*_heading({"A": found.a, "B": found.b}, found.settings), *of_directions, *_foot(found)])


def table_of_all(found: Comparisons, sort: Metric) -> str:
    """Return the scores of all runs as aligned text, best first, with the letters of the runs each is better than."""
    lines = list(_heading(found.runs, found.settings))
    listed = rows(found, sort)
    longest = max(len(row.name) for row in listed)
    for way, kind in product(DIRECTIONS, get_args(TableName)):
        for metrics in side_by_side([metric for metric in in_table(kind) if _known(metric, way, listed)]):
            heads = [metric.label for metric in metrics]
            cells = {row.name: [_marked(row, way, metric) for metric in metrics] for row in listed}
            column = 2 + max(len(text) for texts in (*cells.values(), heads) for text in texts)
            width = min(longest, max(WIDTH - column * len(metrics), SHORTEST_NAME))
            lines += ["", way]
            for name, texts in {"": heads, **cells}.items():
                lines.append(f"{_end_of(name, width):<{width}}" + "".join(f"{text:>{column}}" for text in texts))
    lines.append("")
    width = min(longest, WIDTH - len("  RSUM 600.00"))
    lines += [f"{_end_of(row.name, width):<{width}}  RSUM {number(rsum(row.scores), 2)}" for row in listed]
    some = next(iter(found.pairs.values()))
    lines += [
        f"\nsorted by {sort.title}, both directions; letters: better than these runs, at p (Holm) under {SIGNIFICANT}",
        f"p: two runs swapped image by image, {some.randomisations:,} times (for the median {OF_THE_MEDIAN:,})",
        f"p (Holm): adjusted for {found.comparisons:,} comparisons",
    ]
    return "\n".join(lines)


def rows(found: Comparisons, sort: Metric) -> list[Scored]:
    """Return a row for each run, best first by the sum of a metric over both directions; runs without it come last."""

    def place(row: Scored) -> float:
        values = [scores.get(sort.name) for scores in row.scores.values()]
        total = sum(math.inf if value is None else value for value in values)
        return -total if sort.better == "higher" and math.isfinite(total) else total

    by_run = [
        Scored(f"{letter} {brief(run.folder)}", found.scores(letter), run.metrics.intervals, found.better_than(letter))
        for letter, run in found.runs.items()
    ]
    return sorted(by_run, key=place)


def caption(found: Comparisons) -> str:
    """Return one or two sentences about the table of all runs."""
    metrics = found.runs["A"].metrics
    counts = f"{number(metrics.images, 0)} images, {number(metrics.captions, 0)} captions"
    letters = f"Letters: better than these runs (p < {SIGNIFICANT}, Holm, {found.comparisons:,} comparisons)."
    return f"Split {metrics.split}: {counts}. {letters}"


def all_as_json(found: Comparisons, sort: Metric) -> dict[str, Any]:
    """Return one JSON object: the runs, best first, the settings that differ, and each pair as `as_json` returns it."""
    runs = {}
    for row in rows(found, sort):
        letter = row.name[0]
        runs[letter] = {**_side(found.runs[letter]), **row.scores, "rsum": rsum(row.scores)}
    pairs = [{**as_json(pair), "a": a, "b": b} for (a, b), pair in found.pairs.items()]
    return {
        "runs": runs,
        "sort": sort.name,
        "settings": {name: dict(zip(found.runs, values, strict=True)) for name, values in found.settings},
        "comparisons": found.comparisons,
        "pairs": pairs,
    }


def _end_of(name: str, width: int) -> str:
    """Return the letter of a run and the end of its folder, in at most `width` characters."""
    return name if len(name) <= width else f"{name[:2]}…{name[3 - width :]}"


def _known(metric: Metric, way: str, rows: Sequence[Scored]) -> bool:
    return any(metric.name in row.scores.get(way, {}) for row in rows)


def _marked(row: Scored, way: str, metric: Metric) -> str:
    letters = row.better_than.get(way, {}).get(metric.name, "")
    return f"{number(row.scores.get(way, {}).get(metric.name), 2)} {letters}".rstrip()


def _heading(runs: Mapping[str, Run], settings: Sequence[tuple[str, list[Any]]]) -> Iterator[str]:
    width = max(len(shown(str(run.folder))) for run in runs.values())
    for letter, run in runs.items():
        yield f"{letter}  {shown(str(run.folder)):<{width}}  " + ", ".join(
            f"{key} {getattr(run.metrics, key) or 'unknown'}" for key in ("model", "dataset")
        )
    first = next(iter(runs.values()))
    yield ", ".join(f"{key.replace('_', ' ')} {getattr(first.metrics, key) or 'unknown'}" for key in SAME)
    for name, values in settings:
        in_runs = (f"{brief(value)} in {letter}" for letter, value in zip(runs, values, strict=True))
        yield f"differs: {name}: {', '.join(in_runs)}"
    if not settings:
        yield "no recorded setting differs"


def _foot(found: Comparison) -> Iterator[str]:
    of_median = min(found.randomisations, OF_THE_MEDIAN)
    yield f"\n95% of B - A: paired bootstrap over images, {found.resamples:,} resamples"
    yield f"p: A and B swapped image by image, {found.randomisations:,} times (for the median {of_median:,})"
    yield f"p (Holm): adjusted for {found.comparisons} comparisons; better: if this is under {SIGNIFICANT}"


def _side(run: Run) -> dict[str, Any]:
    return {"folder": str(run.folder), "model": run.metrics.model or None, "dataset": run.metrics.dataset or None}


def _direction_as_json(direction: Direction) -> dict[str, Any]:
    fields: dict[str, Any] = {"queries": direction.queries, "images": direction.images}
    for found in direction.differences:
        row = asdict(found) | {"interval": list(found.interval), "better": found.better}
        del row["metric"]
        fields[found.metric.name] = row
    for name, changes in (("improved", direction.improved), ("worsened", direction.worsened)):
        fields[name] = [asdict(change) for change in changes]
    return fields


def _lines(direction: Direction) -> Iterator[str]:
    yield f"\n{direction.name}: {direction.queries:,} queries"
    yield f"{'':<{LABEL}}{'A':>8}{'B':>8}{'B - A':>8}{'95% of B - A':>19}{'p':>8}{'p (Holm)':>10}  better"
    for found in direction.differences:
        a, b, difference = fitted(found.a, 7), fitted(found.b, 7), fitted(found.difference, 7, sign="+")
        yield (
            f"{found.metric.label:<{LABEL}}{a:>8}{b:>8}{difference:>8}{interval_of(found.interval):>19}"
            f"{found.p:>8.4f}{found.p_holm:>10.4f}  {found.better or '-'}"
        )
    for title, changes in (("most improved in B", direction.improved), ("most worsened in B", direction.worsened)):
        width = max([10, *(len(str(change.query)) for change in changes)])  # ids made from paths have 16 digits
        if changes:
            yield f"{title}:"
            yield f"{'query':>{width}}{'rank A':>8}{'rank B':>8}  text"
        for change in changes:
            text = cut(brief(change.text), 62 - width)
            yield f"{change.query:>{width}}{change.rank_a:>8}{change.rank_b:>8}  {text}"
