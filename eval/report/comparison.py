"""Two runs compared, as one JSON object and as aligned text for a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from eval.compare import SAME, Comparison, Direction, shown
from eval.differences import SIGNIFICANT
from eval.runs import Run
from eval.stats import OF_THE_MEDIAN


def as_json(found: Comparison) -> dict[str, Any]:
    """Return one JSON object: both runs, their settings that differ, and every metric's difference by direction."""
    return {
        "a": _side(found.a),
        "b": _side(found.b),
        "settings": {name: {"a": in_a, "b": in_b} for name, in_a, in_b in found.settings},
        "resamples": found.resamples,
        "randomisations": found.randomisations,
        "randomisations_of_the_median": min(found.randomisations, OF_THE_MEDIAN),
        "comparisons": found.comparisons,
        **{direction.name: _direction_as_json(direction) for direction in found.directions},
    }


def table(found: Comparison) -> str:
    """Return all of it as aligned text for a terminal."""
    of_directions = (line for direction in found.directions for line in _lines(direction))
    return "\n".join([*_heading(found), *of_directions, *_foot(found)])


def _heading(found: Comparison) -> Iterator[str]:
    width = max(len(str(run.folder)) for run in (found.a, found.b))
    for letter, run in (("A", found.a), ("B", found.b)):
        yield f"{letter}  {run.folder!s:<{width}}  " + ", ".join(
            f"{key} {getattr(run.metrics, key) or 'unknown'}" for key in ("model", "dataset")
        )
    yield ", ".join(f"{key.replace('_', ' ')} {getattr(found.a.metrics, key) or 'unknown'}" for key in SAME)
    for name, in_a, in_b in found.settings:
        yield f"differs: {name}: {shown(in_a)} in A, {shown(in_b)} in B"
    if not found.settings:
        yield "no recorded setting differs"


def _foot(found: Comparison) -> Iterator[str]:
    of_median = min(found.randomisations, OF_THE_MEDIAN)
    yield f"\n95% of B - A: paired bootstrap over images, {found.resamples:,} resamples"
    yield f"p: A and B swapped image by image, {found.randomisations:,} times (for the median {of_median:,})"
    yield f"p (Holm): adjusted for {found.comparisons} comparisons; better: where this is under {SIGNIFICANT}"


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
    yield f"{'':<24}{'A':>9}{'B':>9}{'B - A':>9}  {'95% of B - A':^20}{'p':>9}{'p (Holm)':>10}  better"
    for found in direction.differences:
        interval = f"[{found.interval[0]:+.2f}, {found.interval[1]:+.2f}]"
        yield (
            f"{found.metric.name:<24}{found.a:>9.2f}{found.b:>9.2f}{found.difference:>+9.2f}  {interval:^20}"
            f"{found.p:>9.4f}{found.p_holm:>10.4f}  {found.better or '-'}"
        )
    for title, changes in (("most improved in B", direction.improved), ("most worsened in B", direction.worsened)):
        if changes:
            yield f"{title}:"
            yield f"{'query':>10}{'rank A':>8}{'rank B':>8}  text"
        for change in changes:
            yield f"{change.query:>10}{change.rank_a:>8}{change.rank_b:>8}  {shown(change.text)}"
